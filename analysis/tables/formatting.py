"""Numbers of the tables as text, for charts, tables and sentences alike."""

from __future__ import annotations

from typing import Any

import pandas as pd


def quantity(value: float, digits: int = 1) -> str:
    """A number as text, or "unavailable" for NaN."""
    return "unavailable" if pd.isna(value) else f"{value:,.{digits}f}"


def signed(value: Any, digits: int = 1) -> str:
    """A difference as text with its sign (a real minus, no negative zero); "" for NaN."""
    if pd.isna(value):
        return ""
    rounded = round(float(value), digits)
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def interval(low: Any, high: Any, digits: int = 1) -> str:
    """ "[−1.0, +2.0]", or "" where unknown."""
    return "" if pd.isna(low) or pd.isna(high) else f"[{signed(low, digits)}, {signed(high, digits)}]"


def p_value(p: Any) -> str:
    """A p-value with three decimals, or "<0.001"; "" for NaN."""
    if pd.isna(p):
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def p_in_words(p: Any) -> str:
    """A p-value for a sentence: "p = 0.012" or "p < 0.001"."""
    return f"p {text[0]} {text[1:]}" if (text := p_value(p)).startswith("<") else f"p = {text}"


def counted(count: int, noun: str) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
