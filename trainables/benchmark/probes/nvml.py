"""GPU readings from NVML. A reading that NVML cannot give is None with a reason, never zero.

A MIG slice has memory, processes and a name of its own. Energy, power, temperature and clocks exist only for the whole card,
and are those of the card that the slice belongs to (NVML's reference, "Multi Instance GPU Management").
"""

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
    """One reading. `energy_j` counts from the loading of the driver; memory is in MB (1e6 bytes), `process_memory_mb` that of
    this process. `slowed_by` lists why clocks are below their maximum. `unavailable` holds the reasons by field. `whole_card`
    names the readings of a MIG slice that are those of its whole card, other slices included."""

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
    whole_card: tuple[str, ...] = ()


FIELDS = tuple(field.name for field in fields(GpuState) if field.name not in ("unavailable", "whole_card"))
WHOLE_CARD = ("energy_j", "power_w", "temperature_c", "sm_clock_mhz", "memory_clock_mhz", "slowed_by")
SLOWED_BY = {
    "application clocks": pynvml.nvmlClocksEventReasonApplicationsClocksSetting,
    "power cap": pynvml.nvmlClocksEventReasonSwPowerCap,
    "hardware": pynvml.nvmlClocksEventReasonHwSlowdown,
    "sync boost": pynvml.nvmlClocksEventReasonSyncBoost,
    "temperature (driver)": pynvml.nvmlClocksEventReasonSwThermalSlowdown,
    "temperature (hardware)": pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    "power brake": pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    "display clocks": pynvml.nvmlClocksEventReasonDisplayClockSetting,
}  # idling is left out: an idle GPU is not slowed down


def gpu_uuid(device: torch.device) -> str | None:
    """The device's UUID in NVML's form, None for a CPU. NVML's indices would ignore CUDA_VISIBLE_DEVICES.

    CUDA gives a MIG slice's own UUID without saying that it is a slice's; `read_gpu` finds out.
    """
    if device.type != "cuda":
        return None
    uuid = str(torch.cuda.get_device_properties(device).uuid)
    return uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"


def read_gpu(uuid: str | None) -> GpuState:
    """The current state of the GPU, or the MIG slice, with that UUID."""
    if uuid is None:
        return _no_reading("the device is not a GPU")
    try:
        with _session():
            handle, uuid = _find(uuid)
            return _read(handle, uuid)
    except pynvml.NVMLError as error:
        return _no_reading(f"NVML: {error}")


def gpu_names() -> tuple[str, ...]:
    """Names of all GPUs of the machine; none without NVML."""
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


def _find(uuid: str) -> tuple[Any, str]:
    """NVML's handle of a GPU or a MIG slice, and its UUID with the prefix that NVML knows it by."""
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(uuid), uuid
    except pynvml.NVMLError as error:
        if error.value != pynvml.NVML_ERROR_NOT_FOUND or not uuid.startswith("GPU-"):
            raise
    uuid = f"MIG-{uuid.removeprefix('GPU-')}"
    return pynvml.nvmlDeviceGetHandleByUUID(uuid), uuid


def _read(handle: Any, uuid: str) -> GpuState:
    sliced = uuid.startswith("MIG-")
    card = pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle) if sliced else handle
    readers: dict[str, Callable[[], Any]] = {
        "name": lambda: _text(pynvml.nvmlDeviceGetName(handle)),
        "driver": lambda: _text(pynvml.nvmlSystemGetDriverVersion()),
        "energy_j": lambda: pynvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1000,
        "memory_used_mb": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).used / MB,
        "memory_total_mb": lambda: pynvml.nvmlDeviceGetMemoryInfo(handle).total / MB,
        "power_w": lambda: pynvml.nvmlDeviceGetPowerUsage(card) / 1000,
        "temperature_c": lambda: pynvml.nvmlDeviceGetTemperature(card, pynvml.NVML_TEMPERATURE_GPU),
        "process_memory_mb": lambda: _process_memory_mb(handle),
        "other_processes": lambda: _other_processes(handle),
        "sm_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(card, pynvml.NVML_CLOCK_SM),
        "memory_clock_mhz": lambda: pynvml.nvmlDeviceGetClockInfo(card, pynvml.NVML_CLOCK_MEM),
        "slowed_by": lambda: _slowed_by(pynvml.nvmlDeviceGetCurrentClocksEventReasons(card)),
        "mig": lambda: bool(pynvml.nvmlDeviceGetMigMode(card)[0]),
    }
    values: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, read in readers.items():
        try:
            values[name] = read()
        except pynvml.NVMLError as error:
            reasons[name] = f"NVML: {error}"
    if "process_memory_mb" in values and values["process_memory_mb"] is None:
        reasons["process_memory_mb"] = "NVML does not list this process (process ids differ in a container)"
    whole_card = tuple(name for name in WHOLE_CARD if sliced and name in values)
    return GpuState(uuid=uuid, unavailable=reasons, whole_card=whole_card, **values)


def _other_processes(handle: Any) -> int:
    """Compute processes besides this one, which NVML may list under another process id (in a container)."""
    pids = [process.pid for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle)]
    listed = os.getpid() in pids or torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return max(len(pids) - listed, 0)


def _process_memory_mb(handle: Any) -> float | None:
    for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
        if process.pid == os.getpid() and process.usedGpuMemory is not None:
            return float(process.usedGpuMemory / MB)
    return None


def _slowed_by(reasons: int) -> tuple[str, ...]:
    return tuple(name for name, bit in SLOWED_BY.items() if reasons & bit)


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _no_reading(reason: str) -> GpuState:
    return GpuState(unavailable=dict.fromkeys(FIELDS, reason))
