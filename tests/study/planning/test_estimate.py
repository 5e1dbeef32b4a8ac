"""What a study of published encoders would need and run: parameters, memory, operations, recipes; all without a network."""

from __future__ import annotations

import dataclasses
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from rich.console import Console

from study.cluster.connection import CannotRun
from study.planning import estimate
from study.planning.cost import loads_of, search_cost, stage_flops, stage_hours
from study.planning.estimate import ACCELERATORS, Architecture, Load
from study.planning.tables import memory_verdict, render_plan, training_stages
from study.recipes.one_vs_ten_billion import one_vs_ten_billion
from study.recipes.xtreme_r import xtreme_r
from study.run.driver import Where, run_study
from study.spec import BenchmarkPlan, InvalidStudy, Size, Study
from study.spec.space import LogUniform, Repeats
from tests.support import recipes
from trainables.data.source import DATA_ROOT_VARIABLE, DataError
from trainables.hyperparameters import Precision, Training
from trainables.models.catalogue import CATALOGUE, config_of, published
from trainables.models.encoder import (
    ParameterCount,
    count_parameters,
)
from trainables.models.families import FAMILIES
from trainables.models.published_encoder import Published, noted_encoder
from trainables.resources import Offload, Resources
from trainables.stages.base import Workplace, ensure
from trainables.stages.finetune import FineTune, Tuned
from trainables.stages.import_encoder import ImportEncoder
from trainables.stages.mixture import FineTuneMixture
from trainables.stages.pretrain import Pretrain
from trainables.store.stage_store import StageStore
from trainables.tasks.base import Task
from trainables.tasks.english.commonsense_qa import CommonsenseQA
from trainables.tasks.english.cosmos_qa import CosmosQA
from trainables.tasks.english.hellaswag import HellaSwag
from trainables.tasks.english.mnli import Mnli
from trainables.tasks.english.social_iqa import SocialIQa
from trainables.tasks.masked_lm import MaskedLm
from trainables.tasks.mixture import Mixture
from trainables.tasks.suites import XTREME_R
from trainables.tasks.xtreme.lareqa import Lareqa
from trainables.tasks.xtreme.mewslix import MewsliX
from trainables.tasks.xtreme.xcopa import Xcopa


def _study(*sizes: Size) -> Study:
    return dataclasses.replace(recipes.tiny(), sizes=sizes, corpus=None, vocabulary_size=None, group_pairs=None)


# --- counts


@pytest.mark.parametrize(
    ("name", "tables", "total"),
    [
        # Rows of width d; XLM-R base and Large as in mteb's model metadata, less the pooler's d^2 + d.
        ("xlm-r-base", (250_002 + 514 + 1) * 768, 278_043_648 - 768**2 - 768),
        ("xlm-r-large", (250_002 + 514 + 1) * 1024, 559_890_432 - 1024**2 - 1024),
        # Layer: 4 d^2 + 2 d 4d weights, 9 d biases, two norms of 2 d; a norm at the end, none on the embeddings.
        ("xlm-r-xl", (250_880 + 514 + 1) * 2560, (250_880 + 515) * 2560 + 36 * (12 * 2560**2 + 13 * 2560) + 2 * 2560),
        ("xlm-r-xxl", (250_880 + 514 + 1) * 4096, (250_880 + 515) * 4096 + 48 * (12 * 4096**2 + 13 * 4096) + 2 * 4096),
        # Layer: 4 d x 64 heads, 3 d x inner (gated), two norms of d; 32 relative biases a head, once; a norm at the end.
        ("mt5-small", 250_112 * 512, 250_112 * 512 + 8 * (4 * 512 * 384 + 3 * 512 * 1024 + 2 * 512) + 32 * 6 + 512),
        ("mt5-xxl", 250_112 * 4096, 250_112 * 4096 + 24 * (4 * 4096**2 + 3 * 4096 * 10240 + 2 * 4096) + 32 * 64 + 4096),
        ("mbert", (119_547 + 512 + 2) * 768, (119_547 + 515) * 768 + 768 + 12 * (12 * 768**2 + 13 * 768)),
        # The 512 relative embeddings and their norm are body.
        ("mdeberta-v3-base", 251_000 * 768, (251_000 + 2 + 512 + 2) * 768 + 12 * (12 * 768**2 + 13 * 768)),
        # Layer: 4 d^2, 3 d x inner, two norms without bias, the first layer one; norms after the embeddings and at the end.
        ("mmbert-small", 256_000 * 384, 256_000 * 384 + 22 * (4 * 384**2 + 3 * 384 * 1152 + 2 * 384) + 384),
        ("mmbert-base", 256_000 * 768, 256_000 * 768 + 22 * (4 * 768**2 + 3 * 768 * 1152 + 2 * 768) + 768),
    ],
)
def test_parameters_of_the_catalogue_by_hand(name: str, tables: int, total: int) -> None:
    study = _study(Size(name, published(name), Resources()))
    count = estimate.parameters(study, study.sizes[0])
    assert (count.embeddings, count.total) == (tables, total)


