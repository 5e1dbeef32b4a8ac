"""Readings of the machine: GPU state, memory and energy."""

from __future__ import annotations

import os
from collections.abc import Callable

import pynvml
import pytest
import torch

from tests.support.serving import CPU
from trainables.benchmark.probes import memory as memory_module
from trainables.benchmark.probes.attention import attention_kernels
from trainables.benchmark.probes.energy import EnergyRule, measure_energy
from trainables.benchmark.probes.hardware import device_name, int8_saturates
from trainables.benchmark.probes.nvml import FIELDS, gpu_names, read_gpu


def test_without_nvml_every_field_is_unavailable_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    state = read_gpu("GPU-0")
    for name in FIELDS:
        assert getattr(state, name) is None
        assert "Not Found" in state.unavailable[name]
    assert gpu_names() == ()
    assert read_gpu(None).unavailable["energy_j"] == "the device is not a GPU"


def test_a_reading_that_one_gpu_lacks_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    own_pid = os.getpid()

    def no_energy(handle: str) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def busy(handle: str) -> list[object]:
        return [
            type("Process", (), {"pid": -1, "usedGpuMemory": 5e6})(),
            type("Process", (), {"pid": own_pid, "usedGpuMemory": 3e6})(),
        ]

    fakes = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: f"handle of {uuid}",
        "nvmlDeviceGetName": lambda handle: handle,
        "nvmlSystemGetDriverVersion": lambda: b"580.1",
        "nvmlDeviceGetTotalEnergyConsumption": no_energy,
        "nvmlDeviceGetMemoryInfo": lambda handle: type("Memory", (), {"used": 2e6, "total": 8e6})(),
        "nvmlDeviceGetComputeRunningProcesses": busy,
        "nvmlDeviceGetPowerUsage": lambda handle: 250_500,
        "nvmlDeviceGetTemperature": lambda handle, sensor: 61,
        "nvmlDeviceGetClockInfo": lambda handle, clock: {pynvml.NVML_CLOCK_SM: 1980, pynvml.NVML_CLOCK_MEM: 2619}[
            clock
        ],
        "nvmlDeviceGetCurrentClocksEventReasons": lambda handle: (
            pynvml.nvmlClocksEventReasonSwPowerCap | pynvml.nvmlClocksEventReasonGpuIdle
        ),
        "nvmlDeviceGetMigMode": lambda handle: [0, 1],
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(pynvml, name, fake)
    state = read_gpu("GPU-7")
    assert (state.name, state.driver, state.memory_used_mb, state.other_processes) == (
        "handle of GPU-7",
        "580.1",
        2.0,
        1,
    )
    assert state.energy_j is None
    assert list(state.unavailable) == ["energy_j"]
    assert (state.power_w, state.temperature_c, state.sm_clock_mhz, state.memory_clock_mhz) == (250.5, 61, 1980, 2619)
    assert state.slowed_by == ("power cap",)  # an idle GPU is not slowed down
    assert state.mig is False
    assert state.process_memory_mb == 3.0
    own_pid = -2  # as in a container, where this process has another id than the one NVML lists
    state = read_gpu("GPU-7")
    assert state.process_memory_mb is None
    assert "process ids differ in a container" in state.unavailable["process_memory_mb"]


