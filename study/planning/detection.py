"""How many seeds and test examples it takes to tell a gain of so many points; part of the plan."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from analysis.store.frames import StudyFrames
from analysis.tables.formatting import counted
from analysis.tables.gains import spreads
from analysis.tables.inference import MOST_SEEDS, detectable, examples_factor, seeds_needed
from study.planning.fitted import Fitted
from study.spec import Study
from study.spec.data_check import contamination_flags, seen_flags_of_arms


class NoSpread(ValueError):
    """An earlier run from which no spread over seeds can be taken."""


@dataclass(frozen=True)
class Spread:
    """What makes the gains on a target uncertain, as a row of `analysis.tables.gains.spreads`; 0 examples: not recorded."""

    target: str
    sd: float
    se_examples: float = 0.0
    examples: int = 0


@dataclass(frozen=True)
class Spreads:
    """Spreads by target and, for the reader, where they were measured."""

    source: str
    targets: tuple[Spread, ...]


# Root mean squares over five cells of six seeds, from the intervals of the file; a test compares. It has no test examples.
DEFAULT_SPREADS = Spreads(
    "MicroXTREME's, of the quickstart's sizes with six seeds (docs/measured/first_run_seeds.json). Other data and encoders "
    "have other spreads: --from takes an earlier run's",
    (
        Spread("micro_tagging", 1.44),
        Spread("micro_mention", 0.99),
        Spread("micro_follows", 2.51),
        Spread("micro_span", 3.82),
        Spread("micro_bitext", 0.85),
    ),
)


def spreads_of(frames: StudyFrames, source: str) -> Spreads:
    """The spreads of an earlier run, which the reader knows by this name.

    Raises:
        NoSpread: no gain of it has two seeds.
    """
    rows = spreads(frames).to_dict("records")
    if not rows:
        raise NoSpread(
            f"--from {source}: no gain has two seeds, so the spread is unknown; run it with --repeats 2 or more"
        )
    seeds = max(row["seeds"] for row in rows)
    targets = tuple(
        Spread(
            row["task"],
            row["sd"],
            *((row["se_examples"], round(row["examples"])) if row["se_examples"] > 0 and row["examples"] > 0 else ()),
        )
        for row in rows
    )
    return Spreads(
        f"that of {source}, {counted(sum(row['gains'] for row in rows), 'gain')} of up to {seeds} seeds", targets
    )


@dataclass(frozen=True)
class Comparisons:
    """The gains of a study's table: how many, in blocks of how many intermediate tasks, of how many paired seeds each.

    `every`: every choice has these seeds, not the winners of each size alone.
    """

    cells: int
    treatments: int
    seeds: int
    every: bool


def comparisons_of(study: Study) -> Comparisons:
    """What the study would compare. `treatments` is that of most cells; cells with a contamination flag are not tested."""
    flagged = contamination_flags(study)
    cells_by_count: Counter[int] = Counter()
    for size in study.sizes:
        names = [task.name for task in study.space_of(size).intermediates]
        seen = seen_flags_of_arms(study, size)
        untested = {name: {*flagged.get(name, ()), *seen.get(name, ())} for name in names}
        cells_by_count[len(names)] += sum(len(study.targets) - len(targets) for targets in untested.values())
    treatments, _ = cells_by_count.most_common(1)[0]
    seeds, every = _paired_seeds(study)
    return Comparisons(cells_by_count.total(), max(treatments, 1), seeds, every)


def _paired_seeds(study: Study) -> tuple[int, bool]:
    """Seeds of a gain, and whether every choice has them; else they are the winners', without the one of the choice."""
    if study.repeats is None:
        return 1, True
    every = all(study.repeats.top >= study.budget(size) for size in study.sizes if study.space_of(size).intermediates)
    further = study.repeats.seeds
    return (further if further > 1 and not every else further + 1), every


def render_detection(study: Study, points: float, of: Spreads) -> Group:
    """What it takes to tell a gain of so many points, and what the study's own seeds and test sets tell."""
    compared = comparisons_of(study)
    if not compared.cells:
        return Group(Text("the study has no intermediate task, so there is no gain to tell"))
    shown, note = _shown(study, of.targets)
    lines = [
        f"to tell a gain of {points:g} points from zero with 80% power (two-sided test at 5%)",
        f"spread: {of.source}",
        *([note] if note else []),
        f"one: a single comparison, tested alone. All: each of the study's {compared.cells} gains after correction, with the "
        f"error of {compared.treatments} intermediate task{'' if compared.treatments == 1 else 's'} a size pooled "
        f"(Bonferroni's 5% / {compared.cells}; Holm's correction asks for no more)",
    ]
    parts: list[RenderableType] = [*map(Text, lines), Fitted(_seeds_table(shown, points, compared))]
    if recorded := [spread for spread in shown if spread.examples]:
        parts.append(Fitted(_examples_table(recorded, points, compared)))
    else:
        parts.append(Text("test examples: not recorded there, so not counted; they add to what is needed"))
    return Group(*parts, *map(Text, _planned(shown, compared)))


