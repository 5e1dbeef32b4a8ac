"""Writes a study's report: one HTML file with the answer, the evidence and what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from analysis.charts.common import LANGUAGE, SIZE, TARGET
from analysis.report.answer import answer, caveats
from analysis.report.budget_panel import budget_panel
from analysis.report.exports import file_name, write_exports
from analysis.report.findings import Findings
from analysis.report.page import Page, anchor, as_csv, contents, document, escape, folded, paragraph, selectors
from analysis.report.sections import (
    benchmarks,
    context,
    gains,
    languages,
    missing,
    scaling,
    search,
    selection,
    tradeoff,
)
from analysis.report.sections.budget import budget_section, budget_sentence
from analysis.report.sections.compared import compared_section
from analysis.report.trade import question, study_line, trade, uncertain
from analysis.store.frames import AGGREGATES, MEAN, MEAN_WITHOUT_ENGLISH, StudyFrames, unique
from analysis.tables.languages import language_name

CONTENTS = tuple(
    module.TITLE for module in (scaling, gains, selection, languages, tradeoff, benchmarks, search, missing, context)
)


def write_report(
    frames: StudyFrames,
    path: Path | str,
    *,
    budget: str | None = None,
    other: StudyFrames | None = None,
    exports: bool = True,
) -> Path:
    """Write the report as one self-contained HTML file that can be read offline; returns its path.

    Any state of a study gives a report, even an empty one; missing parts are named in it. Parent folders are created. With
    `exports`, every chart is also written as SVG and PNG and every table as CSV and LaTeX, under `exports_folder(path)`.
    `budget` ("p50_ms<=15") opens the report with the best configuration within it, `other` adds a comparison with a
    second study.

    Raises:
        BadBudget: the budget cannot be parsed.
    """
    html, page = _rendered(Findings(frames, budget, other))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")
    if exports:
        write_exports(page, exports_folder(path), sizes=frames.size_names, targets=frames.targets)
    return path


def report_with_tables(frames: StudyFrames) -> tuple[str, dict[str, str]]:
    """The report as HTML, and every table of it as CSV, by the name of the file that `write_report` exports it to."""
    html, page = _rendered(Findings(frames))
    return html, {f"{file_name(name)}.csv": as_csv(table) for name, table in page.tables.items()}


def _rendered(findings: Findings) -> tuple[str, Page]:
    page, title = Page(), f"{findings.frames.context['experiment']}: zero-shot accuracy against inference speed"
    body = _header(findings, page) + _sections(findings, page)
    return document(title, body=body, scripts=page.scripts()), page


def exports_folder(report: Path | str) -> Path:
    """The folder of a report's charts and tables: `report_files` beside `report.html`."""
    report = Path(report)
    return report.with_name(f"{report.stem}_files")


def _header(findings: Findings, page: Page) -> str:
    """The first screen: question, answer, what is uncertain, the chart with the budget beside it; then the answer in full."""
    answered = answer(findings)
    sentences = trade(findings)
    short = sentences or answered.paragraphs
    if findings.picks:  # the budget replaces the fastest configuration near the best
        several = len(findings.picks) > 1
        short = [*(budget_sentence(pick, say_hardware=several) for pick in findings.picks), *short]
        answered = replace(answered, fastest="")
    full = [*map(paragraph, answered.paragraphs), *(paragraph(text, kind="note") for text in caveats(findings))]
    return (
        f'<header><p class="study">{escape(study_line(findings))}</p><h1>{escape(question(findings))}</h1>'
        f'<div class="answer">{"".join(map(paragraph, short))}</div>{_uncertain(findings)}'
        f'<div class="opening"><div>{tradeoff.hero(findings, page)}</div>{budget_panel(findings)}</div>'
        f"{folded('The answer in full', ''.join(full)) if sentences else ''}{contents(CONTENTS)}</header>"
    )


def _uncertain(findings: Findings) -> str:
    text = uncertain(findings)
    link = f'<a href="#{anchor(missing.TITLE)}">{missing.TITLE}</a>'
    return f'<p class="note">Uncertain: {escape(text)}. {link}.</p>' if text else ""


def _sections(findings: Findings, page: Page) -> str:
    return "".join(
        [
            budget_section(findings),
            compared_section(findings, page),
            _selectors(findings),
            scaling.scaling_section(findings, page),
            gains.gains_section(findings, page),
            selection.selection_section(findings, page),
            languages.languages_section(findings, page),
            tradeoff.tradeoff_section(findings, page),
            benchmarks.benchmarks_section(findings, page),
            search.search_section(findings, page),
            missing.missing_section(findings),
            context.context_section(findings),
        ]
    )


def _selectors(findings: Findings) -> str:
    """One bar of selectors for the whole page; every chart that depends on a choice follows it."""
    frames = findings.frames
    sizes = unique([findings.first_size, *frames.size_names[::-1]])
    codes = unique([findings.first_language, *AGGREGATES, *frames.languages])
    names = {MEAN: "mean with English", MEAN_WITHOUT_ENGLISH: "mean without English"}
    return selectors(
        {
            SIZE: ("Size", [(size, size) for size in sizes]),
            LANGUAGE: ("Language", [(code, names.get(code) or f"{language_name(code)} ({code})") for code in codes]),
            TARGET: ("Target", [(task, task) for task in frames.targets if task in set(frames.scores["task"])]),
        }
    )
