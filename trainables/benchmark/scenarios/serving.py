"""Serving queries with a prepared model: from token ids in host memory to logits in host memory."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from trainables.benchmark.placement import pin
from trainables.benchmark.scenarios.queries import Query
from trainables.evaluation import Forward
from trainables.heads.base import pad_rows


class QueryServer(Protocol):
    """Serves queries that it holds, by their index; what scenarios measure."""

    @property
    def tokens(self) -> list[int]: ...
    def warm(self, index: int) -> None: ...
    def serve(self, index: int) -> None: ...
    def serve_batch(self, indices: Sequence[int]) -> Tensor: ...
    def one_of_each_shape(self) -> list[int]: ...
    def batches(self, indices: Sequence[int], size: int, *, seed: int, rest: bool = True) -> list[list[int]]: ...


class ModelServer:
    """Serves queries that it holds as one padded matrix, so that a batch is a lookup.

    Service covers padding, the copy to the device, the forward pass and the copy of fp32 logits back; tokenisation comes
    before it. Each thread that serves computes with `threads` threads of torch, pinned to `cores` if there are any. With
    `by_tokens`, batches are cut by their tokens.
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
        by_tokens: bool = False,
    ) -> None:
        self.forward, self._device, self._threads, self._cores = forward, device, threads, tuple(cores)
        self._pad_id, self._by_tokens = pad_id, by_tokens
        self._ids_RL, self._mask_RL = _padded([row for query in queries for row in query], pad_id)
        self._thread = threading.local()
        self._rows: list[range] = []
        for query in queries:
            first = self._rows[-1].stop if self._rows else 0
            self._rows.append(range(first, first + len(query)))
        self.tokens = [sum(len(row) for row in query) for query in queries]
        self._longest = [max(len(row) for row in query) for query in queries]

    def rows_of(self, index: int) -> int:
        """How many rows a query has."""
        return len(self._rows[index])

    def warm(self, index: int) -> None:
        """Serve a single query with every kernel that its shape can need."""
        self.serve(index)

    def serve(self, index: int) -> None:
        """Serve a single query."""
        self.serve_batch([index])

    def serve_batch(self, indices: Sequence[int], *, padded_to: int | None = None) -> Tensor:
        """The logits of some queries, row by row, padded to the longest of them or to a larger length."""
        self._set_up_thread()
        rows = torch.tensor([row for index in indices for row in self._rows[index]])
        longest = padded_to or max(self._longest[index] for index in indices)
        with torch.inference_mode():  # not around the whole test: the mode is local to a thread
            return self._logits(self._ids_RL[rows, :longest], self._mask_RL[rows, :longest])

    def serve_query(self, query: Query) -> Tensor:
        """The logits of a query that the server does not hold."""
        self._set_up_thread()
        with torch.inference_mode():
            return self._logits(*_padded(query, self._pad_id))

    def one_of_each_shape(self) -> list[int]:
        """A query of each shape that occurs: number of rows and padded length."""
        shapes = {(len(self._rows[index]), self._longest[index]): index for index in range(len(self._rows))}
        return sorted(shapes.values())

    def batches(self, indices: Sequence[int], size: int, *, seed: int, rest: bool = True) -> list[list[int]]:
        """The queries in batches of similar length, in random order: any first part of them is a fair sample.

        By tokens, a batch has at most as many as `size` of the queries have on average; a longer query is alone in its batch.
        Without `rest`, a last batch with space for another query is left out, unless it is the only one.
        """
        ordered = sorted(indices, key=lambda index: -self._longest[index])
        costs = self.tokens if self._by_tokens else [1] * len(self.tokens)
        budget = size * sum(costs[index] for index in ordered) / len(ordered)
        batches: list[list[int]] = [[]]
        filled = 0
        for index in ordered:
            if batches[-1] and filled + costs[index] > budget:
                batches.append([])
                filled = 0
            batches[-1].append(index)
            filled += costs[index]
        if not rest and len(batches) > 1 and filled + costs[ordered[-1]] <= budget:
            batches.pop()
        random.Random(f"batches|{seed}").shuffle(batches)
        return batches

    def _logits(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        return self.forward(ids_NL.to(self._device), mask_NL.to(self._device)).float().cpu()

    def _set_up_thread(self) -> None:
        """A thread that LoadGen starts would compute with OpenMP's default number of threads, on all cores."""
        if not getattr(self._thread, "ready", False):
            torch.set_num_threads(self._threads)
            pin(self._cores)
            self._thread.ready = True


class CascadeServer:
    """Serves queries with a smaller model, and with a larger one those of whose answer the smaller is not sure.

    `unsure` decides from a query's index and the smaller model's logits for its rows. Both servers hold the same queries, each
    in its own tokens; batches are cut by those of the smaller model.
    """

    def __init__(self, small: ModelServer, large: ModelServer, unsure: Callable[[int, Tensor], bool]) -> None:
        self._small, self._large, self._unsure = small, large, unsure
        self.tokens = small.tokens
        self.one_of_each_shape, self.batches = small.one_of_each_shape, small.batches

    def warm(self, index: int) -> None:
        """Serve a single query with both models."""
        self._small.serve(index)
        self._large.serve(index)

    def serve(self, index: int) -> None:
        """Serve a single query."""
        self.serve_batch([index])

    def serve_batch(self, indices: Sequence[int]) -> Tensor:
        """The smaller model's logits, after the larger model has answered what it was asked."""
        logits = self._small.serve_batch(indices)
        rows = [self._small.rows_of(index) for index in indices]
        by_query = torch.split(logits, rows)
        asked = [index for index, values in zip(indices, by_query, strict=True) if self._unsure(index, values)]
        if asked:
            self._large.serve_batch(asked)
        return logits


def _padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids padded to the longest row, and their mask."""
    lengths = torch.tensor([len(row) for row in rows])
    longest = max(len(row) for row in rows)
    return pad_rows(rows, pad_id, longest), (torch.arange(longest) < lengths[:, None]).long()
