"""The benchmark under Ray: a subject in an actor of its own, with nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray
from ray.exceptions import GetTimeoutError

from trainables.benchmark.subjects.fresh import SERVING_ENVIRONMENT, Subject, outcome

START_PATIENCE_S = 900.0  # what groups of training workers have too: a cloud's machine and its image take minutes


class NoNode(RuntimeError):
    """The cluster had no node for the measurement in time."""


@ray.remote(max_restarts=0, max_concurrency=1)
class BenchmarkActor:
    """One subject in one process, one measurement at a time. Never restarted: a broken measurement is redone whole."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def ready(self) -> None:
        """Returns once the actor has its node."""

    def run(self, variant: str, scored: bool) -> dict[str, Any] | str:
        """The measurement, or why the variant cannot run here."""
        return outcome(self._subject, variant, scored=scored)


def run_in_actor(
    subject: Subject,
    variant: str,
    *,
    scored: bool,
    label: str,
    place: Mapping[str, Any],
    patience_s: float = START_PATIENCE_S,
) -> dict[str, Any] | str:
    """As `outcome`, in an actor that starts for it on a node that it has for itself and ends after it.

    `place` is what it asks for (`num_cpus`, `num_gpus`, `resources`): all cores of a node, and on a GPU one whole GPU, so that
    Ray places nothing beside the measurement. `label` makes the worker's environment its own, so that Ray starts a process for
    it instead of taking one that has run something else.

    Raises:
        NoNode: no node has what it asks for, or has it free, after `patience_s`.
        RayError: the measurement raised, or its process or node was lost.
    """
    actor = BenchmarkActor.options(  # type: ignore[attr-defined]
        **place, runtime_env={"env_vars": {**SERVING_ENVIRONMENT, "XSTILTS_BENCHMARK": label}}
    ).remote(subject)
    try:
        try:
            ray.get(actor.ready.remote(), timeout=patience_s)
        except GetTimeoutError as error:
            asked = ", ".join(f"{name} {what}" for name, what in place.items() if what)
            raise NoNode(
                f"no node for it within {patience_s:g} s ({asked}); `ray status` says why none came"
            ) from error
        measured: dict[str, Any] | str = ray.get(actor.run.remote(variant, scored))
        return measured
    finally:
        ray.kill(actor)
