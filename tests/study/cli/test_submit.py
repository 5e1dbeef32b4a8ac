"""`submit` refuses bad input before it uploads anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.cli.app import app


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["quickstart"], "--output is missing"),
        (["quickstart", "--output", "here"], "--output here: a relative path"),
        (["quickstart", "--output", "/shared/x", "--data-root", "data"], "--data-root data: a relative path"),
        (["nope", "--output", "/shared/x"], "no recipe 'nope'"),
        (["quickstart", "--output", "/shared/x", "--tracking-uri", "http://me:hidden@host:5000"], "holds a password"),
        (["quickstart", "--output", "/shared/x", "--sizes", "7x7"], "no size '7x7'"),
        (["/tmp/mine.py:study", "--output", "/shared/x"], "the folder that is uploaded"),
        (["quickstart", "--output", "/shared/x", "--budget-hours", "0"], "number above 0"),
        (["quickstart", "--output", "/shared/x"], "no job server answers there"),
        (["quickstart", "--stop", "x"], "exactly one of RECIPE, --status JOB and --stop JOB"),
        ([], "exactly one of RECIPE, --status JOB and --stop JOB"),
    ],
)
def test_bad_input_is_refused_before_anything_is_uploaded(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # without a token
    ran = CliRunner().invoke(app, ["submit", *arguments, "--address", "http://127.0.0.1:1"])
    assert ran.exit_code == 2
    assert says in ran.stderr
    assert ran.stdout == ""


def test_a_job_gets_the_flags_of_its_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    class Submitted(Exception):
        pass

    def submit(server: object, entrypoint: list[str], name: str) -> str:
        raise Submitted(" ".join(entrypoint))

    monkeypatch.setattr("study.cli.submit._start", submit)
    monkeypatch.setattr("study.cluster.jobs.JobServer", lambda address: None)
    command = ["submit", "quickstart", "--output", "/shared/x"]
    for flags in (["--retry-collapsed"], ["--retry-failed", "--retry-collapsed"], ["--no-benchmark"], []):
        ran = CliRunner().invoke(app, [*command, *flags])
        assert isinstance(ran.exception, Submitted)
        assert str(ran.exception).endswith(" ".join(["--output /shared/x", *flags]))
