"""Counterfactually augmented SNLI: minimal human edits that change the label. (Kaushik et al. 2020)"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from trainables.data.examples import Example, PairExample, ReadResult
from trainables.data.formats.pairs import NLI_LABELS, PairForm
from trainables.data.held_out import Side, held_out
from trainables.data.source import Files, Source
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import check_split

TRAIN_FILE = "cad_nli/train.tsv"
CAD_TSV = PairForm("sentence1", "sentence2", "gold_label", NLI_LABELS)
DEV_SIZE = 500


@dataclass(frozen=True)
class CadNli(PublishedTask):
    """The published training file, with 500 examples held out as dev.

    An edited example shares its premise or hypothesis with the original: such families stay on one side.
    """

    name: ClassVar[str] = "cad_nli"
    head: ClassVar[HeadName] = "pair_classification"
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "accuracy"
    labels: ClassVar[tuple[str, ...]] = NLI_LABELS
    source: ClassVar[str] = "acmi-lab/counterfactually-augmented-data, NLI/all_combined/train.tsv"
    reads: ClassVar[frozenset[str]] = frozenset({"cad_nli", "snli"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        return Source(Files((TRAIN_FILE,), partial(_side, "train" if split == "train" else "dev")), None)

    def chance(self) -> float:
        return 100.0 / len(self.labels)


def _side(side: Side, path: Path) -> ReadResult:
    return held_out(CAD_TSV.tsv(path), side, size=DEV_SIZE, keys=_texts)


def _texts(example: Example) -> tuple[str, str]:
    assert isinstance(example, PairExample)
    return f"premise {example.first}", f"hypothesis {example.second}"
