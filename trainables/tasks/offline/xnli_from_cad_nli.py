"""XNLI trained on counterfactually augmented SNLI, if MultiNLI is unavailable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data.source import Files, Source
from trainables.tasks.base import Split
from trainables.tasks.offline.cad_nli import CAD_TSV, TRAIN_FILE, CadNli
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import check_split
from trainables.tasks.xtreme.xnli import Xnli


@dataclass(frozen=True)
class XnliFromCadNli(Xnli):
    """Dev and test sets are XNLI's; the training set is the whole CAD training file, 8,330 examples."""

    name: ClassVar[str] = "xnli_from_cad_nli"
    source: ClassVar[str] = "XNLI 1.0, trained on counterfactually augmented SNLI"
    reads: ClassVar[frozenset[str]] = CadNli.reads

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        if split == "train":
            return Source(Files((TRAIN_FILE,), CAD_TSV.tsv), None)
        return super().source_of(split, language)

    def trained_as(self) -> PublishedTask:
        return self
