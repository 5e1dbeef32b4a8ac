"""`run --watch`: the page of a run, served by a process that ends with it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from study.watch.status_file import RunState, read_status
from tests.support.commands import started_command
from tests.support.kept_output import unpack

RECIPE = "tests/support/recipes.py:tiny"


@pytest.mark.slow
def test_a_run_is_served_until_it_ends_and_an_open_page_gets_its_report(tmp_path: Path) -> None:
    """The study was finished before, so that the run starts no Ray."""
    output = unpack(tmp_path).folder
    (output / "report.html").unlink(missing_ok=True)
    with started_command("run", RECIPE, "--output", str(output), "--watch") as run:
        assert run.stdout is not None
        assert run.stderr is not None
        says, _, url = run.stderr.readline().strip().partition(" ")
        assert says == "watch:"
        states, page = list[str](), None
        while page is None:
            status = json.loads(urlopen(f"{url}status.json", timeout=240).read())
            states.append(status["headline"])
            if status["state"] == RunState.ENDED and status["page"]:
                page = urlopen(f"{url}report.html", timeout=240).read()
            time.sleep(0.2)
        out, error = run.communicate(timeout=300)
    assert run.returncode == 0, error
    assert json.loads(out)["report"] == str(output / "report.html"), "standard output has the result alone"
    assert page == (output / "report.html").read_bytes()
    assert states[0].startswith(("The run is starting.", "Running: "))  # a busy machine asks late
    assert any(state.startswith("Running: ") for state in states)
    with pytest.raises(URLError, match="refused"):
        urlopen(url, timeout=240)
    ended = read_status(output)
    assert ended is not None
    assert ended.state is RunState.ENDED
