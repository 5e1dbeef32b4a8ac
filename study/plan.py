"""What a study would run, before anything starts: sizes, parameters, memory, operations, trials, stages shared and not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from rich.console import Group
from rich.table import Table
from rich.text import Text

from study import estimate
from study.estimate import Architecture, UnknownArchitecture
from study.precision import cpu_precision
from study.spec import Rung, Size, Study, masks
from trainables.catalogue import CATALOGUE
from trainables.fingerprint import fingerprint
from trainables.published import Published
from trainables.stages.base import Stage
from trainables.stages.finetune import Tuned
from trainables.stages.pretrain import Pretrain
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture
from trainables.training import Training
from trainables.unpadding import why_padded


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


def training_stages(study: Study, size: Size) -> dict[str, list[Pretrain | Tuned]]:
    """The training stages of a size's default cells by what they train: pre-training, or a task in its role."""
    found: dict[str, Stage] = {}
    for choice in study.space.defaults():
        for evaluate in study.chain(size, choice):
            found |= {fingerprint(stage): stage for stage in stages_of(evaluate)}
    kinds: dict[str, list[Pretrain | Tuned]] = {}
    for stage in found.values():
        if isinstance(stage, Pretrain):
            kinds.setdefault("pretrain", []).append(stage)
        elif isinstance(stage, Tuned):
            kinds.setdefault(f"{stage.task.role}-{stage.task.name}", []).append(stage)
    return kinds


def render_plan(study: Study) -> Group:
    """Tables for people."""
    known: dict[str, Architecture] = {}
    notes: list[str] = []
    for size in study.sizes:
        try:
            known[size.name] = estimate.architecture(study, size)
        except UnknownArchitecture as error:
            notes.append(f"{size.name}: {error}")
        if isinstance(size.encoder, Published) and (card := CATALOGUE.get(size.encoder.name)) and card.remark:
            notes.append(f"{size.name}: {size.encoder.repository} at {size.encoder.revision}: {card.remark}")
    text = [
        f"study {study.name}, seed {study.seed}, version {study.version}",
        f"training precision: {study.tuning.precision} ({cpu_precision().reason} where the driver runs)",
        f"targets, in the order trials score them: {', '.join(task.name for task in study.targets)}",
        f"each size: every intermediate choice once at the default learning rates ({len(study.space.names)} trials, never "
        f"stopped early), then {study.trials - len(study.space.names)} of Optuna's, one in {study.reduction_factor} kept",
        "stages: of the default cells; 'not shared' is what trials would run that shared none",
        *_padding(study),
        f"benchmark of each size's best model: {', '.join(study.benchmark.variants)}",
        *notes,
        *(f"open, to be noted before a run: {what}" for what in study.open_ends),
    ]
    tables = [_sizes(study, known), _memory(study, known), _operations(study, known), _choices(study)]
    return Group(*(Text(line) for line in text), *tables)


def _padding(study: Study) -> list[str]:
    """Which sizes are trained without padding, and why the others are not."""
    sizes: dict[str | None, list[str]] = {}
    for size in study.sizes:
        reason = why_padded(size.family, "cuda" if size.resources.gpus else "cpu", study.tuning.precision)
        if size.resources.unpad is not None:
            reason = None if size.resources.unpad else "as the recipe says"
        sizes.setdefault(reason, []).append(size.name)
    return [
        f"training {'computes no padding' if reason is None else 'computes padding'}: {', '.join(names)}"
        + ("" if reason is None else f" ({reason})")
        for reason, names in sizes.items()
    ]


def _sizes(study: Study, known: Mapping[str, Architecture]) -> Table:
    columns = (
        "size",
        "encoder",
        "params",
        "embeddings",
        "body",
        "workers",
        "launcher",
        "trials",
        "stages",
        "not shared",
    )
    table = _table("sizes", columns, left=("size", "encoder", "workers", "launcher"))
    for size in study.sizes:
        resources, encoder = size.resources, size.encoder
        shared, naive = stage_counts(study, size)
        count = known[size.name].count if size.name in known else None
        table.add_row(
            size.name,
            f"{encoder.pretraining.steps} steps" if isinstance(encoder, Rung) else encoder.repository,
            *(("?",) * 3 if count is None else map(_millions, (count.total, count.embeddings, count.body))),
            f"{resources.workers} x {resources.cpus} CPU"
            + (f" + 1 {resources.accelerator_type or 'GPU'}" if resources.gpus else ""),
            "inline" if resources.inline else f"Ray Train, ZeRO-{resources.zero_stage}",
            str(study.budget(size)),
            str(shared),
            str(naive),
        )
    return table