def test_tied_tables_count_once() -> None:
    """mT5-small as a whole has 300,176,768 parameters: a decoder with cross-attention, and an output layer that is not tied."""
    config = config_of(published("mt5-small"))
    with torch.device("meta"):
        encoder = FAMILIES["mt5"].model_class(config)
    count = count_parameters(encoder)
    assert encoder.get_input_embeddings().weight is encoder.encoder.embed_tokens.weight
    decoder = 8 * (8 * 512 * 384 + 3 * 512 * 1024 + 3 * 512) + 32 * 6 + 512
    assert count.total + decoder + 250_112 * 512 == 300_176_768


def test_every_checkpoint_is_pinned_and_has_a_known_shape() -> None:
    assert len({card.encoder.repository for card in CATALOGUE.values()}) == len(CATALOGUE) == 13
    for name, card in CATALOGUE.items():
        assert published(name).revision is not None
        assert config_of(card.encoder) is not None
    with pytest.raises(ValueError, match="no published encoder 'xlmr'"):
        published("xlmr")


# --- estimates

SMALL = Architecture(ParameterCount(1000, 600), 400, 2, 8, 8, 2, fused_attention=True, vocabulary=50)


@pytest.mark.parametrize(
    ("workers", "zero1", "zero2", "zero3", "zero3_offloaded"),
    [
        # 1000 parameters, 400 of them in one module; `tests/study/planning/test_estimate_bytes.py` counts what the engine holds.
        (1, 8000 + 12_000, 4000 + 16_000, 20_000 + 4000 + 1600, 4000 + 4000 + 1600),
        (4, 8000 + 3000, 4000 + 4000, 5000 + 4000 + 1600, 1000 + 4000 + 1600),
        (16, 8000 + 750, 4000 + 1000, 1250 + 4000 + 1600, 250 + 4000 + 1600),
    ],
)
def test_device_memory_by_hand(workers: int, zero1: int, zero2: int, zero3: int, zero3_offloaded: int) -> None:
    def device_bytes(**how: Any) -> int:
        return round(estimate.model_states(SMALL, Resources(workers=workers, gpus=1, **how)).device_gb * 1e9)

    assert device_bytes(zero_stage=0) == 16_000
    assert device_bytes(zero_stage=1) == zero1
    assert device_bytes(zero_stage=2) == zero2
    assert device_bytes(zero_stage=3) == zero3
    assert device_bytes(zero_stage=1, offload="optimizer") == 8000
    assert device_bytes(zero_stage=2, offload="optimizer") == 4000
    assert device_bytes(zero_stage=3, offload="optimizer") == zero3_offloaded
    assert device_bytes(zero_stage=3, offload="parameters") == 4000 + 1600


def test_no_more_weights_than_deepspeed_lets_live_are_gathered_at_once() -> None:
    large = dataclasses.replace(SMALL, count=ParameterCount(10**10, 10**10), largest=3 * 10**8)
    eight = Resources(workers=8, gpus=1, zero_stage=3)
    # 20 / 8 of ten billion, weights of a billion, a gradient of 0.3 billion.
    assert estimate.model_states(large, eight).device_gb == pytest.approx(25 + 4 + 1.2)
    larger = dataclasses.replace(large, largest=2 * 10**9)
    assert estimate.model_states(larger, eight).device_gb == pytest.approx(25 + 8 + 8)


