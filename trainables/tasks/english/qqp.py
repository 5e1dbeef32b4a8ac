"""Quora Question Pairs: do two questions mean the same? (GLUE's version)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trainables.data.examples import ReadResult, RejectedRow
from trainables.data.formats.pairs import PairForm
from trainables.data.source import Files, Hub, Source
from trainables.data.text import lines
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.english.mnli import GLUE_REVISION
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import HUB_SPLITS, check_split

GLUE_TSV = PairForm("question1", "question2", "is_duplicate", ("0", "1"))
GLUE_HUB = PairForm("question1", "question2", "label", ("0", "1"))


@dataclass(frozen=True)
class Qqp(PublishedTask):
    name: ClassVar[str] = "qqp"
    head: ClassVar[HeadName] = "pair_classification"
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "accuracy"
    labels: ClassVar[tuple[str, ...]] = ("different", "same")
    source: ClassVar[str] = "QQP as in GLUE; on the hub in nyu-mll/glue"
    reads: ClassVar[frozenset[str]] = frozenset({"qqp"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        return Source(
            Files((f"qqp/{split}.tsv",), read_qqp),
            Hub("nyu-mll/glue", "qqp", HUB_SPLITS[split], GLUE_REVISION, GLUE_HUB),
        )

    def chance(self) -> float:
        return 50.0


def read_qqp(path: Path) -> ReadResult:
    """GLUE's file. A few questions contain a line break, so that their lines have too few columns and are rejected."""
    numbered = ((number, line.split("\t")) for number, line in lines(path))
    header = next(numbered, (0, []))[1]
    rows, rejected = [], []
    for number, values in numbered:
        if len(values) < len(header):
            rejected.append(
                RejectedRow(
                    str(path), number, f"{len(values)} of {len(header)} columns: a question contains a line break"
                )
            )
        else:
            rows.append((number, dict(zip(header, values, strict=False))))
    return GLUE_TSV(rows, path) + ReadResult((), tuple(rejected))
