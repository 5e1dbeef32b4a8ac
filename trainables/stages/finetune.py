"""Stage: fine-tune an encoder on an English task. Intermediate and target training are the same thing on other tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.batching import BatchOrder, FeatureBatches
from trainables.encoder import load_tokenizer
from trainables.features import features_of
from trainables.kinds import KINDS
from trainables.model import new_task_model, save_task_model
from trainables.stages.base import Stage, Workplace
from trainables.stages.fit import fit
from trainables.stages.pretrain import Pretrain
from trainables.stages.vocabulary import TOKENIZER
from trainables.tasks.base import Task
from trainables.training import Training


@dataclass(frozen=True)
class FineTune(Stage):
    base: Pretrain | FineTune
    task: Task
    training: Training

    @property
    def label(self) -> str:
        return f"{self.task.role}-{self.task.name}-{root_of(self).shape.layers}x{root_of(self).shape.width}"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return (self.base,)

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        base = work.store.folder(self.base)
        tokenizer_folder = tokenizer_of(self, work)
        tokenizer = load_tokenizer(tokenizer_folder)
        _, features = features_of(self.task, "train", "en", tokenizer_folder, self.training.max_length)
        order = BatchOrder(tuple(feature.length for feature in features), self.training.batch_size, self.training.seed)
        batches = FeatureBatches(features, KINDS[self.task.kind], tokenizer.pad_token_id, order)
        model = new_task_model(base, self.task, self.training.seed)
        state, losses = fit(model, batches, self.training, work, self.label)
        if work.leads:
            save_task_model(model, state, folder)
        return {**losses, "examples": len(features)}


def root_of(stage: Pretrain | FineTune) -> Pretrain:
    """The encoder a chain of fine-tunings started from."""
    while isinstance(stage, FineTune):
        stage = stage.base
    return stage


def tokenizer_of(stage: Pretrain | FineTune, work: Workplace) -> Path:
    """The folder of the tokenizer a model was trained with."""
    return work.store.folder(root_of(stage)) / TOKENIZER
