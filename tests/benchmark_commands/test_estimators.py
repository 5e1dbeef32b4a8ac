"""The benchmark of estimators at tiny size, and its committed scores."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from analysis import read_saved
from analysis.store.saved import save
from study.recipes.laptop import laptop
from study.recipes.quickstart import quickstart
from study.run.identity import check_identity
from tests.benchmark_commands.conftest import Run
from tests.benchmarks import estimators, estimators_results
from tests.benchmarks.estimators import WITHOUT, Source
from tests.benchmarks.laptop_results import filled
from trainables.estimators.registry import ESTIMATORS

SIZE_3L: Any = SimpleNamespace(name="3l")  # a size is known by its name


@pytest.mark.slow
def test_it_runs_to_its_json_and_grades_every_estimator(run_with_ray: Run) -> None:
    document = run_with_ray("estimators", "--quick").document
    assert {row["estimator"] for row in document["summary"]} == set(ESTIMATORS)
    for row in document["grades"]:
        assert row["choices"] == 3
        assert row["points_3"] == row["random_points_3"] == 0  # the first three of three
        assert row["random_points_1"] >= 0
    assert {row["target"] for row in document["grades"]} <= set(WITHOUT) - {"micro_bitext"}
    assert len(document["scores"]) == 3 * len(WITHOUT)
    assert document["seeds"] == 1
    text = estimators_results.graded(document)
    assert "3 intermediate choices, 1 seed" in text
    assert "With one seed the best score is partly the luckiest" in text
    assert all(f"| `{name}` |" in text for name in ESTIMATORS)


def test_the_page_has_the_tables_that_the_command_prints() -> None:
    page = estimators_results.PAGE.read_text(encoding="utf-8")
    assert filled(page, estimators_results.blocks()) == page, (
        "run `python -m tests.benchmarks.estimators_results --write`"
    )


def test_what_was_not_measured_says_so_and_several_seeds_are_not_one(tmp_path: Path) -> None:
    saved = estimators.SAVED / "quickstart.json"
    (tmp_path / "quickstart.json").write_text(saved.read_text(encoding="utf-8"), encoding="utf-8")
    tables = estimators_results.blocks(tmp_path)
    assert tables["estimators-micro_grid"] == tables["estimators-laptop"] == "Not measured yet."
    assert "4 intermediate choices, 6 seeds" in tables["estimators-quickstart"]
    assert "luckiest" not in tables["estimators-quickstart"]


def test_the_table_is_of_the_scores_and_estimates_and_not_of_what_was_graded_before() -> None:
    """A probe whose estimates are the scores has no regret; the saved grades say otherwise."""
    document = json.loads((estimators.SAVED / "quickstart.json").read_text(encoding="utf-8"))
    scores = {(row["target"], row["intermediate"]): row["score"] for row in document["scores"]}
    (probe,) = (ranking for ranking in document["rankings"] if ranking["estimator"] == "probe")
    for target, of_target in probe["targets"].items():
        of_target["values"] = {name: scores[target, name] for name in of_target["values"] if (target, name) in scores}
    (row,) = (line for line in estimators_results.graded(document).splitlines() if line.startswith("| `probe`"))
    assert "| 0.0 (6.2) | 0.0 (1.5) | +1.00" in row


def test_every_seed_of_the_size_that_is_kept_counts_and_one_is_enough(tmp_path: Path) -> None:
    kept = estimators.MEASURED / "laptop"
    one = estimators._kept(Source.laptop, SIZE_3L)
    for name in ("3l-seed0.json", "3l-seed0.run.json"):  # without scores by example
        (tmp_path / name).write_bytes((kept / name).read_bytes())
    alone = estimators._kept(Source.laptop, SIZE_3L, laptop_folder=tmp_path)
    assert set(alone["seeds"]) == {1}
    frames = read_saved(kept / "3l-seed0.json")
    further = dataclasses.replace(
        frames,
        context=frames.context | {"seed": "1"},
        trials=frames.trials.assign(seed=1),
        scores=frames.scores.assign(value=frames.scores["value"] + 1.0),
    )
    save(further, tmp_path / "3l-seed1.json")
    both = estimators._kept(Source.laptop, SIZE_3L, laptop_folder=tmp_path)
    assert set(both["seeds"]) == {2}
    keys = ["target", "intermediate"]
    means = both.set_index(keys)["score"] - alone.set_index(keys)["score"]
    assert means.dropna().to_numpy() == pytest.approx(0.5)
    assert len(one) >= len(alone)


def test_kept_estimates_are_graded_by_all_seeds_that_are_kept() -> None:
    document = json.loads((estimators.SAVED / "laptop.json").read_text(encoding="utf-8"))
    again = estimators.regraded(document, Source.laptop)
    assert again == document, "run `python -m tests.benchmarks.estimators --source laptop --regrade --save`"
    better = [row | {"score": row["score"] + 1.0} for row in document["scores"]]
    assert estimators.regraded(document | {"scores": better, "seeds": 1}, Source.laptop) == document


def test_a_folder_in_which_one_size_was_run_without_repeats_is_the_study_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    study = laptop()
    check_identity(study.replace(sizes=("3l",), repeats=0), tmp_path)
    check_identity(study, tmp_path)
    assert study.size("3l").resources.inline, "its estimates are computed in one process"


def test_the_kept_scores_are_of_every_cell_of_the_middle_size() -> None:
    study = quickstart()
    table = estimators._kept(Source.quickstart, study.size("2x128"))
    cells = {(row["intermediate"], row["target"]) for row in table.to_dict("records")}
    assert cells == {(task.name, target.name) for task in study.space.intermediates for target in study.targets}
    tagged = table.set_index(["intermediate", "target"])["score"]
    assert tagged["micro_topic", "micro_tagging"] == pytest.approx(34.7, abs=0.1)  # docs/measurements.md, The first run


def test_the_kept_scores_of_real_text_leave_out_shared_data() -> None:
    table = estimators._kept(Source.laptop, SIZE_3L)
    cells = {(row["intermediate"], row["target"]) for row in table.to_dict("records")}
    assert ("snli_dev_test_as_train", "tatoeba") in cells
    assert ("snli_dev_test_as_train", "xnli_from_cad_nli") not in cells
    assert not any(intermediate == "none" for intermediate, _ in cells)
