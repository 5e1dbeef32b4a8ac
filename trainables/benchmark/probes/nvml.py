"""What NVML knows about a GPU. What it cannot say is None with a reason, never zero."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

import pynvml
import torch

MB = 1e6


@dataclass(frozen=True)
class GpuState:
    """One reading. `energy_j` counts since the driver was loaded; memory in MB (1e6 bytes), `process_memory_mb` that of this
    process; `slowed_by` why clocks are below what they could be; `unavailable` by field."""

    name: str | None = None
    driver: str | None = None
    uuid: str | None = None
    energy_j: float | None = None
    power_w: float | None = None
    temperature_c: int | None = None
    memory_used_mb: float | None = None
    memory_total_mb: float | None = None
    process_memory_mb: float | None = None
    other_processes: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    slowed_by: tuple[str, ...] | None = None
    mig: bool | None = None
    unavailable: dict[str, str] = field(default_factory=dict)


FIELDS = tuple(one.name for one in fields(GpuState) if one.name != "unavailable")
SLOWED_BY = {
    "application clocks": pynvml.nvmlClocksEventReasonApplicationsClocksSetting,
    "power cap": pynvml.nvmlClocksEventReasonSwPowerCap,
    "hardware": pynvml.nvmlClocksEventReasonHwSlowdown,
    "sync boost": pynvml.nvmlClocksEventReasonSyncBoost,
    "temperature (driver)": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    "temperature (hardware)": pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    "power brake": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    "display clocks": pynvml.nvmlClocksEventReasonDisplayClockSetting,
}  # idle is no reason: what idles is not slowed


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
        "power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
        "process_memory_mb": lambda: _process_memory_mb(handle),
        "other_processes": lambda: _others(handle),
        "sm_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_MEM),
        "slowed_by": lambda: _slowed_by(pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)),
        "mig": lambda: bool(pynvml.nvmlDeviceGetMigMode(handle)[0]),
    }
    values: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, read in readers.items():
        try:
            values[name] = read()
        except pynvml.NVMLError as error:
            reasons[name] = f"NVML: {error}"
    if "process_memory_mb" in values and values["process_memory_mb"] is None:
        reasons["process_memory_mb"] = "this process is not among those NVML names (a container has ids of its own)"
    return GpuState(uuid=uuid, unavailable=reasons, **values)


def _others(handle: Any) -> int:
    """Where NVML counts this process under an id that it does not know of, one of those is it."""
    pids = [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    here = os.getpid() in pids or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return max(len(pids) - here, 0)


def _process_memory_mb(handle: Any) -> float | None:
    for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
        if process.pid == os.getpid() and process.usedGpuMemory is not None:
            return float(process.usedGpuMemory / MB)
    return None


def _slowed_by(reasons: int) -> tuple[str, ...]:
    return tuple(name for name, bit in SLOWED_BY.items() if reasons & bit)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _nothing(reason: str) -> GpuState:
    return GpuState(unavailable=dict.fromkeys(FIELDS, reason))
