"""A job that requests no GPU runs on the CPU, whatever PyTorch can see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.networks import PAD, classifier, random_features, roberta
from trainables.heads.features import read_features
from trainables.hyperparameters import Training
from trainables.launch.process import NO_GPU, prepare_process
from trainables.models.families import FAMILIES
from trainables.resources import Resources
from trainables.stages.base import Stage, Workplace
from trainables.stages.fit import fit
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training.batching import BatchOrder, FeatureBatches

# PyTorch as it is in a process that sees a GPU: DeepSpeed detects one by the same two functions.
_ON_A_GPU_MACHINE = """
import sys
import torch

torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1

from tests.trainables.launch.test_process import OneStep
from trainables.launch.inline import run_inline
from trainables.launch.job import Job
from trainables.resources import Resources

run_inline(Job(sys.argv[1], Resources(), stages=(OneStep(),)), report=print, progress=lambda *_: None)
"""


@dataclass(frozen=True)
class OneStep(Stage):
    """Trains a small network for one step, and reports where."""

    @property
    def label(self) -> str:
        return "one-step"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return ()

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        features = read_features(random_features(folder / "features.arrow"))
        training = Training(learning_rate=1e-2, steps=1, batch_size=16, seed=1)
        batches = FeatureBatches(features, MicroEntailment(), PAD, BatchOrder(features.lengths, 16, 1))
        model = classifier(roberta())
        devices: set[str] = set()
        model.register_forward_pre_hook(
            lambda module, args: devices.update(str(weight.device) for weight in module.parameters())
        )
        state, metrics = fit(model, batches, training, work, self.label)
        from deepspeed import get_accelerator  # as `fit` has imported it

        return {
            "devices": sorted({*devices, *(str(value.device) for value in state.values())}),
            "deepspeed": get_accelerator().device_name(),
            "environment": {name: os.environ.get(name) for name in NO_GPU},
            "loss": metrics["first_loss"],
        }


@pytest.mark.slow
def test_an_inline_job_trains_on_the_cpu_though_pytorch_sees_a_gpu(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in NO_GPU}
    done = subprocess.run(
        [sys.executable, "-c", _ON_A_GPU_MACHINE, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    finished = StageStore(tmp_path).find(OneStep())
    assert finished is not None
    assert finished.metrics["devices"] == ["cpu"]
    assert finished.metrics["deepspeed"] == "cpu"
    assert finished.metrics["environment"] == NO_GPU
    assert finished.metrics["loss"] > 0
    assert finished.manifest["context"]["device"] == "cpu"


@pytest.mark.parametrize(("gpus", "hidden"), [(0, True), (1, False)])
def test_gpus_are_hidden_from_a_process_whose_job_requests_none(
    monkeypatch: pytest.MonkeyPatch, gpus: int, hidden: bool
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    threads = torch.get_num_threads()
    prepare_process(Resources(gpus=gpus, cpus=threads))
    assert (os.environ["CUDA_VISIBLE_DEVICES"] == "") is hidden


def test_a_worker_on_a_share_of_a_gpu_allocates_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine tenths of a quarter: four such workers leave the headroom of the whole card to their CUDA contexts."""
    limits: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    for gpus in (0.25, 1, 0):
        prepare_process(Resources(gpus=gpus, cpus=torch.get_num_threads()))
    assert limits == [pytest.approx(0.225)]


def test_attention_follows_the_device_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert FAMILIES["xlm-roberta"].attention(torch.device("cpu")) == "eager"
    torch.backends.cuda.enable_cudnn_sdp(True)
    assert FAMILIES["xlm-roberta"].attention(torch.device("cuda", 0)) == "sdpa"
    assert not torch.backends.cuda.cudnn_sdp_enabled(), "its gradients are NaN for some lengths"  # type: ignore[no-untyped-call]
