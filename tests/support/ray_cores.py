"""Cores of the running Ray cluster."""

from __future__ import annotations

import time

import ray


def free_cores(within_s: float) -> float:
    """Free cores as soon as all are free, or when the time is up."""
    deadline = time.monotonic() + within_s
    total = ray.cluster_resources()["CPU"]
    while (free := ray.available_resources().get("CPU", 0.0)) < total and time.monotonic() < deadline:
        time.sleep(0.5)
    return float(free)
