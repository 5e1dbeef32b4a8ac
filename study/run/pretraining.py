"""The encoder of each size, pre-trained or imported before any search starts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ray

from study.cluster.capacity import MEMORY, Capacity, cluster_capacity
from study.cluster.node_watch import end_if_lost
from study.cluster.progress_actor import ON_HEAD, ProgressReporter
from study.console import Console
from study.errors import StorageFailed, causes_of, reason_of, storage_problem
from study.planning.architecture import parameters
from study.spec import PublishedEncoder, Size, Study
from trainables.launch.job import Job
from trainables.launch.retry import MAX_LOSSES
from trainables.launch.task import run_small_task, run_task
from trainables.models.encoder import ParameterCount, load_tokenizer
from trainables.models.published_encoder import is_shipped
from trainables.models.vocabulary import tokenizer_difference
from trainables.resources import worker_request
from trainables.stages.import_encoder import ImportEncoder
from trainables.stages.pretrain import Pretrain
from trainables.stages.vocabulary import TOKENIZER
from trainables.store.opening import open_store
from trainables.store.stage_store import StageStore
from trainables.training.attempts import halve_after_kill

BYTES_PER_WEIGHT = 4  # fp32, into which checkpoints are read tensor by tensor
# Imports of torch and transformers, and the largest tensor in the checkpoint's own dtype beside its copy in fp32: 2 GB of
# XLM-R XXL's embedding table in fp16.
IMPORTING_BYTES = 3 * 2**30
PRETRAINING, IMPORTING = "pre-training", "importing"


def activities(study: Study) -> str:
    """The name of the phase that prepares the encoders: IMPORTING where none is pre-trained."""
    trains = any(activity(study, size) == PRETRAINING for size in study.sizes)
    return PRETRAINING if trains else IMPORTING


def activity(study: Study, size: Size) -> str:
    """How the size gets its encoder: PRETRAINING, or IMPORTING a published one."""
    return PRETRAINING if isinstance(study.encoder_stage(size), Pretrain) else IMPORTING


def prepare_encoders(study: Study, output: Path, *, progress_actor: Any, console: Console) -> dict[str, str]:
    """Pre-train or import every encoder that the store lacks: inline sizes side by side, then groups one by one.

    Returns the reason of each size that failed. Such a size is not searched; the others continue.

    Raises:
        StorageFailed: the output folder is full, read-only or gone.
    """
    store = open_store(output)
    missing = [size for size in study.sizes if any(store.find(stage) is None for stage in study.encoder_stages(size))]
    inline = [size for size in missing if study.encoder_resources(size).inline]
    groups = [size for size in missing if not study.encoder_resources(size).inline]
    launch = partial(_launched, study, output=output, progress=ProgressReporter(progress_actor))
    failures: dict[str, str] = {}
    for batch in ([inline] if inline else []) + [[size] for size in groups]:
        for doing in (PRETRAINING, IMPORTING):
            if names := [size.name for size in batch if activity(study, size) == doing]:
                console.say(f"{doing} {', '.join(names)}")
        tasks = {size.name: launch(size) for size in batch}
        for size in batch:
            try:
                _wait(study, size, tasks[size.name], launch=launch, output=output, console=console)
            except ray.exceptions.RayError as error:
                end_if_lost(error)
                if (problem := storage_problem(error, output)) is not None:
                    raise StorageFailed(problem, output) from error
                failures[size.name] = reason_of(causes_of(error)[-1])
                console.say(f"{activity(study, size)} {size.name} failed, the size is skipped: {failures[size.name]}")
    for size in study.sizes:
        if size.name not in failures and (problem := _tokenizer_problem(study, size, store)) is not None:
            failures[size.name] = problem
            console.say(f"{size.name} is skipped: {problem}")
    return failures


def _tokenizer_problem(study: Study, size: Size, store: StageStore) -> str | None:
    """An arm's checkpoint whose tokenizer is not the size's, and so was not trained from its encoder."""
    own, *others = study.encoder_stages(size)
    if not others or store.find(own) is None:
        return None
    of_size = load_tokenizer(store.local(own) / TOKENIZER)
    for stage in others:
        if store.find(stage) is not None:
            difference = tokenizer_difference(load_tokenizer(store.local(stage) / TOKENIZER), of_size)
            if difference is not None:
                return f"{stage.short} was not trained from {own.short}: {difference}; remove it from the recipe"
    return None


def _wait(
    study: Study, size: Size, task: Any, *, launch: Callable[[Size], Any], output: Path, console: Console
) -> None:
    """Wait for a task; launch it again where its process is killed for memory, if possible with half its micro-batch.

    Raises:
        RayError: it raised, was lost, or was killed too often.
    """
    for _ in range(MAX_LOSSES):
        try:
            ray.get(task)
            return
        except ray.exceptions.OutOfMemoryError:
            smaller = halve_after_kill(output, study.encoder_resources(size), _job_name(size))
            change = "" if smaller is None else f": {smaller}"
            console.say(f"{activity(study, size)} {size.name} was killed for memory and starts again{change}")
            task = launch(size)
    ray.get(task)


def _job_name(size: Size) -> str:
    return f"pretrain-{size.name}"


def _launched(study: Study, size: Size, *, output: Path, progress: ProgressReporter) -> Any:
    """The Ray task that trains or imports a size's encoder; a group's launcher waits on the head and computes nothing."""
    resources = study.encoder_resources(size)
    job = Job(
        *(str(output.resolve()), resources), stages=study.encoder_stages(size), size=size.name, name=_job_name(size)
    )
    shipped = all(isinstance(stage, ImportEncoder) and is_shipped(stage.encoder) for stage in job.stages)
    requests: dict[str, Any] = {"num_cpus": 0, "resources": ON_HEAD}
    if resources.inline:
        memory = int(worker_request(resources).get("memory", 0))
        if isinstance(size.encoder, PublishedEncoder) and not shipped:
            memory = max(memory, import_bytes(parameters(study, size).total, cluster_capacity()))
        requests = {"num_cpus": resources.cpus} | ({"memory": memory} if memory else {})
    return (run_small_task if shipped else run_task).options(**requests).remote(job, _job_name(size), progress)


def import_bytes(total_parameters: int, capacity: Capacity) -> int:
    """The memory to request for importing an encoder, in bytes: its fp32 weights and what a process takes besides.

    No more than the largest node has, as Ray would wait for ever for more; 0 where some node that can run it, which a head
    without cores cannot, does not say what it has.
    """
    nodes = [
        group.resources.get(MEMORY, 0.0) for group in capacity.groups if group.max_nodes and group.resources.get("CPU")
    ]
    if not all(nodes):
        return 0
    return min(BYTES_PER_WEIGHT * total_parameters + IMPORTING_BYTES, int(max(nodes, default=0.0)))


def encoder_parameters(study: Study, size: Size, *, output: Path) -> ParameterCount:
    """The parameters counted when the encoder was trained or imported; an estimate if it is not in the store."""
    encoder = open_store(output).find(study.encoder_stage(size))
    if encoder is None:
        return parameters(study, size)
    return ParameterCount(encoder.metrics["parameters"], encoder.metrics["parameters_body"])


def language_shares(study: Study, output: Path) -> dict[str, dict[str, float]]:
    """By size, each language's share of the characters that the encoder was pre-trained on.

    Published encoders are left out: the study does not know their text.
    """
    store = open_store(output)
    shares: dict[str, dict[str, float]] = {}
    for size in study.sizes:
        root = study.encoder_stage(size)
        tokenizer = store.find(root.tokenizer) if isinstance(root, Pretrain) else None
        characters = {} if tokenizer is None else tokenizer.metrics.get("characters", {})
        if total := sum(characters.values()):
            shares[size.name] = {language: count / total for language, count in characters.items()}
    return shares
