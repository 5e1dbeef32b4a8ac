"""The settings that `gpu_train` measures, which of them a machine holds, and the peak FLOP rates of devices."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig

from study.cluster.preflight import available_memory
from study.planning.architecture import outline
from study.planning.memory import training_gb
from study.planning.stages import Load
from tests.benchmarks.row_lengths import MAX_LENGTH, RowLengths
from trainables.hyperparameters import Precision, Training
from trainables.models.catalogue import config_of, published
from trainables.models.encoder import ParameterCount
from trainables.resources import GB, GPU_HEADROOM, Offload, Resources
from trainables.tasks.base import Task
from trainables.tasks.xtreme.udpos import Udpos
from trainables.tasks.xtreme.xnli import Xnli

LARGE, XL, XXL = "xlm-r-large", "xlm-r-xl", "xlm-r-xxl"
TASKS: dict[str, Task] = {"xnli": Xnli(), "udpos": Udpos()}
# TFLOP/s of dense bf16 by words of the device's name, from NVIDIA's data sheets (nvidia.com/en-us/data-center, one a card).
# Where a data sheet gives only the figure with sparsity, it is halved.
PEAKS = {
    "A10": 250 / 2,  # A10 Tensor Core GPU
    "A40": 299.4 / 2,  # A40
    "A100": 312,  # A100 Tensor Core GPU; 624 with sparsity
    "L4": 242 / 2,  # L4 Tensor Core GPU
    "L40S": 733 / 2,  # L40S
    "H100": 1979 / 2,  # H100 Tensor Core GPU, the column SXM
    "H100 PCIe": 1513 / 2,  # the first edition of the same
    "H100 NVL": 1671 / 2,  # the column NVL
    "H200": 1979 / 2,  # H200 Tensor Core GPU, the column SXM
    "H200 NVL": 1671 / 2,  # the column NVL
}
TINY = {
    "vocab_size": 1000,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 128,
}
TINY_LOOKED_UP = 200
OFFLOADED_BYTES = 20  # of host memory for each parameter


@dataclass(frozen=True)
class Setting:
    """An encoder, a task, and how training is laid out; batches count rows.

    `unpad`: without padding; `compiled`: layers by torch.compile. Both are off in a study unless its recipe turns them on.
    `micro_batch_tokens`: the most tokens of a micro-batch besides its rows.
    `layers`: only so many, for a machine that does not hold the whole encoder.
    """

    encoder: str
    task: str
    zero_stage: int
    offload: Offload
    micro_batch: int
    batch_size: int
    activation_checkpointing: bool
    unpad: bool = False
    compiled: bool = False
    layers: int | None = None
    precision: Precision = "bf16_mixed"
    micro_batch_tokens: int | None = None

    @property
    def name(self) -> str:
        encoder = self.encoder if self.layers is None else f"{self.encoder} with {self.layers} layers"
        offload = "" if self.offload == "none" else f", {self.offload} offloaded"
        recomputed = ", checkpointing" if self.activation_checkpointing else ""
        recomputed += (", unpadded" if self.unpad else "") + (", compiled" if self.compiled else "")
        recomputed += "" if self.precision == "bf16_mixed" else f", {self.precision}"
        rows = f"{self.micro_batch} of {self.batch_size} rows"
        rows += "" if self.micro_batch_tokens is None else f" and {self.micro_batch_tokens} tokens"
        return f"{encoder}, {self.task}, ZeRO {self.zero_stage}{offload}, {rows}{recomputed}"

    @property
    def resources(self) -> Resources:
        """Those of a worker with one GPU."""
        return Resources(
            gpus=1,
            zero_stage=self.zero_stage,
            offload=self.offload,
            micro_batch=self.micro_batch,
            micro_batch_tokens=self.micro_batch_tokens,
            activation_checkpointing=self.activation_checkpointing,
            unpad=self.unpad,
            compile=self.compiled,
        )


# Settings that need the most host memory come last, so that an out-of-memory kill costs no other measurement.
SETTINGS = (
    Setting(LARGE, "xnli", 0, "none", 128, 128, False),
    Setting(LARGE, "xnli", 0, "none", 128, 128, False, unpad=True),
    Setting(LARGE, "xnli", 0, "none", 128, 128, False, unpad=True, compiled=True),
    Setting(LARGE, "udpos", 0, "none", 128, 128, False),
    Setting(LARGE, "udpos", 0, "none", 128, 128, False, unpad=True),
    Setting(LARGE, "xnli", 3, "none", 128, 128, False),
    Setting(XL, "xnli", 0, "none", 64, 256, True),
    Setting(XL, "xnli", 0, "none", 64, 256, True, unpad=True),
    Setting(XL, "xnli", 0, "none", 64, 256, False),
    Setting(XL, "xnli", 0, "none", 64, 256, False, unpad=True),
    Setting(XL, "xnli", 0, "none", 64, 256, False, unpad=True, compiled=True),
    Setting(XL, "xnli", 0, "none", 256, 256, False, unpad=True, compiled=True, micro_batch_tokens=16_384),
    Setting(XL, "xnli", 0, "none", 32, 256, False),
    Setting(XL, "udpos", 0, "none", 128, 512, True),
    Setting(XL, "xnli", 3, "none", 64, 256, True),
    Setting(XL, "xnli", 3, "none", 64, 256, True, unpad=True),
    Setting(XL, "xnli", 3, "optimizer", 128, 256, True),
    Setting(XL, "xnli", 3, "parameters", 128, 256, True),
    Setting(XXL, "xnli", 0, "none", 32, 256, True, layers=16),
    Setting(XXL, "xnli", 0, "none", 32, 256, True, layers=32),
    Setting(XXL, "xnli", 0, "none", 32, 256, True),
    Setting(XXL, "xnli", 3, "optimizer", 128, 256, True),
    Setting(XXL, "xnli", 3, "parameters", 128, 256, True),
)
TINY_SETTINGS = (
    Setting(LARGE, "xnli", 0, "none", 4, 8, False, unpad=True),
    Setting(XL, "udpos", 3, "parameters", 4, 8, True),
)


@dataclass(frozen=True)
class Plan:
    """Values that all settings share."""

    device: str
    tiny: bool
    steps: int
    lengths: RowLengths
    peak_tflops: float | None

    def config(self, setting: Setting) -> PreTrainedConfig:
        config = config_of(published(setting.encoder, layers=setting.layers))
        assert config is not None  # the catalogue has it
        if self.tiny:
            config.update(TINY)
        return config

    @property
    def rows_looked_up(self) -> int:
        return TINY_LOOKED_UP if self.tiny else self.lengths.rows_looked_up


@dataclass(frozen=True)
class Machine:
    """Memory of the GPU and of its host, in GB."""

    device_gb: float
    host_gb: float

    @classmethod
    def here(cls) -> Machine:
        """The first GPU, and what the machine and its cgroups leave of host memory."""
        return cls(torch.cuda.get_device_properties(0).total_memory / GB, available_memory()[0] / GB)


def needed(setting: Setting, rows_looked_up: int) -> Machine:
    """What a setting is estimated to take, with the embedding table trimmed to the rows that are looked up.

    The whole encoder is made on the device before its table is trimmed. With an offload DeepSpeed keeps 20 bytes a parameter in
    host memory (weights with a second copy, gradients, moments), measured by no run here.
    """
    encoder = published(setting.encoder, layers=setting.layers)
    whole = outline(encoder, None)
    total = whole.count.body + rows_looked_up * whole.width
    trained = dataclasses.replace(whole, count=ParameterCount(total, whole.count.body), fused_attention=True)
    training = Training(1e-5, 1, setting.batch_size, 0, precision=setting.precision, max_length=MAX_LENGTH)
    device_gb = max(training_gb(trained, setting.resources, Load(training)), 4 * whole.count.total / GB)
    return Machine(device_gb, 0.0 if setting.offload == "none" else OFFLOADED_BYTES * total / GB)


def left_out(setting: Setting, machine: Machine, rows_looked_up: int) -> str | None:
    """Why the machine cannot hold a setting; None if it can, as far as can be estimated."""
    estimate = needed(setting, rows_looked_up)
    if estimate.device_gb > (1 - GPU_HEADROOM) * machine.device_gb:
        return f"needs about {estimate.device_gb:.0f} GB on the GPU, which has {machine.device_gb:.0f}"
    if estimate.host_gb > machine.host_gb:
        return f"needs about {estimate.host_gb:.0f} GB of host memory, of which {machine.host_gb:.0f} are available"
    return None


def device_problem(device: str, *, tiny: bool, save: bool) -> str | None:
    """Why a GPU benchmark cannot run with these options; None if it can."""
    if device not in ("cuda", "cpu"):
        return f"--device {device}: no such device; cuda or cpu"
    if device == "cuda":
        seen = torch.cuda.is_available()
        return None if seen else "--device cuda: PyTorch sees no GPU; --device cpu --tiny runs the same code"
    if not tiny:
        return "--device cpu: encoders of this size are for a GPU; add --tiny"
    return "--save: only measurements on a GPU are saved; leave it out" if save else None


def peak_of(name: str) -> float | None:
    """TFLOP/s of a device by its name; None for an unknown device or a MIG slice."""
    return of_device(name, PEAKS)


def of_device(name: str, table: Mapping[str, float]) -> float | None:
    """A table's entry for a device: the key that shares the most words with its name."""
    words = set(re.split(r"[\s-]", name))
    matches = [key for key in table if set(key.split()) <= words]
    return None if "MIG" in words or not matches else table[max(matches, key=len)]
