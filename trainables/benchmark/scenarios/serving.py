"""Serving queries with a prepared model: from token ids in host memory to logits in host memory."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from trainables.benchmark.placement import pin
from trainables.benchmark.scenarios.lengths import Query
from trainables.evaluation import Forward
from trainables.heads.base import pad_rows


class Server:
    """Counts as service: padding, the copy to the device, the forward pass, and the copy of fp32 logits back.

    Queries are kept as one padded matrix, so that a batch is a lookup; tokenisation is not part of serving. Each thread that
    serves computes with `threads` threads of torch, on these `cores` where they are given.
    """

    def __init__(
        self,
        forward: Forward,
        queries: Sequence[Query],
        *,
        pad_id: int,
        device: torch.device,
        threads: int,
        cores: Sequence[int] = (),
    ) -> None:
        rows = [row for query in queries for row in query]
        self._forward, self._device, self._threads, self._cores = forward, device, threads, tuple(cores)
        self._pad_id = pad_id
        self._lengths = torch.tensor([len(row) for row in rows])
        self._ids_RL = pad_rows(rows, pad_id, max(len(row) for row in rows))
        self._mask_RL = (torch.arange(self._ids_RL.shape[1]) < self._lengths[:, None]).long()
        self._thread = threading.local()
        self._rows: list[range] = []
        for query in queries:
            first = self._rows[-1].stop if self._rows else 0
            self._rows.append(range(first, first + len(query)))
        self.tokens = [sum(len(row) for row in query) for query in queries]
        self._longest = [max(len(row) for row in query) for query in queries]

    def one(self, index: int) -> None:
        self.batch([index])

    def batch(self, indices: Sequence[int]) -> Tensor:
        """The logits of some queries, row by row."""
        self._settle()
        rows = torch.tensor([row for index in indices for row in self._rows[index]])
        longest = max(self._longest[index] for index in indices)
        with torch.inference_mode():  # here and not around the test: the mode is local to a thread
            ids_NL, mask_NL = self._ids_RL[rows, :longest], self._mask_RL[rows, :longest]
            return self._forward(ids_NL.to(self._device), mask_NL.to(self._device)).float().cpu()

    def fresh(self, query: Query) -> Tensor:
        """The logits of a query that is not among those kept."""
        self._settle()
        longest = max(len(row) for row in query)
        with torch.inference_mode():
            ids_NL = pad_rows(query, self._pad_id, longest)
            mask_NL = (torch.arange(longest) < torch.tensor([len(row) for row in query])[:, None]).long()
            return self._forward(ids_NL.to(self._device), mask_NL.to(self._device)).float().cpu()

    def one_of_each_length(self) -> list[int]:
        """A query of each shape that occurs."""
        shapes = {(len(self._rows[index]), self._longest[index]): index for index in range(len(self._rows))}
        return sorted(shapes.values())

    def _settle(self) -> None:
        """A thread that LoadGen starts has OpenMP's default of threads and all cores, not what the caller's has."""
        if not getattr(self._thread, "ready", False):
            torch.set_num_threads(self._threads)
            pin(self._cores)
            self._thread.ready = True

    def batches(self, indices: Sequence[int], size: int, *, seed: int) -> list[list[int]]:
        """The queries in batches of similar length, in random order: any first part of them is a fair sample."""
        ordered = sorted(indices, key=lambda index: -self._longest[index])
        cut = [ordered[start : start + size] for start in range(0, len(ordered), size)]
        random.Random(f"batches|{seed}").shuffle(cut)
        return cut


def is_out_of_memory(error: BaseException) -> bool:
    """Device or host memory; the host's allocator raises a plain RuntimeError."""
    host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return host or isinstance(error, torch.OutOfMemoryError | MemoryError)
