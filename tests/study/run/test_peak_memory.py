"""Peak memory is that of all processes together, of the whole run and of each phase, and costs little to follow."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from study.run import peak_memory
from study.run.peak_memory import PeakMemory
from tests.support.waiting import wait_for

LARGE = 200_000_000  # bytes


def test_a_phase_has_the_peak_of_its_own_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "LOOK_EVERY_S", 0.01)
    current = ["small"]
    measured = PeakMemory(lambda: current[0])
    with measured.measure():
        wait_for(lambda: "small" in measured.by_phase)
        current[0] = "large"
        wait_for(lambda: "large" in measured.by_phase)  # no reading of the first phase is under way
        held = bytearray(b"x" * LARGE)
        wait_for(lambda: measured.by_phase["large"] - measured.by_phase["small"] > 0.5 * LARGE / 1e6)
        current[0] = ""
    assert len(held) == LARGE
    assert measured.peak_mb >= measured.by_phase["large"] > measured.by_phase["small"]
    assert set(measured.by_phase) == {"small", "large"}


def test_the_expensive_reading_follows_a_rise_a_new_phase_and_otherwise_a_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that stays as it is spends a hundredth of its time on readings of 0.2 s."""
    now_s, phase, resident, readings = [0.0], ["search"], [100.0], [0]

    def read(processes: object) -> float:
        readings[0] += 1
        now_s[0] += 0.2
        return 0.75 * resident[0]

    monkeypatch.setattr(peak_memory, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    monkeypatch.setattr(peak_memory, "resident_mb", lambda processes: resident[0])
    monkeypatch.setattr(peak_memory, "proportional_mb", read)
    measured = PeakMemory(lambda: phase[0])

    def looked(seconds: int) -> int:
        before = readings[0]
        for _ in range(seconds):
            now_s[0] += 1.0
            measured.look()
        return readings[0] - before

    assert looked(1) == 1
    assert 9 <= looked(200) <= 10
    resident[0] = 102.0
    assert looked(1) == 1
    assert measured.peak_mb == measured.by_phase["search"] == 76.5
    resident[0] = 80.0
    phase[0] = "benchmark"
    assert looked(1) == 1
    assert measured.by_phase == {"search": 76.5, "benchmark": 60.0}
    assert looked(10) == 0
