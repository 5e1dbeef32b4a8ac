"""HellaSwag's validation set as training data, where its training set is unavailable. (Zellers et al. 2019)"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from trainables.data import revisions
from trainables.data.examples import ChoiceExample, Example, ReadResult
from trainables.data.held_out import Side, held_out
from trainables.data.source import Files, Hub, Location, Rows, Source
from trainables.data.text import json_lines
from trainables.tasks.base import Split
from trainables.tasks.english.hellaswag import HellaSwag, read_hellaswag
from trainables.tasks.splits import check_split

HELD_OUT_ONE_IN = 10


@dataclass(frozen=True)
class HellaSwagValidationAsTrain(HellaSwag):
    """A tenth is held out as dev; examples with the same context stay on one side."""

    name: ClassVar[str] = "hellaswag_validation_as_train"
    source: ClassVar[str] = "HellaSwag 1.0, validation set; on the hub Rowan/hellaswag"

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        side: Side = "train" if split == "train" else "dev"
        return Source(
            Files(("hellaswag/hellaswag_val.jsonl",), lambda path: _side(side, json_lines(path), path)),
            Hub("Rowan/hellaswag", None, "validation", revisions.HELLASWAG, partial(_side, side)),
        )


def _side(side: Side, rows: Rows, where: Location) -> ReadResult:
    read = read_hellaswag(rows, where)
    return held_out(read, side, size=len(read.examples) // HELD_OUT_ONE_IN, keys=_context)


def _context(example: Example) -> tuple[str]:
    assert isinstance(example, ChoiceExample)
    return (example.context,)
