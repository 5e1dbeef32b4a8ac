"""The plan of a study, printed before anything starts: what runs, what it needs and what it costs."""

from __future__ import annotations

import os
from collections.abc import Mapping

from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from study.cluster.accelerators import ACCELERATORS, Accelerator, declared_accelerator, device_words
from study.cluster.capacity import capacity_of_nodes
from study.cluster.fit import LESS_MEMORY, cores_per_trial, with_memory
from study.cluster.preflight import LEAST_MEMORY, available_memory
from study.planning import memory, tables
from study.planning.architecture import Architecture, UnknownArchitecture, architecture_of
from study.planning.fitted import Fitted
from study.planning.search_cost import storage_lines
from study.planning.stages import all_loads
from study.planning.worker_memory import worker_gb
from study.spec import NONE, BenchmarkPlan, LadderEncoder, LogUniform, PublishedEncoder, Study
from study.spec.data_check import seen_flags, seen_flags_of_arms
from study.spec.precision import explain_precision
from trainables.models.catalogue import description
from trainables.models.families import why_padded
from trainables.resources import GB
from trainables.stages.import_encoder import ImportEncoder


def render_plan(study: Study, *, price: float | None = None) -> Group:
    """The plan as text, the stage graph and tables; `price` of a GPU-hour, in any currency."""
    architectures, notes = _architectures(study)
    lines = [
        f"study {study.name}, seed {study.seed}, version {study.version}",
        f"training precision: {explain_precision(study)}",
        f"targets, in the order trials score them: {', '.join(task.name for task in study.targets)}",
        f"each size: every intermediate choice once at the default learning rates ({_defaults(study)}, never stopped "
        f"early), then {_sampled(study)}; ASHA keeps one in {study.reduction_factor} at each rung, the first after "
        f"{study.first_rung} targets",
        *_first(study),
        _repeats(study),
        "stages: of the default cells; 'not shared' is how many their trials would run without sharing",
        *_restricted(study),
        *_padding(study),
        *_slow_bf16(study),
        *_groups(study),
        *_memory_of_cpu_workers(study),
        *_benchmark(study, architectures),
        *storage_lines(study, architectures),
        *notes,
        *(f"not pinned yet, which a run requires: {source}" for source in study.unpinned),
    ]
    of_gpus = (tables.memory_table(study, architectures), tables.utilisation_table(study, architectures))
    fitted = (
        tables.sizes_table(study, architectures),
        *(table for table in of_gpus if table.row_count),
        tables.operations_table(study, architectures),
        tables.cost_table(study, architectures, price),
    )
    return Group(
        *(Text(line) for line in lines),
        _stage_graph(study),
        *map(Fitted, fitted),
        tables.choices_table(study),
    )


def _first(study: Study) -> list[str]:
    """In what order the default cells start, where it is not that of the space."""
    if study.first_by is None:
        return []
    return [
        f"default cells start with none, then in the order of {study.first_by}, computed on CPUs before the first trial"
    ]


def _architectures(study: Study) -> tuple[dict[str, Architecture], list[str]]:
    """The architecture of each size where it is known, and remarks on encoders, also on unknown ones."""
    architectures: dict[str, Architecture] = {}
    notes: list[str] = []
    for size in study.sizes:
        try:
            architectures[size.name] = architecture_of(study, size)
        except UnknownArchitecture as error:
            notes.append(f"{size.name}: {error}")
        if isinstance(size.encoder, PublishedEncoder):
            if remark := size.encoder.card.remark:
                notes.append(f"{size.name}: {size.encoder.repository} at {size.encoder.revision}: {remark}")
            notes += _read_and_seen(size.name, size.encoder, seen_flags(study).get(size.name, {}))
        for arm in study.space_of(size).arms:
            if (encoder := arm.published_at(size)) is not None:
                flags = seen_flags_of_arms(study, size).get(arm.name, {})
                notes += _remarks_on_arm(f"{size.name}, {arm.name}", encoder, flags)
    return architectures, notes


def _remarks_on_arm(arm: str, encoder: PublishedEncoder, seen: Mapping[str, str]) -> list[str]:
    """What the checkpoint of an arm is, how it reads texts and what it has seen."""
    remark = f": {encoder.card.remark}" if encoder.card.remark else ""
    source = f"{arm}: starts from {description(encoder)} at {encoder.revision}, imported and tokenised for separately"
    return [f"{source}{remark}", *_read_and_seen(arm, encoder, seen)]


