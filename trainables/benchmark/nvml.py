"""What NVML knows about a GPU. What it cannot say is None with a reason, never zero."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pynvml
import torch

MB = 1e6


@dataclass(frozen=True)
class GpuState:
    """One reading. `energy_j` counts since the driver was loaded; memory in MB (1e6 bytes); `unavailable` by field."""

    name: str | None = None
    driver: str | None = None
    uuid: str | None = None
    energy_j: float | None = None
    memory_used_mb: float | None = None
    memory_total_mb: float | None = None
    other_processes: int | None = None
    unavailable: dict[str, str] = field(default_factory=dict)


FIELDS = ("name", "driver", "uuid", "energy_j", "memory_used_mb", "memory_total_mb", "other_processes")


def gpu_uuid(device: torch.device) -> str | None:
    """The device's UUID as NVML writes it, None for a CPU. NVML's own indices ignore CUDA_VISIBLE_DEVICES."""
    if device.type != "cuda":
        return None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def read_gpu(uuid: str | None) -> GpuState:
    """The present state of the GPU with that UUID."""
    if uuid is None:
        return _nothing("the device is not a GPU")
    try:
        with _session():
            return _read(pynvml.nvmlDeviceGetHandleByUUID(uuid), uuid)
    except pynvml.NVMLError as error:
        return _nothing(f"NVML: {error}")


def gpu_names() -> tuple[str, ...]:
    """All GPUs of the machine; none where NVML is missing."""
    try:
        with _session():
            count = pynvml.nvmlDeviceGetCount()
            return tuple(_text(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(i))) for i in range(count))
    except pynvml.NVMLError:
        return ()


@contextmanager
def _session() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _read(handle: Any, uuid: str) -> GpuState:
    readers: dict[str, Callable[[], Any]] = {
        "name": lambda: _text(pynvml.nvmlDeviceGetName(handle)),
        "driver": lambda: _text(pynvml.nvmlSystemGetDriverVersion()),
        "energy_j": lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000,
        "memory_used_mb": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used / MB,
        "memory_total_mb": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).total / MB,
        "other_processes": lambda: _others(handle),
    }
    values: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, read in readers.items():
        try:
            values[name] = read()
        except pynvml.NVMLError as error:
            reasons[name] = f"NVML: {error}"
    return GpuState(uuid=uuid, unavailable=reasons, **values)


def _others(handle: Any) -> int:
    return sum(process.pid != os.getpid() for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle))


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _nothing(reason: str) -> GpuState:
    return GpuState(unavailable=dict.fromkeys(FIELDS, reason))
