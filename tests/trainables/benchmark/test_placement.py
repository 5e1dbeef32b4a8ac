"""Placement of a measurement on cores."""

from __future__ import annotations

import os

import torch

from trainables.benchmark.placement import pinned, serving_cores


def test_threads_and_cores_are_restored() -> None:
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    with pinned(1, serving_cores(1)):
        assert torch.get_num_threads() == 1
        assert os.sched_getaffinity(0) == set(serving_cores(1))
        assert len(serving_cores(1)) == 1
    assert (torch.get_num_threads(), os.sched_getaffinity(0)) == (threads, cores)
