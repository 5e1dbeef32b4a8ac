"""Commands that read a study in a bucket, on a machine that has nothing of it."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from study.benchmarking.stored import BestModel
from study.cli.app import app
from study.cli.bench_target import fetched
from study.errors import CannotRun
from study.run.bucket.driving import kept_in_bucket
from tests.support.kept_output import copied, with_weights
from tests.support.object_server import ObjectServer
from trainables.benchmark.measurement import Unavailable
from trainables.benchmark.subjects.rebuild import evaluation_of
from trainables.store.bucket.client import object_store
from trainables.store.bucket.location import WORK_VARIABLE, work_folder
from trainables.store.manifests import MANIFEST
from trainables.store.opening import open_store
from trainables.store.stage_store import Damaged


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study, with bytes in place of weights."""
    return with_weights(tmp_path_factory.mktemp("kept"))


@pytest.fixture
def url(folder: Path, object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(WORK_VARIABLE, str(tmp_path))
    url = object_server.new_url()
    copied(folder, object_store(url))
    return url


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.mark.slow
def test_sync_fills_a_database_of_the_study(url: str, tmp_path: Path) -> None:
    other = f"sqlite:///{tmp_path / 'other.db'}"
    ran = run("sync", url, "--tracking-uri", other)
    assert ran.exit_code == 0, ran.output
    assert f"{other} has everything" in ran.stdout
    ran = run("sync", url)
    assert ran.exit_code == 0, ran.output
    assert (work_folder(url) / "mlflow.db").is_file()


@pytest.mark.slow
def test_plan_takes_the_spread_of_a_study_in_a_bucket(url: str) -> None:
    recipe = "tests/support/recipes.py:tiny"
    ran = run("plan", recipe, "--detect", "1", "--from", url, "--output", url)
    assert ran.exit_code == 2
    assert f"--from {url}: no gain has two seeds" in ran.stderr, "it is read, and has too few seeds"
    assert f"{url}: no speed was measured before a search there" in ran.stdout


@pytest.mark.parametrize("command", ["watch", "ui", "sync"])
def test_a_prefix_without_a_study_is_refused(url: str, command: str) -> None:
    ran = run(command, f"{url}/nothing")
    assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1), ran.output
    assert "nothing" in ran.stderr


def test_watch_serves_the_page_and_follows(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    followed = list[Path]()

    def served(server: object, *, ended: object) -> None:
        followed.append(work_folder(url))

    monkeypatch.setattr("study.watch.server.serve", served)
    ran = run("watch", url)
    assert ran.exit_code == 0, ran.output
    assert ran.stdout.startswith("http://127.0.0.1:")
    assert followed
    assert (followed[0] / "study.json").is_file()


@pytest.mark.slow
def test_ui_serves_mlflow_beside_what_follows(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server is replaced by one that ends at once: MLflow's takes ten seconds to start."""
    started = list[list[str]]()
    popen = subprocess.Popen

    def other(arguments: list[str]) -> subprocess.Popen[bytes]:
        started.append(arguments)
        return popen([sys.executable, "-c", "raise SystemExit(3)"])

    monkeypatch.setattr(subprocess, "Popen", other)
    ran = run("ui", url, "--port", "5999")
    assert ran.exit_code == 3, ran.output
    assert f"sqlite:///{work_folder(url) / 'mlflow.db'}" in started[0]
    assert "http://127.0.0.1:5999" in ran.stdout


def test_a_stage_in_a_bucket_is_benchmarked_with_its_evaluation(url: str, folder: Path) -> None:
    name = next(path.parent.name for path in folder.glob(f"stages/target-*/{MANIFEST}"))
    for path in (folder / "stages" / name).rglob("*"):
        if path.is_file():
            object_store(url).upload(path, path.relative_to(folder).as_posix())
    store, fetched_to = fetched(f"{url}/stages/{name}")
    assert fetched_to == work_folder(url) / "stages" / name
    evaluation = evaluation_of(fetched_to)
    assert evaluation == evaluation_of(folder / "stages" / name)
    assert evaluation is not None
    store.remove_weights(name)
    with pytest.raises(Damaged, match="its weights were removed"):
        fetched(f"{url}/stages/{name}")
    assert open_store(work_folder(url)).lacks_weights(evaluation.model)


def test_a_prefix_is_no_checkpoint(url: str) -> None:
    ran = run("bench", url)
    assert ran.exit_code == 2
    assert "give a stage" in ran.stderr
    ran = run("bench", f"{url}/stages/none@0")
    assert ran.exit_code == 2
    assert "it is not finished" in ran.stderr
    ran = run("bench", "tests/support/recipes.py:tiny", "--output", f"{url}/nothing")
    assert ran.exit_code == 2
    assert f"{url}/nothing: no finished search" in ran.stderr


def test_a_bucket_where_a_path_is_needed_is_refused_with_what_is(url: str) -> None:
    for arguments in (("plan", "quickstart", "--data-root", url), ("verify", url)):
        ran = run(*arguments)
        assert ran.exit_code == 2
        assert "a path on this machine" in " ".join(ran.stderr.replace("│", "").split())
    ran = run("sync", url, "--tracking-uri", url)
    assert ran.exit_code == 2
    assert "an MLflow store" in " ".join(ran.stderr.replace("│", "").split())


def test_the_best_models_of_a_study_in_a_bucket_are_measured_as_its_only_driver(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without Ray: what it would measure is noted, and that a run on another machine is refused meanwhile."""
    measured = list[BestModel]()

    def measure(model: BestModel, console: object) -> dict[str, Unavailable]:
        measured.append(model)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(WORK_VARIABLE, str(tmp_path / "other"))
            other = work_folder(url)
        with pytest.raises(CannotRun, match="another run is using it"), kept_in_bucket(other):
            pass
        return {"fp32": Unavailable("not measured")}

    monkeypatch.setattr("study.benchmarking.run.measure_size", measure)
    monkeypatch.setattr("study.cluster.connection.connected", lambda address, access: nullcontext())
    ran = run("bench", "tests/support/recipes.py:tiny", "--output", url, "--sizes", "1x32")
    assert ran.exit_code == 1, ran.output
    assert [(model.size.name, model.output) for model in measured] == [("1x32", work_folder(url))]
    with kept_in_bucket(work_folder(url)):
        pass
