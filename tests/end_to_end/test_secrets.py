"""Nothing that a study prints, keeps or sends contains a secret of the environment or of the tracking URI."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from study.search.journal import open_journal
from study.search.sweep import load_result
from tests.support import recipes
from tests.support.commands import CommandResult, study_command
from tests.support.mlflow_stub import Stub
from tests.support.shared_runs import CANARIES, URI_SECRET, FaultyRun, TinyRun


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _ray_sessions(command: CommandResult) -> list[Path]:
    """Ray names a session after the process that started it."""
    sessions = [path for path in Path("/tmp/ray").glob(f"session_*_{command.pid}") if path.is_dir()]
    assert sessions, "no session of Ray to search"
    return sessions


def _search_for_secrets(output: Path, command: CommandResult, secrets: Iterable[str]) -> int:
    """How many files were searched; none may contain a secret."""
    hidden = [secret.encode() for secret in secrets]
    assert not [secret for secret in hidden if secret in (command.out + command.err).encode()]
    count = 0
    for path in _files([output, *_ray_sessions(command)]):
        content = path.read_bytes()
        assert not [secret for secret in hidden if secret in content], path
        count += 1
    return count


def test_secrets_of_the_environment_appear_nowhere(tiny_run: TinyRun) -> None:
    assert _search_for_secrets(tiny_run.output, tiny_run.command, CANARIES.values()) > 100


def test_a_study_outlives_its_server_and_shows_no_password(faulty_run: FaultyRun) -> None:
    """The URI holds the password. Afterwards `sync` sends what the server lacks."""
    output, command, server = faulty_run
    assert server.status == 503, "the server did not go away"
    assert "MLflow does not take results" in command.err
    assert f"python -m study sync {output}" in command.err
    assert Path(command.document["report"]).is_file()
    assert _search_for_secrets(output, command, [*CANARIES.values(), URI_SECRET]) > 100

    server.status = None
    sync = study_command("sync", str(output), "--tracking-uri", server.uri.replace("//", f"//user:{URI_SECRET}@"))
    assert sync.code == 0, sync.err
    assert URI_SECRET not in sync.out + sync.err
    _check_server(server, output)


def _check_server(server: Stub, output: Path) -> None:
    """The server holds each trial of the search once, as it ended."""
    study = recipes.diverging()
    result, done = load_result(study, study.sizes[0], storage=open_journal(output))
    assert done
    runs = server.by_key()
    assert {key for key in runs if key.startswith("trial:")} == {
        f"trial:1x32:{trial.trial_id}" for trial in result.trials
    }
    for trial in result.trials:
        run = runs[f"trial:1x32:{trial.trial_id}"]
        assert run["tags"]["outcome"] == trial.outcome.tag
        last = {name: value for name, _, value, _ in sorted(run["metrics"], key=lambda point: point[1])}
        assert last.get("test/score") == trial.metrics.get("test_score")
        assert last["targets_finished"] == trial.metrics.get("targets_finished", 0)
    sent = str(server.experiments) + str(server.runs)
    assert not [secret for secret in [*CANARIES.values(), URI_SECRET] if secret in sent]
