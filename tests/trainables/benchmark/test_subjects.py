"""Subjects: plain folders, architectures, and the models of a finished study."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from study.tracking.examples import write_examples
from tests.benchmarks.gpu_settings import TINY
from tests.support import recipes
from tests.support.serving import SHORT, plain_folder, target_stage
from tests.support.shared_runs import TinyRun
from trainables.benchmark.flips import Flips
from trainables.benchmark.measurement import outcome_to_json
from trainables.benchmark.subjects import checkpoint
from trainables.benchmark.subjects.cascade import Cascaded
from trainables.benchmark.subjects.checkpoint import CheckpointBenchmark
from trainables.benchmark.subjects.plain import ArchitectureBenchmark, FolderBenchmark
from trainables.benchmark.subjects.rebuild import evaluation_of
from trainables.benchmark.variants import VARIANTS, Variant
from trainables.benchmark.variants.eager import Fp32
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.store.stage_store import Damaged, StageStore
from trainables.tasks.micro.entailment import MicroEntailment


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_folder(tmp_path_factory.mktemp("encoder"))


def test_a_plain_folder_is_measured_and_compared_with_eager_fp32(folder: Path) -> None:
    measured = FolderBenchmark(str(folder), MicroEntailment(), threads=1, settings=SHORT).run("int8")
    document = json.loads(json.dumps(outcome_to_json(measured), allow_nan=False))
    assert document["p50_ms"] > 0
    assert document["tokenise_p50_ms"] is None
    assert "no tokenizer" in document["unavailable"]["tokenise_p50_ms"]
    assert document["timed_task"] == "random tokens, lengths of XNLI"
    assert document["mean_pieces"] == pytest.approx(39.75, abs=0.5)  # XNLI's English dev pairs: 39.7
    assert 0.95 < document["agreement"]["cosine_lowest"] <= document["agreement"]["cosine_mean"] < 1
    assert document["server_qps"] is None
    assert document["unavailable"]["server_qps"] == "Server was not asked for"


def test_an_architecture_is_measured_with_random_weights_and_not_scored() -> None:
    measured = ArchitectureBenchmark("xlm-r-large", 1, SHORT, changes=tuple(TINY.items())).run("fp32")
    assert measured["weights"] == "random"
    assert not {"agreement", "test_score"} & measured.values.keys()
    assert measured["params_m"] == measured["parameters"] / 1e6


class Silent(Variant):
    """The same answer from every model."""

    name = "silent"

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        forward = VARIANTS["fp32"].prepare(model, device)
        return lambda ids_NL, mask_NL: torch.zeros_like(forward(ids_NL, mask_NL))


class Zeros(Fp32):
    """Derived from a variant that is not scored again."""

    name = "zeros"

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        forward = super().prepare(model, device)
        return lambda ids_NL, mask_NL: torch.zeros_like(forward(ids_NL, mask_NL))


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[Evaluate, ...], tuple[Evaluate, ...]]:
    """A stage store, and two finished chains in it: with an intermediate task and without."""
    study = dataclasses.replace(recipes.inline(), targets=recipes.tiny().targets[:2])
    output = tmp_path_factory.mktemp("chains")
    by_task = {choice.intermediate: study.chain(study.sizes[0], choice) for choice in study.space.defaults()}
    for evaluation in (evaluation for chain in by_task.values() for evaluation in chain):
        ensure(evaluation, Workplace(StageStore(output)))
    return output, by_task["micro_topic"], by_task["none"]


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fp32", "cut"])
def test_what_the_evaluations_computed_is_not_computed_again_and_would_be_the_same_to_the_last_bit(
    chains: tuple[Path, tuple[Evaluate, ...], tuple[Evaluate, ...]],
    variant: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    output, chain, baseline = chains
    files = {name: tmp_path / f"{name}.parquet" for name in ("recorded", "served")}
    monkeypatch.setattr(CheckpointBenchmark, "_time", lambda *_: {})

    def run(name: str) -> dict[str, Any]:
        subject = CheckpointBenchmark(str(output), chain, 1, SHORT, baseline=baseline, examples=str(files[name]))
        return dict(subject.run(variant).values)

    with monkeypatch.context() as patch:
        patch.setattr(Evaluate, "outputs", lambda *_: pytest.fail("scored again"))
        recorded = run("recorded")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "versions", lambda: {"torch": "another"})
        served = run("served")
    assert recorded == served
    assert recorded["flips_examples"] > 0
    pd.testing.assert_frame_equal(pd.read_parquet(files["recorded"]), pd.read_parquet(files["served"]))


def test_a_recipes_own_variant_is_scored_whatever_it_is_derived_from(
    chains: tuple[Path, tuple[Evaluate, ...], tuple[Evaluate, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, chain, _ = chains
    monkeypatch.setattr(CheckpointBenchmark, "_time", lambda *_: {})
    zeros = CheckpointBenchmark(str(output), chain, 1, SHORT).run(Zeros())
    fp32 = CheckpointBenchmark(str(output), chain, 1, SHORT).run("fp32")
    assert zeros["test_score"] < fp32["test_score"]


class Counting(Fp32):
    """Keeps how many rows it is given at a time."""

    name = "counting"

    def __init__(self, *, depends_on_batch: bool) -> None:
        self.depends_on_batch, self.rows = depends_on_batch, set[int]()

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        forward = super().prepare(model, device)

        def counted(ids_NL: torch.Tensor, mask_NL: torch.Tensor) -> torch.Tensor:
            self.rows.add(len(ids_NL))
            return forward(ids_NL, mask_NL)

        return counted


@pytest.mark.parametrize("depends_on_batch", [False, True])
def test_a_variant_whose_answers_depend_on_the_batch_is_scored_on_single_queries(
    chains: tuple[Path, tuple[Evaluate, ...], tuple[Evaluate, ...]],
    depends_on_batch: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are what it is timed on. The tasks have one row a query."""
    output, chain, _ = chains
    monkeypatch.setattr(CheckpointBenchmark, "_time", lambda *_: {})
    monkeypatch.setattr(checkpoint, "count_flips", lambda *_, **__: Flips(0, 0, 0, 0, 0))
    variant = Counting(depends_on_batch=depends_on_batch)
    measured = CheckpointBenchmark(str(output), chain, 1, SHORT).run(variant)
    assert (max(variant.rows) == 1) is depends_on_batch
    fp32 = CheckpointBenchmark(str(output), chain, 1, SHORT).run("fp32")
    assert measured["test_score"] == pytest.approx(fp32["test_score"], abs=0.5)


