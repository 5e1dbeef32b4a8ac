"""What changed between two studies, in words: as text of 80 columns, as Markdown, as an HTML page, and as JSON.

The first line is the answer. Everything is said from A to B: a difference is B minus A.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.report.page import Number, Page, document, items, paragraph, section
from analysis.store.frames import AGGREGATE_NAMES, StudyFrames
from analysis.store.names import METRIC_DIGITS, METRIC_NAMES
from analysis.tables.comparison import Changes
from analysis.tables.comparison.scores import (
    EXAMPLES,
    HIGHER,
    LOWER,
    PAIRED,
    SAME,
    SEEDS,
    SEEDS_AND_EXAMPLES,
    TOLD,
    UNCLEAR,
    UNTESTED,
)
from analysis.tables.comparison.speeds import BETTER, FEWEST_REPEATS, WORSE
from analysis.tables.formatting import counted, interval, quantity, signed
from analysis.tables.languages import language_name

WIDTH = 80
MOST_NAMED = 8  # names in a line of text; the rest are counted
_SIDES = {"this": "A", "other": "B"}


@dataclass(frozen=True)
class Block:
    """One part of the change log: sentences, lines of a list, and a table whose first column names its rows."""

    title: str
    sentences: Sequence[str] = ()
    lines: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    data: pd.DataFrame | None = None  # the whole table, for the page's files


def headline(changes: Changes) -> str:
    """The answer in one line."""
    if changes.identical:
        return "identical: same scores and settings"
    known = {name: table for name, table in changes.families.items() if len(table)}
    if not known:
        return "nothing to compare: no score of one study has a counterpart in the other"
    told = [_told(name, table) for name, table in known.items() if table["verdict"].isin(TOLD).any()]
    if told:
        return "; ".join(told)
    name, table = next(iter(known.items()))
    if (table["verdict"] == SAME).all():
        return f"nothing changed: {counted(len(table), name)} with the same scores; what else differs is below"
    untested = int((table["verdict"] == UNTESTED).sum())
    note = f", {untested} of them not tested" if untested else ""
    return f"nothing can be told apart: {counted(len(table), name)}{note}"


def blocks(changes: Changes) -> list[Block]:
    """The parts of the change log, those without content left out."""
    found = [_family(name, table) for name, table in changes.families.items()]
    found += [_speeds(changes.speeds), _only(changes.only), _incomparable(changes.incomparable)]
    found.append(_settings(changes.settings))
    return [block for block in found if block.sentences or block.lines or block.rows]


def as_text(changes: Changes, *, names: tuple[str, str]) -> str:
    """Text of at most 80 columns; only longer words are wider."""
    parts = [
        _wrapped(headline(changes)),
        *(_wrapped(f"{side}: {name}", "   ") for side, name in zip("AB", names, strict=True)),
    ]
    for block in blocks(changes):
        parts += ["", block.title, "-" * len(block.title)]
        parts += [_wrapped(sentence) for sentence in block.sentences]
        parts += [_wrapped(f"- {line}", "  ") for line in block.lines]
        parts += _text_table(block)
    return "\n".join(parts) + "\n"


def as_markdown(changes: Changes, *, names: tuple[str, str]) -> str:
    """Markdown, as for the text of an issue or a commit."""
    parts = [
        f"**{_escaped(headline(changes))}**",
        "",
        *(f"- {side}: `{name}`" for side, name in zip("AB", names, strict=True)),
    ]
    for block in blocks(changes):
        parts += ["", f"## {block.title}", ""]
        parts += [_escaped(" ".join(block.sentences))] if block.sentences else []
        parts += [""] if block.sentences and (block.lines or block.rows) else []
        parts += [f"- {_escaped(line)}" for line in block.lines]
        if block.rows:
            parts.append(f"| {' | '.join(block.columns)} |")
            parts.append(f"|---|{'---:|' * (len(block.columns) - 1)}")
            parts += [f"| {' | '.join(map(_escaped, row))} |" for row in block.rows]
    return "\n".join(parts) + "\n"


def as_html(changes: Changes, *, names: tuple[str, str]) -> str:
    """A page in the style of the report, with every table in full as a file in it."""
    page, parts = Page(), list[str]()
    for number, block in enumerate(blocks(changes), 1):
        content = [paragraph(sentence) for sentence in block.sentences]
        content += [items(block.lines)] if block.lines else []
        if block.rows:
            rows = [(row[0], *map(Number, row[1:])) for row in block.rows]
            content.append(
                page.table(
                    f"changes_{number}", block.columns, rows, caption=block.title, data=block.data, fold=block.title
                )
            )
        parts.append(section(block.title, *content))
    title = "What changed from A to B"
    answer = f'<h1>{title}</h1><div class="answer">{paragraph(headline(changes))}</div>'
    header = f"<header>{answer}{items(f'{side}: {name}' for side, name in zip('AB', names, strict=True))}</header>"
    return document(title, body=header + "".join(parts), scripts="")


def as_json(changes: Changes, *, names: tuple[str, str]) -> dict[str, Any]:
    """Everything as one JSON document; what is unknown is null."""
    tables = {
        "scores": changes.scores,
        "scores_by_language": changes.by_language,
        "served": changes.served,
        "speeds": changes.speeds,
        "only": changes.only.assign(where=changes.only["where"].map(_SIDES)),
        "not_comparable": changes.incomparable,
        "settings": changes.settings,
    }
    return {
        "answer": headline(changes),
        "a": names[0],
        "b": names[1],
        "identical": changes.identical,
        "better": changes.told(HIGHER),
        "worse": changes.told(LOWER),
        **{name: json.loads(table.to_json(orient="records")) for name, table in tables.items()},
    }


def study_name(source: str, frames: StudyFrames) -> str:
    """How a study is named in a change log: where it is, its name, its seed and the number of its runs."""
    seed = frames.context.get("seed")
    known = f", seed {seed}" if seed is not None else ""
    return f"{source} ({frames.context['experiment']}{known}, {counted(len(frames.trials), 'trial')})"


def _told(name: str, table: pd.DataFrame) -> str:
    """ "3 of 24 cells changed: 2 worse, 1 better"."""
    worse, better = (int((table["verdict"] == verdict).sum()) for verdict in (LOWER, HIGHER))
    parts = [f"{count} {word}" for count, word in ((worse, "worse"), (better, "better")) if count]
    plural = name.replace("cell", "cells", 1) if name.startswith("cell") else f"{name}s"
    return f"{worse + better} of {len(table)} {plural} changed: {', '.join(parts)}"


_TITLES = {
    "cell": "Cells",
    "cell by language": "Cells by language",
    "served model": "Models as they are served",
}


def _family(name: str, table: pd.DataFrame) -> Block:
    """The rows of a table of scores that are told apart, and how sure it is that others did not change."""
    if table.empty:
        return Block(_TITLES[name])
    told = table[table["verdict"].isin(TOLD)]
    told = told.loc[told["difference"].abs().sort_values(ascending=False, kind="stable").index]
    rows = [
        (
            _row_name(row),
            f"{row['score']:.1f}",
            f"{row['score_other']:.1f}",
            signed(row["difference"]),
            interval(row["low"], row["high"]),
            _seeds(row),
        )
        for row in told.to_dict("records")
    ]
    columns = ("", "A", "B", "B − A", "95% interval", "seeds")
    return Block(_TITLES[name], list(_sentences(table)), columns=columns, rows=rows, data=table)


def _sentences(table: pd.DataFrame) -> Iterable[str]:
    counts = table["verdict"].value_counts().to_dict()
    by = sorted({AGGREGATE_NAMES[name] for name in table["judged_by"] if name in AGGREGATE_NAMES})
    scope = f" Mean over {' or '.join(by)}." if by else ""
    parts = [
        f"{counts[verdict]} {words}"
        for verdict, words in (
            (LOWER, "worse"),
            (HIGHER, "better"),
            (UNCLEAR, "not told apart"),
            (SAME, "the same"),
            (UNTESTED, "not tested"),
        )
        if verdict in counts
    ]
    if counts.get(SAME) == len(table):
        yield f"All {len(table)} have the same scores."
        return
    corrected = " Verdicts are corrected for all of them (Holm, 5%)." if table["p_holm"].notna().any() else ""
    yield f"Of {len(table)}: {', '.join(parts)}.{corrected}{scope}"
    unclear = table[table["verdict"] == UNCLEAR]
    half = ((unclear["high"] - unclear["low"]) / 2).dropna()
    if len(half):
        yield (
            f"Of those not told apart, half have an interval within ±{half.median():.1f} points, all within "
            f"±{half.max():.1f}: smaller changes would not be seen."
        )
    yield from _unpaired(table[table["pairing"] != PAIRED])
    if count := int((table["basis"] == SEEDS).sum()):
        yield f"{count} lack scores by example: their intervals cover seeds alone."
    if count := int(((table["basis"] == EXAMPLES) & (table["verdict"] != SAME)).sum()):
        yield (
            f"{count} have one seed in A or B: what is told is that these trained models differ on these examples, not that "
            "their training does."
        )


def _unpaired(table: pd.DataFrame) -> Iterator[str]:
    """What the intervals of rows without pairs cover."""
    of_seeds = table["basis"].isin((SEEDS, SEEDS_AND_EXAMPLES))
    for rows, words in (
        (table[of_seeds], "so their intervals are wider than those of pairs"),
        (table[table["basis"] == EXAMPLES], "and their intervals have no seed variance: A or B has one seed"),
        (table[table["basis"] == ""], "and have no interval: A or B has one seed, and scores by example are missing"),
    ):
        if len(rows):
            yield f"{len(rows)} are {'; '.join(sorted(set(rows['pairing'])))}, {words}."


def _row_name(row: dict[Any, Any]) -> str:
    names = [row["size"], row["variant"], row["intermediate"], row["task"]]
    if row["judged_by"] not in AGGREGATE_NAMES:
        names.append(language_name(row["judged_by"]))
    return " · ".join(name for name in names if name)


def _seeds(row: dict[Any, Any]) -> str:
    return str(row["n"]) if row["n"] == row["n_other"] else f"{row['n']} and {row['n_other']}"


def _speeds(speeds: pd.DataFrame) -> Block:
    if speeds.empty:
        return Block("Speeds")
    compared = speeds[speeds["why_not"] == ""]
    sentences = []
    for reason, count in speeds.loc[speeds["why_not"] != "", "why_not"].value_counts(sort=False).items():
        sentences.append(f"{count} not compared: {reason}.")
    if few := int((compared["verdict"] == "").sum()):
        sentences.append(f"{few} not judged: fewer than {FEWEST_REPEATS} repeats, or no spread recorded.")
    changed = compared[compared["verdict"].isin((BETTER, WORSE))]
    if judged := int((compared["verdict"] != "").sum()):
        sentences.append(
            f"Of {judged}, the repeats of {len(changed)} do not overlap. That is not corrected for their number, and repeats "
            "of one run do not show what changes from day to day."
        )
    rows = [
        (
            f"{row['size']} · {row['variant']} · {METRIC_NAMES[row['metric']]}",
            quantity(row["value"], METRIC_DIGITS[row["metric"]]),
            quantity(row["value_other"], METRIC_DIGITS[row["metric"]]),
            f"{row['ratio']:.2f}",
            row["verdict"],
        )
        for row in changed.to_dict("records")
    ]
    return Block("Speeds", sentences, columns=("", "A", "B", "B / A", ""), rows=rows, data=speeds)


def _only(only: pd.DataFrame) -> Block:
    lines = [
        f"{_SIDES[row['where']]} alone has the {row['kind']}{'' if len(row['names']) == 1 else 's'} {_few(row['names'])}"
        for row in only.to_dict("records")
    ]
    return Block("In one only", lines=lines)


def _incomparable(incomparable: pd.DataFrame) -> Block:
    lines = [f"{row['what']}: {row['reason']}" for row in incomparable.to_dict("records")]
    more = len(lines) - MOST_NAMED
    return Block("Not comparable", lines=[*lines[:MOST_NAMED], *([f"and {more} more"] if more > 0 else [])])


def _settings(settings: pd.DataFrame) -> Block:
    lines = [f"{row['setting']}: A {row['this']}; B {row['other']}" for row in settings.to_dict("records")]
    return Block("Settings and versions that differ", lines=lines)


def _few(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _text_table(block: Block) -> list[str]:
    """Rows in columns; a name that does not fit stands on a line of its own above its numbers."""
    if not block.rows:
        return []
    cells = [tuple(block.columns[1:]), *(tuple(row[1:]) for row in block.rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    room = WIDTH - sum(widths) - 2 * len(widths)
    lines = []
    for name, values in zip(["", *(row[0] for row in block.rows)], cells, strict=True):
        numbers = "".join(f"  {value:>{width}}" for value, width in zip(values, widths, strict=True))
        lines += [f"{name:<{room}}{numbers}"] if len(name) <= room else [_wrapped(name), " " * room + numbers]
    return [line.rstrip() for line in lines]


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{letter}" if letter in "\\`*_|<>[]#" else letter for letter in text)
