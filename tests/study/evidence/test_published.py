"""What README.md says of the quickstart follows from the bundle that ships with it, and the bundle from its predictions."""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from study.cli.app import app
from study.evidence.agreement import served_scores
from study.evidence.archive import Archive
from study.evidence.bundle import read_bundle, read_json, read_table
from study.evidence.verify import Verified, verify
from tests.support.bundles import contents, resealed, rewritten, with_table
from tests.support.commands import ROOT
from tests.support.published import (
    BUNDLE,
    END,
    MOST_BYTES,
    PAGES,
    PUBLISHED,
    RUN,
    START,
    block_of,
    checked,
    digest_of,
    publish,
    results,
)
from trainables.metrics import METRICS, Counts
from trainables.store.answers import ANSWERS, count_again
from trainables.store.manifests import MANIFEST

REMEDY = f"run python -m tests.support.published {BUNDLE} (docs/contributing.md, Published results)"
README, EVIDENCE = (ROOT / page for page in PAGES)
SHIPPED = ROOT / BUNDLE


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """Of the run whose speeds are published."""
    content: dict[str, Any] = json.loads((ROOT / RUN).read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def verified() -> Verified:
    return verify(SHIPPED)


@pytest.mark.slow
def test_the_shipped_bundle_has_no_fault_and_prints_what_the_page_says(
    verified: Verified, document: dict[str, Any]
) -> None:
    assert (verified.faults, verified.remarks) == ([], []), REMEDY
    assert verified.recounted == verified.evaluations == 45, "nine trials, five targets"
    assert block_of(EVIDENCE.read_text(encoding="utf-8")) == checked(SHIPPED, document, verified), REMEDY


def test_readme_shows_the_bundle_s_scores_and_the_run_s_speeds(document: dict[str, Any]) -> None:
    assert block_of(README.read_text(encoding="utf-8")) == results(SHIPPED, document), REMEDY


def test_the_bundle_is_small_and_names_no_folder_of_a_machine() -> None:
    assert SHIPPED.stat().st_size <= MOST_BYTES
    for name, content in contents(SHIPPED).items():
        assert not re.findall(rb"/(?:home|root|tmp|work|Users|mnt|var)/", content), name


def test_the_scores_in_readme_follow_from_the_predictions() -> None:
    """By the metrics alone, without the tables, scores and sums that the bundle has as well."""
    benchmarks = read_bundle(SHIPPED).benchmarks
    evaluations = read_bundle(SHIPPED).evaluations
    rows = [line.strip("| ").split(" | ") for line in block_of(README.read_text(encoding="utf-8")).splitlines()]
    shown = {row[0]: (row[3], row[4]) for row in rows[2:] if len(row) > 1}
    assert set(shown) == {"1x64", "2x128", "4x192"}
    with Archive(SHIPPED) as archive:
        for size, (score, without) in shown.items():
            (name,) = (name for name in archive.files if re.match(rf"runs/0/benchmarks/{size}-fp32@\w+\.json$", name))
            metrics = {task: of["metric"] for task, of in served_scores(read_json(archive, name)).items()}
            served = read_table(archive, name.replace(".json", f"/{ANSWERS}"))
            by_task = {task: served[served["task"].astype(str) == task] for task in metrics}
            assert f"{_mean_without_english(by_task, metrics):.1f}" == score
            row = benchmarks[(benchmarks["size"] == size) & (benchmarks["variant"] == "fp32")].iloc[0]
            trial = row["baseline_trial_id"] or row["trial_id"]
            own = evaluations[(evaluations["size"] == size) & (evaluations["trial_id"] == trial)]
            stages = dict(zip(own["task"], own["stage"], strict=True))
            answers = {task: read_table(archive, f"runs/0/stages/{stage}/{ANSWERS}") for task, stage in stages.items()}
            assert answers.keys() == metrics.keys()
            assert f"{_mean_without_english(answers, metrics):.1f}" == without


def _mean_without_english(answers: dict[str, pd.DataFrame], metrics: dict[str, str]) -> float:
    """The mean over tasks of the mean over their languages, from predictions and references."""
    means = []
    for task, table in answers.items():
        totals: dict[str, Counts] = {}
        for row in table[(table["split"].astype(str) == "test")].to_dict("records"):
            language = str(row["language"])
            counts = count_again(
                metrics[task], prediction=row["prediction"], reference=row["reference"], language=language
            )
            totals[language] = totals.get(language, Counts()) + counts
        values = [METRICS[metrics[task]].value(total) for language, total in totals.items() if language != "en"]
        means.append(sum(values) / len(values))
    return sum(means) / len(means)


@pytest.mark.slow
def test_one_other_prediction_in_it_is_named(tmp_path: Path) -> None:
    """Even with all digests made again."""
    members = contents(SHIPPED)
    folder = next(
        name.removesuffix(ANSWERS) for name in sorted(members) if "micro_follows-2x128" in name and ANSWERS in name
    )

    def change(table: pd.DataFrame) -> pd.DataFrame:
        right = str(table.loc[100, "reference"])
        table.loc[100, "prediction"] = (
            ("1" if right == "0" else "0") if table.loc[100, "prediction"] == right else right
        )
        return table

    answers = with_table(members[folder + ANSWERS], change, tmp_path)
    members |= {folder + ANSWERS: answers, folder + MANIFEST: resealed(members[folder + MANIFEST], answers=answers)}
    copy = Path(shutil.copy(SHIPPED, tmp_path))
    faults = verify(rewritten(copy, members)).faults
    assert sum(fault.startswith(f"{folder}{ANSWERS}: ") and " example " in fault for fault in faults) == 1


@pytest.mark.slow
def test_report_and_compare_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.report.exports.vlc.vegalite_to_svg", lambda text: "<svg/>")
    monkeypatch.setattr("analysis.report.exports.vlc.vegalite_to_png", lambda text, scale: b"")
    ran = CliRunner().invoke(app, ["report", str(SHIPPED), "--to", str(tmp_path / "report.html")])
    assert ran.exit_code == 0, ran.output
    assert "micro_paraphrase" in (tmp_path / "report.html").read_text(encoding="utf-8")
    ran = CliRunner().invoke(app, ["compare", str(SHIPPED), str(SHIPPED)])
    assert ran.stdout.splitlines()[0] == "identical: same scores and settings", ran.output


# --- the command that publishes


@pytest.mark.slow
def test_tables_of_an_earlier_version_of_the_report_are_computed_again(repository: Path, tmp_path: Path) -> None:
    members, index = contents(SHIPPED), digest_of(SHIPPED)
    del members["report/trials.csv"]
    earlier = rewritten(Path(shutil.copy(SHIPPED, tmp_path)), members)
    shutil.copy(ROOT / RUN, repository / RUN)
    publish(earlier, None, root=repository)
    published, shipped = contents(repository / BUNDLE), contents(SHIPPED)
    assert published.keys() == shipped.keys()
    for name in published:
        if published[name] != shipped[name]:  # in the last digit, as CPUs round differently
            assert re.fullmatch(r"report/\w+\.csv", name), f"nothing else differs: {name}"
            again, before = (pd.read_csv(io.BytesIO(content)) for content in (published[name], shipped[name]))
            pd.testing.assert_frame_equal(again, before, rtol=1e-6)  # ends of intervals are found by a search
    readme = (repository / PAGES[0]).read_text(encoding="utf-8")
    digest = digest_of(repository / BUNDLE)
    assert block_of(readme).replace(digest, index) == block_of(README.read_text(encoding="utf-8"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with nothing but the pages and a chart of an earlier run."""
    root = tmp_path / "repository"
    (root / PUBLISHED).mkdir(parents=True)
    (root / PUBLISHED / "tradeoff_p50_ms.svg").write_text("earlier", encoding="utf-8")
    for page in PAGES:
        (root / page).write_text(f"before\n{START}\nearlier\n{END}\nafter\n", encoding="utf-8")
    return root


def printed(folder: Path, output: Path) -> tuple[Path, dict[str, Any]]:
    """What the run of the kept output printed, as it printed it, and its document."""
    text = (output.parent / "document.json").read_text(encoding="utf-8")
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(text)) + "\n", encoding="utf-8")
    return path, json.loads(text)


@pytest.mark.slow
def test_one_command_publishes_a_run(with_answers: Path, repository: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(with_answers, tmp_path / "output"))
    charts = output / "report_files" / "charts"
    charts.mkdir(parents=True, exist_ok=True)
    (charts / "tradeoff_p50_ms.svg").write_text("new", encoding="utf-8")
    run, document = printed(tmp_path, with_answers)
    publish(output, run, root=repository)
    assert (repository / PUBLISHED / "tradeoff_p50_ms.svg").read_text(encoding="utf-8") == "new"
    assert json.loads((repository / RUN).read_text(encoding="utf-8"))["sizes"] == document["sizes"]
    readme, evidence = ((repository / page).read_text(encoding="utf-8") for page in PAGES)
    assert readme.startswith(f"before\n{START}\n| size | ")
    assert readme.endswith(f"{END}\nafter\n")
    for size in document["sizes"]:
        assert re.search(rf"^\| {size['name']} \|.* {size['bench'][0]['p50_ms']:.2f} ms \|", readme, re.MULTILINE)
    assert digest_of(repository / BUNDLE) in readme
    assert digest_of(repository / BUNDLE) in evidence
    assert "The quickstart's scores and speeds in README are of this run." in evidence
    assert "no faults" in evidence


@pytest.mark.slow
def test_of_a_run_beside_other_work_scores_are_published_and_speeds_are_not(
    with_answers: Path, repository: Path, tmp_path: Path
) -> None:
    document = printed(tmp_path, with_answers)[1]
    bench = document["sizes"][0]["bench"][0]
    (repository / RUN).write_text(json.dumps(document | {"sizes": _with(document, p50_ms=0.123)}), encoding="utf-8")
    publish(with_answers, None, root=repository)
    readme, evidence = ((repository / page).read_text(encoding="utf-8") for page in PAGES)
    assert "0.12 ms" in readme
    assert "Its speeds are not" in evidence
    assert (repository / PUBLISHED / "tradeoff_p50_ms.svg").read_text(encoding="utf-8") == "earlier"
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    other = _with(document, test_score_without_english=bench["test_score_without_english"] + 1)
    (repository / RUN).write_text(json.dumps(document | {"sizes": other}), encoding="utf-8")
    with pytest.raises(ValueError, match="give what `run` printed, of a quiet machine"):
        publish(with_answers, None, root=repository)
    del before[repository / RUN]
    assert all(path.read_bytes() == content for path, content in before.items())


def _with(document: dict[str, Any], **values: float) -> list[dict[str, Any]]:
    """The sizes of a document with other values of the first measurement."""
    first, *others = document["sizes"]
    bench, *rest = first["bench"]
    return [first | {"bench": [bench | values, *rest]}, *others]
