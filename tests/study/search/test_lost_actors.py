"""Ray's errors about a lost process: Tune restarts the trial, and the search goes on."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import (
    ActorDiedError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)

import study.search.sweep  # noqa: F401 - what a search imports
from study.search.lost_actors import LostActor, as_lost_actor

LOSSES = [
    OutOfMemoryError("Task was killed due to the node running low on memory.\nMemory on the node was 14 GB\n..."),
    NodeDiedError("the node is gone"),
    ObjectLostError("ab", None, "x"),
    RuntimeEnvSetupError("no pip"),
    WorkerCrashedError(),
]


@pytest.mark.parametrize("error", LOSSES, ids=lambda error: type(error).__name__)
def test_tune_takes_every_loss_for_a_dead_actor(error: Exception) -> None:
    told: list[Exception] = []
    actor = SimpleNamespace(actor_id=1, _on_error=lambda actor, raised: told.append(raised))
    task = SimpleNamespace(_tracked_actor=actor, _on_error=lambda actor, raised: told.append(raised))
    manager: Any = SimpleNamespace(_failed_actor_ids=set(), _cleanup_actor=lambda tracked_actor: None)
    RayActorManager._actor_task_failed(manager, tracked_actor_task=task, exception=error)
    assert [type(raised) for raised in told] == [LostActor, LostActor]
    assert isinstance(told[0], RayActorError)
    assert "\n" not in str(told[0])
    again = pickle.loads(pickle.dumps(told[0]))
    assert str(again) == str(told[0])
    assert again.for_memory == isinstance(error, OutOfMemoryError), "only then do micro-batches get smaller"


def test_a_kill_for_memory_says_what_to_do() -> None:
    assert "ran out of memory" in str(as_lost_actor(LOSSES[0]))
    assert "micro_batch" in str(as_lost_actor(LOSSES[0]))


def test_what_tune_knows_and_what_is_not_rays_stays() -> None:
    for error in (ActorDiedError(), ValueError("own")):
        assert as_lost_actor(error) is error
