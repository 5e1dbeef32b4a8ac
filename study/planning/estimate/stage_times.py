"""How long a stage takes: as stages like it took, else what its operations and an assumed pace suggest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from study.planning.architecture import UnknownArchitecture, outline
from study.planning.operations import row_flops, stage_flops
from study.spec import Size, Study
from trainables.stages.base import Stage
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import Tuned
from trainables.stages.pretrain import Pretrain
from trainables.store.fingerprint import fingerprint
from trainables.store.manifests import seconds_of
from trainables.store.opening import open_store

SCORED_ROWS = 1000  # of an evaluation, until one is measured


@dataclass(frozen=True)
class Pace:
    """Assumed seconds of what is not measured yet.

    `flops_per_s` is of one core, with rows at their longest; `step_s` and `stage_s` come on top for each step and stage.
    `launch_s` is the start of a Ray Train group, `start_s` that of Ray and its first workers. A measurement takes
    `windows` times the shortest that its scenarios may, and `benchmark_s` for its process and scores.
    """

    flops_per_s: float
    step_s: float
    stage_s: float
    launch_s: float
    start_s: float
    windows: float
    benchmark_s: float
    report_s: float


def fast(gflops: float) -> Pace:
    """The shortest that is likely on cores of so many GFLOP/s in a feed-forward block: rows of a third of
    the length, an idle machine."""
    return Pace(gflops * 1e9 * 3.0, 0.01, 0.3, 8.0, 8.0, 1.0, 4.0, 4.0)


def usual(gflops: float) -> Pace:
    """Between `fast` and `slow`."""
    return Pace(gflops * 1e9 * 1.5, 0.02, 0.7, 14.0, 15.0, 1.4, 8.0, 8.0)


def slow(gflops: float) -> Pace:
    """The longest that is likely: rows at their longest, small matrix
    products, processes that start slowly."""
    return Pace(gflops * 1e9 * 0.8, 0.04, 1.0, 25.0, 30.0, 2.0, 20.0, 20.0)


@dataclass(frozen=True)
class PlannedStage:
    """A stage by the name of its folder, and what it computes."""

    name: str
    label: str
    flops: float = 0.0
    steps: int = 0
    cores: int = 1

    @property
    def kind(self) -> str:
        """What the stage does: pretrain, target, evaluate and so on."""
        return self.label.partition("-")[0]

    @property
    def likenesses(self) -> tuple[str, ...]:
        """What it has in common with other stages, the closest first: its label, its kind, that it computes."""
        return (self.label, self.kind, "") if self.flops else (self.label, self.kind)

    def expected_s(self, pace: Pace) -> float:
        """Seconds at the pace."""
        return pace.stage_s + pace.step_s * self.steps + self.flops / (pace.flops_per_s * self.cores)


def planned(study: Study, size: Size, stage: Stage) -> PlannedStage:
    """A stage of the size, with its operations where the architecture is known."""
    cores = size.resources.workers * size.resources.cpus
    try:
        architecture = outline(size.encoder, study.vocabulary_size)
    except UnknownArchitecture:
        flops = 0.0
    else:
        if isinstance(stage, Pretrain | Tuned):
            flops = stage_flops(architecture, stage, longest=True)
        elif isinstance(stage, Evaluate):  # a forward pass is a third of a training step
            body, layers, width = architecture.count.body, architecture.layers, architecture.attention_width
            flops = SCORED_ROWS / 3 * row_flops(stage.max_length, body=body, layers=layers, attention_width=width)
        else:
            flops = 0.0
    steps = stage.training.steps if isinstance(stage, Pretrain | Tuned) else 0
    return PlannedStage(f"{stage.label}@{fingerprint(stage)}", stage.label, flops, steps, cores)


class StageTimes:
    """Seconds of stages: expected ones times how much longer finished stages took than expected.

    The factor is the median over finished stages of the same label (size and task), else of the same kind, else of all that
    compute: a vocabulary or a table tells nothing of a training.
    """

    def __init__(self, pace: Pace, stages: Iterable[PlannedStage], measured_s: Mapping[str, float]) -> None:
        self._pace = pace
        factors: dict[str, list[float]] = {}
        for stage in {stage.name: stage for stage in stages if stage.name in measured_s}.values():
            for key in stage.likenesses:
                factors.setdefault(key, []).append(measured_s[stage.name] / stage.expected_s(pace))
        self._factors = {key: median(values) for key, values in factors.items()}

    def knows(self, kind: str) -> bool:
        """Whether a stage of this kind was measured."""
        return kind in self._factors

    def seconds(self, stage: PlannedStage) -> float:
        factor = next((self._factors[key] for key in stage.likenesses if key in self._factors), 1.0)
        return factor * stage.expected_s(self._pace)


class StoredTimes:
    """Seconds of the finished stages of an output folder by name, each manifest read once."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._seconds: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        """Without stages whose manifest cannot be read now: an estimate must not end a run."""
        with contextlib.suppress(OSError):
            for name, manifest in open_store(self._output).manifests(but=self._seconds).items():
                self._seconds[name] = seconds_of(manifest)
        return dict(self._seconds)
