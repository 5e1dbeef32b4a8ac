"""What a launcher runs: stages and a chain of evaluations, with their resources."""

from __future__ import annotations

import dataclasses
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.hyperparameters import Diverged
from trainables.resources import Resources
from trainables.store.bucket.location import url_of
from trainables.store.opening import open_store
from trainables.store.stage_store import OutputMissing
from trainables.training.micro_batches import Limits

# Ray Train's controller imports this module and trains nothing: stages, with torch and transformers, are imported where used.
if TYPE_CHECKING:
    import torch

    from trainables.stages.base import Progress, Stage, Workplace
    from trainables.stages.chain import Report
    from trainables.stages.evaluate import Evaluate
    from trainables.training.batching import Share

DIVERGED = "diverged"  # key of a chain's last report if its training diverged; the value says where


@dataclass(frozen=True)
class Job:
    """Stages to produce, then a chain to score, under the output folder.

    `size` names the size whose resources these are, in log lines. `name` is the job's own, the same whenever it is started
    again; no two jobs that run at the same time share one. Launchers fill in `limits`: smaller micro-batches for stages
    whose usual one did not fit.
    """

    output: str
    resources: Resources
    stages: tuple[Stage, ...] = ()
    chain: tuple[Evaluate, ...] = ()
    size: str = ""
    name: str = ""
    limits: Limits = field(default_factory=dict)

    def with_resources(self, **changes: Any) -> Job:
        return dataclasses.replace(self, resources=dataclasses.replace(self.resources, **changes))

    def run(self, work: Workplace, report: Report) -> None:
        """Ensure the stages, then the chain, with a report after each target.

        A chain that diverges ends with a report and no error: divergence is a result of the choice, so retrying cannot help.
        """
        from trainables.stages.base import ensure
        from trainables.stages.chain import run_chain

        try:
            for stage in self.stages:
                ensure(stage, work)
            run_chain(self.chain, work, report)
        except Diverged as error:
            if self.stages:
                raise
            report({DIVERGED: str(error)})


def workplace(job: Job, share: Share, *, device: torch.device, progress: Progress) -> Workplace:
    """Where the job's stages run on this worker.

    Raises:
        OutputMissing: the output folder is missing here. A new one would be local to this node, and every stage would be
            trained again in it.
    """
    from trainables.stages.base import Workplace

    output = Path(job.output)
    if url_of(output) is None and not output.is_dir():
        raise OutputMissing(f"{output} is missing on {platform.node()}: is the shared folder mounted?")
    return Workplace(
        *(open_store(output), share, job.resources), limits=job.limits, device=device, progress=progress, job=job.name
    )


def no_progress(stage: str, done: int, total: int, loss: float | None) -> None:
    """Progress of a worker that does not lead."""
