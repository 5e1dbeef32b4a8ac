"""When a page is built again, and what is said of the run."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from study.watch.build import Built
from study.watch.live import SILENT_S, LivePage
from study.watch.status_file import STATUS_FILE


@dataclass
class FakeBuild:
    """A build that the test finishes."""

    built: Built | None = None
    stopped: bool = False

    def result(self) -> Built | None:
        return self.built

    def stop(self) -> None:
        self.stopped = True


@dataclass
class Watched:
    """A page of an output folder, with a clock and builds that the test controls."""

    folder: Path
    time_s: float = 1000.0
    builds: list[FakeBuild] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page = LivePage(self.folder, every_s=30, clock=self.clock, now=self.clock, start=self._start)

    def clock(self) -> float:
        return self.time_s

    def _start(self, output: Path) -> FakeBuild:
        assert output == self.folder
        self.builds.append(FakeBuild())
        return self.builds[-1]

    def tick(self, after_s: float = 0.0) -> dict[str, Any]:
        self.time_s += after_s
        self.page.tick()
        return self.page.document()

    def finish(self, html: bytes | None = b"page", **more: Any) -> dict[str, Any]:
        self.builds[-1].built = Built(html, **more)
        return self.tick()

    def store(self, content: bytes) -> None:
        (self.folder / "mlflow.db").write_bytes(content)

    def say(self, **more: Any) -> None:
        said: dict[str, Any] = {
            "state": "running",
            "phase": "search",
            "study": "1/9 stages",
            "sizes": ["a: 1/2 trials"],
            "stages": ["x"],
        }
        said |= {"reason": "", "host": socket.gethostname(), "started_s": 900.0, "written_s": self.time_s}
        (self.folder / STATUS_FILE).write_text(json.dumps(said | more))


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


def test_a_page_is_built_again_when_the_store_changed_and_not_too_soon(watched: Watched) -> None:
    assert watched.tick()["note"] == "The page appears with the first result."
    assert watched.builds == [], "there is nothing to read"
    watched.store(b"one")
    assert "The first page is being built." in watched.tick()["note"]
    assert watched.finish(b"first", cpu_s=1.0)["page"] == {"version": "1", "of_s": 1000.0}
    shown = watched.page.page
    assert shown is not None
    assert shown.html == b"first"
    watched.tick(after_s=100)
    assert len(watched.builds) == 1, "nothing changed"
    watched.store(b"two!")
    watched.tick()
    assert watched.finish(b"second", cpu_s=20.0)["page"]["version"] == "2"
    watched.store(b"three")
    watched.tick(after_s=100)
    assert len(watched.builds) == 2, "20 s of a core every 120 s would be more than a tenth of it"
    watched.tick(after_s=81)
    assert len(watched.builds) == 3
    assert "A build takes 20.0 s of a core" in watched.page.document()["note"]


def test_a_build_that_fails_says_why_and_is_not_repeated_in_vain(watched: Watched) -> None:
    watched.store(b"one")
    watched.tick()
    assert watched.finish(None, problem="no study in the store")["note"] == (
        "The page appears with the first result (no study in the store)."
    )
    watched.tick(after_s=1000)
    assert len(watched.builds) == 1


def test_a_build_that_fails_is_charged_the_time_it_took(watched: Watched) -> None:
    watched.store(b"one")
    watched.tick()
    watched.tick(after_s=20)
    watched.finish(None, problem="out of memory")
    watched.store(b"two!")
    watched.tick(after_s=179)
    assert len(watched.builds) == 1, "20 s every 199 s would be more than a tenth"
    watched.tick(after_s=2)
    assert len(watched.builds) == 2


def test_a_build_that_cannot_start_is_said_and_tried_again(tmp_path: Path) -> None:
    starts = list[Path]()

    def start(output: Path) -> FakeBuild:
        starts.append(output)
        if len(starts) == 1:
            raise OSError(28, "No space left on device")
        return FakeBuild()

    watched = Watched(tmp_path)
    watched.page = LivePage(tmp_path, every_s=30, clock=watched.clock, now=watched.clock, start=start)
    watched.store(b"one")
    assert "(no build starts: [Errno 28] No space left on device)" in watched.tick()["note"]
    watched.tick(after_s=29)
    assert len(starts) == 1
    assert "The first page is being built." in watched.tick(after_s=2)["note"]


@pytest.mark.parametrize("phase", ["benchmark", "timing encoders"])
def test_nothing_is_built_while_serving_speed_is_measured_here(watched: Watched, phase: str) -> None:
    watched.say()
    watched.store(b"one")
    watched.tick()
    watched.say(phase=phase)
    assert "waits while serving speed is measured" in watched.tick(after_s=1)["note"]
    assert watched.builds[0].stopped
    watched.tick(after_s=1)
    assert len(watched.builds) == 1
    watched.say(phase=phase, host="another machine")
    watched.tick(after_s=1)
    assert len(watched.builds) == 2, "a build here disturbs no measurement there"


def test_a_run_without_signs_of_life_is_said_to_be_silent(watched: Watched) -> None:
    watched.say()
    document = watched.tick()
    assert document["state"] == "running"
    assert document["headline"] == "Running: search. 1/9 stages."
    assert document["stages"] == ["x"]
    document = watched.tick(after_s=SILENT_S + 60)
    assert document["state"] == "silent"
    assert document["headline"].startswith("No sign of the run for 2 min: it was killed, or")
    assert document["stages"] == [], "nothing is known to run"
    watched.say(written_s=3.0)
    assert watched.tick()["state"] == "running", "the other machine's clock may be wrong"


def test_an_old_status_is_known_to_be_old_at_once(watched: Watched) -> None:
    watched.say(written_s=watched.time_s - 3600)
    assert watched.tick()["state"] == "silent"


def test_after_its_end_the_page_is_the_report_that_the_run_wrote(watched: Watched) -> None:
    watched.say()
    watched.store(b"one")
    watched.tick()
    watched.say(state="ended")
    (watched.folder / "report.html").write_bytes(b"final")
    document = watched.tick()
    assert (document["state"], document["headline"]) == ("ended", "The run has ended, and this is its report.")
    assert document["page"]["version"].startswith("final-")
    assert watched.builds[0].stopped
    page = watched.page.page
    assert page is not None
    assert page.html == b"final"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("interrupted", "The run was interrupted; the same command resumes it. 1/9 stages."),
        ("failed", "The run failed: why."),
    ],
)
def test_a_run_that_did_not_finish_says_so(watched: Watched, state: str, says: str) -> None:
    watched.say(state=state, reason="why")
    assert watched.tick()["headline"].startswith(says)


def test_what_an_earlier_run_said_does_not_count_for_one_that_starts(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.page = LivePage(tmp_path, since_s=950, clock=watched.clock, now=watched.clock, start=watched._start)
    watched.say(state="ended")
    assert watched.tick()["headline"] == "The run is starting."
    watched.say(started_s=960.0)
    assert watched.tick()["state"] == "running"
