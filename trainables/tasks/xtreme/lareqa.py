"""LAReQA: rank all sentences of XQuAD, in every language, by whether they answer a question. (Roy et al. 2020)"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from trainables.data.examples import ReadResult
from trainables.data.formats.squad import sentence_pairs
from trainables.data.formats.xquad_r import sentence_retrieval
from trainables.data.source import Files, Source
from trainables.tasks.base import HeadName, Split
from trainables.tasks.english.squad import squad_train_or_dev
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import check_split

# Sentences in each language, from the README of google-research-datasets/lareqa.
SENTENCES = dict(
    zip(
        "ar de el en es hi ru th tr vi zh".split(),
        (1222, 1276, 1234, 1180, 1215, 1244, 1219, 852, 1167, 1209, 1196),
        strict=True,
    )
)


@dataclass(frozen=True)
class Lareqa(PublishedTask):
    """The pool has the languages of this instance; a question has one right sentence in each of them.

    The English dev set is SQuAD's, without the paragraphs that XQuAD translates. Test sets are read only from files, because
    google-research-datasets/xquad_r on the hub lacks sentence breaks.
    """

    name: ClassVar[str] = "lareqa"
    head: ClassVar[HeadName] = "dual_encoder"
    metric: ClassVar[str] = "map_at_20"
    source: ClassVar[str] = "LAReQA XQuAD-R (Roy et al. 2020), trained on SQuAD v1.1"
    official_languages: ClassVar[tuple[str, ...]] = tuple(SENTENCES)
    reads: ClassVar[frozenset[str]] = frozenset({"squad_train"})
    scores_on: ClassVar[frozenset[str]] = frozenset({"squad_dev"})
    group: ClassVar[int] = 16
    query_length: ClassVar[int | None] = 96
    answer_length: ClassVar[int | None] = 256  # the sentence, then its paragraph

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        if split != "test":
            return self.english(split)
        if language not in self.languages:
            raise ValueError(f"{self.name}: {language} is not a language of this instance, {', '.join(self.languages)}")

        def read(*files: Path) -> ReadResult:
            return sentence_retrieval(language, dict(zip(self.languages, files, strict=True)))

        return Source(Files(tuple(f"xquad_r/{name}.json" for name in self.languages), read), None)

    def english(self, split: Split) -> Source:
        """The training and dev sets."""
        return squad_train_or_dev(split, sentence_pairs)

    def chance(self) -> float:
        """Expected average precision at 20 of a random order, with one right answer in each language."""
        pool, right = sum(SENTENCES[language] for language in self.languages), len(self.languages)
        others = (right - 1) / (pool - 1)  # expected share of right answers among the ranks before a right one
        hits = sum((1 + (rank - 1) * others) / rank for rank in range(1, 21))
        return 100.0 * right / pool * hits / min(right, 20)
