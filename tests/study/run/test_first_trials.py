"""The order of the first trials by an estimator: off by default, no part of an identity, and said beforehand."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import NoReturn

import pytest
import ray
from ray.exceptions import NodeDiedError
from rich.console import Console

from study import console as progress_console
from study.planning.plan import render_plan
from study.run import first_trials
from study.run.first_trials import first_choices, order_of
from study.run.identity import STUDY_FILE, check_identity
from study.run.ranking import estimate_stages
from study.spec import InvalidStudy, Joint
from tests.support import recipes
from tests.support.lost_node import ends_with_the_reason, own_node
from trainables.estimators.base import Estimate
from trainables.store.fingerprint import canonical
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.intermediate import MicroParaphrase, MicroTopic

TOPIC, PARAPHRASE = MicroTopic(**recipes.SMALL), MicroParaphrase(**recipes.SMALL)
PLAIN = dataclasses.replace(
    recipes.inline(),
    space=dataclasses.replace(recipes.inline().space, intermediates=(Joint(TOPIC), TOPIC, PARAPHRASE)),
    trials=4,
)
ORDERED = dataclasses.replace(PLAIN, first_by="text_similarity")


def test_an_order_is_no_part_of_what_an_output_folder_agrees_with(tmp_path: Path) -> None:
    assert "first_by" not in canonical(PLAIN)
    check_identity(PLAIN, tmp_path)
    written = (tmp_path / STUDY_FILE).read_text(encoding="utf-8")
    check_identity(ORDERED, tmp_path)
    assert (tmp_path / STUDY_FILE).read_text(encoding="utf-8") == written
    assert "first_by" not in json.loads(written)


def test_estimators_that_train_every_intermediate_task_first_are_refused() -> None:
    for name in ("logme", "no_such"):
        with pytest.raises(InvalidStudy, match=f"first_by '{name}': use text_similarity, or None"):
            dataclasses.replace(PLAIN, first_by=name)


def test_none_comes_first_then_the_estimated_and_last_what_has_no_estimate(tmp_path: Path) -> None:
    (size,) = ORDERED.sizes
    cells, store = estimate_stages(ORDERED, size, "text_similarity"), StageStore(tmp_path)
    assert order_of(ORDERED, size, cells, store) == (), "nothing is estimated yet"
    worth = {TOPIC.name: 0.2, PARAPHRASE.name: 0.7}
    for (choice, _), stage in cells.items():
        if isinstance(stage, Estimate):
            value = worth.get(choice)
            store.commit(
                stage, store.workspace(stage), {"unavailable": "no texts"} if value is None else {"value": value}, {}
            )
    joint = Joint(TOPIC).name
    assert order_of(ORDERED, size, cells, store) == ("none", PARAPHRASE.name, TOPIC.name, joint)


def test_the_plan_says_in_what_order_trials_start() -> None:
    def plan(study: object) -> str:
        console = Console(width=300, record=True, file=io.StringIO())
        console.print(render_plan(study))  # type: ignore[arg-type]
        return console.export_text()

    assert "default cells start with none, then in the order of text_similarity" in plan(ORDERED)
    assert "text_similarity" not in plan(PLAIN)


def test_no_order_is_given_up_for_a_lost_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dies(_: object) -> NoReturn:
        raise NodeDiedError("the node died")

    def choices() -> dict[str, tuple[str, ...]]:
        progress = progress_console.Console(progress_console.Timeline())
        return first_choices(ORDERED, tmp_path, sizes=ORDERED.sizes, progress_actor=None, console=progress)

    monkeypatch.setattr(first_trials, "_launched", lambda *_, **__: None)
    monkeypatch.setattr(ray, "get", dies)
    with own_node(monkeypatch) as node:
        assert choices() == {"1x32": ()}, "the node lives: the recipe's order"
        node.lost = True
        with pytest.raises(SystemExit) as ended:
            choices()
    assert ends_with_the_reason(ended, capsys)
