"""The benchmark of estimators at tiny size, and its committed scores."""

from __future__ import annotations

import pytest

from study.recipes.quickstart import quickstart
from tests.benchmark_commands.conftest import Run
from tests.benchmarks.estimators import WITHOUT, Source, _kept
from trainables.estimators.registry import ESTIMATORS


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


def test_the_kept_scores_are_of_every_cell_of_the_middle_size() -> None:
    study = quickstart()
    table = _kept(Source.quickstart, study.size("2x128"))
    cells = {(row["intermediate"], row["target"]) for row in table.to_dict("records")}
    assert cells == {(task.name, target.name) for task in study.space.intermediates for target in study.targets}
    tagged = table.set_index(["intermediate", "target"])["score"]
    assert tagged["micro_topic", "micro_tagging"] == pytest.approx(34.7, abs=0.1)  # docs/measurements.md, The first run


def test_the_kept_scores_of_real_text_leave_out_shared_data() -> None:
    from types import SimpleNamespace

    table = _kept(Source.laptop, SimpleNamespace(name="3l"))  # type: ignore[arg-type]
    cells = {(row["intermediate"], row["target"]) for row in table.to_dict("records")}
    assert ("snli_dev_test_as_train", "tatoeba") in cells
    assert ("snli_dev_test_as_train", "xnli_from_cad_nli") not in cells
    assert not any(intermediate == "none" for intermediate, _ in cells)