def test_the_variants_whose_answers_depend_on_the_batch() -> None:
    dependent = {name for name, variant in VARIANTS.items() if variant.depends_on_batch}
    assert dependent == {"int8", "onnx_int8", "cut_int8", "cut_onnx_int8"}
    assert Cascaded(VARIANTS["int8"]).depends_on_batch


@pytest.mark.slow
def test_a_baseline_is_scored_as_served_and_not_timed(
    chains: tuple[Path, tuple[Evaluate, ...], tuple[Evaluate, ...]],
) -> None:
    output, chain, baseline = chains
    subject = CheckpointBenchmark(str(output), chain, 1, SHORT, baseline=baseline)
    measured = subject.run("fp32")
    for scored, evaluations in ((measured.values, chain), (measured["baseline"], baseline)):
        recorded = {evaluation.task.name: StageStore(output).find(evaluation) for evaluation in evaluations}
        assert {task: score["test_mean"] for task, score in scored["scores"].items()} == {
            task: pytest.approx(finished.metrics["test_mean"]) for task, finished in recorded.items() if finished
        }
        assert scored["scores"].keys() == recorded.keys()
        means = [score["test_mean_without_english"] for score in scored["scores"].values()]
        assert scored["test_score_without_english"] == pytest.approx(sum(means) / 2)
    assert measured["baseline"].keys() == {"scores", "test_score", "test_score_without_english"}
    assert measured["timed_task"] == chain[0].task.name
    silent = subject.run(Silent())
    assert silent["baseline"]["test_score"] == silent["test_score"], "served as the same variant, which answers nothing"


