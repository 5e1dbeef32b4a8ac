"""CUDA graphs of single rows. Recording needs a GPU; what is recorded, when, and what is replayed do not."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.serving import CPU, PAD, TINY, queries
from trainables.benchmark import Benchmark, QuerySample
from trainables.benchmark.scenarios.serving import ModelServer
from trainables.benchmark.variants import VARIANTS, Variant, VariantUnavailable
from trainables.benchmark.variants.graphs import GraphedRows, graph_length, graph_lengths, graphed
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel


def test_an_encoder_that_reads_from_the_host_in_each_pass_is_refused_with_the_reason() -> None:
    model: Any = SimpleNamespace(encoder=SimpleNamespace(config=SimpleNamespace(model_type="deberta-v2")))
    with pytest.raises(VariantUnavailable, match="mDeBERTa copies a constant from the host"):
        VARIANTS["graphed_bf16"].prepare(model, torch.device("cuda", 0))


class FakeGraph:
    """Replaying it computes the recorded output from the recorded inputs, which stay where they are."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self.recorded: tuple[Tensor, Tensor, Tensor] | None = None

    def replay(self) -> None:
        assert self.recorded is not None
        ids, mask, output = self.recorded
        with torch.inference_mode():
            output.copy_(self._cuda.compute(ids, mask))


class FakeCuda:
    """The graph API of `torch.cuda` over tensors of the host. `forward` is a forward pass whose calls it can record.

    `recorded` has the padded length of each recording, `called` the shape of each call that is not one.
    """

    def __init__(self, compute: Forward) -> None:
        self.compute = compute
        self.recorded: list[int] = []
        self.called: list[tuple[int, ...]] = []
        self.pools: set[object] = set()
        self._recording: FakeGraph | None = None

    def forward(self, ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        output = self.compute(ids_NL, mask_NL)
        if self._recording is None:
            self.called.append(tuple(ids_NL.shape))
        else:
            self._recording.recorded = (ids_NL, mask_NL, output)
            self.recorded.append(ids_NL.shape[1])
        return output

    @contextlib.contextmanager
    def graph(self, graph: FakeGraph, *, pool: object, stream: object, capture_error_mode: str) -> Iterator[None]:
        self.pools.add(pool)
        self._recording = graph
        yield
        self._recording = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Stream:
            def __init__(self, device: Any = None) -> None: ...

            def wait_stream(self, other: object) -> None: ...

        for name, fake in {
            "Stream": Stream,
            "current_stream": Stream,
            "stream": lambda stream: contextlib.nullcontext(),
            "CUDAGraph": lambda: FakeGraph(self),
            "graph": self.graph,
            "graph_pool_handle": object,
        }.items():
            monkeypatch.setattr(torch.cuda, name, fake)


class GraphedHere(Variant):
    """`graphed_bf16` in fp32 on the fake device; `prepared` is how many calls `prepare` has made."""

    name = "graphed_here"

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda, self.prepared = cuda, 0

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        forward = graphed(self.cuda.forward, model, device)
        self.prepared = len(self.cuda.called)
        return forward


@pytest.fixture
def cuda(model: TaskModel, monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda(model.logits)
    fake.install(monkeypatch)
    return fake


@pytest.mark.usefixtures("one_thread")
def test_timed_queries_only_replay_and_a_length_without_a_graph_is_a_miss(cuda: FakeCuda, model: TaskModel) -> None:
    """The model has 62 positions: graphs of 16, 32 and 48 tokens, and none for rows of 50."""
    rows = queries([6, 20, 40, 50] * 3)
    sample = QuerySample(tuple(rows), ("en",) * len(rows), tuple(range(len(rows))))
    variant = GraphedHere(cuda)
    measured = Benchmark(model, sample, PAD, CPU, threads=1, settings=TINY).measure(variant).as_dict()
    assert cuda.recorded == [48, 32, 16]
    assert len(cuda.pools) == 1
    use = measured["context"]["cuda_graphs"]
    assert use["recorded"] == 3
    served = cuda.called[variant.prepared :]
    assert {length for number, length in served if number == 1} == {50}  # the others are replayed
    assert use["misses"] == sum(number == 1 for number, _ in served) - 1  # a last call shows the kernels of attention
    assert min(use["hits"], use["misses"]) > 0
    assert use["batches"] == sum(number > 1 for number, _ in served) - 1


@pytest.mark.usefixtures("one_thread")
def test_a_replayed_row_has_the_logits_of_the_model(cuda: FakeCuda, model: TaskModel) -> None:
    """Rows of a bucket follow each other, so what a longer one left in the inputs must not show."""
    rows = queries([48, 40, 33, 16, 3, 16])
    server = ModelServer(graphed(cuda.forward, model, CPU), rows, pad_id=PAD, device=CPU, threads=1)
    plain = ModelServer(model.logits, rows, pad_id=PAD, device=CPU, threads=1)
    called = len(cuda.called)
    logits = [server.serve_batch([index]) for index in range(len(rows))]
    for index, row in enumerate(logits):
        assert torch.allclose(row, plain.serve_batch([index]), atol=1e-5), index
    assert len(cuda.called) == called


def test_the_output_of_a_tagging_row_is_cut_back(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeCuda(lambda ids_NL, mask_NL: torch.stack([ids_NL * mask_NL, mask_NL], dim=-1).float())
    fake.install(monkeypatch)
    rows = GraphedRows(fake.forward, (16, 32), pad_id=1, device=CPU)
    for ids_NL in (torch.arange(10, 30)[None], torch.arange(40, 57)[None]):
        output = rows(ids_NL, torch.ones_like(ids_NL))
        assert output[0, :, 0].tolist() == ids_NL[0].tolist()
        assert output.shape == (1, ids_NL.shape[1], 2)
    assert (rows.use.recorded, rows.use.hits, rows.use.misses) == (2, 2, 0)


def test_lengths_of_graphs(model: TaskModel) -> None:
    config = model.encoder.config
    assert graph_lengths(config) == (16, 32, 48)  # 64 positions, of which ids up to that of padding have none
    config.max_position_embeddings = 8194
    assert graph_lengths(config)[-1] == 512
    assert [graph_length(length) for length in (1, 16, 17)] == [16, 16, 32]


@pytest.mark.usefixtures("one_thread")
def test_what_is_graphed_is_a_bf16_copy_with_merged_projections(model: TaskModel) -> None:
    names = set(model.state_dict())
    served = VARIANTS["graphed_bf16"].weights(model, CPU)
    assert {weight.dtype for weight in served.parameters()} == {torch.bfloat16}
    assert sum(name.endswith("query_key_value.weight") for name in served.state_dict()) == 1  # of the only layer
    assert set(model.state_dict()) == names
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        expected, logits = (each.logits(ids, torch.ones_like(ids)).float() for each in (model, served))
    assert torch.allclose(logits, expected, atol=2e-2)


def test_on_a_cpu_the_variant_says_what_it_needs() -> None:
    assert VARIANTS["graphed_bf16"].unavailable(CPU) == "CUDA graphs need a GPU"
