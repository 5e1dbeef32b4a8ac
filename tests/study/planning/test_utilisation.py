"""The share of a GPU's peak: assumed by what a layer does at once, and measured where `gpu_train` has run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from study.planning.utilisation import ASSUMED, COMMUNICATION, SPREAD, ideal_ms, measured_rows, training_share
from tests.support.architectures import SMALL

LARGE_BODY, LARGE_LAYERS = 302_311_424, 24  # XLM-R Large's


def test_a_layer_s_work_at_the_peak_by_hand() -> None:
    # 6 x 12.6 million parameters of a layer x 1,270 tokens, at 989 TFLOP/s.
    assert ideal_ms(LARGE_BODY, LARGE_LAYERS, 1270, 989) == pytest.approx(0.0971, abs=1e-4)


def test_more_tokens_never_lower_the_share_and_few_leave_the_gpu_idle() -> None:
    shares = [training_share(SMALL, 10.0**power, peak_tflops=1e-4) for power in range(-3, 12)]
    assert [share.low for share in shares] == sorted(share.low for share in shares)
    assert all(0 < share.low < share.usual < share.high < 1 for share in shares)
    assert (shares[-1].low, shares[-1].high) == ASSUMED[-1][1:]
    assert shares[1].high == pytest.approx(10 * shares[0].high), "launches take the time, whatever is computed"
    assert not shares[0].measured


def test_several_workers_lose_a_part_to_communication() -> None:
    alone, group = (training_share(SMALL, 1e9, peak_tflops=1e-4, workers=workers) for workers in (1, 4))
    assert group.high == pytest.approx(COMMUNICATION * alone.high)
    assert group.low == pytest.approx(COMMUNICATION**2 * alone.low)


def _setting(mfu: float | None, **other: Any) -> dict[str, Any]:
    # 40 micro-batches with 4,000 tokens in each.
    usual = {"outcome": "measured", "encoder": "xlm-r-large", "offload": "none", "tokens": 160_000, "micro_batches": 40}
    usual |= {"zero_stage": 0, "activation_checkpointing": False}
    return {**usual, "parameters_body": LARGE_BODY, "mfu": mfu, **other}


def test_a_measured_gpu_is_read_from_its_document(tmp_path: Path) -> None:
    settings = [
        _setting(0.3),
        _setting(0.4, tokens=480_000),
        _setting(0.9, offload="optimizer"),
        _setting(0.9, zero_stage=3),
        _setting(0.9, unpad=True),
        _setting(0.9, compiled=True),
        _setting(0.9, precision="bf16_master"),
        _setting(None),
        {"outcome": "out_of_memory", "encoder": "xlm-r-xl", "offload": "none"},
    ]
    document = {"device": "NVIDIA H200", "peak_tflops": 989, "settings": settings}
    (tmp_path / "gpu_train-nvidia-h200-2026.json").write_text(json.dumps(document))
    rows = measured_rows("H200", tmp_path)
    assert [row[0] for row in rows] == pytest.approx([0.3057, 0.917], rel=1e-3)
    assert rows[0][1:] == pytest.approx((0.3 * (1 - SPREAD), 0.3 * (1 + SPREAD)))
    assert measured_rows("H100", tmp_path) == ()
    share = training_share(SMALL, 1e9, peak_tflops=1e-4, rows=rows)
    assert share.measured
    assert (share.low, share.high) == pytest.approx((0.34, 0.46))


def test_recomputation_counts_as_work_and_the_median_of_equal_settings_counts(tmp_path: Path) -> None:
    settings = [_setting(share, activation_checkpointing=True) for share in (0.30, 0.27, 0.12)]
    document = {"device": "NVIDIA H200", "peak_tflops": 989, "parts": {"training": settings}}
    (tmp_path / "gpu_day-nvidia-h200-2026.json").write_text(json.dumps(document))
    ((_, low, high),) = measured_rows("H200", tmp_path)
    assert (low, high) == pytest.approx((0.36 * (1 - SPREAD), 0.36 * (1 + SPREAD)))
