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
from trainables.heads import HEADS
from trainables.store.examples import CONFIDENCE, EXAMPLES, read_example_scores, write_example_scores
from trainables.store.stage_store import StageStore


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
        assert set(table["split"]) == {"dev", "test"}
        assert set(table.loc[table["split"] == "dev", "language"]) == {"en"}, (
            "selection and cascades read English dev only"
        )
        tests = table[table["split"] == "test"]
        for (task, language), examples in tests.groupby(["task", "language"], observed=True):
            assert list(examples["example"]) == list(range(len(examples)))
            if task in ("micro_entailment", "micro_bitext"):
                score = run.data.metrics[f"test/{task}/{language}"]
                assert 100 * examples["correct"].sum() / examples["total"].sum() == pytest.approx(score)


def test_an_unfinished_chain_has_no_file(tmp_path: Path) -> None:
    study = recipes.inline()
    assert write_examples(study.chain(study.sizes[0], study.space.defaults()[0]), tmp_path) is None


def test_a_file_of_an_earlier_version_gets_what_a_cascade_needs(tmp_path: Path) -> None:
    """It lacked confidences, then English dev. Retrieval does not cascade: it has neither."""
    study = recipes.inline()
    chain = study.chain(study.sizes[0], study.space.defaults()[0])
    store = StageStore(tmp_path)
    for evaluate in chain:
        workspace = store.workspace(evaluate)
        table = pd.DataFrame(
            {
                "split": ["dev", "test", "test"],
                "language": ["en", "en", "de"],
                "example": [0, 0, 0],
                "total": [1.0, 1.0, 1.0],
            }
        )
        if HEADS[evaluate.task.head].cascades:
            table[CONFIDENCE] = 0.5
        write_example_scores(table, workspace / EXAMPLES)
        store.commit(evaluate, workspace, {}, {})
    path = write_examples(chain, tmp_path)
    assert path is not None
    now = read_example_scores(path)
    assert [len(now[(now["task"] == task.name) & (now["split"] == "dev")]) for task in study.targets] == [1, 1, 0]
    of_earlier_versions = (
        now.drop(columns=CONFIDENCE),
        now[now["split"] == "test"],
        now[~((now["split"] == "dev") & (now["task"] == study.targets[1].name))],
    )
    for earlier in of_earlier_versions:
        write_example_scores(earlier, path)
        assert write_examples(chain, tmp_path) == path
        pd.testing.assert_frame_equal(read_example_scores(path), now)
    before = path.stat().st_mtime_ns
    write_examples(chain, tmp_path)
    assert path.stat().st_mtime_ns == before, "a complete file is kept"
    retrieval = chain[-1:]
    alone = write_examples(retrieval, tmp_path)
    assert alone is not None
    before = alone.stat().st_mtime_ns
    write_examples(retrieval, tmp_path)
    assert alone.stat().st_mtime_ns == before, "nothing of it cascades"
