"""The report as a reader sees it: opened in headless Chromium, wide and at 400 px, light and dark."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import analysis
from analysis import StudyFrames
from analysis.report.write import exports_folder
from analysis.store.examples import Examples
from tests.support.browser import Browser
from tests.support.studies import new_store

# Vega-Lite warns whenever the width is fitted to the container and the height follows the rows, as intended here.
BENIGN = 'WARN Dropping "fit-y" because spec has discrete height.'


def _messages(browser: Browser) -> list[str]:
    return [message for message in browser.messages if message != BENIGN]


def test_every_chart_is_drawn_without_a_warning_or_a_request(browser: Browser, page: Path) -> None:
    browser.open(page)
    assert _messages(browser) == []
    assert [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:"))] == []
    drawn = browser.evaluate(
        "[...document.querySelectorAll('.chart')].map((c) => [c.dataset.name, c.querySelectorAll('svg path, svg text').length,"
        " c.getBoundingClientRect().width, c.getBoundingClientRect().height])"
    )
    names = {name for name, *_ in drawn}
    assert names >= {
        *("tradeoff_p50_ms", "tradeoff_throughput_sps", "gains", "gain_intervals", "average_gains", "published"),
        *(
            "scaling_test_score",
            "scaling_p50_latency",
            "languages",
            "language_pieces",
            "language_cost",
            "language_share",
        ),
        *("importances", "rungs"),
    }
    for name, marks, width, height in drawn:
        assert marks > 10, f"{name} is empty"
        assert width > 200, name
        assert height > 50, name
    broken = browser.evaluate("[...document.querySelectorAll('.chart text')].map((t) => t.textContent)")
    assert not [text for text in broken if text in ("NaN", "undefined", "null", "Infinity")]


@pytest.mark.parametrize("dark", [False, True])
def test_nothing_overflows_on_a_phone(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, width=400, height=800, dark=dark)
    assert _messages(browser) == []
    browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= 400
    wider = browser.evaluate(
        """[...document.querySelectorAll('body *')].filter((e) => {
          const box = e.getBoundingClientRect();
          return box.right > document.documentElement.clientWidth + 1 && !e.closest('.scroll, .wide, svg, .chart')
            && getComputedStyle(e).position !== 'fixed' && box.width > 0;
        }).map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert wider == []
    charts = browser.evaluate(
        "[...document.querySelectorAll('.chart')].filter((c) => !c.closest('.wide'))"
        ".map((c) => [c.dataset.name, c.querySelector('svg').getBoundingClientRect().width])"
    )
    assert all(width <= 400 for _, width in charts), charts
    ground, text = browser.evaluate(
        "['backgroundColor', 'color'].map((n) => getComputedStyle(document.body)[n].match(/\\d+/g).map(Number)[0])"
    )
    assert (ground < 60 and text > 180) if dark else (ground > 200 and text < 60)


def test_the_selectors_choose_size_language_and_target(browser: Browser, page: Path) -> None:
    browser.open(page)

    def texts(chart: str) -> list[str]:
        labels = browser.evaluate(
            f"[...document.querySelectorAll('[data-name={chart}] svg text')].map((t) => t.textContent)"
        )
        return [str(text) for text in labels]

    options = browser.evaluate("[...document.querySelectorAll('.choose select')].map((s) => [s.id, s.options.length])")
    # Both aggregates and nine languages.
    assert options == [["chosen_size", 4], ["chosen_language", 2 + 9], ["chosen_target", 4]]
    before = texts("gains")
    browser.choose("chosen_size", "2x128")
    small = texts("gains")
    assert small != before
    assert any("*" in text for text in small), "the contamination flag"
    browser.choose("chosen_language", "sw")
    assert texts("gains") != small
    xnli = texts("languages")
    assert "Swahili (sw)" in xnli
    values = "[...document.querySelectorAll('[data-name=languages] svg path')].map((p) => p.getAttribute('transform')).join()"
    places = browser.evaluate(values)
    browser.choose("chosen_target", "bitext")
    assert browser.evaluate(values) != places
    assert _messages(browser) == []


