"""An encoder with a head: the model that stages train, evaluations score and the benchmark times."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.heads import HEADS, HeadModule
from trainables.models.encoder import CPU, encoder_on_meta, hidden_states, load_encoder, pooling_of
from trainables.tasks.base import Task

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ENCODER, HEAD = "encoder", "head.safetensors"
# safetensors holds the interpreter's lock while it writes a file. In one file, XLM-R XXL's 43 GB would stop every thread for a
# minute, those that answer Ray's health checks among them; transformers' own limit is 50 GB.
MAX_FILE_BYTES = 4 * 10**9


class TaskModel(nn.Module):
    """`forward` returns the loss summed over the batch's supervised decisions; `logits` what the task's head decodes."""

    def __init__(self, encoder: PreTrainedModel, head: HeadModule) -> None:
        super().__init__()
        self.encoder, self.head = encoder, head

    def logits(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden_NLD = hidden_states(self.encoder, input_ids, attention_mask, layer=self.head.layer)
        logits: Tensor = self.head(hidden_NLD, attention_mask)
        return logits

    def forward(self, input_ids: Tensor, attention_mask: Tensor, **others: Any) -> Tensor:
        """`others` are the targets that the head reads, and the segments of a packed batch (`packing.pack`)."""
        hidden_NLD = hidden_states(self.encoder, input_ids, attention_mask, others, layer=self.head.layer)
        return self.head.training_loss(hidden_NLD, attention_mask, others)


def new_task_model(
    encoder_folder: Path, task: Task, seed: int, *, device: torch.device = CPU, on_meta: bool = False
) -> TaskModel:
    """A stage's encoder with a new head, for use on the device; with `on_meta`, the encoder's weights are not read yet."""
    encoder = (encoder_on_meta if on_meta else load_encoder)(encoder_folder / ENCODER, device=device)
    return TaskModel(encoder, new_head(encoder, task, seed))


def new_head(encoder: PreTrainedModel, task: Task, seed: int) -> HeadModule:
    """The task's head for the encoder, with weights that depend only on the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = HEADS[task.head].module(encoder.config.hidden_size, task, pooling_of(encoder))
    head.tie(encoder.get_input_embeddings())
    return head


def load_task_model(folder: Path, task: Task, *, device: torch.device = CPU) -> TaskModel:
    """A model saved by `save_task_model`, on the CPU, for use on the device.

    For a task without training it is the encoder with a parameter-free head.
    """
    model = new_task_model(folder, task, seed=0, device=device)
    if task.trained:
        model.head.load_state_dict(load_file(folder / HEAD))
    return model.eval()


def save_task_model(model: TaskModel, state: dict[str, Tensor], folder: Path) -> None:
    """Write the weights as safetensors, the encoder's in the form that `AutoModel.from_pretrained` reads."""
    save_encoder(model.encoder, {name: value for name, value in state.items() if name.startswith("encoder.")}, folder)
    head = {name.removeprefix("head."): value for name, value in state.items() if name.startswith("head.")}
    save_file(head, folder / HEAD)


def save_encoder(encoder: PreTrainedModel, state: dict[str, Tensor], folder: Path) -> None:
    """Write an encoder; names in `state` start with `encoder.`."""
    weights = {name.removeprefix("encoder."): value for name, value in state.items()}
    save_encoder_files(encoder, folder / ENCODER, state_dict=weights)


def save_encoder_files(encoder: PreTrainedModel, folder: Path, *, state_dict: dict[str, Tensor] | None = None) -> None:
    """Write an encoder with its own weights or these, as one safetensors file or, if it is large, several with an index."""
    encoder.save_pretrained(folder, state_dict=state_dict, max_shard_size=MAX_FILE_BYTES)
