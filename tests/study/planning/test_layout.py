"""The fewest GPUs that hold a network, and what is done where none of the allowed numbers does."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from study.planning.layout import fewest_gpus
from study.planning.memory import training_fits
from study.planning.row_lengths import Tokens
from study.planning.stages import Load
from study.planning.utilisation import training_share
from tests.support.architectures import SMALL
from trainables.hyperparameters import Training
from trainables.models.encoder import ParameterCount
from trainables.resources import Resources

# XLM-R XXL's shape, and one as small as multilingual MiniLM's body with a small vocabulary.
XXL = dataclasses.replace(
    SMALL, count=ParameterCount(10_696 * 10**6, 9666 * 10**6), largest=1028 * 10**6, layers=48, width=4096
)
TINY = dataclasses.replace(SMALL, count=ParameterCount(40 * 10**6, 21 * 10**6), layers=12, width=384)
LOAD = Load(Training(1e-5, 100, 128, seed=0, precision="bf16_mixed", max_length=128))
PASSAGES = dataclasses.replace(LOAD, training=dataclasses.replace(LOAD.training, max_length=384))
CARD = Resources(gpus=1, gpu_memory_gb=80, bf16_gpu=True)


def _layout(architecture: Any, load: Load = LOAD, card: Resources = CARD, **limits: Any) -> Resources | None:
    return fewest_gpus(architecture, [load], card, scored_length=128, **limits)


def test_a_network_that_no_single_card_holds_gets_the_fewest_that_do() -> None:
    """16 bytes a parameter are 171 GB; ZeRO 3 leaves 20 / 4 of them on each of four cards, with activations recomputed."""
    layout = _layout(XXL, PASSAGES)
    assert layout is not None
    assert (layout.workers, layout.gpus, layout.zero_stage) == (4, 1, 3)
    assert layout.activation_checkpointing
    assert layout.offload == "none"
    larger = _layout(XXL, PASSAGES, card=dataclasses.replace(CARD, gpu_memory_gb=256))
    assert larger is not None
    assert (larger.workers, larger.zero_stage) == (1, 0)


def test_a_network_that_cannot_fill_a_card_shares_it() -> None:
    layout = _layout(TINY)
    assert layout is not None
    assert (layout.workers, layout.zero_stage, layout.activation_checkpointing) == (1, 0, False)
    assert layout.gpus < 1
    assert layout.gpu_memory_gb == 80 * layout.gpus, "of a card as large as before"
    # Alone it reaches so little of the peak that the trials beside it cost nothing.
    assert training_share(TINY, 128 * 128, peak_tflops=312).usual * (1 / layout.gpus) < 1


def test_rows_of_different_lengths_are_cut_by_tokens_where_the_longest_decide_the_memory() -> None:
    """XLM-R large in 24 GB: 160 passages at once do not fit, and those that fit are more tokens than all sentences."""
    large = dataclasses.replace(
        SMALL, count=ParameterCount(560 * 10**6, 303 * 10**6), largest=256 * 10**6, layers=24, width=1024
    )
    passages = dataclasses.replace(PASSAGES, rows=5, tokens=Tokens.all_of(110))
    sentences = dataclasses.replace(LOAD, tokens=Tokens.all_of(40))
    card = dataclasses.replace(CARD, gpu_memory_gb=24)
    layout = fewest_gpus(large, [passages, sentences], card, scored_length=384)
    assert layout is not None
    assert layout.micro_batch_tokens is not None
    assert not layout.activation_checkpointing
    by_rows = dataclasses.replace(layout, micro_batch_tokens=None)
    assert not training_fits(large, by_rows, [passages])
    alone = fewest_gpus(large, [LOAD], card, scored_length=384)
    assert alone is not None
    assert alone.micro_batch_tokens is None, "rows of one length need no budget"


def test_state_moves_to_host_memory_only_where_no_number_of_gpus_holds_it() -> None:
    assert _layout(XXL, most_workers=2) is None
    offloaded = _layout(XXL, most_workers=2, host_gb=300)
    assert offloaded is not None
    assert (offloaded.workers, offloaded.zero_stage, offloaded.offload) == (1, 3, "optimizer")
    assert _layout(XXL, most_workers=2, host_gb=128) is None, "16 bytes a parameter, and half of that for buffers"
    held = _layout(XXL, host_gb=300)
    assert held is not None
    assert held.offload == "none"


def test_a_batch_that_stays_together_stays_on_one_gpu() -> None:
    together = dataclasses.replace(LOAD, group=128)
    assert _layout(XXL, together) is None
    layout = _layout(TINY, together)
    assert layout is not None
    assert layout.workers == 1


@pytest.mark.parametrize("card", [Resources(gpus=1), Resources()])
def test_nothing_is_known_to_fit_an_unknown_gpu(card: Resources) -> None:
    assert _layout(TINY, card=card) is None
