"""`doctor`: its checks, the fix it names, and its exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.cli import doctor
from study.cli.app import app
from study.cluster.preflight import Checked
from study.errors import CannotRun
from tests.support.commands import study_command


@pytest.mark.slow
@pytest.mark.ray
def test_doctor_checks_this_machine(tmp_path: Path) -> None:
    """Disk and memory depend on the machine; what is installed must be fit, or the other tests could not run.

    A TMPDIR too long for Ray's sockets is a warning: Ray starts in another folder.
    """
    folder = tmp_path / ("x" * (119 - len(str(tmp_path))))
    folder.mkdir()
    ran = study_command("doctor", timeout_s=240, environment={"TMPDIR": str(folder), "RAY_TMPDIR": ""})
    marked = [
        line for line in ran.out.splitlines() if line.startswith(("ok   ", "warn ", "FAIL "))
    ]  # others are DeepSpeed's
    lines = {line[5:].partition(":")[0]: line[:5] for line in marked}
    assert list(lines) == list(doctor.CHECKS)
    for name in ("python", "compiler", "torch", "deepspeed", "ports", "ray", "locks"):
        assert lines[name] == "ok   ", ran.out
    assert lines["temporary folder"] == "warn ", ran.out
    assert f"TMPDIR={folder} is" in ran.out
    assert ran.code == int("FAIL " in lines.values()), ran.err


def _unfit() -> str:
    raise doctor.Unfit("no space [here]; free some")


def _cannot_run() -> str:
    raise CannotRun("no folder; make one")


@pytest.mark.parametrize(
    ("checks", "code", "printed"),
    [
        ({"first": lambda: "1.0", "second": lambda: "2.0"}, 0, "ok   first: 1.0\nok   second: 2.0\n"),
        (
            {"first": _unfit, "second": lambda: "2.0"},
            1,
            "FAIL first: no space [here]; free some\nok   second: 2.0\n",
        ),
        (
            {"first": lambda: Checked("9 GB"), "second": lambda: Checked("1 GB", "only 1 GB; free some")},
            0,
            "ok   first: 9 GB\nwarn second: only 1 GB; free some\n",
        ),
        ({"first": _cannot_run}, 1, "FAIL first: no folder; make one\n"),
    ],
)
def test_doctor_runs_every_check_and_fails_if_one_does(
    checks: dict[str, Callable[[], str | Checked]], code: int, printed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", checks)
    ran = CliRunner().invoke(app, ["doctor"])
    assert ran.exit_code == code
    assert ran.stdout == printed


def test_a_missing_compiler_comes_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(doctor.Unfit, match=r"install g\+\+"):
        doctor.CHECKS["compiler"]()