@pytest.mark.parametrize(("workers", "nodes", "each"), [(1, 1, 1), (4, 1, 4), (16, 2, 8)])
def test_host_memory_is_what_deepspeed_estimates(workers: int, nodes: int, each: int) -> None:
    def host_bytes(**how: Any) -> int:
        return round(estimate.model_states(SMALL, Resources(workers=workers, gpus=1, **how)).host_gb * 1e9)

    place = {"num_gpus_per_node": each, "num_nodes": nodes}
    for offload in ("none", "optimizer"):
        host, _ = estimate_zero2_model_states_mem_needs(1000, **place, cpu_offload=offload != "none")
        assert host_bytes(zero_stage=2, offload=offload) == host
    for offload, moved in (("none", {"cpu_offload": False}), ("optimizer", {"cpu_offload_params": False})):
        host, *_ = estimate_zero3_model_states_mem_needs(1000, 400, **place, zero_init=workers > 1, **moved)
        assert host_bytes(zero_stage=3, offload=offload) == host


def test_a_group_under_zero3_never_reads_the_whole_encoder_and_scoring_does() -> None:
    """Half on top, as DeepSpeed has it."""

    def host_bytes(workers: int, offload: Offload) -> int:
        resources = Resources(workers=workers, gpus=1, zero_stage=3, offload=offload)
        return round(estimate.model_states(SMALL, resources).host_gb * 1e9)

    assert host_bytes(1, "none") == 1.5 * 4 * 1000  # read whole
    assert host_bytes(8, "none") == 1.5 * 4 * 400 * 8  # the largest module, by each of the node's workers
    assert host_bytes(8, "optimizer") == 1.5 * 16 * 1000  # not 32, eight whole encoders
    assert host_bytes(16, "optimizer") == 1.5 * 16 * 1000 / 2  # on two nodes
    for workers, on_a_node in ((1, 1), (8, 8), (16, 8)):
        scoring = estimate.scoring(SMALL, Resources(workers=workers, gpus=1, zero_stage=3), 16)
        assert scoring.host_gb * 1e9 == pytest.approx(on_a_node * 4 * 1000)


def test_operations_and_hours_by_hand() -> None:
    training = Training(1e-3, steps=10, batch_size=4, seed=0, max_length=16)
    flops = 10 * 4 * 16 * (6 * 600 + 12 * 2 * 8 * 16)
    assert estimate.stage_flops(SMALL, Load(training)) == flops
    groups = estimate.stage_flops(SMALL, Load(training, rows=6, masked=True))
    assert groups == pytest.approx(6 * (flops + 10 * 4 * 16 * 6 * 0.15 * 50 * 8))
    on_h100 = Resources(gpus=1, accelerator_type="H100")
    hours = estimate.gpu_hours(3600 * 989e12 * estimate.MFU, on_h100, "bf16_mixed")
    assert hours == pytest.approx(1.0)
    again = dataclasses.replace(on_h100, activation_checkpointing=True)
    assert estimate.gpu_hours(3600 * 989e12 * estimate.MFU, again, "bf16_mixed") == pytest.approx(4 / 3)
    assert estimate.gpu_hours(1e15, Resources(), "fp32") is None
    assert estimate.gpu_hours(1e15, Resources(gpus=1, accelerator_type="M3"), "fp32") is None


@pytest.mark.parametrize(
    ("card", "fp32", "bf16"), [("H100", 67e12, 989e12), ("A100", 19.5e12, 312e12), ("T4", 8.1e12, 8.1e12)]
)
def test_hours_are_those_of_the_precision(card: str, fp32: float, bf16: float) -> None:
    """fp32 without tensor cores; T4 has none for bf16."""
    resources = Resources(gpus=1, accelerator_type=card)
    assert estimate.gpu_hours(3600 * fp32 * estimate.MFU, resources, "fp32") == pytest.approx(1.0)
    assert estimate.gpu_hours(3600 * bf16 * estimate.MFU, resources, "bf16_mixed") == pytest.approx(1.0)


