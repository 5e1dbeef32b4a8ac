"""CCGbank's .auto files: one derivation a line; its leaves hold the words and their categories (supertags)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from trainables.data.source import DataError
from trainables.data.text import lines

# Category, two part-of-speech tags, word, category with its dependencies: the CCGbank manual, section on .auto files.
LEAF = re.compile(r"<L (\S+) \S+ \S+ (\S+) \S+>")


def derivations(*folders: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Each sentence's id, and its words with their categories, in the order of file names.

    Raises:
        DataError: a folder has no .auto file, or a line is neither an id nor a derivation.
    """
    for folder in folders:
        paths = sorted(folder.rglob("*.auto"))
        if not paths:
            raise DataError(folder, None, "no .auto file in this folder")
        for path in paths:
            name = ""
            for number, line in lines(path):
                if line.startswith("ID="):
                    name = line.partition(" ")[0].removeprefix("ID=")
                elif leaves := [(word, category) for category, word in LEAF.findall(line)]:
                    yield name or f"{path.name}:{number}", leaves
                elif line.strip():
                    raise DataError(path, number, "neither an ID line nor a derivation with leaves <L ...>")
