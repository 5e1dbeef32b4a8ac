"""Stage: fine-tune an encoder on an English task. Intermediate and target training are the same thing on other tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from trainables.batching import BatchOrder, FeatureBatches
from trainables.encoder import load_tokenizer
from trainables.model import HEAD, new_task_model, save_task_model
from trainables.stages.base import Stage, Workplace
from trainables.stages.fit import fit
from trainables.stages.pretrain import Pretrain
from trainables.stages.tokenise import Tokenise
from trainables.stages.vocabulary import TOKENIZER
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture
from trainables.training import Training


@dataclass(frozen=True)
class Tuned(Stage):
    """A stage that goes on training the encoder of another."""

    base: Pretrain | Tuned
    task: Task | Mixture
    training: Training

    @property
    def label(self) -> str:
        return f"{self.task.role}-{self.task.name}-{root_of(self).shape.layers}x{root_of(self).shape.width}"


@dataclass(frozen=True)
class FineTune(Tuned):
    """`keeps_head`: the base was trained on a task of the same head, which goes on being trained."""

    base: Pretrain | Tuned
    task: Task
    training: Training
    keeps_head: bool = False

    @property
    def parents(self) -> tuple[Stage, ...]:
        return (self.base, self.features)

    @property
    def features(self) -> Tokenise:
        return Tokenise(root_of(self).vocabulary, self.task, "train", self.training.max_length)

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        base = work.store.folder(self.base)
        tokenizer = load_tokenizer(tokenizer_of(self, work))
        features = self.features.table(work)
        order = BatchOrder(features.lengths, self.training.batch_size, self.training.seed)
        batches = FeatureBatches(features, self.task, tokenizer.pad_token_id, order)
        model = new_task_model(base, self.task, self.training.seed)
        if self.keeps_head:
            model.head.load_state_dict(load_file(base / HEAD))
        state, losses = fit(model, batches, self.training, work, self.label)
        if work.leads:
            save_task_model(model, state, folder)
        return {**losses, "examples": len(features)}


def root_of(stage: Pretrain | Tuned) -> Pretrain:
    """The encoder a chain of fine-tunings started from."""
    while isinstance(stage, Tuned):
        stage = stage.base
    return stage


def tokenizer_of(stage: Pretrain | Tuned, work: Workplace) -> Path:
    """The folder of the tokenizer a model was trained with."""
    return work.store.folder(root_of(stage)) / TOKENIZER
