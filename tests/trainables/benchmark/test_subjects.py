"""What is measured, how often and where: repeats, energy, fresh processes, plain folders and architectures, the command."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner, Result

from study.cli import bench as bench_command
from study.cli.app import app
from study.cluster.connection import CannotRun
from study.search.trial_store import JOURNAL, History, open_journal, search_name
from study.tracking.examples import write_examples
from tests.benchmarks.gpu_settings import TINY
from tests.conftest import Ran, study_command
from tests.support import recipes
from trainables.benchmark import BenchmarkSettings, VariantUnavailable
from trainables.benchmark.measurement import METRICS
from trainables.benchmark.placement import placed, serving_cores
from trainables.benchmark.probes.energy import EnergyRule, measure_energy
from trainables.benchmark.repeats import bootstrap_interval, combined, interleaved
from trainables.benchmark.scenarios.texts import pieces_per_word
from trainables.benchmark.subjects.checkpoint import CheckpointBenchmark
from trainables.benchmark.subjects.fresh import MeasurementBroke, outcome, run_fresh
from trainables.benchmark.subjects.plain import ArchitectureBenchmark, FolderBenchmark, random_encoder
from trainables.benchmark.subjects.rebuild import BY_NAME, CannotRebuild, evaluation_of, rebuild
from trainables.data.examples import BitextExample, PairExample, TaggingExample
from trainables.stages.evaluate import Evaluate
from trainables.store.fingerprint import canonical
from trainables.store.stage_store import Damaged, StageStore

TINY_RUN = tuple[Path, Ran]
SHORT = dataclasses.replace(
    BenchmarkSettings.for_window(0.5), scenarios=("SingleStream", "Offline"), batch_sizes=(1, 4), text_s=0.05
)


# Repeats


def test_variants_take_turns_and_another_one_is_first_each_time() -> None:
    order = interleaved(("a", "b", "c"), 3)
    assert [name for _, name in order] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [turn for turn, _ in order] == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def _one(p50_ms: float | None, *, valid: bool = True, suspected: bool = False) -> dict[str, Any]:
    return {
        **dict.fromkeys(METRICS, 1.0),
        "p50_ms": p50_ms,
        "batch_size": 8,
        "samples": 100,
        "languages": {"en": {"p50_ms": 2.0 if p50_ms is None else p50_ms, "mean_pieces": 30.0}},
        "valid": {"SingleStream": valid},
        "problems": {} if valid else {"SingleStream": ["too short"]},
        "unavailable": {} if p50_ms is not None else {"p50_ms": "few queries"},
        "interference": {"suspected": suspected, "text": "busy" if suspected else "none seen"},
        "context": {},
    }


def test_repeats_give_the_median_its_interval_and_the_doubts_of_each() -> None:
    found = combined([_one(1.0), _one(9.0, valid=False), _one(3.0, suspected=True), _one(2.0), _one(4.0)])
    assert found["p50_ms"] == 3.0
    assert found["intervals"]["p50_ms"] == [1.0, 9.0]
    assert found["intervals_are"] == "range"
    assert found["languages"]["en"]["p50_ms"] == 3.0
    assert found["valid"] == {"SingleStream": False}
    assert found["problems"] == {"SingleStream": ["repeat 2: too short"]}
    assert found["interference"]["text"] == "busy"
    assert (found["repeats"], found["interference_seen"], found["samples"]) == (5, 1, 500)
    assert [one["p50_ms"] for one in found["by_repeat"]] == [1.0, 9.0, 3.0, 2.0, 4.0]


def test_one_measurement_has_no_interval_and_what_a_repeat_lacks_is_missing() -> None:
    assert combined([_one(1.0)])["intervals"] == {}
    found = combined([_one(1.0), _one(None)])
    assert found["p50_ms"] is None
    assert found["unavailable"] == {"p50_ms": "few queries"}


def test_the_bootstrap_interval_covers_a_median_as_often_as_it_says() -> None:
    """95% intervals of 25 normal values; percentile bootstrap of a median is a little off, so 90% will do."""
    rng = torch.Generator().manual_seed(0)
    draws = torch.randn((100, 25), generator=rng).tolist()
    intervals = [bootstrap_interval(values) for values in draws]
    assert sum(low <= 0 <= high for low, high in intervals) >= 90
    assert bootstrap_interval([5.0, 5.0, 5.0]) == (5.0, 5.0)


def test_few_repeats_have_a_range_and_many_a_bootstrap_interval() -> None:
    three = combined([_one(value) for value in (2.0, 1.0, 4.0)])
    assert (three["intervals"]["p50_ms"], three["intervals_are"]) == ([1.0, 4.0], "range")
    values = [float(value) for value in range(25)]
    many = combined([_one(value) for value in values])
    assert many["intervals"]["p50_ms"] == list(bootstrap_interval(values))
    assert many["intervals_are"] == "95% bootstrap interval"
    low, high = many["intervals"]["p50_ms"]
    assert 3 <= low <= 9  # the order statistics of a binomial 95% interval of the median of 25 are the 8th and the 18th
    assert 15 <= high <= 21


def test_a_scenario_that_one_repeat_lacks_is_not_valid() -> None:
    served = {**_one(1.0), "valid": {"SingleStream": True, "Server": True}}
    assert combined([_one(1.0), served])["valid"] == {"SingleStream": True, "Server": False}


# Energy


class Meter:
    """A device of 50 W at rest and 250 W at work, and its clock."""

    def __init__(self) -> None:
        self.now, self.joules = 0.0, 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.joules += 50 * seconds

    def serve(self, number: int) -> int:
        self.now += 0.1
        self.joules += 25
        return 10


def test_energy_is_joules_over_samples_with_the_idle_power_beside() -> None:
    meter = Meter()
    found = measure_energy(
        meter.serve,
        EnergyRule(windows=3, window_s=5.0, cool_down_s=2.0),
        joules=lambda: meter.joules,
        clock=lambda: meter.now,
        sleep=meter.sleep,
    )
    assert found is not None
    assert found.idle_power_w == pytest.approx(50)
    assert found.j_per_sample == pytest.approx(2.5)  # 250 W at 100 samples a second: idle power is in it
    assert len(found.j_per_sample_by_window) == 3


def test_a_counter_that_stops_answering_gives_no_energy() -> None:
    meter = Meter()
    found = measure_energy(
        meter.serve, EnergyRule(1, 1.0, 0.0), joules=lambda: None, clock=lambda: meter.now, sleep=meter.sleep
    )
    assert found is None


# Placement


def test_threads_and_cores_are_as_before_afterwards() -> None:
    threads, cores = torch.get_num_threads(), os.sched_getaffinity(0)
    with placed(1, serving_cores(1)):
        assert torch.get_num_threads() == 1
        assert os.sched_getaffinity(0) == set(serving_cores(1))
        assert len(serving_cores(1)) == 1
    assert (torch.get_num_threads(), os.sched_getaffinity(0)) == (threads, cores)


# Fresh processes


@dataclasses.dataclass(frozen=True)
class Says:
    """A subject that does as its variant is called."""

    def run(self, variant: str, *, scored: bool = True) -> dict[str, Any]:
        if variant == "unavailable":
            raise VariantUnavailable(variant, "no such kernel")
        if variant == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nand more")
        if variant == "dies":
            os._exit(7)
        if variant == "sleeps":
            time.sleep(60)
        if variant == "raises":
            raise KeyError("lost weights")
        return {"pid": os.getpid(), "scored": scored, "cache": os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]}


def test_a_fresh_process_measures_with_the_environment_of_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "128")
    found = run_fresh(Says(), "fine", scored=False)
    assert isinstance(found, dict)
    assert found["pid"] != os.getpid()
    assert found["scored"] is False
    assert found["cache"] == "1024"
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "128"


def test_what_the_machine_cannot_run_is_a_reason_and_what_breaks_an_error() -> None:
    assert outcome(Says(), "unavailable", scored=True) == "no such kernel"
    assert outcome(Says(), "memory", scored=True) == "out of memory: CUDA out of memory. Tried to allocate 2.00 GiB"
    with pytest.raises(KeyError):
        outcome(Says(), "raises", scored=True)
    with pytest.raises(MeasurementBroke, match="ended with code 7"):
        run_fresh(Says(), "dies")
    with pytest.raises(MeasurementBroke, match="no result after 0 s"):
        run_fresh(Says(), "sleeps", limit_s=0.05)


# Plain folders and architectures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny XLM-R as `save_pretrained` writes it, without a tokenizer."""
    path = tmp_path_factory.mktemp("encoder")
    random_encoder("xlm-r-base", torch.device("cpu"), tuple(TINY.items())).save_pretrained(path)
    return path


