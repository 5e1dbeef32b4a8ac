"""Masked language modelling on text in the target languages, as one task of a mixture. (Phang et al. 2020)"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from trainables.data.formats.unlabelled import article_paragraphs, text_lines
from trainables.data.source import Files, Hub, Source
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.suites import XTREME_R

WIKIPEDIA_REVISION = "b04c8d1ceb2f5cd4588862100d08de323dccfbaa"
ARTICLES = 5000  # the first of each language; the English Wikipedia has millions


@dataclass(frozen=True)
class MaskedLm(PublishedTask):
    """`languages_` are the languages of the text (empty: XTREME-R's); `train_size` samples lines or paragraphs of each.

    The default gives 125,000 examples in 50 languages, just under the cap of a mixture.
    """

    train_size: int | None = 2500

    name: ClassVar[str] = "masked_lm"
    head: ClassVar[HeadName] = "masked_lm"
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "not scored"
    mixed_only: ClassVar[bool] = True
    source: ClassVar[str] = "any text, a file a language; on the hub wikimedia/wikipedia, 20231101"
    official_languages: ClassVar[tuple[str, ...]] = XTREME_R.languages

    def source_of(self, split: Split, language: str) -> Source:
        if split != "train" or language not in self.official_languages:
            raise ValueError(f"{self.name}: no {split} set in {language}")
        return Source(
            Files((f"text/{language}.txt",), text_lines),
            Hub(
                *("wikimedia/wikipedia", f"20231101.{language}", "train", WIKIPEDIA_REVISION),
                read=article_paragraphs,
                row_limit=ARTICLES,
            ),
        )

    def splits(self) -> list[tuple[Split, str]]:
        return [("train", language) for language in self.languages]

    def training_part(self) -> PublishedTask:
        """As in every task, except that the languages stay: they are those of the training set."""
        return dataclasses.replace(self, dev_size=None, test_size=None, training_data="", part="train")

    def chance(self) -> float:
        raise ValueError(f"{self.name} is trained and never scored")
