"""Runs a job in this process.

A trial on one CPU worker runs in its Tune actor: starting a Ray Train group takes 10 to 20 s on two cores, more than a small
trial itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainables.launch.job import Job, workplace
from trainables.launch.process import prepare_process
from trainables.launch.retry import retry_out_of_memory

if TYPE_CHECKING:
    from trainables.stages.base import Progress
    from trainables.stages.chain import Report


def run_inline(job: Job, *, report: Report, progress: Progress) -> None:
    """Run in this process, which may be a Tune actor that has run other trials before. The process sees no GPU from then on.

    Raises:
        OutOfMemory: not even one example fits.
    """
    prepare_process(job.resources)
    import torch

    from trainables.training.batching import Share

    def launch(job: Job) -> None:
        share = Share.of(job.resources)
        job.run(workplace(job, share, device=torch.device("cpu"), progress=progress), report)

    retry_out_of_memory(job, launch)
