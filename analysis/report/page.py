"""The report's page: the HTML pieces it is put together from. Nothing in it loads from outside."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pandas as pd
import vl_convert as vlc

from analysis.report.style import DRAW, POLICY, STYLE


def escape(value: object) -> str:
    """Text safe inside an element or a quoted attribute."""
    return html.escape(str(value), quote=True)


class Number(str):
    """A number already formatted."""


class Absent(str):
    """Why there is no value."""


@dataclass
class Page:
    """Collects charts and tables while the page is written: specifications and libraries go in once, at its end."""

    charts: dict[str, dict[str, Any]] = field(default_factory=dict)  # Vega-Lite specifications by name
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)  # as data, for export

    def chart(self, name: str, chart: Any, *, caption: str, label: str, least_px: int = 0) -> str:
        """A figure that the script draws `chart` into; `label` describes it to those who cannot see it.

        Below `least_px` the chart scrolls sideways in a box of its own.
        """
        spec = chart.to_dict(validate=False)  # the tests draw every chart, and validation takes as long as the rest
        spec.pop("$schema", None)
        self.charts[name] = spec
        place = (
            f'<div class="chart" role="img" aria-label="{escape(label)}" data-name="{escape(name)}" '
            f'data-spec="spec-{len(self.charts)}"></div>'
        )
        if least_px:
            place = f'<div class="wide"><div style="min-width:{least_px}px">{place}</div></div>'
        save = "".join(f'<button class="save" data-form="{form}">{form.upper()}</button>' for form in ("svg", "png"))
        return f"<figure><figcaption><span>{escape(caption)}</span>{save}</figcaption>{place}</figure>"

    def table(
        self,
        name: str,
        columns: Sequence[str],
        rows: Iterable[Sequence[object]],
        *,
        caption: str,
        data: pd.DataFrame | None = None,
    ) -> str:
        """A table in a container of its own that scrolls; the first cell heads its row. `data` is what is exported of it.

        A `Number` is set as one; an `Absent` is set apart from values, with its reason as the text.
        """
        rows = [list(row) for row in rows]
        shown = pd.DataFrame([[str(value) for value in row] for row in rows], columns=list(columns))
        self.tables[name] = shown if data is None else data
        numeric = [any(isinstance(row[place], Number) for row in rows) for place in range(len(columns))]
        head = "".join(
            f'<th scope="col"{_class("number") if is_number else ""}>{escape(title)}</th>'
            for title, is_number in zip(columns, numeric, strict=True)
        )
        body = "".join(
            f'<tr><th scope="row">{escape(row[0])}</th>{"".join(_cell(value) for value in row[1:])}</tr>'
            for row in rows
        )
        links = " ".join(
            f'<a download="{escape(name)}.{ending}" href="data:text/{kind};base64,{_encoded(text)}">{title}</a>'
            for title, ending, kind, text in (
                ("CSV", "csv", "csv", as_csv(self.tables[name])),
                ("LaTeX", "tex", "x-tex", as_latex(self.tables[name], caption)),
            )
        )
        return (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
            f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
            f'<div class="save">{links}</div>'
        )

    def scripts(self) -> str:
        """Specifications, libraries and the drawing script; empty when there is nothing to draw."""
        if not self.charts:
            return ""
        specs = (
            f'<script type="application/json" id="spec-{number}">{inline_json(spec)}</script>'
            for number, spec in enumerate(self.charts.values(), 1)
        )
        return "\n".join([*specs, f"<script>{_libraries()}</script>", f'<script type="module">{DRAW}</script>'])


@lru_cache(maxsize=1)
def _libraries() -> str:
    """Vega, Vega-Lite and vega-embed, which vl-convert brings along; putting them together takes a second."""
    bundle: str = vlc.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", "<\\/script")


def inline_json(value: Any) -> str:
    """JSON that cannot end or reopen the script element it stands in."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def as_csv(table: pd.DataFrame) -> str:
    """With every digit; an empty field where nothing is known."""
    return table.to_csv(index=False)


def as_latex(table: pd.DataFrame, caption: str) -> str:
    """A tabular with booktabs rules, numbers with two decimals, "--" where nothing is known."""
    text: str = table.to_latex(
        index=False, escape=True, float_format="%.2f", na_rep="--", caption=caption.replace("%", r"\%")
    )
    return text


def selectors(choices: Mapping[str, tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """Controls by id: a label and the options (value, text), the first chosen. One with a single option is left out."""
    controls = "".join(
        f'<label>{escape(label)}<select id="{escape(name)}">'
        + "".join(f'<option value="{escape(value)}">{escape(text)}</option>' for value, text in options)
        + "</select></label>"
        for name, (label, options) in choices.items()
        if len(options) > 1
    )
    return f'<div class="choose">{controls}</div>' if controls else ""


def section(title: str, *parts: str) -> str:
    """A titled part of the page."""
    return f'<section id="{escape(anchor(title))}"><h2>{escape(title)}</h2>{"".join(parts)}</section>'


def anchor(title: str) -> str:
    """The id of a section."""
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def contents(titles: Iterable[str]) -> str:
    """Links to sections."""
    links = "".join(f'<a href="#{escape(anchor(title))}">{escape(title)}</a>' for title in titles)
    return f"<nav>{links}</nav>"


def paragraph(text: str, *, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(kind) if kind else ''}>{escape(text)}</p>"


def heading(text: str) -> str:
    """A title below a section's."""
    return f"<h3>{escape(text)}</h3>"


def grid(*figures: str) -> str:
    """Figures side by side where there is room."""
    return f'<div class="grid">{"".join(figures)}</div>'


def folded(summary: str, content: str) -> str:
    """Content that opens on demand."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def items(lines: Iterable[str]) -> str:
    """A list of plain texts."""
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"


def document(title: str, *, body: str, scripts: str) -> str:
    """The whole page."""
    without = (
        "<noscript><p>The charts need JavaScript; the tables hold the same numbers.</p></noscript>" if scripts else ""
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(title)}</title><link rel="icon" href="data:,"><style>{STYLE}</style></head>\n'
        f"<body><main>{without}{body}</main>\n{scripts}\n</body></html>\n"
    )


def number(value: Any, digits: int = 1, *, absent: str = "not recorded") -> str:
    """A number with so many decimals, or why there is none."""
    return Absent(absent) if pd.isna(value) else Number(f"{value:,.{digits}f}")


def count(value: Any, *, absent: str = "not recorded") -> str:
    """A whole number, or why there is none."""
    return Absent(absent) if pd.isna(value) else Number(int(value))


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode("utf-8")).decode("ascii")


def _cell(value: object) -> str:
    kind = "number" if isinstance(value, Number) else "absent" if isinstance(value, Absent) else "text"
    return f"<td{_class(kind if kind != 'text' or len(str(value)) > 48 else '')}>{escape(value)}</td>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
