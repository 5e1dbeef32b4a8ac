"""What a study would run, before anything starts: sizes, parameters, trials, stages shared and not."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from rich.console import Group
from rich.table import Table
from rich.text import Text

from study.precision import cpu_precision
from study.spec import Size, Study
from trainables.encoder import ParameterCount, count_parameters
from trainables.fingerprint import fingerprint
from trainables.stages.base import Stage


def parameters(study: Study, size: Size) -> ParameterCount:
    """Counts of the size's encoder at the full vocabulary, without allocating it."""
    from transformers import XLMRobertaModel

    with torch.device("meta"):
        encoder = XLMRobertaModel(size.shape.config(study.vocabulary_size, pad_id=1), add_pooling_layer=False)
    return count_parameters(encoder)


def stages_of(stage: Stage) -> Iterator[Stage]:
    """The stage and all it rests on."""
    yield stage
    for parent in stage.parents:
        yield from stages_of(parent)


def stage_counts(study: Study, size: Size) -> tuple[int, int]:
    """Different stages of a size's default cells, and how many trials that shared nothing would run."""
    chains = [study.chain(size, choice) for choice in study.space.defaults()]
    each = [{fingerprint(stage) for evaluate in chain for stage in stages_of(evaluate)} for chain in chains]
    return len(set().union(*each)), sum(len(stages) for stages in each)


def render_plan(study: Study) -> Group:
    """Tables for people."""
    sizes = Table(title="sizes", title_justify="left")
    for column in ("size", "params", "body", "pre-training", "workers", "launcher", "trials", "stages", "not shared"):
        sizes.add_column(column, justify="left" if column in ("size", "launcher") else "right")
    for size in study.sizes:
        count, resources = parameters(study, size), size.resources
        shared, naive = stage_counts(study, size)
        sizes.add_row(
            size.name,
            f"{count.total / 1e6:.2f} M",
            f"{count.body / 1e6:.2f} M",
            f"{size.pretraining.steps} steps",
            f"{resources.workers} x {resources.cpus} CPU" + (" + 1 GPU" if resources.gpus else ""),
            "inline" if resources.inline else f"Ray Train, ZeRO-{resources.zero_stage}",
            str(study.budget(size)),
            str(shared),
            str(naive),
        )
    choices = Table(title=f"choices: {study.space.points} in all", title_justify="left")
    choices.add_column("what")
    choices.add_column("values, the default first")
    choices.add_row("intermediate", ", ".join(study.space.names))
    choices.add_row("lr_intermediate", ", ".join(f"{rate:g}" for rate in study.space.lr_intermediate))
    choices.add_row("lr_target", ", ".join(f"{rate:g}" for rate in study.space.lr_target))
    text = [
        f"study {study.name}, seed {study.seed}, version {study.version}",
        f"training precision: {study.tuning.precision} ({cpu_precision().reason} where the driver runs)",
        f"targets, in the order trials score them: {', '.join(task.name for task in study.targets)}",
        f"each size: every intermediate choice once at the default learning rates ({len(study.space.names)} trials, never "
        f"stopped early), then {study.trials - len(study.space.names)} of Optuna's, one in {study.reduction_factor} kept",
        "stages: of the default cells; 'not shared' is what trials would run that shared none",
        f"benchmark of each size's best model: {', '.join(study.benchmark.variants)}",
    ]
    return Group(*(Text(line) for line in text), sizes, choices)
