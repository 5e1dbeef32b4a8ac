"""What can go wrong in a search, what holds then, and which test shows it.

| fault                                  | what holds                                           | test                         |
|----------------------------------------|------------------------------------------------------|------------------------------|
| a trial's process killed               | started again; no trial too many                     | here                         |
| an error in a trial                    | tried once more, then FAIL with its reason           | here                         |
| the driver or head killed              | trials go on under their numbers; nothing made twice | test_study, test_search      |
| SIGTERM, a stopped job                 | exit 143; the same command goes on                   | test_study                   |
| a node lost                            | as a trial's process; stages go on from checkpoints  | test_clusters                |
| disk full, read-only or gone (a trial) | the sweep ends with the reason; no trial is blamed   | here                         |
| the ledger's last line cut short       | taken off; its trial is gone on with                 | test_search                  |
| the ledger unreadable                  | refused with the reason; not begun anew              | test_search                  |
| a stage's files damaged                | not a finished stage: made again                     | test_store, test_checkpoints |
| two runs with one output folder        | the second is refused                                | test_cli                     |
| MLflow down, slow or refusing          | training goes on; results are sent later, in order   | test_tracking, test_outbox   |
| secrets in the environment             | in no log, file, database                            | test_secrets                 |
"""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from study.cluster import capacity, connected
from study.history import SearchResult, open_journal
from study.room import Room
from study.search import StorageFailed, Sweep, load_result, run_trial
from study.space import Choice, Space
from study.spec import Study
from tests import recipes
from tests.conftest import cores_after
from trainables.stages.base import Stage

SIZE = recipes.tiny().sizes[0]
TARGETS = len(recipes.tiny().targets)


def _study(trials: int) -> Study:
    """A space of 41 learning rates and no intermediate task, so that one trial alone is a default cell."""
    space = Space((), (1e-3,), tuple(1e-3 / (number + 1) for number in range(41)))
    return dataclasses.replace(recipes.inline(), trials=trials, space=space)


def _sweep(study: Study, output: Path, trial: Callable[..., None] | None) -> Sweep:
    def progress(stage: str, done: int, total: int, value: float) -> None:
        pass

    return Sweep(study, study.sizes[0], output, Room(capacity(study.sizes)), progress, trial=trial)


def _search(study: Study, output: Path, trial: Callable[..., None] | None) -> SearchResult:
    return _sweep(study, output, trial).search(open_journal(output))


def _finish(config: dict[str, Any], *, score: float = 50.0) -> None:
    """What a trial reports that scores every target."""
    for finished in range(1, TARGETS + 1):
        tune.report({"dev_score": score, "test_score": score, "targets_finished": finished})


def _first_time(output: str, config: dict[str, Any]) -> bool:
    """Whether this trial has not been here before."""
    mark = Path(output) / f"{config['trial']}.was_here"
    was_here = mark.exists()
    mark.touch()
    return not was_here


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with connected(None, cpus=2):
        yield


def test_a_killed_trial_is_started_again(tmp_path: Path) -> None:
    def trial(config: dict[str, Any], *, output: str, **_: Any) -> None:
        if config["trial"] == "t0001" and _first_time(output, config):
            os.kill(os.getpid(), signal.SIGKILL)
        _finish(config)

    result = _search(_study(3), tmp_path, trial)
    assert [(one.trial_id, one.outcome) for one in result.trials] == [(f"t000{n}", "complete") for n in range(3)]
    assert cores_after(30.0) == 2


def test_an_error_is_tried_once_more_and_then_told_while_the_others_go_on(tmp_path: Path) -> None:
    """The real trial function; what fails is the chain of one choice."""
    study = _study(2)
    broken = study.space.grid()
    assert broken is not None

    @dataclasses.dataclass(frozen=True)
    class Breaks(Study):
        def chain(self, size: Any, choice: Choice, *, trained: bool = True) -> Any:
            return (_Broken(),) if choice.lr_target != self.space.lr_target[0] else ()  # type: ignore[index]

    breaking = Breaks(**{one.name: getattr(study, one.name) for one in dataclasses.fields(study)})
    result = _search(breaking, tmp_path, run_trial)
    assert [one.outcome for one in result.trials] == ["failed", "failed"]
    reasons = {one.trial_id: one.reason for one in result.trials}
    assert reasons["t0000"] == "ended without a report"
    assert "no such encoder" in (reasons["t0001"] or "")
    assert (tmp_path / "attempts").read_text() == "xx"


@dataclasses.dataclass(frozen=True)
class _Broken:
    """An evaluation that cannot be made."""

    @property
    def label(self) -> str:
        return "broken"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return ()

    def produce(self, work: Any, folder: Path) -> None:
        with open(work.store.root / "attempts", "a") as file:
            file.write("x")
        raise ValueError("no such encoder")


def test_a_full_disk_ends_the_search_with_the_reason_and_the_next_run_goes_on(tmp_path: Path) -> None:
    def full(config: dict[str, Any], *, study: Study, size: Any, output: str, progress: Any) -> None:
        if config["trial"] != "t0001" or not _first_time(output, config):
            return _finish(config)
        broken = dataclasses.replace(study)
        object.__setattr__(broken, "chain", _no_space)
        return run_trial(config, study=broken, size=size, output=output, progress=progress)

    with pytest.raises(StorageFailed, match=r"cannot be written.*No space left on device"):
        _search(_study(4), tmp_path, full)
    before, done = load_result(_study(4), SIZE, open_journal(tmp_path))
    assert not done
    assert {one.outcome for one in before.trials} <= {"complete"}, "no trial is blamed"
    result = _search(_study(4), tmp_path, full)
    assert [one.trial_id for one in result.trials] == [f"t000{number}" for number in range(4)]
    assert {one.outcome for one in result.trials} == {"complete"}


def _no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