def test_a_plain_folder_is_measured_and_held_against_eager_fp32(folder: Path) -> None:
    found = FolderBenchmark(str(folder), "micro_entailment", threads=1, settings=SHORT).run("int8")
    document = json.loads(json.dumps(found, allow_nan=False))
    assert document["p50_ms"] > 0
    assert document["tokenise_p50_ms"] is None
    assert "no tokenizer" in document["unavailable"]["tokenise_p50_ms"]
    assert document["timed_task"] == "random tokens, lengths of XNLI"
    assert document["mean_pieces"] == pytest.approx(39.75, abs=0.5)  # of XNLI's English dev pairs: 39.7
    assert 0.95 < document["agreement"]["cosine_lowest"] <= document["agreement"]["cosine_mean"] < 1
    assert document["server_qps"] is None
    assert document["unavailable"]["server_qps"] == "Server was not asked for"


def test_an_architecture_is_measured_with_random_weights_and_said_to_be() -> None:
    found = ArchitectureBenchmark("xlm-r-large", 1, SHORT, changes=tuple(TINY.items())).run("fp32")
    assert found["weights"] == "random"
    assert "agreement" not in found
    assert "test_score" not in found
    assert found["params_m"] == found["parameters"] / 1e6


# A stage's folder


def _target_stage(output: Path) -> Path:
    (folder, *_) = sorted(output.glob("stages/target-micro_tagging-1x32@*"))
    return folder


