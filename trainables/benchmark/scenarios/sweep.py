"""The batch size with the highest throughput, found by short timed runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainables.benchmark.scenarios.serving import QueryServer
from trainables.benchmark.scenarios.timing import Clock, calls_within
from trainables.out_of_memory import is_out_of_memory


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
    indices: Sequence[int] | None = None,
) -> Sweep:
    """Time every size in ascending order for `seconds` each; the first size that exceeds memory ends the sweep.

    `indices` selects queries as in `timed_samples_per_s`.

    Raises:
        RuntimeError: the smallest size already runs out of memory.
    """
    speeds: dict[int, float] = {}
    stopped: str | None = None
    for size in sorted(set(sizes)):
        try:
            speeds[size] = timed_samples_per_s(server, size, seconds, seed=seed, clock=clock, indices=indices)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not speeds:
                raise
            stopped = f"out of memory at batch size {size}: {str(error).splitlines()[0]}"
            if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
                torch.cuda.empty_cache()
            break
    return Sweep(speeds, max(speeds, key=lambda size: speeds[size]), stopped)


def timed_samples_per_s(
    server: QueryServer, size: int, seconds: float, *, seed: int, clock: Clock, indices: Sequence[int] | None = None
) -> float:
    """Samples per second in batches of `size`, over all queries or those at `indices`, repeated to fill a batch.

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

    server.serve_batch(max(full, key=tokens_in))  # untimed: the batch that needs most memory
    calls = calls_within(serve, seconds, clock=clock)
    tokens_per_s = sum(call.result for call in calls) / sum(call.seconds for call in calls)
    return tokens_per_s / (tokens_in(selected) / len(selected))