def _memory(study: Study, known: Mapping[str, Architecture]) -> Table:
    names = [f"ZeRO-{stage}{'' if offload == 'none' else f' -{offload[:5]}'}" for stage, offload in estimate.settings()]
    table = _table(
        "memory of a worker in GB on its device (with offload + in its node's host memory): model states by DeepSpeed's "
        "estimators; activations of the longest micro-batch; fits: with a tenth left free",
        ("size", *names, "activations", "checkpointing", "chosen", "fits"),
        left=("size", "chosen", "fits"),
    )
    trainings = _tunings(study)
    for size in study.sizes:
        if size.name not in known:
            continue
        architecture, resources = known[size.name], size.resources
        cells = []
        for stage, offload in estimate.settings():
            moved = dataclasses.replace(resources, zero_stage=stage, offload=offload)
            memory = estimate.model_states(architecture, moved)
            cells.append(f"{memory.device_gb:.2f}" + ("" if offload == "none" else f" + {memory.host_gb:.1f}"))
        needed = {
            (training, masked): estimate.activations_gb(architecture, resources, training, masked=masked)
            for training, masked in trainings
        }
        largest, masked = max(needed, key=lambda one: needed[one])
        fits = estimate.fits(architecture, resources, largest, masked=masked)
        table.add_row(
            size.name,
            *cells,
            f"{needed[largest, masked]:.2f}",
            "yes" if resources.activation_checkpointing else "no",
            f"ZeRO-{resources.zero_stage}"
            + ("" if resources.offload == "none" else f", {resources.offload} offloaded"),
            "no GPU declared" if not resources.gpus else {None: "unknown card", True: "yes", False: "NO"}[fits],
        )
    return table


def _operations(study: Study, known: Mapping[str, Architecture]) -> Table:
    table = _table(
        f"training of a stage in PFLOP, and GPU-hours at {estimate.MFU:.0%} of the card's peak (MFU, assumed); rows counted at "
        "their longest, those of a mixture all masked if some are: an upper bound, but for tasks of several rows a feature "
        "(multiple choice, retrieval)",
        ("stage", "default cells", "steps", "batch", "length", *(size.name for size in study.sizes)),
        left=("stage",),
    )
    kinds = {size.name: training_stages(study, size) for size in study.sizes}
    for name in dict.fromkeys(name for found in kinds.values() for name in found):
        stages = next(found[name] for found in kinds.values() if name in found)
        training = stages[0].training
        cells = [
            _cost(size, known[size.name], kinds[size.name][name][0])
            if size.name in known and name in kinds[size.name]
            else "-"
            for size in study.sizes
        ]
        numbers = (len(stages), training.steps, training.batch_size, training.max_length)
        table.add_row(name, *map(str, numbers), *cells)
    return table


def _cost(size: Size, architecture: Architecture, stage: Pretrain | Tuned) -> str:
    if isinstance(stage, Pretrain):  # an entry of its batches is a group of sentence pairs
        flops = estimate.stage_flops(architecture, stage.training, rows=2 * stage.group_pairs, masked=True)
    else:
        flops = estimate.stage_flops(architecture, stage.training, masked=masks(stage.task))
    hours = estimate.gpu_hours(flops, size.resources)
    return f"{flops / 1e15:.3g}" + ("" if hours is None else f", {hours:.2g} h")


def _choices(study: Study) -> Table:
    table = _table(f"choices: {study.space.points} in all", ("what", "values, the default first"), left=("what",))
    table.columns[1].justify = "left"
    table.add_row("intermediate", ", ".join(study.space.names))
    for mixture in (one for one in study.space.intermediates if isinstance(one, Mixture)):
        table.add_row(mixture.name, " + ".join(map(_part, mixture.tasks)))
    table.add_row("lr_intermediate", ", ".join(f"{rate:g}" for rate in study.space.lr_intermediate))
    table.add_row("lr_target", ", ".join(f"{rate:g}" for rate in study.space.lr_target))
    return table


def _part(task: Task) -> str:
    """A task of a mixture, with its languages where they are not English alone."""
    return task.name if task.languages == ("en",) else f"{task.name} ({', '.join(task.languages)})"


def _tunings(study: Study) -> list[tuple[Training, bool]]:
    """Every training, and whether it scores the whole vocabulary for masked pieces."""
    usual = [study.tuning, study.intermediate_tuning, *(own.training for own in study.own_tuning)]
    masked = [study.training_of(choice, study.intermediate_tuning, rate=1.0) for choice in study.space.masked]
    return [*((training, False) for training in usual), *((training, True) for training in masked)]


def _table(title: str, columns: tuple[str, ...], *, left: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
