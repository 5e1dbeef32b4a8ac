"""The training that `gpu_train` times: a model with random weights, rows of random words, and the study's loop."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedConfig

from tests.benchmarks.gpu_settings import TASKS, Plan, Setting
from trainables.heads import Feature
from trainables.heads.features import FeatureTable, read_features, write_features
from trainables.hyperparameters import Training
from trainables.models.encoder import ParameterCount, count_parameters
from trainables.models.families import FAMILIES
from trainables.models.packing import Numbering
from trainables.models.task_model import TaskModel, new_head
from trainables.stages.fit import adapt
from trainables.tasks.base import Task
from trainables.training.batching import Batches, BatchOrder, FeatureBatches, PackedBatches, Share
from trainables.training.engine import Layout, build_engine
from trainables.training.loop import train
from trainables.training.trimming import looked_up, trim

WARM_UP = 3  # steps: kernels are chosen; the allocator and offload's pinned buffers grow


class Enough(Exception):
    """The time budget is used up; the steps so far are the result."""


class Clock:
    """Observer of the loop: the seconds of each step, up to its end on the device."""

    def __init__(self, device: torch.device, until: float) -> None:
        self._device, self._until = device, until
        self._ends = [time.perf_counter()]

    def __call__(self, step: int, loss: float) -> None:
        _synchronise(self._device)
        self._ends.append(time.perf_counter())
        if self._ends[-1] > self._until:
            raise Enough

    @property
    def step_s(self) -> list[float]:
        return [end - start for start, end in itertools.pairwise(self._ends)]


@dataclass(frozen=True)
class Rows:
    """Rows with the plan's lengths for a task, in the batches of a setting."""

    table: FeatureTable
    order: BatchOrder

    def lengths(self, step: int) -> list[int]:
        return [self.table.lengths[index] for index in self.order.at(step)]

    def micro_batches(self, step: int, share: Share) -> list[list[Sequence[int]]]:
        """A row as long as each of a step's, by micro-batch."""
        cut = share.cut(self.order.at(step), lengths=self.order.lengths)
        return [[range(self.table.lengths[index]) for index in indices] for indices in cut]


@dataclass(frozen=True)
class Run:
    """A setting's engine and batches. Every call trains from the first batch on, with the weights as they are."""

    engine: Any
    batches: Batches
    rows: Rows
    share: Share
    training: Training
    device: torch.device
    count: ParameterCount  # of the encoder
    trained: int  # parameters, with the head and a trimmed table

    def steps(self, count: int, **options: Any) -> None:
        """So many steps of the study's loop."""
        training = dataclasses.replace(self.training, steps=count)
        train(self.engine, self.batches, training, share=self.share, device=self.device, **options)

    def timed(self, count: int, until: float) -> list[float]:
        """Seconds of each of at most so many steps, each waited for; at least one, and none begins after `until`."""
        clock = Clock(self.device, until)
        with contextlib.suppress(Enough):
            self.steps(count, observe=clock, read_every=1)
        return clock.step_s

    def window(self, count: int) -> float:
        """Seconds of so many steps together, with losses read as seldom as in a study."""
        _synchronise(self.device)
        started = time.perf_counter()
        self.steps(count)
        _synchronise(self.device)
        return time.perf_counter() - started


def prepared(setting: Setting, plan: Plan, device: torch.device, folder: Path) -> Run:
    """The run of a setting, whose rows are written to the folder. Its engine is never released: the process ends with it."""
    config, resources = plan.config(setting), setting.resources
    training = Training(1e-5, 1, setting.batch_size, seed=0, precision=setting.precision)
    rows = _rows(folder / "rows.arrow", setting, plan, config, training.seed)
    task, share = TASKS[setting.task], Share.of(resources)
    model = _model(config, task, device)
    count = count_parameters(model.encoder)
    lookups = looked_up(model.encoder.get_input_embeddings(), [rows.table], config.pad_token_id)
    if lookups.pays(model):
        trim(model, lookups)
    trained = sum(parameter.numel() for parameter in model.parameters())
    adapt(model, resources, device)
    batches: Batches = FeatureBatches(rows.table, task, config.pad_token_id, rows.order)
    if setting.unpad:
        batches = PackedBatches(batches, Numbering.of(model.encoder))
    engine = build_engine(model, training, Layout(share, setting.zero_stage, setting.offload, device=device))
    return Run(engine, batches, rows, share, training, device, count, trained)


def start_device(name: str) -> torch.device:
    """The device, with a process group of one on a GPU, as a worker of a group with a GPU has it."""
    if name != "cuda":
        return torch.device(name)
    device = torch.device("cuda", 0)
    torch.cuda.init()  # type: ignore[no-untyped-call]
    torch.cuda.set_device(device)
    dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    return device


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rows(path: Path, setting: Setting, plan: Plan, config: PreTrainedConfig, seed: int) -> Rows:
    """Rows of uniformly random words with random labels."""
    task, rng = TASKS[setting.task], random.Random(seed)
    words = rng.sample(range(config.pad_token_id + 1, config.vocab_size), plan.rows_looked_up)
    features = []
    for example, length in enumerate(plan.lengths.of(setting.task)):
        target = rng.choices(range(len(task.labels)), k=length if task.head == "tagging" else 1)
        features.append(Feature(example, (tuple(rng.choices(words, k=length)),), tuple(target), float(len(target))))
    write_features(path, [("en", features)])
    table = read_features(path)
    return Rows(table, BatchOrder(table.lengths, setting.batch_size, seed))


def _model(config: PreTrainedConfig, task: Task, device: torch.device) -> TaskModel:
    """The model in fp32, created on the device: XXL is 43 GB, which a CPU would take minutes to fill."""
    family = FAMILIES[config.model_type]
    config._attn_implementation = family.attention(device)
    torch.manual_seed(0)
    with device:
        encoder = family.model_class(config, **family.options)
        return TaskModel(encoder, new_head(encoder, task, seed=0))
