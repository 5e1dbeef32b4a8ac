"""Scores by example: one file per finished trial, attached to its run, whose sums give the logged scores."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from study.tracking.examples import write_examples
from study.tracking.tracker import default_uri
from tests.support import recipes
from tests.support.shared_runs import TinyRun


def test_every_finished_trial_has_its_scores_by_example(tiny_run: TinyRun) -> None:
    """For the tasks scored by accuracy, the mean over the examples is the logged score."""
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
        for (task, language), examples in table.groupby(["task", "language"], observed=True):
            assert list(examples["example"]) == list(range(len(examples)))
            if task in ("micro_entailment", "micro_bitext"):
                score = run.data.metrics[f"test/{task}/{language}"]
                assert 100 * examples["correct"].sum() / examples["total"].sum() == pytest.approx(score)


def test_an_unfinished_chain_has_no_file(tmp_path: Path) -> None:
    study = recipes.inline()
    assert write_examples(study.chain(study.sizes[0], study.space.defaults()[0]), tmp_path) is None
