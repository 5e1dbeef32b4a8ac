"""The benchmark under Ray: a subject in an actor of its own, with nothing beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ray

from trainables.benchmark.fresh import SERVING_ENVIRONMENT, Subject, outcome


@ray.remote(max_restarts=0, max_concurrency=1)
class BenchmarkActor:
    """One subject in one process, one measurement at a time. Never restarted: a broken measurement is redone whole."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject

    def run(self, variant: str, scored: bool) -> dict[str, Any] | str:
        """The measurement, or why the variant cannot run here."""
        return outcome(self._subject, variant, scored=scored)


def run_in_actor(
    subject: Subject,
    variant: str,
    *,
    scored: bool,
    device: str,
    label: str,
    place: Mapping[str, Any] | None = None,
) -> dict[str, Any] | str:
    """As `outcome`, in an actor that starts for it on a node that it has for itself and ends after it.

    It takes all cores of the node, and on a GPU one whole GPU: Ray then places nothing beside the measurement. `label` makes
    the worker's environment its own, so that Ray starts a process for it instead of taking one that has run something else.
    `place` is what to ask for instead (`num_cpus`, `resources`) where a cluster has nodes that are meant for it, or none yet.
    """
    gpus = 1 if device.startswith("cuda") else 0
    if place is None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cores = max((node.get("CPU", 0) for node in nodes if node.get("GPU", 0) >= gpus), default=1)
        place = {"num_cpus": int(cores)}
    actor = BenchmarkActor.options(  # type: ignore[attr-defined]
        **place,
        num_gpus=gpus,
        runtime_env={"env_vars": {**SERVING_ENVIRONMENT, "XSTILTS_BENCHMARK": label}},
    ).remote(subject)
    try:
        measured: dict[str, Any] | str = ray.get(actor.run.remote(variant, scored))
        return measured
    finally:
        ray.kill(actor)
