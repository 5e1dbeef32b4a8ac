"""Progress on the console: a live display on a terminal, a line from time to time elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from study import console as console_module
from study.console import Console, Status, Timeline
from tests.support.commands import ROOT

STATUS = Status("3/9 stages, 1/4 trials; about 2 minutes left", ("a: 1/4 trials",), ("training x a: 1/6 steps",))


def test_elsewhere_the_study_and_its_stages_take_turns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console_module, "SHOW_EVERY_S", 0.01)
    shown = ""
    with Console(Timeline()).watch(lambda: STATUS):
        deadline = time.monotonic() + 60
        while shown.count("\n") < 3:
            assert time.monotonic() < deadline, "nothing was shown"
            time.sleep(0.01)
            shown += capsys.readouterr().err
    lines = shown.splitlines()
    assert lines[:3] == [f"[00:00]   {line}" for line in (STATUS.study, STATUS.stages[0], STATUS.study)]


def test_a_line_names_as_many_stages_as_fit() -> None:
    stages = tuple(f"training micro_tagging {size}: 1/40 steps, loss 2.000" for size in ("2x128", "3x160", "4x192"))
    line = Status("s", stages=stages).line(1)
    assert line == f"{stages[0]}; 2 more"
    assert len(f"[00:00]   {line}") < 80
    assert Status("s", stages=("scoring a: 1/2 examples", "scoring b: 1/2 examples")).line(1).count("scoring") == 2
    assert Status("s").line(1) == "s"


SCRIPT = """
import time
from study.console import Console, Status, Timeline
timeline = Timeline()
console = Console(timeline)
status = Status("3/9 stages; about 2 minutes left", ("a: 1/4 trials",), ("training x",))
with timeline.phase("search"), console.watch(lambda: status):
    time.sleep(2.5)
    console.say("a trial has ended")
    time.sleep(1.5)
print("result")
"""


@pytest.mark.slow
def test_a_terminal_has_one_live_display_with_lines_above_it() -> None:
    screen, terminal = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "60", "LINES": "20"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, stdout=subprocess.PIPE, stderr=terminal, env=environment, text=True
    )
    os.close(terminal)
    written = b""
    while True:
        try:
            chunk = os.read(screen, 4096)
        except OSError:  # the last process has closed the terminal
            break
        if not chunk:
            break
        written += chunk
    out, _ = process.communicate(timeout=240)
    assert (process.returncode, out) == (0, "result\n")
    text = written.decode()
    assert "search: 3/9 stages; about 2 minutes left" in text
    assert "training x" in text
    assert re.search(r"\x1b\[\d*A", text), "the display is drawn over the former one"
    above = text[text.index("a trial has ended") :]
    assert "3/9 stages" in above, "the display goes on below the line"
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l"), "the cursor is shown again"
