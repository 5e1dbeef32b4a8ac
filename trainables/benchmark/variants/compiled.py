"""The model through torch.compile: inductor's kernels, and on a GPU recorded CUDA graphs for single rows."""

from __future__ import annotations

import importlib.util
import os
import shutil

import torch

from trainables.benchmark.variants.base import Variant
from trainables.benchmark.variants.eager import no_bf16
from trainables.benchmark.variants.graphs import graphed, merged_copy
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel


class Compiled(Variant):
    """Fp32 through inductor with dynamic shapes. On a CPU the first query compiles, which counts as cold start.

    On a CPU weights are frozen: constants of the graph in the layout of its kernels, a second copy of them. On a GPU a single
    row replays a CUDA graph of its length, which `prepare` compiles and records; queries, keys and values are one product. A
    batch of one and larger batches are compiled separately (torch always specialises sizes 0 and 1).

    Inductor's default mode, without autotuning: the matrix products of a single row are limited by memory bandwidth in any
    kernel, autotuning would choose for one of the lengths, and it adds a minute to every start.
    """

    name = "compiled"

    def unavailable(self, device: torch.device) -> str | None:
        if device.type == "cuda":
            return None if importlib.util.find_spec("triton") else "torch.compile needs triton on a GPU"
        compilers = (os.environ.get("CXX"), "g++", "clang++")
        available = any(shutil.which(compiler) for compiler in compilers if compiler)
        return None if available else "torch.compile needs a C++ compiler (g++, clang++ or $CXX) on a CPU"

    def shares_weights(self, model: TaskModel, device: torch.device) -> bool:
        return device.type != "cuda" and super().shares_weights(model, device)

    def weights(self, model: TaskModel, device: torch.device) -> TaskModel:
        return merged_copy(model, device, self.dtype) if device.type == "cuda" else super().weights(model, device)

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        # Compiled graphs belong to code objects. Without a reset the ninth model of a process would silently run eagerly
        # (recompile_limit), and the graphs of an earlier model would shorten the cold start of this one.
        torch.compiler.reset()
        served = self.weights(model, device)
        if device.type == "cuda":
            return graphed(torch.compile(served.logits, dynamic=True), model, device)
        return torch.compile(served.logits, dynamic=True, options={"freezing": True})


class CompiledBf16(Compiled):
    """As `Compiled`, with weights and arithmetic in bf16."""

    name = "compiled_bf16"
    dtype = torch.bfloat16

    def unavailable(self, device: torch.device) -> str | None:
        return no_bf16(device) or super().unavailable(device)
