"""Stage: tokenise a part of a task once for every trial, size and worker that uses the tokenizer.

It is the only stage that reads the examples themselves, from files or from the hub. What an evaluation needs of them besides
the features is stored too: a hundred trials on eight workers each would otherwise request the same sets from the hub.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from trainables.data.examples import Example
from trainables.data.stored import Write, read_examples, read_examples_once, writing_examples
from trainables.heads import HEADS, Feature
from trainables.heads.features import FeatureTable, read_features, token_ids_in, write_features
from trainables.metrics import METRICS, Counts
from trainables.models.encoder import load_tokenizer
from trainables.stages.base import Stage, Workplace
from trainables.stages.vocabulary import TOKENIZER
from trainables.tasks.base import Split, Task

TABLE, EXAMPLES = "features.arrow", "examples.arrow"
EXAMPLES_A_CALL = 1000  # examples that the tokenizer processes in parallel


@dataclass(frozen=True)
class Tokenise(Stage):
    """`tokenizer` is the stage that saved it; `part` is the training set or the sets that an evaluation scores."""

    needs_device: ClassVar[bool] = False

    tokenizer: Stage
    task: Task
    part: Literal["train", "scored"]
    max_length: int

    @property
    def label(self) -> str:
        return f"tokenise-{self.task.name}-{self.part}"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return (self.tokenizer,)

    @property
    def sets(self) -> tuple[tuple[Split, str], ...]:
        """Split and language of each set in the table's order; the table names them `split/language`."""
        return training_sets(self.task) if self.part == "train" else scored_sets(self.task)

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        if not work.leads:
            return {}
        tokenizer = load_tokenizer(work.store.local(self.tokenizer) / TOKENIZER)
        head = HEADS[self.task.head]
        scored = self.part == "scored"
        counts: dict[str, int] = {}
        rejected: dict[str, int] = {}
        reachable: dict[str, Counts] = {}

        def batches(store: Write | None) -> Iterator[tuple[str, Sequence[Feature]]]:
            for split, language in self.sets:
                read = self.task.read(split, language)
                examples, name = read.examples, set_name(split, language)
                counts[name] = len(examples)
                if read.rejected:
                    rejected[name] = len(read.rejected)
                work.progress(self.label, len(counts), len(self.sets), None)
                for first in range(0, len(examples), EXAMPLES_A_CALL):
                    if store is not None:
                        store(name, examples[first : first + EXAMPLES_A_CALL])
                    chunk = head.prefixed(examples[first : first + EXAMPLES_A_CALL], self.tokenizer.prefixes)
                    features = head.features(chunk, task=self.task, tokenizer=tokenizer, max_length=self.max_length)
                    if split == "test":
                        best = head.ceiling(chunk, features, task=self.task, language=language)
                        if best is not None:
                            reachable[language] = reachable.get(language, Counts()) + best
                    yield name, [shifted(feature, first) for feature in features]

        with writing_examples(folder / EXAMPLES) if scored else nullcontext() as store:
            written = write_features(folder / TABLE, batches(store))
        ceiling = {language: _best_scores(self.task, best) for language, best in reachable.items()}
        return {"features": written, "examples": counts, "rejected": rejected} | (
            {"ceiling": ceiling} if ceiling else {}
        )

    def ceiling(self, work: Workplace) -> dict[str, dict[str, float]]:
        """The highest score in percent, and its parts, that the head can reach on the finished stage's tests, by language.

        Empty if nothing but the model bounds them, and for stages of earlier versions.
        """
        finished = work.store.find(self)
        assert finished is not None  # callers have this stage as a parent
        by_language: dict[str, dict[str, float]] = finished.metrics.get("ceiling", {})
        return by_language

    def count(self, work: Workplace) -> int:
        """Examples in all sets of the finished stage."""
        finished = work.store.find(self)
        assert finished is not None  # callers have this stage as a parent
        return sum(finished.metrics["examples"].values())

    def examples(self, work: Workplace, split: Split, language: str) -> Sequence[Example]:
        """The examples of a set of the finished stage, whose part is "scored"; earlier versions did not store them."""
        path = work.store.local(self) / EXAMPLES
        if not path.is_file():
            return self.task.examples(split, language)
        # A pool of a million candidates is too large to keep.
        read = read_examples if language in self.task.pools else read_examples_once
        return read(path, set_name(split, language))

    def table(self, work: Workplace) -> FeatureTable:
        """The finished stage's features."""
        return read_features(work.store.local(self) / TABLE)

    def token_ids(self, work: Workplace) -> np.ndarray:
        """Every token id in the finished stage's features, ascending."""
        return token_ids_in(work.store.local(self) / TABLE)


def _best_scores(task: Task, best: Counts) -> dict[str, float]:
    metric = METRICS[task.metric]
    return {"score": metric.value(best), **metric.parts(best)}


def training_sets(task: Task) -> tuple[tuple[Split, str], ...]:
    """The training sets of a task: English, or a set in each language for unlabelled text and translated tasks."""
    return tuple((split, language) for split, language in task.splits() if split == "train")


def scored_sets(task: Task) -> tuple[tuple[Split, str], ...]:
    """The sets that an evaluation reads: all but the training sets."""
    return tuple((split, language) for split, language in task.splits() if split != "train")


def set_name(split: str, language: str) -> str:
    return f"{split}/{language}"


def shifted(feature: Feature, first: int) -> Feature:
    """The feature with its example's number moved from a call to the whole set, which `first` starts in."""
    return Feature(feature.example + first, feature.rows, feature.target, feature.weight, feature.layout)