def _read_and_seen(size: str, encoder: PublishedEncoder, flags: Mapping[str, str]) -> list[str]:
    """How a published encoder reads texts, and what it has seen of the targets."""
    stage = ImportEncoder(encoder)
    pooling = {"first": "the first token", "mean": "the mean over tokens"}.get(encoder.card.pooling or "")
    marks = encoder.marks_second_segment or not encoder.architecture.second_segment
    read = [
        "" if pooling is None else f"heads over whole rows read {pooling}",
        "" if marks else "no second segment is marked",
        f"in retrieval, {stage.prefixes}" if str(stage.prefixes) else "",
    ]
    notes = [f"{size}: {text}" for text in ["; ".join(filter(None, read))] if text]
    if flags:
        targets = ", ".join(f"{target} ({seen})" for target, seen in flags.items())
        notes.append(
            f"{size}: the encoder was trained on data of these targets before, and their scores are marked: {targets}"
        )
    return notes


def _defaults(study: Study) -> str:
    """How many trials of each size have a default cell."""
    counts = {size.name: len(study.space_of(size).names) for size in study.sizes}
    return f"{_by_size(counts)} trials" if len(set(counts.values())) == 1 else _by_size(counts)


def _sampled(study: Study) -> str:
    """How many trials follow the default cells, and who chooses them."""
    counts = _by_size({size.name: study.budget(size) - len(study.space_of(size).names) for size in study.sizes})
    if study.allocation == "front":
        return f"at most so many trials that go where the front can move most ({counts})"
    return f"trials that Optuna suggests ({counts})"


def _by_size(counts: Mapping[str, int]) -> str:
    """A number for each size; one number if all have the same."""
    if len(set(counts.values())) == 1:
        return str(next(iter(counts.values())))
    return ", ".join(f"{count} of {name}" for name, count in counts.items())


def _repeats(study: Study) -> str:
    if study.repeats is None:
        return "repeats: none"
    return (
        f"repeats: each size's {study.repeats.top} best by English dev, and its best without an intermediate task, with "
        f"{study.repeats.seeds} further seeds"
    )


def _restricted(study: Study) -> list[str]:
    """The sizes that try only some of the intermediate tasks."""
    return [
        f"{size.name} tries no intermediate task but {', '.join(size.intermediates)}"
        if size.intermediates
        else f"{size.name} tries no intermediate task"
        for size in study.sizes
        if size.intermediates is not None
    ]


def _padding(study: Study) -> list[str]:
    """Which sizes train without padding, and why the others do not."""
    names_by_reason: dict[str | None, list[str]] = {}
    for size in study.sizes:
        reason = None
        if not size.resources.unpad:
            reason = why_padded(size.family, "cuda" if size.resources.gpus else "cpu", study.tuning.precision)
            reason = reason or "unpad is off; it has not been run on a GPU yet"
        names_by_reason.setdefault(reason, []).append(size.name)
    return [
        f"training {'computes no padding' if reason is None else 'computes padding'}: {', '.join(names)}"
        + ("" if reason is None else f" ({reason})")
        for reason, names in names_by_reason.items()
    ]


def _slow_bf16(study: Study) -> list[str]:
    """Sizes that train in bf16 on cards without tensor cores for it."""
    names_by_card: dict[str, list[str]] = {}
    for size in study.sizes:
        card, device = device_words(size.resources), declared_accelerator(size.resources)
        mixed = any(load.training.precision != "fp32" for load in all_loads(study, size))
        if device is not None and device.bf16_tflops is None and mixed:
            names_by_card.setdefault(card, []).append(size.name)
    return [
        f"bf16 on {card}: {', '.join(names)}; it has no tensor cores for bf16, so hours are counted at its fp32 peak, and fp32 "
        "is no slower"
        for card, names in names_by_card.items()
    ]


def _groups(study: Study) -> list[str]:
    """What a node needs to hold all GPU workers of a trial; which nodes there are, only a run on the cluster knows."""
    names_by_need: dict[tuple[int, int], list[str]] = {}
    for size in study.sizes:
        if size.resources.gpus and size.resources.workers > 1:
            need = size.resources.workers, cores_per_trial(size.resources)
            names_by_need.setdefault(need, []).append(size.name)
    return [
        f"{', '.join(names)}: {workers} workers with 1 GPU each: one node needs {workers} GPUs and {cores} cores, "
        "else they span nodes"
        for (workers, cores), names in names_by_need.items()
    ]


