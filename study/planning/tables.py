"""What a study would run, before anything starts: sizes, parameters, memory, operations, trials, stages shared and not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial

from rich.console import Group
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from study.planning import estimate
from study.planning.cost import SearchCost, loads_of, search_cost, stage_flops, stage_hours, stages_of
from study.planning.estimate import Architecture, Load, UnknownArchitecture
from study.spec import LadderEncoder, Size, Study
from study.spec.precision import explained
from study.spec.space import NONE, LogUniform, Rates
from trainables.models.catalogue import CATALOGUE
from trainables.models.families import why_padded
from trainables.models.published_encoder import Published
from trainables.stages.base import Stage
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import Tuned
from trainables.stages.pretrain import Pretrain
from trainables.store.fingerprint import fingerprint
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture


def stage_counts(study: Study, size: Size) -> tuple[int, int]:
    """Different stages of a size's default cells, and how many trials that shared nothing would run."""
    chains = [study.chain(size, choice) for choice in study.space.defaults()]
    each = [{fingerprint(stage) for evaluate in chain for stage in stages_of(evaluate)} for chain in chains]
    return len(set().union(*each)), sum(len(stages) for stages in each)


def training_stages(study: Study, size: Size) -> dict[str, list[Pretrain | Tuned]]:
    """The training stages of a size's default cells by what they train: pre-training, or a task in its role."""
    kinds: dict[str, list[Pretrain | Tuned]] = {}
    for stage in _stages(study, size):
        if isinstance(stage, Pretrain):
            kinds.setdefault("pretrain", []).append(stage)
        elif isinstance(stage, Tuned):
            kinds.setdefault(f"{stage.task.role}-{stage.task.name}", []).append(stage)
    return kinds


def memory_verdict(study: Study, size: Size, architecture: Architecture) -> str:
    """Whether everything that the size's default cells train fits its declared card, and whether scoring does."""
    if not size.resources.gpus:
        return "no GPU declared"
    loads = _loads(study, size)
    length, layers_kept = _scored(study, size)
    trains = estimate.fits(architecture, size.resources, loads)
    scores = estimate.scores(architecture, size.resources, length, layers_kept=layers_kept)
    if trains is None or scores is None:
        return "unknown card"
    return "NO" if not trains else "yes" if scores else "NO (scoring)"


def render_plan(study: Study, *, price: float | None = None) -> Group:
    """Tables for people; `price` of a GPU-hour, in whatever currency."""
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
        f"training precision: {explained(study)}",
        f"targets, in the order trials score them: {', '.join(task.name for task in study.targets)}",
        f"each size: every intermediate choice once at the default learning rates ({len(study.space.names)} trials, never "
        f"stopped early), then Optuna's ({_sampled(study)}), of which ASHA keeps one in {study.reduction_factor} at a rung, "
        f"the first after {study.first_rung} targets",
        _again(study),
        "stages: of the default cells; 'not shared' is what trials would run that shared none",
        *_padding(study),
        *_slow_bf16(study),
        *_benchmark(study, known),
        *notes,
        *(f"open, to be noted before a run: {what}" for what in study.open_ends),
    ]
    tables = [_sizes(study, known), _memory(study, known), _operations(study, known), _costs(study, known, price)]
    return Group(*(Text(line) for line in text), _graph(study), *tables, _choices(study))


def _sampled(study: Study) -> str:
    """How many trials of each size TPE proposes; one number where all have the same."""
    counts = {size.name: study.budget(size) - len(study.space.names) for size in study.sizes}
    if len(set(counts.values())) == 1:
        return str(next(iter(counts.values())))
    return ", ".join(f"{count} of {name}" for name, count in counts.items())


def _again(study: Study) -> str:
    if study.repeats is None:
        return "repeats: none"
    return (
        f"repeats: each size's {study.repeats.top} best by English dev, and its best without an intermediate task, with "
        f"{study.repeats.seeds} further seeds"
    )


def _padding(study: Study) -> list[str]:
    """Which sizes are trained without padding, and why the others are not."""
    sizes: dict[str | None, list[str]] = {}
    for size in study.sizes:
        reason = None
        if not size.resources.unpad:
            reason = why_padded(size.family, "cuda" if size.resources.gpus else "cpu", study.tuning.precision)
            reason = reason or "unpad is off, and has not been run on a GPU yet"
        sizes.setdefault(reason, []).append(size.name)
    return [
        f"training {'computes no padding' if reason is None else 'computes padding'}: {', '.join(names)}"
        + ("" if reason is None else f" ({reason})")
        for reason, names in sizes.items()
    ]


