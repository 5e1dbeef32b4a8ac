"""The HTML building blocks of the report. The page loads nothing from outside."""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pandas as pd
import vl_convert as vlc

from analysis.report.style import POLICY, script, style
from analysis.tables.formatting import p_value

MOST_ROWS = 8  # of a table that is not folded
LONG_NAME = 28  # characters of a row's name that may be broken into lines
MOST_LATEX_ROWS = 100  # of a table that the page offers as LaTeX; the exported files have all of them
MOST_PLAIN = 150_000  # characters of a chart's specification that is not packed
_CODE = re.compile("`([^`]+)`")


def escape(value: object) -> str:
    """Escape text for an element or a quoted attribute."""
    return html.escape(str(value), quote=True)


class Number(str):
    """A formatted number; its column is set flush right."""


class Absent(str):
    """The reason why there is no value; set apart from values."""


@dataclass
class Page:
    """Collects the charts and tables of the page; specifications and libraries are written once, at its end."""

    charts: dict[str, dict[str, Any]] = field(default_factory=dict)  # Vega-Lite specifications by name
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)  # data for export by name

    def chart(
        self, name: str, chart: Any, *, caption: str, label: str, least_px: int = 0, caption_below: bool = False
    ) -> str:
        """A figure that the script draws `chart` into; `label` is the text for screen readers.

        Narrower than `least_px`, the chart scrolls sideways.
        """
        spec = chart.to_dict(
            validate=False
        )  # validation doubles the time of the report, and the tests draw every chart
        spec.pop("$schema", None)
        self.charts[name] = spec
        box = (
            f'<div class="chart" role="img" aria-label="{escape(label)}" data-name="{escape(name)}" '
            f'data-spec="spec-{len(self.charts)}"></div>'
        )
        if least_px:
            box = (
                f'<div class="wide" tabindex="0" role="region" aria-label="{escape(caption)}">'
                f'<div style="min-width:{least_px}px">{box}</div></div>'
            )
        save = "".join(
            f'<button data-form="{form}" aria-label="Save {escape(name)} as {form.upper()}">{form.upper()}</button>'
            for form in ("svg", "png")
        )
        text = f'<figcaption><span>{escape(caption)}</span><span class="save">{save}</span></figcaption>'
        return f"<figure>{box}{text}</figure>" if caption_below else f"<figure>{text}{box}</figure>"

    def table(
        self,
        name: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        caption: str,
        data: pd.DataFrame | None = None,
        fold: str = "",
    ) -> str:
        """A table in a scrolling container; the first cell of a row is its header.

        `data` is what is exported (default: the cells). With more than `MOST_ROWS` rows it is folded under the summary `fold`.
        A cell may be text, a `Number` or an `Absent`; a reason takes the place of the empty `Absent` cells after it.
        """
        rows = [list(row) for row in rows]
        shown = pd.DataFrame([[str(value) for value in row] for row in rows], columns=list(columns))
        self.tables[name] = shown if data is None else data
        numeric = [any(isinstance(row[column], Number) for row in rows) for column in range(len(columns))]
        head = "".join(
            f'<th scope="col"{_class("number") if is_number else ""}>{escape(title)}</th>'
            for title, is_number in zip(columns, numeric, strict=True)
        )
        body = "".join(
            f'<tr><th scope="row"{_class("long") if len(str(row[0])) > LONG_NAME else ""}>{escape(row[0])}</th>'
            f"{_cells(row[1:])}</tr>"
            for row in rows
        )
        files = [("CSV", "csv", "csv", as_csv(self.tables[name]))]
        if len(self.tables[name]) <= MOST_LATEX_ROWS:
            files.append(("LaTeX", "tex", "x-tex", as_latex(self.tables[name], caption)))
        links = " ".join(
            f'<a download="{escape(name)}.{ending}" href="data:text/{kind};base64,{_encoded(text)}">{title}</a>'
            for title, ending, kind, text in files
        )
        table = (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
            f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
            f'<div class="save">{links}</div>'
        )
        return folded(fold, table) if fold and len(rows) > MOST_ROWS else table

    def scripts(self) -> str:
        """Specifications, libraries and the drawing script; empty without charts."""
        if not self.charts:
            return ""
        return "\n".join(
            [
                *(_specification(number, spec) for number, spec in enumerate(self.charts.values(), 1)),
                f'<script type="text/plain" id="libraries">{_libraries()}</script>',
                f'<script type="module">{script()}</script>',
            ]
        )


@lru_cache(maxsize=1)
def _libraries() -> str:
    """Vega, Vega-Lite and vega-embed from vl-convert, packed for `draw.js` to unpack; cached: it takes a second."""
    return _packed(vlc.javascript_bundle("window.vegaEmbed = vegaEmbed;"))