def test_activations_by_hand_and_what_fits() -> None:
    training = Training(1e-3, 1, 8, 0, precision="bf16_mixed", max_length=16)
    load = Load(training)
    resources = Resources(workers=2, micro_batch=64, gpus=1, accelerator_type="T4")  # four rows each
    assert estimate.activations_gb(SMALL, resources, load) * 1e9 == pytest.approx(2 * 64 * 34 * 8)
    plain = dataclasses.replace(SMALL, fused_attention=False)
    assert estimate.activations_gb(plain, resources, load) * 1e9 == pytest.approx(2 * 64 * (34 * 8 + 5 * 2 * 16))
    kept = dataclasses.replace(resources, activation_checkpointing=True)
    assert estimate.activations_gb(SMALL, kept, load) * 1e9 == pytest.approx(2 * 64 * 2 * 8 + 64 * 34 * 8)
    five = estimate.activations_gb(SMALL, resources, Load(training, rows=5))
    assert five * 1e9 == pytest.approx(5 * 2 * 64 * 34 * 8)
    # Four features are read against each other: a micro-batch of one holds all four.
    narrow = dataclasses.replace(resources, micro_batch=1)
    assert estimate.activations_gb(SMALL, narrow, load) * 1e9 == pytest.approx(2 * 16 * 34 * 8)
    assert estimate.activations_gb(SMALL, narrow, Load(training, group=4)) * 1e9 == pytest.approx(2 * 64 * 34 * 8)
    billion = dataclasses.replace(SMALL, count=ParameterCount(10**9, 10**9))
    assert estimate.fits(SMALL, resources, [load]) is True
    # 16 GB of model states on 14.4 that may be filled; half of them shared over two workers, and the buffers: 12 + 4 + 2.
    assert estimate.fits(billion, dataclasses.replace(resources, workers=1), [load]) is False
    assert estimate.fits(billion, dataclasses.replace(resources, gpus=0), [load]) is None
    with pytest.raises(ValueError, match="from ZeRO stage 3 on"):
        Resources(zero_stage=2, offload="parameters")


def test_the_widest_batch_decides_what_fits() -> None:
    """64 rows of 512 tokens have 33 GB of activations in bf16, of which a card of 40 holds one row a feature, and not two."""
    network = dataclasses.replace(SMALL, layers=24, width=1024)
    training = Training(1e-3, 1, 64, 0, precision="bf16_mixed", max_length=512)
    one, two = Load(training), Load(training, rows=2)
    card = Resources(gpus=1, accelerator_type="A100-40G")
    assert estimate.activations_gb(network, card, one) == pytest.approx(24 * 64 * 512 * 34 * 1024 / 1e9)
    assert estimate.fits(network, card, [one]) is True
    assert estimate.fits(network, card, [one, two]) is False


def test_what_is_held_beside_model_states_by_hand() -> None:
    def held(zero_stage: int, precision: Precision, **how: Any) -> float:
        load = Load(Training(1e-3, 1, 8, 0, precision=precision), **how)
        return estimate.buffers_gb(SMALL, Resources(gpus=1, zero_stage=zero_stage), load) * 1e9

    # bf16 copies of the 600 parameters of the body, and of the table of 50 x 8 where masked pieces are scored with it.
    assert held(0, "fp32") == 0
    assert held(0, "bf16_mixed") == pytest.approx(1200)
    assert held(0, "bf16_mixed", masked=True) == pytest.approx(1200 + 800)
    assert held(2, "bf16_mixed") == pytest.approx(4e9 + 1200)
    assert held(3, "bf16_mixed", masked=True) == pytest.approx(3e9)


def test_a_step_of_the_optimizer_can_take_more_than_a_pass() -> None:
    """Of a billion parameters on two workers: 4 + 16 / 2 GB, and in the step 4 / 2 more, as much as buffers in a pass."""
    billion = dataclasses.replace(SMALL, count=ParameterCount(10**9, 10**9))
    load = Load(Training(1e-3, 1, 8, 0, max_length=16))
    assert estimate.training_gb(billion, Resources(2, gpus=1, zero_stage=2), load) == pytest.approx(14, abs=0.01)
    assert estimate.training_gb(billion, Resources(1, gpus=1, zero_stage=2), load) == pytest.approx(24)
    offloaded = Resources(1, gpus=1, zero_stage=2, offload="optimizer")
    assert estimate.training_gb(billion, offloaded, load) == pytest.approx(4 + 2, abs=0.01)


