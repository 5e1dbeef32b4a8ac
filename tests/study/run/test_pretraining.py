"""How the encoders of the sizes are obtained, and what the console says of it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from transformers import PreTrainedTokenizerFast

from study.cluster.capacity import capacity_of_nodes
from study.console import Console, Timeline
from study.errors import StorageFailed
from study.run import pretraining
from study.run.pretraining import IMPORTING, IMPORTING_BYTES, PRETRAINING, activities, activity, prepare_encoders
from study.spec import LadderEncoder, PublishedAfter, Size, Study
from tests.support import recipes
from tests.support.killed import leave_record
from trainables.launch.job import Job
from trainables.launch.retry import MAX_LOSSES
from trainables.models.catalogue import published
from trainables.models.encoder import ParameterCount
from trainables.models.published_encoder import pinned_encoder
from trainables.models.vocabulary import train_vocabulary
from trainables.resources import Resources
from trainables.stages.base import Root
from trainables.stages.vocabulary import TOKENIZER
from trainables.store.stage_store import StageStore
from trainables.training.attempts import Attempt
from trainables.training.micro_batches import known_limits


def _with_a_published_size() -> tuple[Study, Size, Size]:
    """A study, its size with a ladder encoder, and its size with a published one."""
    trained = recipes.inline().sizes[0]
    imported = dataclasses.replace(trained, name="published", encoder=published("xlm-r-base"))
    assert isinstance(trained.encoder, LadderEncoder)
    return dataclasses.replace(recipes.inline(), sizes=(trained, imported)), trained, imported


class _Task:
    """In place of the Ray task: remembers what it was asked for."""

    def __init__(self) -> None:
        self.launched: list[tuple[str, dict[str, Any]]] = []
        self.jobs: list[Job] = []

    def options(self, **requests: Any) -> SimpleNamespace:
        def remote(job: Job, name: str, progress: Any) -> str:
            self.launched.append((name, requests))
            self.jobs.append(job)
            return name

        return SimpleNamespace(remote=remote)


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> _Task:
    replacement = _Task()
    monkeypatch.setattr(pretraining, "run_task", replacement)
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0}}, {"Alive": True, "Resources": {"CPU": 8.0, "memory": 64e9}}]
    monkeypatch.setattr(pretraining, "cluster_capacity", lambda: capacity_of_nodes(nodes))
    return replacement


def test_published_encoders_are_imported_and_ladder_encoders_pre_trained(
    task: _Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, trained, imported = _with_a_published_size()
    assert activity(study, trained) == PRETRAINING
    assert activity(study, imported) == IMPORTING
    assert activities(study) == PRETRAINING
    assert activities(dataclasses.replace(study, sizes=(imported,))) == IMPORTING

    def get(name: str) -> None:
        if name == f"pretrain-{imported.name}":
            raise ray.exceptions.RayTaskError("run_task", "", ConnectionError("the hub does not answer"))

    monkeypatch.setattr(ray, "get", get)
    failures = prepare_encoders(study, tmp_path, progress_actor=None, console=Console(Timeline()))
    assert failures == {imported.name: "ConnectionError: the hub does not answer"}
    lines = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines == [
        f"pre-training {trained.name}",
        "importing published",
        "importing published failed, the size is skipped: ConnectionError: the hub does not answer",
    ]
    assert dict(task.launched) == {f"pretrain-{size.name}": {"num_cpus": 1} for size in (trained, imported)}


@pytest.mark.parametrize(
    ("memory_gb", "requested"),
    [
        ((64.0, 256.0), 4 * 10_700_000_000 + IMPORTING_BYTES),  # XLM-R XXL's weights in fp32, and the process
        ((16.0, 32.0), 32 * 10**9),  # Ray would wait for ever for more than a node has
        ((0.0, 64.0), 0),  # an autoscaler starts no node for a resource that its description lacks
    ],
)
def test_importing_a_large_encoder_requests_its_memory_as_far_as_a_node_has_it(
    memory_gb: tuple[float, ...], requested: int, monkeypatch: pytest.MonkeyPatch, task: _Task, tmp_path: Path
) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 8.0, "memory": amount * 1e9}} for amount in memory_gb]
    monkeypatch.setattr(pretraining, "cluster_capacity", lambda: capacity_of_nodes(nodes))
    monkeypatch.setattr(pretraining, "parameters", lambda study, size: ParameterCount(10_700_000_000, 9_600_000_000))
    monkeypatch.setattr(ray, "get", lambda name: None)
    study, _, imported = _with_a_published_size()
    study = dataclasses.replace(study, sizes=(imported,))
    prepare_encoders(study, tmp_path, progress_actor=None, console=Console(Timeline()))
    ((_, requests),) = task.launched
    assert requests == {"num_cpus": 1} | ({"memory": requested} if requested else {})


def _imported(store: StageStore, stage: Root, tokenizer: PreTrainedTokenizerFast) -> None:
    """Put an encoder with only a tokenizer into the store."""
    folder = store.workspace(stage)
    tokenizer.save_pretrained(folder / TOKENIZER)
    with store.try_claim(stage):  # type: ignore[union-attr]
        store.commit(stage, folder, {}, {})


def test_checkpoints_of_arms_are_imported_with_the_size_and_must_have_its_tokenizer(
    task: _Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray, "get", lambda name: None)
    monkeypatch.setattr(pretraining, "parameters", lambda study, size: ParameterCount(1, 1))
    size = Size("base", pinned_encoder(published("xlm-r-base")), Resources())
    arm = PublishedAfter("e5", (("base", pinned_encoder(published("e5-base"))),))
    study = recipes.published_study(size)
    study = dataclasses.replace(study, space=dataclasses.replace(study.space, intermediates=(arm,)), trials=2)
    store, (own, other) = StageStore(tmp_path), study.encoder_stages(size)
    words = [f"word{number} another{number * 7}" for number in range(40)]
    _imported(store, own, train_vocabulary(words, 200))

    def prepared() -> dict[str, str]:
        return prepare_encoders(study, tmp_path, progress_actor=None, console=Console(Timeline()))

    assert prepared() == {}
    assert task.jobs[-1].stages == (own, other), "one of them is missing"
    _imported(store, other, train_vocabulary([*words, "and more"], 200))
    reason = prepared()["base"]
    assert reason.startswith("e5-base was not trained from xlm-r-base: their tokenizers differ in ")
    assert reason.endswith(" tokens or their numbers; remove it from the recipe")
    assert f"base is skipped: {reason}" in capsys.readouterr().err
    assert len(task.jobs) == 1
    shutil.rmtree(store.folder(other))
    _imported(store, other, train_vocabulary(words, 200))
    assert prepared() == {}


def test_a_folder_that_cannot_be_written_ends_the_run(
    task: _Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, _, _ = _with_a_published_size()

    def get(name: str) -> None:
        raise ray.exceptions.RayTaskError("run_task", "", OSError(28, "No space left on device"))

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(StorageFailed, match="No space left on device"):
        prepare_encoders(study, tmp_path, progress_actor=None, console=Console(Timeline()))


def test_a_pretraining_killed_for_memory_is_launched_again_and_given_up_after_ten_kills(
    task: _Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study = recipes.inline()
    size, kills = study.sizes[0], [1]

    def get(name: str) -> None:
        if len(task.launched) <= kills[0]:
            if len(task.launched) == 1:  # the others were killed before they trained
                leave_record(tmp_path, name, Attempt("pretrain", 64, 16))
            raise ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.")

    monkeypatch.setattr(ray, "get", get)
    assert prepare_encoders(study, tmp_path, progress_actor=None, console=Console(Timeline())) == {}
    assert len(task.launched) == 2
    assert known_limits(tmp_path, size.resources) == {"pretrain": 32}
    assert "starts again: pretrain with micro-batches of 32 rows instead of 64" in capsys.readouterr().err
    task.launched.clear()
    kills[0] = 99
    failures = prepare_encoders(study, tmp_path, progress_actor=None, console=Console(Timeline()))
    assert list(failures) == [size.name]
    assert len(task.launched) == 1 + MAX_LOSSES


def test_a_pretraining_requests_the_memory_of_its_size(
    task: _Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, *sizes = _with_a_published_size()
    sized = tuple(dataclasses.replace(size, resources=Resources(memory_gb=2.0)) for size in sizes)
    monkeypatch.setattr(ray, "get", lambda name: None)
    study = dataclasses.replace(study, sizes=sized)
    prepare_encoders(study, tmp_path, progress_actor=None, console=Console(Timeline()))
    assert [requests for _, requests in task.launched] == [{"num_cpus": 1, "memory": 2_000_000_000}] * 2
