"""`python -m study bench`: of a stage's folder, a recipe, an architecture; and what it refuses."""

from __future__ import annotations

import fcntl
import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from study.cli.app import app
from study.errors import CannotRun
from study.recipes import load_recipe
from study.search.journal import JOURNAL, open_journal
from study.search.records import TrialOutcome
from study.search.trial_store import TrialStore, search_name
from tests.support import recipes
from tests.support.commands import study_command
from tests.support.serving import SHORT, plain_folder, target_stage
from tests.support.shared_runs import TinyRun
from trainables.benchmark.measurement import Failed, Measured, MeasurementOutcome, Unavailable
from trainables.benchmark.subjects.fresh import MeasurementBroke, Subject, measure_subject
from trainables.benchmark.subjects.plain import ArchitectureBenchmark, FolderBenchmark
from trainables.benchmark.subjects.rebuild import evaluation_of
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.store.stage_store import StageStore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_folder(tmp_path_factory.mktemp("encoder"))


def test_the_command_measures_a_stages_folder(tiny_run: TinyRun) -> None:
    output, _ = tiny_run
    folder = target_stage(output)
    ran = study_command(
        *("bench", str(folder), "--variants", "fp32,fp16", "--quick", "--device", "cpu"),
        *("--scenarios", "SingleStream,Server,Offline"),
    )
    assert ran.code == 0, ran.err
    (results,) = ran.document["results"].values()
    (unavailable,) = ran.document["unavailable"].values()
    assert set(results) == {"fp32"}
    assert "GPUs" in unavailable["fp16"]
    fp32 = results["fp32"]
    assert set(fp32["valid"]) == {"SingleStream", "Server", "Offline"}
    assert fp32["server_bound_ms"] == 100.0
    if fp32["server_qps"] is None:  # on a busy machine no rate may meet the bound
        assert any(word in fp32["unavailable"]["server_qps"] for word in ("100 ms", "p99"))
    else:
        assert fp32["server_p99_ms"] <= 100.0
    assert fp32["repeats"] == 1
    evaluation = evaluation_of(folder)
    assert evaluation is not None
    recorded = StageStore(output).find(evaluation)
    assert recorded is not None
    assert fp32["test_score"] == pytest.approx(recorded.metrics["test_mean"])
    for word in ("fp32", "p50 ms", "fp16", "by language", "VALID"):
        assert word in ran.out
    assert ran.document["command"].startswith("python -m study bench")


def test_the_command_measures_the_best_models_of_a_recipe(tiny_run: TinyRun) -> None:
    output, _ = tiny_run
    before = {path.name for path in output.glob("benchmarks/*")}
    options = ("--output", str(output), "--sizes", "1x32", "--quick", "--scenarios", "SingleStream", "--device", "cpu")
    ran = study_command("bench", "tests/support/recipes.py:tiny", *options, "--repeats", "2")
    assert ran.code == 0, ran.err
    fp32 = ran.document["results"]["1x32"]["fp32"]
    assert fp32["repeats"] == 2
    assert fp32["by_repeat"][0]["p50_ms"] != fp32["by_repeat"][1]["p50_ms"]
    assert set(fp32["scores"]) == {"micro_tagging", "micro_entailment", "micro_bitext"}
    after = {path.name for path in output.glob("benchmarks/*")}
    assert before < after, "the study's own measurements stay"
    assert "not tracked: only `run` writes to MLflow and the report" in ran.out


def test_the_command_measures_a_variant_that_a_recipe_defines(tiny_run: TinyRun) -> None:
    output, _ = tiny_run
    options = ("--output", str(output), "--sizes", "1x32", "--quick", "--scenarios", "SingleStream", "--device", "cpu")
    ran = study_command("bench", "tests/support/own_recipe.py:own_variant", *options)
    assert ran.code == 0, ran.err
    results = ran.document["results"]["1x32"]
    assert list(results) == ["fp32", "reversed"]
    assert results["reversed"]["p50_ms"] > 0
    assert results["reversed"]["scores"].keys() == results["fp32"]["scores"].keys()
    assert results["reversed"]["test_score"] < results["fp32"]["test_score"]
    assert list(output.glob("benchmarks/1x32-reversed@*.json"))


