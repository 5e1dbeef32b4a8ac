"""SIGTERM and Ctrl-C in each phase of a run: one line, the exit code, and no stack traces."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from study.cli.interrupts import INTERRUPTED
from study.cluster.node_watch import LOST
from tests.support.commands import ROOT
from tests.support.shared_runs import TinyRun

pytestmark = [pytest.mark.slow, pytest.mark.ray]


class Running:
    """A command, and the lines that it has written to standard error."""

    def __init__(self, recipe: str, output: Path, *options: str) -> None:
        run = (sys.executable, "-m", "study", "run", f"tests/support/recipes.py:{recipe}")
        command = (*run, "--output", str(output), *options)
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored in background jobs
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, ready: Callable[[], object]) -> None:
        deadline = time.monotonic() + 600
        while not ready():
            assert self.process.poll() is None, "\n".join(["ended early", *self.lines])
            assert time.monotonic() < deadline, "\n".join(["too slow", *self.lines])
            time.sleep(0.05)

    def says(self, words: str) -> Callable[[], bool]:
        return lambda: any(words in line for line in self.lines)

    def interrupt(self, number: int) -> tuple[list[str], str]:
        """What it writes to standard error from the signal to its end, and to standard output."""
        before = len(self.lines)
        self.process.send_signal(number)
        self.process.wait(120)
        self._reader.join(30)
        assert self.process.stdout is not None
        return self.lines[before:], self.process.stdout.read()


@contextmanager
def _running(recipe: str, output: Path, *options: str) -> Iterator[Running]:
    running = Running(recipe, output, *options)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            os.kill(running.process.pid, signal.SIGKILL)


def _ends_with_one_line(running: Running, number: int) -> None:
    lines, out = running.interrupt(number)
    assert running.process.returncode == 128 + number
    assert out == ""
    # A line of progress may cross the signal.
    assert [line for line in lines if not line.startswith("[")] == [INTERRUPTED]
    assert lines[-1] == INTERRUPTED


@pytest.mark.parametrize(
    ("says", "number"),
    [
        ("training precision", signal.SIGINT),  # Ray starts
        ("pre-training 1x32", signal.SIGTERM),
    ],
)
def test_an_interrupted_phase_ends_with_one_line(says: str, number: int, tmp_path: Path) -> None:
    with _running("inline", tmp_path / "out") as running:
        running.wait_for(running.says(says))
        time.sleep(1.0)
        _ends_with_one_line(running, number)


def test_a_search_with_a_ray_train_group_ends_with_one_line(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with _running("tiny", output, "--sizes", "1x64") as running:
        running.wait_for(lambda: list(output.glob("stages/target-*-1x64*/manifest.json")))
        _ends_with_one_line(running, signal.SIGTERM)


def test_a_benchmark_ends_with_one_line(tiny_run: TinyRun, tmp_path: Path) -> None:
    """Of a copy of a finished study that has lost its measurements."""
    output = Path(shutil.copytree(tiny_run.output, tmp_path / "out"))
    shutil.rmtree(output / "benchmarks")
    with _running("tiny", output) as running:
        running.wait_for(running.says("benchmark 1x32"))
        time.sleep(1.0)
        _ends_with_one_line(running, signal.SIGINT)


@pytest.mark.parametrize(
    ("victim", "phase"), [("raylet", "pre-training 1x32"), ("ray::DashboardAgent", "searching 1x32")]
)
def test_a_run_whose_raylet_or_its_agent_is_killed_ends_with_the_reason(
    victim: str, phase: str, tmp_path: Path
) -> None:
    """Ray would end the run without a reason where it has objects in the lost node's store; elsewhere it would wait."""

    def is_victim(child: psutil.Process) -> bool:
        return child.name() == victim or " ".join(child.cmdline()).startswith(victim)

    with _running("inline", tmp_path / "out") as running:
        running.wait_for(running.says(phase))
        if phase.startswith("searching"):
            running.wait_for(lambda: list(tmp_path.glob("out/stages/target-*/manifest.json")))
        (process,) = filter(is_victim, psutil.Process(running.process.pid).children(recursive=True))
        process.kill()
        running.process.wait(180)
    assert running.process.returncode == 128 + signal.SIGTERM, "\n".join(running.lines)
    assert f"error: {LOST}" in running.lines
    assert running.lines[-1] == INTERRUPTED
