"""SNLI's dev and test sets as training data, a free stand-in for a large NLI training set. (Bowman et al. 2015)"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from trainables.data import revisions
from trainables.data.examples import Example, PairExample, ReadResult
from trainables.data.formats.pairs import NLI_HUB, NLI_LABELS, nli_json
from trainables.data.held_out import Side, held_out
from trainables.data.source import Files, Hub, Rows, Source
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import check_split

DEV_SIZE = 500


@dataclass(frozen=True)
class SnliDevTestAsTrain(PublishedTask):
    """500 examples are held out as dev; examples with the same premise stay on one side."""

    name: ClassVar[str] = "snli_dev_test_as_train"
    head: ClassVar[HeadName] = "pair_classification"
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "accuracy"
    labels: ClassVar[tuple[str, ...]] = NLI_LABELS
    source: ClassVar[str] = "SNLI 1.0, dev and test sets"
    reads: ClassVar[frozenset[str]] = frozenset({"snli"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        side: Side = "train" if split == "train" else "dev"
        return Source(
            Files(("snli/snli_1.0_dev.jsonl", "snli/snli_1.0_test.jsonl"), partial(_side_of_files, side)),
            Hub(
                "stanfordnlp/snli",
                "plain_text",
                "validation+test",
                revisions.SNLI,
                partial(_side_of_rows, side),
            ),
        )

    def chance(self) -> float:
        return 100.0 / len(self.labels)


def _side_of_files(side: Side, dev: Path, test: Path) -> ReadResult:
    return _side(nli_json("dev-").json_lines(dev) + nli_json("test-").json_lines(test), side)


def _side_of_rows(side: Side, rows: Rows, where: str) -> ReadResult:
    return _side(NLI_HUB(rows, where), side)


def _side(read: ReadResult, side: Side) -> ReadResult:
    return held_out(read, side, size=DEV_SIZE, keys=_premise)


def _premise(example: Example) -> tuple[str]:
    assert isinstance(example, PairExample)
    return (example.first,)