@pytest.fixture(scope="module")
def own_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an encoder that is scored on a task which a recipe defines."""
    study = load_recipe("tests/support/own_recipe.py:own_task")
    evaluation = Evaluate(study.encoder_stage(study.sizes[0], trained=False), study.targets[-1])
    store = StageStore(tmp_path_factory.mktemp("own"))
    ensure(evaluation, Workplace(store))
    return store.folder(evaluation.model)


@pytest.mark.slow
def test_a_folder_is_measured_on_the_task_of_its_recipe(own_task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainables.benchmark.settings.QUICK", SHORT)
    options = ["--quick", "--variants", "reversed,fp32", "--device", "cpu"]
    recipe = ["--recipe", "tests/support/own_recipe.py:own_task"]
    ran = CliRunner().invoke(app, ["bench", str(own_task), *recipe, *options])
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert "no serving variant 'reversed'" in ran.stderr, "its recipe has none"

    ran = CliRunner().invoke(app, ["bench", str(own_task), *recipe, *options[:1], "--variants", "fp32", *options[3:]])
    assert ran.exit_code == 0, ran.stderr
    fp32 = json.loads(ran.stdout.splitlines()[-1])["results"][str(own_task)]["fp32"]
    assert fp32["timed_task"] == "own_bitext"
    assert set(fp32["scores"]) == {"own_bitext"}


def test_a_folder_scored_on_an_unknown_task_is_measured_as_an_encoder_and_the_message_says_why(
    own_task: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subjects = []

    def fresh(subject: Subject, variant: str, **_: Any) -> Unavailable:
        subjects.append(subject)
        return Unavailable("not here")

    monkeypatch.setattr("study.benchmarking.fresh.run_fresh", fresh)
    for recipe, words in (
        ([], "the recipe that defines it"),
        (["--recipe", "tests/support/recipes.py:inline"], "another recipe, which defines it"),
    ):
        ran = CliRunner().invoke(app, ["bench", str(own_task), *recipe, "--quick", "--variants", "fp32"])
        message = " ".join(ran.stderr.split())
        assert "measured as an encoder alone, without scores: its class OwnBitext is not built in" in message
        assert f"name {words} with --recipe path/to/file.py:function" in message
    assert [type(subject) for subject in subjects] == [FolderBenchmark] * 2


@pytest.fixture
def searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a study whose search has ended; Ray is not started."""
    study, output = recipes.inline(), tmp_path / "out"
    output.mkdir()
    store = TrialStore(open_journal(output), search_name(study.sizes[0].name), space=study.space)
    number, scores = store.start(study.space.defaults()[0]), {"dev_score": 50.0, "test_score": 40.0}
    store.finish(number, TrialOutcome.COMPLETE, metrics=scores)
    monkeypatch.setattr("study.cluster.connection.connected", lambda address, access: nullcontext())
    return output


def bench_recipe(output: Path) -> Result:
    return CliRunner().invoke(
        app, ["bench", "tests/support/recipes.py:inline", "--output", str(output), "--device", "cpu"]
    )


