"""What SIGTERM and Ctrl-C do to a run: one line on standard error, and the exit code 128 + signal."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

INTERRUPTED = "interrupted: finished work is kept; run the same command again to resume"
LIMIT_S = 10.0  # for the main thread to leave a call into compiled code, and for a last attempt to reach MLflow
SHOW_CURSOR = "\x1b[?25h"  # a live display hides it


@contextmanager
def interruptible() -> Iterator[None]:
    """Meanwhile a signal ends this process. A second one ends it at once.

    After the line nothing is printed: threads of Ray and Tune would report that their calls were cut off. The process ends
    without Python's own clean-up, as search threads still wait for Ray. What a run needs to resume is on disk before.
    """
    received: list[int] = []

    def handle(number: int, _: FrameType | None) -> NoReturn:
        if received:
            os._exit(128 + received[0])
        received.append(number)
        _announce()
        watchdog = threading.Timer(LIMIT_S, os._exit, [128 + number])
        watchdog.daemon = True
        watchdog.start()
        sys.exit(128 + number)

    former = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    handled = {number: handler for number, handler in former.items() if handler is not signal.SIG_IGN}
    for number in handled:
        signal.signal(number, handle)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if not received:  # while Ray starts, its own handler of SIGTERM is in place
            received.append(signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM)
            _announce()
        raise
    finally:
        if received:  # also where Ray turned the exit into another error
            os._exit(128 + received[0])
        for number, handler in handled.items():
            signal.signal(number, handler)


def _announce() -> None:
    """Print the line, and silence the process."""
    start = f"{SHOW_CURSOR}\n" if os.isatty(2) else ""
    os.write(2, f"{start}{INTERRUPTED}\n".encode())
    silent = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silent, stream)