def _specification(number: int, spec: dict[str, Any]) -> str:
    """The element with a chart's specification: as JSON, a large one packed."""
    text = inline_json(spec)
    if len(text) <= MOST_PLAIN:
        return f'<script type="application/json" id="spec-{number}">{text}</script>'
    return f'<script type="text/plain" id="spec-{number}" data-packed>{_packed(text)}</script>'


def _packed(text: str) -> str:
    """Text for `draw.js` to unpack."""
    return base64.b64encode(gzip.compress(text.encode("utf-8"), mtime=0)).decode("ascii")


def inline_json(value: Any) -> str:
    """JSON that cannot close or reopen the script element around it."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def as_csv(table: pd.DataFrame) -> str:
    """CSV with full precision; unknown values are empty."""
    return table.to_csv(index=False)


def as_latex(table: pd.DataFrame, caption: str) -> str:
    """A tabular with booktabs rules and two decimals; unknown values are "--"."""
    text: str = table.to_latex(
        index=False, escape=True, float_format="%.2f", na_rep="--", caption=caption.replace("%", r"\%")
    )
    return text


def selectors(controls: Mapping[str, tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """A bar of selectors by id: label and options (value, text), the first selected. A single option gives no selector."""
    html_of = "".join(
        f'<label>{escape(label)}<select id="{escape(name)}">'
        + "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options)
        + "</select></label>"
        for name, (label, options) in controls.items()
        if len(options) > 1
    )
    return f'<div class="choose">{html_of}</div>' if html_of else ""


def section(title: str, *parts: str, lead: str = "") -> str:
    """A section with a title; `lead` is the sentence that says what was found."""
    parts = (paragraph(lead, kind="lead"), *parts) if lead else parts
    return f'<section id="{escape(anchor(title))}"><h2>{escape(title)}</h2>{"".join(parts)}</section>'


def anchor(title: str) -> str:
    """The id of a section."""
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def contents(titles: Iterable[str]) -> str:
    """Links to sections."""
    links = "".join(f'<a href="#{escape(anchor(title))}">{escape(title)}</a>' for title in titles)
    return f'<nav aria-label="Sections">{links}</nav>'


def paragraph(text: str, *, kind: str = "") -> str:
    """A paragraph of plain text; what stands between backticks is code."""
    shown = _CODE.sub(r"<code>\1</code>", escape(text))
    return f"<p{_class(kind) if kind else ''}>{shown}</p>"


def heading(text: str) -> str:
    """A title within a section."""
    return f"<h3>{escape(text)}</h3>"


def grid(*figures: str) -> str:
    """Figures side by side where there is room; "" without figures."""
    return f'<div class="grid">{"".join(figures)}</div>' if figures else ""


def folded(summary: str, content: str) -> str:
    """Content that the reader opens; "" without content."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>" if content else ""


def items(lines: Iterable[str]) -> str:
    """A bullet list of plain text."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def document(title: str, *, body: str, scripts: str) -> str:
    """The complete HTML page."""
    without = (
        "<noscript><p>The charts need JavaScript; the tables have the same numbers.</p></noscript>" if scripts else ""
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{style()}</style></head>\n'
        f"<body><main>{without}{body}</main>\n{scripts}\n</body></html>\n"
    )


def number(value: Any, digits: int = 1, *, absent: str = "not recorded") -> str:
    """A cell with a number, or the reason why there is none."""
    return Absent(absent) if pd.isna(value) else Number(f"{value:,.{digits}f}")


def count(value: Any, *, absent: str = "not recorded") -> str:
    """A cell with a whole number, or the reason why there is none."""
    return Absent(absent) if pd.isna(value) else Number(int(value))


def p_cell(p: Any, *, absent: str) -> str:
    """A cell with a p-value, or the reason why nothing was tested."""
    return Number(text) if (text := p_value(p)) else Absent(absent)


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode("utf-8")).decode("ascii")


def _cells(values: Sequence[object]) -> str:
    """The cells of a row; a reason spans the empty ones that follow it, so that it is not squeezed into one column."""
    cells: list[tuple[object, int]] = []
    for value in values:
        if cells and value == Absent("") and isinstance(value, Absent) and isinstance(cells[-1][0], Absent):
            cells[-1] = cells[-1][0], cells[-1][1] + 1
        else:
            cells.append((value, 1))
    return "".join(_cell(value, columns) for value, columns in cells)


def _cell(value: object, columns: int) -> str:
    kind = "number" if isinstance(value, Number) else "absent" if isinstance(value, Absent) else "text"
    span = f' colspan="{columns}"' if columns > 1 else ""
    return f"<td{_class(kind if kind != 'text' or len(str(value)) > 48 else '')}{span}>{escape(value)}</td>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
