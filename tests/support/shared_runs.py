"""Studies that run once for several tests (fixtures `tiny_run` and `faulty_run`), with secrets in their environment."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.support.commands import CommandResult, study_command
from tests.support.mlflow_stub import Stub

# Secrets as a user's environment holds them. Nothing that a study leaves may contain one.
CANARIES = {
    name: f"canary-{name.lower()}"
    for name in (
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "HF_TOKEN",
        "AWS_SECRET_ACCESS_KEY",
        "WANDB_API_KEY",
    )
}
URI_SECRET = "canary-in-the-uri"


class TinyRun(NamedTuple):
    """The output folder of `recipes.tiny`, and the command that filled it."""

    output: Path
    command: CommandResult


class FaultyRun(NamedTuple):
    """The output folder of a study with faults, its command, and the server as the command left it."""

    output: Path
    command: CommandResult
    server: Stub


def run_tiny(output: Path) -> TinyRun:
    """The cut-down study with both launchers."""
    command = study_command("run", "tests/support/recipes.py:tiny", "--output", str(output), environment=CANARIES)
    assert command.code == 0, command.err
    return TinyRun(output, command)


def run_with_faults(output: Path, server: Stub) -> FaultyRun:
    """One of two trials diverges, and the MLflow server goes away after the first result; its URI holds a password."""

    def go_away(call: str) -> None:
        results = [run for run in server.active() if run["tags"]["kind"] == "trial" and run["metrics"]]
        if results and server.status is None:
            server.status = 503

    server.on_request = go_away
    uri = server.uri.replace("//", f"//user:{URI_SECRET}@")
    arguments = ("tests/support/recipes.py:diverging", "--output", str(output), "--tracking-uri", uri)
    command = study_command("run", *arguments, environment=CANARIES)
    server.on_request = lambda call: None
    return FaultyRun(output, command, server)
