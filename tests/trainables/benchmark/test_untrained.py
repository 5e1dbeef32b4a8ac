"""Timing an encoder before anything is trained on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import recipes
from tests.support.serving import SHORT
from trainables.benchmark.subjects.untrained import UntrainedBenchmark
from trainables.stages.base import Workplace, ensure
from trainables.store.stage_store import StageStore


@pytest.mark.slow
def test_an_encoder_is_timed_with_an_untrained_head_on_the_queries_of_the_task(tmp_path: Path) -> None:
    study = recipes.inline()
    (evaluate, *_) = study.chain(study.sizes[0], study.space.defaults()[0])
    subject = UntrainedBenchmark(str(tmp_path), evaluate, threads=1, settings=SHORT)
    with pytest.raises(FileNotFoundError, match="not a finished stage"):
        subject.run("fp32")
    work = Workplace(StageStore(tmp_path))
    ensure(study.encoder_stage(study.sizes[0]), work)
    measured = subject.run("cut")
    assert measured["p50_ms"] > 0
    assert measured["timed_task"] == "micro_tagging"
    assert set(measured["languages"]) == set(recipes.LANGUAGES)
    assert measured["context"]["unknown_tokens"] == 0
    assert not measured.scored
    assert measured["weights"] == "untrained head"
    assert work.store.find(evaluate.features) is not None, "the search finds them tokenised"
    assert work.store.find(evaluate.model) is None, "nothing is trained"
