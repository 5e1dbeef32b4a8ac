"""Masked language modelling on MicroXTREME's unlabelled sentences, as one task of a mixture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from trainables.data.examples import TextExample
from trainables.tasks.base import HeadName, Role, Split, Task
from trainables.tasks.micro import cldr
from trainables.tasks.micro.corpus import MicroCorpus

ENGLISH = "en"  # always in the corpus; used here only if it is among the languages


@dataclass(frozen=True)
class MicroMaskedLm(Task):
    """`train_size` sentences of `MicroCorpus` in each of `languages_` (empty: all covered ones).

    A language that cannot write all of them has fewer. None is a sentence of a labelled example.
    """

    seed: int = 0
    languages_: tuple[str, ...] = ()
    train_size: int = 200
    data: str = cldr.DATA_REVISION

    name: ClassVar[str] = "micro_masked_lm"
    head: ClassVar[HeadName] = "masked_lm"
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "not scored"
    mixed_only: ClassVar[bool] = True
    source: ClassVar[str] = "generated from Unicode CLDR (Babel)"

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.languages_) - set(cldr.languages())):
            covered = ", ".join(cldr.languages())
            raise ValueError(f"{self.name}: no CLDR coverage for {', '.join(unknown)}; covered: {covered}")
        if set(self.languages_) == {ENGLISH}:
            raise ValueError(f"{self.name}: its sentences are parallel, so languages_ needs a language besides English")

    @property
    def languages(self) -> tuple[str, ...]:
        return self.languages_ or cldr.languages()

    @property
    def revision(self) -> str:
        return self.data

    def splits(self) -> list[tuple[Split, str]]:
        return [("train", language) for language in self.languages]

    def examples(self, split: Split, language: str) -> Sequence[TextExample]:
        if split != "train" or language not in self.languages:
            raise ValueError(f"{self.name}: no {split} split in {language!r}")
        texts = ((number, texts.get(language)) for number, texts in enumerate(_sentences(self)))
        return tuple(TextExample(f"{split}-{number}", text) for number, text in texts if text is not None)

    def chance(self) -> float:
        raise ValueError(f"{self.name} is trained and never scored")


@lru_cache(maxsize=4)
def _sentences(task: MicroMaskedLm) -> list[dict[str, str]]:
    others = tuple(language for language in task.languages if language != ENGLISH)
    return MicroCorpus((ENGLISH, *others), task.train_size, task.seed).parallel()
