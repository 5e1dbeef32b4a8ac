"""The order in which a search starts its default cells, by an estimator that needs no training (`Study.first_by`).

Every default cell runs in any case. The order decides what is known first, and so what a search that is stopped has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from study.cluster.capacity import cluster_capacity
from study.cluster.node_watch import end_if_lost
from study.cluster.progress_actor import ProgressReporter
from study.console import Console
from study.errors import StorageFailed, causes_of, reason_of, storage_problem
from study.planning.architecture import parameters
from study.run.pretraining import import_bytes
from study.run.ranking import Cell, estimate_stages
from study.run.shortlist import order
from study.spec import NONE, PublishedEncoder, Resources, Size, Study
from trainables.estimators.base import Estimate
from trainables.launch.job import Job
from trainables.launch.task import run_task
from trainables.models.published_encoder import is_shipped
from trainables.store.opening import open_store
from trainables.store.stage_store import StageStore

MICRO_BATCH = 8  # rows read at once on a CPU, for a size that trains on GPUs


def first_choices(
    study: Study, output: Path, *, sizes: Sequence[Size], progress_actor: Any, console: Console
) -> dict[str, tuple[str, ...]]:
    """By size, the intermediate choices in the order in which the search starts them; () keeps the recipe's.

    Estimates that the store lacks are computed on CPUs. Where that fails the size keeps the recipe's order.

    Raises:
        StorageFailed: the output folder is full, read-only or gone.
    """
    if study.first_by is None:
        return {}
    cells = {size.name: estimate_stages(study, size, study.first_by) for size in sizes}
    store, progress = open_store(output), ProgressReporter(progress_actor)
    tasks = {}
    for size in sizes:
        stages = [stage for stage in cells[size.name].values() if isinstance(stage, Estimate)]
        if any(store.find(stage) is None for stage in stages):
            tasks[size.name] = _launched(study, size, stages, output=output, progress=progress)
    orders = {}
    for size in sizes:
        try:
            ray.get(tasks.get(size.name, []))
        except ray.exceptions.RayError as error:
            end_if_lost(error)
            if (problem := storage_problem(error, output)) is not None:
                raise StorageFailed(problem, output) from error
            console.say(f"{size.name}: estimates by {study.first_by} failed: {reason_of(causes_of(error)[-1])}")
        orders[size.name] = order_of(study, size, cells[size.name], store)
        if named := orders[size.name]:
            console.say(f"{size.name}: default cells are tried in the order of {study.first_by}: {', '.join(named)}")
    return orders


def order_of(study: Study, size: Size, cells: Mapping[Cell, Estimate | str], store: StageStore) -> tuple[str, ...]:
    """None first, as every gain needs it; then by mean rank over the targets; then those without. () if all are without."""
    values = {}
    for cell, stage in cells.items():
        finished = store.find(stage) if isinstance(stage, Estimate) else None
        if finished is not None and (value := finished.metrics.get("value")) is not None:
            values[cell] = value
    names = study.space_of(size).names
    ranked = [place.choice for place in order(values, names, [target.name for target in study.targets])]
    return tuple(dict.fromkeys((NONE, *ranked, *names))) if ranked else ()


def _launched(study: Study, size: Size, stages: Sequence[Estimate], *, output: Path, progress: ProgressReporter) -> Any:
    """The Ray task that computes estimates in one process without a GPU; a downloaded encoder needs the memory of an import."""
    own = size.resources
    resources = own if own.inline else Resources(micro_batch=MICRO_BATCH)
    name = f"estimates-{size.name}"
    job = Job(str(output.resolve()), resources, stages=tuple(stages), size=size.name, name=name)
    small = not isinstance(size.encoder, PublishedEncoder) or is_shipped(size.encoder)
    memory = 0 if small else import_bytes(parameters(study, size).total, cluster_capacity())
    requests: dict[str, Any] = {"num_cpus": resources.cpus} | ({"memory": memory} if memory else {})
    return run_task.options(**requests).remote(job, name, progress)
