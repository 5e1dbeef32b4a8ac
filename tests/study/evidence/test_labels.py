"""Trials against the identities of the evaluations that they name, for every form of an intermediate choice."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from analysis import StudyFrames
from analysis.store.frames import EVALUATIONS, frame
from study.evidence.labels import Settings, label_faults
from tests.support.studies import build_frames

ENCODER, OTHER = ({"type": "Published", "name": name} for name in ("ours", "theirs"))
FACTOR = 0.5
STAGES = {"target": "evaluate-target-a@1", "pairs": "evaluate-pairs-a@2"}
ROOT = {"type": "ImportEncoder", "encoder": ENCODER}


def _task(name: str) -> dict[str, Any]:
    return {"type": name, "kind": "tagging 1"}


def _trained(base: dict[str, Any], task: dict[str, Any], *, rate: float, seed: int = 1, **more: Any) -> dict[str, Any]:
    training = {"type": "Training", "learning_rate": rate, "seed": seed}
    return {"type": "FineTune", "base": base, "task": task, "training": training} | more


MIXTURE = {"type": "Mixture", "name": "mixture", "tasks": [_task("Topic"), _task("Order")]}
PUBLISHED_ROOT = {"type": "ImportEncoder", "encoder": OTHER}
ARMS: dict[str, dict[str, Any]] = {
    "topic": _task("Topic"),
    "mixture": MIXTURE,
    "joint": {"type": "Joint", "together": _task("Topic")},
    "merged": {"type": "Merged", "title": "merged", "parts": [_task("Topic"), _task("Order")]},
    "published": {"type": "PublishedAfter", "tasks": [_task("Topic")], "encoder": OTHER},
}
TOPIC = _trained(ROOT, _task("Topic"), rate=2e-4 * FACTOR)
ORDER = _trained(ROOT, _task("Order"), rate=2e-4 * FACTOR)
ENCODERS = {  # that the targets start from
    "none": ROOT,
    "topic": TOPIC,
    "mixture": _trained(ROOT, MIXTURE, rate=2e-4 * FACTOR, type="FineTuneMixture"),
    "joint": ROOT,
    "merged": {"type": "MergeEncoders", "base": ROOT, "encoders": [TOPIC, ORDER]},
    "published": PUBLISHED_ROOT,
}


def _evaluations(choice: str) -> dict[str, dict[str, Any]]:
    """Of a trained target, whose training set has another class's name, and of one that is scored without training."""
    target = _trained(ENCODERS[choice], _task("TargetAsTrained"), rate=1e-3 * FACTOR)
    if choice == "joint":
        target |= {"type": "FineTuneJoint", "beside": _task("Topic")}
    untrained = TOPIC if choice == "joint" else ENCODERS[choice]
    return {
        STAGES["target"]: {"type": "Evaluate", "model": target, "task": _task("Target")},
        STAGES["pairs"]: {"type": "Evaluate", "model": untrained, "task": _task("Pairs")},
    }


SETTINGS = Settings.of(
    {
        "space": {"intermediates": list(ARMS.values())},
        "own_tuning": [],
        "sizes": {"a": {"rate_factor": FACTOR, "encoder": ENCODER}},
    },
    {"intermediates": ["none", *ARMS], "untrained": ["pairs"]},
)


def _trials(choice: str, **changed: Any) -> tuple[StudyFrames, dict[str, dict[str, Any]]]:
    """The baseline and a trial of the choice; each names its evaluations."""
    rate = None if choice in ("none", "joint", "published") else 2e-4
    row = {"size": "a", "seed": 1, "lr_target": 1e-3, "scores": {"target": 50.0, "pairs": 50.0}}
    baseline = row | {"trial_id": "t0", "intermediate": "none", "lr_intermediate": None}
    trial = row | {"trial_id": "t1", "intermediate": choice, "lr_intermediate": rate} | changed
    named = [
        {"size": "a", "trial_id": trial_id, "task": task, "stage": f"{stage}-{trial_id}"}
        for trial_id in ("t0", "t1")
        for task, stage in STAGES.items()
    ]
    identities = {
        f"{stage}-{trial_id}": identity
        for trial_id, made_by in (("t0", "none"), ("t1", choice))
        for stage, identity in _evaluations(made_by).items()
    }
    frames = build_frames([baseline, trial], body_m={"a": 1.0})
    return dataclasses.replace(frames, evaluations=frame(named, EVALUATIONS)), identities


@pytest.mark.parametrize("choice", ENCODERS)
def test_a_trial_of_each_arm_has_the_evaluations_that_it_should(choice: str) -> None:
    assert list(label_faults(*_trials(choice), SETTINGS)) == []


@pytest.mark.parametrize("choice", ENCODERS)
def test_a_trial_that_names_the_evaluations_of_another_arm_is_found(choice: str) -> None:
    for other in ENCODERS.keys() - {choice}:
        frames, identities = _trials(choice)
        theirs = {f"{stage}-t1": identity for stage, identity in _evaluations(other).items()}
        faults = list(label_faults(frames, identities | theirs, SETTINGS))
        assert any(fault.startswith("trial t1 of a on target: ") for fault in faults), other
        assert not any(fault.startswith("trial t0") for fault in faults)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"seed": 2}, "seed 2 is not that of its evaluation's trainings"),
        ({"lr_target": 2e-3}, "lr_target 0.002 is not that of its evaluation"),
        ({"lr_intermediate": 3e-4}, "lr_intermediate 0.0003 is not that of its evaluation"),
        ({"lr_intermediate": 1e-3}, "lr_intermediate 0.001 is not that of its evaluation"),  # the target's own
    ],
)
def test_rates_and_seeds_are_those_of_the_trainings(changed: dict[str, Any], says: str) -> None:
    faults = list(label_faults(*_trials("topic", **changed), SETTINGS))
    assert f"trial t1 of a on target: {says} ({STAGES['target']}-t1)" in faults


def test_targets_whose_evaluations_were_exchanged_are_found() -> None:
    frames, identities = _trials("none")
    exchanged = frames.evaluations["task"].map({"target": "pairs", "pairs": "target"})
    frames = dataclasses.replace(frames, evaluations=frames.evaluations.assign(task=exchanged))
    faults = [fault.split(" (")[0] for fault in label_faults(frames, identities, SETTINGS)]
    assert "trial t1 of a on target: its evaluation is of another target" in faults
    assert "trial t1 of a on pairs: its evaluation is of another target" in faults


def test_a_task_s_own_rate_factor_counts() -> None:
    frames, identities = _trials("topic", lr_intermediate=1e-4, lr_target=5e-4)
    own = dataclasses.replace(SETTINGS, factor_of_task={"target": 2.0, "topic": 2.0})
    faults = [fault for fault in label_faults(frames, identities, own) if fault.startswith("trial t1")]
    assert faults == []
