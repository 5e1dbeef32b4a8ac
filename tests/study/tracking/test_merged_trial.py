"""A trial of a merged arm, run in this process: what it trains, and the seconds that MLflow gets of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

import analysis
from study.console import Console, Timeline
from study.search.callback import TrialLog
from study.search.records import TrialOutcome, TrialRecord
from study.spec import Merged, Space
from study.spec.space import Choice
from study.tracking.seconds import training_seconds
from study.tracking.tracker import Tracker, default_uri
from tests.analysis.helpers import by
from tests.support import recipes
from tests.support.recipes import SMALL
from trainables.launch.inline import run_inline
from trainables.launch.job import Job
from trainables.resources import Resources
from trainables.stages.merge import MergeEncoders
from trainables.store.manifests import seconds_of
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.intermediate import MicroParaphrase, MicroTopic

PARTS = (MicroTopic(**SMALL), MicroParaphrase(**SMALL))
SPACE = Space((*PARTS, Merged("merged", PARTS)), lr_intermediate=(1e-3,), lr_target=(1e-3,))
TINY = recipes.inline()
STUDY = dataclasses.replace(TINY, space=SPACE, trials=4, targets=(TINY.targets[0], TINY.targets[2]))
(SIZE,) = STUDY.sizes


def _run(choice: Choice, output: Path) -> list[dict[str, Any]]:
    """The reports of a trial."""
    reports: list[dict[str, Any]] = []
    job = Job(str(output), Resources(), chain=STUDY.chain(SIZE, choice))
    run_inline(job, report=reports.append, progress=lambda *told: None)
    return reports


def _folders(output: Path) -> set[str]:
    return {path.name for path in (output / "stages").iterdir()}


@pytest.mark.slow
def test_a_merged_trial_trains_its_targets_alone_and_its_time_counts_its_parts(tmp_path: Path) -> None:
    none, topic, paraphrase, merged = STUDY.space.defaults()
    chain, base = STUDY.chain(SIZE, merged), STUDY.base(SIZE, merged)
    assert training_seconds(chain, base, tmp_path) == {}, "nothing is trained yet"
    reports = {choice.intermediate: _run(choice, tmp_path)[-1] for choice in (none, topic, paraphrase)}
    before = _folders(tmp_path)
    reports["merged"] = _run(merged, tmp_path)[-1]
    new = sorted(name.partition("@")[0] for name in _folders(tmp_path) - before)
    assert new == [
        "evaluate-micro_bitext-1x32",  # of the merged encoder itself
        "evaluate-micro_tagging-1x32",
        "merge-2-1x32",
        "target-micro_tagging-1x32",
    ]
    assert set(reports["merged"]) == set(reports["none"])
    assert reports["merged"]["targets_finished"] == 2

    assert isinstance(base, MergeEncoders)
    store = StageStore(tmp_path)
    seconds = [seconds_of(store.find(stage).manifest) for stage in (base, *base.encoders)]  # type: ignore[union-attr]
    recorded = training_seconds(chain, base, tmp_path)
    assert recorded["train_s/encoder"] == pytest.approx(sum(seconds))
    assert recorded["train_s/targets"] == seconds_of(store.find(chain[0].model).manifest)  # type: ignore[union-attr]

    with Tracker(default_uri(tmp_path), STUDY.name, output=tmp_path, offline=True) as tracker:
        log = TrialLog(STUDY, SIZE, tracker, Console(Timeline()))
        for number, choice in enumerate((none, topic, paraphrase, merged)):
            log.log_end(TrialRecord(f"t{number}", choice, TrialOutcome.COMPLETE, reports[choice.intermediate]))
        frames = tracker.read(lambda uri: analysis.load(uri, STUDY.name))
    trials = by(frames.trials, "intermediate")
    assert trials["none"]["encoder_train_s"] == 0.0
    assert trials["merged"]["encoder_train_s"] == pytest.approx(sum(seconds))
    assert frames.trials["default_cell"].all()
    assert set(by(analysis.break_even(frames), "intermediate")) == {"micro_topic", "micro_paraphrase", "merged"}
