"""A dev set held out of a training set by a fixed rule that keeps related examples on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

from trainables.data.examples import Example, ReadResult

Side = Literal["train", "dev"]
Keys = Callable[[Example], Sequence[str]]


def held_out(read: ReadResult, side: Side, *, size: int, keys: Keys) -> ReadResult:
    """One side of a split that holds out `size` examples, or slightly fewer if whole families do not add up to it.

    Examples that share one of their `keys`, directly or through other examples, are a family. Families are drawn in the order
    of a hash, so a family's side depends neither on its position nor on the other families. Rejected rows go to train.
    """
    families = _families([keys(example) for example in read.examples])
    members: dict[int, list[int]] = {}
    for row, family in enumerate(families):
        members.setdefault(family, []).append(row)
    names = {family: min(min(keys(read.examples[row])) for row in rows) for family, rows in members.items()}
    held: set[int] = set()
    for family in sorted(members, key=lambda root: (hashlib.sha256(names[root].encode()).digest(), root)):
        if len(held) + len(members[family]) <= size:
            held.update(members[family])
    chosen = (row for row in range(len(families)) if (row in held) == (side == "dev"))
    return ReadResult(tuple(read.examples[row] for row in chosen), read.rejected if side == "train" else ())


def _families(keys_of_rows: Sequence[Sequence[str]]) -> list[int]:
    """The family of each row: rows are linked by shared keys (union-find over rows)."""
    parents = list(range(len(keys_of_rows)))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    first_with: dict[str, int] = {}
    for row, keys in enumerate(keys_of_rows):
        for key in keys:
            parents[root(row)] = root(first_with.setdefault(key, row))
    return [root(row) for row in range(len(parents))]
