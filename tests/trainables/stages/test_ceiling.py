"""The ceiling of a target's score: found with its features, kept with its scores, reported as a metric."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support import recipes
from trainables.stages.base import Workplace
from trainables.stages.chain import run_chain
from trainables.stages.evaluate import Evaluate
from trainables.store.kept import SEAL
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.span import MicroSpan

pytestmark = pytest.mark.slow


def metrics_of(chain: tuple[Evaluate, ...], output: Path) -> dict[str, Any]:
    reports: list[dict[str, Any]] = []
    run_chain(chain, Workplace(StageStore(output)), reports.append)
    return reports[-1]


def test_a_score_is_reported_with_its_ceiling_and_one_of_an_earlier_version_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.heads.span.MAX_ANSWER_TOKENS", 1)
    span = MicroSpan(languages_=recipes.LANGUAGES, **recipes.SMALL)
    study = dataclasses.replace(recipes.inline(), targets=(span, recipes.tiny().targets[0]))
    chain = study.chain(study.sizes[0], study.space.defaults()[0])
    metrics = metrics_of(chain, tmp_path)
    ceilings = {name: value for name, value in metrics.items() if name.startswith("ceiling/")}
    assert ceilings.keys() == {"ceiling/micro_span", *(f"ceiling/micro_span/{name}" for name in recipes.LANGUAGES)}
    mean = sum(ceilings[f"ceiling/micro_span/{name}"] for name in recipes.LANGUAGES) / len(recipes.LANGUAGES)
    assert ceilings["ceiling/micro_span"] == pytest.approx(mean)
    for language in recipes.LANGUAGES:
        assert metrics[f"test/micro_span/{language}"] <= ceilings[f"ceiling/micro_span/{language}"] < 100

    for path in tmp_path.glob("stages/*/manifest.json"):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["metrics"].pop("ceiling", None)
        del manifest[SEAL]  # earlier versions did not seal manifests
        path.write_text(json.dumps(manifest), encoding="utf-8")
    of_earlier_version = metrics_of(chain, tmp_path)
    assert of_earlier_version == {name: value for name, value in metrics.items() if name not in ceilings}
