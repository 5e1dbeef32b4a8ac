"""`python -m study.watch.build OUTPUT INTO`: builds the report of an output folder from a copy of its store.

It writes `report.html` into the folder INTO, and prints the seconds of CPU time it took. It is a process of its own, for its
low priority, and for the memory that a report takes, which its end gives back.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from study.redact import redacted

PAGE = "report.html"
OUT, ERROR = "stdout.txt", "stderr.txt"
MOST_BYTES = 65536  # of the end of a text, in which its last line is sought
NICENESS = 10  # a tenth of a core that a training wants; at 19, the page of a busy machine would be minutes late


@dataclass(frozen=True)
class Built:
    """The page of a finished build and its cost, or why there is none."""

    page: bytes | None
    cpu_s: float = 0.0
    problem: str = ""


class Build:
    """A build that runs."""

    def __init__(self, output: Path) -> None:
        """Start it.

        Raises:
            OSError: there is no temporary folder, or no process starts.
        """
        self._folder = tempfile.TemporaryDirectory(prefix="study-watch-", ignore_cleanup_errors=True)
        self._into = Path(self._folder.name)
        try:
            # Files, as nobody reads while it runs: a pipe that is full would block it for ever.
            with (self._into / OUT).open("wb") as out, (self._into / ERROR).open("wb") as error:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", __name__, str(output.resolve()), self._folder.name],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=error,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    process_group=0,  # Ctrl-C ends the watch, which ends its build
                )
        except OSError:
            self._folder.cleanup()
            raise

    def result(self) -> Built | None:
        """The result; None while it runs."""
        if self._process.poll() is None:
            return None
        try:
            return self._built()
        except OSError as error:
            return Built(None, problem=problem_of(error))
        finally:
            self._folder.cleanup()

    def stop(self) -> None:
        """End it without a result."""
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def _built(self) -> Built:
        path = self._into / PAGE
        if self._process.returncode == 0 and path.is_file():
            return Built(path.read_bytes(), float(_last_line(self._into / OUT)))
        return Built(None, problem=_last_line(self._into / ERROR) or "the build was killed")


def problem_of(error: Exception) -> str:
    """An error in one line that can be shown."""
    return redacted(" ".join(str(error).split()))


def _last_line(path: Path) -> str:
    """The last line that is not blank; "" where there is none."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - MOST_BYTES))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


def main() -> None:
    """Build the page. A reason why it cannot be built is the last line of standard error, with exit code 1."""
    os.nice(NICENESS)
    import analysis
    from study.watch.snapshot import NoSnapshot, snapshot

    output, into = map(Path, sys.argv[1:])
    try:
        with tempfile.TemporaryDirectory(dir=into) as folder:
            frames = analysis.load(snapshot(output, Path(folder)))
            analysis.write_report(frames, into / PAGE, exports=False)
    except (NoSnapshot, ValueError, OSError) as error:
        sys.exit(problem_of(error))
    print(time.process_time())


if __name__ == "__main__":
    main()
