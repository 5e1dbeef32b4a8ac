"""Names of files that came from elsewhere, as paths in a folder: none of them leads out of it."""

from __future__ import annotations

from pathlib import Path


class NameRefused(ValueError):
    """A name of a file that would lead out of its folder."""


def path_inside(folder: Path, name: str) -> Path:
    """The path of the file of this name in a folder. Names are relative and have their parts between single slashes.

    Raises:
        NameRefused: the name is absolute or empty, or one of its parts is empty, `.` or `..`.
    """
    if any(part in ("", ".", "..") for part in name.split("/")) or "\0" in name:
        raise NameRefused(f"{name!r} does not name a file inside a folder")
    return folder / name
