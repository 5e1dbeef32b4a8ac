"""English dev sets for targets without training: find the sentence that says the same as another, among distractors.

Such a target has labels in no language, so English dev selection does not see what an intermediate task did to its sentence
vectors. Its dev set comes from the English dev set of a task about pairs of sentences: one sentence of a pair that means the
same is the query, the other the right answer, and those of all other pairs are the distractors. No sentence of the target's
tests and no other language takes part.

`xnli_entailment`: an entailed hypothesis and its premise, in XNLI's dev set (830 pairs of ten genres, one a premise). The
premise says at least what the hypothesis says, and often more: this is close to a translation, and not one.
`qqp_duplicates`: two questions that ask the same, in QQP's dev set. Nearer to the same thing written another way, in one genre.

Limits: neither says whether languages still meet, only whether sentences of one meaning do in English. A task trained on such
pairs (MNLI, QQP) may raise this score without raising the target's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from trainables.data.examples import BitextExample, Example, PairExample, ReadResult, RetrievalText
from trainables.data.source import Files, Hub, Location, Rows, Source
from trainables.fields import added_field
from trainables.tasks.base import Split
from trainables.tasks.english.qqp import Qqp
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.xtreme.xnli import Xnli

EnglishDev = Literal["", "xnli_entailment", "qqp_duplicates"]
Build = Callable[
    [Sequence[PairExample], int], tuple[Example, ...]
]  # from pairs, and the label of those that mean the same

# The task whose English dev set is read, the label of pairs that mean the same, and the side that is the query.
_SAME: dict[EnglishDev, tuple[type[PublishedTask], str, Literal["first", "second"]]] = {
    "xnli_entailment": (Xnli, "entailment", "second"),
    "qqp_duplicates": (Qqp, "same", "first"),
}


@dataclass(frozen=True)
class UntrainedTask(PublishedTask):
    """A published target scored without training. `english_dev`: where its English dev set comes from ("": it has none)."""

    english_dev: EnglishDev = added_field("")

    trained: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.english_dev and self.english_dev not in _SAME:
            raise ValueError(f"{self.name}: no English dev set {self.english_dev!r}; there are {', '.join(_SAME)}")

    @property
    def has_english_dev(self) -> bool:
        return bool(self.english_dev)

    def english_dev_source(self, split: Split, language: str, build: Build) -> Source | None:
        """Where the English dev set is read from, if that is the split and the task has one; `build` makes its examples."""
        if not self.english_dev or (split, language) != ("dev", "en"):
            return None
        task, label, query = _SAME[self.english_dev]
        source = task().source_of("dev", "en")
        same = task.labels.index(label)

        def built(read: ReadResult) -> ReadResult:
            pairs = [pair for pair in read.examples if isinstance(pair, PairExample) and pair.second is not None]
            return ReadResult(
                build(pairs if query == "first" else [_turned(pair) for pair in pairs], same), read.rejected
            )

        return Source(_rebuilt_files(source.files, built), _rebuilt_hub(source.hub, built))


def as_bitext(pairs: Sequence[PairExample], same: int) -> tuple[BitextExample, ...]:
    """The pairs that mean the same as a sentence and the one to find.

    Each sentence counts in the first of its pairs, so that a query has one right answer.
    """
    taken: set[str] = set()
    kept = []
    for pair in pairs:
        assert pair.second is not None
        if pair.label == same and not {pair.first, pair.second} & taken:
            taken |= {pair.first, pair.second}
            kept.append(BitextExample(pair.id, pair.first, pair.second))
    return tuple(kept)


def as_mining(pairs: Sequence[PairExample], same: int) -> tuple[RetrievalText, ...]:
    """Queries, of which those of pairs that mean the same have an answer, then all candidates.

    As in BUCC, most queries have none: here they are the sentences that do not follow, which are close to a candidate.
    """
    texts = list(dict.fromkeys(pair.second for pair in pairs if pair.second is not None))
    ids = {text: f"candidate-{number}" for number, text in enumerate(texts)}
    gold = {pair.source: (ids[pair.target],) for pair in as_bitext(pairs, same)}
    queries = dict.fromkeys(pair.first for pair in pairs)
    return (
        *(RetrievalText(f"query-{number}", text, gold=gold.get(text, ())) for number, text in enumerate(queries)),
        *(RetrievalText(id, text) for text, id in ids.items()),
    )


def _turned(pair: PairExample) -> PairExample:
    assert pair.second is not None
    return PairExample(pair.id, pair.second, pair.first, pair.label)


def _rebuilt_files(files: Files | None, built: Callable[[ReadResult], ReadResult]) -> Files | None:
    if files is None:
        return None

    def read(*paths: Path) -> ReadResult:
        return built(files.read(*paths))

    return Files(files.paths, read)


def _rebuilt_hub(hub: Hub | None, built: Callable[[ReadResult], ReadResult]) -> Hub | None:
    if hub is None:
        return None

    def read(rows: Rows, where: Location) -> ReadResult:
        return built(hub.read(rows, str(where)))

    return Hub(hub.dataset, hub.config, hub.split, hub.revision, read, hub.also_reads, hub.row_limit)
