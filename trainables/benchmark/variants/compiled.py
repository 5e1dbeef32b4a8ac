"""The model through torch.compile: inductor's kernels, on a GPU with recorded graphs for single rows."""

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

GRAPH_STEP = 16  # a graph for each multiple of it: 8 for rows of up to 128 tokens, padding of 8 on average


class Compiled(Variant):
    """Fp32 through inductor with dynamic shapes; compilation happens in the first query: cold start.

    On a CPU weights are frozen: constants of the graph, laid out anew for its kernels (a second copy of them). On a GPU a
    single row replays a CUDA graph of its length. A batch of one and larger batches are two compilations (sizes 0 and 1 are
    always specialised).
    """

    name = "compiled"

    def unavailable(self, device: torch.device) -> str | None:
        if device.type == "cuda":
            return None if importlib.util.find_spec("triton") else "torch.compile needs triton on a GPU"
        compilers = (os.environ.get("CXX"), "g++", "clang++")
        found = any(shutil.which(compiler) for compiler in compilers if compiler)
        return None if found else "torch.compile needs a C++ compiler (g++, clang++ or $CXX) on a CPU"

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        # Graphs are kept by code object: without a reset, the ninth model of a process would silently run eagerly
        # (recompile_limit), and an earlier model's graphs would shorten this one's cold start.
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
    """Single rows by CUDA graphs, one for each padded length, recorded when it first occurs; batches as they come.

    A single row takes hundreds of kernels of some microseconds, whose launches from Python cost more than their work; a graph
    launches them at once. Its inputs and output lie at fixed places.
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
        """PyTorch's recipe: a few calls on a side stream, so that nothing is set up or compiled while recording."""
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
    """The length that a row is padded to for its graph."""
    return -(-length // GRAPH_STEP) * GRAPH_STEP
