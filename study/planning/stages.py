"""The stages a study consists of, and the batches that its training stages run on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from study.planning.row_lengths import Tokens, training_tokens
from study.spec import Size, Study, Training
from trainables.heads import HEADS
from trainables.stages.base import Stage
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import Tuned
from trainables.stages.pretrain import Pretrain
from trainables.store.fingerprint import fingerprint
from trainables.tasks.mixture import member_tasks

TrainingStage = Pretrain | Tuned
CostedStage = TrainingStage | Evaluate


@dataclass(frozen=True)
class Load:
    """One kind of batch that a stage trains on.

    Each entry of a batch is a feature of `rows` rows; `group` features stay together on one worker. `masked`: masked tokens
    are scored over the whole vocabulary. `fills_rows`: rows are as long as the maximum, and not sentences. `tokens`: the real
    tokens of a row where they are known. `by_tokens`: its micro-batches are cut by tokens where the resources say how many.
    """

    training: Training
    rows: int = 1
    group: int = 1
    masked: bool = False
    fills_rows: bool = True
    tokens: Tokens | None = None
    by_tokens: bool = True

    @property
    def tokens_a_row(self) -> Tokens:
        """The real tokens of a row; at most, where they are not known."""
        return self.tokens or Tokens.all_of(self.training.max_length)


def stages_of(stage: Stage) -> Iterator[Stage]:
    """The stage itself and all its ancestors; one that several paths reach comes several times."""
    yield stage
    for parent in stage.parents:
        yield from stages_of(parent)


def default_stages(study: Study, size: Size) -> list[Stage]:
    """All stages of a size's default cells, each once."""
    chains = (study.chain(size, choice) for choice in study.space_of(size).defaults())
    by_fingerprint = {fingerprint(stage): stage for chain in chains for leaf in chain for stage in stages_of(leaf)}
    return list(by_fingerprint.values())


def training_stages(study: Study, size: Size) -> dict[str, list[TrainingStage]]:
    """The training stages of a size's default cells by what they train: "pretrain", or "<role>-<task>"."""
    stages: dict[str, list[TrainingStage]] = {}
    for stage in default_stages(study, size):
        if isinstance(stage, Pretrain):
            stages.setdefault("pretrain", []).append(stage)
        elif isinstance(stage, Tuned):
            stages.setdefault(f"{stage.task.role}-{stage.task.name}", []).append(stage)
    return stages


def scoring_stages(study: Study, size: Size) -> dict[str, list[Evaluate]]:
    """The evaluations of a size's default cells by their target."""
    stages: dict[str, list[Evaluate]] = {}
    for stage in default_stages(study, size):
        if isinstance(stage, Evaluate):
            stages.setdefault(stage.task.name, []).append(stage)
    return stages


def stage_counts(study: Study, size: Size) -> tuple[int, int]:
    """How many stages a size's default cells have, and how many their trials would run if they shared none."""
    chains = [study.chain(size, choice) for choice in study.space_of(size).defaults()]
    by_chain = [{fingerprint(stage) for leaf in chain for stage in stages_of(leaf)} for chain in chains]
    return len(set().union(*by_chain)), sum(len(stages) for stages in by_chain)


def loads_of(stage: TrainingStage) -> list[Load]:
    """The kinds of batches that a stage trains on: one, or one for each task of a mixture."""
    if isinstance(stage, Pretrain):  # an entry of its batches is a group of sentence pairs
        return [Load(stage.training, rows=2 * stage.group_pairs, masked=True, by_tokens=False)]
    return [
        Load(
            stage.training,
            rows=head.rows_per_feature(task),
            group=task.group,
            masked=head.masks,
            fills_rows=head.fills_rows,
            tokens=training_tokens(task, stage.training.max_length),
        )
        for task in member_tasks(stage.task)
        for head in (HEADS[task.head],)
    ]


def all_loads(study: Study, size: Size) -> list[Load]:
    """Every kind of batch that the size trains on; the rates and lengths that trials choose add none."""
    stages = (stage for stages in training_stages(study, size).values() for stage in stages)
    return list(dict.fromkeys(load for stage in stages for load in loads_of(stage)))


def scoring_rows(study: Study, size: Size) -> tuple[int, bool]:
    """The longest rows that the size is scored on, and whether a target reads a hidden layer other than the last."""
    evaluations = [stage for stage in default_stages(study, size) if isinstance(stage, Evaluate)]
    return (
        max(stage.max_length for stage in evaluations),
        any(stage.task.hidden_layer is not None for stage in evaluations),
    )
