"""Operations and GPU-hours of stages, and of whole searches."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import pytest

from study.planning.architecture import architecture_of
from study.planning.operations import (
    load_flops,
    load_hours,
    load_share,
    stage_flops,
    stage_hours,
    tokens_a_micro_step,
)
from study.planning.row_lengths import Tokens
from study.planning.search_cost import search_cost
from study.planning.stages import Load, loads_of
from study.planning.utilisation import ASSUMED
from study.spec.space import LogUniform, Repeats
from tests.support import recipes
from tests.support.architectures import SMALL
from trainables.hyperparameters import Training
from trainables.models.catalogue import published
from trainables.models.encoder import ParameterCount
from trainables.resources import Resources
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import FineTune, Tuned
from trainables.stages.import_encoder import ImportEncoder
from trainables.stages.mixture import FineTuneMixture
from trainables.stages.pretrain import Pretrain
from trainables.tasks.base import Task
from trainables.tasks.english.commonsense_qa import CommonsenseQA
from trainables.tasks.english.cosmos_qa import CosmosQA
from trainables.tasks.english.hellaswag import HellaSwag
from trainables.tasks.english.mnli import Mnli
from trainables.tasks.english.social_iqa import SocialIQa
from trainables.tasks.mixture import Mixture
from trainables.tasks.unlabelled.masked_lm import MaskedLm
from trainables.tasks.xtreme.lareqa import Lareqa
from trainables.tasks.xtreme.mewslix import MewsliX
from trainables.tasks.xtreme.xcopa import Xcopa
from trainables.tasks.xtreme.xnli import Xnli

LARGE = dataclasses.replace(
    SMALL, count=ParameterCount(3 * 10**8, 3 * 10**8), layers=24, width=1024, attention_width=1024
)


def test_operations_by_hand() -> None:
    training = Training(1e-3, steps=10, batch_size=4, seed=0, max_length=16)
    flops = 10 * 4 * 16 * (6 * 600 + 12 * 2 * 8 * 16)
    assert load_flops(SMALL, Load(training)) == flops
    groups = load_flops(SMALL, Load(training, rows=6, masked=True))
    assert groups == pytest.approx(6 * (flops + 10 * 4 * 16 * 6 * 0.15 * 50 * 8))
    # Rows of 4 and 12 tokens: 8 on average, with squares of 80. Counted at their longest, they are as above.
    real = Load(training, tokens=Tokens(8, 80))
    assert load_flops(SMALL, real) == 10 * 4 * (8 * 6 * 600 + 80 * 12 * 2 * 8)
    assert load_flops(SMALL, real, longest=True) == flops


def test_hours_by_hand() -> None:
    """The share of the peak follows what a GPU processes at once; a trial on half a card pays half of each hour."""
    load = Load(Training(1e-3, 1000, 128, seed=0, precision="bf16_mixed", max_length=40))
    card = Resources(gpus=1, accelerator_type="H100", micro_batch=128)
    reached, hours = load_share(LARGE, load, card), load_hours(LARGE, load, card)
    assert reached is not None
    assert hours is not None
    at_peak = load_flops(LARGE, load) / 989e12 / 3600
    assert (hours.low, hours.high) == pytest.approx((at_peak / reached.high, at_peak / reached.low))
    assert tokens_a_micro_step(load, card) == 128 * 40
    again = load_hours(LARGE, load, dataclasses.replace(card, activation_checkpointing=True))
    assert again is not None
    assert again.usual == pytest.approx(4 / 3 * hours.usual), "the forward pass is computed twice"
    starved = load_hours(LARGE, load, dataclasses.replace(card, micro_batch=8))
    assert starved is not None
    assert starved.usual > 8 * hours.usual
    half = load_hours(LARGE, load, dataclasses.replace(card, gpus=0.5, micro_batch=8))
    assert half is not None
    assert half.usual == pytest.approx(starved.usual / 2), "two starved trials fit into each other's gaps"
    filled = dataclasses.replace(load, training=dataclasses.replace(load.training, max_length=512))
    alone, shared = (load_hours(LARGE, filled, dataclasses.replace(card, gpus=gpus)) for gpus in (1, 0.5))
    assert alone is not None
    assert shared is not None
    assert 0.9 * alone.low < shared.low <= alone.low, "two that fill the card take turns"
    assert load_hours(LARGE, load, Resources()) is None
    assert load_hours(LARGE, load, Resources(gpus=1, accelerator_type="M3")) is None


def test_a_budget_of_tokens_decides_what_a_gpu_processes_at_once() -> None:
    """A batch of 128 rows of 33 tokens, padded to 40: 1,600 tokens hold 40 of them, or 48 without padding."""
    load = Load(Training(1e-3, 10, 128, seed=0, precision="bf16_mixed", max_length=33))
    card = Resources(gpus=1, accelerator_type="H100", micro_batch=256, micro_batch_tokens=1600)

    def rows(load: Load, **changes: Any) -> float:
        return tokens_a_micro_step(load, dataclasses.replace(card, **changes)) / 33

    assert rows(load) == pytest.approx(128 / 4)
    assert rows(load, unpad=True) == pytest.approx(128 / 3)
    assert rows(load, micro_batch=16) == pytest.approx(16)
    assert rows(load, workers=2) == pytest.approx(64 / 2)
    assert rows(load, micro_batch_tokens=10_000) == pytest.approx(128)
    assert rows(dataclasses.replace(load, rows=2, group=64)) == pytest.approx(128), "a group stays together"
    assert rows(dataclasses.replace(load, by_tokens=False)) == pytest.approx(128), "pre-training counts rows"
    fewer, more = (
        load_hours(LARGE, load, dataclasses.replace(card, micro_batch_tokens=most)) for most in (400, 10_000)
    )
    assert fewer is not None
    assert more is not None
    assert fewer.usual > 2 * more.usual


@pytest.mark.parametrize(
    ("card", "fp32", "bf16"), [("H100", 67e12, 989e12), ("A100", 19.5e12, 312e12), ("T4", 8.1e12, 8.1e12)]
)
def test_hours_follow_the_precision(card: str, fp32: float, bf16: float) -> None:
    """fp32 without tensor cores; T4 has none for bf16. Every card reaches the most that is assumed with so many tokens."""
    resources = Resources(gpus=1, accelerator_type=card, micro_batch=1024)
    for precision, peak in (("fp32", fp32), ("bf16_mixed", bf16)):
        load = Load(Training(1e-3, 10, 1024, seed=0, precision=precision, max_length=512))  # type: ignore[arg-type]
        hours, reached = load_hours(LARGE, load, resources), load_share(LARGE, load, resources)
        assert hours is not None
        assert reached is not None
        assert (reached.low, reached.high) == ASSUMED[-1][1:]
        assert hours.low == pytest.approx(load_flops(LARGE, load) / peak / 3600 / reached.high)


def test_scoring_counts_every_language_in_fp32() -> None:
    """5,010 pairs in each language, 44 tokens on average, a forward pass of 2 a parameter; the peak is that of fp32."""
    root = ImportEncoder(published("xlm-r-large"))
    task = Xnli(languages_=("en", "de", "sw"))
    stage = Evaluate(FineTune(root, task.for_training(), Training(1e-3, 1, 8, seed=0)), task)
    flops = 3 * 5010 * (2 * 3e8 * 44.0 + 4 * 24 * 1024 * 46.7**2)
    assert stage_flops(LARGE, stage) == pytest.approx(flops)
    hours = stage_hours(LARGE, stage, Resources(gpus=1, accelerator_type="H100"))
    assert hours is not None
    assert (hours.low, hours.high) == pytest.approx((flops / 67e12 / 3600 / 0.7, flops / 67e12 / 3600 / 0.35))


def test_every_row_of_a_feature_is_counted() -> None:
    """Alternatives, queries with answers, and the sentence pairs of pre-training's groups count, in memory and operations."""
    study = recipes.inline()
    root = study.encoder_stage(study.sizes[0])
    assert isinstance(root, Pretrain)
    training = study.tuning

    def tuned(task: Task | Mixture) -> Tuned:
        if isinstance(task, Mixture):
            return FineTuneMixture(root, task, training)
        return FineTune(root, task, training)

    def loads(task: Task | Mixture) -> list[tuple[int, int, bool]]:
        return [(load.rows, load.group, load.masked) for load in loads_of(tuned(task))]

    five = CommonsenseQA()
    rows = {HellaSwag(): 4, CosmosQA(): 4, five: 5, SocialIQa(): 3, Xcopa(): 2, Mnli(): 1}
    assert {task: loads(task) for task in rows} == {task: [(count, 1, False)] for task, count in rows.items()}
    assert loads(MewsliX()) == [(2, 64, False)]
    assert loads(Lareqa()) == [(2, 16, False)]
    mixture = Mixture("both", (five, MaskedLm()))
    assert loads(mixture) == [(5, 1, False), (1, 1, True)]
    assert [(load.rows, load.group, load.masked) for load in loads_of(root)] == [(2 * 8, 1, True)]
    assert [load.by_tokens for load in (*loads_of(root), *loads_of(tuned(mixture)))] == [False, True, True]
    # The mixture counts as its more expensive task, here the one with five rows.
    flops = {task: stage_flops(SMALL, tuned(task), longest=True) for task in (Mnli(), five, mixture)}
    assert flops[mixture] == flops[five] == 5 * flops[Mnli()]


def test_what_a_search_costs_at_most_is_no_less_than_what_is_expected() -> None:
    """Also if trainings of several lengths are among the choices, and rates are a range, which has no grid."""
    study = recipes.inline()
    size = study.sizes[0]
    grid = search_cost(study, size, partial(stage_flops, architecture_of(study, size)))
    assert grid.defaults <= grid.expected <= grid.at_most
    assert grid.expected < grid.not_shared
    space = dataclasses.replace(study.space, lr_target=LogUniform(1e-4, 1e-2, 1e-3), epochs=(1.0, 3.0))
    ranged = dataclasses.replace(study, space=space, trials=12, repeats=Repeats(1, 3))
    cost = search_cost(ranged, size, partial(stage_flops, architecture_of(ranged, size)))
    assert cost.defaults < cost.expected < cost.at_most
    assert cost.expected_total < cost.at_most_total
    assert cost.repeats < cost.repeats_at_most, "a winner may be one that trains three times as long"
