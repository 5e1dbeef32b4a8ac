"""The command line: refusals before any work, and the commands that only read."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from typer.testing import CliRunner

from study.benchmarking.early import early_wanted
from study.cli.app import app
from study.run.driver import RunOptions, RunResult
from study.run.identity import check_identity
from study.spec import Study
from tests.support.commands import ROOT, study_command
from tests.support.shared_runs import TinyRun
from trainables.data.source import DATA_ROOT_VARIABLE


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run", "nope"], "no recipe 'nope'"),
        (["run", "missing.py:study"], "no file missing.py"),
        (["run", "tests/support/recipes.py:absent"], "no function 'absent'"),
        (["run", "tests/support/recipes.py:not_a_study"], "not a Study"),
        (["run", "quickstart", "--sizes", "7x7,8x8"], "no size '7x7'"),
        (["run", "quickstart", "--trials", "2"], "trials 2 of 2x128: at least 5"),
        (["run", "quickstart", "--trials", "many"], "valid integer"),
        (["run", "quickstart", "--bound-ms", "0"], "0.001"),
        (["run", "quickstart", "--data-root", "/no/such/folder"], "no such folder"),
        (["run", "quickstart", "--output", "/dev/null/x"], "is a file"),
        (["run", "quickstart", "--output", ""], "is empty"),
        (["run", "quickstart", "--output", "x" * 256], "more than 255 bytes"),
        (["run", "quickstart", "--output", "/".join(["x" * 100] * 6)], "SQLite opens no database"),
        (["run", "quickstart", "--output", "a?b"], "the path contains ?"),
        (["run", "quickstart", "--output", "a%20b#"], "the path contains # and %"),
        (["run", "quickstart", "--output", "a\nb"], "unprintable characters"),
        (["run", "quickstart", "--seed", str(2**31)], "seed 2147483648: must be from 0"),
        (["run", "quickstart", "--budget-price", "5"], "--budget-price and --price: give both"),
        *(
            (["run", "quickstart", f"{option}={value}", *others], "number above 0")
            for option, others in (
                ("--budget-hours", []),
                ("--budget-price", ["--price", "1"]),
                ("--price", ["--budget-price", "1"]),
            )
            for value in ("0", "-1", "nan", "inf", "much")
        ),
        (["report", ""], "is empty"),
        (["bench", ""], "is empty"),
        (["sync", ""], "is empty"),
        (["tasks", "--data-root", ""], "is empty"),
        (["plan", "nope"], "no recipe 'nope'"),
        (["rank", "nope"], "no recipe 'nope'"),
        (["rank", "quickstart", "--estimator", "nope"], "--estimator nope: unknown; choose from logme"),
        (["rank", "quickstart", "--estimator", ","], "--estimator ,: unknown; choose from logme"),
        (["rank", "quickstart", "--size", "7x7"], "--size 7x7: unknown; choose from 1x64"),
        (["rank", "quickstart", "--size", "1x64"], "no intermediate task to rank"),
        (["rank", "quickstart", "--output", "/dev/null/x"], "is a file"),
        (["report", "/no/such/folder"], "neither a folder with an mlflow.db"),
        (["ui", "/no/such/folder"], "no mlflow.db"),
    ],
)
def test_bad_input_is_refused_with_one_message_and_exit_code_2(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if arguments[0] in ("run", "rank") and "--output" not in arguments:
        arguments = [*arguments, "--output", str(tmp_path / "out")]
    monkeypatch.setenv(DATA_ROOT_VARIABLE, "")  # restored after the test
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 2
    assert says in ran.stderr
    assert ran.stdout == ""
    assert not (tmp_path / "out").exists(), "nothing may be created before the input is checked"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("\ndef study(:\n", "recipe.py, line 2: not Python: invalid syntax"),
        (
            "import no_such_module\n",
            "recipe.py cannot be imported: ModuleNotFoundError: No module named 'no_such_module'",
        ),
        ("def study(size):\n    pass\n", "needs size; a recipe is called without arguments"),
        ("def study():\n    return {}['absent']\n", "recipe.py, line 2)"),
        ("def study():\n    raise ValueError('a rule')\n", "recipe.py:study: a rule"),
    ],
)
def test_a_recipe_that_fails_is_refused_with_its_line(content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.py").write_text(content, encoding="utf-8")
    ran = CliRunner().invoke(app, ["plan", f"{tmp_path / 'recipe.py'}:study"])
    assert ran.exit_code == 2
    assert says in ran.stderr
    assert len(ran.stderr.splitlines()) == 1


def test_the_benchmark_s_bound_can_be_set_for_a_folder_that_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Study] = []

    def run_study(study: Study, options: RunOptions) -> RunResult:
        asked.append(study)
        check_identity(study, options.output)
        return RunResult({}, ())

    monkeypatch.setattr("study.run.driver.run_study", run_study)
    command = ["run", "tests/support/recipes.py:inline", "--output", str(tmp_path)]
    for options in ([], ["--bound-ms", "25"]):
        ran = CliRunner().invoke(app, [*command, *options])
        assert ran.exit_code == 0, ran.stderr
    assert [study.benchmark.resolved_settings().bound_ms for study in asked] == [100.0, 25.0]


@pytest.mark.slow
def test_all_errors_are_reported_at_once() -> None:
    ran = study_command("run", "quickstart", "--sizes", "a,b")
    assert ran.code == 2
    assert ran.err.count("error:") == 2
    assert "Traceback" not in ran.err
    assert ran.out == ""


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0, reason="root can write everywhere")
def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    ran = study_command("run", "quickstart", "--output", str(tmp_path / "out"))
    assert ran.code == 2
    assert "no permission to write" in ran.err


@pytest.mark.slow
def test_an_output_folder_in_use_is_refused(tmp_path: Path) -> None:
    import fcntl

    output = tmp_path / "out"
    output.mkdir()
    with open(output / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = study_command("run", "tests/support/recipes.py:inline", "--output", str(output))
    assert ran.code == 2
    assert "another run is using it" in ran.err


@pytest.mark.slow
def test_plan_shows_sizes_parameters_and_shared_stages() -> None:
    ran = study_command("plan", "quickstart")
    assert ran.code == 0
    # 2x128: a layer has 4 d^2 + 2 (d 4d) weights, 9d + 4d biases and norms: 12 d^2 + 13 d; two layers and the first norm.
    body = 2 * (12 * 128**2 + 13 * 128) + 2 * 128
    assert f"{body / 1e6:.2f} M" in ran.out
    for word in ("1x64", "2x128", "4x192", "inline", "Ray Train, ZeRO-2", "micro_paraphrase", "none"):
        assert word in ran.out


def test_report_needs_only_what_mlflow_holds(tiny_run: TinyRun, tmp_path: Path) -> None:
    output, _ = tiny_run
    page = tmp_path / "second.html"
    ran = study_command("report", str(output), "--to", str(page))
    assert ran.code == 0, ran.err
    assert "micro_tagging" in page.read_text(encoding="utf-8")


def test_ui_serves_the_study(tiny_run: TinyRun) -> None:
    output, _ = tiny_run
    port = 15000 + os.getpid() % 10000
    server = subprocess.Popen(
        [sys.executable, "-m", "study", "ui", str(output), "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        body = _search_experiments(port)
    finally:
        os.killpg(server.pid, 15)
        server.wait(120)
    assert '"tiny"' in body


def _search_experiments(port: int) -> str:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/search",
        data=b'{"max_results": 10}',
        headers={"Content-Type": "application/json"},
    )
    deadline = time.monotonic() + 300
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            assert time.monotonic() < deadline, "the UI did not come up"
            time.sleep(0.5)


def test_what_is_retried_reaches_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RunOptions] = []

    def run_study(study: Study, options: RunOptions) -> RunResult:
        asked.append(options)
        return RunResult({}, ())

    monkeypatch.setattr("study.run.driver.run_study", run_study)
    command = ["run", "tests/support/recipes.py:inline", "--output", str(tmp_path)]
    for flags in ([], ["--retry-failed"], ["--retry-collapsed"]):
        assert CliRunner().invoke(app, [*command, *flags]).exit_code == 0
    assert [(own.retry_failed, own.retry_collapsed) for own in asked] == [(False, False), (True, False), (False, True)]


def test_a_run_without_a_benchmark_times_nothing_in_the_same_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Study] = []

    def run_study(study: Study, options: RunOptions) -> RunResult:
        asked.append(study)
        return RunResult({}, ())

    monkeypatch.setattr("study.run.driver.run_study", run_study)
    command = ["run", "quickstart", "--output", str(tmp_path)]
    for flags in ([], ["--no-benchmark"]):
        assert CliRunner().invoke(app, [*command, *flags]).exit_code == 0
    whole, trained = asked
    assert whole.benchmark.variants
    assert trained.benchmark.variants == ()
    assert not early_wanted(trained)
    folder = tmp_path / "run"
    folder.mkdir()
    check_identity(trained, folder)
    check_identity(whole, folder)  # a later run in the folder adds the benchmark
