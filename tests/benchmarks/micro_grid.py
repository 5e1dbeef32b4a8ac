"""Small grid studies for benchmarks of the search, by five targets on MicroXTREME: one size, or three for the front.

`micro_grid` has nine intermediate choices of one size. The nine are none, MicroXTREME's four intermediate tasks, and four
mixtures of them, one of which has masked language modelling in it: every kind of choice that a study's space can hold. Encoder,
targets and steps are those of the quickstart's middle size.

`front_grid` has the quickstart's three sizes, its four intermediate tasks and none, and other seeds and learning rates than
any search or recipe was tuned on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from study.planning.stages import stages_of
from study.recipes.quickstart import LANGUAGES, quickstart
from study.spec import Choice, Resources, Size, Study
from study.spec.space import Rates, Space
from trainables.stages.base import Root, Stage, Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import Tuned
from trainables.stages.vocabulary import Vocabulary
from trainables.store.fingerprint import fingerprint
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.follows import MicroFollows
from trainables.tasks.micro.intermediate import MicroOddOneOut, MicroOrdering, MicroParaphrase, MicroTopic
from trainables.tasks.micro.masked_lm import MicroMaskedLm
from trainables.tasks.micro.mention import MicroMention
from trainables.tasks.micro.span import MicroSpan
from trainables.tasks.micro.tagging import MicroTagging
from trainables.tasks.mixture import Mixture
from trainables.training.batching import Share

MEANING = (MicroParaphrase(), MicroTopic())
REASONING = (MicroOddOneOut(), MicroOrdering())
SINGLE = (*MEANING, *REASONING)
MIXED = (
    Mixture("mixture_meaning", MEANING),
    Mixture("mixture_reasoning", REASONING),
    Mixture("mixture_all", SINGLE),
    Mixture("mixture_masked", (*SINGLE, MicroMaskedLm(languages_=LANGUAGES))),
)


@dataclass(frozen=True)
class Lengths:
    """Steps of each kind of training; None is the quickstart's."""

    intermediate: int | None = None
    target: int | None = None


def micro_grid(*, lr_intermediate: Rates, lr_target: Rates, lengths: Lengths = Lengths(), seed: int = 0) -> Study:
    """The study over these learning rates; its only size trains on one worker."""
    study = quickstart(seed)
    size = study.size("2x128")
    space = Space((*SINGLE, *MIXED), lr_intermediate, lr_target)
    assert len(space.names) == 9
    assert len(study.targets) == 5
    intermediate, target = study.intermediate_tuning, study.tuning
    return dataclasses.replace(
        study,
        name="micro_grid",
        sizes=(size,),
        space=space,
        intermediate_tuning=dataclasses.replace(intermediate, steps=lengths.intermediate or intermediate.steps),
        tuning=dataclasses.replace(target, steps=lengths.target or target.steps),
        trials=len(space.grid() or space.names),
        repeats=None,
    )


# Of `front_grid`. No recipe has any of them.
FRONT_SEED = 11
FRONT_LR_INTERMEDIATE, FRONT_LR_TARGET = (3e-4, 7e-4, 1.5e-3), (7e-4, 1.5e-3, 3e-3)
FRONT_LENGTHS = Lengths(intermediate=40, target=40)
FRONT_TEST_SIZE = (
    8  # examples a language: searches read English dev alone, and scoring would take a third of the grid's time
)


def front_grid(*, seed: int = FRONT_SEED, lengths: Lengths = FRONT_LENGTHS) -> Study:
    """The study of three sizes with 39 choices each, every size trained by one process."""
    study = quickstart(seed)
    space = dataclasses.replace(study.space, lr_intermediate=FRONT_LR_INTERMEDIATE, lr_target=FRONT_LR_TARGET)
    return dataclasses.replace(
        study,
        name="front_grid",
        sizes=tuple(
            dataclasses.replace(size, resources=Resources(micro_batch=96), intermediates=None, trials=None)
            for size in study.sizes
        ),
        targets=tuple(
            task(languages_=LANGUAGES, test_size=FRONT_TEST_SIZE)
            for task in (MicroTagging, MicroMention, MicroFollows, MicroSpan, MicroBitext)
        ),
        space=space,
        intermediate_tuning=dataclasses.replace(study.intermediate_tuning, steps=lengths.intermediate or 40),
        tuning=dataclasses.replace(study.tuning, steps=lengths.target or 40),
        trials=len(space.grid() or ()),
        repeats=None,
    )


def size_of(study: Study) -> Size:
    """The only size of the grid."""
    (size,) = study.sizes
    return size


def choices_of(study: Study) -> list[Choice]:
    """Every point of the grid.

    Raises:
        ValueError: a learning rate is a range, which has no list of points.
    """
    grid = study.space.grid()
    if grid is None:
        raise ValueError("the learning rates are a range, not a grid; give tuples of rates")
    return grid


def trained_for(evaluate: Evaluate) -> dict[str, Stage]:
    """The stages behind a score by fingerprint, without the encoder and the stages behind the encoder."""
    encoder = (Root, Vocabulary)
    return {fingerprint(stage): stage for stage in stages_of(evaluate) if not isinstance(stage, encoder)}


def trains(stage: Stage) -> bool:
    """Whether the stage is a training, not tokenising or scoring."""
    return isinstance(stage, Tuned)


def seconds_of(store: StageStore, stages: Mapping[str, Stage]) -> dict[str, float]:
    """Seconds of each finished stage, from its manifest."""
    seconds = {}
    for key, stage in stages.items():
        finished = store.find(stage)
        if finished is None:
            raise RuntimeError(f"{stage.label} is not finished in {store.root}")
        seconds[key] = float(finished.manifest["context"]["seconds"])
    return seconds


def workplace(output: Path) -> Workplace:
    """A workplace for one process with one thread, as an inline trial has."""
    torch.set_num_threads(1)
    return Workplace(StageStore(output), Share(0, 1, 64))


def prepare(study: Study, output: Path) -> None:
    """Import the encoders into the store."""
    for size in study.sizes:
        ensure(study.encoder_stage(size), workplace(output))


def elapsed_since(start: float) -> float:
    return round(time.perf_counter() - start, 1)


def spread(values: Sequence[float], digits: int = 3) -> list[float]:
    """The smallest and the largest value."""
    return [round(min(values), digits), round(max(values), digits)]