def test_a_stages_folder_leads_to_the_evaluation_that_scored_its_model(tiny_run: TINY_RUN) -> None:
    output, _ = tiny_run
    folder = _target_stage(output)
    evaluation = evaluation_of(folder)
    assert isinstance(evaluation, Evaluate)
    identity = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["identity"]
    assert canonical(evaluation.model) == identity
    for manifest in output.glob("stages/*/manifest.json"):
        document = json.loads(manifest.read_text(encoding="utf-8"))["identity"]
        assert canonical(rebuild(document)) == document, manifest
    (vocabulary,) = output.glob("stages/vocabulary-*")
    assert evaluation_of(vocabulary) is None
    assert evaluation_of(output) is None


def test_an_identity_of_unknown_classes_is_refused() -> None:
    with pytest.raises(CannotRebuild, match="Strange is no class"):
        rebuild({"type": "Strange", "version": 1})
    with pytest.raises(CannotRebuild, match="Shape"):
        rebuild({"type": "Shape", "version": 1, "layers": 0, "width": 32})
    assert "Evaluate" in BY_NAME


def test_a_stages_model_is_timed_on_its_own_texts_and_scored_as_it_is_timed(tiny_run: TINY_RUN) -> None:
    output, _ = tiny_run
    evaluation = evaluation_of(_target_stage(output))
    assert evaluation is not None
    found = CheckpointBenchmark(str(output), (evaluation,), 1, SHORT).run("fp32")
    recorded = StageStore(output).find(evaluation)
    assert recorded is not None
    assert found["test_score"] == pytest.approx(recorded.metrics["test_mean"])
    assert set(found["languages"]) == {"en", "de", "zh"}
    assert found["languages"]["de"]["pieces_per_word"] > 1
    assert "pieces_per_word" not in found["languages"]["zh"], "written without spaces"
    assert found["test_score_without_english"] == pytest.approx(recorded.metrics["test_mean_without_english"])
    for language in found["languages"].values():
        assert language["throughput_sps"] > 0
        assert language["mean_pieces"] > 3
    assert found["end_to_end_p50_ms"] > found["tokenise_p50_ms"] > 0


