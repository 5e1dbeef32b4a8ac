"""CUDA graphs of single rows, one per bucket of lengths, all recorded before anything is timed.

A single row takes hundreds of kernels of a few microseconds each, and launching them from Python takes longer than running
them. A graph launches them at once. Its inputs and outputs have fixed addresses, so a row is copied into the inputs, padded to
the length of its bucket.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from trainables.benchmark.variants.base import Variant, VariantUnavailable, copy_to
from trainables.benchmark.variants.eager import no_bf16
from trainables.evaluation import Forward
from trainables.models.families import FAMILIES
from trainables.models.task_model import TaskModel

BUCKET = 16  # tokens: a row is padded by 8 on average
LONGEST = 512  # tokens: 32 graphs
WARM_UP_CALLS = 3  # before each recording: nothing may compile, or allocate a workspace, while it goes on


class GraphedBf16(Variant):
    """Eager PyTorch in bf16, whose single rows replay CUDA graphs; batches run as those of `bf16`.

    It starts in seconds and needs no compiler. `compiled_bf16` replays graphs as well, of fewer kernels, which inductor has
    fused; compiling them takes a minute or more.
    """

    name = "graphed_bf16"
    dtype = torch.bfloat16

    def unavailable(self, device: torch.device) -> str | None:
        return no_bf16(device) if device.type == "cuda" else "CUDA graphs need a GPU"

    def shares_weights(self, model: TaskModel, device: torch.device) -> bool:
        return False

    def weights(self, model: TaskModel, device: torch.device) -> TaskModel:
        return merged_copy(model, device, self.dtype)

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        if model.encoder.config.model_type == "deberta-v2":
            raise VariantUnavailable(
                self.name, "each pass of mDeBERTa copies a constant from the host, which no graph can record"
            )
        return graphed(self.weights(model, device).logits, model, device)


def merged_copy(model: TaskModel, device: torch.device, dtype: torch.dtype) -> TaskModel:
    """A copy in which queries, keys and values are one matrix product: for a single row, three are three small kernels."""
    from trainables.models.projections import merge_in_serving  # imports transformers' modelling code

    served = copy_to(model, device, dtype)
    merge_in_serving(served.encoder)
    return served


def graphed(forward: Forward, model: TaskModel, device: torch.device) -> GraphedRows:
    """The model's forward pass on the device, with a graph for every bucket of lengths that the model has positions for."""
    config = model.encoder.config
    return GraphedRows(forward, graph_lengths(config), pad_id=config.pad_token_id or 0, device=device)


def graph_lengths(config: PreTrainedConfig) -> tuple[int, ...]:
    """The lengths of all graphs, ascending: multiples of `BUCKET` up to `LONGEST` and the encoder's number of positions."""
    positions = getattr(config, "max_position_embeddings", None) or LONGEST
    if FAMILIES[config.model_type].positions_after_padding:
        positions -= int(config.pad_token_id) + 1
    return tuple(range(BUCKET, min(LONGEST, positions) + 1, BUCKET))


def graph_length(length: int) -> int:
    """The length to which a row is padded for its graph."""
    return -(-length // BUCKET) * BUCKET


@dataclass
class GraphUse:
    """How many calls replayed a graph (`hits`), were a single row without one (`misses`), or had several rows (`batches`)."""

    recorded: int = 0
    hits: int = 0
    misses: int = 0
    batches: int = 0


@dataclass(frozen=True)
class _Graph:
    """A recorded graph, with the tensors of shape (1, length) that it reads and the one that it writes."""

    recorded: Any
    ids: Tensor
    mask: Tensor
    output: Tensor


class GraphedRows:
    """Serves single rows by replaying a graph of their bucket. Longer rows and batches run `forward` itself.

    All graphs are recorded here, the longest first, so that the others fit into its memory. They share it: a graph overwrites
    the intermediate values of the one before, and its own output is copied before the next call. One thread may call it at a
    time.
    """

    def __init__(self, forward: Forward, lengths: tuple[int, ...], *, pad_id: int, device: torch.device) -> None:
        self.forward, self.use = forward, GraphUse()
        self._pad_id, self._device = pad_id, device
        self._graphs: dict[int, _Graph] = {}
        stream, pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
        with torch.inference_mode():  # as in serving, or torch.compile would compile again for it
            for length in sorted(lengths, reverse=True):
                self._graphs[length] = self._record(length, stream, pool)
        torch.cuda.current_stream(device).wait_stream(stream)
        self.use.recorded = len(self._graphs)

    def __call__(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        rows, length = ids_NL.shape
        if rows != 1:
            self.use.batches += 1
            return self.forward(ids_NL, mask_NL)
        bucket = graph_length(length)
        if bucket not in self._graphs:
            self.use.misses += 1
            return self.forward(ids_NL, mask_NL)
        self.use.hits += 1
        graph = self._graphs[bucket]
        graph.ids[:, length:] = self._pad_id
        graph.mask[:, length:] = 0
        graph.ids[:, :length] = ids_NL
        graph.mask[:, :length] = mask_NL
        graph.recorded.replay()
        return graph.output[:, :length].clone() if graph.output.ndim == 3 else graph.output.clone()

    def _record(self, length: int, stream: Any, pool: Any) -> _Graph:
        """Record after a few calls on the same side stream, as PyTorch's notes on CUDA graphs advise.

        The last token is masked: without any padding transformers leaves out the mask, but never while a graph is recorded, so
        the calls before would run other kernels than those that are recorded.
        """
        with torch.inference_mode(False):  # evaluations, which are in no such mode, write into them too
            # Not slices of one buffer: torch.compile would compile again for their strides.
            ids_1L = torch.full((1, length), self._pad_id, dtype=torch.long, device=self._device)
            mask_1L = torch.ones_like(ids_1L)
        mask_1L[:, -1] = 0
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP_CALLS):
                self.forward(ids_1L, mask_1L)
        recorded = torch.cuda.CUDAGraph()
        with torch.cuda.graph(recorded, pool=pool, stream=stream, capture_error_mode="thread_local"):
            output = self.forward(ids_1L, mask_1L)
        return _Graph(recorded, ids_1L, mask_1L, output)