@pytest.mark.slow
def test_without_scores_or_without_a_baseline_nothing_more_is_done(
    chains: tuple[Path, tuple[Evaluate, ...], tuple[Evaluate, ...]],
) -> None:
    output, chain, baseline = chains
    assert "baseline" not in CheckpointBenchmark(str(output), chain, 1, SHORT).run("fp32").values
    unscored = CheckpointBenchmark(str(output), chain, 1, SHORT, baseline=baseline).run("fp32", scored=False)
    assert not {"baseline", "scores"} & unscored.values.keys()


@pytest.mark.slow
def test_a_baseline_that_is_not_finished_is_refused_before_anything_is_timed(
    chains: tuple[Path, tuple[Evaluate, ...], tuple[Evaluate, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    output, chain, _ = chains
    study = recipes.inline()
    unfinished = study.chain(study.sizes[0], dataclasses.replace(study.space.defaults()[0], seed=9))
    monkeypatch.setattr(CheckpointBenchmark, "_time", lambda *_: pytest.fail("timed"))
    with pytest.raises(FileNotFoundError, match="not a finished stage"):
        CheckpointBenchmark(str(output), chain, 1, SHORT, baseline=unfinished).run("fp32")


def test_a_stages_model_is_timed_on_its_own_texts_and_scored_by_the_same_forward(tiny_run: TinyRun) -> None:
    output, _ = tiny_run
    evaluation = evaluation_of(target_stage(output))
    assert evaluation is not None
    measured = CheckpointBenchmark(str(output), (evaluation,), 1, SHORT).run("fp32")
    recorded = StageStore(output).find(evaluation)
    assert recorded is not None
    assert measured["test_score"] == pytest.approx(recorded.metrics["test_mean"])
    assert set(measured["languages"]) == {"en", "de", "zh"}
    assert measured["languages"]["de"]["pieces_per_word"] > 1
    assert "pieces_per_word" not in measured["languages"]["zh"], "written without spaces"
    assert measured["test_score_without_english"] == pytest.approx(recorded.metrics["test_mean_without_english"])
    for language in measured["languages"].values():
        assert language["throughput_sps"] > 0
        assert language["mean_pieces"] > 3
    assert measured["end_to_end_p50_ms"] > measured["tokenise_p50_ms"] > 0


def test_a_damaged_model_is_not_measured(tiny_run: TinyRun, tmp_path: Path) -> None:
    output, _ = tiny_run
    copied = Path(shutil.copytree(output / "stages", tmp_path / "out" / "stages")).parent
    evaluation = evaluation_of(target_stage(copied))
    assert evaluation is not None
    weights = max(target_stage(copied).rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(Damaged, match="sha256 differs"):
        CheckpointBenchmark(str(copied), (evaluation,), 1, SHORT).run("fp32")


def test_scores_by_example_are_written_in_the_form_of_a_trials(tiny_run: TinyRun, tmp_path: Path) -> None:
    output, _ = tiny_run
    evaluation = evaluation_of(target_stage(output))
    assert evaluation is not None
    path = tmp_path / "new" / "examples.parquet"
    CheckpointBenchmark(str(output), (evaluation,), 1, SHORT, examples=str(path)).run("fp32")
    joined = write_examples((evaluation,), output)
    assert joined is not None
    trials = pd.read_parquet(joined)
    tests = trials[trials["split"] == "test"]  # a benchmark scores no English dev
    assert 0 < len(tests) < len(trials)
    tests = tests.assign(split=tests["split"].cat.remove_unused_categories()).reset_index(drop=True)
    pd.testing.assert_frame_equal(pd.read_parquet(path), tests, check_like=True)
