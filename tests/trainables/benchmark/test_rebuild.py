"""Evaluations rebuilt from the manifests of stages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from study.recipes import load_recipe
from tests.support.serving import target_stage
from tests.support.shared_runs import TinyRun
from trainables.benchmark.subjects.rebuild import CannotRebuild, UnknownClass, classes_in, evaluation_of, rebuild
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.store.fingerprint import canonical
from trainables.store.stage_store import StageStore


def test_the_folder_of_a_stage_leads_to_the_evaluation_of_its_model(tiny_run: TinyRun) -> None:
    output, _ = tiny_run
    folder = target_stage(output)
    evaluation = evaluation_of(folder)
    assert isinstance(evaluation, Evaluate)
    identity = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["identity"]
    assert canonical(evaluation.model) == identity
    for manifest in output.glob("stages/*/manifest.json"):
        document = json.loads(manifest.read_text(encoding="utf-8"))["identity"]
        assert canonical(rebuild(document)) == document, manifest
    (vocabulary,) = output.glob("stages/vocabulary-*")
    assert evaluation_of(vocabulary) is None
    assert evaluation_of(output) is None


def test_an_identity_with_an_unknown_class_is_refused() -> None:
    with pytest.raises(UnknownClass, match="its class Strange is not built in"):
        rebuild({"type": "Strange", "version": 1})
    with pytest.raises(CannotRebuild, match="Shape"):
        rebuild({"type": "Shape", "version": 1, "layers": 0, "width": 32})


def test_the_classes_of_a_recipe_are_known_besides_the_built_in_ones(tmp_path: Path) -> None:
    study = load_recipe("tests/support/own_recipe.py:own_task")
    evaluation = Evaluate(study.encoder_stage(study.sizes[0], trained=False), study.targets[-1])
    store = StageStore(tmp_path)
    ensure(evaluation, Workplace(store))
    for folder in (store.folder(evaluation), store.folder(evaluation.model)):
        with pytest.raises(UnknownClass, match="its class OwnBitext is not built in"):
            evaluation_of(folder)
        assert evaluation_of(folder, classes_in(study)) == evaluation
    assert classes_in(study)["OwnBitext"] is type(evaluation.task)
