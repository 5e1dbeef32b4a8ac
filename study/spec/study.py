"""The study: sizes, targets, the space of choices and the budget, in one frozen value."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Literal

from study.spec.benchmark_plan import DEFAULT_BENCHMARK, BenchmarkPlan
from study.spec.sizes import LadderEncoder, Size
from study.spec.space import DEFAULT_REPEATS, Choice, Repeats, Space
from study.spec.tuning import TaskTuning
from study.spec.validation import InvalidStudy, study_errors
from trainables.fields import added_field
from trainables.hyperparameters import Training
from trainables.models.published_encoder import FOLDER, PublishedEncoder
from trainables.resources import Resources
from trainables.stages.base import Root
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import FineTune, Tuned
from trainables.stages.import_encoder import ImportEncoder
from trainables.stages.pretrain import Pretrain
from trainables.stages.vocabulary import ParallelCorpus, Vocabulary
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture
from trainables.tasks.pinning import OPEN


@dataclass(frozen=True)
class Study:
    """A complete study.

    `version` is part of `study.json`, not of any stage: raised, it trains nothing again, but the same output folder refuses
    the study. `tuning` and `intermediate_tuning` hold what trials do not choose; the trial
    sets their learning rates. `own_tuning` lists tasks that need other steps or lengths. `trials` is the budget of each size,
    and `repeats` says what runs again with further seeds. `corpus`, `vocabulary_size`, `group_pairs` and `translation_share`
    (`Pretrain`) are shared by the encoders of a ladder; a study of published encoders alone has none of them.

    `allocation` says which size gets the next trial. "equal": each size searches alone with its own budget. "front": trials go
    where the front of accuracy against speed can move most, a size's budget is the most that it gets, and one that cannot move
    the front stops (`study.search.front`). Every size runs its default cells either way. With "front" TPE chooses
    nothing, encoders are timed before the search whatever `benchmark.early` says, and `first_by` is refused.

    ASHA compares trials after `first_rung` targets and then after each `reduction_factor` times as many, and keeps one in
    `reduction_factor`. The first rung is not 1 because English dev scores of a single target say little about the mean of all.

    `first_by` names an estimator that needs no training (`trainables.estimators`): a search starts its default cells in the
    order of what they are estimated to be worth. None keeps the order of the space. It may change between runs.

    Raises:
        InvalidStudy: some rule is violated; all violations are listed.
    """

    name: str
    version: int
    seed: int
    sizes: tuple[Size, ...]
    targets: tuple[Task, ...]
    space: Space
    intermediate_tuning: Training
    tuning: Training
    trials: int
    reduction_factor: int = 3
    first_rung: int = 2
    repeats: Repeats | None = DEFAULT_REPEATS
    benchmark: BenchmarkPlan = DEFAULT_BENCHMARK
    own_tuning: tuple[TaskTuning, ...] = ()
    corpus: ParallelCorpus | None = None
    vocabulary_size: int | None = None
    group_pairs: int | None = None
    translation_share: float = added_field(0.0)
    first_by: str | None = added_field(None)
    allocation: Literal["equal", "front"] = added_field("equal")

    def __post_init__(self) -> None:
        if errors := study_errors(self):
            raise InvalidStudy(errors)

    def encoder_stage(self, size: Size, *, trained: bool = True) -> Root:
        """The stage that makes the size's encoder: pre-training, or the import of a published one.

        `trained=False` gives the same network with random weights, the baseline of transfer.

        Raises:
            ValueError: random weights of a published encoder.
        """
        if isinstance(size.encoder, PublishedEncoder):
            if not trained:
                raise ValueError(
                    f"{size.name}: random weights are a baseline for the ladder's encoders, not for a published one"
                )
            return ImportEncoder(size.encoder)
        assert self.corpus is not None  # validated for every ladder
        assert self.vocabulary_size is not None
        assert self.group_pairs is not None
        vocabulary = Vocabulary(self.corpus, self.vocabulary_size)
        encoder, share = size.encoder, self.translation_share if trained else 0.0
        return Pretrain(vocabulary, encoder.shape, encoder.pretraining, self.group_pairs, trained, share)

    def encoder_stages(self, size: Size) -> tuple[Root, ...]:
        """The stages that must be ready before the size's search: its encoder, and the checkpoints that its arms start from."""
        published = (arm.published_at(size) for arm in self.space_of(size).arms)
        return (self.encoder_stage(size), *(ImportEncoder(encoder) for encoder in published if encoder is not None))

    def encoder_resources(self, size: Size) -> Resources:
        """What the encoder stage runs on.

        A single process imports a published encoder: a group would idle in a collective until it times out.
        """
        if isinstance(size.encoder, LadderEncoder):
            return size.resources
        return Resources(memory_gb=size.resources.memory_gb)

    @property
    def unpinned(self) -> list[str]:
        """Sources whose revision is unknown because the hub did not tell it. With any, the study can be planned but not run."""
        stages = (stage for size in self.sizes for stage in self.encoder_stages(size))
        encoders = [
            f"{stage.encoder.repository}: not in {FOLDER}/ of --data-root, and the hub has no such repository or did not answer"
            for stage in stages
            if isinstance(stage, ImportEncoder) and stage.encoder.revision is None
        ]
        members = (task for arm in self.space.arms for task in arm.members)
        tasks = [
            f"{task.name}: {task.revision.removeprefix(OPEN)}"
            for task in (*self.targets, *members)
            if task.revision.startswith(OPEN)
        ]
        return list(dict.fromkeys(encoders + tasks))  # a task can be a choice and a member of a mixture

    def base(self, size: Size, choice: Choice, *, trained: bool = True) -> Root | Tuned:
        """The stage that the targets start from: the encoder, trained on the intermediate task if one is chosen."""
        return self.space.arm(choice.intermediate).encoder(self, size, choice, trained=trained)

    def chain(self, size: Size, choice: Choice, *, trained: bool = True) -> tuple[Evaluate, ...]:
        """The trial's evaluations in the order of the targets; their parents are the stages that they need."""
        arm, base = self.space.arm(choice.intermediate), self.base(size, choice, trained=trained)
        return tuple(
            Evaluate(
                arm.target(self, size, choice, target, trained=trained) if target.trained else base,
                target,
                self.training_of(target, self.tuning, rate=choice.lr_target).max_length,
            )
            for target in self.targets
        )

    def training_of(
        self,
        task: Task | Mixture,
        usual: Training,
        *,
        rate: float,
        epochs: float = 1.0,
        seed: int | None = None,
    ) -> Training:
        """How a task is trained at a trial's learning rate, for `epochs` times its steps; `seed` None keeps the recipe's."""
        own = next((own for own in self.own_tuning if own.task == task.name), TaskTuning(task.name, usual))
        return dataclasses.replace(
            own.training,
            learning_rate=rate * own.rate_factor,
            steps=max(1, round(own.training.steps * epochs)),
            seed=own.training.seed if seed is None else seed,
        )

    def fine_tuned(
        self,
        base: Root | Tuned,
        task: Task,
        usual: Training,
        *,
        rate: float,
        epochs: float = 1.0,
        seed: int | None = None,
    ) -> FineTune:
        """The base trained on the task's prerequisites and then on the task, which keeps their head."""
        for step in (*task.prerequisites, task):
            training = self.training_of(step, usual, rate=rate, epochs=epochs, seed=seed)
            development = None if training.early_stopping is None else step
            keeps_head = step is task and bool(task.prerequisites)
            base = FineTune(base, step.for_training(), training, keeps_head=keeps_head, development=development)
        assert isinstance(base, FineTune)
        return base

    def budget(self, size: Size) -> int:
        """How many trials a size gets: the recipe's number, but no more than there are different choices."""
        return int(min(self.trials if size.trials is None else size.trials, self.space_of(size).choice_count))

    def space_of(self, size: Size) -> Space:
        """What this size's trials choose from: the study's space, with no intermediate tasks but those that the size names."""
        if size.intermediates is None:
            return self.space
        tried = tuple(choice for choice in self.space.intermediates if size.tries(choice.name))
        return dataclasses.replace(self.space, intermediates=tried)

    def repeats_of(self, choice: Choice) -> list[Choice]:
        """The choice with each further seed: the first ones after the study's that the search does not use.

        All choices get the same seeds, so that repeats are compared seed by seed.
        """
        if self.repeats is None:
            return []
        further = (seed for seed in itertools.count(self.seed + 1) if seed not in self.space.seeds)
        return [dataclasses.replace(choice, seed=seed) for seed in itertools.islice(further, self.repeats.seeds)]

    def size(self, name: str) -> Size:
        return next(size for size in self.sizes if size.name == name)

    def replace(
        self,
        *,
        trials: int | None = None,
        sizes: tuple[str, ...] | None = None,
        intermediates: tuple[str, ...] | None = None,
        seed: int | None = None,
        repeats: int | None = None,
        bound_ms: float | None = None,
        no_benchmark: bool = False,
    ) -> Study:
        """The study with command-line changes.

        `intermediates` names the only choices to try beside none; `no_benchmark` times nothing.

        Raises:
            InvalidStudy: an unknown size or intermediate task, or values that make the study invalid.
        """
        chosen = self.sizes
        if sizes is not None:
            known = {size.name for size in self.sizes}
            if unknown := [name for name in sizes if name not in known]:
                raise InvalidStudy(
                    [f"--sizes: no size {name!r}; there are {', '.join(sorted(known))}" for name in unknown]
                )
            chosen = tuple(size for size in self.sizes if size.name in sizes)
        if intermediates is not None:
            if unknown := [name for name in intermediates if name not in self.space.names]:
                there = ", ".join(sorted(self.space.names))
                raise InvalidStudy(
                    [f"--intermediates: no intermediate task {name!r}; there are {there}" for name in unknown]
                )
            # As `study.json` keeps them; none is always tried.
            in_order = tuple(name for name in self.space.names[1:] if name in intermediates)
            chosen = tuple(size.trying(in_order) for size in chosen)
        if trials is not None:  # the option overrides every size's own budget
            chosen = tuple(dataclasses.replace(size, trials=None) for size in chosen)
        changed = dataclasses.replace(self, sizes=chosen, trials=self.trials if trials is None else trials)
        if repeats is not None:
            further = dataclasses.replace(self.repeats or DEFAULT_REPEATS, seeds=repeats) if repeats else None
            changed = dataclasses.replace(changed, repeats=further)
        if bound_ms is not None:
            changed = dataclasses.replace(changed, benchmark=changed.benchmark.with_bound(bound_ms))
        if no_benchmark:
            changed = dataclasses.replace(changed, benchmark=changed.benchmark.without_variants())
        return changed if seed is None else changed.with_seed(seed)

    def with_seed(self, seed: int) -> Study:
        """The same study with another seed for pre-training, heads, data order and search; the data stay the same."""
        return dataclasses.replace(
            self,
            seed=seed,
            tuning=dataclasses.replace(self.tuning, seed=seed),
            intermediate_tuning=dataclasses.replace(self.intermediate_tuning, seed=seed),
            own_tuning=tuple(own.with_seed(seed) for own in self.own_tuning),
            sizes=tuple(size.with_seed(seed) for size in self.sizes),
        )