def test_scoring_takes_the_whole_encoder_on_every_card() -> None:
    alone = estimate.scoring(SMALL, Resources(gpus=1, zero_stage=0), 16)
    shared = estimate.scoring(SMALL, Resources(workers=8, gpus=1, zero_stage=3, offload="parameters"), 16)
    # Weights, and one layer of 4096 tokens in fp32.
    assert alone.device_gb == shared.device_gb == pytest.approx((4 * 1000 + 2 * 4096 * 34 * 8) / 1e9)
    kept = estimate.scoring(SMALL, Resources(gpus=1), 16, layers_kept=True)
    assert (kept.device_gb - alone.device_gb) * 1e9 == pytest.approx(4 * 4096 * 8 * 2)
    assert estimate.scores(SMALL, Resources(gpus=1, accelerator_type="T4"), 16) is True
    assert estimate.scores(SMALL, Resources(gpus=1, accelerator_type="M3"), 16) is None


# --- studies and recipes


def test_a_study_of_published_encoders_needs_no_corpus_and_a_ladder_does() -> None:
    study = _study(Size("b", published("mbert"), Resources(), rate_factor=2.0))
    size, choice = study.sizes[0], study.space.defaults()[1]
    evaluate = study.chain(size, choice)[0]
    root = study.pretrain(size)
    assert isinstance(evaluate.model, FineTune)
    assert evaluate.label == "evaluate-micro_tagging-mbert"
    assert evaluate.features.tokenizer == root
    assert evaluate.model.training.learning_rate == 2.0 * choice.lr_target
    assert study.root_resources(size).inline
    assert study.with_seed(3).sizes == study.sizes
    with pytest.raises(ValueError, match="baseline of the ladder"):
        study.pretrain(size, trained=False)
    with pytest.raises(InvalidStudy, match="corpus: the rungs") as refused:
        _study(recipes.tiny().sizes[0])
    assert len(refused.value.errors) == 3


