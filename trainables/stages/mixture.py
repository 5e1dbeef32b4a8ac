"""Stages that fine-tune an encoder on several tasks at once, with one task's batch per step; and the mixture's stage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from trainables.heads import HEADS, HeadModule
from trainables.heads.features import FeatureTable
from trainables.heads.masking import Masking
from trainables.hyperparameters import Training
from trainables.models.encoder import encoder_on_meta, hidden_states, load_encoder, load_tokenizer
from trainables.models.task_model import ENCODER, new_head, save_encoder
from trainables.stages.base import Root, Stage, Workplace
from trainables.stages.finetune import Tuned, root_of, tokenizer_of
from trainables.stages.fit import fit
from trainables.stages.tokenise import Tokenise
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture, Schedule
from trainables.training.batching import BatchOrder, FeatureBatches, Inputs, Share
from trainables.training.trimming import looked_up

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class TrainedTogether(Tuned):
    """A stage that trains several tasks (`parts`) on one encoder, each with a head of its own."""

    @property
    def parents(self) -> tuple[Stage, ...]:
        return (self.base, *self.features)

    @property
    def features(self) -> tuple[Tokenise, ...]:
        """The training set of each part."""
        tokenizer = root_of(self).tokenizer
        return tuple(Tokenise(tokenizer, task, "train", length) for task, length in self.parts)

    @abstractmethod
    def schedule(self, sizes: tuple[int, ...]) -> Schedule:
        """For each step, the part that it trains and the number of earlier steps of that part.

        Args:
            sizes: training examples of each part.
        """

    def heads(self, encoder: PreTrainedModel, base: Path) -> list[HeadModule]:
        """A new head for each part; `base` is the folder of the stage that the training starts from."""
        return [new_head(encoder, task, self.training.seed) for task, _ in self.parts]

    def save(self, encoder: PreTrainedModel, state: dict[str, Tensor], folder: Path) -> None:
        """Write what later stages read of the trained `MixtureModel`: here the encoder alone."""
        save_encoder(encoder, {name: value for name, value in state.items() if name.startswith("encoder.")}, folder)

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        training, tokenizer = self.training, load_tokenizer(tokenizer_of(self, work))
        tables = [stage.table(work) for stage in self.features]
        counts = tuple(stage.count(work) for stage in self.features)
        schedule = self.schedule(counts)
        tasks = [task for task, _ in self.parts]
        parts = [_batches(task, table, tokenizer, training) for task, table in zip(tasks, tables, strict=True)]
        base = work.store.local(self.base)
        encoder = (encoder_on_meta if work.partitions else load_encoder)(base / ENCODER, device=work.device)
        model, batches = MixtureModel(encoder, self.heads(encoder, base)), MixtureBatches(parts, schedule)
        # Masking also looks up the mask and random tokens; scores over the vocabulary keep the whole table (`obstacle`).
        lookups = looked_up(encoder.get_input_embeddings(), tables, tokenizer.pad_token_id)
        state, losses = fit(model, batches, training, work, self, lookups=lookups, weights=base / ENCODER)
        if work.leads:
            self.save(encoder, state, folder)
        steps = {task.name: sum(chosen == number for chosen, _ in schedule) for number, task in enumerate(tasks)}
        return {**losses, "steps": steps, "examples": counts}


@dataclass(frozen=True)
class FineTuneMixture(TrainedTogether):
    """Saves the encoder without the heads, which no target uses."""

    base: Root | Tuned
    task: Mixture
    training: Training

    def schedule(self, sizes: tuple[int, ...]) -> Schedule:
        return self.task.schedule(sizes, self.training.steps, self.training.seed)


def _batches(task: Task, table: FeatureTable, tokenizer: PreTrainedTokenizerFast, training: Training) -> FeatureBatches:
    masking = Masking.of(tokenizer) if HEADS[task.head].masks else None
    order = BatchOrder(table.lengths, training.batch_size, training.seed, task=task.name)
    return FeatureBatches(table, task, tokenizer.pad_token_id, order, masking=masking)


class MixtureModel(nn.Module):
    """`forward` returns the loss of the task with the number `part`, summed over the batch's supervised decisions."""

    def __init__(self, encoder: PreTrainedModel, heads: Sequence[HeadModule]) -> None:
        super().__init__()
        self.encoder, self.heads = encoder, nn.ModuleList(heads)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        part: int,
        **others: Any,
    ) -> Tensor:
        hidden_NLD = hidden_states(self.encoder, input_ids, attention_mask, others)
        loss = torch.zeros((), device=hidden_NLD.device)
        for number, module in enumerate(self.heads):
            head = cast(HeadModule, module)
            if number == part:
                loss = loss + head.training_loss(hidden_NLD, attention_mask, others)
            else:  # ZeRO needs a gradient for every parameter
                loss = loss + 0.0 * head.idle(hidden_NLD, attention_mask)
        return loss


class MixtureBatches:
    """Batches of several tasks, one task a step; the schedule holds each step's task and that task's own step.

    A step has as many micro-batches as the rows of its own task need: fewer than the engine's, where another task's entries
    have more rows. At most one task has groups (`Mixture` has none with any).
    """

    def __init__(self, parts: Sequence[FeatureBatches], schedule: Sequence[tuple[int, int]]) -> None:
        self._parts, self._schedule = parts, schedule

    @property
    def group(self) -> int:
        return max(part.group for part in self._parts)

    @property
    def rows(self) -> int:
        return max(part.rows for part in self._parts)

    def micro_batch_rows(self, batch_size: int, share: Share) -> int:
        return max(part.micro_batch_rows(batch_size, share) for part in self._parts)

    def micro_batches(self, step: int, share: Share) -> list[Inputs]:
        task, task_step = self._schedule[step]
        micro_batches = self._parts[task].micro_batches(task_step, share)
        return [{**inputs, "part": task} for inputs in micro_batches]

    def weight(self, step: int) -> float:
        task, task_step = self._schedule[step]
        return self._parts[task].weight(task_step)