def test_a_damaged_model_is_not_measured(tiny_run: TINY_RUN, tmp_path: Path) -> None:
    output, _ = tiny_run
    copied = Path(shutil.copytree(output / "stages", tmp_path / "out" / "stages")).parent
    evaluation = evaluation_of(_target_stage(copied))
    assert evaluation is not None
    weights = max(_target_stage(copied).rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(Damaged, match="sha256 differs"):
        CheckpointBenchmark(str(copied), (evaluation,), 1, SHORT).run("fp32")


def test_pieces_of_a_word_are_counted_over_an_examples_own_texts_without_special_tokens() -> None:
    alphabet = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    by_byte = Tokenizer(BPE(alphabet, []))
    by_byte.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=by_byte)
    pairs = [PairExample("1", "ab cd", "efg", 0), PairExample("2", "h", None, 0)]
    assert pieces_per_word(pairs, "en", tokenizer) == (5 + 3 + 1) / 4  # a piece for each byte, spaces among them
    assert pieces_per_word([BitextExample("1", "ab", "c d")], "de", tokenizer) == 2.0, "not the English side"
    assert pieces_per_word([TaggingExample("1", ("a", "b"), ("O", "O"))], "fi", tokenizer) == 1.5
    assert pieces_per_word(pairs, "zh", tokenizer) is None
    assert pieces_per_word([PairExample("1", " ", None, 0)], "en", tokenizer) is None


def test_a_variants_scores_by_example_are_written_as_a_trials_are(tiny_run: TINY_RUN, tmp_path: Path) -> None:
    output, _ = tiny_run
    evaluation = evaluation_of(_target_stage(output))
    assert evaluation is not None
    path = tmp_path / "new" / "examples.parquet"
    CheckpointBenchmark(str(output), (evaluation,), 1, SHORT, examples=str(path)).run("fp32")
    trials = write_examples((evaluation,), output)
    assert trials is not None
    pd.testing.assert_frame_equal(pd.read_parquet(path), pd.read_parquet(trials), check_like=True)


# The command


def test_the_command_measures_a_stages_folder(tiny_run: TINY_RUN) -> None:
    output, _ = tiny_run
    folder = _target_stage(output)
    ran = study_command(
        *("bench", str(folder), "--variants", "fp32,fp16", "--quick", "--device", "cpu"),
        *("--scenarios", "SingleStream,Server,Offline"),
    )
    assert ran.code == 0, ran.err
    (results,) = ran.document["results"].values()
    (unavailable,) = ran.document["unavailable"].values()
    assert set(results) == {"fp32"}
    assert "GPUs" in unavailable["fp16"]
    one = results["fp32"]
    assert set(one["valid"]) == {"SingleStream", "Server", "Offline"}
    assert one["server_bound_ms"] == 100.0
    if one["server_qps"] is None:  # on a machine that is busy with other things no rate may hold
        assert any(word in one["unavailable"]["server_qps"] for word in ("100 ms", "p99"))
    else:
        assert one["server_p99_ms"] <= 100.0
    assert one["repeats"] == 1
    assert 0 <= one["test_score"] <= 100
    for word in ("fp32", "p50 ms", "fp16", "by language", "VALID"):
        assert word in ran.out
    assert ran.document["command"].startswith("python -m study bench")


def test_the_command_measures_the_best_models_of_a_recipe(tiny_run: TINY_RUN) -> None:
    output, _ = tiny_run
    before = {path.name for path in output.glob("benchmarks/*")}
    options = ("--output", str(output), "--sizes", "1x32", "--quick", "--scenarios", "SingleStream", "--device", "cpu")
    ran = study_command("bench", "tests/support/recipes.py:tiny", *options, "--repeats", "2")
    assert ran.code == 0, ran.err
    one = ran.document["results"]["1x32"]["fp32"]
    assert one["repeats"] == 2
    assert one["by_repeat"][0]["p50_ms"] != one["by_repeat"][1]["p50_ms"]
    assert set(one["scores"]) == {"micro_tagging", "micro_entailment", "micro_bitext"}
    after = {path.name for path in output.glob("benchmarks/*")}
    assert before < after, "the study's own measurements stay"
    assert "not tracked: `run` is what fills MLflow and the report" in ran.out