def _slow_bf16(study: Study) -> list[str]:
    """Sizes that are to train in bf16 on cards which compute it without tensor cores."""
    cards: dict[str, list[str]] = {}
    for size in study.sizes:
        kind = size.resources.accelerator_type or ""
        device = estimate.ACCELERATORS.get(kind) if size.resources.gpus else None
        mixed = any(load.training.precision == "bf16_mixed" for load in _loads(study, size))
        if device is not None and device.bf16_tflops is None and mixed:
            cards.setdefault(kind, []).append(size.name)
    return [
        f"bf16 on {kind}: {', '.join(names)}; it has no tensor cores for bf16, so that hours are counted at its fp32 peak, and "
        "fp32 is no slower"
        for kind, names in cards.items()
    ]


def _benchmark(study: Study, known: Mapping[str, Architecture]) -> list[str]:
    """What is timed on what, and which weights a card does not hold."""
    plan, kind = study.benchmark, study.benchmark.accelerator_type
    where = "" if kind is None else f", on {kind}"
    lines = [f"benchmark of each size's best model: {', '.join(plan.variants) or 'none'}{where}"]
    held = {
        (name, variant): estimate.weights_gb(one, variant) for name, one in known.items() for variant in plan.variants
    }
    if kind is None and held:
        name, variant = max(held, key=lambda one: held[one])
        return [f"{lines[0]}; the most weights to serve: {held[name, variant]:.2f} GB, {name} {variant}"]
    lines += [
        f"benchmark of {name} {variant}: NO, {gb:.1f} GB of weights do not fit {kind}"
        for (name, variant), gb in held.items()
        if kind is not None and estimate.serves(known[name], variant, kind) is False
    ]
    return lines


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
            f"{encoder.pretraining.steps} steps" if isinstance(encoder, LadderEncoder) else encoder.repository,
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
        "memory of a worker in GB on its device (with offload and in scoring + in its node's host memory): model states by "
        "DeepSpeed's estimators, corrected to fp32 weights; buffers (and bf16 copies of weights) and activations of the "
        "micro-batch that takes most, pre-training and every row of a feature counted; scoring: the whole encoder in fp32 on "
        "every worker; fits: training and scoring each, with a tenth left free",
        ("size", *names, "buffers", "activations", "checkpointing", "scoring", "chosen", "fits"),
        left=("size", "chosen", "fits"),
    )
    for size in study.sizes:
        if size.name not in known:
            continue
        architecture, resources = known[size.name], size.resources
        cells = []
        for stage, offload in estimate.settings():
            moved = dataclasses.replace(resources, zero_stage=stage, offload=offload)
            memory = estimate.model_states(architecture, moved)
            cells.append(f"{memory.device_gb:.2f}" + ("" if offload == "none" else f" + {memory.host_gb:.1f}"))
        most = max(_loads(study, size), key=lambda load: estimate.training_gb(architecture, resources, load))
        length, layers_kept = _scored(study, size)
        scoring = estimate.scoring(architecture, resources, length, layers_kept=layers_kept)
        table.add_row(
            size.name,
            *cells,
            f"{estimate.buffers_gb(architecture, resources, most):.2f}",
            f"{estimate.activations_gb(architecture, resources, most):.2f}",
            "yes" if resources.activation_checkpointing else "no",
            f"{scoring.device_gb:.2f} + {scoring.host_gb:.1f}",
            f"ZeRO-{resources.zero_stage}"
            + ("" if resources.offload == "none" else f", {resources.offload} offloaded"),
            memory_verdict(study, size, architecture),
        )
    return table


