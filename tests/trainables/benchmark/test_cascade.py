"""A cascade of two small models: what is asked of the larger one, and that it is scored as it is timed."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from analysis.tables.cascades.prediction import ALWAYS, NEVER, Pair, pair_of
from study.spec import Resources, Study
from study.tracking.examples import write_examples
from tests.support import recipes
from tests.support.serving import CPU, PAD, SHORT, queries
from trainables.benchmark.measurement import METRICS, Measured
from trainables.benchmark.scenarios.serving import CascadeServer, ModelServer
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.subjects.cascade import SMALL, CascadeBenchmark
from trainables.benchmark.subjects.checkpoint import CheckpointBenchmark
from trainables.benchmark.variants import VARIANTS
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.store.examples import read_example_scores
from trainables.store.stage_store import StageStore

SERVED = dataclasses.replace(
    BenchmarkSettings.for_window(0.5), batch_sizes=(1, 4), text_s=0.05, probes=2, probe_s=0.05, server_s=5.0
)


def test_the_larger_model_gets_what_the_smaller_is_not_sure_of() -> None:
    """Queries of several rows are decided on together."""
    asked: list[list[int]] = []

    class Recording(ModelServer):
        def serve_batch(self, indices, *, padded_to=None):  # type: ignore[no-untyped-def]
            asked.append(list(indices))
            return super().serve_batch(indices, padded_to=padded_to)

    def forward(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        return mask_NL.sum(dim=1, keepdim=True).float()

    single = queries([4, 5, 6])
    rows = (single[0] + single[1], single[2], single[0])
    own = {"pad_id": PAD, "device": CPU, "threads": 1}
    seen: dict[int, list[float]] = {}

    def unsure(index: int, logits: Tensor) -> bool:
        seen[index] = logits.flatten().tolist()
        return index != 1

    small, large = ModelServer(forward, rows, **own), Recording(forward, rows, **own)  # type: ignore[arg-type]
    server = CascadeServer(small, large, unsure)
    server.serve_batch([2, 0, 1])
    assert seen == {2: [4.0], 0: [4.0, 5.0], 1: [6.0]}
    assert asked == [[2, 0]]
    server.serve(1)
    assert asked == [[2, 0]], "nothing to ask"
    server.warm(1)
    assert asked[1:] == [[1]], "the larger model's kernels are warmed up too"


Trained = tuple[Study, Path, tuple[Evaluate, ...], tuple[Evaluate, ...], Pair]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Two sizes trained on tagging, pair classification and retrieval, without Ray."""
    output, tiny = tmp_path_factory.mktemp("cascade"), recipes.tiny()
    sizes = tuple(dataclasses.replace(size, resources=Resources()) for size in tiny.sizes)
    study = dataclasses.replace(tiny, sizes=sizes)
    work = Workplace(StageStore(output))
    chains = [study.chain(size, study.space.defaults()[0]) for size in study.sizes]
    for evaluate in (evaluate for chain in chains for evaluate in chain):
        ensure(evaluate, work)
    tables = []
    for chain in chains:
        path = write_examples(chain, output)
        assert path is not None
        tables.append(read_example_scores(path))
    pair = pair_of(study.sizes[0].name, tables[0], study.sizes[1].name, tables[1])
    assert pair is not None
    return study, output, chains[0], chains[1], pair


def cascade(trained: Trained, thresholds: dict[str, float], settings: BenchmarkSettings, variant: str) -> Measured:
    _, output, small, large, _ = trained
    first = CheckpointBenchmark(str(output), small, 1, settings, examples=str(output / "served" / "examples.parquet"))
    return CascadeBenchmark(first, large, tuple(thresholds.items())).run(variant)


@pytest.mark.slow
def test_what_is_served_is_what_stored_confidences_predict(trained: Trained) -> None:
    _, output, small, _, pair = trained
    assert set(pair.tests) == {"micro_tagging", "micro_entailment"}
    assert set(pair.alone) == {"micro_bitext"}, "retrieval does not cascade"
    thresholds = pair.thresholds_at(0.5)
    measured = cascade(trained, thresholds, SERVED, "fp32")
    assert measured["variant"] == "cascade"
    assert measured["context"]["served_as"] == "fp32"
    assert METRICS[0] in measured.values
    assert measured["test_score_without_english"] == pytest.approx(pair.test_score(thresholds, with_english=False))
    assert measured["test_score"] == pytest.approx(pair.test_score(thresholds, with_english=True))
    shares = measured["cascade"]["share"]
    assert shares.keys() == pair.tests.keys()
    for task, sets in pair.tests.items():
        expected = {language: float(of_set.answered(thresholds[task]).mean()) for language, of_set in sets.items()}
        assert shares[task] == pytest.approx(expected)
    share = pair.test_share("micro_tagging", thresholds["micro_tagging"])
    assert 0 < share < 1
    assert 0 < measured["cascade"]["timed_share"] < 1, "of the queries that were served in the time"
    alone = CheckpointBenchmark(str(output), small, 1, SHORT).run("fp32", scored=False)
    assert measured["params_m"] > 2 * alone["params_m"], "both models are held, and the larger one has more"
    assert measured["parameters"] > 2 * alone["parameters"]
    assert measured["server_p99_ms"] is not None or measured["unavailable"]["server_p99_ms"]
    assert measured["context"]["mean_ms"] > 0
    assert "not compared between batches" in measured["unavailable"]["flips_scored"]
    examples = read_example_scores(output / "served" / "examples.parquet")
    answered = examples.groupby("task", observed=True)[SMALL].mean()
    assert 0 < answered["micro_entailment"] < 1
    assert pd.isna(answered["micro_bitext"])


@pytest.mark.slow
def test_at_both_ends_a_cascade_is_one_of_its_models(trained: Trained) -> None:
    _, output, small, large, pair = trained
    quick = dataclasses.replace(SHORT, scenarios=("SingleStream",))

    def alone(evaluate: Evaluate) -> dict[str, Any]:
        benchmark = CheckpointBenchmark(str(output), (evaluate,), 1, quick)
        return benchmark.serve(evaluate, VARIANTS["fp32"], audited=False).summary

    for threshold, chain in ((ALWAYS, small), (NEVER, large)):
        measured = cascade(trained, dict.fromkeys(pair.dev, threshold), quick, "fp32")
        assert measured["cascade"]["timed_share"] == (1.0 if threshold == ALWAYS else 0.0)
        for of_small, evaluate in zip(small, chain, strict=True):
            task = evaluate.task.name  # retrieval is served by the smaller model whatever the threshold
            assert measured["scores"][task] == alone(evaluate if task in pair.tests else of_small)


@pytest.mark.slow
def test_a_variant_that_changes_numbers_is_scored_as_it_is_timed(trained: Trained) -> None:
    """int8 is routed by its own confidences: the share may differ from that of fp32, and the score is of what was served."""
    *_, pair = trained
    quick = dataclasses.replace(SHORT, scenarios=("SingleStream",))
    thresholds = pair.thresholds_at(0.5)
    if not torch.backends.quantized.supported_engines:
        pytest.skip("no engine for int8")
    measured = cascade(trained, thresholds, quick, "int8")
    assert measured["context"]["served_as"] == "int8"
    assert measured.scored
