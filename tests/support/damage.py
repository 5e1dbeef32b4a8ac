"""Seeded damage to files: to their bytes, to what they hold, and to what stands in their place."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[Path, random.Random], None]

ODD_VALUES: tuple[Any, ...] = (
    *(None, -1, 10**30, 1.5, True, float("nan")),
    *("", "x", "\ud800", "NaN", [], [[]], {}),
)
OTHER_SHAPES = (b"[]", b"{}", b"null", b'"x"', b"3", b"NaN", b"[" * 100_000)


def flip(data: bytes, rng: random.Random) -> bytes:
    """One byte becomes any other."""
    if not data:
        return b"\xff"
    at = rng.randrange(len(data))
    return data[:at] + bytes([data[at] ^ rng.randrange(1, 256)]) + data[at + 1 :]


def cut(data: bytes, rng: random.Random) -> bytes:
    """Only a start is left."""
    return data[: rng.randrange(len(data))] if data else data


def replace_json_value(data: bytes, rng: random.Random) -> bytes:
    """A value somewhere in a JSON document, or in one of its lines, becomes one of another type, or is gone."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return b"{}"
    at = rng.randrange(len(lines))
    try:
        document = json.loads(lines[at])
    except ValueError:
        try:
            document, lines, at = json.loads(data), [data], 0
        except ValueError:
            return flip(data, rng)
    place = document
    while isinstance(place, (dict, list)) and place:
        key: Any = rng.choice(list(place)) if isinstance(place, dict) else rng.randrange(len(place))
        if not isinstance(place[key], (dict, list)) or not place[key] or rng.random() < 0.2:
            odd: Any = rng.choice(ODD_VALUES)
            if rng.random() < 0.3:
                del place[key]
            else:
                place[key] = odd
            break
        place = place[key]
    lines[at] = json.dumps(document).encode() + b"\n"
    return b"".join(lines)


def _flipped(path: Path, rng: random.Random) -> None:
    path.write_bytes(flip(path.read_bytes(), rng))


def _cut(path: Path, rng: random.Random) -> None:
    path.write_bytes(cut(path.read_bytes(), rng))


def _emptied(path: Path, rng: random.Random) -> None:
    path.write_bytes(b"")


def _of_another_shape(path: Path, rng: random.Random) -> None:
    path.write_bytes(rng.choice(OTHER_SHAPES) + rng.choice([b"", b"\n"]))


def _with_another_value(path: Path, rng: random.Random) -> None:
    path.write_bytes(replace_json_value(path.read_bytes(), rng))


def _not_utf8(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    at = rng.randrange(len(data) + 1)
    path.write_bytes(data[:at] + rng.choice([b"\xff", b"\xfe\xff", b"\xed\xa0\x80", b"\x00"]) + data[at:])


def _line_lost(path: Path, rng: random.Random) -> None:
    lines = path.read_bytes().splitlines(keepends=True) or [b""]
    del lines[rng.randrange(len(lines))]
    path.write_bytes(b"".join(lines))


def _unreadable(path: Path, rng: random.Random) -> None:
    path.chmod(0)


def _a_folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()
    if rng.random() < 0.5:
        (path / "inside").touch()


def _removed(path: Path, rng: random.Random) -> None:
    path.unlink()


def _its_folder_removed(path: Path, rng: random.Random) -> None:
    shutil.rmtree(path.parent)


def _its_folder_a_file(path: Path, rng: random.Random) -> None:
    shutil.rmtree(path.parent)
    path.parent.touch()


def _a_link_to_nowhere(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(path.with_name("nowhere"))


def _a_link_to_itself(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(path)


DAMAGES: dict[str, Damage] = {
    "flipped": _flipped,
    "cut": _cut,
    "emptied": _emptied,
    "of another shape": _of_another_shape,
    "with another value": _with_another_value,
    "not UTF-8": _not_utf8,
    "a line lost": _line_lost,
    "a folder": _a_folder,
    "removed": _removed,
    "its folder removed": _its_folder_removed,
    "its folder a file": _its_folder_a_file,
    "a link to nowhere": _a_link_to_nowhere,
    "a link to itself": _a_link_to_itself,
    **({} if os.geteuid() == 0 else {"unreadable": _unreadable}),  # root reads everything
}
