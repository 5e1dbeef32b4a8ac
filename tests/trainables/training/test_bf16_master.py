"""`bf16_master`: bf16 weights, with fp32 weights and gradients in the optimizer, the same under every ZeRO stage."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.support.killed import Killed
from tests.support.networks import PAD, classifier, roberta, small_encoder
from tests.support.pair import Pair
from trainables.heads.features import read_features
from trainables.hyperparameters import Precision, Training
from trainables.models.families import FAMILIES
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.training.batching import BatchOrder, FeatureBatches, Share
from trainables.training.clipping import clip_gradients
from trainables.training.engine import Layout, full_state, managed_engine
from trainables.training.loop import train
from trainables.training.resuming.checkpoints import Checkpoints

TRAINING = Training(learning_rate=3e-3, steps=8, batch_size=16, seed=1, precision="bf16_master", max_gradient_norm=0.5)
CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


def _train(
    features: Path,
    share: Share,
    *,
    zero_stage: int = 0,
    precision: Precision = "bf16_master",
    dropout: float = 0.0,
    checkpoints: Path | None = None,
    until: int = TRAINING.steps,
    family: str = "",
) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """Losses, full state, and the weights that the forward pass uses where each worker has all of them."""

    def observe(step: int, loss: float) -> None:
        if step + 1 == until < TRAINING.steps:
            raise Killed

    training = dataclasses.replace(TRAINING, precision=precision)
    table = read_features(features)
    torch.manual_seed(0)
    kept = None
    if checkpoints is not None:
        kept = Checkpoints(checkpoints, 0.0, leads=share.rank == 0, workers=share.workers, zero_stage=zero_stage)
    order = BatchOrder(table.lengths, training.batch_size, training.seed)
    batches = FeatureBatches(table, MicroEntailment(), PAD, order)
    encoder = small_encoder(family, dropout=dropout) if family else roberta(dropout)
    with managed_engine(classifier(encoder), training, Layout(share, zero_stage)) as engine:
        trained = train(engine, batches, training, share=share, device=CPU, observe=observe, checkpoints=kept)
        used = {name: weight.detach().clone() for name, weight in engine.module.named_parameters()}
        return trained.losses, full_state(engine), used


def test_losses_are_close_to_those_of_fp32(features: Path) -> None:
    losses, *_ = _train(features, Share(0, 1, 8))
    exact, *_ = _train(features, Share(0, 1, 8), precision="fp32")
    assert losses == pytest.approx(exact, rel=2e-2)
    assert losses != exact


def test_the_state_is_fp32_and_the_forward_pass_uses_it_rounded(features: Path) -> None:
    _, state, used = _train(features, Share(0, 1, 8))
    assert {weight.dtype for weight in used.values()} == {torch.bfloat16}
    assert state.keys() == used.keys()
    for name, master in state.items():
        assert master.dtype == torch.float32
        assert torch.equal(master.bfloat16(), used[name])
    assert any(not torch.equal(master.bfloat16().float(), master) for master in state.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_trains_in_bf16(features: Path, family: str) -> None:
    losses, *_ = _train(features, Share(0, 1, 16), family=family)
    exact, *_ = _train(features, Share(0, 1, 16), family=family, precision="fp32")
    assert losses == pytest.approx(exact, rel=5e-2)


def _on_two_workers(rank: int, features: Path) -> list[tuple[list[float], dict[str, Tensor]]]:
    return [_train(features, Share(rank, 2, 4), zero_stage=stage)[:2] for stage in (0, 1, 2, 3)]


@pytest.mark.slow
def test_zero_stages_on_two_workers_agree(features: Path, pair: Pair) -> None:
    first, second = pair.run(_on_two_workers, features)
    alone = _train(features, Share(0, 1, 8))[0]
    for (losses, state), (other_losses, other_state) in zip(first, second, strict=True):
        assert losses == other_losses == pytest.approx(first[0][0], rel=2e-3)
        assert losses == pytest.approx(alone, rel=1e-2)
        for name, master in state.items():
            assert torch.equal(master, other_state[name])
            # AdamW takes a whole step where a gradient of nearly 0 has the other sign, so single weights may differ.
            difference = (master - first[0][1][name]).abs().mean()
            assert difference < 0.01 * TRAINING.learning_rate * TRAINING.steps


def _resumed(rank: int, workers: int, zero_stage: int, features: Path, folder: Path) -> bool:
    share = Share(rank, workers, 4)
    whole, state, _ = _train(features, share, zero_stage=zero_stage, dropout=0.1)
    with pytest.raises(Killed):
        _train(features, share, zero_stage=zero_stage, dropout=0.1, checkpoints=folder, until=5)
    losses, resumed, _ = _train(features, share, zero_stage=zero_stage, dropout=0.1, checkpoints=folder)
    return losses == whole and all(torch.equal(resumed[name], master) for name, master in state.items())


def test_a_resumed_training_is_the_uninterrupted_one(features: Path, tmp_path: Path) -> None:
    assert _resumed(0, 1, 0, features, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_two_workers_resume_under_zero(zero_stage: int, features: Path, tmp_path: Path, pair: Pair) -> None:
    assert pair.run(_resumed, 2, zero_stage, features, tmp_path) == [True, True]


class Product(nn.Module):
    """A weight times its input: the gradient is the input."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.weight * inputs).float().sum()


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_gradients_of_micro_batches_are_summed_in_fp32(zero_stage: int) -> None:
    """In bf16, 1 + 2^-9 is 1."""
    training = dataclasses.replace(TRAINING, batch_size=9, max_gradient_norm=0.0)
    with managed_engine(Product(), training, Layout(Share(0, 1, 1), zero_stage)) as engine:
        for number, value in enumerate([1.0, *[2.0**-9] * 8]):
            engine.set_gradient_accumulation_boundary(number == 8)
            engine.backward(engine(torch.tensor([value], dtype=torch.bfloat16)) * 1.0, scale_wrt_gas=False)
            clip_gradients(engine, 0.0)
            engine.step()
        (moment,) = (
            float(state["exp_avg"].flatten()[0])
            for state in engine.basic_optimizer.state.values()
            if "exp_avg" in state
        )
    assert moment == pytest.approx((1 - 0.9) * (1 + 8 * 2.0**-9), rel=1e-6)