def test_a_mig_slice_has_its_own_memory_and_processes_and_the_energy_of_its_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CUDA gives the UUID of a slice without NVML's prefix, so it arrives as one of a whole GPU."""
    handles = {"MIG-5": "slice", "GPU-7": "card"}

    def handle_of(uuid: str) -> str:
        if uuid not in handles:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return handles[uuid]

    def only_of_card(value: object) -> Callable[..., object]:
        def read(handle: str, *_: object) -> object:
            if handle != "card":
                raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
            return value

        return read

    process = type("Process", (), {"pid": 1, "usedGpuMemory": 2e6})()
    fakes = {
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetHandleByUUID": handle_of,
        "nvmlDeviceGetDeviceHandleFromMigDeviceHandle": {"slice": "card"}.__getitem__,
        "nvmlDeviceGetName": lambda handle: f"name of {handle}",
        "nvmlSystemGetDriverVersion": lambda: "580.1",
        "nvmlDeviceGetMemoryInfo": lambda handle: type("Memory", (), {"used": 2e6, "total": 8e6})(),
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [] if handle == "slice" else [process] * 3,
        "nvmlDeviceGetTotalEnergyConsumption": only_of_card(9000),
        "nvmlDeviceGetPowerUsage": only_of_card(250_000),
        "nvmlDeviceGetTemperature": only_of_card(61),
        "nvmlDeviceGetClockInfo": only_of_card(1980),
        "nvmlDeviceGetCurrentClocksEventReasons": only_of_card(0),
        "nvmlDeviceGetMigMode": only_of_card([1, 1]),
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(pynvml, name, fake)
    sliced, whole = read_gpu("GPU-5"), read_gpu("GPU-7")
    assert (sliced.uuid, sliced.name, sliced.other_processes, sliced.mig) == ("MIG-5", "name of slice", 0, True)
    assert (sliced.energy_j, sliced.power_w, sliced.sm_clock_mhz) == (9.0, 250.0, 1980)
    assert sliced.whole_card == (
        *("energy_j", "power_w", "temperature_c"),
        *("sm_clock_mhz", "memory_clock_mhz", "slowed_by"),
    )
    assert (whole.name, whole.whole_card) == ("name of card", ())
    assert "Not Found" in read_gpu("GPU-6").unavailable["energy_j"]


def test_the_peak_of_host_memory_restarts_at_its_reset() -> None:
    if not memory_module.reset_host_peak():
        pytest.skip("this kernel does not reset the peak")
    peak = memory_module.PeakMemory(CPU)
    before = peak.read().mb
    block = bytearray(b"x" * 50_000_000)
    high = peak.read().mb
    assert high - before > 40
    del block
    assert memory_module.PeakMemory(CPU).read().mb < high - 40
    assert memory_module.host_peak_mb() >= memory_module.host_rss_mb() * 0.9


class Meter:
    """A device that draws 50 W when idle and 250 W when serving, with its clock."""

    def __init__(self) -> None:
        self.now, self.joules = 0.0, 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.joules += 50 * seconds

    def serve(self, number: int) -> int:
        self.now += 0.1
        self.joules += 25
        return 10


def test_energy_is_joules_per_sample_with_the_idle_power_included() -> None:
    meter = Meter()
    energy = measure_energy(
        meter.serve,
        EnergyRule(windows=3, window_s=5.0, cool_down_s=2.0),
        joules=lambda: meter.joules,
        clock=lambda: meter.now,
        sleep=meter.sleep,
    )
    assert energy is not None
    assert energy.idle_power_w == pytest.approx(50)
    assert energy.j_per_sample == pytest.approx(2.5)  # 250 W at 100 samples per second
    assert len(energy.j_per_sample_by_window) == 3


def test_a_counter_that_stops_answering_gives_no_energy() -> None:
    meter = Meter()
    energy = measure_energy(
        meter.serve, EnergyRule(1, 1.0, 0.0), joules=lambda: None, clock=lambda: meter.now, sleep=meter.sleep
    )
    assert energy is None


def test_the_kernels_of_attention_are_those_that_were_called() -> None:
    query = torch.randn(1, 2, 4, 8)
    attention = torch.nn.functional.scaled_dot_product_attention
    assert attention_kernels(lambda: attention(query, query, query)) == ("flash",)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert attention_kernels(lambda: attention(query, query, query)) == ("math",)
    assert attention_kernels(lambda: query @ query.mT) == ()


@pytest.mark.parametrize(
    ("instructions", "saturates"),
    [("AVX2", True), ("AVX-512", True), ("AVX-512 VNNI", False), ("AMX", False), ("", False)],
)
def test_sums_of_8_bit_products_are_cut_off_on_x86_without_instructions_for_them(
    instructions: str, saturates: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.benchmark.probes.hardware.vector_instructions", lambda: instructions)
    assert int8_saturates() is saturates


@pytest.mark.parametrize(
    ("supported", "name"),
    [
        ({"avx2"}, "AMD EPYC (AVX2)"),
        ({"avx2", "avx512"}, "AMD EPYC (AVX-512)"),
        ({"avx2", "avx512", "vnni"}, "AMD EPYC (AVX-512 VNNI)"),
        ({"avx2", "avx512", "vnni", "amx_tile"}, "AMD EPYC (AMX)"),
        (set(), "AMD EPYC"),
    ],
)
def test_cpus_of_one_model_are_told_apart_by_their_instructions(
    supported: set[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cloud's "AMD EPYC" is several generations; measurements of two of them are not of one kind of hardware."""
    monkeypatch.setattr("trainables.benchmark.probes.hardware.cpu_model", lambda: "AMD EPYC")
    for feature in ("avx2", "avx512", "vnni", "amx_tile"):
        monkeypatch.setattr(torch.cpu, f"_is_{feature}_supported", lambda feature=feature: feature in supported)
    assert device_name(torch.device("cpu")) == name
