"""The client of object stores against S3, Google and Azure on loopback: conditions, large files, and a store that fails."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.azure_server import ACCOUNT, SIGNATURE
from tests.support.object_http import BUCKET, Fault, ObjectServer
from trainables.store.bucket import client
from trainables.store.bucket.client import ObjectStore, RemoteStore, StorageUnavailable, bucket_of, object_store
from trainables.store.bucket.location import url_of, work_folder

SMALLEST_PART = 5 * 2**20  # that S3 and Google take, but for the last one
PART = r"partNumber=|comp=block&"
COMPLETION = {"s3": ("POST", "uploadId="), "gs": ("POST", "uploadId="), "az": ("PUT", "comp=blocklist")}


@pytest.fixture
def store(cloud: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setattr(client, "PATIENCE_S", 3.0)
    return object_store(cloud.new_url())


def test_of_two_creators_one_succeeds(store: ObjectStore) -> None:
    tag = store.put_new("deep/name", b"first")
    assert tag is not None
    assert store.put_new("deep/name", b"second") is None
    present = store.get("deep/name")
    assert present is not None
    assert (present.content, present.tag) == (b"first", tag)
    assert store.get("deep/nothing") is None


def test_a_version_is_replaced_once(store: ObjectStore) -> None:
    first = store.put_new("name", b"first")
    assert first is not None
    second = store.put_over("name", b"second", first)
    assert second is not None
    assert store.put_over("name", b"third", first) is None, "it is not the first any more"
    assert store.put_over("name", b"third", second) is not None
    assert store.put_over("nothing", b"third", second) is None


def test_names_are_below_the_prefix_and_deletion_is_of_what_is_there(store: ObjectStore) -> None:
    for name in ("b/2", "b/1", "bc/3", "a"):
        store.put(name, b"x")
    assert store.names("b/") == ["b/1", "b/2"]
    store.delete(["b/1", "never"])
    assert store.names("") == ["a", "b/2", "bc/3"]


def test_names_and_folders_come_in_pages(store: ObjectStore, cloud: ObjectServer) -> None:
    names = ["stages/a/1", "stages/a/2", "stages/b/1", "stages/b-c/1", "stages/marker", "x+y=z/1"]
    for name in names:
        store.put(name, b"x")
    cloud.page = 2
    cloud.requests.clear()
    assert store.names("") == sorted(names)
    assert len(cloud.requests) == 3
    assert store.folders("stages/") == ["a", "b", "b-c"]
    assert store.names("stages/none/") == store.folders("stages/none/") == []


def test_a_large_file_goes_in_parts(
    store: ObjectStore, cloud: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "PART_BYTES", SMALLEST_PART)
    content = os.urandom(2 * SMALLEST_PART + 5)
    (tmp_path / "large").write_bytes(content)
    cloud.requests.clear()
    store.upload(tmp_path / "large", "large")
    assert sum(re.search(PART, path) is not None for _, path in cloud.requests) == 3
    assert store.download("large", tmp_path / "again") == hashlib.sha256(content).hexdigest()
    assert (tmp_path / "again").read_bytes() == content
    assert store.download("nothing", tmp_path / "nothing") is None


@pytest.mark.parametrize("lost", ["part", "completion"])
def test_an_upload_in_parts_survives_a_lost_answer(
    store: ObjectStore, cloud: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Where it is that of the completion, the store knows no such upload when it is asked again."""
    monkeypatch.setattr(client, "PART_BYTES", SMALLEST_PART)
    content = os.urandom(SMALLEST_PART + 5)
    (tmp_path / "large").write_bytes(content)
    method, path = ("PUT", PART) if lost == "part" else COMPLETION[cloud.scheme]
    fault = Fault(method, path, lose="answer")
    cloud.faults.append(fault)
    store.upload(tmp_path / "large", "large")
    assert fault.times == 0
    present = store.get("large")
    assert present is not None
    assert present.content == content


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT", status=500, times=4),
        Fault("PUT", status=503, times=4),
        Fault("PUT", lose="request", times=4),
        Fault("PUT", lose="answer"),
        Fault("PUT", status=409),  # another put is under way, of which nothing is seen yet
    ],
    ids=["500", "SlowDown", "connection cut", "answer lost", "conflict"],
)
def test_a_create_only_put_survives_what_passes(store: ObjectStore, cloud: ObjectServer, fault: Fault) -> None:
    """Also where the store has done it and the answer was lost: the next attempt finds its own object."""
    cloud.faults.append(fault)
    assert store.put_new("name", b"mine") is not None
    assert fault.times == 0
    present = store.get("name")
    assert present is not None
    assert present.content == b"mine"
    assert store.put_new("name", b"another's") is None


