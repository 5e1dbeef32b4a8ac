"""The page in headless Chromium: the budget's slider against `report --budget`, contrast, keyboard, widths, and print."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import analysis
from analysis import StudyFrames
from analysis.report.sections.budget import budget_sentence
from analysis.tables.budget import Budgets
from analysis.tables.tradeoff import configuration_key
from tests.support.browser import Browser
from tests.support.studies import build_frames

MOST_PAGES = 7
MOST_ELEMENTS = 40_000  # of the page and its drawn charts
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


def _budgets(page: Path) -> dict[str, list[dict[str, Any]]]:
    """The steps of each metric on the one hardware of the study."""
    found = re.search(r'id="budgets">(.*?)</script>', page.read_text(encoding="utf-8"))
    assert found is not None
    (by_metric,) = json.loads(found[1]).values()
    steps: dict[str, list[dict[str, Any]]] = by_metric
    return steps


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


def test_controls_that_a_browser_restored_agree_with_the_sentence(
    browser: Browser, page: Path, study: StudyFrames, tmp_path: Path
) -> None:
    """They are asked not to be restored; where they are, before the scripts run, the page shows what they hold."""
    text = page.read_text(encoding="utf-8")
    controls = re.findall(r'<(?:select|input)[^>]*id="budget_[^>]*>', text)
    assert len(controls) == 2
    assert all('autocomplete="off"' in control for control in controls)
    restored = text.replace('value="p50_ms" selected>', 'value="p50_ms">')
    restored = restored.replace('value="peak_memory_mb">', 'value="peak_memory_mb" selected>')
    restored = re.sub(r'(id="budget_limit"[^>]* value=)"\d+"', r'\1"2"', restored)
    (tmp_path / "restored.html").write_text(restored, encoding="utf-8")
    browser.open(tmp_path / "restored.html", width=1280)
    state = _slider(browser)
    assert browser.evaluate("document.getElementById('budget_metric').value") == "peak_memory_mb"
    _same_as_the_command(study, state, "peak_memory_mb")
    assert (state["place"], state["last"]) == (2, len(_budgets(page)["peak_memory_mb"]) - 1)
    assert _ringed(browser) == [state["picked"]]


@pytest.mark.slow
def test_the_steps_answer_every_budget(study: StudyFrames) -> None:
    """A budget between two steps buys what the tighter one does; below the first step nothing fits."""
    budgets = Budgets(study)
    (hardware,) = budgets.hardware
    steps = budgets.steps("p50_ms", hardware=hardware)
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
    more = [step.limits[0] for step in budgets.steps("throughput_sps", hardware=hardware)]
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
    # On the narrowest phones the titles of axes and legends may be wider than what they name.
    skipped = ".role-axis-title text, .role-legend-title text" if width < 400 else ".none"
    cut = browser.evaluate(
        """[...document.querySelectorAll('.chart svg text')].filter((t) => !t.matches(SKIPPED)).filter((t) => {
          const box = t.getBoundingClientRect(), chart = t.ownerSVGElement.getBoundingClientRect();
          return t.textContent.includes('…') || (box.width > 0 && (box.left < chart.left - 2 || box.right > chart.right + 2));
        }).map((t) => [t.closest('.chart').dataset.name, t.textContent])""".replace("SKIPPED", repr(skipped))
    )
    assert cut == []


@pytest.mark.parametrize("width", [320, 400])
def test_on_a_phone_text_and_controls_have_the_whole_width(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    beside = browser.evaluate(
        "[...document.querySelectorAll('figcaption')].filter((c) => c.firstChild.offsetTop === c.lastChild.offsetTop"
        " && c.firstChild.getBoundingClientRect().height > 40).map((c) => c.textContent)"
    )
    assert beside == [], "no caption of several lines is squeezed by the links beside it"
    cut = browser.evaluate(
        """[...document.querySelectorAll('.choose select')].map((s) => {
          const shown = s.offsetWidth;
          s.style.cssText = "flex: none; max-width: none";
          return [s.id, shown, s.offsetWidth];
        }).filter(([, shown, needed]) => shown < needed)"""
    )
    assert cut == []


def test_a_reason_for_a_whole_row_is_not_squeezed_into_a_column(browser: Browser, page: Path) -> None:
    browser.open(page, width=768)
    browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    heights = browser.evaluate(
        "[...document.querySelectorAll('td.absent[colspan]')].filter((c) => c.textContent)"
        ".map((c) => c.getBoundingClientRect().height / parseFloat(getComputedStyle(c).lineHeight))"
    )
    assert heights
    assert max(heights) < 4


def test_on_paper_a_command_is_as_small_as_the_text_around_it(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280)
    browser.show_as_paper()
    sizes = browser.evaluate(
        "[...document.querySelectorAll('code')].map((c) => [c, c.parentElement]"
        ".map((e) => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert sizes
    assert all(code <= around for code, around in sizes)


def test_the_page_prints_on_a_few_sheets(browser: Browser, page: Path) -> None:
    browser.open(page, width=1280, dark=True)
    sheets = len(re.findall(rb"/Type\s*/Page\b(?!s)", browser.pdf()))
    assert 2 <= sheets <= MOST_PAGES


def test_the_page_is_one_small_file(page: Path) -> None:
    assert page.stat().st_size < 2_000_000
    assert set(_budgets(page)) == {"p50_ms", "peak_memory_mb"}, "energy was not measured"


@pytest.mark.slow
def test_the_page_of_a_study_of_500_runs_is_small(browser: Browser, tmp_path: Path) -> None:
    """Bytes and elements bound how soon its controls answer; a time would be that of the machine, and is printed."""
    frames = _large_study()
    assert len(frames.trials) == 500
    report = analysis.write_report(frames, tmp_path / "report.html", exports=False)
    assert report.stat().st_size < 2_000_000
    browser.open(report, width=1280)
    assert [message for message in browser.messages if "fit-y" not in message] == []
    drawn = "[...document.querySelectorAll('.chart')].filter((c) => c.querySelectorAll('svg path').length > 3).length"
    assert browser.evaluate(drawn) == browser.evaluate("document.querySelectorAll('.chart').length"), "packed ones too"
    assert browser.evaluate("document.querySelectorAll('body *').length") < MOST_ELEMENTS
    loaded = browser.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd")
    print(f"{report.stat().st_size} bytes, the controls answer after {loaded:.0f} ms")


def _large_study() -> StudyFrames:
    """Five sizes, nine intermediate tasks and none, ten seeds, eight targets in twelve languages, four variants a size."""
    random, targets = np.random.default_rng(0), [f"target_{n}" for n in range(8)]
    languages = ("en", "de", "es", "fi", "tr", "ru", "ar", "hi", "zh", "ja", "id", "sw")
    runs: list[dict[str, Any]] = []
    for size in range(5):
        for choice in range(10):
            for seed in range(10):
                scores = {target: 40 + 4 * size + float(random.normal()) for target in targets}
                runs.append(
                    {"size": f"size_{size}", "intermediate": f"task_{choice}" if choice else "none", "seed": seed}
                )
                runs[-1] |= {"trial_id": f"t{choice}-s{seed}" if seed else f"t{choice}", "scores": scores}
                runs[-1] |= {"repeats": f"t{choice}"} if seed else {}
                runs[-1] |= {"languages": dict.fromkeys(languages, scores), "dev": scores}
    served = [
        {"size": f"size_{size}", "trial_id": "t1", "variant": f"variant_{n}", "p50_ms": (size + 1) * (4.0 - n)}
        | {"task_scores": dict.fromkeys(targets, 40.0 + 4 * size), "peak_memory_mb": 100.0 * (size + 1) + n}
        for size in range(5)
        for n in range(4)
    ]
    return build_frames(runs, served, body_m={f"size_{size}": 2.0**size for size in range(5)})
