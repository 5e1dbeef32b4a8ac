"""Serving single queries and batches, and the choice of a batch size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.support.serving import CPU, PAD, ManualClock, queries
from trainables.benchmark.scenarios.queries import Query
from trainables.benchmark.scenarios.serving import ModelServer
from trainables.benchmark.scenarios.sweep import sweep_batch_sizes
from trainables.models.task_model import TaskModel


@pytest.mark.usefixtures("one_thread")
def test_a_query_has_the_same_logits_in_a_batch_as_alone(model: TaskModel) -> None:
    server = ModelServer(model.logits, queries([4, 12, 7]), pad_id=PAD, device=CPU, threads=1)
    together = server.serve_batch([2, 1, 0])
    alone = torch.cat([server.serve_batch([index]) for index in (2, 1, 0)])
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-5)
    assert torch.equal(server.serve_query(queries([7])[0]), alone[:1])


def test_the_rows_of_a_query_stay_together() -> None:
    seen: list[Tensor] = []

    def forward(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        seen.append(ids_NL * mask_NL)
        return torch.zeros(len(ids_NL), 1)

    choices: list[Query] = [((5, 6), (7, 8, 9)), ((10,), (11, 12))]
    ModelServer(forward, choices, pad_id=PAD, device=CPU, threads=torch.get_num_threads()).serve_batch([1, 0])
    assert seen[0].tolist() == [[10, 0, 0], [11, 12, 0], [5, 6, 0], [7, 8, 9]]


def test_the_sweep_chooses_the_fastest_size_and_ends_when_out_of_memory() -> None:
    clock = ManualClock()

    def forward(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        rows = len(ids_NL)
        if rows > 8:
            raise torch.OutOfMemoryError("no memory left")
        clock.now += {1: 1.0, 4: 1.0, 8: 4.0}[rows]
        return torch.zeros(rows, 3)

    server = ModelServer(forward, queries([4] * 6), pad_id=PAD, device=CPU, threads=torch.get_num_threads())
    sweep = sweep_batch_sizes(server, (16, 8, 4, 1, 32), 5.0, seed=0, clock=clock)
    assert sweep.samples_per_s == pytest.approx({1: 1.0, 4: 4.0, 8: 2.0})
    assert sweep.best == 4
    assert sweep.stopped == "out of memory at batch size 16: no memory left"
    with pytest.raises(torch.OutOfMemoryError):
        sweep_batch_sizes(server, (16, 32), 5.0, seed=0, clock=clock)


@pytest.mark.parametrize(("warm_s", "fair"), [(1e6, True), (0.0, False)])
def test_no_timed_batch_is_the_first_of_its_shape_on_a_device_that_compiles_for_each(warm_s: float, fair: bool) -> None:
    clock, compiled = ManualClock(), set[tuple[int, ...]]()

    def forward(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        clock.now += 1.0 if tuple(ids_NL.shape) in compiled else 30.0
        compiled.add(tuple(ids_NL.shape))
        return torch.zeros(len(ids_NL), 3)

    server = ModelServer(forward, queries([4, 4, 5, 5, 6, 6]), pad_id=PAD, device=CPU, threads=torch.get_num_threads())
    sweep = sweep_batch_sizes(server, (1, 2), 6.0, seed=0, clock=clock, warm_s=warm_s)
    assert (sweep.samples_per_s == pytest.approx({1: 1.0, 2: 2.0}, rel=0.2)) is fair


def test_batches_by_tokens_hold_about_as_many_each() -> None:
    """Ten queries of 3.6 tokens on average: a size of 4 stands for 14.4 tokens."""
    server = ModelServer(
        lambda ids_NL, mask_NL: torch.zeros(len(ids_NL), 1),
        queries([10, 2, 2, 2, 2, 10, 2, 2, 2, 2]),
        pad_id=PAD,
        device=CPU,
        threads=torch.get_num_threads(),
        by_tokens=True,
    )
    batches = server.batches(range(10), 4, seed=0)
    lengths = sorted(sorted(server.tokens[index] for index in batch) for batch in batches)
    assert lengths == [[2, 2, 2, 2, 2, 2], [2, 2, 10], [10]]
    assert sorted(index for batch in batches for index in batch) == list(range(10))
    full = server.batches(range(10), 4, seed=0, rest=False)  # the six short ones leave space for a seventh
    assert sorted(len(batch) for batch in full) == [1, 3]
    assert server.batches([1, 2], 4, seed=0, rest=False) == [[1, 2]]
