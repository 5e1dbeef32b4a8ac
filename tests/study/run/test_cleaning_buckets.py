"""`clean` and `run --keep best` of a study in a bucket: the rules of a folder, and no other driver at the same time."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from study.run.bucket.driving import kept_in_bucket
from study.run.bucket.reading import refresh
from study.run.cleaning import Cleaner
from study.search.journal import open_journal
from tests.study.run import test_cleaning as on_disk
from tests.study.run.test_cleaning import record_again, run, trained
from tests.support.commands import study_command
from tests.support.kept_output import copied
from tests.support.object_server import ObjectServer
from trainables.store.bucket.client import ObjectStore, object_store
from trainables.store.bucket.location import WORK_VARIABLE, work_folder
from trainables.store.bucket.segments import Segments, Superseded
from trainables.store.opening import open_store
from trainables.store.removal import SUFFIX

output = on_disk.output


@pytest.fixture
def url(output: Path, object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Of a copy of the finished study."""
    monkeypatch.setenv(WORK_VARIABLE, str(tmp_path / "work"))
    record_again(output)
    url = object_server.new_url()
    copied(output, object_store(url))
    return url


def weights(bucket: ObjectStore) -> set[str]:
    """The names of stages with weights."""
    return {name.split("/")[1] for name in bucket.names("stages/") if name.endswith(SUFFIX)}


def test_clean_lists_and_then_removes_models_of_other_trials(output: Path, url: str) -> None:
    bucket = object_store(url)
    before, others, kept = weights(bucket), trained(output, best=False), trained(output, best=True)
    listed = run("clean", url)
    assert listed.exit_code == 0, listed.output
    assert {line.split("  ")[0] for line in listed.stdout.splitlines() if "target-" in line} == others
    assert weights(bucket) == before

    removed = run("clean", url, "--yes")
    assert removed.exit_code == 0, removed.output
    assert f"{len(others)} models removed" in removed.stdout
    assert kept <= weights(bucket) == before - others
    store = open_store(work_folder(url))
    assert all(store.find(evaluate) is not None for evaluate in on_disk.chains(output, best=False)), "scores stay"
    assert "nothing to remove" in run("clean", url).stdout


def test_a_study_that_a_driver_runs_and_a_prefix_without_one_are_refused(url: str, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(WORK_VARIABLE, str(tmp_path / "head"))
        head = work_folder(url)
    head.mkdir(parents=True)
    with kept_in_bucket(head):
        ran = run("clean", url, "--yes")
    assert (ran.exit_code, ran.stderr.count("\n")) == (2, 1)
    assert f"{url}: another run is using it, process " in ran.stderr
    ran = run("clean", f"{url}/nothing")
    assert ran.exit_code == 2
    assert f"{url}/nothing: no optuna.journal" in ran.stderr
    assert object_store(f"{url}/nothing").names("") == [], "nothing is created there"


def test_a_run_remembers_what_it_has_looked_at(url: str, object_server: ObjectServer) -> None:
    output = work_folder(url)
    assert refresh(output)
    cleaner, storage = Cleaner(output), open_journal(output)
    assert cleaner.remove(cleaner.superfluous(storage))
    assert not cleaner.superfluous(storage).stages
    object_server.requests.clear()
    assert not cleaner.superfluous(storage).stages
    assert len(object_server.requests) == 1, "a listing"


@pytest.mark.slow
def test_a_run_that_keeps_the_best_removes_the_others(output: Path, url: str) -> None:
    """Of a finished study, so nothing is trained."""
    bucket = object_store(url)
    before, others = weights(bucket), trained(output, best=False)
    command = study_command("run", "tests/support/recipes.py:tiny", "--output", url, "--keep", "best")
    assert command.code == 0, command.err
    assert f"removed {len(others)} models that are no longer needed" in command.err
    assert weights(bucket) == before - others
    assert bucket.get("status.json") is not None
    assert bucket.get("report.html") is not None


def test_a_driver_that_was_taken_for_dead_removes_nothing(url: str, tmp_path: Path) -> None:
    output = work_folder(url)
    output.mkdir(parents=True)
    with pytest.raises(Superseded), kept_in_bucket(output) as shipping:  # noqa: PT012 - it is raised at the end of the block
        assert shipping is not None
        with mock.patch.object(shipping, "check"):  # its own thread may have noticed
            other = tmp_path / "other"
            Segments(object_store(url), other).take_over()
            shipping.ship()
