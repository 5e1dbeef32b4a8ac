"""Mixtures: how often each task is drawn, and that one stage trains the encoder on all tasks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from safetensors.torch import load_file

from tests.support.recipes import LANGUAGES, SMALL
from trainables.heads import Feature
from trainables.heads.features import read_features, write_features
from trainables.hyperparameters import Training
from trainables.models.encoder import Shape
from trainables.stages.base import Workplace, ensure
from trainables.stages.mixture import FineTuneMixture, MixtureBatches
from trainables.stages.pretrain import Pretrain
from trainables.stages.vocabulary import Vocabulary
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.micro.intermediate import MicroOddOneOut, MicroOrdering, MicroTopic
from trainables.tasks.mixture import Mixture
from trainables.training.batching import BatchOrder, FeatureBatches, Share

TASKS = (MicroTopic(**SMALL), MicroOddOneOut(**SMALL), MicroOrdering(**SMALL))


@dataclass(frozen=True)
class Grouped(MicroOrdering):
    group: ClassVar[int] = 2


def test_tasks_are_drawn_in_proportion_up_to_the_cap() -> None:
    schedule = Mixture("mix", TASKS, cap=300).schedule((100, 200, 10_000), 6000, seed=0)
    counts = Counter(task for task, _ in schedule)
    # 100 : 200 : 300 of 600; four binomial standard errors of 6,000 draws are at most 155.
    assert [counts[task] for task in range(3)] == pytest.approx([1000, 2000, 3000], abs=155)


def test_a_step_has_the_number_of_its_tasks_earlier_steps() -> None:
    schedule = Mixture("mix", TASKS).schedule((5, 5, 5), 60, seed=1)
    for task in range(3):
        assert [earlier for chosen, earlier in schedule if chosen == task] == list(
            range(sum(chosen == task for chosen, _ in schedule))
        )
    assert schedule == Mixture("mix", TASKS).schedule((5, 5, 5), 60, seed=1)
    assert schedule != Mixture("mix", TASKS).schedule((5, 5, 5), 60, seed=2)


def test_a_mixture_of_one_task_or_a_repeated_task_is_refused() -> None:
    with pytest.raises(ValueError, match="two or more different tasks"):
        Mixture("mix", TASKS[:1])
    with pytest.raises(ValueError, match="micro_topic, micro_topic"):
        Mixture("mix", (TASKS[0], TASKS[0]))
    with pytest.raises(ValueError, match="cap 0"):
        Mixture("mix", TASKS, cap=0)


def test_a_mixture_counts_the_rows_of_its_largest_micro_batch(tmp_path: Path) -> None:
    """Eight entries in micro-batches of at most eight rows: two questions of three rows at once, or eight documents."""
    parts = []
    for task, rows in ((MicroOddOneOut(**SMALL), 3), (MicroTopic(**SMALL), 1)):
        features = [Feature(number, ((5, 6),) * rows, (number % rows,)) for number in range(8)]
        write_features(tmp_path / task.name, [("train", features)])
        table = read_features(tmp_path / task.name)
        parts.append(FeatureBatches(table, task, 1, BatchOrder(table.lengths, 8, seed=0)))
    batches, share = MixtureBatches(parts, [(0, 0), (1, 0)]), Share(0, 1, 8)
    sizes = [[len(inputs["input_ids"]) for inputs in batches.micro_batches(step, share)] for step in range(2)]
    assert sizes == [[6] * 4, [8]]
    assert batches.micro_batch_rows(8, share) == 8
    assert (batches.group, batches.rows) == (1, 3)
    # The engine counts on the most micro-batches of any step.
    assert share.accumulation(8, group=batches.group, rows=batches.rows) == 4


def test_a_task_with_groups_is_refused() -> None:
    with pytest.raises(ValueError, match="mixture mix: micro_ordering cannot be part of a mixture"):
        Mixture("mix", (TASKS[0], Grouped(**SMALL)))


@pytest.mark.slow
def test_one_stage_trains_the_encoder_on_all_tasks(tmp_path: Path) -> None:
    training = Training(learning_rate=2e-3, steps=24, batch_size=16, seed=0)
    encoder = Pretrain(Vocabulary(MicroCorpus(LANGUAGES, 200), 600), Shape(1, 32), training, 8, trained=False)
    stage = FineTuneMixture(encoder, Mixture("mix", TASKS), training)
    work = Workplace(StageStore(tmp_path))
    metrics = ensure(stage, work).metrics
    assert sum(metrics["steps"].values()) == 24
    assert min(metrics["steps"].values()) > 0
    before, after = (
        load_file(work.store.folder(of_stage) / "encoder" / "model.safetensors") for of_stage in (encoder, stage)
    )
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed >= {name for name in before if "layer.0" in name and name.endswith("query.weight")}