@pytest.mark.parametrize("status", [409, 412])
def test_a_condition_may_be_refused_by_either_status(store: ObjectStore, cloud: ObjectServer, status: int) -> None:
    """S3 and Google answer 412, and S3 409 to two puts at a time; Azure's reference says 412, its service answers 409."""
    tag = store.put_new("name", b"first")
    assert tag is not None
    cloud.faults.append(Fault("PUT", status=status, times=10**6))
    assert store.put_new("name", b"second") is None
    assert store.put_over("name", b"second", tag) is None
    cloud.faults.clear()
    assert store.put_over("name", b"second", tag) is not None


@pytest.mark.parametrize("lose", ["request", "answer"])
def test_a_put_over_a_version_survives_a_lost_answer(store: ObjectStore, cloud: ObjectServer, lose: str) -> None:
    first = store.put_new("name", b"first")
    assert first is not None
    cloud.faults.append(Fault("PUT", lose=lose))
    second = store.put_over("name", b"second", first)
    assert second is not None
    present = store.get("name")
    assert present is not None
    assert (present.content, present.tag) == (b"second", second)


@pytest.mark.parametrize("fault", [Fault("GET", lose="half", times=2), Fault("GET", status=503, times=4)], ids=str)
def test_a_download_survives_what_passes(store: ObjectStore, cloud: ObjectServer, tmp_path: Path, fault: Fault) -> None:
    content = os.urandom(3 * 2**20)
    (tmp_path / "file").write_bytes(content)
    store.upload(tmp_path / "file", "file")
    cloud.faults.append(fault)
    assert store.download("file", tmp_path / "again") == hashlib.sha256(content).hexdigest()
    assert fault.times == 0
    assert (tmp_path / "again").read_bytes() == content


@pytest.mark.parametrize(
    ("method", "ask"),
    [
        ("GET", lambda store: store.get("name")),
        ("PUT", lambda store: store.put("name", b"x")),
        ("GET", lambda store: store.names("")),
    ],
    ids=["get", "put", "list"],
)
def test_a_store_that_stays_away_is_one_error_without_credentials(
    store: ObjectStore,
    cloud: ObjectServer,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    ask: Callable[[ObjectStore], object],
) -> None:
    monkeypatch.setattr(store, "_patience_s", 0.0)
    cloud.faults.append(Fault(method, status=503, times=10**6))
    with pytest.raises(StorageUnavailable) as caught:
        ask(store)
    assert store.url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "503" in str(caught.value)
    assert cloud.secret not in str(caught.value)


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.get("name"),
        lambda store: store.put_new("name", b"x"),
        lambda store: store.names(""),
        lambda store: store.delete(["name"]),
    ],
    ids=["get", "put", "list", "delete"],
)
def test_a_store_that_refuses_is_not_asked_again(
    store: ObjectStore, cloud: ObjectServer, ask: Callable[[ObjectStore], object]
) -> None:
    for method in ("GET", "PUT", "POST" if cloud.scheme == "s3" else "DELETE"):  # S3 deletes by a list of names
        cloud.faults.append(Fault(method, status=403, times=10**6))
    with pytest.raises(StorageUnavailable, match="403") as caught:
        ask(store)
    assert "\n" not in str(caught.value)
    refused = [method for method, _ in cloud.requests if (cloud.scheme, method) != ("az", "POST")]
    assert len(refused) == 1, "Azure's batch of one deletion is another request"


