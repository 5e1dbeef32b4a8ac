"""Peak memory is that of all processes together, of the whole run and of each phase."""

from __future__ import annotations

import pytest

from study.run import peak_memory
from study.run.peak_memory import PeakMemory
from tests.support.waiting import wait_for

LARGE = 200_000_000  # bytes


def test_a_phase_has_the_peak_of_its_own_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak_memory, "SAMPLE_EVERY_S", 0.01)
    current = ["small"]
    measured = PeakMemory(lambda: current[0])
    with measured.measure():
        wait_for(lambda: "small" in measured.by_phase)
        current[0] = "large"
        wait_for(lambda: "large" in measured.by_phase)  # no sample of the first phase is under way
        held = bytearray(b"x" * LARGE)
        wait_for(lambda: measured.by_phase["large"] - measured.by_phase["small"] > 0.5 * LARGE / 1e6)
        current[0] = ""
    assert len(held) == LARGE
    assert measured.peak_mb >= measured.by_phase["large"] > measured.by_phase["small"]
    assert set(measured.by_phase) == {"small", "large"}