def test_a_size_whose_attention_needs_padding_cannot_be_told_to_train_without() -> None:
    with pytest.raises(InvalidStudy, match=r"sizes\[m\]: unpad: its attention adds a learned bias"):
        _study(Size("m", published("mt5-small"), Resources(unpad=True)))
    with pytest.raises(InvalidStudy, match=r"sizes\[x\]: unpad: .* computes in bf16, and training is in fp32"):
        _study(Size("x", published("xlm-r-base"), Resources(unpad=True, gpus=1)))
    with pytest.raises(InvalidStudy, match=r"sizes\[x\]: unpad: .* is for GPUs"):
        _study(Size("x", published("xlm-r-base"), Resources(unpad=True)))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No data root, and a hub that does not answer."""
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("offline")
def test_xtreme_r_is_the_benchmark_and_says_what_it_lacks() -> None:
    study = xtreme_r()
    assert {task.name: sorted(task.languages) for task in study.targets} == {
        task.name: sorted(task.languages) for task in XTREME_R.tasks
    }
    assert [size.name for size in study.sizes] == ["xlm-r-base", "xlm-r-large"]
    for size in study.sizes:  # five alternatives of CommonsenseQA among the longest rows of all_english
        assert memory_verdict(study, size, estimate.architecture(study, size)) == "yes"
    lines = study.open_ends
    assert len(lines) == len(set(lines))
    needs_files = {line.split(":")[0] for line in lines if "not all on the hub" in line}
    assert needs_files == {"lareqa", "mewslix", "ewt_xpos"}
    found = training_stages(study, study.sizes[1])
    english, masked = (found[f"intermediate-{name}"][0] for name in ("all_english", "mnli_masked_lm"))
    assert isinstance(english, FineTuneMixture)
    assert isinstance(masked, FineTuneMixture)
    assert len(english.task.tasks) == 8
    assert english.training.max_length == 384  # of its question answering
    assert masked.task.tasks[1].languages == XTREME_R.languages
    assert english.training.steps == masked.training.steps == 12_000
    trained = {name: stages[0].training for name, stages in found.items() if name.startswith("target-")}
    # 2e-5, question answering 3e-5; 10 epochs of 21,253 sentences, 3 of 87,599 questions, in batches of 32. XQuAD's training is
    # SQuAD's, as the intermediate task's at its own rate is.
    assert (trained["target-udpos"].learning_rate, trained["target-udpos"].steps) == (2e-5, 6642)
    tuned = {(round(one.training.learning_rate, 9), one.training.steps) for one in found["intermediate-squad"]}
    assert (3e-5, 8212) in tuned


@pytest.mark.usefixtures("offline")
def test_one_vs_ten_billion_fits_its_cards() -> None:
    study = one_vs_ten_billion()
    for size in study.sizes:
        assert size.resources.accelerator_type in ACCELERATORS
        assert memory_verdict(study, size, estimate.architecture(study, size)) == "yes"
    largest = study.size("xlm-r-xxl")
    xxl = estimate.architecture(study, largest)
    assert xxl.count.total > 10**10

    def verdict(**changes: Any) -> str:
        resources = dataclasses.replace(largest.resources, **changes)
        return memory_verdict(study, dataclasses.replace(largest, resources=resources), xxl)

    assert verdict(workers=1) == "NO"
    assert verdict(workers=1, offload="parameters") == "yes"
    # 20 of its 40 GB would do for training, were all 42.8 of the weights not needed to score.
    assert verdict(accelerator_type="A100-40G", offload="optimizer") == "NO (scoring)"
    assert verdict(accelerator_type="A100-40G", offload="parameters") == "NO (scoring)"
    assert verdict(accelerator_type="M3") == "unknown card"
    card = study.benchmark.accelerator_type
    assert card is not None
    assert all(estimate.serves(estimate.architecture(study, size), "fp32", card) for size in study.sizes)
    assert estimate.weights_gb(xxl, "fp32") == pytest.approx(42.8, abs=0.05)
    assert estimate.serves(xxl, "fp32", "A10G") is False
    assert estimate.serves(xxl, "bf16", "L40S") is True
    assert estimate.serves(xxl, "fp32", "TPU-V4") is None
    rates = {size.name: training_stages(study, size)["target-panx"][0].training.learning_rate for size in study.sizes}
    assert rates["mt5-xl"] == 10 * rates["xlm-r-xl"] == 1e-4


@pytest.mark.usefixtures("offline")
def test_the_plan_of_ten_billion_parameters_needs_no_network() -> None:
    console = Console(width=300, record=True, file=StringIO())
    console.print(render_plan(one_vs_ten_billion()))
    text = console.export_text()
    for word in ("10695.95 M", "1029.71 M", "9666.24 M", "facebook/xlm-roberta-xxl", "8 x 8 CPU + 1 H100", "MFU"):
        assert word in text
    # For 10.7 billion parameters: 16 bytes each alone, 20 / 8 and the token table with its gradients shared over eight, and to
    # score 4 with a layer of 4096 tokens, on each of the node's eight.
    assert "171.14" in text
    assert "34.96" in text
    assert "43.92 + 342.3" in text
    assert "open, to be noted before a run: mlqa: the hub does not answer" in text
    assert "benchmark of each size's best model: fp32, bf16, on H100" in text
    small = dataclasses.replace(BenchmarkPlan(("fp32", "bf16")), accelerator_type="A10G")
    console.print(render_plan(dataclasses.replace(one_vs_ten_billion(), benchmark=small)))
    refused = [line.strip() for line in console.export_text().splitlines() if "do not fit" in line]
    assert "benchmark of xlm-r-xxl fp32: NO, 42.8 GB of weights do not fit A10G" in refused
    assert not [line for line in refused if "mt5-large" in line]
    assert (
        "training computes padding: xlm-r-large, xlm-r-xl, xlm-r-xxl (unpad is off, and has not been run on a GPU"
        in text
    )
    assert "training computes padding: mt5-large, mt5-xl, mt5-xxl (its attention adds a learned bias" in text
    assert "xlm-r-xxl: facebook/xlm-roberta-xxl at 03e0fb540c3c9afd4bdda0072e7cb82d2eafd060: whether" in text


@pytest.mark.usefixtures("offline")
def test_an_encoder_that_cannot_be_noted_can_be_planned_and_not_run(tmp_path: Path) -> None:
    """The hub is out of reach, and no commit is named."""
    study = _study(Size("x", noted_encoder(Published("x", "someone/nowhere", "bert")), Resources()))
    assert [line.split(":")[0] for line in study.open_ends] == ["someone/nowhere"]
    with pytest.raises(CannotRun, match="someone/nowhere"):
        run_study(study, Where(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    with pytest.raises(DataError, match="cannot be had from the hub"):
        ensure(
            ImportEncoder(Published("x", "someone/nowhere", "bert", "0" * 40)), Workplace(StageStore(tmp_path / "out"))
        )


def test_what_a_search_costs_at_most_is_no_less_than_what_is_expected() -> None:
    """Longer trainings are among the choices, and rates are a range, of which no list can be made."""
    study = recipes.inline()
    size = study.sizes[0]
    grid = search_cost(study, size, partial(stage_flops, estimate.architecture(study, size)))
    assert grid.defaults <= grid.expected <= grid.at_most
    assert grid.expected < grid.not_shared
    space = dataclasses.replace(study.space, lr_target=LogUniform(1e-4, 1e-2, 1e-3), epochs=(1.0, 3.0))
    ranged = dataclasses.replace(study, space=space, trials=12, repeats=Repeats(1, 3))
    cost = search_cost(ranged, size, partial(stage_flops, estimate.architecture(ranged, size)))
    assert cost.defaults < cost.expected < cost.at_most
    assert cost.expected_total < cost.at_most_total
    assert cost.repeats < cost.repeats_at_most, "the winner may be one that trains three times as long"


def test_every_row_of_a_feature_is_counted() -> None:
    """In memory and in operations: alternatives, queries with answers, sentence pairs of pre-training's groups."""
    study = recipes.inline()
    root = study.pretrain(study.sizes[0])
    assert isinstance(root, Pretrain)
    training = study.tuning

    def tuned(task: Task | Mixture) -> Tuned:
        if isinstance(task, Mixture):
            return FineTuneMixture(root, task, training)
        return FineTune(root, task, training)

    def loads(task: Task | Mixture) -> list[tuple[int, int, bool]]:
        return [(load.rows, load.group, load.masked) for load in loads_of(tuned(task))]

    five = CommonsenseQA()
    rows = {HellaSwag(): 4, CosmosQA(): 4, five: 5, SocialIQa(): 3, Xcopa(): 2, Mnli(): 1}
    assert {task: loads(task) for task in rows} == {task: [(count, 1, False)] for task, count in rows.items()}
    assert loads(MewsliX()) == [(2, 64, False)]
    assert loads(Lareqa()) == [(2, 16, False)]
    mixture = Mixture("both", (five, MaskedLm()))
    assert loads(mixture) == [(5, 1, False), (1, 1, True)]
    assert [(load.rows, load.group, load.masked) for load in loads_of(root)] == [(2 * 8, 1, True)]
    # The mixture as its dearer task, here the one of five rows.
    flops = {task: stage_flops(SMALL, tuned(task)) for task in (Mnli(), five, mixture)}
    assert flops[mixture] == flops[five] == 5 * flops[Mnli()]


