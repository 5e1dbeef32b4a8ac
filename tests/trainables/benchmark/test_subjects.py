"""Subjects: plain folders, architectures, and the models of a finished study."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from study.tracking.examples import write_examples
from tests.benchmarks.gpu_settings import TINY
from tests.support.serving import SHORT, plain_folder, target_stage
from tests.support.shared_runs import TinyRun
from trainables.benchmark.measurement import outcome_to_json
from trainables.benchmark.subjects.checkpoint import CheckpointBenchmark
from trainables.benchmark.subjects.plain import ArchitectureBenchmark, FolderBenchmark
from trainables.benchmark.subjects.rebuild import evaluation_of
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
    trials = write_examples((evaluation,), output)
    assert trials is not None
    pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(trials), check_like=True)
