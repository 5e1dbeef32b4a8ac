"""Writes the report's charts as SVG and PNG, and its tables as CSV and LaTeX, to a folder beside it."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import vl_convert as vlc

from analysis.charts.common import SIZE, TARGET
from analysis.report.page import Page, as_csv, as_latex

WIDTH_PX = 640
PNG_SCALE = 2.0
# An SVG is laid out with Arial's widths and drawn with the reader's font. DejaVu Sans, on most Linux desktops, is 17% wider.
WIDER_FONT = 0.2
_PAPER: dict[str, Any] = {
    "background": "white",
    "font": "Arial, Helvetica, sans-serif",
    "view": {"stroke": None},
    "text": {"color": "#1c1e21"},
    "axis": {"labelLimit": 0},
    "legend": {"layout": {"top": {"anchor": "start", "direction": "vertical"}}},
}


def write_exports(page: Page, folder: Path, *, sizes: Sequence[str], targets: Sequence[str]) -> None:
    """Write every chart as SVG and PNG, one per size or target it can show, and every table as CSV and LaTeX."""
    for part in ("charts", "tables"):
        (folder / part).mkdir(parents=True, exist_ok=True)
        for old in (folder / part).iterdir():  # an earlier report may have had other charts or tables
            if old.suffix in (".svg", ".png", ".csv", ".tex"):
                old.unlink()
    for name, spec in page.charts.items():
        for suffix, fixed_spec in _fixed(spec, sizes=sizes, targets=targets):
            path = folder / "charts" / file_name(f"{name}{suffix}")
            text = json.dumps(fixed_spec)
            path.with_name(f"{path.name}.svg").write_text(with_room(vlc.vegalite_to_svg(text)), encoding="utf-8")
            path.with_name(f"{path.name}.png").write_bytes(vlc.vegalite_to_png(text, scale=PNG_SCALE))
    for name, table in page.tables.items():
        path = folder / "tables" / file_name(name)
        path.with_name(f"{path.name}.csv").write_text(as_csv(table), encoding="utf-8")
        path.with_name(f"{path.name}.tex").write_text(as_latex(table, name.replace("_", " ")), encoding="utf-8")


def with_room(svg: str) -> str:
    """A chart of Vega's with room at the left for labels in a wider font than the one that they were measured with.

    A document that does not begin as Vega's do is left as it is.
    """
    begins = re.match(
        r'(?P<svg><svg [^>]*?)width="(?P<w>[\d.]+)" height="(?P<h>[\d.]+)" viewBox="0 0 (?P=w) (?P=h)">'
        r'<rect width="(?P=w)" height="(?P=h)"(?P<rect>[^>]*>)(?P<root><g [^>]*transform="translate\((?P<left>[\d.]+))',
        svg,
    )
    if begins is None:
        return svg
    room = math.ceil(WIDER_FONT * float(begins["left"]))
    width = f"{float(begins['w']) + room:g}"
    size, box = f'width="{width}" height="{begins["h"]}"', f'viewBox="{-room} 0 {width} {begins["h"]}"'
    return f'{begins["svg"]}{size} {box}><rect x="{-room}" {size}{begins["rect"]}{begins["root"]}{svg[begins.end() :]}'


def file_name(name: str) -> str:
    """A name that is valid on every file system."""
    return re.sub(r"[^\w.-]+", "_", name)


def _fixed(
    spec: dict[str, Any], *, sizes: Sequence[str], targets: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The specification for paper, with a file name suffix; one per value of the chart's selector."""
    spec = copy.deepcopy(spec)
    if spec.get("width") == "container":
        spec["width"] = WIDTH_PX
    spec["config"] = {**spec.get("config", {}), **_PAPER}
    selectors = {param["name"] for param in spec.get("params", [])}
    for name, values in ((SIZE, sizes), (TARGET, targets)):
        if name in selectors:
            for value in values:
                fixed = copy.deepcopy(spec)
                for param in fixed["params"]:
                    if param["name"] == name:
                        param["value"] = value
                yield f"-{value}", fixed
            return
    yield "", spec
