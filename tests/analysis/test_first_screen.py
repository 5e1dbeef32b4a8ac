"""The page in headless Chromium: the budget's slider against `report --budget`, contrast, keyboard, widths, and print."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis import StudyFrames
from analysis.report.sections.budget import budget_sentence
from analysis.tables.budget import Budgets
from analysis.tables.tradeoff import configuration_key
from tests.support.browser import Browser

MOST_PAGES = 9
LEAST_CONTRAST = 4.5  # WCAG 2.2, level AA, text below 24 px

_CONTRAST = """(() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (a, b) => {
    const [low, high] = [luminance(numbers(a)), luminance(numbers(b))].sort((x, y) => x - y);
    return (high + 0.05) / (low + 0.05);
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor, parts = numbers(colour);
      if (parts.length === 3 || parts[3] === 1) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    const own = [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !e.checkVisibility() || e.closest("script, style")) continue;
    if (!e.closest("svg")) found.push([ratio(getComputedStyle(e).color, ground(e)), e.textContent]);
    else if (e.tagName === "text" && !e.closest(".mark-text.role-mark")) // axes, legends
      found.push([ratio(getComputedStyle(e).fill, ground(e.closest("div"))), e.textContent]);
  }
  const cell = (e) => `${e.__data__.datum.intermediate}|${e.__data__.datum.task}`;
  const fills = new Map([...document.querySelectorAll("[data-name=gains] .mark-rect.layer_1_marks path")]
    .map((p) => [cell(p), getComputedStyle(p).fill]));
  for (const t of document.querySelectorAll("[data-name=gains] .mark-text.role-mark text"))
    if (fills.has(cell(t))) found.push([ratio(getComputedStyle(t).fill, fills.get(cell(t))), t.textContent]);
  return found;
})()"""


def _slider(browser: Browser) -> dict[str, Any]:
    state: dict[str, Any] = browser.evaluate(
        "(() => { const s = document.getElementById('budget_limit'), box = s.getBoundingClientRect(); return {"
        "limit: Number(s.dataset.limit), picked: s.dataset.picked, place: Number(s.value), last: Number(s.max),"
        "left: box.left, right: box.right, y: box.top + box.height / 2,"
        "sentence: document.getElementById('budget_pick').textContent,"
        "shown: document.getElementById('budget_shown').textContent}; })()"
    )
    return state


def _ringed(browser: Browser) -> list[str]:
    """Keys of the configurations that the first chart rings."""
    keys: list[str] = browser.evaluate(
        "(async () => { await new Promise((r) => setTimeout(r, 200)); return ["
        "...document.querySelectorAll('[data-name=tradeoff_p50_ms] .mark-symbol.role-mark path')]"
        ".filter((p) => p.getAttribute('stroke') === '#e0218a').map((p) => p.__data__.datum.key); })()"
    )
    return keys


def _same_as_the_command(frames: StudyFrames, state: dict[str, Any], metric: str) -> str:
    """The limit shown, if the page recommends what the command does."""
    pick = analysis.best_for_budget(frames, f"{metric}<={state['limit']!r}")
    assert pick.best is not None
    assert state["picked"] == configuration_key(pick.best)
    assert state["sentence"] == budget_sentence(pick)
    return str(state["shown"])


def test_the_slider_recommends_what_the_command_does(browser: Browser, page: Path, study: StudyFrames) -> None:
    browser.open(page, width=1280)
    state = _slider(browser)
    assert state["limit"] <= 5, "the budget that the report was written with"
    assert _ringed(browser) == [state["picked"]]
    shown = [_same_as_the_command(study, state, "p50_ms")]
    for share in (0.9, 0.3, 0.05):
        at = state["left"] + 8 + (state["right"] - state["left"] - 16) * state["place"] / state["last"]
        to = state["left"] + 8 + (state["right"] - state["left"] - 16) * share
        browser.drag((at, state["y"]), (to, state["y"]))
        state = _slider(browser)
        assert _ringed(browser) == [state["picked"]]
        shown.append(_same_as_the_command(study, state, "p50_ms"))
    assert len(set(shown)) == 4, "each drag chose another limit"
    assert all(text.endswith(" ms") for text in shown)

    browser.choose("budget_metric", "peak_memory_mb")
    state = _slider(browser)
    assert state["place"] == state["last"]
    _same_as_the_command(study, state, "peak_memory_mb")
    browser.evaluate("document.getElementById('budget_limit').focus()")
    browser.press("ArrowLeft")
    tighter = _slider(browser)
    assert tighter["limit"] < state["limit"]
    assert _same_as_the_command(study, tighter, "peak_memory_mb").endswith(" MB")


@pytest.mark.slow
def test_the_steps_answer_every_budget(study: StudyFrames) -> None:
    """A budget between two steps buys what the tighter one does; below the first step nothing fits."""
    budgets = Budgets(study)
    steps = budgets.steps("p50_ms")
    limits = [step.limits[0].value for step in steps]
    assert limits == sorted(limits)
    assert all(value == round(value, 2) for value in limits), "what is shown is the limit itself"
    bought = [step.best and configuration_key(step.best) for step in steps]
    for place, limit in enumerate(limits):
        between = limit + 0.5 * (limits[place + 1] - limit) if place + 1 < len(limits) else 10 * limit
        best = analysis.best_for_budget(study, f"p50_ms<={between!r}").best
        assert best is not None
        assert configuration_key(best) == bought[place]
    assert analysis.best_for_budget(study, f"p50_ms<={limits[0] - 0.02!r}").best is None
    more = [step.limits[0] for step in budgets.steps("throughput_sps")]
    assert [limit.sign for limit in more] == [">="] * len(more)
    assert [limit.value for limit in more] == sorted((limit.value for limit in more), reverse=True)


@pytest.mark.parametrize("dark", [False, True])
def test_all_text_has_the_contrast_of_wcag(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, width=1280, dark=dark)
    browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    found = browser.evaluate(_CONTRAST)
    assert len(found) > 500
    assert [(round(ratio, 2), text[:60]) for ratio, text in found if ratio < LEAST_CONTRAST] == []


def test_the_page_can_be_read_and_used_without_seeing_it(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    levels = browser.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((h) => Number(h.tagName[1]))")
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    labels = browser.evaluate(
        "[...document.querySelectorAll('.chart')].map((c) => [c.role, c.getAttribute('aria-label'), c.dataset.name])"
    )
    assert [name for role, label, name in labels if role != "img" or not re.search(r"\d", label)] == [], "its numbers"
    unnamed = browser.evaluate(
        "[...document.querySelectorAll('select, input, button')]"
        ".filter((c) => !c.labels?.length && !c.getAttribute('aria-label') && !c.textContent).map((c) => c.outerHTML)"
    )
    assert unnamed == []
    assert browser.evaluate("document.getElementById('budget_limit').getAttribute('aria-valuetext')").endswith(" ms")


def test_tab_goes_through_the_controls_in_reading_order(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    reachable = browser.evaluate(
        "(() => { const all = [...document.querySelectorAll("
        "'a[href], button, select, input, summary, [tabindex]')].filter((e) => e.checkVisibility() && e.tabIndex >= 0);"
        "all.forEach((e, n) => { e.dataset.place = n; }); return all.length; })()"
    )
    assert reachable > 30
    seen = []
    for _ in range(12):
        browser.press("Tab")
        seen.append(
            browser.evaluate(
                "[Number(document.activeElement.dataset.place), getComputedStyle(document.activeElement).outlineStyle]"
            )
        )
    assert seen == [[place, "solid"] for place in range(12)]
    assert browser.evaluate("document.getElementById('budget_limit').dataset.place") in {str(n) for n in range(12)}


@pytest.mark.parametrize("width", [320, 400, 768, 1280])
def test_nothing_is_wider_than_the_window(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    if width < 400:  # titles of axes alone are wider
        return
    cut = browser.evaluate(
        """[...document.querySelectorAll('.chart svg text')].filter((t) => {
          const box = t.getBoundingClientRect(), chart = t.ownerSVGElement.getBoundingClientRect();
          return t.textContent.includes('…') || (box.width > 0 && (box.left < chart.left - 2 || box.right > chart.right + 2));
        }).map((t) => [t.closest('.chart').dataset.name, t.textContent])"""
    )
    assert cut == []


def test_the_page_prints_on_a_few_sheets(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280, dark=True)
    sheets = len(re.findall(rb"/Type\s*/Page\b(?!s)", browser.pdf()))
    assert 2 <= sheets <= MOST_PAGES


def test_the_page_is_one_small_file(page: Path) -> None:
    assert page.stat().st_size < 2_000_000
    steps = re.search(r'id="budgets">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert steps is not None
    assert set(json.loads(steps[1])) == {"p50_ms", "peak_memory_mb"}, "energy was not measured"
