"""Stage: score a model on a task's English dev set and, zero-shot, on the test sets of all languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.evaluation import ExampleSet, Forward, Score, predict, predict_alone, score_outputs
from trainables.heads import HEADS, Outputs
from trainables.heads.base import NO_PREFIXES, Prefixes
from trainables.models.encoder import load_tokenizer
from trainables.models.task_model import load_task_model
from trainables.stages.base import Root, Stage, Workplace
from trainables.stages.finetune import Tuned, root_of, tokenizer_of
from trainables.stages.tokenise import Tokenise, set_name
from trainables.store.answers import write_answers
from trainables.store.examples import EXAMPLES, example_scores, write_example_scores
from trainables.tasks.base import Task
from trainables.unlabelled import unlabelled_signals


@dataclass(frozen=True)
class Evaluate(Stage):
    """`model` is a stage that trained the target, or the encoder itself for tasks without training. Scored in fp32.

    The metrics are those of `summary`, `ceiling`, and under `unlabelled` what the answers say without labels; stages of earlier
    versions lack the last.
    """

    model: Root | Tuned
    task: Task
    max_length: int = 128

    def __post_init__(self) -> None:
        if self.task.mixed_only:
            raise ValueError(f"{self.task.name} has no labels and cannot be scored: use it in training only")
        tuned_here = isinstance(self.model, Tuned) and self.model.head_of == self.task.for_training()
        if self.task.trained != tuned_here:
            needed = "a model fine-tuned on it" if self.task.trained else "an encoder, without fine-tuning on it"
            raise ValueError(f"{self.task.name} is scored with {needed}")

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
        model = load_task_model(work.store.local(self.model), self.task, device=work.device).to(work.device)
        outputs = self.outputs(model.logits, work)
        scores = score_outputs(outputs, self.task)
        if work.leads:
            write_example_scores(example_scores(scores), folder / EXAMPLES)
            write_answers(scores, self.task.metric, folder)
        ceiling = work.from_leader(lambda: self.features.ceiling(work))
        scored = summary(self.task, scores, root_of(self.model).tokenizer.prefixes)
        scored["unlabelled"] = unlabelled_signals(outputs, self.task)
        return scored | ({"ceiling": ceiling} if ceiling else {})

    def scores(self, forward: Forward, work: Workplace) -> list[Score]:
        """Scores of any forward function for the model, for every set with something to score."""
        return score_outputs(self.outputs(forward, work), self.task)

    def outputs(self, forward: Forward, work: Workplace, *, alone: bool = False) -> list[Outputs[Any]]:
        """What any forward function for the model gives for every set; `alone`, for each query served alone."""
        pad_id = load_tokenizer(tokenizer_of(self.model, work)).pad_token_id
        sets = self.sets(work)
        examples = sum(len(scored.examples) for scored in sets)

        def observe(done: int, total: int) -> None:
            work.progress(self.label, examples * done // total, examples, None)

        if alone:
            return predict_alone(forward, sets, pad_id, device=work.device, observe=observe)
        return predict(forward, sets, pad_id, share=work.share, device=work.device, observe=observe)

    def sets(self, work: Workplace) -> list[ExampleSet]:
        """The sets to score: examples with their features."""
        table = self.features.table(work)
        return [
            ExampleSet(
                split, language, self.features.examples(work, split, language), table.of(set_name(split, language))
            )
            for split, language in self.features.sets
        ]


def summary(task: Task, scores: Sequence[Score], prefixes: Prefixes = NO_PREFIXES) -> dict[str, Any]:
    """Scores in percent: English dev, test by language, their plain mean with and without English, chance, sample sizes.

    `parts` holds the named components of test scores (F1 and EM, precision and recall) where the metric has any. `constant`
    lists the languages of the test in which the model gives every example one answer.
    """
    dev = [score.value for score in scores if score.split == "dev" and score.language == "en"]
    test = [score for score in scores if score.split == "test"]
    others = [score.value for score in test if score.language != "en"]
    return {
        "task": task.name,
        "metric": task.metric,
        "chance": task.chance(),
        "protocol": HEADS[task.head].protocol(task, prefixes),
        "dev": dev[0] if dev else None,
        "test": {score.language: score.value for score in test},
        "parts": {score.language: score.parts for score in test if score.parts},
        "test_mean": sum(score.value for score in test) / len(test),
        "test_mean_without_english": sum(others) / len(others) if others else None,
        "examples": {score.language: score.examples for score in test},
        "constant": [score.language for score in test if score.constant],
    }
