"""Does a study come to the same end whatever is killed, stopped, cut short or filled up meanwhile?

    python -m tests.benchmarks.chaos --minutes 30 --seed 1 [--bucket] [--study tiny] [--first 17] [--keep DIR]

A small study runs undisturbed once, and then again and again in new folders while a seeded monkey strikes it: it kills drivers,
trial actors, workers of groups, Ray's head and raylets, the MLflow server, or the whole machine; it stops processes for some
seconds, fills the disk, and cuts files short. The study's command is run again whenever it ends, until the study is finished. A
round runs on a cluster that is there already, or on a Ray that the driver starts itself.

With `--bucket` the output is in a bucket, in Google's protocol; its server is killed and stopped too, and a lost machine takes
its work folder with it. Files are then cut in the work folder.

After each round the invariants of `tests/support/chaos/invariants.py` are checked. Each fault is printed with its time and
victim, each violation with its round. A round's faults follow from seed and number: `--minutes 0 --first ROUND` repeats one.
`--keep` copies the folders of rounds with violations. The document says which faults are not injected, and why.

Filling the disk needs root, for a small file system of its own. The last line is one JSON document; the exit code is 1 after a
violation.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from tests.support.chaos.plan import StudyName
from tests.support.chaos.processes import run_guarded

Minutes = Annotated[float, typer.Option(min=0, help="no round starts after this long")]
Seed = Annotated[int, typer.Option(help="of the faults")]
Study = Annotated[StudyName, typer.Option(help="a recipe of tests/support/chaos/recipe.py")]
First = Annotated[int, typer.Option(min=1, help="number of the first round")]
InBucket = Annotated[bool, typer.Option("--bucket", help="keep the output in a bucket, whose server is struck too")]
Keep = Annotated[Path | None, typer.Option(help="folder for output and logs of rounds with violations")]


def main(
    minutes: Minutes = 30.0,
    seed: Seed = 0,
    study: Study = "tiny",
    first: First = 1,
    keep: Keep = None,
    bucket: InBucket = False,
) -> None:
    """Print each fault, and one JSON line."""
    kept = None if keep is None else keep.absolute()

    def work(folder: Path) -> int:
        # Imported here, in the child: the process that guards it stays small.
        from tests.support.chaos.campaign import Options, run_campaign

        document = run_campaign(folder, Options(minutes, seed, study, first, kept, bucket), say)
        print(json.dumps(document), flush=True)
        return 1 if document["violations"] else 0

    raise typer.Exit(run_guarded(work))


def say(line: str) -> None:
    """Print a line at once, so that a log shows the last fault before a crash."""
    print(f"[{time.strftime('%H:%M:%S')}] {line}", flush=True, file=sys.stdout)


if __name__ == "__main__":
    typer.run(main)
