"""The study's report: one HTML file that answers the question, shows the evidence and says what is missing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from analysis.charts.common import LANGUAGE, SIZE, TARGET
from analysis.report.answer import answer, caveats
from analysis.report.exports import write_exports
from analysis.report.findings import Findings
from analysis.report.page import Page, contents, document, escape, paragraph, selectors
from analysis.report.sections.compared import compared_section
from analysis.report.sections.context import context_section
from analysis.report.sections.gains import gains_section
from analysis.report.sections.languages import languages_section
from analysis.report.sections.missing import missing_section
from analysis.report.sections.scaling import scaling_section
from analysis.report.sections.search import search_section
from analysis.report.sections.tradeoff import (
    benchmarks_section,
    budget_section,
    budget_sentence,
    hero,
    tradeoff_section,
)
from analysis.store.frames import AGGREGATES, MEAN, MEAN_WITHOUT_ENGLISH, StudyFrames, unique
from analysis.tables.languages import language_name

CONTENTS = (
    "Accuracy against cost",
    "What intermediate training gained",
    "Size",
    "Languages",
    "Search",
    "Benchmarks",
    "What is missing",
    "Run context",
)


def write_report(
    frames: StudyFrames,
    path: Path | str,
    *,
    budget: str | None = None,
    other: StudyFrames | None = None,
    exports: bool = True,
) -> Path:
    """Write the report as one self-contained HTML file, readable offline; returns its path.

    Any state of a study gives a report, an empty one too; what is absent is named in it. Parent folders are created. With
    `exports` every chart is also written as SVG and PNG and every table as CSV and LaTeX, under `exports_folder(path)`.
    `budget` ("p50_ms<=15") opens the report with what it buys, `other` adds a comparison with another study.

    Raises:
        BadBudget: the budget cannot be read.
    """
    findings, page = Findings(frames, budget, other), Page()
    title = f"{frames.context['experiment']}: zero-shot accuracy against inference speed"
    found = answer(findings)
    if findings.choice is not None:  # what the budget buys takes the place of the fastest near the best
        sentences = [budget_sentence(findings.choice), *replace(found, fastest="").sentences]
    else:
        sentences = found.sentences
    answered = "".join(paragraph(sentence) for sentence in sentences)
    noted = "".join(paragraph(sentence, kind="note") for sentence in caveats(findings))
    body = "".join(
        [
            f'<header><h1>{escape(title)}</h1><div class="answer">{answered}</div>{noted}{hero(findings, page)}'
            f"{contents(CONTENTS)}</header>",
            budget_section(findings, page),
            compared_section(findings, page),
            _selectors(findings),
            tradeoff_section(findings, page),
            gains_section(findings, page),
            scaling_section(findings, page),
            languages_section(findings, page),
            search_section(findings, page),
            benchmarks_section(findings, page),
            missing_section(findings),
            context_section(findings),
        ]
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(document(title, body=body, scripts=page.scripts()), encoding="utf-8")
    if exports:
        write_exports(page, exports_folder(path), sizes=frames.size_names, targets=frames.targets)
    return path


def exports_folder(report: Path | str) -> Path:
    """Where a report's charts and tables are written as files: `report_files` beside `report.html`."""
    report = Path(report)
    return report.with_name(f"{report.stem}_files")


def _selectors(findings: Findings) -> str:
    """One bar for the whole page: the charts that can follow a choice do."""
    frames = findings.frames
    sizes = [findings.first_size, *(size for size in frames.size_names[::-1] if size != findings.first_size)]
    languages = unique([findings.first_language, *AGGREGATES, *frames.languages])
    named = {MEAN: "mean of all, with English", MEAN_WITHOUT_ENGLISH: "mean without English"}
    scored = [task for task in frames.targets if task in set(frames.scores["task"])]
    return selectors(
        {
            SIZE: ("Size", [(size, size) for size in sizes]),
            LANGUAGE: (
                "Language",
                [(code, named.get(code) or f"{language_name(code)} ({code})") for code in languages],
            ),
            TARGET: ("Target", [(task, task) for task in scored]),
        }
    )
