"""Fingerprints of every stage of every built-in recipe: a change of one would train anew what users have.

`recipe_fingerprints.json` was written by `python -m tests.study.recipes.test_fingerprints`. A recipe whose stages are meant to change
raises its version and writes the file again; nothing else may change a line of it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from study.planning.cost import stages_of
from study.recipes import RECIPES
from study.spec import Study
from study.spec.precision import ResolvedPrecision
from tests.support.data import DATA_ROOT
from trainables.data.source import DATA_ROOT_VARIABLE
from trainables.store.fingerprint import fingerprint

EXPECTED = Path(__file__).with_name("recipe_fingerprints.json")
COMMIT = "c" * 40  # what a hub that answers says of every repository
OFFLINE = {"real_offline"}  # read from a data root
MEASURED = ("quickstart", "quickstart_mixtures", "real_offline")  # whose precision the CPU decides
CASES = [(name, "fp32") for name in sorted(RECIPES)] + [(name, "bf16_mixed") for name in MEASURED]


def recipe_stages(name: str, precision: str) -> dict[str, str]:
    """Every stage of a recipe by fingerprint, with its label: every default choice, learning rate, and repeat."""
    with _surroundings(name, precision):
        return dict(sorted(_stages(RECIPES[name]())))


def _stages(study: Study) -> Iterator[tuple[str, str]]:
    for size in study.sizes:
        for choice in study.space.defaults():
            for one in (choice, *study.repeated(choice)):
                for evaluation in study.chain(size, one):
                    yield from ((fingerprint(stage), stage.label) for stage in stages_of(evaluation))


@contextlib.contextmanager
def _surroundings(name: str, precision: str) -> Iterator[None]:
    """A hub that answers, a CPU of that precision, and the data root where the recipe reads one."""
    hub = SimpleNamespace(sha=COMMIT)
    resolved = ResolvedPrecision(precision, "for this test")  # type: ignore[arg-type]
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            mock.patch.dict(os.environ, {DATA_ROOT_VARIABLE: str(DATA_ROOT)} if name in OFFLINE else {})
        )
        for method in ("dataset_info", "model_info"):
            stack.enter_context(mock.patch(f"huggingface_hub.HfApi.{method}", return_value=hub))
        for recipe in ("quickstart", "real_offline"):
            module = importlib.import_module(f"study.recipes.{recipe}")
            stack.enter_context(mock.patch.object(module, "cpu_precision", return_value=resolved))
        yield


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_no_stage_of_a_recipe_changes(name: str, precision: str) -> None:
    if name in OFFLINE and not DATA_ROOT.is_dir():
        pytest.skip(f"no {DATA_ROOT}: this recipe reads it")
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    assert recipe_stages(name, precision) == expected[f"{name}, {precision}"]


def main() -> None:
    """Write the list."""
    listed = {f"{name}, {precision}": recipe_stages(name, precision) for name, precision in CASES}
    EXPECTED.write_text(json.dumps(listed, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    print({key: len(stages) for key, stages in listed.items()}, file=sys.stderr)


if __name__ == "__main__":
    main()