def _operations(study: Study, known: Mapping[str, Architecture]) -> Table:
    table = _table(
        f"training of a stage in PFLOP, and GPU-hours at {estimate.MFU:.0%} of the card's peak in the training's precision "
        "(MFU, assumed); every row of a feature counted (multiple choice, retrieval), at the longest length, and a mixture as "
        "its dearest task alone: an upper bound of the operations",
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
    hours = stage_hours(architecture, stage, size.resources)
    return f"{stage_flops(architecture, stage) / 1e15:.3g}" + ("" if hours is None else f", {hours:.2g} h")


def _choices(study: Study) -> Table:
    table = _table(f"choices: {study.space.points:g} in all", ("what", "values, the default first"), left=("what",))
    table.columns[1].justify = "left"
    table.add_row("intermediate", ", ".join(study.space.names))
    for mixture in (one for one in study.space.intermediates if isinstance(one, Mixture)):
        table.add_row(mixture.name, " + ".join(map(_part, mixture.tasks)))
    table.add_row("lr_intermediate", _rates(study.space.lr_intermediate))
    table.add_row("lr_target", _rates(study.space.lr_target))
    if len(study.space.epochs) > 1:
        table.add_row("epochs, as multiples", ", ".join(f"{many:g}" for many in study.space.epochs))
    if study.space.seeds:
        table.add_row("seeds", ", ".join(map(str, (study.seed, *study.space.seeds))))
    return table


def _rates(rates: Rates) -> str:
    if isinstance(rates, LogUniform):
        return f"{rates.default:g}, then {rates.low:g} to {rates.high:g}, uniform in the logarithm"
    return ", ".join(f"{rate:g}" for rate in rates)


def _graph(study: Study) -> Tree:
    """The stages of every size: what hangs on what, and how many of each the whole grid has."""
    space = study.space
    first = study.sizes[0]
    root = "pretrain" if isinstance(first.encoder, LadderEncoder) else "import"
    tree = Tree(Text(f"stage graph of each size: {root} (its tokenizer and tokenised tables are stages too)"))
    for choice in space.defaults():
        at = tree
        if choice.intermediate != NONE:
            count = "" if isinstance(space.lr_intermediate, LogUniform) else f" x {len(space.lr_intermediate)} rates"
            at = tree.add(f"intermediate-{choice.intermediate}{count}")
        rates = "a rate" if isinstance(space.lr_target, LogUniform) else f"{len(space.lr_target)} rates"
        epochs = f" x {len(space.epochs)} lengths" if len(space.epochs) > 1 else ""
        trained = [task.name for task in study.targets if task.trained]
        scored = [task.name for task in study.targets if not task.trained]
        at.add(f"target and evaluate x {rates}{epochs}: {', '.join(trained)}")
        if scored:
            at.add(f"evaluate: {', '.join(scored)}")
    return tree


def _costs(study: Study, known: Mapping[str, Architecture], price: float | None) -> Table:
    table = _table(
        "training of the whole search, without scoring, in PFLOP, and GPU-hours as above. expected: random scores under ASHA, "
        "mean of simulations; not shared: the same trials, each training its whole chain; at most: nothing stopped, and "
        "nothing shared by the sampled trials; repeats: further seeds"
        + ("" if price is None else f"; price at {price:g} a GPU-hour"),
        (
            *("size", "encoder", "default cells", "expected", "not shared", "ratio"),
            *("at most", "repeats", "expected in all", "price"),
        ),
        left=("size",),
    )
    totals = [0.0, 0.0]
    for size in study.sizes:
        if size.name not in known:
            continue
        cost = search_cost(study, size, partial(stage_flops, known[size.name]))
        hours = _search_hours(study, size, known[size.name])

        def amount(field: str, cost: SearchCost = cost, hours: SearchCost | None = hours) -> str:
            flops = f"{getattr(cost, field) / 1e15:.3g}"
            return flops if hours is None else f"{flops}, {getattr(hours, field):.3g} h"

        if hours is not None:
            totals = [totals[0] + hours.expected_total, totals[1] + hours.at_most_total]
        table.add_row(
            size.name,
            *map(amount, ("root", "defaults", "expected", "not_shared")),
            f"{cost.not_shared / cost.expected:.1f}" if cost.expected else "-",
            *map(amount, ("at_most", "repeats", "expected_total")),
            "-" if price is None or hours is None else f"{price * hours.expected_total:,.0f}",
        )
    if any(totals):
        priced = "" if price is None else f"; price {price * totals[0]:,.0f} expected, {price * totals[1]:,.0f} at most"
        table.caption = f"in all {totals[0]:,.0f} GPU-hours expected, {totals[1]:,.0f} at most{priced}"
    return table


def _search_hours(study: Study, size: Size, architecture: Architecture) -> SearchCost | None:
    """As `search_cost`, in GPU-hours; None without a known device."""
    if estimate.gpu_hours(0.0, size.resources, "fp32") is None:
        return None
    return search_cost(study, size, lambda stage: stage_hours(architecture, stage, size.resources) or 0.0)


def _stages(study: Study, size: Size) -> list[Stage]:
    """All stages of a size's default cells, each once."""
    chains = (study.chain(size, choice) for choice in study.space.defaults())
    found = {fingerprint(stage): stage for chain in chains for evaluate in chain for stage in stages_of(evaluate)}
    return list(found.values())


def _loads(study: Study, size: Size) -> list[Load]:
    """Every kind of batch that the size trains on; rates and lengths of training, which trials choose, change none."""
    return list(
        {load: None for stages in training_stages(study, size).values() for one in stages for load in loads_of(one)}
    )


def _scored(study: Study, size: Size) -> tuple[int, bool]:
    """The longest rows that the size is scored on, and whether some are read from a layer in the middle."""
    scored = [stage for stage in _stages(study, size) if isinstance(stage, Evaluate)]
    return max(stage.max_length for stage in scored), any(stage.task.hidden_layer is not None for stage in scored)


def _part(task: Task) -> str:
    """A task of a mixture, with its languages where they are not English alone."""
    return task.name if task.languages == ("en",) else f"{task.name} ({', '.join(task.languages)})"


def _table(title: str, columns: tuple[str, ...], *, left: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
