"""A study in a bucket: killed and resumed on another machine, refused to a second driver, read, and begun on a disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import optuna
import pytest
from typer.testing import CliRunner, Result

import analysis
from study.cli.app import app
from study.run.bucket.reading import readable
from study.search.journal import open_journal
from study.search.sweep import load_result
from study.tracking.tracker import default_uri
from tests.support import recipes
from tests.support.commands import study_command
from tests.support.object_server import SECRET, Fault, ObjectServer
from tests.support.shared_runs import TinyRun
from trainables.store.bucket.client import ObjectStore, object_store
from trainables.store.bucket.location import WORK_VARIABLE

pytestmark = [pytest.mark.slow, pytest.mark.ray]
RECIPE = "tests/support/recipes.py:inline"
PATIENCE_S = 600.0


def manifests(bucket: ObjectStore) -> dict[str, str]:
    """The tags of the finished stages' manifests."""
    names = [name for name in bucket.names("stages/") if name.endswith("/manifest.json")]
    return {name: present.tag for name in names if (present := bucket.get(name)) is not None}


def killed_after(bucket: ObjectStore, stage: str, *arguments: str, work: Path) -> str:
    """Kill a run and the Ray it started once the bucket has a stage whose name starts so; what a second driver was told."""
    process = subprocess.Popen(
        [sys.executable, "-m", "study", *arguments],
        env={**os.environ, WORK_VARIABLE: str(work)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    refused = ""
    until = time.monotonic() + PATIENCE_S
    try:
        while not any(name.startswith(f"stages/{stage}") for name in manifests(bucket)):
            assert time.monotonic() < until, "the search did not get that far"
            assert process.poll() is None, "the study ended before it was killed"
            if not refused and bucket.names("journal/"):
                second = study_command(*arguments, environment={WORK_VARIABLE: str(work.with_name("second"))})
                assert second.code == 2
                refused = second.err
            time.sleep(0.2)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return refused


def test_a_killed_study_goes_on_on_another_machine(object_server: ObjectServer, tmp_path: Path) -> None:
    url = object_server.new_url()
    bucket = object_store(url)
    command = ("run", RECIPE, "--output", url)
    refused = killed_after(bucket, "evaluate-micro_entailment", *command, work=tmp_path / "first")
    assert f"--output {url}: another run is using it, process " in refused
    assert " since " in refused
    before = manifests(bucket)
    (tmp_path / "first").rename(tmp_path / "gone")

    ran = study_command(*command, environment={WORK_VARIABLE: str(tmp_path / "other")})
    assert ran.code == 0, ran.err
    assert ran.document["output"] == url
    after = manifests(bucket)
    assert {name: after[name] for name in before} == before, "a stage was trained again"
    assert not bucket.names("checkpoints/")
    assert bucket.get("report.html") is not None

    output = readable_on(tmp_path / "third", url)
    study = recipes.inline()
    result, done = load_result(study, study.sizes[0], storage=open_journal(output))
    assert done
    in_optuna = optuna.load_study(study_name="1x32", storage=open_journal(output))
    assert len(in_optuna.trials) == len(result.trials) == study.trials
    frames = analysis.load(default_uri(output), "inline")
    assert sorted(frames.trials["trial_id"]) == sorted(trial.trial_id for trial in result.trials)
    no_secret_in(tmp_path, bucket, ran.out + ran.err + refused)

    bundle = tmp_path / "evidence.zip"
    environment = {WORK_VARIABLE: str(tmp_path / "fourth")}
    assert here("export", url, str(bundle), environment=environment).exit_code == 0
    assert here("verify", str(bundle)).exit_code == 0
    told = here("sync", url, environment=environment)
    assert told.exit_code == 0, told.output
    assert "has everything" in told.output
    removed = here("clean", url, "--yes", environment=environment)
    assert removed.exit_code == 0, removed.output
    assert "models removed" in removed.output
    assert manifests(bucket).keys() == after.keys()
    again = study_command(*command, environment=environment)
    assert again.code == 0, again.err
    assert again.document["sizes"] == ran.document["sizes"]


def here(*arguments: str, environment: Mapping[str, str] | None = None) -> Result:
    """A command in this process, which has imported everything."""
    return CliRunner().invoke(app, arguments, env=environment)


def readable_on(work: Path, url: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WORK_VARIABLE, str(work))
        return Path(readable(url))


def no_secret_in(folder: Path, bucket: ObjectStore, printed: str) -> None:
    assert SECRET not in printed
    for path in folder.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path
    for name in bucket.names(""):
        present = bucket.get(name)
        assert present is None or SECRET.encode() not in present.content, name


def test_a_study_that_was_begun_on_a_disk_goes_on_in_a_bucket(
    tiny_run: TinyRun, object_server: ObjectServer, tmp_path: Path
) -> None:
    """After a copy of its folder: what it finished is not trained again, and is in MLflow."""
    url = object_server.new_url()
    bucket = object_store(url)
    for path in tiny_run.output.rglob("*"):
        if path.is_file():
            bucket.upload(path, path.relative_to(tiny_run.output).as_posix())
    before = manifests(bucket)
    command = ("run", "tests/support/recipes.py:tiny", "--output", url)
    ran = study_command(*command, environment={WORK_VARIABLE: str(tmp_path)})
    assert ran.code == 0, ran.err
    assert ran.document["sizes"] == tiny_run.command.document["sizes"]
    assert manifests(bucket) == before


def test_a_bucket_that_does_not_answer_is_one_line(object_server: ObjectServer, tmp_path: Path) -> None:
    object_server.faults.append(Fault("GET", status=403, times=10**6))
    ran = study_command("run", RECIPE, "--output", object_server.new_url(), environment={WORK_VARIABLE: str(tmp_path)})
    assert ran.code == 2
    (line,) = (line for line in ran.err.splitlines() if line.startswith("error:"))
    assert "s3://" in line
    assert SECRET not in ran.err
