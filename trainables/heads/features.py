"""Features of a split as a table on disk: tokenised once, memory-mapped by every process that reads it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, overload

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from trainables.heads import Feature

SCHEMA = pa.schema(
    {
        "set": pa.string(),
        "example": pa.int32(),
        "rows": pa.list_(pa.list_(pa.int32())),
        "target": pa.list_(pa.int32()),
        "weight": pa.float32(),
        "layout": pa.list_(pa.int32()),
        "length": pa.int32(),
    }
)
COUNTING_BATCH = 100_000  # features whose token ids are counted at a time


class FeatureTable(Sequence[Feature]):
    """A read-only sequence of features over an Arrow file: all of them, or (`of`) one of its sets."""

    def __init__(self, table: datasets.Dataset) -> None:
        self._table = table

    @property
    def lengths(self) -> tuple[int, ...]:
        """Longest row of each feature, in tokens."""
        return tuple(self._table["length"][:])

    def token_ids(self) -> np.ndarray:
        """Every token id that occurs in a row, ascending."""
        seen = np.zeros(0, dtype=bool)
        for batch in self._table.with_format("arrow").iter(batch_size=COUNTING_BATCH):
            ids = pc.list_flatten(pc.list_flatten(batch["rows"])).to_numpy()
            if len(ids) and ids.max() >= len(seen):
                seen = np.pad(seen, (0, ids.max() + 1 - len(seen)))
            seen[ids] = True
        return np.flatnonzero(seen)

    def of(self, name: str) -> FeatureTable:
        """The features of one set, in the order of its examples.

        Raises:
            KeyError: no such set.
        """
        first, last = self._ranges[name]
        return FeatureTable(self._table.select(range(first, last)))

    @cached_property
    def _ranges(self) -> dict[str, tuple[int, int]]:
        """The range of rows of each set; sets are contiguous."""
        names, firsts, counts = np.unique(self._table["set"][:], return_index=True, return_counts=True)
        return {
            str(name): (int(first), int(first + count))
            for name, first, count in zip(names, firsts, counts, strict=True)
        }

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, index: int) -> Feature: ...
    @overload
    def __getitem__(self, index: slice) -> list[Feature]: ...
    def __getitem__(self, index: int | slice) -> Feature | list[Feature]:
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        return self.take([index])[0]

    def __iter__(self) -> Iterator[Feature]:
        return iter(self.take(range(len(self))))

    def take(self, indices: Sequence[int]) -> list[Feature]:
        """The features at these indices."""
        if not len(indices):
            return []
        table = self._table[list(indices)]
        columns = (table[name] for name in ("example", "rows", "target", "weight", "layout"))
        return [
            Feature(example, tuple(map(tuple, rows)), tuple(target), weight, tuple(layout))
            for example, rows, target, weight, layout in zip(*columns, strict=True)
        ]

    def weight(self, indices: Sequence[int]) -> float:
        """Supervised decisions in the features at these indices."""
        return float(self._weights[list(indices)].sum())

    @cached_property
    def _weights(self) -> np.ndarray:
        return np.asarray(self._table["weight"][:], dtype=np.float64)


def write_features(path: Path, batches: Iterable[tuple[str, Sequence[Feature]]]) -> int:
    """Write batches of (set name, features), set after set, as one Arrow stream; returns the number of features."""
    written = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as stream:
        for name, features in batches:
            columns: dict[str, list[Any]] = {
                "set": [name] * len(features),
                "example": [feature.example for feature in features],
                "rows": [feature.rows for feature in features],
                "target": [feature.target for feature in features],
                "weight": [feature.weight for feature in features],
                "layout": [feature.layout for feature in features],
                "length": [feature.length for feature in features],
            }
            stream.write_batch(pa.record_batch(columns, schema=SCHEMA))
            written += len(features)
    return written


def token_ids_in(path: Path) -> np.ndarray:
    """`FeatureTable.token_ids` of a table that is not kept: its mapped file takes no memory afterwards."""
    return FeatureTable(datasets.Dataset.from_file(str(path))).token_ids()


@lru_cache(maxsize=64)
def read_features(path: Path) -> FeatureTable:
    """The memory-mapped table. It can be cached, because the file belongs to a finished stage and never changes."""
    return FeatureTable(datasets.Dataset.from_file(str(path)))
