"""Stage: score a model on a task's English dev set and on the test sets of all languages, zero-shot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from trainables.encoder import load_tokenizer
from trainables.evaluation import ExampleSet, Forward, Score, score
from trainables.features import features_of
from trainables.model import load_task_model
from trainables.stages.base import Stage, Workplace
from trainables.stages.finetune import FineTune, root_of, tokenizer_of
from trainables.stages.pretrain import Pretrain
from trainables.tasks.base import Task


@dataclass(frozen=True)
class Evaluate(Stage):
    """`model` is the target's fine-tuning, or for tasks without training the encoder itself. Scored in fp32."""

    model: Pretrain | FineTune
    task: Task
    max_length: int = 128

    def __post_init__(self) -> None:
        tuned_here = isinstance(self.model, FineTune) and self.model.task == self.task
        if self.task.trained != tuned_here:
            raise ValueError(
                f"{self.task.name} is scored on {'a model' if self.task.trained else 'no model'} tuned on it"
            )

    @property
    def label(self) -> str:
        shape = root_of(self.model).shape
        return f"evaluate-{self.task.name}-{shape.layers}x{shape.width}"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return (self.model,)

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        model = load_task_model(work.store.folder(self.model), self.task).to(work.device)
        work.progress(self.label, 0, 1, 0.0)
        dev, test = self.scores(model.logits, work)
        if work.leads:
            _per_example([*dev, *test], len(dev)).to_parquet(folder / "examples.parquet", index=False)
        return summary(self.task, dev, test)

    def scores(self, forward: Forward, work: Workplace) -> tuple[list[Score], list[Score]]:
        """English dev (none for tasks without training) and test scores of any way to run the model."""
        tokenizer_folder = tokenizer_of(self.model, work)
        pad_id = load_tokenizer(tokenizer_folder).pad_token_id
        dev = [self._set("dev", "en", tokenizer_folder)] if self.task.trained else []
        test = [self._set("test", language, tokenizer_folder) for language in self.task.languages]
        scored = score(forward, self.task, [*dev, *test], pad_id, share=work.share, device=work.device)
        return scored[: len(dev)], scored[len(dev) :]

    def _set(self, split: Any, language: str, tokenizer_folder: Path) -> ExampleSet:
        examples, features = features_of(self.task, split, language, tokenizer_folder, self.max_length)
        return ExampleSet(language, examples, features)


def summary(task: Task, dev: Sequence[Score], test: Sequence[Score]) -> dict[str, Any]:
    """Scores in percent: dev, test by language, their plain mean with and without English, chance, sample sizes."""
    others = [one.value for one in test if one.language != "en"]
    return {
        "task": task.name,
        "metric": task.metric,
        "chance": task.chance(),
        "dev": dev[0].value if dev else None,
        "test": {one.language: one.value for one in test},
        "test_mean": sum(one.value for one in test) / len(test),
        "test_mean_without_english": sum(others) / len(others),
        "examples": {one.language: one.examples for one in test},
    }


def _per_example(scores: Sequence[Score], dev_sets: int) -> pd.DataFrame:
    """One row an example with the sums its metric adds up: what a bootstrap over examples needs."""
    return pd.DataFrame(
        [
            {"split": "dev" if number < dev_sets else "test", "language": one.language, "example": index, **counts.sums}
            for number, one in enumerate(scores)
            for index, counts in enumerate(one.per_example)
        ]
    )
