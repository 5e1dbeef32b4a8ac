"""What charts share: colours, shapes, names of quantities, selectors.

Colours: Okabe and Ito's palette for categories (https://jfly.uni-koeln.de/color/), always doubled by shape; blue to
orange for signed values. Text and axis colours are left to the page, which follows the reader's light or dark setting.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import pandas as pd

from analysis.store.frames import MEAN_WITHOUT_ENGLISH

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8c8c8c")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "stroke")
GREY = "#8c8c8c"
ROW_PX = 30
LANGUAGE_ROW_PX = 16

METRIC_NAMES = {
    "p50_ms": "p50 latency (ms)",
    "p90_ms": "p90 latency (ms)",
    "p99_ms": "p99 latency (ms)",
    "server_p99_ms": "p99 latency under load (ms)",
    "server_qps": "load within the latency bound (queries/s)",
    "server_bound_ms": "latency bound (ms)",
    "throughput_sps": "throughput (samples/s)",
    "peak_memory_mb": "peak memory (MB)",
    "rss_mb": "host memory (MB)",
    "energy_j_per_sample": "energy (J/sample)",
    "idle_power_w": "idle power (W)",
    "cold_start_ms": "cold start (ms)",
    "tokenise_p50_ms": "tokenising, p50 (ms)",
    "end_to_end_p50_ms": "p50 latency with tokenising (ms)",
    "mean_pieces": "pieces of a query, mean",
    "batch_size": "batch size",
    "repeats": "repeats",
    "samples": "queries timed",
    "queries": "different queries",
    "test_score": "test score, all languages (%)",
    "test_score_without_english": "test score without English (%)",
    "params_m": "parameters (M)",
    "params_body_m": "body parameters (M)",
}
METRIC_DIGITS = dict.fromkeys(METRIC_NAMES, 2) | {
    "energy_j_per_sample": 4,
    "peak_memory_mb": 0,
    "rss_mb": 0,
    "throughput_sps": 1,
    "test_score": 1,
    "test_score_without_english": 1,
    "batch_size": 0,
    "repeats": 0,
    "samples": 0,
    "queries": 0,
}


# Names of the page's selectors; a chart that has a parameter of that name follows the selector.
SIZE, LANGUAGE, TARGET = "chosen_size", "chosen_language", "chosen_target"


def score_name(judged_by: str) -> str:
    """What a mean over targets and languages may be called: zero-shot without English alone."""
    return "mean zero-shot test score" if judged_by == MEAN_WITHOUT_ENGLISH else "mean test score"


def quantity(value: float, digits: int = 1) -> str:
    """A number as text, or "unavailable" for NaN."""
    return "unavailable" if pd.isna(value) else f"{value:,.{digits}f}"


def signed(value: Any, digits: int = 1) -> str:
    """A difference as text with its sign, and a real minus; "" for NaN."""
    if pd.isna(value):
        return ""
    rounded = round(float(value), digits) or 0.0  # no negative zero
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def interval(low: Any, high: Any, digits: int = 1) -> str:
    """ "[-1.0, +2.0]", or "" where unknown."""
    return "" if pd.isna(low) or pd.isna(high) else f"[{signed(low, digits)}, {signed(high, digits)}]"


def tooltips(titles: Mapping[str, str]) -> list[alt.Tooltip]:
    """Tooltips of fields that are text already, by title."""
    return [alt.Tooltip(field=name, type="nominal", title=title) for name, title in titles.items()]


def cycled(values: Sequence[str], names: Sequence[str]) -> alt.Scale:
    """A scale that gives each name a value, from the start again where there are more names."""
    return alt.Scale(domain=list(names), range=[values[number % len(values)] for number in range(len(names))])


def data(rows: Iterable[Mapping[Any, Any]]) -> alt.InlineData:
    """Rows for Vega, which knows null and no NaN."""
    return alt.InlineData([{str(name): _plain(value) for name, value in row.items()} for row in rows])


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is pd.NA:
        return None
    return value.item() if hasattr(value, "item") else value


def selector(name: str, value: str) -> alt.Parameter:
    """A parameter that the page's selector of that name sets; `value` until then."""
    return alt.param(name=name, value=value)


def padded(values: Sequence[float], *, floor: float, ceiling: float) -> list[float]:
    """A domain with room around the values, within bounds."""
    known = [value for value in values if not pd.isna(value)]
    margin = max(1.0, 0.12 * (max(known) - min(known)))
    return [max(floor, min(known) - margin), min(ceiling, max(known) + margin)]
