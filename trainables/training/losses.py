"""The losses of a training: summed on the device, and read by the host every few steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from trainables.hyperparameters import Diverged
from trainables.training.batching import Share

Observer = Callable[[int, float], None]  # step counted from 0, loss of the whole batch
READ_EVERY = 20  # steps; on CPUs, where reading costs nothing, every step


def steps_between_reads(device: torch.device) -> int:
    """How many steps' losses stay on the device. A read makes the host wait until the device has done all its work."""
    return 1 if device.type == "cpu" else READ_EVERY


class Losses:
    """The loss of every step. `values` are those that the host has read, from step 0 on; all workers make the same calls.

    Args:
        values: those of the steps before a resumed training.
        every: steps after which a read is due.
    """

    def __init__(
        self, values: Sequence[float], observe: Observer, *, share: Share, device: torch.device, every: int
    ) -> None:
        self.values, self._observe, self._share = list(values), observe, share
        self._recent = torch.zeros(every, device=device)
        self._unread = 0

    def add(self, loss: Tensor) -> None:
        """Add a micro-batch's part of this worker's loss of the current step."""
        self._recent[self._unread] += loss.detach()

    def end_step(self) -> bool:
        """Whether a read is due."""
        self._unread += 1
        return self._unread == len(self._recent)

    def read(self, vote: bool = False) -> bool:
        """Read and observe the losses of the steps since the last read, in order; returns whether any worker voted.

        Raises:
            Diverged: one of them is NaN or infinite. Raised on every worker for the same step.
        """
        sums = torch.cat([self._recent[: self._unread], self._recent.new_tensor([vote])])
        if self._share.workers > 1:
            dist.all_reduce(sums)
        *losses, votes = sums.tolist()
        self._recent.zero_()
        self._unread = 0
        for loss in losses:
            step, mean = len(self.values), loss / self._share.workers
            if not math.isfinite(mean):
                raise Diverged(step, mean)
            self.values.append(mean)
            self._observe(step, mean)
        return bool(votes)
