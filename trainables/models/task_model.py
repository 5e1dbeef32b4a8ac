"""An encoder with a head: what a stage trains, an evaluation scores and the benchmark times."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.heads import HEADS, HeadModule
from trainables.models.encoder import load_encoder, outline_encoder, pooling_of
from trainables.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENCODER, HEAD = "encoder", "head.safetensors"


class TaskModel(nn.Module):
    """`forward` returns the loss summed over the batch's supervised decisions; `logits` what the task's head decodes."""

    def __init__(self, encoder: PreTrainedModel, head: HeadModule) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        layer = self.head.layer
        output = self.encoder(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=layer is not None
        )
        hidden_NLD = output.last_hidden_state if layer is None else output.hidden_states[layer]
        logits: Tensor = self.head(hidden_NLD, attention_mask)
        return logits

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **targets: Tensor) -> Tensor:
        return self.head.loss(self.logits(input_ids, attention_mask), targets)


def new_task_model(encoder_folder: Path, task: Task, seed: int, *, outlined: bool = False) -> TaskModel:
    """A trained encoder with a head whose weights depend on the seed alone; outlined, the encoder's are still to be read."""
    encoder = (outline_encoder if outlined else load_encoder)(encoder_folder / ENCODER)
    return TaskModel(encoder, new_head(encoder, task, seed))


def new_head(encoder: PreTrainedModel, task: Task, seed: int) -> HeadModule:
    """The task's head over the encoder, with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = HEADS[task.head].module(encoder.config.hidden_size, task, pooling_of(encoder))
    head.tie(encoder.get_input_embeddings())
    return head


def load_task_model(folder: Path, task: Task) -> TaskModel:
    """A model saved by `save_task_model`; for a task without training, the encoder with its parameter-free head."""
    model = new_task_model(folder, task, seed=0)
    if task.trained:
        model.head.load_state_dict(load_file(folder / HEAD))
    return model.eval()


def save_task_model(model: TaskModel, state: dict[str, Tensor], folder: Path) -> None:
    """Weights as safetensors, the encoder in the form that `AutoModel.from_pretrained` reads."""
    save_encoder(model.encoder, {name: value for name, value in state.items() if name.startswith("encoder.")}, folder)
    head = {name.removeprefix("head."): value for name, value in state.items() if name.startswith("head.")}
    save_file(head, folder / HEAD)


def save_encoder(encoder: PreTrainedModel, state: dict[str, Tensor], folder: Path) -> None:
    """The encoder's part of a full state whose names start with `encoder.`."""
    weights = {name.removeprefix("encoder."): value for name, value in state.items()}
    encoder.save_pretrained(folder / ENCODER, state_dict=weights)
