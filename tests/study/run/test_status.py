"""What the console says of a running study."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from study.planning.estimate.study_estimate import Snapshot
from study.run import status
from study.run.status import StudyStatus, duration_line, estimate_of, stage_line, status_of
from study.spec import Resources
from tests.support import recipes


@pytest.mark.parametrize(
    ("label", "progress", "line"),
    [
        ("evaluate-micro_span-2x128", (320, 768, None), "scoring micro_span 2x128: 320/768 examples"),
        ("target-micro_span-2x128", (4, 40, 2.0), "training micro_span 2x128: 4/40 steps, loss 2.000"),
        ("intermediate-nli-xlm-r-base", (1, 9, 0.5), "training nli xlm-r-base: 1/9 steps, loss 0.500"),
        ("pretrain-2x128", (10, 200, 7.25), "pre-training 2x128: 10/200 steps, loss 7.250"),
        ("tokenise-micro_span-scored", (3, 14, None), "tokenising micro_span: 3/14 sets"),
        ("merge-3-2x128", (12, 40, None), "merging 3 encoders of 2x128: 12/40 tensors"),
        ("vectors-micro_topic-2x128", (9, 96, None), "encoding micro_topic 2x128: 9/96 examples"),
    ],
)
def test_a_stage_says_what_it_does_and_a_loss_only_in_training(
    label: str, progress: tuple[int, int, float | None], line: str
) -> None:
    assert stage_line(label, *progress) == line


def test_the_line_on_the_study() -> None:
    snapshot = Snapshot(12, 37, {"2x128": (2, 6), "3x160": (0, 6)}, 190.0)
    shown = status_of(snapshot, {"target-a-2x128": (1, 4, 0.5)})
    assert shown.study == "12/37 stages, 2/12 trials; about 3 minutes left"
    assert shown.sizes == ("2x128: 2/6 trials", "3x160: 0/6 trials")
    assert shown.stages == ("training a 2x128: 1/4 steps, loss 0.500",)
    unknown = dataclasses.replace(snapshot, seconds_left=None)
    assert status_of(unknown, {}).study == "12/37 stages, 2/12 trials"


def test_a_run_starts_with_a_range_where_this_machine_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "training_gflops", lambda precision: 100.0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    study = recipes.tiny()
    assert "study takes about" in duration_line(estimate_of(study, tmp_path, address=None))
    unknown = "is known after its first trials"
    assert unknown in duration_line(estimate_of(study, tmp_path, address="ray://head:10001"))
    on_gpus = dataclasses.replace(
        study, sizes=tuple(dataclasses.replace(size, resources=Resources(gpus=1)) for size in study.sizes)
    )
    assert unknown in duration_line(estimate_of(on_gpus, tmp_path, address=None))


def test_a_progress_actor_that_was_slow_once_is_read_again_and_a_lost_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = [
        ray.exceptions.GetTimeoutError("slow"),
        {"target-a-1x32": (1, 10, 0.5)},
        ray.exceptions.RayActorError(),
    ]

    def get(reference: Any, timeout: float) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(ray, "get", get)
    said: list[str] = []
    estimate = estimate_of(recipes.inline(), tmp_path, address="ray://head:10001")
    actor = SimpleNamespace(read=SimpleNamespace(remote=lambda: None))
    reader = StudyStatus(estimate, actor, say=said.append)
    assert [reader.read().stages for _ in range(4)] == [(), ("training a 1x32: 1/10 steps, loss 0.500",), (), ()]
    assert len(said) == 1
    assert "progress is no longer shown" in said[0]