def test_a_tooltip_gives_the_interval(browser: Browser, page: Path) -> None:
    browser.open(page)
    shown = browser.evaluate(
        """(async () => {
          const mark = document.querySelector('[data-name=gains] .mark-rect.layer_1_marks path');
          mark.scrollIntoView();
          const box = mark.getBoundingClientRect();
          const at = {bubbles: true, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2};
          for (const kind of ['pointerover', 'mouseover', 'pointermove', 'mousemove'])
            mark.dispatchEvent(new (kind.startsWith('p') ? PointerEvent : MouseEvent)(kind, at));
          await new Promise((r) => setTimeout(r, 200));
          return document.getElementById('vg-tooltip-element').textContent;
        })()"""
    )
    assert "gain (points)" in shown
    assert "95% interval" in shown


def test_a_chart_can_be_saved(browser: Browser, page: Path) -> None:
    browser.open(page)
    saved = browser.evaluate(
        """(async () => {
          const found = [];
          HTMLAnchorElement.prototype.click = function () { found.push([this.download, this.href.slice(0, 22)]); };
          for (const button of document.querySelectorAll('figure:first-of-type .save button')) button.click();
          await new Promise((r) => setTimeout(r, 500));
          return found;
        })()"""
    )
    assert ["tradeoff_p50_ms.png", "data:image/png;base64,"] in saved
    assert any(name == "tradeoff_p50_ms.svg" for name, _ in saved)


def test_a_change_to_dark_draws_again_and_keeps_the_choice(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.choose("chosen_size", "2x128")
    light = browser.evaluate("document.querySelector('[data-name=gains] svg').textContent")
    browser.prefer(dark=True)
    browser.wait_for(
        "document.querySelector('[data-name=gains] .role-axis-label text').getAttribute('fill') === '#e6e7ea'"
    )
    assert browser.evaluate("document.querySelector('[data-name=gains] svg').textContent") == light
    assert _messages(browser) == []


def test_a_study_of_one_seed_without_examples_is_quiet(browser: Browser, planted: Path, tmp_path: Path) -> None:
    frames = analysis.load(f"sqlite:///{planted / 'mlflow.db'}", "planted")
    first = frames.trials[(frames.trials["seed"] == 0) & (frames.trials["size"] != "6x256")]
    single = dataclasses.replace(frames, trials=first, sizes=frames.sizes.head(3), examples=Examples())
    browser.open(analysis.write_report(single, tmp_path / "report.html", exports=False))
    assert _messages(browser) == []


def test_an_empty_study_s_page_is_quiet(browser: Browser, tmp_path: Path) -> None:
    new_store(tmp_path).create_experiment("empty", tags={"study.targets": "[]"})
    frames = analysis.load(f"sqlite:///{tmp_path / 'mlflow.db'}", "empty")
    report = analysis.write_report(frames, tmp_path / "report.html")
    browser.open(report, width=400)
    assert _messages(browser) == []
    assert browser.evaluate("document.documentElement.scrollWidth") <= 400
    assert "no trials and no benchmarks yet" in browser.evaluate("document.body.textContent")


def test_saved_charts_hold_their_labels_in_the_fonts_of_this_machine(
    browser: Browser, study: StudyFrames, tmp_path: Path
) -> None:
    """Each is laid out with Arial's widths; where there is no Arial, another font is used, and most are wider."""
    report = analysis.write_report(study, tmp_path / "report.html")
    charts = sorted(exports_folder(report).glob("charts/*.svg"))
    assert len(charts) > 10
    shown = tmp_path / "charts.html"
    shown.write_text("".join(f"<div id='{chart.stem}'>{chart.read_text(encoding='utf-8')}</div>" for chart in charts))
    browser.open(shown)
    outside = browser.evaluate(
        """[...document.querySelectorAll('div')].flatMap((chart) => {
          const whole = chart.querySelector('svg').getBoundingClientRect();
          return [...chart.querySelectorAll('text')].filter((text) => {
            const own = text.getBoundingClientRect();
            return own.left < whole.left - 1 || own.right > whole.right + 1 || own.bottom > whole.bottom + 1;
          }).map((text) => `${chart.id}: ${text.textContent}`);
        })"""
    )
    assert outside == []
