"""How long are the rows of fine-tuning data? Counted once, for benchmarks that need real lengths but have no text.

    python -m tests.benchmarks.row_lengths [--data-root ../shared/data]

Reads XNLI's English dev set (2,490 pairs) and the training set of UD English-EWT, tokenised with mBERT's vocabulary and cut at
128 tokens, special tokens included, and writes `row_lengths.json` to this folder. mBERT's vocabulary stands in for XLM-R's,
whose tokenizer is not among the files. `rows_looked_up` counts the embedding rows that occur in these two sets, XNLI's test set
and CAD's NLI training set together: what vocabulary trimming leaves of the table.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from trainables.data.source import DATA_ROOT_VARIABLE
from trainables.heads import HEADS
from trainables.tasks.base import Split, Task
from trainables.tasks.offline.cad_nli import CadNli
from trainables.tasks.xtreme.udpos import Udpos
from trainables.tasks.xtreme.xnli import Xnli

COMMITTED = Path(__file__).with_name("row_lengths.json")
MAX_LENGTH = 128
COUNTED: dict[str, tuple[Task, Split]] = {"xnli": (Xnli(), "dev"), "udpos": (Udpos(), "train")}
ALSO_LOOKED_UP: dict[str, tuple[Task, Split]] = {"xnli_test": (Xnli(), "test"), "cad": (CadNli(), "train")}


@dataclass(frozen=True)
class RowLengths:
    """The number of rows of each length from 0 to `MAX_LENGTH`, by task."""

    source: str
    rows_looked_up: int
    counts: Mapping[str, tuple[int, ...]]

    def of(self, task: str) -> tuple[int, ...]:
        """The length of every row, ascending."""
        return tuple(length for length, count in enumerate(self.counts[task]) for _ in range(count))


def committed() -> RowLengths:
    """The lengths in the committed file."""
    document = json.loads(COMMITTED.read_text(encoding="utf-8"))
    counts = {task: tuple(histogram) for task, histogram in document["counts"].items()}
    return RowLengths(document["source"], document["rows_looked_up"], counts)


def read_lengths(data_root: Path) -> RowLengths:
    """Count the lengths in the files under the data root.

    Raises:
        DataError, OSError: a file is missing or breaks a rule of its form.
    """
    from tests.benchmarks.finetune_epoch import VOCABULARY, bert_tokenizer  # imports the Trainer

    os.environ[DATA_ROOT_VARIABLE] = str(data_root.resolve())
    tokenizer = bert_tokenizer(data_root / VOCABULARY)
    seen: set[int] = set()
    counts: dict[str, tuple[int, ...]] = {}
    for name, (task, split) in {**COUNTED, **ALSO_LOOKED_UP}.items():
        features = HEADS[task.head].features(
            task.examples(split, "en"), task=task, tokenizer=tokenizer, max_length=MAX_LENGTH
        )
        seen.update(*(row for feature in features for row in feature.rows))
        if name in COUNTED:
            histogram = np.bincount([feature.length for feature in features], minlength=MAX_LENGTH + 1)
            counts[name] = tuple(int(count) for count in histogram)
    source = "XNLI English dev, UD English-EWT train; words of mBERT's vocabulary, cut at 128"
    return RowLengths(source, len(seen), counts)


def main(data_root: Annotated[Path, typer.Option(help="folder of published files")] = Path("../shared/data")) -> None:
    """Count, write the file and print a summary."""
    row_lengths = read_lengths(data_root)
    COMMITTED.write_text(json.dumps(asdict(row_lengths)) + "\n", encoding="utf-8")
    for task in row_lengths.counts:
        lengths = row_lengths.of(task)
        print(f"{task}: {len(lengths):,} rows, {np.mean(lengths):.1f} tokens on average, {lengths[-1]} at most")
    print(f"{row_lengths.rows_looked_up:,} rows of the table are looked up")


if __name__ == "__main__":
    typer.run(main)
