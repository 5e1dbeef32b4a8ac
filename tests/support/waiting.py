"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 240.0


def wait_for(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds.

    Raises:
        AssertionError: it never held within `PATIENCE_S`.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
