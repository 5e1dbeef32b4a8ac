"""Running a model over sets: each different row once, and a batch that the device does not hold in halves."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.evaluation import ExampleSet, predict
from trainables.heads import Feature
from trainables.training.batching import Share

PAD = 1
ALONE = Share(0, 1, 64)
CPU = torch.device("cpu")


class Device:
    """Sums the ids of each row, as long as it holds the batch."""

    def __init__(self, most_tokens: int) -> None:
        self._most_tokens = most_tokens
        self.held: list[tuple[int, int]] = []

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if input_ids.numel() > self._most_tokens:
            raise torch.OutOfMemoryError(f"{input_ids.numel()} tokens")
        self.held.append((input_ids.shape[0], input_ids.shape[1]))
        return (input_ids * attention_mask).sum(1, keepdim=True).double()


def _sets() -> list[ExampleSet]:
    rng = random.Random(0)
    rows = [tuple(rng.choices(range(2, 100), k=rng.randint(1, 120))) for _ in range(200)]
    features = [Feature(at, (row,), ()) for at, row in enumerate(rows)]
    return [ExampleSet("test", "en", (), features), ExampleSet("test", "de", (), features[:50])]


def _sums(device: Device, *, lockstep: bool = False) -> list[list[np.ndarray]]:
    return [list(one.logits) for one in predict(device, _sets(), PAD, share=ALONE, device=CPU, lockstep=lockstep)]


@pytest.mark.parametrize("most_tokens", [10_000, 1500, 130])
def test_scores_are_the_same_whatever_the_device_holds(most_tokens: int, caplog: pytest.LogCaptureFixture) -> None:
    device = Device(most_tokens)
    found = _sums(device)
    for one, outputs in zip(_sets(), found, strict=True):
        assert [values.item() for values in outputs] == [sum(feature.rows[0]) for feature in one.features]
    assert sum(rows for rows, _ in device.held) == 200, "a row was encoded twice"
    assert ("continuing with" in caplog.text) is (most_tokens < 4096)
    # What did not fit is halved until it does, and not forgotten: so many refusals are needed to come below the limit.
    assert caplog.text.count("continuing with") <= np.ceil(np.log2(4096 / most_tokens)) + 1


def test_a_row_that_does_not_fit_alone_is_the_device_s_error() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="tokens"):
        _sums(Device(100))


def test_workers_in_lockstep_do_not_cut_batches_of_their_own() -> None:
    with pytest.raises(torch.OutOfMemoryError):
        _sums(Device(1500), lockstep=True)
