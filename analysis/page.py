"""The report's page: style, script and the HTML pieces it is put together from. Nothing in it loads from outside."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

import vl_convert as vlc

# No network by policy too; vega compiles its expressions, hence unsafe-eval.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1c1e21; --quiet: #5a6068; --line: #d9dce1; --soft: #f4f5f7;
  --mark: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181c; --text: #e6e7ea; --quiet: #a3a9b3; --line: #3a3f47; --soft: #20242a; --mark: #56b4e9; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 74rem; background: var(--ground); color: var(--text);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
p { max-width: 46rem; margin: .5rem 0; }
.answer { border-left: 4px solid var(--mark); padding: .25rem 0 .25rem 1rem; font-size: 1.05rem; }
.note, caption, figcaption { color: var(--quiet); font-size: .875rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); gap: 0 1.5rem; }
figure { margin: .75rem 0; min-width: 0; }
figcaption { font-weight: 600; }
.chart { display: block; width: 100%; min-width: 0; }
.scroll { overflow: auto; max-height: 32rem; margin: .5rem 0; border: 1px solid var(--line); border-radius: 4px; }
.scroll:focus-visible { outline: 2px solid var(--mark); }
table { border-collapse: collapse; font-size: .875rem; overflow-wrap: normal; }
caption { text-align: left; padding: .4rem .6rem; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
thead th { position: sticky; top: 0; background: var(--soft); white-space: nowrap; z-index: 1; }
tbody tr:last-child > * { border-bottom: 0; }
tbody th { font-weight: 600; white-space: nowrap; position: sticky; left: 0; background: var(--ground); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.absent { color: var(--quiet); font-style: italic; }
td { white-space: nowrap; }
td.text { min-width: 12rem; max-width: 28rem; white-space: normal; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .3rem 1rem; font-size: .9rem; }
dt { color: var(--quiet); }
dd { margin: 0; min-width: 0; }
code { font: .85rem/1.5 ui-monospace, Menlo, Consolas, monospace; }
#vg-tooltip-element { max-width: 90vw; }
@media (max-width: 30rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; } }
"""

DRAW = """
const dark = window.matchMedia("(prefers-color-scheme: dark)");
function look() {
  const text = dark.matches ? "#e6e7ea" : "#1c1e21", line = dark.matches ? "#3a3f47" : "#d9dce1";
  return {
    background: null, font: "system-ui, Roboto, Arial, sans-serif", view: {stroke: null},
    axis: {labelColor: text, titleColor: text, gridColor: line, domainColor: line, tickColor: line, labelFontSize: 11},
    legend: {labelColor: text, titleColor: text}, title: {color: text}, text: {color: text},
  };
}
let views = [];
async function draw() {
  views.splice(0).forEach((view) => view.finalize());
  for (const place of document.querySelectorAll(".chart")) {
    const spec = JSON.parse(document.getElementById(place.dataset.spec).textContent);
    views.push(await vegaEmbed(place, spec, {
      mode: "vega-lite", renderer: "svg", actions: false, config: look(),
      tooltip: {theme: dark.matches ? "dark" : "light"},
    }));
  }
}
draw();
dark.addEventListener("change", draw);
"""


def escape(value: object) -> str:
    """Text safe inside an element or a quoted attribute."""
    return html.escape(str(value), quote=True)


class Charts:
    """Collects charts while the page is written; their specifications and the libraries go in once, at its end."""

    def __init__(self) -> None:
        self._specs: list[dict[str, Any]] = []

    def place(self, chart: Any, *, caption: str, label: str) -> str:
        """A figure that the script will draw `chart` into; `label` describes it to those who cannot see it."""
        spec = chart.to_dict()
        spec.pop("$schema", None)
        self._specs.append(spec)
        return (
            f'<figure><figcaption>{escape(caption)}</figcaption><div class="chart" role="img" '
            f'aria-label="{escape(label)}" data-spec="spec-{len(self._specs)}"></div></figure>'
        )

    def scripts(self) -> str:
        """Specifications, libraries and the drawing script; empty when there is nothing to draw."""
        if not self._specs:
            return ""
        specs = (
            f'<script type="application/json" id="spec-{number}">{inline_json(spec)}</script>'
            for number, spec in enumerate(self._specs, 1)
        )
        bundle = vlc.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
        return "\n".join([*specs, f"<script>{bundle}</script>", f'<script type="module">{DRAW}</script>'])


def inline_json(value: Any) -> str:
    """JSON that cannot end or reopen the script element it stands in."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str) -> str:
    """A table in a container of its own that scrolls; the first cell heads its row.

    Floats and ints are set as numbers; an `Absent` is set apart from values, with its reason as the text.
    """
    rows = list(rows)
    numeric = [any(isinstance(row[place], Number) for row in rows) for place in range(len(columns))]
    head = "".join(
        f'<th scope="col"{_class("number") if is_number else ""}>{escape(name)}</th>'
        for name, is_number in zip(columns, numeric, strict=True)
    )
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>{"".join(_cell(value) for value in row[1:])}</tr>' for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


class Number(str):
    """A number already formatted."""


class Absent(str):
    """Why there is no value."""


def section(title: str, *parts: str) -> str:
    """A titled part of the page."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>"


def paragraph(text: str, *, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(kind) if kind else ''}>{escape(text)}</p>"


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


def _cell(value: object) -> str:
    kind = "number" if isinstance(value, Number) else "absent" if isinstance(value, Absent) else "text"
    return f"<td{_class(kind if kind != 'text' or len(str(value)) > 48 else '')}>{escape(value)}</td>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""