@pytest.fixture
def searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a study whose search has ended, on a machine where no Ray need be started."""
    study, output = recipes.inline(), tmp_path / "out"
    output.mkdir()
    history = History(open_journal(output), search_name(study.sizes[0].name), study.space)
    history.end(history.begin(study.space.defaults()[0]), "complete", {"dev_score": 50.0, "test_score": 40.0})
    monkeypatch.setattr("study.cluster.connection.connected", lambda address: nullcontext())
    return output


def bench_of(output: Path) -> Result:
    return CliRunner().invoke(
        app, ["bench", "tests/support/recipes.py:inline", "--output", str(output), "--device", "cpu"]
    )


def in_use(output: Path) -> bool:
    with open(output / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_a_recipe_is_not_measured_beside_a_run_in_its_folder(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both would time models on the same cores; and a line that a run is writing would be cut off as one that was torn."""
    journal = searched / JOURNAL
    journal.write_bytes(journal.read_bytes() + b'{"half a line')
    before = journal.read_bytes()
    with open(searched / ".lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = bench_of(searched)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr == f"error: --output {searched}: another run is using it; wait for it or choose another folder\n"
    assert journal.read_bytes() == before

    locked: list[bool] = []

    def measure(*_: object) -> dict[str, str]:
        locked.append(in_use(searched))
        return {"fp32": "failed: made up"}

    monkeypatch.setattr("study.benchmarking.run.measure_size", measure)
    ran = bench_of(searched)
    assert ran.exit_code == 1
    assert "failed: made up" in ran.stdout
    assert locked == [True], "and no run begins while it measures"
    assert not in_use(searched)


def test_what_keeps_a_recipe_from_being_measured_is_one_line(searched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_cluster(address: str | None) -> Any:
        raise CannotRun("no Ray cluster answers there (http://me:hidden@head)")

    monkeypatch.setattr("study.cluster.connection.connected", no_cluster)
    ran = bench_of(searched)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: no Ray cluster answers there")
    assert "hidden" not in ran.stderr
    assert ran.stderr.count("\n") == 1

    (searched / JOURNAL).write_text("nonsense\n")
    ran = bench_of(searched)
    assert (ran.exit_code, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: the journal's study 1x32 is none of this search")
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["runs/nowhere/encoder"], "no such checkpoint folder"),
        (["nothing"], "no recipe 'nothing'"),
        (["nothing"], "xlm-r-base"),
        (["xlm-r-base", "--variants", "fp64"], "no serving variant 'fp64'"),
        (["xlm-r-base", "--scenarios", "MultiStream"], "no scenario MultiStream"),
        (["xlm-r-base", "--quick", "--strict"], "one of them"),
        (["xlm-r-base", "--device", "tpu"], "--device tpu"),
        (["xlm-r-base", "--device", "cuda"], "PyTorch sees no GPU"),
        (["quickstart", "--output", "runs/nowhere"], "no finished search"),
        (["tests"], "no encoder in it"),
    ],
)
def test_bad_input_is_refused_before_anything_starts(arguments: list[str], words: str) -> None:
    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    ran = CliRunner().invoke(app, ["bench", *arguments])
    assert ran.exit_code == 2
    assert words in ran.stderr


def test_a_ledger_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(b"garbage\n{}\n")
    ran = CliRunner().invoke(app, ["bench", "tests/support/recipes.py:tiny", "--output", str(tmp_path)])
    assert ran.exit_code == 2
    assert f"{tmp_path / JOURNAL} cannot be read" in ran.stderr


def test_a_name_of_the_catalogue_is_an_architecture() -> None:
    subject = bench_command._subject("mt5-xxl", "xnli", threads=2, settings=SHORT, device="cpu")
    assert subject == ArchitectureBenchmark("mt5-xxl", 2, SHORT, "cpu")


def test_a_variant_that_breaks_is_said_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    def fresh(subject: Any, variant: str, *, scored: bool, limit_s: float) -> dict[str, Any] | str:
        assert 3600 < limit_s < 10 * 3600
        if variant == "bf16":
            raise MeasurementBroke("bf16: the process ended with code -9")
        return outcome(subject, variant, scored=scored)

    monkeypatch.setattr("trainables.benchmark.subjects.fresh.run_fresh", fresh)
    monkeypatch.setattr("trainables.benchmark.settings.QUICK", SHORT)
    ran = CliRunner().invoke(app, ["bench", str(folder), "--quick", "--variants", "bf16,fp32", "--device", "cpu"])
    assert ran.exit_code == 0, ran.stderr
    document = json.loads(ran.stdout.strip().splitlines()[-1])
    assert set(document["results"][str(folder)]) == {"fp32"}
    assert "code -9" in document["unavailable"][str(folder)]["bf16"]
