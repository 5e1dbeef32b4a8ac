"""Pages: links lead somewhere; every page, measurement and chart is reached; README is short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, README, anchors, links, text_of
from tests.support.commands import ROOT

MOST_LINES, MOST_COLUMNS = 170, 128  # of README.md; the rest belongs in docs/, and tables may be wider


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    missing = [
        f"{path}#{anchor}" if anchor else path
        for path, anchor in links(page)
        if not (ROOT / path).exists() or (anchor and anchor not in anchors(path))
    ]
    assert not missing


def test_every_page_is_reached_from_the_index() -> None:
    reached, waiting = set[str](), ["docs/README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page in PAGES:
            reached.add(page)
            waiting += [path for path, _ in links(page)]
    assert set(PAGES) == reached


def test_every_kept_measurement_is_linked_from_the_page_of_measurements() -> None:
    """By itself, or with a folder inside `docs/measured`."""
    linked = {path for path, _ in links("docs/measurements.md")} - {"docs/measured"}
    kept = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "measured").rglob("*") if path.is_file()}
    assert not {path for path in kept if not {path, str(Path(path).parent)} & linked}


def test_every_kept_chart_is_in_the_gallery_with_a_caption() -> None:
    parts = re.split(r"^!\[.+\]\((measured/.+)\)$", text_of("docs/gallery.md"), flags=re.MULTILINE)
    captions = dict(zip(parts[1::2], parts[2::2], strict=True))
    kept = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs" / "measured").rglob("*.svg")}
    assert set(captions) == kept
    assert all(len(caption.partition("## ")[0].split()) > 15 for caption in captions.values())


def test_every_fault_names_a_test() -> None:
    rows = [line for line in text_of("docs/faults.md").splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 40
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py`", row.split("|")[3]), row


def test_readme_is_short() -> None:
    lines = text_of(README).splitlines()
    assert len(lines) <= MOST_LINES
    assert not [line for line in lines if len(line) > MOST_COLUMNS and not line.startswith("|")]
