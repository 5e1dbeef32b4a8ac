"""Computing outputs: identical rows are encoded once, and batches that do not fit on the device are halved."""

from __future__ import annotations

import random
from collections.abc import Callable
from unittest import mock

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from tests.support.pair import Pair
from trainables.evaluation import ExampleSet, _is_constant, predict, predict_alone
from trainables.heads import Feature
from trainables.training.batching import Share

PAD = 1
ALONE = Share(0, 1, 64)
CPU = torch.device("cpu")


class Device:
    """Sums the ids of each row of a batch that fits."""

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self.batches: list[tuple[int, int]] = []

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if input_ids.numel() > self._max_tokens:
            raise torch.OutOfMemoryError(f"{input_ids.numel()} tokens")
        self.batches.append((input_ids.shape[0], input_ids.shape[1]))
        return (input_ids * attention_mask).sum(1, keepdim=True).double()


def _sets() -> list[ExampleSet]:
    rng = random.Random(0)
    rows = [tuple(rng.choices(range(2, 100), k=rng.randint(1, 120))) for _ in range(200)]
    features = [Feature(at, (row,), ()) for at, row in enumerate(rows)]
    return [ExampleSet("test", "en", (), features), ExampleSet("test", "de", (), features[:50])]


def _sums(device: Device, *, lockstep: bool = False) -> list[list[np.ndarray]]:
    return [list(output.logits) for output in predict(device, _sets(), PAD, share=ALONE, device=CPU, lockstep=lockstep)]


@pytest.mark.parametrize("max_tokens", [10_000, 1500, 130])
def test_outputs_do_not_depend_on_the_memory_of_the_device(max_tokens: int, caplog: pytest.LogCaptureFixture) -> None:
    device = Device(max_tokens)
    for scored, outputs in zip(_sets(), _sums(device), strict=True):
        assert [values.item() for values in outputs] == [sum(feature.rows[0]) for feature in scored.features]
    assert sum(rows for rows, _ in device.batches) == 200, "a row was encoded twice"
    assert ("continuing with" in caplog.text) is (max_tokens < 4096)
    # Batches are halved until they fit, and later ones start at that size: this many halvings reach the limit.
    assert caplog.text.count("continuing with") <= np.ceil(np.log2(4096 / max_tokens)) + 1


def test_a_single_row_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="tokens"):
        _sums(Device(100))


def test_workers_in_lockstep_do_not_halve_batches() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        _sums(Device(1500), lockstep=True)


def test_alone_each_feature_is_served_without_others_and_without_padding() -> None:
    """Also the two rows of one are served together, as a query with two rows is; and what occurs twice is served once."""
    device, seen = Device(100), list[tuple[int, int]]()
    rows = (((5, 6, 7),), ((5,), (6, 7)), ((5, 6, 7),))
    sets = [ExampleSet("test", "en", (), [Feature(at, feature, ()) for at, feature in enumerate(rows)])]
    (outputs,) = predict_alone(device, sets, PAD, device=CPU, observe=lambda *progress: seen.append(progress))
    assert [values.tolist() for values in outputs.logits] == [[[18]], [[5], [13]], [[18]]]
    assert device.batches == [(1, 3), (2, 2)]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def _each_token(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    return torch.stack([input_ids, input_ids * 2], dim=-1)


def _sum_and_largest(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    ids = input_ids * attention_mask
    return torch.stack([ids.sum(1), ids.max(1).values], dim=-1)


def _shared(rank: int, forward: Callable[[Tensor, Tensor], Tensor], rows: int) -> list[np.ndarray]:
    scored = _sets()[0]
    sets = [ExampleSet("test", "en", (), scored.features[:rows])]
    with mock.patch.object(dist, "all_gather_object", side_effect=AssertionError("pickled")):
        (output,) = predict(forward, sets, PAD, share=Share(rank, 2, 64), device=CPU)
    return list(output.logits)


@pytest.mark.parametrize("rows", [200, 7, 1])
@pytest.mark.parametrize("forward", [_each_token, _sum_and_largest])
def test_every_worker_has_the_outputs_of_all(
    forward: Callable[[Tensor, Tensor], Tensor], rows: int, pair: Pair
) -> None:
    """One row leaves the second worker without any; it learns the shape of the outputs from the first."""
    features = _sets()[0].features[:rows]
    (alone,) = predict(forward, [ExampleSet("test", "en", (), features)], PAD, share=ALONE, device=CPU)
    for outputs in pair.run(_shared, forward, rows):
        for values, expected in zip(outputs, alone.logits, strict=True):
            np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("max_tokens", [10_000, 1500])
def test_progress_counts_rows_up_to_all_of_them(max_tokens: int) -> None:
    seen: list[tuple[int, int]] = []
    predict(
        *(Device(max_tokens), _sets(), PAD),
        share=ALONE,
        device=CPU,
        observe=lambda done, total: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert len(seen) > 1
    assert {total for _, total in seen} == {200}, "rows of the second set are rows of the first"
    assert seen[-1] == (200, 200)


@pytest.mark.parametrize(
    ("predictions", "references", "constant"),
    [
        ([1, 1, 1], [0, 1, 0], True),
        ([1, 1, 0], [0, 1, 0], False),
        ([1, 1, 1], [1, 1, 1], False),
        ([1, 1, 0], [0, 1, None], True),  # the last example is not scored
        ([["O", "O"], ["O"]], [["O", "B-X"], ["O"]], True),
        ([["O", "B-X"], ["O"]], [["O", "B-X"], ["O"]], False),
        (["", ""], [["a"], ["b"]], True),
        ([1], [0], False),
    ],
)
def test_one_answer_to_everything_is_recognised(
    predictions: list[object], references: list[object | None], constant: bool
) -> None:
    assert _is_constant(predictions, references) is constant
