"""A small study that is all grid: nine intermediate choices by five targets on MicroXTREME, for benchmarks of the search.

The nine are none, MicroXTREME's four intermediate tasks, and four mixtures of them, one with masked language modelling in it:
what the study's space holds, in small. Encoder, targets and steps are those of the quickstart's smallest size.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from study.planning.cost import stages_of
from study.recipes.quickstart import LANGUAGES, quickstart
from study.spec import Choice, LadderEncoder, Size, Study
from study.spec.space import Rates, Space
from trainables.stages.base import Root, Stage, Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import Tuned
from trainables.stages.vocabulary import Vocabulary
from trainables.store.fingerprint import fingerprint
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.intermediate import MicroOddOneOut, MicroOrdering, MicroParaphrase, MicroTopic
from trainables.tasks.micro.masked_lm import MicroMaskedLm
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
    """Steps of each kind of training; None keeps the quickstart's."""

    pretraining: int | None = None
    intermediate: int | None = None
    target: int | None = None


def micro_grid(*, lr_intermediate: Rates, lr_target: Rates, lengths: Lengths = Lengths(), seed: int = 0) -> Study:
    """The study over these learning rates; its one size trains on one worker."""
    study = quickstart(seed)
    size = study.sizes[0]
    assert isinstance(size.encoder, LadderEncoder)
    if lengths.pretraining is not None:
        pretraining = dataclasses.replace(size.encoder.pretraining, steps=lengths.pretraining)
        size = dataclasses.replace(size, encoder=dataclasses.replace(size.encoder, pretraining=pretraining))
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


def size_of(study: Study) -> Size:
    """The grid's one size."""
    (size,) = study.sizes
    return size


def choices_of(study: Study) -> list[Choice]:
    """Every point of the grid.

    Raises:
        ValueError: a rate is a range, which has no points to list.
    """
    grid = study.space.grid()
    if grid is None:
        raise ValueError("a range of learning rates is no grid")
    return grid


def trained_for(evaluate: Evaluate) -> dict[str, Stage]:
    """By fingerprint all that a score rests on and that is made for it: what the encoder itself rests on is left out."""
    given = (Root, Vocabulary)
    return {fingerprint(stage): stage for stage in stages_of(evaluate) if not isinstance(stage, given)}


def trains(stage: Stage) -> bool:
    """Whether the stage is a training, and not tokenising or scoring."""
    return isinstance(stage, Tuned)


def seconds_of(store: StageStore, stages: Mapping[str, Stage]) -> dict[str, float]:
    """What each finished stage took, by its manifest."""
    seconds = {}
    for key, stage in stages.items():
        found = store.find(stage)
        if found is None:
            raise RuntimeError(f"{stage.label} is not finished in {store.root}")
        seconds[key] = float(found.manifest["context"]["seconds"])
    return seconds


def workplace(output: Path) -> Workplace:
    """One process, one thread, as an inline trial trains."""
    torch.set_num_threads(1)
    return Workplace(StageStore(output), Share(0, 1, 64))


def prepare(study: Study, output: Path) -> float:
    """The pre-trained encoder in the store; the seconds it took, with its vocabulary."""
    root, work = study.pretrain(size_of(study)), workplace(output)
    ensure(root, work)
    stages = {fingerprint(stage): stage for stage in stages_of(root)}
    return sum(seconds_of(work.store, stages).values())


def elapsed_since(start: float) -> float:
    return round(time.perf_counter() - start, 1)


def spread(values: Sequence[float], digits: int = 3) -> list[float]:
    """Smallest and largest."""
    return [round(min(values), digits), round(max(values), digits)]
