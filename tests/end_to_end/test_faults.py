"""What can go wrong in a search, what holds then, and which test shows it.

| fault                                  | what holds                                           | test                         |
|----------------------------------------|------------------------------------------------------|------------------------------|
| a trial's process killed               | started again; no trial too many                     | here                         |
| an error in a trial                    | tried once more, then FAIL with its reason           | here                         |
| a Ray Train worker killed              | the trial is started again and completes             | test_groups                  |
| the driver and its own Ray killed      | trials go on under their numbers; nothing made twice | test_study, test_search      |
| SIGTERM to the driver                  | exit 143 at once; ledger and outbox are written      | test_study                   |
| a stage that was running then          | goes on from a checkpoint up to 10 minutes old       | test_checkpoints             |
| a job stopped                          | submitted again, no finished stage is made twice     | test_jobs                    |
| told to stop in the middle             | what is finished stays, what runs is gone on with    | here                         |
| a node lost                            | as a trial's process; stages go on from checkpoints  | test_clusters_nodes          |
| disk full, read-only or gone (a trial) | the sweep ends with the reason; no trial is blamed   | here                         |
| disk full, read-only or gone (ledger)  | the same, from the driver; no half line stays        | here                         |
| Tune's state cut short or garbage      | it is not read                                       | here                         |
| the ledger's last line cut short       | taken off; its trial is gone on with                 | test_search                  |
| the ledger unreadable                  | refused with the reason; not begun anew              | test_search                  |
| the ledger lost, emptied or cut short  | refused where MLflow was told of trials it lacks     | test_search                  |
| a stage's files damaged or cut short   | named when next used, and made again                 | test_damage, test_store      |
| a checkpoint damaged or cut short      | named; the one before is taken                       | test_checkpoints             |
| a power cut (stages, checkpoints)      | files are on the disk before their manifest is       | test_store                   |
| clocks that went back or forth         | nothing is made again: no time stamp counts          | here, test_study             |
| clocks that went back (MLflow)         | stamps do not: a metric's last value stands          | test_tracking                |
| a compilation killed, its lock left    | removed in time, whatever clock stamped it           | test_loop                    |
| two runs with one output folder        | the second is refused                                | test_cli                     |
| twenty trials stopped early            | all resources are back                               | here; groups: test_groups    |
| MLflow down, slow or refusing          | training goes on; results are sent later, in order   | test_tracking, test_outbox   |
| secrets in the environment             | in no log, file, database                            | test_secrets                 |
| the same, a job's and its head's       | nor in the job's entry, its package or Ray's session | test_jobs                    |

Killed is the driver's whole process group with the Ray that it started; no test kills a head that was started by itself. The
minutes are those of `Resources.checkpoint_every_s`.
"""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
import resource
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
import ray
import torch
from optuna.storages.journal import JournalFileBackend
from ray import tune
from safetensors.torch import save_file

from study.cluster.connection import capacity, connected
from study.errors import StorageFailed, storage_problem
from study.search.slots import Room
from study.search.sweep import Interrupted, Sweep, load_result
from study.search.trial import run_trial
from study.search.trial_store import JOURNAL, SearchResult, open_journal, search_name
from study.spec import Study
from study.spec.space import Choice, Space
from tests.conftest import cores_after
from tests.support import recipes
from trainables.launch.job import Job, OutputMissing, run_inline
from trainables.resources import Resources
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
class _Broken(Stage):
    """An evaluation that cannot be made."""

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


