"""The tables of a plan: sizes, memory, utilisation, operations, costs and choices."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial

from rich.table import Table

from study.cluster.accelerators import declared_accelerator, device_words
from study.planning import memory
from study.planning.architecture import Architecture
from study.planning.operations import Hours, load_share, stage_flops, stage_hours, tokens_a_micro_step
from study.planning.row_lengths import scored_rows
from study.planning.search_cost import SearchCost, search_cost
from study.planning.stages import (
    CostedStage,
    all_loads,
    loads_of,
    scoring_rows,
    scoring_stages,
    stage_counts,
    training_stages,
)
from study.spec import LadderEncoder, LogUniform, Rates, Size, Study
from trainables.models.catalogue import description
from trainables.resources import GPU_HEADROOM, Offload
from trainables.tasks.base import Task

# ZeRO stages with offloads whose memory is shown side by side.
COMPARED: tuple[tuple[int, Offload], ...] = (
    *((0, "none"), (1, "none"), (2, "none"), (3, "none")),
    *((2, "optimizer"), (3, "optimizer"), (3, "parameters")),
)


def sizes_table(study: Study, architectures: Mapping[str, Architecture]) -> Table:
    """Encoders, parameters, workers, trials and stages of each size."""
    columns = (
        *("size", "encoder", "params", "embeddings", "body"),
        *("workers", "launcher", "rates", "trials", "stages", "not shared"),
    )
    table = _table("sizes", columns, left=("size", "encoder", "workers", "launcher"))
    for size in study.sizes:
        resources, encoder = size.resources, size.encoder
        shared, not_shared = stage_counts(study, size)
        count = architectures[size.name].count if size.name in architectures else None
        table.add_row(
            size.name,
            f"{encoder.pretraining.steps} steps" if isinstance(encoder, LadderEncoder) else description(encoder),
            *(("?",) * 3 if count is None else map(_millions, (count.total, count.embeddings, count.body))),
            f"{resources.workers} x {resources.cpus} CPU"
            + (f" + {resources.gpus:g} {device_words(resources)}" if resources.gpus else ""),
            "inline" if resources.inline else f"Ray Train, ZeRO-{resources.zero_stage}",
            f"x {size.rate_factor:g}",  # a trial's learning rates are named as the study has them
            str(study.budget(size)),
            str(shared),
            str(not_shared),
        )
    return table


def memory_table(study: Study, architectures: Mapping[str, Architecture]) -> Table:
    """Memory of a worker with a GPU under each ZeRO stage and offload, and whether the chosen one fits; a row for each size."""
    names = [f"ZeRO-{stage}{'' if offload == 'none' else f' -{offload[:5]}'}" for stage, offload in COMPARED]
    table = _table(
        "memory of a worker in GB on its GPU (with an offload and in scoring + in its node's host memory). Model states: "
        "DeepSpeed's estimates, corrected to fp32 weights. Buffers (with bf16 copies of weights) and activations: of the "
        "largest micro-batch, pre-training and every row of a feature included. Scoring: the whole encoder in fp32 on each "
        f"worker. Fits: training and scoring, each with {GPU_HEADROOM:.0%} left free",
        ("size", *names, "buffers", "activations", "checkpointing", "scoring", "chosen", "fits"),
        left=("size", "chosen", "fits"),
    )
    for size in study.sizes:
        if size.name not in architectures or not size.resources.gpus:
            continue
        architecture, resources = architectures[size.name], size.resources
        cells = []
        for stage, offload in COMPARED:
            states = memory.model_states(
                architecture, dataclasses.replace(resources, zero_stage=stage, offload=offload)
            )
            cells.append(f"{states.device_gb:.2f}" + ("" if offload == "none" else f" + {states.host_gb:.1f}"))
        largest = max(all_loads(study, size), key=lambda load: memory.training_gb(architecture, resources, load))
        length, layers_kept = scoring_rows(study, size)
        scoring = memory.scoring_memory(architecture, resources, length, layers_kept=layers_kept)
        table.add_row(
            size.name,
            *cells,
            f"{memory.buffers_gb(architecture, resources, largest):.2f}",
            f"{memory.activations_gb(architecture, resources, largest):.2f}",
            "yes" if resources.activation_checkpointing else "no",
            f"{scoring.device_gb:.2f} + {scoring.host_gb:.1f}",
            f"ZeRO-{resources.zero_stage}"
            + ("" if resources.offload == "none" else f", {resources.offload} offloaded"),
            memory.memory_verdict(study, size, architecture),
        )
    return table


def utilisation_table(study: Study, architectures: Mapping[str, Architecture]) -> Table:
    """How well each size's batches fill its GPUs; a row for each size on a known GPU."""
    table = _table(
        "how training fills a GPU: the real tokens that it processes at once, by kind of batch, and the share of its peak that "
        "this reaches (MFU). Assumed: from launch times and kernel rates, not measured on that GPU",
        ("size", "card", "trials a card", "tokens a micro-step", "MFU", "source"),
        left=("size", "card", "source"),
    )
    for size in study.sizes:
        if size.name not in architectures or declared_accelerator(size.resources) is None:
            continue
        loads, resources = all_loads(study, size), size.resources
        shares = [
            share for load in loads if (share := load_share(architectures[size.name], load, resources)) is not None
        ]
        tokens = [tokens_a_micro_step(load, resources) for load in loads]
        table.add_row(
            size.name,
            device_words(resources),
            f"{1 / resources.gpus:g}",
            f"{min(tokens):,.0f} to {max(tokens):,.0f}",
            f"{min(share.low for share in shares):.1%} to {max(share.high for share in shares):.0%}",
            "measured" if all(share.measured for share in shares) else "assumed",
        )
    return table


