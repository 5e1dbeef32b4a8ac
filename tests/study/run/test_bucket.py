"""A driver whose output is in a bucket: one at a time, shipped as it grows, and stopped once nothing reaches the bucket."""

from __future__ import annotations

import json
from pathlib import Path
from unittest import mock

import optuna
import pytest

from study.errors import CannotRun, StorageFailed
from study.run.bucket.driving import DRIVER, kept_in_bucket
from study.run.bucket.reading import readable, refresh
from study.run.output_folder import locked
from study.search.journal import JOURNAL, open_journal
from study.tracking.sync import TrackingUnavailable
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
