"""Stage: train the vocabulary of a ladder on its pre-training text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from trainables.models.vocabulary import train_vocabulary
from trainables.stages.base import Stage, Workplace

TOKENIZER = "tokenizer"


class ParallelCorpus(Protocol):
    """A parallel corpus: a frozen dataclass that can be read."""

    def parallel(self) -> list[dict[str, str]]:
        """Sentences, each as texts by language code including English."""


@dataclass(frozen=True)
class Vocabulary(Stage):
    corpus: ParallelCorpus
    size: int

    @property
    def label(self) -> str:
        return f"vocabulary-{self.size}"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return ()

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        if not work.leads:
            return {}
        sentences = self.corpus.parallel()
        tokenizer = train_vocabulary((text for texts in sentences for text in texts.values()), self.size)
        tokenizer.save_pretrained(folder / TOKENIZER)
        characters: Counter[str] = Counter()
        for texts in sentences:
            characters.update({language: len(text) for language, text in texts.items()})
        return {"pieces": len(tokenizer), "sentences": len(sentences), "characters": dict(characters)}
