"""MLflow's tags of a run's source: recipe, kind of start, commit, user."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from study.tracking import source
from study.tracking.source import git_commit, recipe_file, source_tags


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    ran = subprocess.run(["git", "-C", str(folder), *identity, *arguments], capture_output=True, text=True, check=True)
    return ran.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository whose remote holds a password, with a tracked recipe and one that is not."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "tracked.py").write_text("")
    _git(folder, "init", "--quiet")
    _git(folder, "remote", "add", "origin", "https://someone:canary-of-a-remote@example.org/a.git")
    _git(folder, "add", "tracked.py")
    _git(folder, "commit", "--quiet", "--message", "a")
    (folder / "untracked.py").write_text("")
    return folder


def test_the_commit_is_that_of_a_tracked_recipe_only(repository: Path, tmp_path: Path) -> None:
    head = _git(repository, "rev-parse", "HEAD")
    assert git_commit(repository / "tracked.py") == head
    assert git_commit(repository / "untracked.py") is None
    (tmp_path / "alone.py").write_text("")
    assert git_commit(tmp_path / "alone.py") is None
    assert source_tags(f"{repository / 'tracked.py'}:study")["mlflow.source.git.commit"] == head


def test_a_machine_without_git_has_no_commit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "mlflow.source.git.commit" not in source_tags(f"{repository / 'tracked.py'}:study")


def test_no_tag_holds_the_password_of_a_remote(repository: Path) -> None:
    tags = source_tags(f"{repository / 'tracked.py'}:study")
    assert "canary-of-a-remote" not in str(tags)


def test_the_source_is_the_recipe_and_how_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(source.RAY_JOB, raising=False)
    tags = source_tags("quickstart")
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("quickstart", "LOCAL")
    assert recipe_file("quickstart").name == "quickstart.py"
    monkeypatch.setenv(source.RAY_JOB, "{}")
    assert source_tags("quickstart")["mlflow.source.type"] == "JOB"


def test_a_user_without_a_name_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4242")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert "mlflow.user" not in source_tags("quickstart")
    monkeypatch.setattr("getpass.getuser", lambda: "ada")
    assert source_tags("quickstart")["mlflow.user"] == "ada"
