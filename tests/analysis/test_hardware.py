"""A study measured on several kinds of hardware: budgets, sentences and tables never mix them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

import analysis
from analysis import StudyFrames
from analysis.report.findings import Findings
from analysis.report.sections.budget import budget_sentence
from analysis.report.size_steps import size_steps
from analysis.report.trade import size_sentence
from analysis.store.frames import SPEED_BY_LANGUAGE, frame
from analysis.tables.languages import language_table, timed_hardware
from tests.analysis.helpers import header, section, write
from tests.support.browser import Browser
from tests.support.studies import build_frames

CPU, GPU = "2 cores", "a GPU"
BODY_M = {"small": 1.0, "large": 4.0}
SCORES = {"small": 50.0, "large": 60.0}
P50_MS = {("small", CPU): 5.0, ("large", CPU): 20.0, ("small", GPU): 1.0, ("large", GPU): 2.0}


@pytest.fixture(scope="module")
def mixed() -> StudyFrames:
    """Both sizes on both kinds of hardware; on the CPU a variant that could not be measured, whose hardware is not recorded."""
    runs = [
        {"size": size, "trial_id": f"{name}-s{seed}" if seed else name, "intermediate": name, "seed": seed}
        | {"scores": {"x": score + seed + gain}, "languages": {"en": {"x": score + 2}, "de": {"x": score - 2}}}
        | ({"repeats": name} if seed else {})
        for size, score in SCORES.items()
        for name, gain in (("none", 0.0), ("topic", 1.0))
        for seed in range(2)
    ]
    benchmarks: list[dict[str, Any]] = [
        {"size": size, "trial_id": "none", "hardware": hardware, "p50_ms": p50_ms, "task_scores": {"x": SCORES[size]}}
        | ({"energy_j_per_sample": p50_ms / 10} if hardware == GPU else {})
        for (size, hardware), p50_ms in P50_MS.items()
    ]
    failed = {"size": "small", "trial_id": "none", "variant": "int8", "hardware": "", "reason": "no kernel"}
    return build_frames(runs, [*benchmarks, failed], body_m=BODY_M)


def test_a_budget_is_for_one_kind_of_hardware(mixed: StudyFrames) -> None:
    with pytest.raises(analysis.BadBudget, match=f"give hardware=, one of '{CPU}', '{GPU}'"):
        analysis.best_for_budget(mixed, "p50_ms<=5")
    with pytest.raises(analysis.BadBudget, match="hardware 'a TPU': nothing was measured on it"):
        analysis.best_for_budget(mixed, "p50_ms<=5", hardware="a TPU")
    bought = {name: analysis.best_for_budget(mixed, "p50_ms<=5", hardware=name) for name in (CPU, GPU)}
    assert {name: (pick.best or {})["size"] for name, pick in bought.items()} == {CPU: "small", GPU: "large"}
    assert {name: pick.fitting for name, pick in bought.items()} == {CPU: 1, GPU: 2}
    assert bought[CPU].unknown == bought[GPU].unknown == ("small int8 (p50_ms)",)


def test_hardware_need_not_be_named_where_there_is_one_kind(mixed: StudyFrames) -> None:
    only = dataclasses.replace(mixed, benchmarks=mixed.benchmarks[mixed.benchmarks["hardware"] != GPU])
    pick = analysis.best_for_budget(only, "p50_ms<=30")
    assert (pick.best or {})["hardware"] == CPU


def _budgets(page: str) -> dict[str, dict[str, list[dict[str, Any]]]]:
    found = re.search(r'id="budgets">(.*?)</script>', page)
    assert found is not None
    budgets: dict[str, dict[str, list[dict[str, Any]]]] = json.loads(found[1])
    return budgets


def test_the_report_answers_a_budget_for_each_kind(mixed: StudyFrames, tmp_path: Path) -> None:
    page = write(mixed, tmp_path, budget="p50_ms<=5")
    for hardware, size in ((CPU, "small"), (GPU, "large")):
        answer = f"With p50 latency at most 5 ms on {hardware}, the best is size {size} served as fp32"
        assert answer in header(page)
        assert answer in section(page, "Within the budget: p50 latency at most 5 ms")
    budgets = _budgets(page)
    assert {name: set(by_metric) for name, by_metric in budgets.items()} == {
        CPU: {"p50_ms"},
        GPU: {"p50_ms", "energy_j_per_sample"},
    }
    for hardware, by_metric in budgets.items():
        for step in by_metric["p50_ms"]:
            assert not step["picked"] or step["picked"].endswith(f"|{hardware}")
    assert '<select id="budget_hardware" autocomplete="off"><option value="2 cores" selected>' in page
    one = dataclasses.replace(mixed, benchmarks=mixed.benchmarks[mixed.benchmarks["hardware"] == CPU])
    assert 'id="budget_hardware"' not in write(one, tmp_path)


def test_sentences_with_a_time_name_the_hardware(mixed: StudyFrames) -> None:
    (step,) = size_steps(mixed)
    assert (step.hardware, step.cost_ratio) == (CPU, 4.0)
    assert f"for 4.0 times the latency (served as fp32 on {CPU}, without" in size_sentence(Findings(mixed))


def test_times_by_language_are_of_one_kind_of_hardware(mixed: StudyFrames, tmp_path: Path) -> None:
    """The GPU timed one size only: the CPU's times are shown for both, and not the faster ones of the GPU for one."""
    times = [
        {"size": size, "variant": "fp32", "trial_id": "none", "hardware": hardware, "language": language}
        | {"p50_ms": p50_ms, "mean_pieces": 9.0}
        for (size, hardware), p50_ms in P50_MS.items()
        for language in ("en", "de")
        if (size, hardware) != ("large", GPU)
    ]
    frames = dataclasses.replace(mixed, speed_by_language=frame(reversed(times), SPEED_BY_LANGUAGE))
    assert timed_hardware(frames) == CPU
    shown = language_table(frames).set_index(["size", "language"])["p50_ms"].to_dict()
    assert shown == {(size, language): P50_MS[size, CPU] for size in BODY_M for language in ("en", "de")}
    assert f"timed on {CPU}" in section(write(frames, tmp_path), "Languages")


