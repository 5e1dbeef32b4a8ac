"""The report as written: the answer, its sections, what it embeds, and its exported files."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest

import analysis
from analysis import StudyFrames
from analysis.report.exports import with_room
from tests.analysis.helpers import header, of_size, section, write


def test_the_report_answers_first(report: str) -> None:
    answer = header(report)
    assert "the most accurate is size 4x192 served as fp32, after intermediate training on mnli" in answer
    # The benchmarks here recorded no mean without English and no timed task.
    assert "mean test score 71.0% (2 targets, all languages, English included), at 16.0 ms median latency." in answer
    assert (
        "trial b3 of size 4x192, after intermediate training on mnli, has 75.0% (mean of 1 seed) against 71.0%"
        in answer
    )
    assert "The fastest within 2 points of it is size 4x192 served as bf16" in answer
    assert "70.0% at 8.0 ms, 2.0 times as fast." in answer
    # (-0.5 + 0 + 1 + 1 + 0) / 5: mnli small tags and bitext, squad small nli, mnli large; not the 4 and 6.5 of the same data
    assert "by +0.3 points on average over 5 comparisons with no intermediate task" in answer
    assert "Not counted: 2 gains with a contamination flag; 9 comparisons not run, or without a score." in answer
    assert "4 of 7 gains rest on one seed" in answer


def test_every_section_opens_with_what_was_found(report: str) -> None:
    opened = re.findall(r'<section id="([^"]*)"><h2>[^<]*</h2><p class="(\w*)">', report)
    assert [kind for _, kind in opened] == ["lead"] * 9
    assert len(opened) == report.count("<section")


def test_the_report_loads_nothing(report: str) -> None:
    assert not re.findall(r"\s(?:src|href)=\"(?!data:|#)", report)
    assert not re.findall(r"https?://|@import|url\(", report)
    assert "default-src 'none'" in report  # so the browser refuses any request of the libraries
    assert report.count('id="libraries"') == 1


def test_the_report_embeds_one_specification_per_chart(report: str) -> None:
    specs = dict(
        re.findall(r'<script type="application/json" id="(spec-[^"]+)">(.*?)</script>', report, flags=re.DOTALL)
    )
    assert set(re.findall(r'data-spec="([^"]+)"', report)) == set(specs)
    charts = set(re.findall(r'data-name="([^"]+)"', report))
    assert charts >= {
        "tradeoff_p50_ms",
        "tradeoff_throughput_sps",
        "gains",
        "gain_intervals",
        "average_gains",
        "languages",
    }
    assert not any(name.startswith("tradeoff_peak") for name in charts), "not measured, so not drawn"
    assert all(json.loads(text)["layer"] for text in specs.values())


def test_the_report_names_what_is_missing(report: str) -> None:
    missing = section(report, "What is missing")
    assert "failed: 4x192, trial b2 (intermediate task squad): CUDA out of memory" in missing
    assert "2x128 bf16, 4x192 fp32, 4x192 bf16: energy (J/sample): no NVML" in missing
    assert "4x192, squad on every target: failed" in missing
    assert "2x128, both on every target: not run" in missing


def test_the_report_escapes_recorded_text(report: str) -> None:
    assert "<script>alert" not in report
    assert "CUDA out of memory <script>alert('x')</script>\n" in section(report, "What is missing")
    assert "--output <out>" in section(report, "How it was measured")


@pytest.mark.slow
def test_trials_are_shown_at_the_rates_they_trained_at(frames: StudyFrames, tmp_path: Path) -> None:
    (row,) = frames.trials.head(1).to_dict("records")
    trials = frames.trials.head(1).assign(lr_target=1e-3, lr_intermediate=3e-4, rate_factor=4.0)
    tables = {name: getattr(frames, name) for name in ("sizes", "scores", "benchmarks")}
    shown = section(write(StudyFrames(trials=trials, **tables, context=frames.context), tmp_path), "Search")
    cells = shown[shown.index(row["trial_id"]) :].split()
    assert {"0.0012", "0.004"} <= set(cells)
    assert not {"0.001", "0.0003"} & set(cells)


@pytest.mark.slow
def test_text_in_a_chart_cannot_end_its_script(frames: StudyFrames, tmp_path: Path) -> None:
    hostile = frames.benchmarks.assign(variant="</script><b>out</b>")
    study = StudyFrames(frames.sizes, frames.trials, frames.scores, hostile, frames.context)
    assert "<b>out</b>" not in write(study, tmp_path)


def test_the_report_of_an_empty_study_says_so(empty: StudyFrames, tmp_path: Path) -> None:
    page = write(empty, tmp_path)
    assert "This study has no trials and no benchmarks yet" in header(page)
    assert "No benchmark is recorded." in section(page, "Benchmarks")
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page).lower().split()
    assert "vegaEmbed" not in page


@pytest.mark.slow
@pytest.mark.parametrize("part", ["sizes", "trials", "scores", "benchmarks"])
def test_a_study_that_lacks_a_part_still_gives_a_report(frames: StudyFrames, part: str, tmp_path: Path) -> None:
    tables = {name: getattr(frames, name) for name in ("sizes", "trials", "scores", "benchmarks")}
    tables[part] = tables[part].iloc[:0]
    study = StudyFrames(**tables, context=frames.context)
    missing = section(write(study, tmp_path), "What is missing")
    assert ("No benchmark is recorded" in missing) == (part == "benchmarks")
    assert ("No trial is recorded" in missing) == (part == "trials")


@pytest.mark.slow
def test_charts_and_tables_are_written_as_files(study: StudyFrames, tmp_path: Path) -> None:
    old = tmp_path / "report_files" / "charts" / "of-an-earlier-state.svg"
    old.parent.mkdir(parents=True)
    old.write_text("old")
    small = of_size(study, "2x128")
    report = analysis.write_report(small, tmp_path / "report.html")
    folder = analysis.exports_folder(report)
    page = report.read_text(encoding="utf-8")
    charts = {path.name for path in (folder / "charts").iterdir()}
    assert {"tradeoff_p50_ms.svg", "tradeoff_p50_ms.png", "gains-2x128.svg", "languages-xnli.png"} <= charts
    assert not old.exists()
    assert "2x128" in (folder / "charts" / "tradeoff_p50_ms.svg").read_text(encoding="utf-8")
    assert (folder / "charts" / "gains-2x128.png").read_bytes().startswith(b"\x89PNG")
    gained = pd.read_csv(folder / "tables" / "gains.csv")
    assert gained["gain"].to_numpy() == pytest.approx(analysis.gains(small)["gain"].to_numpy())
    latex = (folder / "tables" / "gains.tex").read_text(encoding="utf-8")
    assert r"\toprule" in latex
    assert r"mixture\_all" in latex
    names = {path.stem for path in folder.glob("tables/*.csv")}
    assert names == {path.stem for path in (folder / "tables").glob("*.tex")}
    assert all(f'download="{name}.csv"' in page for name in names - {"importances", "rungs"})
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_budget_and_a_comparison_open_the_report(study: StudyFrames, tmp_path: Path) -> None:
    report = write(study, tmp_path, budget="p50_ms<=3.5", other=study)
    assert "With p50 latency at most 3.5 ms, the best is size" in header(report)
    answer = report[report.index('<div class="answer">') :]
    assert answer[: answer.index("</div>")].count("<p>") == 3, "budget, size, intermediate training"
    assert "and is better with probability" in section(report, "Within the budget: p50 latency at most 3.5 ms")
    compared = section(report, "Compared with planted")
    assert "seeds do not differ: not tested" in compared, "of a study and itself"


def test_the_example_of_the_notebook_runs(study: StudyFrames) -> None:
    example = (analysis.__doc__ or "").split("In a notebook:")[1]
    code = "\n".join(line.strip() for line in example.splitlines() if "load(" not in line)
    names: dict[str, object] = {"frames": study}
    exec(code, names)
    assert callable(names["best_for_budget"])


def test_what_is_no_chart_of_vega_is_left_as_it_is() -> None:
    other = '<svg width="10" height="10"><g/></svg>'
    assert with_room(other) == other
