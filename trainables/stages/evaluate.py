"""Stage: score a model on a task's English dev set and on the test sets of all languages, zero-shot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from trainables.evaluation import ExampleSet, Forward, Score, score
from trainables.heads import HEADS
from trainables.models.encoder import load_tokenizer
from trainables.models.task_model import load_task_model
from trainables.stages.base import Root, Stage, Workplace
from trainables.stages.finetune import FineTune, Tuned, root_of, tokenizer_of
from trainables.stages.tokenise import Tokenise, set_name
from trainables.tasks.base import Task


@dataclass(frozen=True)
class Evaluate(Stage):
    """`model` is the target's fine-tuning, or for tasks without training the encoder itself. Scored in fp32."""

    model: Root | Tuned
    task: Task
    max_length: int = 128

    def __post_init__(self) -> None:
        if self.task.mixed_only:
            raise ValueError(f"{self.task.name} has no labels: it is trained and never scored")
        tuned_here = isinstance(self.model, FineTune) and self.model.task == self.task.for_training()
        if self.task.trained != tuned_here:
            raise ValueError(
                f"{self.task.name} is scored on {'a model' if self.task.trained else 'no model'} tuned on it"
            )

    @property
    def label(self) -> str:
        return f"evaluate-{self.task.name}-{root_of(self.model).short}"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return (self.model, self.features)

    @property
    def features(self) -> Tokenise:
        return Tokenise(root_of(self.model).tokenizer, self.task, "scored", self.max_length)

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        model = load_task_model(work.store.folder(self.model), self.task).to(work.device)
        work.progress(self.label, 0, 1, 0.0)
        scores = self.scores(model.logits, work)
        work.progress(self.label, 1, 1, 0.0)
        if work.leads:
            _per_example(scores).to_parquet(folder / "examples.parquet", index=False)
        return summary(self.task, scores)

    def scores(self, forward: Forward, work: Workplace) -> list[Score]:
        """Scores of any way to run the model, of every set that has something to score."""
        pad_id = load_tokenizer(tokenizer_of(self.model, work)).pad_token_id
        return score(forward, self.task, self.sets(work), pad_id, share=work.share, device=work.device)

    def sets(self, work: Workplace) -> list[ExampleSet]:
        """What is scored: examples with their features."""
        table = self.features.table(work)
        return [
            ExampleSet(split, language, self.task.examples(split, language), table.of(set_name(split, language)))
            for split, language in self.features.sets
        ]


def summary(task: Task, scores: Sequence[Score]) -> dict[str, Any]:
    """Scores in percent: English dev, test by language, their plain mean with and without English, chance, sample sizes.

    `parts` holds the named components of the test scores (F1 and EM, precision and recall), where there are any.
    """
    dev = [one.value for one in scores if one.split == "dev" and one.language == "en"]
    test = [one for one in scores if one.split == "test"]
    others = [one.value for one in test if one.language != "en"]
    return {
        "task": task.name,
        "metric": task.metric,
        "chance": task.chance(),
        "protocol": HEADS[task.head].protocol(task),
        "dev": dev[0] if dev else None,
        "test": {one.language: one.value for one in test},
        "parts": {one.language: one.parts for one in test if one.parts},
        "test_mean": sum(one.value for one in test) / len(test),
        "test_mean_without_english": sum(others) / len(others) if others else None,
        "examples": {one.language: one.examples for one in test},
    }


def _per_example(scores: Sequence[Score]) -> pd.DataFrame:
    """One row an example with the sums its metric adds up: what a bootstrap over examples needs."""
    return pd.DataFrame(
        [
            {"split": one.split, "language": one.language, "example": index, **counts.sums}
            for one in scores
            for index, counts in enumerate(one.per_example)
        ]
    )
