"""Secrets of the environment and of the tracking URI appear in nothing that a study prints, keeps or sends."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from study.redact import holds_password, redacted
from study.search.sweep import load_result
from study.search.trial_store import open_journal
from tests.conftest import CANARIES, URI_SECRET, FaultyRun, Ran, study_command
from tests.support import recipes
from tests.support.mlflow_stub import Stub

TinyRun = tuple[Path, Ran]


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _ray_session(ran: Ran) -> list[Path]:
    """Ray names a session after the process that started it."""
    found = [path for path in Path("/tmp/ray").glob(f"session_*_{ran.pid}") if path.is_dir()]
    assert found, "Ray's session is not where it is looked for"
    return found


def _check(output: Path, ran: Ran, secrets: Iterable[str]) -> int:
    """How many files were read; none may hold a secret."""
    hidden = [secret.encode() for secret in secrets]
    assert not [secret for secret in hidden if secret in (ran.out + ran.err).encode()]
    count = 0
    for path in _files([output, *_ray_session(ran)]):
        content = path.read_bytes()
        assert not [secret for secret in hidden if secret in content], path
        count += 1
    return count


def test_secrets_of_the_environment_appear_nowhere(tiny_run: TinyRun) -> None:
    output, ran = tiny_run
    assert _check(output, ran, CANARIES.values()) > 100


def test_a_study_whose_server_goes_away_ends_well_and_tells_no_password(faulty_run: FaultyRun) -> None:
    """With the password in the URI; `sync` then sends what the server lacks."""
    output, ran, stub = faulty_run.output, faulty_run.ran, faulty_run.stub
    assert stub.status == 503, "the server did not go away"
    assert "MLflow does not take results" in ran.err
    assert f"python -m study sync {output}" in ran.err
    assert "micro_tagging" in Path(ran.document["report"]).read_text(encoding="utf-8")
    assert _check(output, ran, [*CANARIES.values(), URI_SECRET]) > 100

    stub.status = None
    sent = study_command("sync", str(output), "--tracking-uri", stub.uri.replace("//", f"//user:{URI_SECRET}@"))
    assert sent.code == 0, sent.err
    assert URI_SECRET not in sent.out + sent.err
    _check_store(stub, output)


def _check_store(stub: Stub, output: Path) -> None:
    """The server holds the trials of the search, each once, as they ended."""
    study = recipes.diverging()
    result, done = load_result(study, study.sizes[0], open_journal(output))
    assert done
    runs = stub.by_key()
    assert {key for key in runs if key.startswith("trial:")} == {f"trial:1x32:{one.trial_id}" for one in result.trials}
    for trial in result.trials:
        run = runs[f"trial:1x32:{trial.trial_id}"]
        assert run["tags"]["outcome"] == trial.outcome
        last = {name: value for name, _, value, _ in sorted(run["metrics"], key=lambda point: point[1])}
        assert last.get("test/score") == trial.metrics.get("test_score")
        assert last["targets_finished"] == trial.metrics.get("targets_finished", 0)
    sent = str(stub.experiments) + str(stub.runs)
    assert not [secret for secret in [*CANARIES.values(), URI_SECRET] if secret in sent]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:secret@host/path", "https://***@host/path"),
        ("https://user:s@cret@host:80", "https://***@host:80"),
        ("postgresql+psycopg://u:p@db/x?sslpassword=abc&a=1", "postgresql+psycopg://***@db/x?sslpassword=***&a=1"),
        ("https://host/api?access_token=abc", "https://host/api?access_token=***"),
        ("run --tracking-uri https://u:p@h and mail me@host", "run --tracking-uri https://***@h and mail me@host"),
        ("https://host/a@b", "https://host/a@b"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_what_is_shown_of_a_uri(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert holds_password(text) == (shown != text)


def test_values_of_secret_variables_are_hidden_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "MY_API_KEY", "abcdef-12345")
    monkeypatch.setitem(os.environ, "MY_TOKEN", "on")
    monkeypatch.setitem(os.environ, "MY_FOLDER", "abcdef-folder")
    assert redacted("abcdef-12345 is on in abcdef-folder") == "*** is on in abcdef-folder"
