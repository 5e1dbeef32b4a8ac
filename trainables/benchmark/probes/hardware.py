"""The machine a measurement runs on, for its context."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import torch

from trainables.benchmark.probes.nvml import gpu_names

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Hardware:
    """`cpu`: model and vector instructions. `cores`: cores this process may use. `bf16`: the CPU multiplies bf16 in hardware.

    Memory in GB (1e9 bytes).
    """

    cpu: str
    cores: int
    bf16: bool
    memory_gb: float
    gpus: tuple[str, ...]

    def __str__(self) -> str:
        bf16 = "bf16" if self.bf16 else "no bf16"
        gpus = ", ".join(f"{self.gpus.count(name)} x {name}" for name in dict.fromkeys(self.gpus)) or "no GPU"
        return f"{self.cpu}, {self.cores} cores, {bf16}, {self.memory_gb:.0f} GB, {gpus}"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "gpus": list(self.gpus), "summary": str(self)}


@cache
def hardware() -> Hardware:
    """This machine, limited to what this process may use."""
    memory_gb = psutil.virtual_memory().total / 1e9
    return Hardware(cpu_name(), available_cores(), cpu_has_bf16(), round(memory_gb, 1), gpu_names())


def describe_hardware() -> str:
    """The machine in one line, the form in which runs are tagged."""
    return str(hardware())


def device_name(device: torch.device) -> str:
    """The GPU's name from CUDA (of a MIG slice, the slice's name), or the CPU's model and vector instructions."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name()


def cpu_name() -> str:
    """The CPU's model and its vector instructions, such as `AMD EPYC (AVX2)`.

    Clouds hide the model: "AMD EPYC" is several generations, and the newest compute int8 or bf16 several times as fast as the
    oldest.
    """
    instructions = vector_instructions()
    return f"{cpu_model()} ({instructions})" if instructions else cpu_model()


def vector_instructions() -> str:
    """The widest vector instructions of an x86 CPU that matter for speed; empty for others."""
    if torch.cpu._is_amx_tile_supported():
        return "AMX"
    if torch.cpu._is_avx512_supported():
        return "AVX-512 VNNI" if torch.cpu._is_vnni_supported() else "AVX-512"
    return "AVX2" if torch.cpu._is_avx2_supported() else ""


def int8_saturates() -> bool:
    """Whether products of 8 bits are added in 16 bits, which two large ones exceed: x86 CPUs without VNNI or AMX."""
    return vector_instructions() in ("AVX2", "AVX-512")


def cpu_model() -> str:
    """The model from /proc/cpuinfo; the architecture if it names none, as on some ARM machines."""
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def available_cores() -> int:
    """Cores in the affinity of this process; cgroup quotas are ignored."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_has_bf16() -> bool:
    """Whether bf16 dot products run in hardware; `torch.ops.mkldnn._is_mkldnn_bf16_supported` also accepts emulation."""
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return True
    if platform.machine() not in ("aarch64", "arm64") or not CPUINFO.exists():
        return False
    features = [line for line in CPUINFO.read_text().splitlines() if line.startswith("Features")]
    return bool(features) and "bf16" in features[0].split()
