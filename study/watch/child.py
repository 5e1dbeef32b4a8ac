"""The watch of a run: a process that starts with the run and ends with it, however the run ends.

It holds the other end of a pipe. A run that is killed closes the pipe as well, so no server outlives it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from study.watch.live import LivePage
from study.watch.server import PortTaken, Server, serve

PATIENCE_S = 15.0  # for it to end


class WatchFailed(RuntimeError):
    """The watch did not start; the message says why."""


@contextmanager
def watched(output: Path, port: int | None) -> Iterator[str]:
    """Serve the page of the output folder while the block runs, and shortly after where somebody looks at it; the URL.

    Raises:
        WatchFailed: the port is taken.
    """
    command = [sys.executable, "-m", __name__, str(output.absolute()), *([] if port is None else [str(port)])]
    pipe = subprocess.PIPE
    # A process group of its own: Ctrl-C is the run's.
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, process_group=0) as watch:
        assert watch.stdin is not None
        assert watch.stdout is not None
        assert watch.stderr is not None
        url = watch.stdout.readline().strip()
        if not url:
            raise WatchFailed(watch.stderr.read().strip())
        try:
            yield url
        finally:
            watch.stdin.close()
            try:
                watch.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                watch.kill()


def main() -> None:
    """Serve the folder of the first argument, on the port of the second, until standard input ends."""
    output, port = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None
    try:
        server = Server(LivePage(output, since_s=time.time()), port)
    except PortTaken as error:
        sys.exit(f"--port {port}: {error.strerror}; choose another port")
    print(server.url, flush=True)
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    serve(server, ended=ended.is_set)


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


if __name__ == "__main__":
    main()
