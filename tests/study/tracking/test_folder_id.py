"""An experiment belongs to the output folder whose id it has; a damaged id is restored from the experiment, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from study.tracking.sync import TrackingUnavailable, send
from tests.study.tracking.helpers import assert_received, open_tracker, write_trials
from tests.support.mlflow_stub import Stub, stub_server
from trainables.store.kept import parse_object, sealed


def test_two_folders_do_not_share_an_experiment(stub: Stub, tmp_path: Path) -> None:
    with open_tracker(stub, tmp_path / "a") as tracker:
        write_trials(tracker)
    before, requests = json.dumps(stub.experiments), len(stub.requests)
    with pytest.raises(TrackingUnavailable, match=r"'demo' belongs to another output folder.*another name"):
        open_tracker(stub, tmp_path / "b")
    with open_tracker(stub, tmp_path / "b", offline=True) as tracker:
        write_trials(tracker, 1)
    with pytest.raises(TrackingUnavailable, match="another output folder"):
        send(tmp_path / "b", stub.uri, again=True, say=lambda line: None)
    assert set(stub.requests[requests:]) == {"experiments/get-by-name"}
    assert json.dumps(stub.experiments) == before
    assert_received(stub)
    with stub_server() as other:
        assert send(tmp_path / "b", other.uri, say=lambda line: None)
        assert_received(other, 1)


def test_an_experiment_that_received_the_outbox_or_has_no_study_is_used(stub: Stub, tmp_path: Path) -> None:
    stub.experiments["demo"] = {"experiment_id": "7", "name": "demo", "tags": {"team": "of whoever created it"}}
    with open_tracker(stub, tmp_path / "a") as tracker:
        write_trials(tracker)
    (tmp_path / "b").mkdir()
    shutil.copytree(tmp_path / "a" / "outbox", tmp_path / "b" / "outbox")
    assert send(tmp_path / "b", stub.uri, say=lambda line: None)
    with pytest.raises(TrackingUnavailable, match="another output folder"):
        open_tracker(stub, tmp_path / "c")
    assert_received(stub)


@pytest.mark.parametrize("earlier", [False, True], ids=["sealed", "as earlier versions wrote it"])
def test_an_id_with_another_character_is_taken_from_the_experiment_that_has_the_outbox(
    earlier: bool, stub: Stub, tmp_path: Path
) -> None:
    path, outbox = tmp_path / "study.id", tmp_path / "outbox"
    with open_tracker(stub, tmp_path) as tracker:
        write_trials(tracker)
    (own,) = (experiment["tags"]["study.folder"] for experiment in stub.experiments.values())
    text = own if earlier else path.read_text(encoding="utf-8")
    path.write_text(text.replace(own, f"{'0' if own[0] != '0' else '1'}{own[1:]}"), encoding="utf-8")
    assert send(tmp_path, stub.uri, say=lambda line: None)
    assert parse_object(path.read_bytes()) == {"id": own}
    shutil.rmtree(outbox)
    with open_tracker(stub, tmp_path) as tracker:
        write_trials(tracker)
    assert len(stub.by_key()) == len(stub.runs) == 4


@pytest.mark.parametrize("damage", ["another character", "no text", "cut"])
def test_a_damaged_id_that_nothing_gives_back_is_refused_in_a_sentence(damage: str, stub: Stub, tmp_path: Path) -> None:
    path = tmp_path / "study.id"
    with open_tracker(stub, tmp_path) as tracker:
        write_trials(tracker)
    stored = path.read_bytes()
    id_at = stored.index(b'"id": "') + 7
    odd = b"0" if stored[id_at : id_at + 1] != b"0" else b"1"
    path.write_bytes(
        {
            "another character": stored[:id_at] + odd + stored[id_at + 1 :],
            "no text": json.dumps(sealed({"id": 3})).encode(),
            "cut": stored[:20],
        }[damage]
    )
    damaged = path.read_bytes()
    shutil.rmtree(tmp_path / "outbox")
    with pytest.raises(TrackingUnavailable, match=r"study\.id is damaged \(.*\).*restore it.*or remove it"):
        open_tracker(stub, tmp_path)
    assert path.read_bytes() == damaged
    with open_tracker(stub, tmp_path, offline=True) as tracker:  # its report still reads the outbox
        write_trials(tracker)
        assert tracker.read(lambda uri: uri).startswith("sqlite:")
    path.write_bytes(stored)
    assert send(tmp_path, stub.uri, say=lambda line: None)
    assert len(stub.by_key()) == len(stub.runs) == 4


def test_a_folder_of_an_earlier_version_keeps_its_id_as_it_is(stub: Stub, tmp_path: Path) -> None:
    path = tmp_path / "study.id"
    path.write_text("a" * 32, encoding="utf-8")
    for _ in range(2):
        with open_tracker(stub, tmp_path) as tracker:
            write_trials(tracker)
        shutil.rmtree(tmp_path / "outbox")
    assert path.read_text(encoding="utf-8") == "a" * 32
    path.write_text("b" + "a" * 31, encoding="utf-8")
    with pytest.raises(TrackingUnavailable, match=r"the id in .*study\.id"):
        open_tracker(stub, tmp_path)
