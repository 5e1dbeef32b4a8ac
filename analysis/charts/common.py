"""Shared by all charts: colours, shapes, scales, tooltips, selectors.

Categories use Okabe and Ito's palette (https://jfly.uni-koeln.de/color/), always together with a shape; signed values run from
blue to orange. Text and axis colours are left to the page, which follows the reader's light or dark setting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c8c8c")
SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
)  # one fewer: pairs repeat after 42 names
GREY = "#8c8c8c"
ROW_PX = 30
LANGUAGE_ROW_PX = 16
AXIS_PX = 80  # to the left of a chart with numbers; longer labels leave less room for a legend

# Ids of the page's selectors; a chart with a parameter of that name follows the selector.
SIZE, LANGUAGE, TARGET = "chosen_size", "chosen_language", "chosen_target"
# Parameters that the page's budget sets: the key of a configuration, the hardware that it is for, and, followed by its name, a
# limit on a cost (0: none).
PICKED, ON_HARDWARE, LIMIT = "picked", "on_hardware", "limit_"


def tooltips(titles: Mapping[str, str]) -> list[alt.Tooltip]:
    """Tooltips of preformatted fields; `titles` maps field to title."""
    return [alt.Tooltip(field=name, type="nominal", title=title) for name, title in titles.items()]


def cycled(values: Sequence[str], names: Sequence[str]) -> alt.Scale:
    """A scale that assigns the values to the names in turn, starting over if there are more names."""
    return alt.Scale(domain=list(names), range=[values[number % len(values)] for number in range(len(names))])


def data(rows: Iterable[Mapping[Any, Any]]) -> alt.InlineData:
    """Rows as Vega data: NaN becomes null."""
    return alt.InlineData([{str(name): _plain(value) for name, value in row.items()} for row in rows])


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is pd.NA:
        return None
    return value.item() if hasattr(value, "item") else value


def legend(names: Sequence[str] = (), **options: Any) -> alt.Legend:
    """A legend above the chart, its symbols opaque even where the marks are not; as many of the names per row as fit.

    The room is that of the container, which stays the same while Vega fits the axes: another number of rows at the end of that
    would be cut off.
    """
    if names:
        entry_px = 7 * max(map(len, names)) + 32
        options["columns"] = {"expr": f"max(1, floor(((containerSize()[0] || width) - {AXIS_PX}) / {entry_px}))"}
    return alt.Legend(orient="top", symbolOpacity=1, labelLimit=0, **options)


def size_legend(sizes: Sequence[str]) -> alt.Legend | None:
    """A legend of sizes; none for one size, which the page names."""
    return legend(sizes) if len(sizes) > 1 else None


def selector(name: str, value: str | float) -> alt.Parameter:
    """A parameter that the page sets; it starts as `value`."""
    return alt.param(name=name, value=value)


def padded(values: Sequence[float], *, floor: float, ceiling: float) -> list[float]:
    """An axis domain with a margin around the values, within bounds."""
    known = [value for value in values if not pd.isna(value)]
    margin = max(1.0, 0.12 * (max(known) - min(known)))
    return [max(floor, min(known) - margin), min(ceiling, max(known) + margin)]
