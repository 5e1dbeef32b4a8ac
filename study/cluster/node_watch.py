"""Ends a run whose own node of Ray is lost.

A process is connected to Ray through the raylet of its node, which also ends when one of its agents does. Without it no task of
a local Ray would ever run again. Ray fails tasks that are to start with `LocalRayletDiedError`, and actors that ran with
`ActorDiedError`; anything else waits for a node without end. Nodes of workers are another matter: they may come back.

Two cases are beyond the reach of this process. Ray ends it with exit code 1, and no reason but in its own logs, where it has
objects in the lost node's store (`ray.put`, or arguments and results of more than 100 KB): they could not be marked as lost
there. So nothing here may keep such objects (`study.search.sweep`). And where the control store is lost, Ray ends the process
after `RAY_gcs_rpc_server_reconnect_timeout_s` (a minute).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import LocalRayletDiedError

EVERY_S = 5.0
LOST = (
    "Ray on this machine was lost: its raylet has ended, and without it nothing would run again; raylet.out in Ray's logs may "
    "say why"
)


def is_lost(node: str) -> bool:
    """Whether Ray knows that the node with this id is dead; False where Ray does not answer."""
    try:
        return any(known["NodeID"] == node and not known["Alive"] for known in ray.nodes())
    except Exception:  # Ray raises many classes while it shuts down or reconnects
        return False


def interrupt_this_process(reason: str = LOST) -> None:
    """Print why, and end as after SIGTERM: what is finished is kept, and the same command resumes."""
    print(f"error: {reason}", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


def end_if_lost(error: BaseException) -> None:
    """End the process if the error comes of a lost node of its own: no encoder, benchmark or folder is to blame for it.

    Called from the main thread, where the signal of `interrupt_this_process` raises SystemExit before this returns.
    """
    if isinstance(error, (KeyboardInterrupt, SystemExit)) or not ray.is_initialized():
        return
    if type(error) is LocalRayletDiedError or is_lost(ray.get_runtime_context().get_node_id()):
        interrupt_this_process()


@contextmanager
def ending_with_node(
    node: str,
    *,
    every_s: float = EVERY_S,
    lost: Callable[[str], bool] = is_lost,
    end: Callable[[], None] = interrupt_this_process,
) -> Iterator[None]:
    """Meanwhile `end` is called once the node with this id is lost."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            if lost(node):
                end()
                return

    threading.Thread(target=watch, name="ray node watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()
