"""A dev set held out of a training set by a fixed rule, with what belongs together on one side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

from trainables.data.examples import Example, Read

Side = Literal["train", "dev"]
Keys = Callable[[Example], Sequence[str]]


def held_out(found: Read, side: Side, *, size: int, keys: Keys) -> Read:
    """One side of a split that holds out `size` examples, or up to a family less one fewer where families don't add up.

    Examples that share one of their `keys` are a family, and so are those linked through others. Families are drawn in the
    order of a hash, so that neither the order nor the rest of the file decides where one goes. Rejected rows go with train.
    """
    families = _families([keys(example) for example in found.examples])
    members: dict[int, list[int]] = {}
    for row, family in enumerate(families):
        members.setdefault(family, []).append(row)
    names = {family: min(min(keys(found.examples[row])) for row in rows) for family, rows in members.items()}
    drawn: set[int] = set()
    for family in sorted(members, key=lambda one: (hashlib.sha256(names[one].encode()).digest(), one)):
        if len(drawn) + len(members[family]) <= size:
            drawn.update(members[family])
    chosen = (row for row in range(len(families)) if (row in drawn) == (side == "dev"))
    return Read(tuple(found.examples[row] for row in chosen), found.rejected if side == "train" else ())


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
