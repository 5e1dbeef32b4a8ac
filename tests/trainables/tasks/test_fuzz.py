"""Damaged data files: every reader gives a result or one error that names the file, never another exception.

Each example damages one file of a miniature data root: bytes, lines, columns, JSON values, nesting, line ends, encodings.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.damage import cut, flip, replace_json_value
from tests.support.fuzz import FACTOR, fuzzed
from trainables.data.examples import doubt
from trainables.data.source import DATA_ROOT_VARIABLE, DataError, Files
from trainables.tasks.pinning import pinned
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.registry import INTERMEDIATE, STAND_INS, TARGETS

EXAMPLES = 5_000
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Case:
    """A reader with its files, one of which is damaged."""

    name: str
    files: Files
    damaged: int


@cache
def cases(root: Path) -> list[Case]:
    """One case for each different format: a task's split, by language only where its files differ in kind."""
    found: dict[tuple[str, str, int], Case] = {}
    for cls in (*TARGETS, *INTERMEDIATE, *STAND_INS):
        if not issubclass(cls, PublishedTask):
            continue
        task: Any = pinned(cls())
        for split, language in task.splits():
            files = task.source_of(split, language).files
            if files is None or not files.exist(root):
                continue
            for index, path in enumerate(files.paths):
                if (root / path).is_file():
                    found.setdefault((task.name, split, index), Case(f"{task.name} {split} {language}", files, index))
    return list(found.values())


ODD_BYTES = (
    *(b"\x00", b"\xff", b"\t", b'"', b"\r", b"\n", b"\n\n", b"{", b"[" * 2000),
    *("²".encode(), b"\xed\xa0\x80", b"\\ud800"),
)


def _insert(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.choice(ODD_BYTES) + data[at:]


def _lines(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    change = rng.choice(["drop", "twice", "blank", "join", "empty"])
    if change == "drop":
        del lines[at]
    elif change == "twice":
        lines.insert(at, lines[at])
    elif change == "blank":
        lines.insert(at, b"\n")
    elif change == "join":
        lines[at] = lines[at].rstrip(b"\n")
    else:
        lines[at] = b" \n"
    return b"".join(lines)


def _columns(data: bytes, rng: random.Random) -> bytes:
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    delimiter = rng.choice([b"\t", b",", b" "])
    parts = lines[at].split(delimiter)
    change = rng.choice(["one less", "one more", "shuffled", "emptied"])
    if change == "one less":
        parts.pop()
    elif change == "one more":
        parts.append(b"x")
    elif change == "shuffled":
        rng.shuffle(parts)
    else:
        parts[0] = b""
    lines[at] = delimiter.join(parts)
    return b"".join(lines)


def _line_ends(data: bytes, rng: random.Random) -> bytes:
    return data.replace(b"\n", rng.choice([b"\r", b"\r\n", b"\n\r", b"\x0b", "\u2028".encode()]))


def _encoding(data: bytes, rng: random.Random) -> bytes:
    text = data.decode()
    return rng.choice([b"\xef\xbb\xbf" + data, text.encode("utf-16"), text.encode("latin-1", "replace")])


def _nothing(data: bytes, rng: random.Random) -> bytes:
    return rng.choice([b"", b"\n", b" ", b"[]", b"{}", b"null", b"<a/>", b"[" * 100_000])


Damage = Callable[[bytes, random.Random], bytes]
DAMAGES: tuple[Damage, ...] = (
    *(flip, cut, _insert, _lines, _columns, _line_ends, _encoding, replace_json_value, _nothing),
)


def _texts(example: Any) -> Iterator[str]:
    for field in fields(example):
        value = getattr(example, field.name)
        yield from (part for part in (value if isinstance(value, tuple) else (value,)) if isinstance(part, str))


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__.strip("_"))
def test_a_damaged_file_is_read_or_named(
    damage: Damage, mini_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(mini_root))
    known = cases(mini_root)
    assert len(known) > 50
    outcomes = {"read": 0, "named": 0}

    @fuzzed(EXAMPLES // len(DAMAGES))
    @given(st.integers(0, len(known) - 1), st.integers(0, 2**32))
    def check(number: int, state: int) -> None:
        case, rng = known[number], random.Random(state)
        paths = [mini_root / path for path in case.files.paths]
        damaged = tmp_path / paths[case.damaged].name
        damaged.write_bytes(damage(paths[case.damaged].read_bytes(), rng))
        paths[case.damaged] = damaged
        try:
            read = case.files.read(*paths)
        except DataError as error:
            outcomes["named"] += 1
            said = str(error)
        else:
            outcomes["read"] += 1
            said = ""
            for example in read.examples:
                doubt(example)
                for text in _texts(example):
                    text.encode()  # half a surrogate pair would fail in tokenising
        assert "\n" not in said, case.name

    check()
    assert sum(outcomes.values()) >= FACTOR * EXAMPLES // len(DAMAGES)
