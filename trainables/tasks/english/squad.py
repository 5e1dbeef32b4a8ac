"""Intermediate: find the answer to a question in a paragraph (SQuAD v1.1), and where it is read from, also for others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trainables.data import revisions
from trainables.data.examples import Read
from trainables.data.formats.squad import Make, beside, from_file, from_rows, spans, squad_form
from trainables.data.source import Files, Hub, Rows, Source
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import check_split

XQUAD_ENGLISH = "xquad/xquad.en.json"
XQUAD_HUB = "google/xquad"
XQUAD_REVISION = "51adfef1c1287aab1d2d91b5bead9bcfb9c68583"  # "Convert dataset to Parquet (#3)"


@dataclass(frozen=True)
class Squad(PublishedTask):
    name: ClassVar[str] = "squad"
    head: ClassVar[HeadName] = "span_extraction"
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "f1_em"
    source: ClassVar[str] = "SQuAD v1.1 (Rajpurkar et al. 2016); hub: rajpurkar/squad"
    reads: ClassVar[frozenset[str]] = frozenset({"squad_train"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        return squad_train_or_dev(split)

    def chance(self) -> float:
        return 0.0  # a span taken blindly out of the thousands in a paragraph


def squad_train_or_dev(split: Split, make: Make = spans) -> Source:
    """SQuAD v1.1's training set, or its dev set without XQuAD's paragraphs."""
    if split == "train":
        return squad_form("squad/train-v1.1.json", "rajpurkar/squad", "plain_text", "train", revisions.SQUAD, make=make)
    return without_xquad("squad/dev-v1.1.json", ("rajpurkar/squad", "plain_text", revisions.SQUAD), make)


def without_xquad(path: str, hub: tuple[str, str, str], make: Make) -> Source:
    """SQuAD's dev set without the 240 paragraphs that XQuAD translates: models are chosen on it, and scored on those.

    `hub` names data set, config and commit.
    """

    dataset, config, revision = hub

    def read_files(dev: Path, xquad: Path) -> Read:
        return make(beside(from_file(dev), from_file(xquad)), dev)

    def read_rows(rows: Rows, where: str) -> Read:
        from datasets import load_dataset

        xquad = load_dataset(XQUAD_HUB, "xquad.en", split="validation", revision=XQUAD_REVISION)
        return make(beside(from_rows(rows, where), from_rows(enumerate(xquad), f"{XQUAD_HUB}:xquad.en")), where)

    return Source(
        Files((path, XQUAD_ENGLISH), read_files),
        Hub(dataset, config, "validation", revision, read_rows, beside=((XQUAD_HUB, XQUAD_REVISION),)),
    )
