"""TyDiQA-GoldP: find the answer in its paragraph; native speakers asked the questions. (Clark et al. 2020)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data.formats.squad import BuildExamples, Question, from_file, from_rows, in_held_out_article, spans
from trainables.data.source import Files, Hub, Source
from trainables.tasks.base import HeadName, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import check_split

LANGUAGES = {
    "ar": "arabic",
    "bn": "bengali",
    "en": "english",
    "fi": "finnish",
    "id": "indonesian",
    "ko": "korean",
    "ru": "russian",
    "sw": "swahili",
    "te": "telugu",
}


@dataclass(frozen=True)
class TyDiQA(PublishedTask):
    """As in XTREME, test sets are the published dev sets; the English dev set is a tenth of the training set's articles."""

    name: ClassVar[str] = "tydiqa"
    head: ClassVar[HeadName] = "span_extraction"
    metric: ClassVar[str] = "f1_em"
    source: ClassVar[str] = "TyDiQA-GoldP v1.1 (Clark et al. 2020); hub: google/xtreme"
    official_languages: ClassVar[tuple[str, ...]] = tuple(LANGUAGES)
    reads: ClassVar[frozenset[str]] = frozenset({"tydiqa_en"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        return tydiqa(split, language)

    def chance(self) -> float:
        return 0.0  # a random span among the thousands in a paragraph


def tydiqa(split: Split, language: str, *, build: BuildExamples = spans) -> Source:
    """The training set (nine tenths of the English articles), the dev set (the other tenth), or a language's test set."""
    published = "dev" if split == "test" else "train"

    def in_split(question: Question) -> bool:
        return split == "test" or in_held_out_article(question) == (split == "dev")

    def on_hub(question: Question) -> bool:
        """One table has all languages; an id starts with the language's name."""
        return question.id.startswith(f"{LANGUAGES[language]}-") and in_split(question)

    return Source(
        Files(
            (f"tydiqa_goldp/tydiqa.{language}.{published}.json",),
            lambda file: build(filter(in_split, from_file(file)), file),
        ),
        Hub(
            "google/xtreme",
            "tydiqa",
            "validation" if split == "test" else "train",
            None,
            lambda rows, where: build(filter(on_hub, from_rows(rows, where)), where),
        ),
    )