@pytest.mark.parametrize(
    "ask",
    [
        lambda store, file: store.get("name"),
        lambda store, file: store.put("name", b"x"),
        lambda store, file: store.put_new("name", b"x"),
        lambda store, file: store.put_over("name", b"x", '"0x1"\n1'),
        lambda store, file: store.names(""),
        lambda store, file: store.folders("stages/"),
        lambda store, file: store.delete(["name"]),
        lambda store, file: store.upload(file, "name"),
        lambda store, file: store.download("name", file.with_name("other")),
    ],
    ids=["get", "put", "put_new", "put_over", "names", "folders", "delete", "upload", "download"],
)
def test_a_bucket_that_does_not_exist_is_named_at_once(
    cloud: ObjectServer, tmp_path: Path, ask: Callable[[ObjectStore, Path], object]
) -> None:
    """It is not taken for a bucket without the object."""
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageUnavailable, match="no such bucket"):
        ask(object_store(f"{cloud.scheme}://missing-bucket/prefix"), tmp_path / "file")


@pytest.mark.parametrize("fault", [Fault("GET", status=403, times=9), Fault("GET", lose="request", times=9)], ids=str)
def test_a_signature_that_stands_in_addresses_is_in_no_message(
    one_azure_server: ObjectServer, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    one_azure_server.reset()
    monkeypatch.setattr(client, "PATIENCE_S", 0.0)
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_KEY")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", f"sv=2023-11-03&sig={SIGNATURE}")
    store = object_store(one_azure_server.new_url())
    store.put("name", b"x")
    one_azure_server.faults.append(fault)
    with pytest.raises(StorageUnavailable) as caught:
        store.names("")
    assert SIGNATURE not in str(caught.value)
    assert "sig=" in one_azure_server.requests[-1][1], "it was in the address"


def test_an_emulator_is_reached_without_tls(one_azure_server: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By Azure's own variables; they reach the workers of a cluster."""
    one_azure_server.reset()
    monkeypatch.delenv("AZURE_STORAGE_ENDPOINT")
    monkeypatch.setenv("AZURE_STORAGE_USE_EMULATOR", "true")
    monkeypatch.setenv("AZURITE_BLOB_STORAGE_URL", f"http://127.0.0.1:{one_azure_server.port}")
    store = object_store(one_azure_server.new_url())
    assert store.put_new("name", b"x") is not None
    assert f"/{ACCOUNT}/{BUCKET}/" in one_azure_server.requests[-1][1]
    assert {"AZURE_STORAGE_USE_EMULATOR", "AZURITE_BLOB_STORAGE_URL"} <= set(client.storage_variables())


def test_a_store_without_tls_is_reached_by_its_own_address(
    cloud: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL", "az": "AZURE_STORAGE_ENDPOINT"}
    for variable in set(own.values()) - {own[cloud.scheme]}:
        monkeypatch.delenv(variable, raising=False)
    assert object_store(cloud.new_url()).put_new("name", b"x") is not None


def test_a_work_folder_names_its_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XSTILTS_WORK", str(tmp_path))
    folder = work_folder("s3://studies/first/second/")
    assert tmp_path in folder.parents
    assert url_of(folder) == "s3://studies/first/second"
    assert url_of(tmp_path) is None
    assert bucket_of(tmp_path) is None


@pytest.mark.parametrize(
    "url",
    ["s3://", "s3://bucket", "s3://bucket/", "s3://bucket/../x", "s3://bucket/a//b", "s3://bucket/a?b", "s3://u:p@b/x"],
)
def test_an_odd_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="bucket"):
        work_folder(url)


@pytest.mark.parametrize(
    "asked",
    [
        "Generic S3 error: Error performing PUT http://169.254.169.254/latest/api/token in 1.2ms - 403 Forbidden",
        "Generic GCS error: Error performing token request: Error performing GET http://metadata.google.internal/computeMetadata"
        "/v1/instance/service-accounts/default/token in 3s, after 2 retries - error sending request",
    ],
    ids=["s3", "gs"],
)
def test_without_credentials_a_store_is_given_up_soon(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at once: a metadata server may be busy for a moment."""
    from obstore.exceptions import GenericError

    calls: list[str] = []

    def get(store: object, name: str) -> None:
        calls.append(name)
        raise GenericError(f"{asked}\n\nDebug source:\n...")

    monkeypatch.setattr("obstore.get", get)
    monkeypatch.setattr(client, "METADATA_PATIENCE_S", 0.5)
    with pytest.raises(StorageUnavailable, match="there are no credentials: none in the environment") as caught:
        RemoteStore(None, "s3://bucket/prefix", patience_s=60.0).get("study.json")
    assert "169.254" not in str(caught.value)
    assert len(calls) > 1
