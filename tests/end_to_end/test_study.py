"""A whole study from the command line: results, MLflow, report, resuming, and a second run that repeats nothing."""

from __future__ import annotations

import json
import os
import re
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
from study.errors import CannotRun
from study.run.driver import RunOptions, run_study
from study.search.journal import open_journal
from study.search.sweep import load_result
from study.tracking.tracker import default_uri
from tests.support import recipes
from tests.support.commands import study_command
from tests.support.shared_runs import FaultyRun, TinyRun
from trainables.stages.base import Stage
from trainables.store.stage_store import StageStore

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def _runs(output: Path, kind: str, *, experiment: str = "tiny") -> list[dict[str, str]]:
    client = MlflowClient(tracking_uri=default_uri(output))
    stored = client.get_experiment_by_name(experiment)
    assert stored is not None
    runs = client.search_runs([stored.experiment_id], f"tags.kind = '{kind}'")
    return [{**run.data.tags, **run.data.params, "status": run.info.status} for run in runs]


def _manifest_times(output: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in output.glob("stages/*/manifest.json")}


def test_the_last_line_is_the_result_as_json(tiny_run: TinyRun) -> None:
    output, command = tiny_run
    document = command.document
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
    ), "the report's front"
    assert [point["score"] for point in document["pareto"]] == pytest.approx(front["score"].tolist())
    assert Path(document["report"]).is_file()
    assert {"pre-training", "search", "benchmark"} <= set(document["seconds"])


def test_both_launchers_ran_and_every_default_cell_was_finished(tiny_run: TinyRun) -> None:
    output, _ = tiny_run
    study = recipes.tiny()
    for size in study.sizes:
        result, done = load_result(study, size, storage=open_journal(output))
        assert done
        complete = {trial.choice for trial in result.trials if trial.outcome == "complete"}
        assert complete >= set(study.space.defaults())
        store = StageStore(output)
        stages: list[Stage] = [study.encoder_stage(size)]
        stages += [stage for choice in study.space.defaults() for stage in study.chain(size, choice)]
        for stage in stages:
            finished = store.find(stage)
            assert finished is not None
            assert finished.manifest["context"]["workers"] == size.resources.workers
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
    """Its title names the study, and its tables have rows for each size's variants and intermediate tasks."""
    output, command = tiny_run
    page = (output / "report.html").read_text(encoding="utf-8")
    title = re.search(r"<title>(.*?)</title>", page)
    assert title is not None
    assert "tiny" in title.group(1)
    rows = set(re.findall(r'<th scope="row">([^<]*)</th>', page))
    served = [(size["name"], bench["variant"]) for size in command.document["sizes"] for bench in size["bench"]]
    assert {f"{size} · {variant}" for size, variant in served} <= rows
    assert "micro_topic" in rows


def test_the_same_command_again_trains_nothing_and_adds_no_run(tiny_run: TinyRun) -> None:
    output, first = tiny_run
    before = _manifest_times(output)
    runs = {kind: len(_runs(output, kind)) for kind in ("size", "trial", "benchmark")}
    again = study_command("run", "tests/support/recipes.py:tiny", "--output", str(output))
    assert again.code == 0, again.err
    assert _manifest_times(output) == before
    assert {kind: len(_runs(output, kind)) for kind in runs} == runs
    assert again.document["sizes"] == first.document["sizes"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"seed": 7}, "seed"), ({"trials": 4, "sizes": ("1x32",)}, "trials of size 1x32")],
)
def test_the_folder_of_another_study_is_refused(tiny_run: TinyRun, changes: dict[str, Any], says: str) -> None:
    """Finished searches in it would be taken for this study's."""
    output, _ = tiny_run
    with pytest.raises(CannotRun, match=rf"holds another study \(different (.*, )?{says}"):
        run_study(recipes.tiny().replace(**changes), RunOptions(output))


