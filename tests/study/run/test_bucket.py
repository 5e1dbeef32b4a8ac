"""A driver whose output is in a bucket: one at a time, shipped as it grows, and stopped once nothing reaches the bucket."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from unittest import mock

import optuna
import pytest

from study.errors import CannotRun, StorageFailed
from study.run.bucket import driving
from study.run.bucket.driving import DRIVER, keep_folder_id, kept_in_bucket
from study.run.bucket.reading import readable, refresh
from study.run.output_folder import locked
from study.search.journal import JOURNAL, open_journal
from study.tracking.sync import TrackingUnavailable
from study.tracking.tracker import Tracker
from tests.study.tracking.helpers import PARAMS
from tests.support.mlflow_stub import stub_server
from tests.support.object_server import Fault, ObjectServer
from tests.support.waiting import wait_for
from trainables.store.bucket.client import ObjectStore, StorageUnavailable
from trainables.store.bucket.leases import Lease
from trainables.store.bucket.segments import Segments, Superseded


def test_a_second_driver_is_refused_with_who_runs_the_study(output: Path, url: str) -> None:
    with kept_in_bucket(output), pytest.raises(CannotRun) as refused, kept_in_bucket(output):
        pass
    assert f"--output {url}: another run is using it, process " in str(refused.value)
    with kept_in_bucket(output):
        pass


def test_what_a_driver_writes_is_in_the_bucket_before_it_ends(output: Path, there: Path, bucket: ObjectStore) -> None:
    with kept_in_bucket(output):
        before = len(bucket.names("journal/"))
        (output / "study.json").write_text("{}")
        wait_for(lambda: len(bucket.names("journal/")) > before)
        assert refresh(there)
        assert (there / "study.json").read_text() == "{}"
        (output / "study.json").write_text('{"last": 1}')
    refresh(there)
    assert json.loads((there / "study.json").read_text()) == {"last": 1}


def test_a_folder_that_its_driver_uses_is_left_alone(output: Path) -> None:
    (output / "study.json").write_text("{}")
    with locked(output):
        assert not refresh(output)
    assert (output / "study.json").exists()
    assert not refresh(output.parents[4]), "no work folder"


def test_no_trial_is_recorded_once_nothing_reaches_the_bucket(
    output: Path, bucket: ObjectStore, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket, "_patience_s", 0.2)
    with pytest.raises(StorageUnavailable), kept_in_bucket(output) as shipping:  # noqa: PT012 - it is raised at the end of the block
        assert shipping is not None
        search = optuna.create_study(storage=open_journal(output, check=shipping.check), study_name="search")
        wait_for(lambda: len(bucket.names("journal/")) > 1)
        written = (output / JOURNAL).read_bytes()
        object_server.faults.append(Fault("PUT", "journal/", status=503, times=10**6))
        (output / "study.json").write_text("{}")
        wait_for(lambda: shipping._error is not None)
        with pytest.raises(StorageUnavailable) as stopped:
            search.ask()
        assert (output / JOURNAL).read_bytes() == written
        raise stopped.value
    message = str(StorageFailed(stopped.value, output))
    assert f"--output {bucket.url} cannot be written" in message
    assert "run the same command again" in message


def test_a_bucket_that_comes_back_gets_the_rest_before_the_run_ends(
    output: Path, there: Path, bucket: ObjectStore, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while a benchmark runs, which writes no trial that would be refused."""
    monkeypatch.setattr(bucket, "_patience_s", 0.2)
    lines: list[str] = []
    with kept_in_bucket(output, say=lines.append) as shipping:
        assert shipping is not None
        object_server.faults.append(Fault("PUT", "journal/", status=503, times=10**6))
        (output / "study.json").write_text("{}")
        wait_for(lambda: shipping._error is not None)
        object_server.faults.clear()
        wait_for(lambda: shipping._error is None)
        refresh(there)
        assert (there / "study.json").read_text() == "{}"
        object_server.faults.append(Fault("PUT", "journal/", status=503, times=10**6))
        (output / "study.json").write_text('{"last": 1}')
        wait_for(lambda: shipping._error is not None)
        object_server.faults.clear()
    refresh(there)
    assert json.loads((there / "study.json").read_text()) == {"last": 1}
    assert [line.partition(" (")[0] for line in lines[:2]] == [
        "the bucket does not take what the run writes",
        "the bucket takes what the run writes again",
    ]


def test_mlflow_gets_nothing_that_the_bucket_lacks(
    output: Path, bucket: ObjectStore, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A successor gives the ids of trials that only a lost machine knew to other choices; MLflow must not have runs of them."""
    monkeypatch.setattr(bucket, "_patience_s", 0.2)
    with (
        stub_server() as stub,
        kept_in_bucket(output) as shipping,
        Tracker(stub.uri, "demo", output=output, keeper=shipping) as tracker,
    ):
        assert shipping is not None
        tracker.trial("s", "t0", default_cell=True, params=PARAMS)
        wait_for(lambda: "trial:s:t0" in stub.by_key())
        object_server.faults.append(Fault("PUT", "journal/", status=503, times=10**6))
        tracker.trial("s", "t1", default_cell=True, params=PARAMS)
        assert not tracker.flush(patience_s=0.5)
        assert "trial:s:t1" not in stub.by_key()
        object_server.faults.clear()
        wait_for(lambda: shipping._error is None)
        assert tracker.flush()
        assert "trial:s:t1" in stub.by_key()
        tracker.trial("s", "t2", default_cell=True, params=PARAMS)
    assert "trial:s:t2" in stub.by_key(), "what is written last is shipped, and then sent"


def test_a_new_study_s_id_is_in_the_bucket_before_its_first_shipment(
    output: Path, there: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving, "DELAY_S", 3600.0)
    with kept_in_bucket(output) as shipping:
        assert shipping is not None
        keep_folder_id(output, shipping)
        refresh(there)
        assert (there / "study.id").read_bytes() == (output / "study.id").read_bytes()


def test_a_driver_that_was_taken_over_is_ended(output: Path, there: Path, bucket: ObjectStore) -> None:
    """Wherever it is: the block ends with why, and not as an interruption."""
    over = threading.Event()
    with pytest.raises(Superseded), kept_in_bucket(output, end=over.set):  # noqa: PT012 - the same
        Segments(bucket, there).take_over()
        (output / "study.json").write_text("{}")
        assert over.wait(60.0)
        raise SystemExit(143)


def test_a_driver_that_was_taken_for_dead_ends_with_an_error(output: Path, there: Path, bucket: ObjectStore) -> None:
    with pytest.raises(Superseded), kept_in_bucket(output):  # noqa: PT012 - the same
        Segments(bucket, there).take_over()
        (output / "study.json").write_text("{}")
    assert not (there / "study.json").exists()
    assert bucket.get(DRIVER) is not None


def test_a_driver_that_lost_its_lease_ends_with_an_error(output: Path) -> None:
    with (  # noqa: PT012 - the same
        mock.patch.object(Lease, "lost", new_callable=mock.PropertyMock, return_value=False) as lost,
        pytest.raises(Superseded),
        kept_in_bucket(output) as shipping,
    ):
        assert shipping is not None
        lost.return_value = True
        wait_for(lambda: shipping._error is not None)


def test_a_prefix_without_a_study_is_no_study_to_read(url: str) -> None:
    with pytest.raises(TrackingUnavailable, match="no such file"):
        readable(url)
    assert readable("runs/first") == "runs/first"