def test_a_budget_that_nothing_meets_says_so_in_the_panel_too(mixed: StudyFrames, tmp_path: Path) -> None:
    only = dataclasses.replace(mixed, benchmarks=mixed.benchmarks[mixed.benchmarks["hardware"] == CPU])
    for budget in ("p50_ms<=0.123", "p50_ms<5"):
        page = write(only, tmp_path, budget=budget)
        says = budget_sentence(analysis.best_for_budget(only, budget))
        assert says.startswith("No configuration with a score meets the budget")
        assert says in header(page)
        place = re.search(r'id="budget_limit"[^>]* value="(\d+)"', page)
        assert place is not None
        step = _budgets(page)[CPU]["p50_ms"][int(place[1])]
        assert (step["sentence"], step["picked"]) == (says, "")
        assert re.search(r'<p id="budget_pick"[^>]*>(.*?)</p>', page)[1].replace("&lt;", "<") == says  # type: ignore[index]
    assert step["shown"] == "5.00 ms"


def test_the_page_offers_the_hardware_and_draws_the_limit_on_its_chart(
    browser: Browser, mixed: StudyFrames, tmp_path: Path
) -> None:
    browser.open(analysis.write_report(mixed, tmp_path / "report.html", exports=False), width=1280)
    drawn = "[...document.querySelectorAll('.opening .chart')].map((c) => [...c.querySelectorAll('{}')]{})"
    of_budget = ".filter((e) => e.getAttribute('stroke') === '#e0218a').length"
    rings, limits = (drawn.format(marks, of_budget) for marks in (".mark-symbol path", ".mark-rule line"))
    offered = "[...document.getElementById('budget_metric').options].filter((o) => !o.hidden).map((o) => o.value)"
    assert browser.evaluate(offered) == ["p50_ms"]
    assert (browser.evaluate(rings), browser.evaluate(limits)) == ([1, 0], [1, 0])
    browser.choose("budget_hardware", GPU)
    assert browser.evaluate(offered) == ["p50_ms", "energy_j_per_sample"]
    assert (browser.evaluate(rings), browser.evaluate(limits)) == ([0, 1], [0, 1])
    browser.choose("budget_metric", "energy_j_per_sample")
    browser.choose("budget_hardware", CPU)  # energy was not measured there
    assert browser.evaluate("document.getElementById('budget_metric').value") == "p50_ms"
    assert browser.evaluate("document.getElementById('budget_pick').textContent").startswith("With p50 latency at most")
