"""The seeded monkey: what it draws, what it does to a study, and which violations the invariants find."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.chaos.damage import LOGS, cut_files, stage_of
from tests.support.chaos.evidence import (
    CommandRun,
    CommitLog,
    Evidence,
    StoredTrial,
    TrackedRun,
    is_delivered,
    reported,
)
from tests.support.chaos.invariants import INVARIANTS, violations
from tests.support.chaos.plan import KINDS, Fault, planned
from tests.support.commands import ROOT, CommandResult
from trainables.store.manifests import write_manifest

Run = Callable[[str, str], CommandResult]

# --- what it draws


def test_a_seed_and_a_number_determine_a_round() -> None:
    plans = [planned(3, number) for number in range(1, 40)]
    assert [planned(3, number) for number in range(1, 40)] == plans
    assert [planned(4, number) for number in range(1, 40)] != plans
    assert len(set(plans)) == len(plans)


def test_all_kinds_are_drawn_in_the_order_they_are_due() -> None:
    plans = [planned(0, number) for number in range(200)]
    faults = [fault for plan in plans for fault in plan.faults]
    assert {fault.kind for fault in faults} == set(KINDS)
    assert {plan.on_cluster for plan in plans} == {False, True}
    for plan in plans:
        shares = [fault.at for fault in plan.faults]
        assert shares == sorted(shares)
        assert all(0 <= fault.at < 1 and 0 <= fault.pick < 1 for fault in plan.faults)


def test_a_kind_that_cannot_be_injected_is_not_drawn() -> None:
    kinds = tuple(kind for kind in KINDS if kind != "disk filled")
    faults = [fault for number in range(200) for fault in planned(0, number, kinds).faults]
    assert {fault.kind for fault in faults} == set(kinds)


def _output(folder: Path) -> Path:
    """An output folder with a file of each kind that is cut."""
    stage = folder / "stages" / "target-a@1"
    stage.mkdir(parents=True)
    (stage / "model.safetensors").write_bytes(b"w" * 100)
    write_manifest(stage, {"identity": {}})
    for name in (
        "checkpoints/a@1/step-1/part",
        "examples/a/x.parquet",
        "outbox/receipt-1.json",
        "tune/1/t",
        "ray_train/1/t",
    ):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(b"x" * 100)
    for name in LOGS:
        (folder / name).write_bytes(b"first line\nsecond line\nthird line\n")
    return folder


def test_files_are_cut_by_the_seed_and_of_logs_the_last_line_only(tmp_path: Path) -> None:
    cut: dict[str, int] = {}
    for seed in range(60):
        folder = _output(tmp_path / str(seed))
        before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        paths = cut_files(folder, random.Random(seed))
        again = cut_files(_output(tmp_path / f"{seed}-again"), random.Random(seed))
        assert [path.relative_to(folder) for path in paths] == [
            path.relative_to(tmp_path / f"{seed}-again") for path in again
        ]
        assert paths
        for path, content in before.items():
            after = path.read_bytes()
            assert content.startswith(after)
            assert (len(after) < len(content)) == (path in paths)
            if str(path.relative_to(folder)) in LOGS:
                assert after.startswith(b"first line\nsecond line\n")
        for path in paths:
            name = str(path.relative_to(folder))
            cut[name] = cut.get(name, 0) + 1
            assert stage_of(path, folder) == ("target-a@1" if name.startswith("stages/") else None)
    assert len(cut) == 9, "a stage's file and manifest, a checkpoint, two logs and four others"


# --- which violations are found

SCORES = {"dev/score": 50.0, "test/score": 40.123456789}
TRIALS = (StoredTrial("a", "t0000", "none", "complete", SCORES), StoredTrial("a", "t0001", "topic", "complete", SCORES))
TRACKED = tuple(TrackedRun(trial.key, "trial", "complete") for trial in TRIALS)
CLEAN = Evidence(
    budget={"a": 2},
    commands=(
        CommandRun(-9, 5.0, reported=frozenset({"a/t0000"})),
        CommandRun(0, 9.0, finished_before=frozenset({"a/t0000"}), reported=frozenset({"a/t0001"})),
    ),
    commits={"target@1": ("digest",)},
    trials=TRIALS,
    outbox=(TrackedRun("size:a", "size", ""), *TRACKED),
    mlflow=(TrackedRun("size:a", "size", "", {}), *(replace(run, scores=SCORES) for run in TRACKED)),
)
LAST = CLEAN.commands[-1]
PLANTED: dict[str, dict[str, list[dict[str, Any]]]] = {
    "the study finishes": {
        "no run of the command finished it": [{"commands": CLEAN.commands[:1]}],
        "run 1 made no end in 700 s": [{"commands": (CommandRun(-9, 700.0, hung=True), LAST)}],
        "run 1 ended with exit code 3": [{"commands": (CommandRun(3, 1.0), LAST)}],
    },
    "nothing is left running": {
        "run 2 left ray::IDLE": [{"commands": (replace(LAST), replace(LAST, left=("ray::IDLE",)))}]
    },
    "no finished trial runs again": {
        "run 1 ran a/t0000 again": [{"commands": (replace(LAST, reported=frozenset({"a/t0000"})), LAST)}]
    },
    "no stage is trained twice": {"target@1 was committed 2 times": [{"commits": {"target@1": ("one", "two")}}]},
    "the trials are those of the budget": {
        "size a has 1 finished trials, 2 expected": [
            {"trials": TRIALS[:1], "outbox": CLEAN.outbox[:2], "mlflow": CLEAN.mlflow[:2]}
        ],
        "a t0001 is failed": [{"trials": (TRIALS[0], replace(TRIALS[1], outcome="failed"))}],
        "size a has 2 trials of none": [{"trials": (TRIALS[0], replace(TRIALS[1], choice="none"))}],
    },
    "trial store outbox and mlflow agree": {
        "trial:a:t0001 is complete in the trial store and None in the outbox": [{"outbox": CLEAN.outbox[:2]}],
        "trial:a:t0001 is complete in the trial store and None in MLflow": [{"mlflow": CLEAN.mlflow[:2]}],
        "trial:a:t0002 is None in the trial store and complete in MLflow": [
            {"mlflow": (*CLEAN.mlflow, replace(CLEAN.mlflow[2], key="trial:a:t0002"))}
        ],
        "MLflow has the sizes none": [{"mlflow": CLEAN.mlflow[1:]}],
        "MLflow has other scores of trial:a:t0000: test/score": [
            {
                "mlflow": (
                    CLEAN.mlflow[0],
                    replace(CLEAN.mlflow[1], scores={**SCORES, "test/score": 40.0}),
                    CLEAN.mlflow[2],
                )
            }
        ],
    },
    "no run is there twice": {"MLflow has 2 runs of trial:a:t0000": [{"mlflow": (*CLEAN.mlflow, CLEAN.mlflow[1])}]},
    "scores are those of the undisturbed study": {
        "a none: test/score is 40.12345678900001, undisturbed 40.123456789": [
            {"trials": (replace(TRIALS[0], scores={**SCORES, "test/score": 40.12345678900001}), TRIALS[1])}
        ]
    },
}


def test_a_clean_round_has_no_violation() -> None:
    assert violations(CLEAN, CLEAN) == []


@pytest.mark.parametrize(
    ("invariant", "sentence", "changes"),
    [(name, sentence, changes) for name, cases in PLANTED.items() for sentence, (changes,) in cases.items()],
)
def test_a_planted_violation_is_found(invariant: str, sentence: str, changes: dict[str, Any]) -> None:
    assert f"{invariant}: {sentence}" in violations(replace(CLEAN, **changes), CLEAN)


def test_every_invariant_has_a_planted_violation() -> None:
    assert {invariant.__name__.replace("_", " ") for invariant in INVARIANTS} == PLANTED.keys()


def test_a_stage_whose_files_were_cut_may_be_trained_again_once() -> None:
    retrained = replace(CLEAN, commits={"target@1": ("one", "two")}, cut={"target@1": 1})
    assert violations(retrained, CLEAN) == []
    assert violations(replace(retrained, commits={"target@1": ("one", "two", "three")}), CLEAN)


def test_a_stage_that_is_committed_again_is_seen_and_a_cut_manifest_is_no_commit(tmp_path: Path) -> None:
    stage, log = tmp_path / "stages" / "target@1", CommitLog(tmp_path)
    stage.mkdir(parents=True)
    write_manifest(stage, {"context": {"seconds": 1.0}})
    content = (stage / "manifest.json").read_bytes()
    log.look()
    log.look()
    (stage / "manifest.json").write_bytes(content[:20])
    log.look()
    assert len(log.commits["target@1"]) == 1
    write_manifest(stage, {"context": {"seconds": 2.0}})
    log.look()
    assert len(log.commits["target@1"]) == 2


def test_the_trials_that_scored_are_read_from_what_a_run_prints() -> None:
    said = [
        "[00:12] searching 2x128: 4 trials",
        "[00:15]   2x128 t0003 (micro_topic): micro_tagging 40.1",
        "[61:00]   1x64 t0000 (none): micro_tagging 38.0",
        "[61:02] 2x128 trial 1/4 done: none",
    ]
    assert reported("\n".join(said)) == {"2x128/t0003", "1x64/t0000"}


def test_an_outbox_is_delivered_once_an_offset_is_its_end(tmp_path: Path) -> None:
    (tmp_path / "outbox").mkdir()
    (tmp_path / "outbox" / "journal.jsonl").write_text("{}\n{}\n")
    assert not is_delivered(tmp_path)
    for offset, delivered in ((3, False), (6, True)):
        (tmp_path / "outbox" / "receipt-1.json").write_text(json.dumps({"offset": offset}))
        assert is_delivered(tmp_path) == delivered


# --- what it does, to a stand-in for a study


def _fault(kind: Any, at: float = 0.3, *, last_s: float = 0.5, pick: float = 0.0) -> dict[str, Any]:
    return vars(Fault(kind, at, wait_s=0.0, pick=pick, last_s=last_s, salt=1))


def _rehearse(faults: list[dict[str, Any]], *options: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.support.chaos.rehearsal", json.dumps(faults), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return document


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("driver killed", [-9, 0]),
        ("driver terminated", [143, 0]),
        ("machine lost", [-9, 0]),
        ("files cut", [-9, 0]),
        ("head killed", [1, 0]),
        ("raylet killed", [1, 0]),
        ("trial actor killed", [0]),
        ("group worker killed", [0]),
        ("other worker killed", [0]),
        ("server killed", [0]),
        ("process stopped", [0]),
    ],
)
def test_each_fault_hits_its_victim_and_the_command_is_run_until_it_is_finished(kind: str, codes: list[int]) -> None:
    left = _rehearse([_fault(kind)])
    assert left["struck"] == {kind: 1}
    assert left["codes"] == codes
    assert left["left"] == []
    assert any(kind.split()[-1] in line for line in left["said"])
    assert {stage: count for stage, count in left["commits"].items() if count > 1 + left["cut"].get(stage, 0)} == {}
    assert len(left["commits"]) == 12


@pytest.mark.slow
def test_a_full_disk_ends_the_command_and_is_free_for_the_next() -> None:
    left = _rehearse([_fault("disk filled", 0.05, last_s=60.0)])  # early: a busy machine is late to strike
    if not left["disk_can_fill"]:
        pytest.skip("a file system of its own needs root")
    assert left["struck"] == {"disk filled": 1}
    assert left["codes"] == [1, 0]


@pytest.mark.slow
def test_several_faults_strike_in_one_round() -> None:
    left = _rehearse([_fault("driver killed", 0.1), _fault("driver terminated", 0.5)])
    assert left["struck"] == {"driver killed": 1, "driver terminated": 1}
    assert left["codes"] in ([-9, 143, 0], [-9, 0])  # where the monkey is late, both strike the same driver


@pytest.mark.slow
def test_a_study_that_trains_a_finished_stage_again_is_seen() -> None:
    left = _rehearse([_fault("driver killed", 0.5)], "--again")
    assert left["commits"]["s00@0"] == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whom"), [(signal.SIGINT, "guard"), (signal.SIGKILL, "guard"), (signal.SIGKILL, "child")]
)
def test_nothing_is_left_when_it_is_interrupted_or_dies(number: int, whom: str) -> None:
    """Neither processes nor its temporary folder."""
    command = [
        sys.executable,
        "-m",
        "tests.support.chaos.rehearsal",
        json.dumps([_fault("process stopped", last_s=60.0)]),
    ]
    guard = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, process_group=0)
    ours: list[psutil.Process] = []
    deadline = time.monotonic() + 300
    while len(ours) < 8:  # the guard, its child, the server, the study and its children
        assert time.monotonic() < deadline, ours
        assert guard.poll() is None
        ours = [psutil.Process(guard.pid), *psutil.Process(guard.pid).children(recursive=True)]
        time.sleep(0.02)
    (folder,) = {word for process in ours for word in process.cmdline() if word.startswith("--directory=")}
    temporary = Path(folder.removeprefix("--directory=")).parent
    assert temporary.is_dir()
    victim = ours[0] if whom == "guard" else ours[0].children()[0]
    victim.send_signal(number)
    guard.wait(240)
    deadline = time.monotonic() + 240
    while left := [process for process in ours if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    while temporary.exists():
        assert time.monotonic() < deadline, temporary
        time.sleep(0.05)


# --- the command


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.ray
def test_a_study_comes_to_the_same_end_after_two_faults(run_with_ray: Run) -> None:
    """A trial's process is killed, and later the machine is lost."""
    document = run_with_ray("chaos", "--minutes 0 --seed 0 --first 34 --study inline").document
    assert document["violations"] == 0
    assert {kind: count for kind, count in document["faults"].items() if count} == {
        "trial actor killed": 1,
        "machine lost": 1,
    }