def _shown(study: Study, known: Sequence[Spread]) -> tuple[Sequence[Spread], str]:
    """The spreads of the study's own targets and a remark on the rest; all spreads if they are of other targets."""
    names = [task.name for task in study.targets]
    own = [spread for spread in known if spread.target in names]
    if not own:
        return known, "none of the study's targets is among these: take the rows of targets like yours"
    unknown = [name for name in names if name not in {spread.target for spread in own}]
    return own, f"no spread is known of {', '.join(unknown)}" if unknown else ""


def _least(spread: Spread, compared: Comparisons, *, corrected: bool) -> float:
    """The smallest gain that the study's seeds, two or more, tell; 0 where nothing varies."""
    if not spread.sd and not spread.se_examples:
        return 0.0
    return detectable(
        spread.sd**2,
        seeds=compared.seeds,
        example_variance=spread.se_examples**2,
        treatments=compared.treatments if corrected else 1,
        comparisons=compared.cells if corrected else 1,
    )


def _seeds_table(shown: Sequence[Spread], points: float, compared: Comparisons) -> Table:
    columns = ["target", "sd", "seeds, one", "seeds, all"]
    tested = compared.seeds > 1
    columns += [f"with {compared.seeds}, {which}" for which in ("one", "all")] if tested else []
    table = _table("seeds needed, and the gain that the study's own tell", columns)
    for spread in shown:
        cells = [f"{spread.sd:.2f}", *(_seeds(spread, points, compared, corrected=each) for each in (False, True))]
        cells += [f"{_least(spread, compared, corrected=each):.1f}" for each in (False, True)] if tested else []
        table.add_row(spread.target, *cells)
    if any("never" in column.cells for column in table.columns):
        table.caption = "never: too few test examples, whatever the seeds"
    return table


def _seeds(spread: Spread, points: float, compared: Comparisons, *, corrected: bool) -> str:
    comparisons, treatments = (compared.cells, compared.treatments) if corrected else (1, 1)
    of_examples = spread.se_examples**2
    needed = seeds_needed(
        points,
        seed_variance=spread.sd**2,
        example_variance=of_examples,
        treatments=treatments,
        comparisons=comparisons,
    )
    if needed is not None:
        return f"{needed:,}"
    hidden = examples_factor(points, example_variance=of_examples, comparisons=comparisons) >= 1
    return "never" if hidden else f"over {MOST_SEEDS:,}"


def _examples_table(shown: Sequence[Spread], points: float, compared: Comparisons) -> Table:
    table = _table("test examples of each language", ["target", "tested", "at least, one", "at least, all"])
    table.caption = "at least: with seeds without limit; with fewer, more"
    for spread in shown:
        needed = (
            math.ceil(
                spread.examples
                * examples_factor(points, example_variance=spread.se_examples**2, comparisons=comparisons)
            )
            for comparisons in (1, compared.cells)
        )
        table.add_row(spread.target, f"{spread.examples:,}", *(f"{count:,}" for count in needed))
    return table


def _planned(shown: Sequence[Spread], compared: Comparisons) -> list[str]:
    """What the study's own seeds tell, in a sentence."""
    if compared.seeds < 2:
        return [
            "the study has one seed of each gain, so nothing is tested; --repeats, or runs joined by `report --join`, add seeds"
        ]
    texts = []
    for corrected, which in ((False, "in one comparison"), (True, f"after correction for all {compared.cells}")):
        least = sorted((_least(spread, compared, corrected=corrected), spread.target) for spread in shown)
        (low, easy), (high, hard) = least[0], least[-1]
        texts.append(
            f"{low:.1f} ({easy})" + (f" to {high:.1f} points ({hard})" if len(least) > 1 else " points") + f" {which}"
        )
    told = [f"with {compared.seeds} seeds a gain of {texts[0]}, and of {texts[1]}, would be told"]
    if not compared.every:
        told.append("only the winners of each size are repeated: the other gains have one seed and are not tested")
    return told


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table