def test_pretraining_is_part_of_the_memory_verdict() -> None:
    """Two groups a batch: of 8 pairs 32 rows, and of 20,000 pairs 80,000 rows, whose activations alone are 22 GB."""
    study = recipes.inline()
    resources = Resources(gpus=1, accelerator_type="T4")
    size = dataclasses.replace(study.sizes[0], resources=resources)
    groups = {pairs: dataclasses.replace(study, sizes=(size,), group_pairs=pairs) for pairs in (8, 20_000)}
    found = {pairs: memory_verdict(one, size, estimate.architecture(one, size)) for pairs, one in groups.items()}
    assert found == {8: "yes", 20_000: "NO"}


def test_bf16_without_tensor_cores_is_named_and_hours_follow_each_trainings_precision() -> None:
    study = recipes.inline()
    size = dataclasses.replace(study.sizes[0], resources=Resources(gpus=1, accelerator_type="T4"))
    mixed = dataclasses.replace(study.tuning, precision="bf16_mixed")
    study = dataclasses.replace(study, sizes=(size,))
    text = {one.tuning.precision: _printed(one) for one in (study, dataclasses.replace(study, tuning=mixed))}
    assert "bf16 on T4: 1x32; it has no tensor cores for bf16" in text["bf16_mixed"]
    assert "bf16 on" not in text["fp32"]
    architecture = estimate.architecture(study, size)
    stage = training_stages(study, size)["target-micro_tagging"][0]
    on_h100 = Resources(gpus=1, accelerator_type="H100")
    fp32, bf16 = (
        stage_hours(architecture, dataclasses.replace(stage, training=training), on_h100)
        for training in (study.tuning, mixed)
    )
    assert fp32 is not None
    assert bf16 is not None
    assert fp32 == pytest.approx(bf16 * 989 / 67)


def _printed(study: Study) -> str:
    console = Console(width=260, record=True, file=StringIO())
    console.print(render_plan(study))
    return console.export_text()
