"""Which batch size serves fastest, by short timed runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from trainables.benchmark.scenarios.serving import Server, is_out_of_memory
from trainables.benchmark.scenarios.warmup import Clock


@dataclass(frozen=True)
class Sweep:
    """Estimated samples a second by batch size, the best size, and why larger ones were not tried (None: all were)."""

    samples_per_s: dict[int, float]
    best: int
    stopped: str | None


def sweep_batch_sizes(
    server: Server,
    sizes: Sequence[int],
    seconds: float,
    *,
    seed: int,
    clock: Clock,
    indices: Sequence[int] | None = None,
) -> Sweep:
    """Time every size, ascending, for that many seconds; the first size that does not fit in memory ends the sweep.

    Of all queries or of these, as in `timed_samples_per_s`.

    Raises:
        RuntimeError: the smallest size already runs out of memory.
    """
    found: dict[int, float] = {}
    stopped: str | None = None
    for size in sorted(set(sizes)):
        try:
            found[size] = timed_samples_per_s(server, size, seconds, seed=seed, clock=clock, indices=indices)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or not found:
                raise
            stopped = f"out of memory at batch size {size}: {str(error).splitlines()[0]}"
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            break
    return Sweep(found, max(found, key=lambda size: found[size]), stopped)


def timed_samples_per_s(
    server: Server, size: int, seconds: float, *, seed: int, clock: Clock, indices: Sequence[int] | None = None
) -> float:
    """Samples a second in batches of a size, of all queries or of these, by repetition where they are fewer.

    From tokens a second, so that batches of longer queries than the average do not count against a size.
    """
    mine = range(len(server.tokens)) if indices is None else indices
    pool = list(mine) * -(-size // len(mine))
    batches = server.batches(pool, size, seed=seed)
    full = [batch for batch in batches if len(batch) == size]
    server.batch(
        max(full, key=lambda batch: sum(server.tokens[index] for index in batch))
    )  # untimed: needs most memory
    tokens, number, start = 0, 0, clock()
    while (elapsed := clock() - start) < seconds or not number:
        batch = full[number % len(full)]
        server.batch(batch)
        tokens += sum(server.tokens[index] for index in batch)
        number += 1
    return tokens / elapsed / (sum(server.tokens[index] for index in mine) / len(mine))
