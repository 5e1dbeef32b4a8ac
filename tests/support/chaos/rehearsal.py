"""Rounds against a stand-in for a study, which takes a second: `python -m tests.support.chaos.rehearsal PLAN [--again]`.

PLAN is a JSON list of faults, each the fields of a `plan.Fault`. The last line is what the rounds left, as JSON. The stand-in
is this module too, with `run` as its first argument: it commits stages one by one, resumes where it was, and has children with
the titles of Ray's processes. With `--again` it trains a finished stage again.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STAGES, STAGE_S = 12, 0.15
TITLES = ("ray::ImplicitFunc.train", "ray::RayTrainWorker.run", "ray::IDLE", "/ray/gcs_server", "/ray/raylet")


def stand_in(output: Path, *, again: bool) -> int:
    """What a study does, without anything that takes time: exit code 1 where the disk is full, 0 at the end."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    children = [
        subprocess.Popen(
            [title, "-c", f"import time\nwhile {os.getpid()} == __import__('os').getppid(): time.sleep(0.05)"],
            executable=sys.executable,
        )
        for title in TITLES
    ]
    try:
        output.mkdir(exist_ok=True)
        for number in range(STAGES):
            time.sleep(STAGE_S)
            if any(child.poll() is not None for child in children[3:]):
                return 1  # without head or raylet there is no Ray
            _commit(output, number, again=again and number == 0)
        _deliver(output)
    except OSError:
        return 1
    finally:
        for child in children:
            child.kill()
            child.wait()
    return 0


def _commit(output: Path, number: int, *, again: bool) -> None:
    folder = output / "stages" / f"s{number:02d}@0"
    if not again and _is_whole(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"files": {}, "at": time.time_ns(), "fill": "x" * 2**16})
    (folder / "weights").write_text(hashlib.sha256(content.encode()).hexdigest())
    temporary = folder / ".manifest"
    temporary.write_text(content)
    temporary.rename(folder / "manifest.json")
    with open(output / "optuna.journal", "a") as journal:
        journal.write(f"{number}\n")


def _is_whole(folder: Path) -> bool:
    try:
        json.loads((folder / "manifest.json").read_text())
        return len((folder / "weights").read_text()) == 64
    except (OSError, ValueError):
        return False


def _deliver(output: Path) -> None:
    (output / "outbox").mkdir(exist_ok=True)
    (output / "outbox" / "journal.jsonl").write_text("{}\n")
    (output / "outbox" / "receipt-0.json").write_text('{"offset": 3}')


class NoTrials:
    """The stand-in has none."""

    def stored_trials(self, output: Path) -> tuple[Any, ...]:
        return ()

    outbox_runs = stored_trials

    def mlflow_runs(self, uri: str, experiment: str) -> tuple[Any, ...]:
        return ()


def rehearse(folder: Path, faults: Sequence[dict[str, Any]], *, again: bool) -> int:
    """A round with the faults on the driver's own Ray."""
    from tests.support.chaos.lab import Lab
    from tests.support.chaos.places import Folder
    from tests.support.chaos.plan import Fault, Plan
    from tests.support.chaos.rounds import Round, Subject
    from tests.support.chaos.servers import Server

    class Files(Server):
        """A server that starts in no time."""

        name = "files"

        def command(self) -> list[str]:
            return [
                sys.executable,
                "-m",
                "http.server",
                str(self.port),
                "--bind=127.0.0.1",
                f"--directory={self.folder}",
            ]

        @property
        def health(self) -> str:
            return self.url

    program = (sys.executable, "-m", "tests.support.chaos.rehearsal", *(["--again"] if again else []))
    plan = Plan(1, False, tuple(Fault(**fault) for fault in faults))
    lab = Lab(folder, servers=[Files])
    said: list[str] = []
    try:
        subject = Subject("stand-in", "none", {}, NoTrials(), program)
        current = Round(plan, lab, subject, Folder(lab.disk, "stand-in-1"), 2 * STAGES, 60.0, said.append)
        current.run()
        evidence = current.evidence()
    finally:
        lab.end()
    document = {
        "said": said,
        "struck": current.monkey.struck,
        "cut": evidence.cut,
        "codes": [run.code for run in evidence.commands],
        "left": [title for run in evidence.commands for title in run.left],
        "commits": {stage: len(commits) for stage, commits in evidence.commits.items()},
        "disk_can_fill": lab.disk_can_fill,
    }
    print(json.dumps(document), flush=True)
    return 0


if __name__ == "__main__":
    if "run" in sys.argv:
        sys.exit(stand_in(Path(sys.argv[sys.argv.index("--output") + 1]), again="--again" in sys.argv))
    from tests.support.chaos.processes import run_guarded

    given = json.loads(sys.argv[1])
    sys.exit(run_guarded(lambda folder: rehearse(folder, given, again="--again" in sys.argv)))