def in_use(output: Path) -> bool:
    with open(output / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_recipe_is_not_measured_beside_a_run_in_its_folder(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would time models on the same cores, and a line that the run is writing would be cut off as torn."""
    journal = searched / JOURNAL
    journal.write_bytes(journal.read_bytes() + b'{"half a line')
    before = journal.read_bytes()
    with open(searched / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = bench_recipe(searched)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert (
        ran.stderr
        == f"error: --output {searched}: another run is using it; wait for that run or choose another folder\n"
    )
    assert journal.read_bytes() == before

    locked: list[bool] = []

    def measure(*_: object) -> dict[str, MeasurementOutcome]:
        locked.append(in_use(searched))
        return {"fp32": Failed("made up")}

    monkeypatch.setattr("study.benchmarking.run.measure_size", measure)
    ran = bench_recipe(searched)
    assert ran.exit_code == 1
    assert "fp32: failed: made up" in ran.stdout
    assert json.loads(ran.stdout.splitlines()[-1])["unavailable"] == {"1x32": {"fp32": "failed: made up"}}
    assert locked == [True], "no run can start while it measures"
    assert not in_use(searched)


def test_a_recipe_that_cannot_be_measured_is_refused_in_one_line(
    searched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_cluster(address: str | None, access: object) -> Any:
        raise CannotRun("no Ray cluster answers there (http://me:hidden@head)")

    monkeypatch.setattr("study.cluster.connection.connected", no_cluster)
    ran = bench_recipe(searched)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: no Ray cluster answers there")
    assert "hidden" not in ran.stderr
    assert ran.stderr.count("\n") == 1

    (searched / JOURNAL).write_text("nonsense\n")
    ran = bench_recipe(searched)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: the journal's study 1x32 is not a search of this study")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/nowhere/encoder"], "no such checkpoint folder"),
        (["nothing"], "no recipe 'nothing'"),
        (["nothing"], "xlm-r-base"),
        (["xlm-r-base", "--variants", "fp64"], "no serving variant 'fp64'"),
        (["xlm-r-base", "--scenarios", "MultiStream"], "no scenario MultiStream"),
        (["xlm-r-base", "--quick", "--strict"], "exclude each other"),
        (["xlm-r-base", "--device", "tpu"], "--device tpu"),
        (["xlm-r-base", "--device", "cuda"], "PyTorch sees no GPU"),
        (["quickstart", "--output", "runs/nowhere"], "no finished search"),
        (["tests"], "no encoder in it"),
        (["quickstart", "--recipe", "quickstart"], "only for a stage's folder"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(arguments: list[str], words: str) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    ran = CliRunner().invoke(app, ["bench", *arguments])
    assert ran.exit_code == 2
    assert words in ran.stderr


def test_a_journal_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(b"garbage\n{}\n")
    ran = CliRunner().invoke(app, ["bench", "tests/support/recipes.py:tiny", "--output", str(tmp_path)])
    assert ran.exit_code == 2
    assert f"{tmp_path / JOURNAL} cannot be read" in ran.stderr


def test_the_name_of_a_published_encoder_is_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    subjects = []

    def fresh(subject: Subject, variant: str, **_: Any) -> Unavailable:
        subjects.append(subject)
        return Unavailable("not here")

    monkeypatch.setattr("study.benchmarking.fresh.run_fresh", fresh)
    monkeypatch.setattr("trainables.benchmark.settings.QUICK", SHORT)
    options = ["--quick", "--variants", "fp32", "--device", "cpu", "--threads", "2"]
    ran = CliRunner().invoke(app, ["bench", "mt5-xxl", *options])
    assert subjects == [ArchitectureBenchmark("mt5-xxl", 2, SHORT, "cpu")]
    assert ran.exit_code == 1, "nothing was measured"
    assert json.loads(ran.stdout.splitlines()[-1])["unavailable"] == {"mt5-xxl": {"fp32": "not here"}}


def test_a_variant_that_breaks_is_reported_and_the_others_continue(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    def fresh(subject: Subject, variant: str, *, scored: bool, limit_s: float, **_: Any) -> Measured | Unavailable:
        assert 3600 < limit_s < 10 * 3600
        if variant == "bf16":
            raise MeasurementBroke("bf16: the process ended with code -9")
        return measure_subject(subject, variant, scored=scored)

    monkeypatch.setattr("study.benchmarking.fresh.run_fresh", fresh)
    monkeypatch.setattr("trainables.benchmark.settings.QUICK", SHORT)
    ran = CliRunner().invoke(app, ["bench", str(folder), "--quick", "--variants", "bf16,fp32", "--device", "cpu"])
    assert ran.exit_code == 0, ran.stderr
    document = json.loads(ran.stdout.strip().splitlines()[-1])
    assert set(document["results"][str(folder)]) == {"fp32"}
    assert document["unavailable"][str(folder)]["bf16"] == "failed: bf16: the process ended with code -9"
