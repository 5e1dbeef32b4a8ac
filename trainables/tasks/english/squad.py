"""SQuAD v1.1: find the answer to a question in a paragraph. Other tasks read the same sources. (Rajpurkar et al. 2016)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trainables.data import revisions
from trainables.data.examples import ReadResult
from trainables.data.formats.squad import (
    BuildExamples,
    from_file,
    from_rows,
    spans,
    squad_source,
    without_paragraphs_of,
)
from trainables.data.hub import load_rows
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
        return 0.0  # a random span among the thousands in a paragraph


def squad_train_or_dev(split: Split, build: BuildExamples = spans) -> Source:
    """SQuAD v1.1's training set, or its dev set without XQuAD's paragraphs."""
    if split == "train":
        path = "squad/train-v1.1.json"
        return squad_source(path, "rajpurkar/squad", "plain_text", "train", revisions.SQUAD, build=build)
    return dev_without_xquad(
        "squad/dev-v1.1.json", "rajpurkar/squad", "plain_text", revision=revisions.SQUAD, build=build
    )


def dev_without_xquad(path: str, dataset: str, config: str, *, revision: str, build: BuildExamples) -> Source:
    """SQuAD's dev set without the 240 paragraphs that XQuAD translates, because models chosen on it are scored on those."""

    def read_files(dev: Path, xquad: Path) -> ReadResult:
        return build(without_paragraphs_of(from_file(xquad), from_file(dev)), dev)

    def read_rows(rows: Rows, where: str) -> ReadResult:
        xquad = load_rows(XQUAD_HUB, "xquad.en", split="validation", revision=XQUAD_REVISION)
        others = from_rows(enumerate(xquad), f"{XQUAD_HUB}:xquad.en")
        return build(without_paragraphs_of(others, from_rows(rows, where)), where)

    return Source(
        Files((path, XQUAD_ENGLISH), read_files),
        Hub(dataset, config, "validation", revision, read_rows, also_reads=((XQUAD_HUB, XQUAD_REVISION),)),
    )
