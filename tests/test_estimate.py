"""What a study of published encoders would need and run: parameters, memory, operations, recipes; all without a network."""

from __future__ import annotations

import dataclasses
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from rich.console import Console

from study import estimate
from study.cluster import CannotRun
from study.cost import search_cost
from study.driver import Where, run_study
from study.estimate import ACCELERATORS, Architecture
from study.plan import render_plan, training_stages
from study.recipes.one_vs_ten_billion import one_vs_ten_billion
from study.recipes.xtreme_r import xtreme_r
from study.space import LogUniform, Repeats
from study.spec import BenchmarkPlan, InvalidStudy, Size, Study
from tests import recipes
from trainables.catalogue import CATALOGUE, config_of, published
from trainables.data.source import DATA_ROOT_VARIABLE, DataError
from trainables.encoder import (
    ParameterCount,
    count_parameters,
)
from trainables.engine import Resources
from trainables.families import FAMILIES
from trainables.published import Published, noted_encoder
from trainables.stages.base import Workplace, ensure
from trainables.stages.finetune import FineTune
from trainables.stages.mixture import FineTuneMixture
from trainables.stages.published import ImportEncoder
from trainables.store import StageStore
from trainables.tasks.suites import XTREME_R
from trainables.training import Training


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


@pytest.mark.parametrize(("workers", "nodes", "each"), [(1, 1, 1), (4, 1, 4), (16, 2, 8)])
def test_memory_is_what_deepspeed_estimates(workers: int, nodes: int, each: int) -> None:
    def device_bytes(**how: Any) -> tuple[float, float]:
        found = estimate.model_states(SMALL, Resources(workers=workers, gpus=1, **how))
        return round(found.device_gb * 1e9), round(found.host_gb * 1e9)

    place = {"num_gpus_per_node": each, "num_nodes": nodes}
    host, device = estimate_zero2_model_states_mem_needs(1000, **place, cpu_offload=False)
    assert device_bytes(zero_stage=2) == (device, host)
    host, device = estimate_zero2_model_states_mem_needs(1000, **place, cpu_offload=True)
    assert device_bytes(zero_stage=2, offload="optimizer") == (device + 2 * 1000, host), (
        "whole weights of 4 bytes, not 2"
    )
    for offload, moved in (("none", {"cpu_offload": False}), ("optimizer", {"cpu_offload_params": False})):
        host, device, _ = estimate_zero3_model_states_mem_needs(1000, 400, **place, zero_init=False, **moved)
        # The largest layer's weights and gradients, and this worker's part of the weights.
        assert device_bytes(zero_stage=3, offload=offload) == (device + 4 * 400 + 2 * 1000 // workers, host)
    assert device_bytes(zero_stage=3, offload="parameters")[0] == 8 * 400
    # Weights 4 and what the optimizer steps on: gradients 4, weights 4, moments 8; shared out but for the gradients.
    assert device_bytes(zero_stage=0)[0] == 20_000
    assert device_bytes(zero_stage=1)[0] == 8_000 + 12_000 // workers


def test_operations_and_hours_by_hand() -> None:
    training = Training(1e-3, steps=10, batch_size=4, seed=0, max_length=16)
    flops = 10 * 4 * 16 * (6 * 600 + 12 * 2 * 8 * 16)
    assert estimate.stage_flops(SMALL, training) == flops
    groups = estimate.stage_flops(SMALL, training, rows=6, masked=True)
    assert groups == pytest.approx(6 * (flops + 10 * 4 * 16 * 6 * 0.15 * 50 * 8))
    on_h100 = Resources(gpus=1, accelerator_type="H100")
    hours = estimate.gpu_hours(3600 * 989e12 * estimate.MFU, on_h100)
    assert hours == pytest.approx(1.0)
    again = dataclasses.replace(on_h100, activation_checkpointing=True)
    assert estimate.gpu_hours(3600 * 989e12 * estimate.MFU, again) == pytest.approx(4 / 3)
    assert estimate.gpu_hours(1e15, Resources()) is None
    assert estimate.gpu_hours(1e15, Resources(gpus=1, accelerator_type="M3")) is None


def test_activations_by_hand_and_what_fits() -> None:
    training = Training(1e-3, 1, 8, 0, precision="bf16_mixed", max_length=16)
    resources = Resources(workers=2, micro_batch=64, gpus=1, accelerator_type="T4")  # four rows each
    assert estimate.activations_gb(SMALL, resources, training) * 1e9 == pytest.approx(2 * 64 * 34 * 8)
    plain = dataclasses.replace(SMALL, fused_attention=False)
    assert estimate.activations_gb(plain, resources, training) * 1e9 == pytest.approx(2 * 64 * (34 * 8 + 5 * 2 * 16))
    kept = dataclasses.replace(resources, activation_checkpointing=True)
    assert estimate.activations_gb(SMALL, kept, training) * 1e9 == pytest.approx(2 * 64 * 2 * 8 + 64 * 34 * 8)
    billion = dataclasses.replace(SMALL, count=ParameterCount(10**9, 10**9))
    assert estimate.fits(SMALL, resources, training) is True
    assert estimate.fits(billion, dataclasses.replace(resources, workers=1), training) is False
    assert estimate.fits(billion, dataclasses.replace(resources, gpus=0), training) is None
    with pytest.raises(ValueError, match="from ZeRO stage 3 on"):
        Resources(zero_stage=2, offload="parameters")


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
    assert _study(Size("x", published("xlm-r-base"), Resources(unpad=True))).sizes[0].family.body == "XLMRobertaModel"


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
    longest = max((own.training for own in study.own_tuning), key=lambda training: training.max_length)
    for size in study.sizes:
        architecture = estimate.architecture(study, size)
        assert size.resources.accelerator_type in ACCELERATORS
        assert estimate.fits(architecture, size.resources, longest)
    alone = Resources(gpus=1, accelerator_type="H100", zero_stage=3)
    xxl = estimate.architecture(study, study.size("xlm-r-xxl"))
    assert xxl.count.total > 10**10
    assert not estimate.fits(xxl, alone, longest)
    assert estimate.fits(xxl, dataclasses.replace(alone, offload="parameters", micro_batch=4), longest)
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
    console = Console(width=260, record=True, file=StringIO())
    console.print(render_plan(one_vs_ten_billion()))
    text = console.export_text()
    for word in ("10695.95 M", "1029.71 M", "9666.24 M", "facebook/xlm-roberta-xxl", "8 x 8 CPU + 1 H100", "MFU"):
        assert word in text
    # For 10.7 billion parameters: 20 bytes each alone, 20 / 8 and the token table with its gradients shared over eight.
    assert "213.92" in text
    assert "34.96" in text
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
    grid = search_cost(study, size, estimate.architecture(study, size))
    assert grid.defaults <= grid.expected <= grid.at_most
    assert grid.expected < grid.not_shared
    space = dataclasses.replace(study.space, lr_target=LogUniform(1e-4, 1e-2, 1e-3), epochs=(1.0, 3.0))
    ranged = dataclasses.replace(study, space=space, trials=12, repeats=Repeats(1, 3))
    cost = search_cost(ranged, size, estimate.architecture(ranged, size))
    assert cost.defaults < cost.expected < cost.at_most
    assert cost.expected_total < cost.at_most_total
    assert cost.repeats < cost.repeats_at_most, "the winner may be one that trains three times as long"
