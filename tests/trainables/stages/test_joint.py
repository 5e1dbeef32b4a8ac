"""Joint training: which task each step trains, what is saved, groups, and workers under every ZeRO stage."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file

from tests.support.pair import Pair
from tests.support.recipes import LANGUAGES, SMALL
from trainables.heads import HEADS
from trainables.hyperparameters import EarlyStopping, Training
from trainables.models.encoder import Shape, load_encoder
from trainables.models.task_model import ENCODER, HEAD, load_task_model, new_head
from trainables.resources import Resources
from trainables.stages import mixture
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import FineTune
from trainables.stages.fit import fit
from trainables.stages.joint import FineTuneJoint
from trainables.stages.pretrain import Pretrain
from trainables.stages.vocabulary import Vocabulary
from trainables.store.stage_store import StageStore
from trainables.tasks.base import Task
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.micro.intermediate import MicroOddOneOut, MicroTopic
from trainables.tasks.micro.tagging import MicroTagging
from trainables.tasks.mixture import Mixture
from trainables.tasks.registry import TASKS
from trainables.training.batching import Share

pytestmark = pytest.mark.usefixtures("one_thread")
TOPIC, TARGET = MicroTopic(**SMALL), MicroTagging(languages_=LANGUAGES, **SMALL)
TRAINING = Training(learning_rate=3e-3, steps=12, batch_size=16, seed=1)
BASE = Pretrain(Vocabulary(MicroCorpus(LANGUAGES, 200), 600), Shape(1, 32), TRAINING, 8, trained=False)
STAGE = FineTuneJoint(BASE, TARGET.for_training(), TRAINING, TOPIC.for_training(), 64)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> StageStore:
    """Holds every stage that the joint stage needs."""
    built = StageStore(tmp_path_factory.mktemp("store"))
    for parent in STAGE.parents:
        ensure(parent, Workplace(built))
    return built


def _produced(stage: FineTuneJoint, work: Workplace, folder: Path) -> tuple[list[float], dict[str, Any]]:
    """The losses of a stage's steps and its metrics, produced without the store's bookkeeping."""
    losses: list[float] = []

    def observe(name: str, done: int, total: int, loss: float | None) -> None:
        losses.extend([] if loss is None else [loss])

    folder.mkdir(parents=True, exist_ok=True)
    metrics = stage.produce(dataclasses.replace(work, progress=observe), folder)
    return losses, dict(metrics)


def test_every_step_trains_one_task_in_proportion_to_the_training_sets(store: StageStore, tmp_path: Path) -> None:
    losses, metrics = _produced(STAGE, Workplace(store), tmp_path)
    assert len(losses) == TRAINING.steps == sum(metrics["steps"].values())
    sizes = (len(TOPIC.examples("train", "en")), len(TARGET.examples("train", "en")))
    schedule = STAGE.schedule(sizes)
    assert metrics["examples"] == sizes
    assert metrics["steps"] == {
        "micro_topic": sum(task == 0 for task, _ in schedule),
        "micro_tagging": sum(task == 1 for task, _ in schedule),
    }
    assert min(metrics["steps"].values()) > 2
    long = dataclasses.replace(STAGE, training=dataclasses.replace(TRAINING, steps=4000))
    # 100 : 300 of 4,000 draws; four binomial standard errors are at most 110.
    assert sum(task == 0 for task, _ in long.schedule((100, 300))) == pytest.approx(1000, abs=110)
    capped = dataclasses.replace(long, beside=Mixture("both", (TOPIC, MicroOddOneOut(**SMALL)), cap=100))
    drawn = [task for task, _ in capped.schedule((100, 100, 300))]  # the cap holds for the target too
    assert [drawn.count(task) for task in range(3)] == pytest.approx([4000 / 3] * 3, abs=120)


def test_the_target_s_head_is_saved_as_it_was_trained(store: StageStore, tmp_path: Path) -> None:
    states = []

    def remembered(*args: Any, **options: Any) -> Any:
        states.append(fit(*args, **options))
        return states[-1]

    with mock.patch.object(mixture, "fit", side_effect=remembered):
        _produced(STAGE, Workplace(store), tmp_path)
    ((state, _),) = states
    saved = load_file(tmp_path / HEAD)
    trained = {name.removeprefix("heads.1."): value for name, value in state.items() if name.startswith("heads.1.")}
    assert saved.keys() == trained.keys()
    assert all(torch.equal(saved[name], trained[name]) for name in saved)
    model = load_task_model(tmp_path, TARGET)
    for name, value in model.head.state_dict().items():
        assert torch.equal(value, trained[name])
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, state[f"encoder.{name}"]), name
    first = new_head(load_encoder(store.folder(BASE) / ENCODER), TARGET, TRAINING.seed).state_dict()
    assert any(not torch.equal(saved[name], first[name]) for name in saved)


def test_a_kept_head_continues_that_of_the_base(store: StageStore, tmp_path: Path) -> None:
    """At a rate that moves nothing, the saved head is that of the base."""
    before = FineTune(BASE, TARGET.for_training(), dataclasses.replace(TRAINING, steps=3, seed=5))
    ensure(before, Workplace(store))
    still = dataclasses.replace(TRAINING, steps=2, learning_rate=1e-30)
    stage = FineTuneJoint(before, TARGET.for_training(), still, TOPIC.for_training(), 64, keeps_head=True)
    _produced(stage, Workplace(store), tmp_path / "kept")
    of_base, kept = load_file(store.folder(before) / HEAD), load_file(tmp_path / "kept" / HEAD)
    assert all(torch.allclose(of_base[name], kept[name], rtol=0, atol=1e-20) for name in of_base)
    _produced(dataclasses.replace(stage, keeps_head=False), Workplace(store), tmp_path / "new")
    new = load_file(tmp_path / "new" / HEAD)
    assert any(not torch.allclose(of_base[name], new[name], rtol=0, atol=1e-3) for name in of_base)


def test_the_target_is_scored_with_the_joint_model(store: StageStore) -> None:
    evaluate = Evaluate(STAGE, TARGET)
    scored = ensure(evaluate, Workplace(store)).metrics
    assert scored["task"] == "micro_tagging"
    assert set(scored["test"]) == set(LANGUAGES)
    with pytest.raises(ValueError, match="micro_topic is scored with a model fine-tuned on it"):
        Evaluate(STAGE, TOPIC)
    with pytest.raises(ValueError, match="stops at no dev score"):
        dataclasses.replace(STAGE, training=dataclasses.replace(TRAINING, early_stopping=EarlyStopping(2, 1)))


@dataclasses.dataclass(frozen=True)
class Grouped(MicroTagging):
    """A target whose examples stay together in pairs, as those of a dual encoder do."""

    group: ClassVar[int] = 2


def test_a_target_s_groups_stay_together(store: StageStore, tmp_path: Path) -> None:
    grouped = Grouped(languages_=LANGUAGES, **SMALL)
    stage = dataclasses.replace(STAGE, task=grouped.for_training())
    ensure(stage.features[1], Workplace(store))
    taken: list[int] = []
    original = mixture.MixtureBatches.micro_batches

    def observed(self: mixture.MixtureBatches, step: int, share: Share) -> list[dict[str, Any]]:
        batches = original(self, step, share)
        taken.extend(len(inputs["input_ids"]) for inputs in batches if inputs["part"] == 1)
        return batches

    work = Workplace(store, Share(0, 1, 3))  # three rows at once do not hold two groups of two
    with mock.patch.object(mixture.MixtureBatches, "micro_batches", observed):
        losses, _ = _produced(stage, work, tmp_path)
    assert len(losses) == TRAINING.steps
    assert taken
    assert set(taken) == {2}


ZERO_STAGES = (0, 1, 2, 3)


def _tuned(rank: int, base: Path, folder: Path) -> dict[int, tuple[list[float], dict[str, Any]]]:
    """Losses and saved head of one of two workers, by ZeRO stage."""
    outcomes = {}
    for zero_stage in ZERO_STAGES:
        work = Workplace(StageStore(base), Share(rank, 2, 4), Resources(zero_stage=zero_stage))
        own = folder / f"{zero_stage}-{rank}"
        losses, _ = _produced(STAGE, work, own)
        head = {name: value.numpy() for name, value in load_file(own / HEAD).items()} if rank == 0 else {}
        outcomes[zero_stage] = losses, head
    return outcomes


@pytest.mark.slow
def test_two_workers_agree_with_one_under_every_zero_stage(store: StageStore, tmp_path: Path, pair: Pair) -> None:
    """Tolerances as for mixtures (`tests/trainables/tasks/test_masked_training.py`)."""
    expected, _ = _produced(STAGE, Workplace(store), tmp_path / "alone")
    alone = load_file(tmp_path / "alone" / HEAD)
    first, second = pair.run(_tuned, store.root, tmp_path)
    reach = TRAINING.learning_rate * TRAINING.steps
    for zero_stage in ZERO_STAGES:
        losses, head = first[zero_stage]
        assert losses == second[zero_stage][0]
        assert losses == pytest.approx(expected, rel=1e-5), zero_stage
        for name, value in alone.items():
            assert (torch.from_numpy(head[name]) - value).abs().mean() < 1e-5 * reach, (zero_stage, name)


# CCG's labels are in its files.
TASK_OF_HEAD = {task.head: task for task in TASKS.values() if task.trained and task.name != "ccg"}


@pytest.mark.parametrize("task", TASK_OF_HEAD.values(), ids=TASK_OF_HEAD)
def test_an_idle_head_has_a_gradient_for_every_parameter(task: type[Task]) -> None:
    """ZeRO waits for one of every parameter, also in the steps of another task."""
    module = HEADS[task.head].module(8, task())
    module.tie(torch.nn.Embedding(5, 8))
    module.idle(torch.randn(2, 3, 8), torch.ones(2, 3, dtype=torch.long)).backward()  # type: ignore[no-untyped-call]
    own = {name: parameter for name, parameter in module.named_parameters() if parameter.shape != (5, 8)}
    assert all(parameter.grad is not None for parameter in own.values())
