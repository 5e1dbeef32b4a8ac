"""Host memory of workers on CPUs, against counts by hand and against what trainings were measured to take."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from study.planning import worker_memory
from study.planning.architecture import Architecture, architecture_of
from study.planning.stages import Load
from study.planning.worker_memory import PROCESS_GB, worker_gb
from study.recipes.quickstart import quickstart
from tests.support import recipes
from tests.support.architectures import SMALL
from trainables.hyperparameters import Precision, Training
from trainables.models.encoder import ParameterCount
from trainables.resources import Resources


def _training_bytes(load: Load, **resources: Any) -> float:
    return worker_memory.training_gb(SMALL, Resources(**resources), load) * 1e9


def test_training_by_hand() -> None:
    """1000 parameters, 400 of them in a table of 50 x 8; two layers of two heads; batches of eight rows of 16 tokens."""
    load = Load(Training(1e-3, 1, 8, 0, max_length=16))
    layer = 128 * (100 * 8 + 22 * 2 * 16)
    # Weights, gradients and moments, 16 each, and 4 each that are written at the end.
    assert _training_bytes(load, trim_vocabulary=False) == pytest.approx(20 * 1000 + 2 * layer)
    # Half of the table is trained, and the whole model is held besides.
    assert _training_bytes(load) == pytest.approx(20 * 800 + 4 * 1000 + 2 * layer)
    assert _training_bytes(load, micro_batch=2) == pytest.approx(20 * 800 + 4 * 1000 + 2 * layer / 4)
    assert _training_bytes(load, activation_checkpointing=True) == pytest.approx(
        20 * 800 + 4 * 1000 + 2 * 128 * 8 * 4 + layer
    )
    sentences = dataclasses.replace(load, fills_rows=False)
    assert _training_bytes(sentences) == pytest.approx(20 * 800 + 4 * 1000 + 2 * 64 * (100 * 8 + 22 * 2 * 8))
    # Scores over the vocabulary of 15% of the tokens; they need the whole table.
    masked = dataclasses.replace(load, masked=True)
    assert _training_bytes(masked) == pytest.approx(20 * 1000 + 2 * layer + 0.15 * 128 * 50 * 10)
    # Stage 2: 4 + 16 / 2 each, and no more of a bucket of half a billion elements than there are gradients.
    assert _training_bytes(load, workers=2, zero_stage=2) == pytest.approx(
        (4 + 16 / 2 + 4 + 4) * 800 + 4 * 1000 + 2 * layer / 2
    )
    assert _training_bytes(load, workers=2, zero_stage=2, offload="optimizer") == pytest.approx(
        _training_bytes(load, workers=2, zero_stage=2)
    )


@pytest.mark.parametrize(
    ("layers", "width", "rows", "length", "precision", "measured_gb"),
    [
        (6, 384, 32, 128, "fp32", 1.4),
        (12, 384, 32, 128, "fp32", 2.6),
        (4, 256, 16, 512, "fp32", 2.3),
        (6, 384, 64, 128, "bf16_mixed", 2.2),
    ],
)
def test_activations_are_as_measured(
    layers: int, width: int, rows: int, length: int, precision: Precision, measured_gb: float
) -> None:
    """What trainings took over their states, within 30%: an encoder without parameters has no states."""
    heads = width // 64
    architecture = Architecture(ParameterCount(0, 0), 0, layers, width, width, heads, False, vocabulary=0)
    load = Load(Training(1e-3, 1, rows, 0, max_length=length, precision=precision))
    estimated = worker_memory.training_gb(architecture, Resources(micro_batch=rows), load)
    assert estimated == pytest.approx(measured_gb, rel=0.3)


def test_alternatives_count_up_to_the_micro_batch() -> None:
    training = Training(1e-3, 1, 32, 0, max_length=16)
    one, five = Load(training), Load(training, rows=5)
    assert _training_bytes(five, micro_batch=160) > 3 * _training_bytes(one, micro_batch=160)
    assert _training_bytes(five, micro_batch=40) < 2 * _training_bytes(one, micro_batch=40)


def test_sentences_fill_a_budget_of_tokens_like_passages() -> None:
    """A batch of eight rows of 16 tokens, of which sentences fill half: 64 tokens, or as many as the budget has."""
    sentences = Load(Training(1e-3, 1, 8, 0, max_length=16), fills_rows=False)
    whole, cut = _training_bytes(sentences), _training_bytes(sentences, micro_batch_tokens=40)
    half = _training_bytes(sentences, micro_batch_tokens=32)
    assert whole - cut == pytest.approx(24 / 8 * (cut - half))
    assert whole > cut > half


def test_the_quickstart_fits_a_laptop_of_8_gb_and_gpus_request_nothing() -> None:
    """The machine has 5 GB left: a trial of any size fits, and of the size with most trials two at once."""
    study = quickstart()
    needed = {size.name: (worker_gb(study, size) or 0.0) * size.resources.workers for size in study.sizes}
    assert max(needed.values()) < 5
    assert 2 * needed["2x128"] < 5
    assert all(gb > PROCESS_GB for gb in needed.values())
    on_gpu = dataclasses.replace(study.sizes[0], resources=Resources(gpus=1))
    assert worker_gb(study, on_gpu) is None


def test_pretraining_and_scoring_count() -> None:
    study = recipes.inline()
    (size, *_) = study.sizes
    usual = worker_gb(study, size)
    grouped = dataclasses.replace(study, group_pairs=20_000)
    assert usual is not None
    assert (worker_gb(grouped, size) or 0.0) > usual + 1.0
    architecture = architecture_of(study, size)
    weights = 4 * architecture.count.total / 1e9
    assert worker_memory.scoring_gb(architecture, 128, layers_kept=False) > weights
    assert worker_memory.scoring_gb(architecture, 128, layers_kept=True) > worker_memory.scoring_gb(
        architecture, 128, layers_kept=False
    )
