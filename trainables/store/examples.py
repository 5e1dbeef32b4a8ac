"""Scores by example as parquet files: what a bootstrap over examples needs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.metrics import Counts
from trainables.store.atomic import replacing

EXAMPLES = "examples.parquet"  # in the folder of a finished evaluation


class ExamplesUnusable(ValueError):
    """A table of scores by example that exists and cannot be used; the message names it and the reason."""


class ScoredSet(Protocol):
    """The scores of a set of examples: one split of a task in one language."""

    @property
    def split(self) -> str: ...

    @property
    def language(self) -> str: ...

    @property
    def per_example(self) -> Sequence[Counts]: ...


def example_scores(scores: Iterable[ScoredSet]) -> pd.DataFrame:
    """One row an example: split, language, example (its number in the set), and the sums that the task's metric adds up."""
    return pd.DataFrame(
        [
            {"split": score.split, "language": score.language, "example": number, **counts.sums}
            for score in scores
            for number, counts in enumerate(score.per_example)
        ]
    )


def joined_tests(tables: Iterable[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """The test examples of several tasks, given by name, in compact types; a `task` column comes first.

    Sums that a task's metric does not have are missing.
    """
    tests = []
    for task, table in tables:
        table = table[table["split"] == "test"]
        tests.append(table.assign(task=task)[["task", *table.columns]])
    names = ("task", "split", "language")
    return pd.concat(tests, ignore_index=True).astype({**dict.fromkeys(names, "category"), "example": "int32"})


def write_example_scores(table: pd.DataFrame, path: Path) -> None:
    """Write a table atomically; the folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd", write_page_checksum=True)


def read_example_scores(path: Path) -> pd.DataFrame:
    """A table as `write_example_scores` wrote it.

    Raises:
        ExamplesUnusable: it cannot be read, or is not what was written.
    """
    try:
        # Without pandas' own metadata: damage in them makes pandas raise errors of many kinds.
        return pq.read_table(path, page_checksum_verification=True).to_pandas(ignore_metadata=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ExamplesUnusable(f"{path}: {' '.join(str(error).split())}") from error