def _memory_of_cpu_workers(study: Study) -> list[str]:
    """What a worker on CPUs takes, and how many trials fit this machine if only their size runs."""
    cores, free = len(os.sched_getaffinity(0)), max(0.0, available_memory()[0] - LEAST_MEMORY)
    lines = []
    for size in study.sizes:
        needed = size.resources.memory_gb or worker_gb(study, size)
        if size.resources.gpus or needed is None:
            continue
        # Ray on one machine starts with as many cores as a trial needs.
        node = {"CPU": float(max(cores, cores_per_trial(size.resources))), "memory": free}
        capacity = capacity_of_nodes([{"Alive": True, "Resources": node}])
        (requesting,) = with_memory([size], {size.name: needed}, capacity=capacity)
        trials = capacity.max_trials(requesting.resources)
        fits = requesting.resources.memory_gb == needed
        lines.append(
            f"{size.name}: a worker on CPUs takes up to {needed:.1f} GB of memory; on this machine ({cores} cores, "
            f"{free / GB:.1f} GB free beside Ray) "
            + (
                f"{trials} trial{'' if trials == 1 else 's'} at once"
                if fits
                else f"one trial at a time, which may run out: {LESS_MEMORY}"
            )
        )
    return lines


def _benchmark(study: Study, architectures: Mapping[str, Architecture]) -> list[str]:
    """What is timed on which device, and which weights a card cannot hold."""
    plan, (card, device) = study.benchmark, _benchmark_device(study.benchmark)
    where = "" if card is None else f", on {card}"
    line = f"benchmark of each size's best model: {', '.join(plan.variant_names) or 'none'}{where}"
    serving_gb = {
        (size, variant): memory.serving_gb(architecture, entry)
        for size, architecture in architectures.items()
        for variant, entry in zip(plan.variant_names, plan.variants, strict=True)
    }
    if card is None and serving_gb:
        size, variant = max(serving_gb, key=lambda key: serving_gb[key])
        return [f"{line}; the largest weights to serve: {serving_gb[size, variant]:.2f} GB, {size} {variant}"]
    return [
        line,
        *(
            f"benchmark of {size} {variant}: NO, {gb:.1f} GB of weights do not fit {card}"
            for (size, variant), gb in serving_gb.items()
            if device is not None and not device.holds(gb)
        ),
    ]


def _benchmark_device(plan: BenchmarkPlan) -> tuple[str | None, Accelerator | None]:
    """The GPU that a benchmark requires, in words, and what is known of it."""
    if plan.accelerator_type is not None:
        return plan.accelerator_type, ACCELERATORS.get(plan.accelerator_type)
    if plan.gpu_memory_gb is None:
        return None, None
    return f"a GPU of {plan.gpu_memory_gb:g} GB", Accelerator(plan.gpu_memory_gb, 0.0, None)


def _stage_graph(study: Study) -> Tree:
    """The stages of every choice that a size tries: which rests on which, and how many of each the whole grid has."""
    space = study.space
    root = "pretrain" if isinstance(study.sizes[0].encoder, LadderEncoder) else "import"
    tried = [study.space_of(size).names for size in study.sizes]
    which = "each size" if len(set(tried)) == 1 else "a size with every choice"
    tree = Tree(Text(f"stage graph of {which}: {root} (its tokenizer and tokenised tables are stages too)"))
    rates = "a rate" if isinstance(space.lr_target, LogUniform) else f"{len(space.lr_target)} rates"
    epochs = f" x {len(space.epochs)} lengths" if len(space.epochs) > 1 else ""
    trained = ", ".join(task.name for task in study.targets if task.trained)
    untrained = ", ".join(task.name for task in study.targets if not task.trained)
    for choice in space.defaults():
        if not any(choice.intermediate in names for names in tried):
            continue
        branch = tree
        if (arm := space.arm(choice.intermediate)).note:
            branch = tree.add(f"{arm.name}: {arm.note}")
        elif choice.intermediate != NONE:
            count = "" if isinstance(space.lr_intermediate, LogUniform) else f" x {len(space.lr_intermediate)} rates"
            branch = tree.add(f"intermediate-{choice.intermediate}{count}")
        branch.add(f"target and evaluate x {rates}{epochs}: {trained}")
        if untrained:
            branch.add(f"evaluate: {untrained}")
    return tree
