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
ZSTD_LEVEL = 19  # of 22; those above it ask for more memory to read
CONFIDENCE = "confidence"  # a column of it, 0 to 1; evaluations of earlier versions lack it


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

    @property
    def confidence(self) -> Sequence[float]: ...


def example_scores(scores: Iterable[ScoredSet]) -> pd.DataFrame:
    """One row an example: split, language, example (its number in the set), and the sums that the task's metric adds up.

    `CONFIDENCE` says how sure the model is of its answer, for heads that cascade.
    """
    tables = []
    for score in scores:
        rows = [
            {"split": score.split, "language": score.language, "example": number, **counts.sums}
            for number, counts in enumerate(score.per_example)
        ]
        known = {CONFIDENCE: list(score.confidence)} if score.confidence else {}
        tables.append(pd.DataFrame(rows).assign(**known))
    return pd.concat(tables, ignore_index=True)


def joined_tests(tables: Iterable[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """The test examples of several tasks, given by name, in compact types; a `task` column comes first.

    Sums that a task's metric does not have are missing.
    """
    return _joined((task, table[table["split"] == "test"]) for task, table in tables)


def joined_examples(tables: Iterable[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    """As `joined_tests`, with the English dev examples whose confidence is known: a cascade's threshold is chosen on them."""

    def kept(table: pd.DataFrame) -> pd.DataFrame:
        test = table["split"] == "test"
        if CONFIDENCE not in table:
            return table[test]
        return table[test | ((table["split"] == "dev") & (table["language"] == "en") & table[CONFIDENCE].notna())]

    return _joined((task, kept(table)) for task, table in tables)


def _joined(tables: Iterable[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    joined = pd.concat([table.assign(task=task)[["task", *table.columns]] for task, table in tables], ignore_index=True)
    names = ("task", "split", "language")
    return joined.astype({**dict.fromkeys(names, "category"), "example": "int32"})


def write_example_scores(table: pd.DataFrame, path: Path) -> None:
    """Write a table atomically; the folder is created.

    These files travel in bundles, many small ones together: they are packed hard, and have neither statistics nor pandas'
    metadata, which in a table of some hundred rows take as much as the rows.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    with replacing(path) as temporary:
        pq.write_table(
            *(columns, temporary),
            compression="zstd",
            compression_level=ZSTD_LEVEL,
            write_statistics=False,
            write_page_checksum=True,
        )


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
