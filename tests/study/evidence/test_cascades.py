"""Which model of a served cascade answered, against its confidences, thresholds and shares."""

from __future__ import annotations

from typing import Any

import pandas as pd

from study.evidence.cascades import cascade_faults

CONFIDENCES = (0.1, 0.4, 0.6, 0.9)


def _examples() -> pd.DataFrame:
    table = pd.DataFrame(
        {"task": "pos", "split": "test", "language": "de", "example": range(4), "confidence": CONFIDENCES}
    )
    untold = pd.DataFrame({"task": "bitext", "split": "test", "language": "de", "example": range(4)})
    return pd.concat([table.assign(small=[0.0, 0.0, 1.0, 1.0]), untold], ignore_index=True)


def _document(share: float = 0.5) -> dict[str, Any]:
    cascade = {"thresholds": {"pos": 0.5}, "timed_share": 0.4}
    scored = {"scores": {}, "cascade": cascade | {"share": {"pos": {"de": share}}}}
    return {"measured": [{"cascade": cascade}, scored]}


def test_answers_that_follow_from_the_threshold_have_no_fault() -> None:
    assert list(cascade_faults(_document(), _examples())) == []
    assert list(cascade_faults({"measured": [{"p50_ms": 1.0}]}, _examples())) == [], "a single model"
    assert list(cascade_faults({"measured": "no GPU"}, _examples())) == [], "not measured"


def test_an_answer_of_the_other_model_and_another_share_are_named() -> None:
    examples = _examples()
    examples.loc[1, "small"] = 1.0
    faults = list(cascade_faults(_document(), examples))
    assert faults == [
        "pos/de example 1: answered by the smaller model at a confidence of 0.4, and the threshold is 0.5",
        "pos/de: the smaller model answers a share of 0.75; 0.5 is recorded",
    ]
    assert len(list(cascade_faults(_document(share=0.4), _examples()))) == 1
