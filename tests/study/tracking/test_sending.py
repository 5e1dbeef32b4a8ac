"""What stores receive: all of the outbox, each entry once, and nothing over what somebody edited there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from study.tracking.sync import send
from study.tracking.views import ui_tags
from tests.study.tracking.helpers import PARAMS, assert_received, open_tracker, write_trials
from tests.support.mlflow_stub import Stub, stub_server


def test_an_experiment_of_an_earlier_version_gets_what_the_ui_shows_through_the_journal(
    stub: Stub, tmp_path: Path
) -> None:
    with open_tracker(stub, tmp_path) as tracker:
        write_trials(tracker)
    tags = stub.experiments["demo"]["tags"]
    assert not [tag for tag in tags if tag.startswith("mlflow.")]
    journal = tmp_path / "outbox" / "journal.jsonl"
    for _ in range(2):  # the second time adds nothing
        with open_tracker(stub, tmp_path, offline=True) as tracker:
            tracker.describe(ui_tags())
            entries = journal.read_text().splitlines()
            assert [json.loads(line)["do"] for line in entries].count("describe") == 2
    assert "mlflow.experimentKind" not in tags
    assert send(tmp_path, say=lambda line: None)
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert {tag: tags[tag] for tag in ui_tags()} == ui_tags()


def test_what_somebody_edited_in_the_ui_stays(stub: Stub, tmp_path: Path) -> None:
    with open_tracker(stub, tmp_path) as tracker:
        tracker.describe({"mlflow.note.content": "ours", "study.seed": 0})
        write_trials(tracker)
    run = stub.by_key()["trial:s:t0"]["tags"]
    assert "Trial of size s" in run["mlflow.note.content"]
    run["mlflow.note.content"] = "edited"
    tags = stub.experiments["demo"]["tags"]
    assert tags["mlflow.note.content"] == "ours"
    tags |= {"mlflow.note.content": "edited", "mlflow.experimentKind": "genai_development"}
    with open_tracker(stub, tmp_path) as tracker:
        tracker.describe({"mlflow.note.content": "ours, of a later version", **ui_tags(), "study.seed": 1})
    assert send(tmp_path, stub.uri, again=True, say=lambda line: None)
    assert run["mlflow.note.content"] == tags["mlflow.note.content"] == "edited"
    assert tags["mlflow.experimentKind"] == "genai_development"
    assert tags["study.seed"] == "1"


def test_another_store_gets_everything_too_and_a_lost_run_is_sent_again(stub: Stub, tmp_path: Path) -> None:
    with open_tracker(stub, tmp_path) as tracker:
        write_trials(tracker)
    with stub_server() as other:
        assert send(tmp_path, other.uri, say=lambda line: None)
        assert_received(other)
        assert other.content() == stub.content()
    lost = stub.by_key()["trial:s:t1"]
    lost["lifecycle_stage"] = "deleted"
    assert send(tmp_path, stub.uri, again=True, say=lambda line: None)
    assert_received(stub)


def test_params_and_tags_above_the_limit_of_a_call_all_arrive(stub: Stub, tmp_path: Path) -> None:
    many = {f"p{number}": number for number in range(150)}
    with open_tracker(stub, tmp_path) as tracker:
        run = tracker.trial("s", "t0", default_cell=False, params={**PARAMS, **many})
        tracker.tags(run, {name: str(value) for name, value in many.items()})
        tracker.metrics(run, {"dev/score": 1.0})
        assert tracker.flush()
    stored = stub.by_key()[run]
    assert stored["params"].keys() == PARAMS.keys() | many.keys()
    assert stored["tags"].keys() >= many.keys()
    assert {point[0] for point in stored["metrics"]} == {"dev/score"}


def test_a_file_is_sent_once(stub: Stub, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    sent: Callable[[], int] = lambda: sum(call.startswith("/api/2.0/mlflow-artifacts") for call in stub.requests)  # noqa: E731
    for content, count in (("a", 1), ("a", 1), ("b", 2)):
        with open_tracker(stub, tmp_path) as tracker:
            report.write_text(content)
            tracker.artifact(tracker.size("s"), report)
            assert tracker.flush()
        assert sent() == count


def test_nothing_is_sent_again_after_the_folder_moved(stub: Stub, tmp_path: Path) -> None:
    with open_tracker(stub, tmp_path / "a") as tracker:
        write_trials(tracker)
    shutil.move(tmp_path / "a", tmp_path / "b")
    before = len(stub.requests)
    with open_tracker(stub, tmp_path / "b") as tracker:
        write_trials(tracker)
        assert tracker.flush()
    assert set(stub.requests[before:]) == {"experiments/get-by-name"}
