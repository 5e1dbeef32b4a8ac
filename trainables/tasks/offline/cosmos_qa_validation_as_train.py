"""Cosmos QA's validation set as training data, where its training set is unavailable. (Huang et al. 2019)"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from trainables.data import revisions
from trainables.data.examples import Example, ReadResult
from trainables.data.held_out import Side, held_out
from trainables.data.record import Record
from trainables.data.source import Files, Hub, Location, Rows, Source
from trainables.data.text import separated
from trainables.tasks.base import Split
from trainables.tasks.english.cosmos_qa import CosmosQA, read_cosmos
from trainables.tasks.splits import check_split

HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class CosmosQAValidationAsTrain(CosmosQA):
    """A tenth is held out as dev; questions on the same text stay on one side."""

    name: ClassVar[str] = "cosmos_qa_validation_as_train"
    source: ClassVar[str] = "Cosmos QA, validation set; on the hub allenai/cosmos_qa, its conversion to parquet"

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        side: Side = "train" if split == "train" else "dev"
        return Source(
            Files(
                ("cosmos_qa/valid.csv",),
                lambda path: _side(side, separated(path, delimiter=",", quoted=True), path),
            ),
            Hub("allenai/cosmos_qa", None, "validation", revisions.COSMOS_QA, partial(_side, side)),
        )


def _side(side: Side, rows: Rows, where: Location) -> ReadResult:
    rows = list(rows)
    texts = {str(line): Record(row, where, line=line).text("context") for line, row in rows}

    def text(example: Example) -> tuple[str]:
        return (texts[example.id],)

    read = read_cosmos(rows, where)
    return held_out(read, side, size=len(read.examples) // HELD_OUT_ONE_IN, keys=text)