def operations_table(study: Study, architectures: Mapping[str, Architecture]) -> Table:
    """What training and scoring each kind of stage take."""
    table = _table(
        "a stage in PFLOP and GPU-hours, from the best to the worst assumed. Rows count with the tokens of their data where "
        "these were counted, other sentences with a third of the limit and passages with all of it; a mixture as its most "
        "expensive task alone. Scoring: in fp32, in all languages",
        ("stage", "default cells", "steps", "batch", "tokens a row", *(size.name for size in study.sizes)),
        left=("stage",),
    )
    trained = {size.name: training_stages(study, size) for size in study.sizes}
    for name in dict.fromkeys(name for stages in trained.values() for name in stages):
        examples = next(stages[name] for stages in trained.values() if name in stages)
        training = examples[0].training
        tokens = max(load.tokens_a_row.mean for stage in examples for load in loads_of(stage))
        numbers: tuple[object, ...] = (len(examples), training.steps, training.batch_size, f"{tokens:.0f}")
        table.add_row(name, *map(str, numbers), *_stage_cells(study, architectures, name, trained))
    scored = {size.name: scoring_stages(study, size) for size in study.sizes}
    for name in dict.fromkeys(name for stages in scored.values() for name in stages):
        evaluations = next(stages[name] for stages in scored.values() if name in stages)
        rows, tokens_a_row = scored_rows(evaluations[0].task, evaluations[0].max_length)
        numbers = (len(evaluations), "-", f"{rows:,} rows", f"{tokens_a_row.mean:.0f}")
        table.add_row(f"scoring-{name}", *map(str, numbers), *_stage_cells(study, architectures, name, scored))
    return table


def _stage_cells(
    study: Study,
    architectures: Mapping[str, Architecture],
    name: str,
    stages: Mapping[str, Mapping[str, Sequence[CostedStage]]],
) -> list[str]:
    """The cell of each size in the row of a stage."""
    return [
        _stage_cell(size, architectures[size.name], stages[size.name][name][0])
        if size.name in architectures and name in stages[size.name]
        else "-"
        for size in study.sizes
    ]


def _stage_cell(size: Size, architecture: Architecture, stage: CostedStage) -> str:
    hours = stage_hours(architecture, stage, size.resources)
    return f"{stage_flops(architecture, stage) / 1e15:.3g}" + (
        "" if hours is None else f", {_range(hours.low, hours.high)} h"
    )