def test_launchers_agree(tiny_run: TinyRun, tmp_path: Path) -> None:
    """The size that ran on two Ray Train workers with ZeRO-2 has the same losses when it runs in this process."""
    from trainables.stages.base import Workplace, ensure

    output, _ = tiny_run
    study = recipes.tiny()
    size, choice = study.sizes[1], study.space.defaults()[0]
    evaluate = study.chain(size, choice)[0]
    here = Workplace(StageStore(tmp_path))
    ensure(evaluate, here)
    for stage in (study.encoder_stage(size), evaluate.model):
        grouped, alone = StageStore(output).find(stage), here.store.find(stage)
        assert grouped is not None
        assert alone is not None
        assert alone.metrics["final_loss"] == pytest.approx(grouped.metrics["final_loss"], rel=1e-3)


def test_an_interrupted_search_resumes(tmp_path: Path) -> None:
    """SIGKILL ends the first run in the middle of a search. The second finishes it and the repeats of its winners, with no
    trial too many. `test_jobs` resumes a study after SIGTERM."""
    output = tmp_path / "out"
    command = ["run", "tests/support/recipes.py:inline", "--output", str(output), "--repeats", "1"]
    _kill_when_there(command, output, "stages/evaluate-micro_entailment*/manifest.json")
    for number, path in enumerate(path for path in output.rglob("*") if path.is_file()):
        os.utime(path, (0, 0) if number % 2 else (2**31, 2**31))  # another machine's clock may be wrong
    before = _manifest_times(output)
    ran = study_command(*command)
    assert ran.code == 0, ran.err
    assert ran.document["sizes"][0]["trials"] == recipes.inline().trials
    after = _manifest_times(output)
    assert {path: after[path] for path in before} == before, "a stage was trained again"

    study = recipes.inline().replace(repeats=1)
    result, done = load_result(study, study.sizes[0], storage=open_journal(output))
    assert done
    assert {repeat.outcome for repeat in result.repeats} == {"complete"}
    for kind, records in (("trial", result.trials), ("repeat", result.repeats)):
        runs = _runs(output, kind, experiment="inline")
        assert sorted(run["trial_id"] for run in runs) == sorted(record.trial_id for record in records)
        assert all(run["status"] != "RUNNING" for run in runs)
    assert {run["seed"] for run in _runs(output, "repeat", experiment="inline")} == {"1"}
    in_optuna = optuna.load_study(study_name="1x32", storage=open_journal(output))
    assert {trial.state.name for trial in in_optuna.trials} <= {"COMPLETE", "PRUNED"}
    assert len(in_optuna.trials) == study.trials


def _kill_when_there(arguments: list[str], output: Path, pattern: str) -> None:
    """Kill a command, with all that it started, as soon as a file matches the pattern."""
    process = subprocess.Popen(
        [sys.executable, "-m", "study", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 600
    while not list(output.glob(pattern)):
        assert time.monotonic() < deadline, "the search did not start"
        assert process.poll() is None, "the study ended before it was interrupted"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(240) == -signal.SIGKILL


def test_a_failed_trial_is_named_and_the_rest_finishes(faulty_run: FaultyRun) -> None:
    command = faulty_run.command
    assert command.code == 1, command.err
    size, lost = command.document["sizes"]
    assert size["failed"] == 1
    assert size["best"]["intermediate"] == "none"
    assert (lost["name"], lost["trials"], lost["best"]) == ("1x64", 0, None)
    assert any(line.startswith("failed: 1x64 pre-training: Diverged: loss") for line in command.err.splitlines())
    assert re.match(r"failed: 1x32 t000\d \(micro_topic\): diverged", command.err.splitlines()[-1])
    report = Path(command.document["report"]).read_text(encoding="utf-8")
    assert "1x64: its encoder could not be built: Diverged" in report


def test_the_folder_names_its_study(tiny_run: TinyRun) -> None:
    output, command = tiny_run
    identity = json.loads((output / "study.json").read_text(encoding="utf-8"))
    assert identity["name"] == command.document["study"]
    assert "training precision: fp32" in command.err
