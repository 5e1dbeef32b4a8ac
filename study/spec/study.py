"""What a study is: sizes, targets, the space of choices and the budget. A recipe returns one complete, frozen `Study`."""

from __future__ import annotations

import dataclasses
import itertools
import re
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

from study.spec.space import NONE as NONE
from study.spec.space import USUAL_REPEATS, parts
from study.spec.space import Choice as Choice
from study.spec.space import LogUniform as LogUniform
from study.spec.space import Repeats as Repeats
from study.spec.space import Space as Space
from trainables.benchmark.settings import BOUND_MS, SCENARIOS, BenchmarkSettings, Scenario
from trainables.benchmark.variants import VARIANTS
from trainables.hyperparameters import Training
from trainables.models.encoder import Shape
from trainables.models.families import FAMILIES, Family, why_padded
from trainables.models.published_encoder import Published
from trainables.resources import Resources
from trainables.stages.base import Root
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import FineTune, Tuned
from trainables.stages.import_encoder import ImportEncoder
from trainables.stages.mixture import FineTuneMixture
from trainables.stages.pretrain import Pretrain
from trainables.stages.vocabulary import ParallelCorpus, Vocabulary
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture
from trainables.tasks.published_task import OPEN
from trainables.training.batching import Share


class InvalidStudy(ValueError):
    """Everything wrong with a study, at once; each entry names the field and the rule."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


@dataclass(frozen=True)
class LadderEncoder:
    """An encoder of the study's own ladder: its shape, and how it is pre-trained on the study's corpus and vocabulary."""

    IDENTITY_NAME: ClassVar[str] = "Rung"  # its former name, which `study.json` and fingerprints keep

    shape: Shape
    pretraining: Training


@dataclass(frozen=True)
class Size:
    """One point of the scaling axis: an encoder and the resources it gets.

    `trials` is its own budget; None takes the study's. A trial's learning rates are multiplied by `rate_factor`, for
    architectures that want others than the rest of the study.
    """

    name: str
    encoder: LadderEncoder | Published
    resources: Resources
    trials: int | None = None
    rate_factor: float = 1.0

    @property
    def family(self) -> Family:
        """The architecture; the ladder's is XLM-R's."""
        return FAMILIES[self.encoder.family if isinstance(self.encoder, Published) else "xlm-roberta"]


@dataclass(frozen=True)
class TaskTuning:
    """How one task is trained where it differs from the others; the trial's learning rate is multiplied by `rate_factor`."""

    task: str
    training: Training
    rate_factor: float = 1.0


@dataclass(frozen=True)
class BenchmarkPlan:
    """Which serving variants are scored and timed on each size's best model, for about how long, on how many threads.

    Each variant is measured `repeats` times in a fresh process, in turns. `bound_ms` is what Server keeps its p99 within.
    `device` "auto" is a GPU where the cluster has one. `accelerator_type` is the kind of GPU to time on, by Ray's name, where a
    study's largest size wants one; usually that is the cluster's choice. `settings` replaces what `window_s`, `scenarios` and
    `bound_ms` say.
    """

    variants: tuple[str, ...] = ("fp32",)
    window_s: float = 60.0
    threads: int = 1
    repeats: int = 5
    scenarios: tuple[Scenario, ...] = SCENARIOS
    bound_ms: float = BOUND_MS
    device: Literal["auto", "cpu", "cuda"] = "auto"
    accelerator_type: str | None = None
    settings: BenchmarkSettings | None = None

    def measured_with(self) -> BenchmarkSettings:
        """Raises ValueError: the plan's values make no settings."""
        if self.settings is not None:
            return self.settings
        return BenchmarkSettings.for_window(self.window_s, scenarios=self.scenarios, bound_ms=self.bound_ms)

    def within(self, bound_ms: float) -> BenchmarkPlan:
        """The same with another bound of Server."""
        settings = None if self.settings is None else dataclasses.replace(self.settings, bound_ms=bound_ms)
        return dataclasses.replace(self, bound_ms=bound_ms, settings=settings)


