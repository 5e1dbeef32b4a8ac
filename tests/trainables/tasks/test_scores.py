"""Scores of every task: perfect outputs score 100, random ones chance, and metrics merge over shards."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.trainables.tasks.suite import (
    LABELLED,
    Featurise,
    counts_of,
    is_candidate,
    make,
    mean_score,
    outputs_of,
    perfect_outputs,
    random_outputs,
    scored,
)
from trainables.heads import HEADS
from trainables.metrics import METRICS, Counts
from trainables.tasks.published_task import PublishedTask

pytestmark = pytest.mark.usefixtures("on_mini_root")

GUESSES = 2000  # a standard error of 1.1 points around 50%
# A random model picks one of a question's choices with equal probability.
DRAWN_FROM_CHOICES = ("pair_classification", "multiple_choice", "bitext_retrieval", "dual_encoder")
# Points by which random guesses may exceed a chance of 0, which is stated for published sizes. In miniature, a random span of
# 20 words overlaps with the answer (MLQA: 7.8), and one in 20 mined sentences is right (BUCC: 3.6).
SMALL_SETS = 10.0


@pytest.mark.parametrize("name", LABELLED)
class TestScoresOfEveryTask:
    def test_perfect_predictions_score_100(self, name: str, featurise: Featurise) -> None:
        task = make(name)
        outputs = perfect_outputs(task, scored(featurise(task)))
        value = METRICS[task.metric].value
        scores = [value(sum(counts, Counts())) for counts in counts_of(task, outputs) if counts]
        assert scores == pytest.approx([100.0] * len(scores))
        assert len(scores) == len(outputs) - len(task.pools)

    def test_perfect_predictions_are_the_references(self, name: str, featurise: Featurise) -> None:
        task = make(name)
        head, outputs = HEADS[task.head], perfect_outputs(task, scored(featurise(task)))
        for of_set, predictions in zip(outputs, head.decode_all(outputs, task), strict=True):
            for prediction, example in zip(predictions, of_set.examples, strict=True):
                reference = head.reference(example, task)
                match task.head:
                    case "span_extraction":
                        assert prediction in (reference or ("",))
                    case "dual_encoder":
                        assert set((prediction or ())[: len(reference or ())]) == set(reference or ())
                    case "bitext_mining":
                        assert prediction == (reference or ())
                    case _:
                        assert prediction == reference

    def test_chance_predictions_score_chance(
        self, name: str, featurise: Featurise, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = make(name)
        sets = [a_set for a_set in scored(featurise(task)) if a_set.split == "test" or task.role == "intermediate"]
        if isinstance(task, PublishedTask):
            task = dataclasses.replace(task, test_size=10)  # the size of whole sets, on which Tatoeba's chance depends
        # Chance is stated for the published candidate pools; here it is that of the miniature pools.
        pools = {a_set.language: sum(is_candidate(example) for example in a_set.examples) for a_set in sets}
        monkeypatch.setattr("trainables.tasks.xtreme.lareqa.SENTENCES", pools)
        monkeypatch.setattr("trainables.tasks.xtreme.mewslix.CANDIDATES", sum(pools.values()))
        if task.calibrated:
            sets = scored(featurise(task))
        words_are_spans = task.head == "tagging" and all(label.startswith("B-") for label in task.labels)
        from_choices = words_are_spans or task.head in DRAWN_FROM_CHOICES
        draws = max(10, GUESSES // sum(len(a_set.examples) for a_set in sets) if from_choices else 0)
        rng = np.random.default_rng(0)
        scores = [mean_score(task, random_outputs(task, sets, rng)) for _ in range(draws)]
        error = float(np.std(scores, ddof=1) / np.sqrt(draws))
        assert np.mean(scores) <= task.chance() + 4 * error + (0.0 if task.chance() else SMALL_SETS)
        if from_choices:
            assert np.mean(scores) >= task.chance() - 4 * error
            assert error < task.chance() / 10  # otherwise the bounds allow anything

    def test_the_same_answer_to_everything_scores_chance(self, name: str, featurise: Featurise) -> None:
        """For tasks whose chance is the score of predicting no names or no answers."""
        task = make(name)
        if task.unanswerable or task.labels[:1] == ("O",):
            sets = scored(featurise(task))
            zeros = [[np.zeros_like(values) for values in of_set.logits] for of_set in perfect_outputs(task, sets)]
            same = outputs_of(sets, zeros)
            assert mean_score(task, same) == pytest.approx(task.chance())

    def test_metrics_merge_over_shards(self, name: str, featurise: Featurise) -> None:
        task = make(name)
        head, metric, sets = HEADS[task.head], METRICS[task.metric], scored(featurise(task))
        right = head.decode_all(perfect_outputs(task, sets), task)
        wrong = head.decode_all(random_outputs(task, sets, np.random.default_rng(1)), task)
        values = []
        for a_set, *predictions in zip(sets, right, wrong, strict=True):
            gold = [head.reference(example, task) for example in a_set.examples]
            rows = [row for row in range(len(gold)) if gold[row] is not None]
            # At least half of the predictions are right.
            mixed = [predictions[row % 2][row] for row in rows]
            gold = [gold[row] for row in rows]
            if rows:
                whole = metric.total(mixed, gold, language=a_set.language)
                for workers in (2, 3):
                    parts = [(mixed[rank::workers], gold[rank::workers]) for rank in range(workers)]
                    merged = sum((metric.total(*part, language=a_set.language) for part in parts), Counts())
                    assert metric.value(merged) == pytest.approx(metric.value(whole))
                    assert metric.parts(merged) == pytest.approx(metric.parts(whole))
                values.append(metric.value(whole))
        assert min(values) > 0.0
        assert np.mean(values) < 100.0
