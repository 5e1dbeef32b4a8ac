"""Scores as mergeable sums: shards, workers and languages add their counts, and only the total is divided.

Values are in percent. A metric counts one example at a time, so that per-example results can be stored with the total.
"""

from __future__ import annotations

from trainables.metrics.answers import F1_EM, MLQA_F1_EM, SQUAD2_F1_EM, normalise_mlqa, normalise_squad, token_f1
from trainables.metrics.base import Counts, Metric
from trainables.metrics.labels import ACCURACY, SPAN_F1
from trainables.metrics.retrieval import MAP_AT_20, MINING_F1

METRICS: dict[str, Metric] = {
    metric.name: metric for metric in (ACCURACY, SPAN_F1, F1_EM, SQUAD2_F1_EM, MLQA_F1_EM, MAP_AT_20, MINING_F1)
}

__all__ = ["METRICS", "Counts", "Metric", "normalise_mlqa", "normalise_squad", "token_f1"]
