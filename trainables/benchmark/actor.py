"""The benchmark under Ray: an actor measures a subject on a node that it has to itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError

from trainables.benchmark.measurement import Measured, Unavailable
from trainables.benchmark.subjects.fresh import SERVING_ENVIRONMENT, Subject, measure_subject
from trainables.benchmark.variants import Variant

START_PATIENCE_S = 900.0  # as for groups of training workers: a cloud machine and its image take minutes to start


class NoNode(RuntimeError):
    """The cluster provided no node for the measurement in time."""


@ray.remote(max_restarts=0, max_concurrency=1)
class BenchmarkActor:
    """A subject in a process of its own, one measurement at a time. Ray never restarts it: a measurement is repeated whole."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def ready(self) -> None:
        """Returns once the actor has its node."""

    def run(self, variant: str | Variant, scored: bool) -> Measured | Unavailable:
        return measure_subject(self._subject, variant, scored=scored)


def run_in_actor(
    subject: Subject,
    variant: str | Variant,
    *,
    scored: bool,
    label: str,
    placement: Mapping[str, Any],
    patience_s: float = START_PATIENCE_S,
) -> Measured | Unavailable:
    """As `measure_subject`, in an actor that starts for this measurement and ends after it.

    Raises:
        NoNode, RayError: as for `benchmark_actor`.
    """
    with benchmark_actor(subject, label=label, placement=placement, patience_s=patience_s) as measure:
        return measure(variant, scored)


@contextmanager
def benchmark_actor(
    subject: Subject, *, label: str, placement: Mapping[str, Any], patience_s: float = START_PATIENCE_S
) -> Iterator[Callable[[str | Variant, bool], Measured | Unavailable]]:
    """An actor for the block; the function measures a variant in it, and scores it if told to.

    `placement` is the actor's request (`num_cpus`, `num_gpus`, `resources`): all cores of a node, and for a GPU one whole GPU.
    Then Ray schedules nothing else there. `label` makes the worker's environment unique, so that Ray starts a new process
    instead of reusing one.

    Raises:
        NoNode: no node satisfies the request, or none is free, after `patience_s`.
        RayError: a measurement raised, or its process or node was lost.
    """
    actor = BenchmarkActor.options(  # type: ignore[attr-defined]
        **placement, runtime_env={"env_vars": {**SERVING_ENVIRONMENT, "XSTILTS_BENCHMARK": label}}
    ).remote(subject)

    def measure(variant: str | Variant, scored: bool) -> Measured | Unavailable:
        outcome: Measured | Unavailable = ray.get(actor.run.remote(variant, scored))
        return outcome

    try:
        try:
            ray.get(actor.ready.remote(), timeout=patience_s)
        except GetTimeoutError as error:
            request = ", ".join(f"{name} {amount}" for name, amount in placement.items() if amount)
            raise NoNode(
                f"no node was free for the benchmark within {patience_s:g} s ({request}); `ray status` says why"
            ) from error
        yield measure
    finally:
        ray.kill(actor)
