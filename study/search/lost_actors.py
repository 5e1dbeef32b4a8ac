"""Ray's errors for a process that is gone, made known to Tune.

Tune restarts a trial whose actor died. But where Ray's memory monitor killed the process, or its node, runtime environment or
results are gone, Ray raises other errors than `RayActorError`. Tune's actor manager knows none of them and ends the whole
search with its own RuntimeError.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ray.cloudpickle
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError

_handle = RayActorManager._actor_task_failed


class LostActor(RayActorError):  # type: ignore[misc]
    """An actor's process is gone, for the reason that the message gives in one line; `for_memory`: Ray's memory monitor."""

    def __init__(self, reason: str = "its process was lost", *, for_memory: bool = False) -> None:
        super().__init__(error_msg=reason)
        self.reason, self.for_memory = reason, for_memory

    def __str__(self) -> str:
        return self.reason

    def __reduce__(self) -> tuple[Any, ...]:
        return _lost_actor, (self.reason, self.for_memory)


def _lost_actor(reason: str, for_memory: bool) -> LostActor:
    return LostActor(reason, for_memory=for_memory)


def as_lost_actor(error: Exception) -> Exception:
    """The error, as one that Tune takes for a dead actor where it is Ray's and Tune does not expect it."""
    if not isinstance(error, RayError) or isinstance(error, (RayActorError, RayTaskError)):
        return error
    if isinstance(error, OutOfMemoryError):
        return LostActor(
            "the machine ran out of memory, and Ray ended the process that used most; a larger memory_gb lets fewer run at "
            "once, and a smaller micro_batch takes less",
            for_memory=True,
        )
    lines = str(error).strip().splitlines() or [""]
    return LostActor(f"{type(error).__name__}: {lines[0]}"[:500])


def latest_error(trial: Any) -> Exception | None:
    """What a Tune trial was last lost to or failed with; None if Tune kept no error.

    Tune writes it on this machine. Its own `get_pickled_error` looks in the storage, where the file arrives at the end.
    """
    path = trial.pickled_error_file
    if path is None or not Path(path).exists():
        return None
    error: Exception = ray.cloudpickle.loads(Path(path).read_bytes())
    return error


def expect_all_losses() -> None:
    """Let Tune treat every error of Ray's about a lost process as a dead actor, in this process and from now on."""

    def handle(manager: Any, tracked_actor_task: Any, exception: Exception) -> None:
        _handle(manager, tracked_actor_task=tracked_actor_task, exception=as_lost_actor(exception))

    RayActorManager._actor_task_failed = handle
