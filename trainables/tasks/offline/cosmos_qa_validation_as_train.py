"""Cosmos QA's validation set as training data, where its training set is unavailable. (Huang et al. 2019)"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from trainables.data.examples import Example, ReadResult
from trainables.data.held_out import Side, held_out
from trainables.data.record import Record
from trainables.data.source import Files, Source
from trainables.data.text import separated
from trainables.tasks.base import Split
from trainables.tasks.english.cosmos_qa import CosmosQA, read_cosmos
from trainables.tasks.splits import check_split

HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class CosmosQAValidationAsTrain(CosmosQA):
    """A tenth is held out as dev; questions on the same text stay on one side."""

    name: ClassVar[str] = "cosmos_qa_validation_as_train"
    source: ClassVar[str] = "Cosmos QA, validation set"

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        side: Side = "train" if split == "train" else "dev"
        return Source(Files(("cosmos_qa/valid.csv",), partial(_side, side)), None)


def _side(side: Side, path: Path) -> ReadResult:
    rows = list(separated(path, delimiter=",", quoted=True))
    texts = {str(line): Record(row, path, line=line).text("context") for line, row in rows}

    def text(example: Example) -> tuple[str]:
        return (texts[example.id],)

    read = read_cosmos(iter(rows), path)
    return held_out(read, side, size=len(read.examples) // HELD_OUT_ONE_IN, keys=text)
