"""A whole study through the command line: results, MLflow, report, and that the same command again does nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient

import analysis
from study.cluster.connection import CannotRun
from study.run.driver import Where, run_study
from study.search.sweep import load_result
from study.search.trial_store import open_journal
from study.tracking.tracker import default_uri
from tests.conftest import FaultyRun, Ran, study_command
from tests.support import recipes
from trainables.stages.base import Stage
from trainables.store.stage_store import StageStore

TinyRun = tuple[Path, Ran]


def _runs(output: Path, kind: str, *, experiment: str = "tiny") -> list[dict[str, str]]:
    client = MlflowClient(tracking_uri=default_uri(output))
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id], f"tags.kind = '{kind}'")
    return [{**run.data.tags, **run.data.params, "status": run.info.status} for run in runs]


def test_the_last_line_says_what_was_found(tiny_run: TinyRun) -> None:
    output, ran = tiny_run
    document = ran.document
    assert document["study"] == "tiny"
    assert [size["name"] for size in document["sizes"]] == ["1x32", "1x64"]
    for size in document["sizes"]:
        assert size["trials"] == recipes.tiny().budget(recipes.tiny().size(size["name"]))
        assert size["failed"] == 0
        assert size["best"]["intermediate"] in ("none", "micro_topic")
        assert 0 <= size["best"]["dev_score"] <= 100
        assert size["params_body_m"] < size["params_m"]
        (bench,) = size["bench"]
        assert bench["variant"] == "fp32"
        assert bench["p50_ms"] > 0
        assert bench["throughput_sps"] > 0
    served = analysis.configurations(analysis.load(default_uri(output), "tiny"))
    front = served[served["on_front"]].sort_values("p50_ms")
    assert front["judged_by"].eq("mean without en").all()
    assert [(point["size"], point["variant"]) for point in document["pareto"]] == list(
        front[["size", "variant"]].itertuples(index=False, name=None)
    ), "the report's own"
    assert [point["score"] for point in document["pareto"]] == pytest.approx(front["score"].tolist())
    assert Path(document["report"]).is_file()
    assert {"pre-training", "search", "benchmark"} <= set(document["seconds"])


def test_both_launchers_ran_and_every_default_cell_was_finished(tiny_run: TinyRun) -> None:
    output, _ = tiny_run
    study = recipes.tiny()
    for size in study.sizes:
        result, done = load_result(study, size, open_journal(output))
        assert done
        complete = {trial.choice for trial in result.trials if trial.outcome == "complete"}
        assert complete >= set(study.space.defaults())
        store = StageStore(output)
        stages: list[Stage] = [study.pretrain(size)]
        stages += [stage for choice in study.space.defaults() for stage in study.chain(size, choice)]
        for stage in stages:
            found = store.find(stage)
            assert found is not None
            assert found.manifest["context"]["workers"] == size.resources.workers
            assert store.verify(stage) == []


def test_mlflow_holds_sizes_trials_and_benchmarks_as_parents_and_children(tiny_run: TinyRun) -> None:
    output, _ = tiny_run
    assert {run["size"] for run in _runs(output, "size")} == {"1x32", "1x64"}
    trials = _runs(output, "trial")
    assert len(trials) == 5
    assert all(run["mlflow.parentRunId"] for run in trials)
    assert {run["lr_intermediate"] for run in trials if run["intermediate"] == "none"} == {"none"}
    assert {run["status"] for run in trials if run["outcome"] == "complete"} == {"FINISHED"}
    assert len(_runs(output, "benchmark")) == 2
    frames = analysis.load(default_uri(output), "tiny")
    shares = frames.context["pretraining"]["1x32"]
    assert set(shares) == set(recipes.LANGUAGES)
    assert sum(shares.values()) == pytest.approx(1.0)
    energy = frames.benchmarks["unavailable"].iloc[0]
    assert any("energy" in name for name in energy), "without NVML energy is unavailable, with a reason"


def test_the_report_is_about_this_study(tiny_run: TinyRun) -> None:
    output, _ = tiny_run
    page = (output / "report.html").read_text(encoding="utf-8")
    for word in ("1x32", "1x64", "micro_topic", "micro_tagging", "fp32"):
        assert word in page


def test_the_same_command_again_trains_nothing_and_adds_no_run(tiny_run: TinyRun) -> None:
    output, first = tiny_run
    before = {path: path.stat().st_mtime_ns for path in output.glob("stages/*/manifest.json")}
    runs = {kind: len(_runs(output, kind)) for kind in ("size", "trial", "benchmark")}
    again = study_command("run", "tests/support/recipes.py:tiny", "--output", str(output))
    assert again.code == 0, again.err
    assert {path: path.stat().st_mtime_ns for path in output.glob("stages/*/manifest.json")} == before
    assert {kind: len(_runs(output, kind)) for kind in runs} == runs
    assert again.document["sizes"] == first.document["sizes"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"seed": 7}, "seed"), ({"trials": 4, "sizes": ("1x32",)}, "trials of size 1x32")],
)
def test_another_study_does_not_go_into_the_same_folder(tiny_run: TinyRun, changes: dict[str, Any], says: str) -> None:
    """Its finished searches would be taken for this study's."""
    output, _ = tiny_run
    with pytest.raises(CannotRun, match=rf"holds another study \(different (.*, )?{says}"):
        run_study(recipes.tiny().replace(**changes), Where(output))


