"""The batch size with the highest throughput, found by short timed runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainables.benchmark.scenarios.serving import QueryServer
from trainables.benchmark.scenarios.timing import Clock, calls_within
from trainables.out_of_memory import is_out_of_memory

WARM_S = 120.0  # at most, for what a GPU does once for a shape: compile kernels, choose algorithms


@dataclass(frozen=True)
class Sweep:
    """Estimated samples per second by batch size, the best size, and why larger sizes were skipped (None: none were)."""

    samples_per_s: dict[int, float]
    best: int
    stopped: str | None


def sweep_batch_sizes(
    server: QueryServer,
    sizes: Sequence[int],
    seconds: float,
    *,
    seed: int,
    clock: Clock,
    warm_s: float = 0.0,
    indices: Sequence[int] | None = None,
) -> Sweep:
    """Time every size in ascending order for `seconds` each; the first size that exceeds memory ends the sweep.

    `warm_s` and `indices` are those of `timed_samples_per_s`.

    Raises:
        RuntimeError: the smallest size already runs out of memory.
    """
    speeds: dict[int, float] = {}
    stopped: str | None = None
    for size in sorted(set(sizes)):
        try:
            speeds[size] = timed_samples_per_s(
                server, size, seconds, seed=seed, clock=clock, warm_s=warm_s, indices=indices
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not speeds:
                raise
            stopped = f"out of memory at batch size {size}: {str(error).splitlines()[0]}"
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()
            break
    return Sweep(speeds, max(speeds, key=lambda size: speeds[size]), stopped)


def timed_samples_per_s(
    server: QueryServer,
    size: int,
    seconds: float,
    *,
    seed: int,
    clock: Clock,
    warm_s: float = 0.0,
    indices: Sequence[int] | None = None,
) -> float:
    """Samples per second in batches of `size`, over all queries or those at `indices`, repeated to fill a batch.

    The batch that needs most memory is served first, untimed, and then for up to `warm_s` the others, so that no timed batch is
    the first of its shape.
    Derived from tokens per second: a size whose timed batches are longer than average is not at a disadvantage.
    """
    selected = range(len(server.tokens)) if indices is None else indices
    repeated = list(selected) * -(-size // len(selected))
    full = server.batches(repeated, size, seed=seed, rest=False)

    def tokens_in(batch: Sequence[int]) -> int:
        return sum(server.tokens[index] for index in batch)

    def serve(number: int) -> int:
        batch = full[number % len(full)]
        server.serve_batch(batch)
        return tokens_in(batch)

    largest_first = sorted(full, key=tokens_in, reverse=True)
    calls_within(
        lambda number: server.serve_batch(largest_first[number]), warm_s, clock=clock, at_most=len(largest_first)
    )
    calls = calls_within(serve, seconds, clock=clock)
    tokens_per_s = sum(call.result for call in calls) / sum(call.seconds for call in calls)
    return tokens_per_s / (tokens_in(selected) / len(selected))
