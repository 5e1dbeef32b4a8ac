"""Stage: fine-tune an encoder on an English task, which is an intermediate task or a target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from trainables.evaluation import ExampleSet, score_sets
from trainables.hyperparameters import Training
from trainables.models.encoder import load_tokenizer
from trainables.models.task_model import ENCODER, HEAD, new_task_model, save_task_model
from trainables.stages.base import Root, Stage, Workplace
from trainables.stages.fit import fit
from trainables.stages.tokenise import Tokenise, scored_sets, set_name
from trainables.stages.vocabulary import TOKENIZER
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture, member_tasks
from trainables.training.batching import BatchOrder, FeatureBatches
from trainables.training.early_stopping import DevScore
from trainables.training.trimming import looked_up


@dataclass(frozen=True)
class Tuned(Stage):
    """A stage that trains the encoder of another stage further."""

    base: Root | Tuned
    task: Task | Mixture
    training: Training

    @property
    def trains(self) -> str:
        """What is trained, for people and for names of folders."""
        return f"{self.task.role}-{self.task.name}"

    @property
    def label(self) -> str:
        return f"{self.trains}-{root_of(self).short}"

    @property
    def memory_key(self) -> str:
        return f"{self.label}-{self.training.max_length}-{self.training.precision}"

    @property
    def parts(self) -> tuple[tuple[Task, int], ...]:
        """Every task that it trains, with the most tokens of a row."""
        return tuple((task, self.training.max_length) for task in member_tasks(self.task))

    @property
    def head_of(self) -> Task | None:
        """The task whose head is saved with the encoder, which an evaluation then scores; None if there is no head."""
        return None


@dataclass(frozen=True)
class FineTune(Tuned):
    """With `keeps_head`, the base was trained with the same kind of head, whose training continues.

    `development` is the task whose dev set early stopping watches. It is None without early stopping, as the dev set is only
    then part of the model's identity.
    """

    base: Root | Tuned
    task: Task
    training: Training
    keeps_head: bool = False
    development: Task | None = None

    def __post_init__(self) -> None:
        if self.task.mixed_only:
            raise ValueError(f"{self.task.name} has no labels: train it as one of the tasks of a mixture")
        if (self.development is None) != (self.training.early_stopping is None):
            raise ValueError(
                f"{self.task.name}: early stopping and a development task go together; give both or neither"
            )
        if self.development is not None and ("dev", "en") not in scored_sets(self.development):
            raise ValueError(
                f"{self.task.name}: early stopping needs an English dev set, and {self.development.name} has none"
            )

    @property
    def head_of(self) -> Task | None:
        return self.task

    @property
    def parents(self) -> tuple[Stage, ...]:
        scored = self.scored
        return (self.base, self.features) if scored is None else (self.base, self.features, scored)

    @property
    def scored(self) -> Tokenise | None:
        """The table with the dev set, which the evaluation also reads."""
        if self.development is None:
            return None
        return Tokenise(root_of(self).tokenizer, self.development, "scored", self.training.max_length)

    @property
    def features(self) -> Tokenise:
        return Tokenise(root_of(self).tokenizer, self.task, "train", self.training.max_length)

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        base = work.store.local(self.base)
        tokenizer = load_tokenizer(tokenizer_of(self, work))
        features = self.features.table(work)
        order = BatchOrder(features.lengths, self.training.batch_size, self.training.seed, task=self.task.name)
        batches = FeatureBatches(features, self.task, tokenizer.pad_token_id, order)
        model = new_task_model(base, self.task, self.training.seed, device=work.device, on_meta=work.partitions)
        if self.keeps_head:
            model.head.load_state_dict(load_file(base / HEAD))
        tables, dev_score = [features], None
        if self.scored is not None and self.development is not None:
            dev_table = self.scored.table(work).of(set_name("dev", "en"))
            tables.append(dev_table)
            dev = ExampleSet("dev", "en", self.scored.examples(work, "dev", "en"), dev_table)
            dev_score = _dev_score(self.development, dev, tokenizer.pad_token_id, work)
        lookups = looked_up(model.encoder.get_input_embeddings(), tables, tokenizer.pad_token_id)
        state, metrics = fit(
            *(model, batches, self.training, work, self), lookups=lookups, dev_score=dev_score, weights=base / ENCODER
        )
        if work.leads:
            save_task_model(model, state, folder)
        return {**metrics, "examples": len(features)}


def _dev_score(task: Task, dev: ExampleSet, pad_id: int, work: Workplace) -> DevScore:
    """Scores an engine on the English dev set, in fp32 like every evaluation.

    Under ZeRO 3 a forward pass gathers weights from all workers, so each of them scores the whole set in lockstep.
    """

    def measure(engine: Any) -> float:
        (score,) = score_sets(
            *(engine.module.logits, task, [dev], pad_id),
            share=work.share,
            device=work.device,
            lockstep=work.partitions,
        )
        return score.value

    return measure


def root_of(stage: Root | Tuned) -> Root:
    """The encoder that a chain of fine-tunings started from."""
    while isinstance(stage, Tuned):
        stage = stage.base
    return stage


def tokenizer_of(stage: Root | Tuned, work: Workplace) -> Path:
    """The folder of the tokenizer a model was trained with."""
    return work.store.local(root_of(stage)) / TOKENIZER
