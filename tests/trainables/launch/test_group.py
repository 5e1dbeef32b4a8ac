"""What a group asks of Ray Train, recorded instead of launched."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train.torch

from tests.support import recipes
from trainables.launch import group
from trainables.launch.group import run_group
from trainables.launch.inline import run_inline
from trainables.launch.job import Job, no_progress
from trainables.launch.process import NO_GPU
from trainables.resources import Resources
from trainables.stages.base import Progress, Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import FineTune, root_of
from trainables.stages.merge import MergeEncoders
from trainables.stages.tokenise import Tokenise
from trainables.store.stage_store import StageStore


@pytest.mark.parametrize(("gpu", "expected"), [(None, 3), (0, 0), (1, 1)])
def test_deepspeed_takes_the_gpu_of_the_worker(gpu: int | None, expected: int) -> None:
    assert group.local_index(gpu, 3) == expected


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every trainer that was built; `fit` does nothing."""
    built: list[dict[str, Any]] = []

    class Trainer:
        def __init__(self, work: object, **arguments: Any) -> None:
            built.append(arguments)

        def fit(self) -> None:
            pass

    monkeypatch.setattr(ray.train.torch, "TorchTrainer", Trainer)
    monkeypatch.setattr(ray, "nodes", lambda: [])
    return built


@pytest.fixture
def cpu_jobs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Job, dict[str, Any]]]:
    """Jobs that were started on CPUs, with their requests; they run in this process."""
    started: list[tuple[Job, dict[str, Any]]] = []

    def options(**requests: Any) -> SimpleNamespace:
        def remote(job: Job, progress: Progress) -> None:
            started.append((job, requests))
            run_inline(job, report=lambda metrics: None, progress=progress)

        return SimpleNamespace(remote=remote)

    monkeypatch.setattr(group, "cpu_task", SimpleNamespace(options=options))
    monkeypatch.setattr(ray, "get", lambda done: done)
    return started


def test_texts_are_tokenised_on_a_cpu_before_a_group_takes_its_gpus(
    cpu_jobs: list[tuple[Job, dict[str, Any]]], trainers: list[dict[str, Any]], tmp_path: Path
) -> None:
    study = recipes.inline()
    evaluate = study.chain(study.sizes[0], study.space.defaults()[0])[0]
    ensure(root_of(evaluate.model).tokenizer, Workplace(StageStore(tmp_path)))
    job = Job(str(tmp_path), Resources(workers=2, gpus=1), chain=(evaluate,))
    run_group(job, name="a", progress=no_progress)
    ((on_cpu, requests),) = cpu_jobs
    assert requests == {"num_cpus": 1, "scheduling_strategy": "DEFAULT"}
    assert on_cpu.resources.gpus == 0
    features = [stage for stage in on_cpu.stages if isinstance(stage, Tokenise)]
    assert list(on_cpu.stages) == features
    assert {stage.part for stage in features} == {"train", "scored"}
    run_group(job, name="a", progress=no_progress)
    assert (len(trainers), len(cpu_jobs)) == (2, 1), "nothing is left to tokenise"


def test_encoders_are_merged_on_a_cpu_once_all_are_trained(
    cpu_jobs: list[tuple[Job, dict[str, Any]]], trainers: list[dict[str, Any]], tmp_path: Path
) -> None:
    """Otherwise a CPU would train them: a stage produces its parents first."""
    study, work = recipes.inline(), Workplace(StageStore(tmp_path))
    _, choice = study.space.defaults()
    (topic,) = (stage.model.base for stage in study.chain(study.sizes[0], choice)[:1])  # type: ignore[union-attr]
    assert isinstance(topic, FineTune)
    merge = MergeEncoders(root_of(topic), (topic,), (0.5,))
    target = study.fine_tuned(merge, study.targets[0], study.tuning, rate=1e-3)
    job = Job(str(tmp_path), Resources(workers=2, gpus=1), chain=(Evaluate(target, study.targets[0]),))
    ensure(root_of(topic), work)
    run_group(job, name="a", progress=no_progress)
    assert merge not in cpu_jobs[0][0].stages
    assert work.store.find(topic) is None
    ensure(topic, work)
    run_group(job, name="a", progress=no_progress)
    assert [started.stages for started, _ in cpu_jobs[1:]] == [(merge,)]
    assert work.store.find(merge) is not None


def test_a_group_on_cpus_tokenises_by_itself(
    cpu_jobs: list[tuple[Job, dict[str, Any]]], trainers: list[dict[str, Any]], tmp_path: Path
) -> None:
    study = recipes.inline()
    chain = study.chain(study.sizes[0], study.space.defaults()[0])
    run_group(Job(str(tmp_path), Resources(workers=2), chain=chain), name="a", progress=no_progress)
    assert (len(trainers), cpu_jobs) == (1, [])


@pytest.mark.parametrize(("one_node", "strategy"), [(True, "STRICT_PACK"), (False, "PACK")])
def test_workers_that_fit_one_node_never_span_two(
    one_node: bool, strategy: str, trainers: list[dict[str, Any]], tmp_path: Path
) -> None:
    job = Job(str(tmp_path), Resources(workers=8, gpus=1, one_node=one_node))
    run_group(job, name="a", progress=no_progress)
    (trainer,) = trainers
    assert trainer["scaling_config"].placement_strategy == strategy
    assert trainer["scaling_config"].num_workers == 8


def test_workers_on_gpus_get_an_allocator_that_grows_and_others_see_no_gpu(
    trainers: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF", raising=False)
    for gpus in (1, 0):
        run_group(Job(str(tmp_path), Resources(workers=2, gpus=gpus)), name="trial", progress=no_progress)
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")  # its older name
    run_group(Job(str(tmp_path), Resources(workers=2, gpus=1)), name="trial", progress=no_progress)
    environments = [trainer["run_config"].worker_runtime_env["env_vars"] for trainer in trainers]
    assert environments == [
        {"PYTORCH_ALLOC_CONF": "expandable_segments:True"},
        NO_GPU,
        {"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:128"},
    ]
