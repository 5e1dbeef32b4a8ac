"""A finished output folder whose evaluations have answers: the kept one, which an earlier version wrote without any.

Predictions and references are made up so that they count for the sums that the evaluations recorded.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from study.console import Console, Timeline
from study.evidence.export import export
from study.run.report import load_study_frames
from study.search.callback import TrialLog
from study.search.journal import open_journal
from study.search.sweep import load_result
from study.tracking.tracker import Tracker, default_uri
from tests.support import recipes
from tests.support.kept_output import renew, unpack
from trainables.evaluation import Answer
from trainables.store.answers import ANSWERS, COLUMNS
from trainables.store.examples import EXAMPLES, read_example_scores, write_example_scores
from trainables.store.manifests import MANIFEST, write_manifest


@pytest.fixture(scope="package")
def without_answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder as the earlier version left it."""
    return unpack(tmp_path_factory.mktemp("without")).folder


@pytest.fixture(scope="package")
def with_answers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder with answers beside the scores by example, listed in the manifests."""
    folder = unpack(tmp_path_factory.mktemp("with")).folder
    renew(folder)
    for path in folder.glob(f"stages/*/{EXAMPLES}"):
        table = read_example_scores(path)
        answers = [_answer(row, f"id-{number}") for number, row in enumerate(table.to_dict("records"))]
        table = table[["split", "language", "example"]].assign(
            id=[answer.id for answer in answers],
            prediction=[json.dumps(answer.prediction) for answer in answers],
            reference=[json.dumps(answer.reference) for answer in answers],
        )
        write_example_scores(table[list(COLUMNS)], path.with_name(ANSWERS))
        content = json.loads((path.parent / MANIFEST).read_bytes())
        del content["files"], content["seal"]
        write_manifest(path.parent, content)
    _record_evaluations(folder)
    return folder


@pytest.fixture(scope="package")
def exported(with_answers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `with_answers`, which tests copy before they change it."""
    path = tmp_path_factory.mktemp("exported") / "bundle.zip"
    export(load_study_frames(str(with_answers)), with_answers, path)
    return path


def _record_evaluations(folder: Path) -> None:
    """Tag the trials of the smaller size with their evaluations, as this version does; the others stay as they were."""
    study = recipes.tiny()
    size = study.size("1x32")
    result, _ = load_result(study, size, storage=open_journal(folder))
    with Tracker(default_uri(folder), study.name, output=folder) as tracker:
        TrialLog(study, size, tracker, Console(Timeline())).log_missing(result)


def _answer(sums: dict[Any, Any], name: str) -> Answer:
    """A prediction and a reference that count for these sums of accuracy or span F1."""
    if "correct" in sums:
        return Answer(name, 0 if sums["correct"] else 1, 0)
    hits, predicted, gold = (int(sums[column]) for column in ("hits", "predicted", "gold"))
    given = ["B-A"] * predicted + ["O"] * (gold - hits)
    wanted = ["B-A"] * hits + ["O"] * (predicted - hits) + ["B-A"] * (gold - hits)
    return Answer(name, given, wanted)