def test_what_libraries_say_of_a_full_disk_is_told_from_errors_of_a_trial(tmp_path: Path) -> None:
    """Some of them raise errors that are no OSError. The disk is one on which a file may have 4 KB."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        said = pool.submit(_problems_of_full_files, tmp_path).result()
    for library in ("safetensors", "torch", "pyarrow", "pandas", "python"):
        assert said[library], f"{library} was not stopped, or its error not told"
    assert storage_problem(ValueError("no such encoder"), tmp_path) is None
    assert "No such file" in (storage_problem(ValueError("no such encoder"), tmp_path / "gone") or "")


def _problems_of_full_files(folder: Path) -> dict[str, str | None]:
    """What is said of the error of each library, when the folder can be written again."""
    table = pa.table({"score": [1.0] * 10_000})
    writers: dict[str, Callable[[Path], object]] = {
        "safetensors": lambda path: save_file({"weights": torch.zeros(100_000)}, path),
        "torch": lambda path: torch.save({"weights": torch.zeros(100_000)}, path),
        "pyarrow": lambda path: pa.parquet.write_table(table, path, compression="none", use_dictionary=False),
        "pandas": lambda path: table.to_pandas().to_csv(path),
        "python": lambda path: path.write_bytes(bytes(100_000)),
    }
    said: dict[str, str | None] = {}
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    for library, write in writers.items():
        wrapped = RuntimeError("a stage failed")
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, usual[1]))
        try:
            write(folder / library)
        except Exception as error:
            wrapped.__cause__ = error
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        said[library] = storage_problem(wrapped, folder)
    return said


def test_an_output_folder_that_a_node_does_not_see_is_no_new_one(tmp_path: Path) -> None:
    missing = tmp_path / "not_mounted" / "out"
    with pytest.raises(OutputMissing, match="is the shared folder mounted") as caught:
        run_inline(Job(str(missing), Resources()), report=lambda metrics: None, progress=lambda *_: None)
    assert not missing.exists()
    assert storage_problem(caught.value, tmp_path) is not None


def _no_space(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_ledger_that_cannot_be_written_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def trial(config: dict[str, Any], **_: Any) -> None:
        _finish(config)

    storage = open_journal(tmp_path)
    writes = itertools.count()
    append = JournalFileBackend.append_logs

    def fills_up(self: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        if next(writes) == 12:  # half a line gets through, and what comes later would fit again
            with open(self._file_path, "ab") as file:
                file.write(b'{"op_code": 4, "wor')
            _no_space()
        append(self, logs)

    with monkeypatch.context() as patch:
        patch.setattr(JournalFileBackend, "append_logs", fills_up)
        with pytest.raises(StorageFailed, match="No space left"):
            _sweep(_study(6), tmp_path, trial).search(storage)
    assert next(writes) == 13, "nothing was written behind it"
    assert (tmp_path / JOURNAL).read_bytes().endswith(b"\n")
    assert cores_after(30.0) == 2
    result = _search(_study(6), tmp_path, trial)
    assert [one.outcome for one in result.trials] == ["complete"] * 6


def test_a_search_that_is_told_to_stop_goes_on_later(tmp_path: Path) -> None:
    def slow(config: dict[str, Any], *, output: str, **_: Any) -> None:
        if _first_time(output, config) and config["trial"] in ("t0002", "t0003"):
            time.sleep(600)
        _finish(config)

    study = _study(5)
    sweep = _sweep(study, tmp_path, slow)

    def stop_when_two_are_done() -> None:
        while not (tmp_path / "t0003.was_here").exists():
            time.sleep(0.05)
        sweep.stop.set()

    thread = threading.Thread(target=stop_when_two_are_done)
    thread.start()
    with pytest.raises(Interrupted):
        sweep.search(open_journal(tmp_path))
    thread.join()
    assert cores_after(30.0) == 2
    for path in (tmp_path / "tune").rglob("*"):  # whatever Tune kept is of no matter
        if path.is_file():
            path.write_bytes(b"\0garbage")
    for path in tmp_path.rglob("*"):  # nor is the time
        os.utime(path, (2**31, 2**31) if path.name < "o" else (0, 0))
    result = _search(study, tmp_path, slow)
    assert [one.trial_id for one in result.trials] == [f"t000{number}" for number in range(5)]
    assert {one.outcome for one in result.trials} == {"complete"}


def test_sizes_search_side_by_side(tmp_path: Path) -> None:
    """On two cores, a size that comes later gets a core as soon as a trial ends, and each trial runs its own study's size."""

    def trial(config: dict[str, Any], *, size: Any, output: str, **_: Any) -> None:
        name, here = f"{size.name}-{config['trial']}", Path(output)
        (here / name).touch()
        waits_for = {"a-t0000": "b-t0000", "a-t0001": "b-came", "b-t0000": "a-t0000"}.get(name, name)
        until = time.monotonic() + 60
        while not (here / waits_for).exists():
            if time.monotonic() > until:
                return tune.report({"error": f"{waits_for} did not start"})
            time.sleep(0.05)
        time.sleep(1.0 if waits_for == "b-came" else 0.0)
        return _finish(config, score=10.0 if size.name == "a" else 20.0)

    study = dataclasses.replace(
        _study(3), sizes=tuple(dataclasses.replace(_study(3).sizes[0], name=name) for name in "ab")
    )
    room, storage = Room(capacity(study.sizes)), open_journal(tmp_path)

    def search(name: str) -> SearchResult:
        if name == "b":
            while not (tmp_path / "a-t0001").exists():
                time.sleep(0.05)
            (tmp_path / "b-came").touch()
        return Sweep(study, study.size(name), tmp_path, room, lambda *_: None, trial=trial).search(storage)

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip("ab", pool.map(search, "ab"), strict=True))
    errors = [one.reason for result in found.values() for one in result.trials if one.reason]
    assert not errors
    scores = {name: {one.dev_score for one in result.trials} for name, result in found.items()}
    assert scores == {"a": {10.0}, "b": {20.0}}
    assert [len(found[name].trials) for name in "ab"] == [3, 3]


def test_trials_of_a_size_share_a_process_for_each_core(tmp_path: Path) -> None:
    """A process of its own would cost each of them seconds of imports."""

    def trial(config: dict[str, Any], *, output: str, **_: Any) -> None:
        (Path(output) / f"{config['trial']}-{os.getpid()}.ran").touch()
        return _finish(config, score=1.0)

    result = _search(_study(8), tmp_path, trial)
    assert result.count("complete") == 8
    assert len({path.stem.partition("-")[2] for path in tmp_path.glob("*.ran")}) <= 2


def _own_resources() -> dict[str, float]:
    """What the cluster has, without what it made for placement groups."""
    return {name: amount for name, amount in ray.cluster_resources().items() if "_group_" not in name}


def test_twenty_trials_stopped_early_leave_the_cluster_as_it_was(tmp_path: Path) -> None:
    def trial(config: dict[str, Any], **_: Any) -> None:
        number = int(config["trial"][1:])
        _finish(config, score=100.0 - number)  # each worse than all before it

    assert cores_after(30.0) == 2, "of the tests before"
    before = _own_resources()
    result = _search(_study(24), tmp_path, trial)
    assert result.count("stopped_early") >= 20
    assert cores_after(30.0) == before["CPU"]
    assert _own_resources() == before
    groups = [one for one in ray.util.placement_group_table().values() if one["state"] != "REMOVED"]
    assert groups == []
    assert search_name(SIZE.name) == SIZE.name
