"""The model through torch.compile: inductor's kernels, and on a GPU recorded CUDA graphs for single rows."""

from __future__ import annotations

import importlib.util
import os
import shutil
from typing import Any

import torch
from torch import Tensor

from trainables.benchmark.variants.base import Variant
from trainables.benchmark.variants.eager import no_bf16
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel

GRAPH_STEP = 16  # a graph per multiple: 8 graphs for rows of up to 128 tokens, padded by 8 on average


class Compiled(Variant):
    """Fp32 through inductor with dynamic shapes. The first query compiles, which counts as cold start.

    On a CPU weights are frozen: constants of the graph in the layout of its kernels, a second copy of them. On a GPU a single
    row replays a CUDA graph of its length. A batch of one and larger batches are compiled separately (torch always specialises
    sizes 0 and 1).
    """

    name = "compiled"

    def unavailable(self, device: torch.device) -> str | None:
        if device.type == "cuda":
            return None if importlib.util.find_spec("triton") else "torch.compile needs triton on a GPU"
        compilers = (os.environ.get("CXX"), "g++", "clang++")
        available = any(shutil.which(compiler) for compiler in compilers if compiler)
        return None if available else "torch.compile needs a C++ compiler (g++, clang++ or $CXX) on a CPU"

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        # Compiled graphs belong to code objects. Without a reset the ninth model of a process would silently run eagerly
        # (recompile_limit), and the graphs of an earlier model would shorten the cold start of this one.
        torch.compiler.reset()
        served = self.weights(model, device)
        if device.type == "cuda":
            return GraphedRows(torch.compile(served.logits, dynamic=True), served.encoder.config.pad_token_id or 0)
        return torch.compile(served.logits, dynamic=True, options={"freezing": True})


class CompiledBf16(Compiled):
    """As `Compiled`, with weights and arithmetic in bf16."""

    name = "compiled_bf16"
    dtype = torch.bfloat16

    def unavailable(self, device: torch.device) -> str | None:
        return no_bf16(device) or super().unavailable(device)


class GraphedRows:
    """Runs single rows as CUDA graphs, one per padded length, recorded at its first occurrence; batches run without a graph.

    A single row takes hundreds of kernels of a few microseconds each, and launching them from Python takes longer than running
    them. A graph launches them at once. Its inputs and outputs have fixed addresses.
    """

    def __init__(self, forward: Forward, pad_id: int) -> None:
        self._forward, self._pad_id = forward, pad_id
        self._graphs: dict[int, tuple[Any, Tensor, Tensor, Tensor]] = {}

    def __call__(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        rows, length = ids_NL.shape
        if rows != 1:
            return self._forward(ids_NL, mask_NL)
        padded = graph_length(length)
        if padded not in self._graphs:
            self._graphs[padded] = self._record(padded, ids_NL.device)
        graph, graph_ids, graph_mask, output = self._graphs[padded]
        graph_ids.fill_(self._pad_id)
        graph_mask.zero_()
        graph_ids[:, :length] = ids_NL
        graph_mask[:, :length] = mask_NL
        graph.replay()
        return output[:, :length].clone() if output.ndim == 3 else output.clone()

    def _record(self, length: int, device: torch.device) -> tuple[Any, Tensor, Tensor, Tensor]:
        """Record after a few calls on a side stream, as PyTorch's notes advise: nothing may compile while recording."""
        ids_1L = torch.full((1, length), self._pad_id, dtype=torch.long, device=device)
        mask_1L = torch.ones_like(ids_1L)
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._forward(ids_1L, mask_1L)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            output = self._forward(ids_1L, mask_1L)
        return graph, ids_1L, mask_1L, output


def graph_length(length: int) -> int:
    """The length to which a row is padded for its graph."""
    return -(-length // GRAPH_STEP) * GRAPH_STEP
