"""Scores by example: one file a finished trial, attached to its run, whose sums give the scores that were logged."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from study.tracking.examples import write_examples
from study.tracking.tracker import default_uri
from tests.conftest import Ran
from tests.support import recipes

TinyRun = tuple[Path, Ran]


def test_every_finished_trial_has_its_scores_by_example(tiny_run: TinyRun) -> None:
    """For the tasks that are scored by accuracy, the mean of the examples is the score that was logged."""
    output, _ = tiny_run
    client = MlflowClient(tracking_uri=default_uri(output))
    experiment = client.get_experiment_by_name("tiny")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.kind = 'trial' and tags.outcome = 'complete'")
    assert len(runs) >= 4, "the default cells of both sizes"
    for run in runs:
        table = pd.read_parquet(Path(client.download_artifacts(run.info.run_id, "examples.parquet")))
        assert list(table.columns[:4]) == ["task", "split", "language", "example"]
        assert set(table["split"]) == {"test"}
        for (task, language), some in table.groupby(["task", "language"], observed=True):
            assert list(some["example"]) == list(range(len(some)))
            if task in ("micro_entailment", "micro_bitext"):
                score = run.data.metrics[f"test/{task}/{language}"]
                assert 100 * some["correct"].sum() / some["total"].sum() == pytest.approx(score)


def test_a_chain_that_is_not_finished_has_none(tmp_path: Path) -> None:
    study = recipes.inline()
    assert write_examples(study.chain(study.sizes[0], study.space.defaults()[0]), tmp_path) is None