def test_launchers_agree(tiny_run: TinyRun, tmp_path: Path) -> None:
    """The size that ran on two Ray Train workers with ZeRO-2, run in this process: the same losses and scores."""
    from trainables.stages.base import Workplace, ensure

    output, _ = tiny_run
    study = recipes.tiny()
    size, choice = study.sizes[1], study.space.defaults()[0]
    evaluate = study.chain(size, choice)[0]
    here = Workplace(StageStore(tmp_path))
    ensure(evaluate, here)
    for stage in (study.pretrain(size), evaluate.model):
        grouped, alone = StageStore(output).find(stage), here.store.find(stage)
        assert grouped is not None
        assert alone is not None
        assert alone.metrics["final_loss"] == pytest.approx(grouped.metrics["final_loss"], rel=1e-3)


def test_a_search_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    """The job is stopped in the middle of the first search, then its driver killed; the same command finishes it, and the
    repeats of its winners, without a trial too many."""
    output = tmp_path / "out"
    command = ["run", "tests/support/recipes.py:inline", "--output", str(output), "--repeats", "1"]
    code, said = _interrupted(command, signal.SIGTERM, output, "stages/evaluate-micro_tagging*/manifest.json")
    assert code == 128 + signal.SIGTERM
    assert "the same command goes on" in said
    for number, path in enumerate(path for path in output.rglob("*") if path.is_file()):
        os.utime(path, (0, 0) if number % 2 else (2**31, 2**31))  # another machine's clock may say anything
    stopped = {path: path.stat().st_mtime_ns for path in output.glob("stages/*/manifest.json")}
    code, _ = _interrupted(command, signal.SIGKILL, output, "stages/evaluate-micro_entailment*/manifest.json")
    assert code == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in output.glob("stages/*/manifest.json")}
    ran = study_command(*command)
    assert ran.code == 0, ran.err
    assert ran.document["sizes"][0]["trials"] == recipes.inline().trials
    after = {path: path.stat().st_mtime_ns for path in output.glob("stages/*/manifest.json")}
    assert {path: after[path] for path in {**stopped, **before}} == {**stopped, **before}, "a stage was made again"

    study = recipes.inline().replace(repeats=1)
    result, done = load_result(study, study.sizes[0], open_journal(output))
    assert done
    assert {one.outcome for one in result.repeats} == {"complete"}
    for kind, records in (("trial", result.trials), ("repeat", result.repeats)):
        runs = _runs(output, kind, experiment="inline")
        assert sorted(run["trial_id"] for run in runs) == sorted(record.trial_id for record in records)
        assert all(run["status"] != "RUNNING" for run in runs)
    assert {run["seed"] for run in _runs(output, "repeat", experiment="inline")} == {"1"}
    in_optuna = optuna.load_study(study_name="1x32", storage=open_journal(output))
    assert {trial.state.name for trial in in_optuna.trials} <= {"COMPLETE", "PRUNED"}
    assert len(in_optuna.trials) == study.trials


def _interrupted(arguments: list[str], number: int, output: Path, mark: str) -> tuple[int, str]:
    """Exit code and standard error of a command that gets a signal once there is a file of that pattern."""
    command = [sys.executable, "-m", "study", *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 240
    while not list(output.glob(mark)):
        assert time.monotonic() < deadline, "the search did not start"
        assert process.poll() is None, "the study ended before it was interrupted"
        time.sleep(0.05)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=120)
    return process.returncode, said


def test_a_failed_trial_is_named_and_the_rest_finishes(faulty_run: FaultyRun) -> None:
    ran = faulty_run.ran
    assert ran.code == 1, ran.err
    size, lost = ran.document["sizes"]
    assert size["failed"] == 1
    assert size["best"]["intermediate"] == "none"
    assert (lost["name"], lost["trials"], lost["best"]) == ("1x64", 0, None)
    assert any(line.startswith("failed: 1x64 pre-training: Diverged: loss") for line in ran.err.splitlines())
    assert "micro_topic" in ran.err.splitlines()[-1]
    assert "diverged" in ran.err.splitlines()[-1]
    report = Path(ran.document["report"]).read_text(encoding="utf-8")
    assert "diverged" in report
    assert "1x64: its encoder could not be made: Diverged" in report


def test_what_the_document_says_can_be_read_back(tiny_run: TinyRun) -> None:
    output, ran = tiny_run
    held = json.loads((output / "study.json").read_text(encoding="utf-8"))
    assert held["name"] == ran.document["study"]
    assert "training precision: fp32" in ran.err
