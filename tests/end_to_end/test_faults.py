"""Faults in a search, and what holds under each. `docs/faults.md` lists all faults with the tests that show them."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
from optuna.storages.journal import JournalFileBackend
from ray import tune

from study.cluster.connection import connected
from study.cluster.fit import check_capacity
from study.errors import StorageFailed
from study.search.journal import JOURNAL, open_journal
from study.search.records import SearchResult, TrialOutcome
from study.search.slots import Slots
from study.search.sweep import Interrupted, Sweep, load_result
from study.search.trial import run_trial
from study.spec import Study
from study.spec.space import Choice, Space
from tests.support import recipes
from tests.support.ray_cores import free_cores
from trainables.stages.base import Stage

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SIZE = recipes.tiny().sizes[0]
TARGETS = len(recipes.tiny().targets)


def _study(trials: int) -> Study:
    """A space of 41 learning rates and no intermediate task: a single trial is a default cell."""
    space = Space((), (1e-3,), tuple(1e-3 / (number + 1) for number in range(41)))
    return dataclasses.replace(recipes.inline(), trials=trials, space=space)


def _sweep(study: Study, output: Path, trial: Callable[..., None] | None) -> Sweep:
    def progress(stage: str, done: int, total: int, value: float | None) -> None:
        pass

    return Sweep(study, study.sizes[0], output, Slots(check_capacity(study.sizes)), progress, trial=trial)


def _search(study: Study, output: Path, trial: Callable[..., None] | None) -> SearchResult:
    return _sweep(study, output, trial).search(open_journal(output))


def _finish(config: dict[str, Any], *, score: float = 50.0) -> None:
    """Report as a trial does that scores every target."""
    for finished in range(1, TARGETS + 1):
        tune.report({"dev_score": score, "test_score": score, "targets_finished": finished})


def _first_attempt(output: str, config: dict[str, Any]) -> bool:
    """Whether this is the trial's first attempt."""
    marker = Path(output) / f"{config['trial']}.started"
    started = marker.exists()
    marker.touch()
    return not started


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with connected(None, cpus=2):
        yield


def test_a_killed_trial_is_restarted(tmp_path: Path) -> None:
    def trial(config: dict[str, Any], *, output: str, **_: Any) -> None:
        if config["trial"] == "t0001" and _first_attempt(output, config):
            os.kill(os.getpid(), signal.SIGKILL)
        _finish(config)

    result = _search(_study(3), tmp_path, trial)
    assert [(trial.trial_id, trial.outcome) for trial in result.trials] == [(f"t000{n}", "complete") for n in range(3)]
    assert free_cores(30.0) == 2


def test_a_failing_trial_is_retried_once_and_reported_while_the_others_run(tmp_path: Path) -> None:
    """With the real trial function; the chain of one choice fails."""
    study = _study(2)

    @dataclasses.dataclass(frozen=True)
    class Breaks(Study):
        def chain(self, size: Any, choice: Choice, *, trained: bool = True) -> Any:
            return (_Broken(),) if choice.lr_target != self.space.lr_target[0] else ()  # type: ignore[index]

    breaking = Breaks(**{field.name: getattr(study, field.name) for field in dataclasses.fields(study)})
    result = _search(breaking, tmp_path, run_trial)
    assert [trial.outcome for trial in result.trials] == ["failed", "failed"]
    reasons = {trial.trial_id: trial.reason for trial in result.trials}
    assert reasons["t0000"] == "ended without a report"
    assert "no such encoder" in (reasons["t0001"] or "")
    assert (tmp_path / "attempts").read_text() == "xx"


@dataclasses.dataclass(frozen=True)
class _Broken(Stage):
    """A stage that always fails."""

    @property
    def label(self) -> str:
        return "broken"

    @property
    def parents(self) -> tuple[Stage, ...]:
        return ()

    def produce(self, work: Any, folder: Path) -> dict[str, Any]:
        with open(work.store.root / "attempts", "a") as file:
            file.write("x")
        raise ValueError("no such encoder")


def test_a_full_disk_ends_the_search_with_the_reason_and_the_next_run_resumes(tmp_path: Path) -> None:
    def full(config: dict[str, Any], *, study: Study, size: Any, output: str, progress: Any) -> None:
        if config["trial"] != "t0001" or not _first_attempt(output, config):
            return _finish(config)
        broken = dataclasses.replace(study)
        object.__setattr__(broken, "chain", _no_space)
        return run_trial(config, study=broken, size=size, output=output, progress=progress)

    with pytest.raises(StorageFailed, match=r"cannot be written.*No space left on device"):
        _search(_study(4), tmp_path, full)
    before, done = load_result(_study(4), SIZE, storage=open_journal(tmp_path))
    assert not done
    assert {trial.outcome for trial in before.trials} <= {"complete"}, "no trial is blamed"
    result = _search(_study(4), tmp_path, full)
    assert [trial.trial_id for trial in result.trials] == [f"t000{number}" for number in range(4)]
    assert {trial.outcome for trial in result.trials} == {"complete"}