def choices_table(study: Study) -> Table:
    """What a trial chooses from."""
    table = _table(
        f"choices of a size with every task: {study.space.choice_count:g}",
        ("what", "values, the default first"),
        left=("what",),
    )
    table.columns[1].justify = "left"
    table.add_row("intermediate", ", ".join(study.space.names))
    for arm in study.space.arms:
        if (languages := arm.trained_languages) is None:
            trained = "languages of its labelled data unknown: its card states no labelled_languages"
        else:
            trained = f"not zero-shot in {', '.join(languages)}" if languages else ""
        if len(arm.members) > 1 or arm.note or trained:
            remarks = "; ".join(filter(None, (arm.note, trained)))
            table.add_row(arm.name, " + ".join(map(_member, arm.members)) + (f": {remarks}" if remarks else ""))
    table.add_row("lr_intermediate", _rates(study.space.lr_intermediate))
    table.add_row("lr_target", _rates(study.space.lr_target))
    if len(study.space.epochs) > 1:
        table.add_row("epochs, as multiples", ", ".join(f"{multiple:g}" for multiple in study.space.epochs))
    if study.space.seeds:
        table.add_row("seeds", ", ".join(map(str, (study.seed, *study.space.seeds))))
    return table


def _rates(rates: Rates) -> str:
    if isinstance(rates, LogUniform):
        return f"{rates.default:g}, then {rates.low:g} to {rates.high:g}, uniform in the logarithm"
    return ", ".join(f"{rate:g}" for rate in rates)


def cost_table(study: Study, architectures: Mapping[str, Architecture], price: float | None) -> Table:
    """What the whole search of each size costs; `price` of a GPU-hour, in any currency."""
    table = _table(
        "training and scoring of the whole search in PFLOP and GPU-hours as above; a trial on half a GPU counts half. "
        "Expected: mean of simulations with random scores under ASHA. Not shared: the same trials, each training its whole "
        "chain. At most: nothing stopped, and nothing shared by sampled trials. Repeats: further seeds"
        + ("" if price is None else f". Price: at {price:g} a GPU-hour"),
        (
            *("size", "encoder", "default cells", "expected", "not shared", "ratio"),
            *("at most", "repeats", "expected in all", "price"),
        ),
        left=("size",),
    )
    expected, most = Hours(0.0, 0.0), 0.0
    for size in study.sizes:
        if size.name not in architectures:
            continue
        flops = search_cost(study, size, partial(stage_flops, architectures[size.name]))
        hours = _search_hours(study, size, architectures[size.name])

        def cell(field: str, flops: SearchCost = flops, hours: tuple[SearchCost, SearchCost] | None = hours) -> str:
            petaflops = f"{getattr(flops, field) / 1e15:.3g}"
            if hours is None:
                return petaflops
            low, high = (getattr(cost, field) for cost in hours)
            return f"{petaflops}, {_range(low, high)} h"

        if hours is not None:
            low, high = hours
            expected = Hours(expected.low + low.expected_total, expected.high + high.expected_total)
            most += high.at_most_total
        table.add_row(
            size.name,
            *map(cell, ("root", "defaults", "expected", "not_shared")),
            f"{flops.not_shared / flops.expected:.1f}" if flops.expected else "-",
            *map(cell, ("at_most", "repeats", "expected_total")),
            "-"
            if price is None or hours is None
            else _range(*(price * cost.expected_total for cost in hours), form=",.0f"),
        )
    if expected.high:
        in_all = _range(expected.low, expected.high, form=",.0f")
        priced = "" if price is None else f"; price {_range(price * expected.low, price * expected.high, form=',.0f')}"
        table.caption = f"in all {in_all} GPU-hours expected{priced}; at most {most:,.0f} GPU-hours" + (
            "" if price is None else f", {price * most:,.0f}"
        )
    return table


def _search_hours(study: Study, size: Size, architecture: Architecture) -> tuple[SearchCost, SearchCost] | None:
    """`search_cost` in GPU-hours, in the best and in the worst case; None without a known device."""
    if declared_accelerator(size.resources) is None:
        return None

    def hours(stage: CostedStage, bound: str) -> float:
        cost = stage_hours(architecture, stage, size.resources)
        return 0.0 if cost is None else float(getattr(cost, bound))

    low, high = (search_cost(study, size, partial(hours, bound=bound)) for bound in ("low", "high"))
    return low, high


def _range(low: float, high: float, *, form: str = ".2g") -> str:
    """Both ends, or one number where they are written alike."""
    ends = dict.fromkeys(f"{value:,.0f}" if value >= 100 else f"{value:{form}}" for value in (low, high))
    return " to ".join(ends)


def _member(task: Task) -> str:
    """A member of an arm, with its languages unless English is the only one."""
    return task.name if task.languages == ("en",) else f"{task.name} ({', '.join(task.languages)})"


def _table(title: str, columns: tuple[str, ...], *, left: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
