"""Operations and GPU-hours of stages, and of whole searches."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest

from study.planning.architecture import architecture_of
from study.planning.operations import MFU, gpu_hours, load_flops, stage_flops
from study.planning.search_cost import search_cost
from study.planning.stages import Load, loads_of
from study.spec.space import LogUniform, Repeats
from tests.support import recipes
from tests.support.architectures import SMALL
from trainables.hyperparameters import Training
from trainables.resources import Resources
from trainables.stages.finetune import FineTune, Tuned
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


def test_operations_and_hours_by_hand() -> None:
    training = Training(1e-3, steps=10, batch_size=4, seed=0, max_length=16)
    flops = 10 * 4 * 16 * (6 * 600 + 12 * 2 * 8 * 16)
    assert load_flops(SMALL, Load(training)) == flops
    groups = load_flops(SMALL, Load(training, rows=6, masked=True))
    assert groups == pytest.approx(6 * (flops + 10 * 4 * 16 * 6 * 0.15 * 50 * 8))
    on_h100 = Resources(gpus=1, accelerator_type="H100")
    hours = gpu_hours(3600 * 989e12 * MFU, on_h100, "bf16_mixed")
    assert hours == pytest.approx(1.0)
    again = dataclasses.replace(on_h100, activation_checkpointing=True)
    assert gpu_hours(3600 * 989e12 * MFU, again, "bf16_mixed") == pytest.approx(4 / 3)
    assert gpu_hours(1e15, Resources(), "fp32") is None
    assert gpu_hours(1e15, Resources(gpus=1, accelerator_type="M3"), "fp32") is None


@pytest.mark.parametrize(
    ("card", "fp32", "bf16"), [("H100", 67e12, 989e12), ("A100", 19.5e12, 312e12), ("T4", 8.1e12, 8.1e12)]
)
def test_hours_follow_the_precision(card: str, fp32: float, bf16: float) -> None:
    """fp32 without tensor cores; T4 has none for bf16."""
    resources = Resources(gpus=1, accelerator_type=card)
    assert gpu_hours(3600 * fp32 * MFU, resources, "fp32") == pytest.approx(1.0)
    assert gpu_hours(3600 * bf16 * MFU, resources, "bf16_mixed") == pytest.approx(1.0)


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
    # The mixture counts as its more expensive task, here the one with five rows.
    flops = {task: stage_flops(SMALL, tuned(task)) for task in (Mnli(), five, mixture)}
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