def _no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_trial_store_that_cannot_be_written_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trial(config: dict[str, Any], **_: Any) -> None:
        _finish(config)

    storage = open_journal(tmp_path)
    writes = itertools.count()
    append = JournalFileBackend.append_logs

    def fills_up(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        if next(writes) == 12:  # half a line is written, and later lines would fit again
            with open(self._file_path, "ab") as file:
                file.write(b'{"op_code": 4, "wor')
            _no_space()
        append(self, logs)

    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", fills_up)
        with pytest.raises(StorageFailed, match="No space left"):
            _sweep(_study(6), tmp_path, trial).search(storage)
    assert next(writes) == 13, "nothing was written after the half line"
    assert (tmp_path / JOURNAL).read_bytes().endswith(b"\n")
    assert free_cores(30.0) == 2
    result = _search(_study(6), tmp_path, trial)
    assert [trial.outcome for trial in result.trials] == ["complete"] * 6


def test_a_search_that_is_told_to_stop_resumes_later(tmp_path: Path) -> None:
    def slow(config: dict[str, Any], *, output: str, **_: Any) -> None:
        if _first_attempt(output, config) and config["trial"] in ("t0002", "t0003"):
            time.sleep(600)
        _finish(config)

    study = _study(5)
    sweep = _sweep(study, tmp_path, slow)

    def stop_when_two_are_done() -> None:
        while not (tmp_path / "t0003.started").exists():
            time.sleep(0.05)
        sweep.stop.set()

    thread = threading.Thread(target=stop_when_two_are_done)
    thread.start()
    with pytest.raises(Interrupted):
        sweep.search(open_journal(tmp_path))
    thread.join()
    assert free_cores(30.0) == 2
    for path in (tmp_path / "tune").rglob("*"):  # Tune's own state is not read
        if path.is_file():
            path.write_bytes(b"\0garbage")
    for path in tmp_path.rglob("*"):  # nor are times
        os.utime(path, (2**31, 2**31) if path.name < "o" else (0, 0))
    result = _search(study, tmp_path, slow)
    assert [trial.trial_id for trial in result.trials] == [f"t000{number}" for number in range(5)]
    assert {trial.outcome for trial in result.trials} == {"complete"}


def test_sizes_search_in_parallel(tmp_path: Path) -> None:
    """On two cores, a size that starts later gets a core as soon as a trial ends, and each trial runs its own size."""

    def trial(config: dict[str, Any], *, size: Any, output: str, **_: Any) -> None:
        name, here = f"{size.name}-{config['trial']}", Path(output)
        (here / name).touch()
        waits_for = {"a-t0000": "b-t0000", "a-t0001": "b-started", "b-t0000": "a-t0000"}.get(name, name)
        until = time.monotonic() + 240
        while not (here / waits_for).exists():
            if time.monotonic() > until:
                return tune.report({"error": f"{waits_for} did not start"})
            time.sleep(0.05)
        time.sleep(1.0 if waits_for == "b-started" else 0.0)
        return _finish(config, score=10.0 if size.name == "a" else 20.0)

    study = dataclasses.replace(
        _study(3), sizes=tuple(dataclasses.replace(_study(3).sizes[0], name=name) for name in "ab")
    )
    slots, storage = Slots(check_capacity(study.sizes)), open_journal(tmp_path)

    def search(name: str) -> SearchResult:
        if name == "b":
            while not (tmp_path / "a-t0001").exists():
                time.sleep(0.05)
            (tmp_path / "b-started").touch()
        return Sweep(study, study.size(name), tmp_path, slots, lambda *_: None, trial=trial).search(storage)

    with ThreadPoolExecutor(2) as pool:
        results = dict(zip("ab", pool.map(search, "ab"), strict=True))
    errors = [trial.reason for result in results.values() for trial in result.trials if trial.reason]
    assert not errors
    scores = {name: {trial.dev_score for trial in result.trials} for name, result in results.items()}
    assert scores == {"a": {10.0}, "b": {20.0}}
    assert [len(results[name].trials) for name in "ab"] == [3, 3]


def test_trials_of_a_size_share_a_process_for_each_core(tmp_path: Path) -> None:
    """A new process would cost each trial seconds of imports."""

    def trial(config: dict[str, Any], *, output: str, **_: Any) -> None:
        (Path(output) / f"{config['trial']}-{os.getpid()}.ran").touch()
        return _finish(config, score=1.0)

    result = _search(_study(8), tmp_path, trial)
    assert result.count(TrialOutcome.COMPLETE) == 8
    assert len({path.stem.partition("-")[2] for path in tmp_path.glob("*.ran")}) <= 2


def _own_resources() -> dict[str, float]:
    """The cluster's resources without those of placement groups."""
    return {name: amount for name, amount in ray.cluster_resources().items() if "_group_" not in name}


def test_twenty_trials_stopped_early_leave_the_cluster_as_it_was(tmp_path: Path) -> None:
    def trial(config: dict[str, Any], **_: Any) -> None:
        number = int(config["trial"][1:])
        _finish(config, score=100.0 - number)  # each scores lower than all before it

    assert free_cores(30.0) == 2, "earlier tests gave their cores back"
    before = _own_resources()
    result = _search(_study(24), tmp_path, trial)
    assert result.count(TrialOutcome.STOPPED_EARLY) >= 20
    assert free_cores(30.0) == before["CPU"]
    assert _own_resources() == before
    groups = [group for group in ray.util.placement_group_table().values() if group["state"] != "REMOVED"]
    assert groups == []
    searches = [search.study_name for search in open_journal(tmp_path).get_all_studies()]
    assert searches == ["1x32"], "kept output folders name a size's search after the size"