@dataclass(frozen=True)
class Study:
    """A complete study.

    `version` is raised when a recipe's author wants its stages made anew. `tuning` and `intermediate_tuning` hold what the
    trials do not choose; their learning rates are replaced by the trial's. `own_tuning` is for tasks that want other steps or
    lengths. `trials` is the budget of each size, and `repeats` what is run again with further seeds. ASHA compares trials
    after `first_rung` targets and then after each `reduction_factor` times as many, and stops all but one in
    `reduction_factor` of them: after a single target English dev scores say little about the mean of all. `corpus`,
    `vocabulary_size` and `group_pairs` are what the rungs of a ladder share; a study of published encoders alone has none of
    them.
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
    repeats: Repeats | None = USUAL_REPEATS
    benchmark: BenchmarkPlan = BenchmarkPlan()
    own_tuning: tuple[TaskTuning, ...] = ()
    corpus: ParallelCorpus | None = None
    vocabulary_size: int | None = None
    group_pairs: int | None = None

    def __post_init__(self) -> None:
        if errors := list(self._errors()):
            raise InvalidStudy(errors)

    def pretrain(self, size: Size, *, trained: bool = True) -> Root:
        """The size's encoder: pre-trained here, or brought into the store.

        `trained=False` is the same network with its random weights, the baseline of transfer.

        Raises:
            ValueError: untrained weights are wanted of a published encoder.
        """
        if isinstance(size.encoder, Published):
            if not trained:
                raise ValueError(
                    f"{size.name}: random weights are a baseline of the ladder's rungs, not of a published encoder"
                )
            return ImportEncoder(size.encoder)
        assert self.corpus is not None  # the constructor saw all three
        assert self.vocabulary_size is not None
        assert self.group_pairs is not None
        vocabulary = Vocabulary(self.corpus, self.vocabulary_size)
        return Pretrain(vocabulary, size.encoder.shape, size.encoder.pretraining, self.group_pairs, trained)

    def root_resources(self, size: Size) -> Resources:
        """What `pretrain`'s stage runs on. One process reads a published encoder: a group would wait for it in a collective
        until that times out, with its devices idle."""
        return size.resources if isinstance(size.encoder, LadderEncoder) else Resources()

    @property
    def open_ends(self) -> list[str]:
        """What the study would read and could not note when it was made: it can be planned, and not run."""
        encoders = [size.encoder for size in self.sizes if isinstance(size.encoder, Published)]
        tasks = [*self.targets, *(one for task in self.space.intermediates for one in parts(task))]
        found = [
            f"{one.repository}: its commit on the hub, which did not answer" for one in encoders if one.revision is None
        ] + [f"{task.name}: {task.revision.removeprefix(OPEN)}" for task in tasks if task.revision.startswith(OPEN)]
        return list(dict.fromkeys(found))  # a mixture's task may be a choice of its own too

    def base(self, size: Size, choice: Choice, *, trained: bool = True) -> Root | Tuned:
        """The encoder the targets start from: pre-trained, and trained on the intermediate task if one is chosen."""
        encoder = self.pretrain(size, trained=trained)
        if choice.intermediate == NONE or choice.lr_intermediate is None:
            return encoder
        task = next(task for task in self.space.intermediates if task.name == choice.intermediate)
        rate = choice.lr_intermediate * size.rate_factor
        if isinstance(task, Mixture):
            training = self.training_of(task, self.intermediate_tuning, rate=rate, seed=choice.seed)
            return FineTuneMixture(encoder, task.for_training(), training)
        return self._tuned(encoder, task, self.intermediate_tuning, rate=rate, seed=choice.seed)

    def chain(self, size: Size, choice: Choice, *, trained: bool = True) -> tuple[Evaluate, ...]:
        """The trial's evaluations in the order of the targets, each with the stages it needs as parents."""
        base, rate = self.base(size, choice, trained=trained), choice.lr_target * size.rate_factor
        tuned = partial(self._tuned, base, usual=self.tuning, rate=rate, epochs=choice.epochs, seed=choice.seed)
        return tuple(
            Evaluate(
                tuned(task=target) if target.trained else base,
                target,
                self.training_of(target, self.tuning, rate=rate).max_length,
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
        """How a task is trained at a trial's learning rate, for `epochs` times its steps; `seed` None leaves the recipe's."""
        own = next((one for one in self.own_tuning if one.task == task.name), TaskTuning(task.name, usual))
        return dataclasses.replace(
            own.training,
            learning_rate=rate * own.rate_factor,
            steps=max(1, round(own.training.steps * epochs)),
            seed=own.training.seed if seed is None else seed,
        )

    def _tuned(
        self,
        base: Root | Tuned,
        task: Task,
        usual: Training,
        *,
        rate: float,
        epochs: float = 1.0,
        seed: int | None = None,
    ) -> FineTune:
        """The base trained on the task's prerequisites and then on the task."""
        for number, one in enumerate((*task.prerequisites, task)):
            training = self.training_of(one, usual, rate=rate, epochs=epochs, seed=seed)
            development = None if training.early_stopping is None else one
            keeps_head = one is task and number > 0
            base = FineTune(base, one.for_training(), training, keeps_head=keeps_head, development=development)
        assert isinstance(base, FineTune)
        return base

    def budget(self, size: Size) -> int:
        """Trials of a size: what the recipe allows, and no more than there are different choices."""
        return int(min(self.trials if size.trials is None else size.trials, self.space.points))

    def repeated(self, choice: Choice) -> list[Choice]:
        """The choice with each of the further seeds it gets: the first after the study's that the search has none of.

        They are the same for every choice, so that repeats of two are compared seed by seed.
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
        seed: int | None = None,
        repeats: int | None = None,
        bound_ms: float | None = None,
    ) -> Study:
        """The study with command-line changes.

        Raises:
            InvalidStudy: a size it does not have, or values that make no study.
        """
        chosen = self.sizes
        if sizes is not None:
            known = {size.name for size in self.sizes}
            if unknown := [name for name in sizes if name not in known]:
                raise InvalidStudy(
                    [f"--sizes: no size {name!r}; there are {', '.join(sorted(known))}" for name in unknown]
                )
            chosen = tuple(size for size in self.sizes if size.name in sizes)
        if trials is not None:  # said for all sizes
            chosen = tuple(dataclasses.replace(size, trials=None) for size in chosen)
        changed = dataclasses.replace(self, sizes=chosen, trials=self.trials if trials is None else trials)
        if repeats is not None:
            again = dataclasses.replace(self.repeats or USUAL_REPEATS, seeds=repeats) if repeats else None
            changed = dataclasses.replace(changed, repeats=again)
        if bound_ms is not None:
            changed = dataclasses.replace(changed, benchmark=changed.benchmark.within(bound_ms))
        return changed if seed is None else changed.with_seed(seed)

    def with_seed(self, seed: int) -> Study:
        """The same study with another seed for pre-training, heads, data order and search; the data stay the same."""
        return dataclasses.replace(
            self,
            seed=seed,
            tuning=dataclasses.replace(self.tuning, seed=seed),
            intermediate_tuning=dataclasses.replace(self.intermediate_tuning, seed=seed),
            own_tuning=tuple(
                dataclasses.replace(own, training=dataclasses.replace(own.training, seed=seed))
                for own in self.own_tuning
            ),
            sizes=tuple(dataclasses.replace(size, encoder=_seeded(size.encoder, seed)) for size in self.sizes),
        )

    def _errors(self) -> list[str]:
        errors = []
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", self.name):
            errors.append(
                f"name {self.name!r}: lower-case letters, digits, - and _ only (it names folders and experiments)"
            )
        if not self.sizes:
            errors.append("sizes: at least one")
        names = [size.name for size in self.sizes]
        errors += [f"sizes: {name!r} appears twice" for name in sorted({n for n in names if names.count(n) > 1})]
        if not self.targets or not self.targets[0].trained:
            errors.append("targets: the first must be a trained task, whose English dev score ranks the trials")
        errors += [f"targets: {task.name} is an intermediate task" for task in self.targets if task.role != "target"]
        errors += [
            f"space.intermediates: {task.name} is a target"
            for task in self.space.intermediates
            if task.role != "intermediate"
        ]
        errors += [
            f"space.intermediates: {task.name} has no labels and is trained as one of the tasks of a mixture"
            for task in self.space.intermediates
            if task.mixed_only
        ]
        errors += self.space.errors()
        if self.repeats is not None and (self.repeats.top < 1 or self.repeats.seeds < 1):
            errors.append(f"repeats {self.repeats}: at least one trial and one further seed; None for no repeats")
        fewest = min([self.trials, *(size.trials for size in self.sizes if size.trials is not None)])
        if fewest < len(self.space.names):
            errors.append(
                f"trials {fewest}: at least {len(self.space.names)}, since every intermediate choice is run once"
            )
        tasks = [*self.targets, *self.space.intermediates]
        errors += [
            f"{task.name}: what it reads is not pinned; pass it through trainables.tasks.published_task.pinned"
            for task in tasks
            if not task.revision
        ]
        known = {one.name for task in tasks for one in (task, *_prerequisites(task))}
        errors += [
            f"own_tuning: no task {own.task!r} in this study" for own in self.own_tuning if own.task not in known
        ]
        if self.reduction_factor < 2:
            errors.append(f"reduction_factor {self.reduction_factor}: ASHA keeps one trial in 2 or more")
        if self.first_rung < 1:
            errors.append(f"first_rung {self.first_rung}: ASHA compares trials that have finished one target or more")
        errors += [
            f"benchmark.variants: no variant {name!r}; there are {', '.join(VARIANTS)}"
            for name in self.benchmark.variants
            if name not in VARIANTS
        ]
        if self.benchmark.repeats < 1 or self.benchmark.threads < 1:
            errors.append("benchmark: repeats and threads are at least 1")
        try:
            self.benchmark.measured_with()
        except ValueError as error:
            errors.append(f"benchmark: {error}")
        if any(isinstance(size.encoder, LadderEncoder) for size in self.sizes):
            errors += [
                f"{field}: the rungs of a ladder are pre-trained with it"
                for field in ("corpus", "vocabulary_size", "group_pairs")
                if not getattr(self, field)
            ]
        errors += [
            f"{one.name}: early stopping watches the dev set of one task, and a mixture has several"
            for one in self.space.intermediates
            if isinstance(one, Mixture)
            and self.training_of(one, self.intermediate_tuning, rate=1.0).early_stopping is not None
        ]
        twice = sorted({task.name for task in tasks if [one.name for one in tasks].count(task.name) > 1})
        errors += [f"{name}: two tasks of one name would write one score over the other" for name in twice]
        for size in self.sizes:
            if not size.rate_factor > 0:
                errors.append(f"sizes[{size.name}]: rate_factor {size.rate_factor} must be positive")
            errors += self._batch_errors(size)
            errors += self._masking_errors(size)
            if size.resources.unpad and (reason := self._obstacle_to_unpadding(size)) is not None:
                errors.append(f"sizes[{size.name}]: unpad: {reason}")
            if isinstance(size.encoder, LadderEncoder):
                errors += [
                    f"{task.name}: hidden layer {task.hidden_layer}, and {size.name} has {size.encoder.shape.layers}"
                    for task in self.targets
                    if not 0 <= (task.hidden_layer or 0) <= size.encoder.shape.layers
                ]
        return errors

    def _obstacle_to_unpadding(self, size: Size) -> str | None:
        device = "cuda" if size.resources.gpus else "cpu"
        trainings = [self.intermediate_tuning, self.tuning]
        trainings += [size.encoder.pretraining] if isinstance(size.encoder, LadderEncoder) else []
        reasons = (why_padded(size.family, device, training.precision) for training in trainings)
        return next((reason for reason in reasons if reason is not None), None)

    def _batch_errors(self, size: Size) -> list[str]:
        """Batches that cannot be cut for the size's workers."""
        batches = set()
        if isinstance(size.encoder, LadderEncoder):
            batches.add(("pretraining", size.encoder.pretraining.batch_size, 1))
        for choice, usual in [(one, self.intermediate_tuning) for one in self.space.intermediates] + [
            (one, self.tuning) for one in self.targets if one.trained
        ]:
            for task in (choice,) if isinstance(choice, Mixture) else (*choice.prerequisites, choice):
                group = 1 if isinstance(task, Mixture) else task.group
                batches.add((task.name, self.training_of(task, usual, rate=1.0).batch_size, group))
        errors = []
        for name, batch_size, group in sorted(batches):
            for workers in size.resources.worker_counts:
                try:
                    Share(0, workers, size.resources.micro_batch).accumulation(batch_size, group)
                except ValueError as error:
                    errors.append(f"sizes[{size.name}], {name}: {error}")
        return errors

    def _masking_errors(self, size: Size) -> list[str]:
        """Why the size cannot be trained by masked language modelling, where a choice has it."""
        errors = []
        for name in (choice.name for choice in self.space.masked):
            if isinstance(size.encoder, Published) and not size.family.mask_token:
                errors.append(f"sizes[{size.name}], {name}: {size.encoder.family} has no mask token to read")
            if size.resources.trim_vocabulary:
                errors.append(
                    f"sizes[{size.name}], {name}: trim_vocabulary, but it trains every row of the table; None trims the others"
                )
        return errors


def _seeded(encoder: LadderEncoder | Published, seed: int) -> LadderEncoder | Published:
    """A published encoder has no seed of ours."""
    if isinstance(encoder, Published):
        return encoder
    return dataclasses.replace(encoder, pretraining=dataclasses.replace(encoder.pretraining, seed=seed))


def _prerequisites(task: Task | Mixture) -> tuple[Task, ...]:
    return () if isinstance(task, Mixture) else task.prerequisites
