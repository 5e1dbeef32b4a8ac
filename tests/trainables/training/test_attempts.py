"""Records of what is trained: a kill leaves one, and only after a kill for memory micro-batches get smaller."""

from __future__ import annotations

import contextlib
import json
import pickle
from pathlib import Path

import pytest

from tests.support import recipes
from tests.support.killed import leave_record
from tests.support.recipes import SMALL
from trainables.hyperparameters import Diverged, OutOfMemory, Training
from trainables.launch.inline import run_inline
from trainables.launch.job import Job
from trainables.resources import Resources
from trainables.stages.finetune import FineTune
from trainables.tasks.micro.intermediate import MicroOddOneOut
from trainables.training.attempts import FOLDER, Attempt, halve_after_kill, recorded_attempt
from trainables.training.micro_batches import known_limits

RESOURCES = Resources(micro_batch=64)


def _killed(output: Path, attempt: Attempt) -> None:
    """Leave the record of a training whose process is gone."""
    leave_record(output, "a-t0001", attempt)


@pytest.mark.parametrize(("rows", "fewest", "half"), [(64, 1, 32), (40, 5, 20), (6, 5, 3), (3, 1, 1)])
def test_a_kill_for_memory_halves_the_rows_of_the_stage_it_happened_in(
    rows: int, fewest: int, half: int, tmp_path: Path
) -> None:
    _killed(tmp_path, Attempt("tune", rows, fewest))
    assert halve_after_kill(tmp_path, RESOURCES, "a-t0000") is None, "another job"
    smaller = halve_after_kill(tmp_path, RESOURCES, "a-t0001")
    assert str(smaller) == f"tune with micro-batches of {half} rows instead of {rows}"
    assert known_limits(tmp_path, RESOURCES) == {"tune": half}
    assert halve_after_kill(tmp_path, RESOURCES, "a-t0001") is None, "said once"


def test_rows_that_stay_together_are_not_halved(tmp_path: Path) -> None:
    _killed(tmp_path, Attempt("tune", 5, 5))
    assert halve_after_kill(tmp_path, RESOURCES, "a-t0001") is None
    assert known_limits(tmp_path, RESOURCES) == {}


@pytest.mark.parametrize("error", [None, Diverged(3, float("nan")), OutOfMemory(3, 64, "")])
def test_a_training_that_ends_or_fails_by_itself_leaves_no_record(error: Exception | None, tmp_path: Path) -> None:
    with contextlib.suppress(Diverged, OutOfMemory), recorded_attempt(tmp_path, "a-t0001", Attempt("tune", 64, 1)):
        if error is not None:
            raise error
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_an_error_that_may_follow_from_a_kill_leaves_the_record(tmp_path: Path) -> None:
    """As in the leader of a group whose other worker was killed."""
    with pytest.raises(RuntimeError), recorded_attempt(tmp_path, "a-t0001", Attempt("tune", 64, 1)):
        raise RuntimeError("Connection closed by peer")
    assert str(halve_after_kill(tmp_path, RESOURCES, "a-t0001")).startswith("tune with micro-batches of 32 rows")


def test_a_record_after_another_loss_is_replaced_and_a_damaged_one_says_nothing(tmp_path: Path) -> None:
    _killed(tmp_path, Attempt("tune", 64, 1))
    with recorded_attempt(tmp_path, "a-t0001", Attempt("next", 16, 1)):
        smaller = halve_after_kill(tmp_path, RESOURCES, "a-t0001")
    assert str(smaller).startswith("next with micro-batches of 8 rows")
    (tmp_path / FOLDER / "a-t0001.json").write_text("{")
    assert halve_after_kill(tmp_path, RESOURCES, "a-t0001") is None
    with recorded_attempt(tmp_path, "", Attempt("tune", 64, 1)):
        assert list((tmp_path / FOLDER).iterdir()) == [], "a job without a name"


@pytest.mark.slow
def test_a_stage_records_the_rows_of_its_passes(tmp_path: Path) -> None:
    """Sixteen questions of three rows in micro-batches of 24 rows; a record for each training, none at the end."""
    study = recipes.tiny()
    pretrained = study.encoder_stage(study.sizes[0])
    tuned = FineTune(pretrained, MicroOddOneOut(**SMALL), Training(1e-3, steps=2, batch_size=16, seed=0))
    records: dict[str, object] = {}

    def progress(stage: str, done: int, total: int, loss: float | None) -> None:
        if loss is not None:
            records[stage] = json.loads((tmp_path / FOLDER / "a-t0001.json").read_text())

    job = Job(str(tmp_path), Resources(micro_batch=24), stages=(tuned,), size="a", name="a-t0001")
    run_inline(job, report=lambda metrics: None, progress=progress)
    # Two groups of eight pairs: one of 16 rows is the largest part of a batch that has at most 24.
    assert records == {
        pretrained.label: {"stage": pretrained.memory_key, "rows": 16, "fewest_rows": 16},
        tuned.label: {"stage": tuned.memory_key, "rows": 24, "fewest_rows": 3},
    }
    assert list((tmp_path / FOLDER).iterdir()) == []


def test_a_divergence_names_its_stage_on_every_process() -> None:
    error = Diverged(3, float("nan"), "intermediate-micro_topic-2x128")
    assert str(error) == "loss nan at step 3 of intermediate-micro_topic-2x128: lower the learning rate"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(Diverged(3, float("inf"))) == "loss inf at step 3: lower the learning rate"
