"""The fingerprint of every stage of every built-in recipe: if one changes, users' stages are trained again.

`python -m tests.study.recipes.test_fingerprints` writes `recipe_fingerprints.json`. One of its lines may change only when the
version of a recipe is raised because its stages are meant to change.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from study.planning.stages import stages_of
from study.recipes import RECIPES
from study.spec import Arm, PublishedAfter, Study
from study.spec.precision import ResolvedPrecision
from tests.support.data import DATA_ROOT
from trainables.data.source import DATA_ROOT_VARIABLE
from trainables.store.fingerprint import fingerprint
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture
from trainables.tasks.pinning import OPEN

EXPECTED = Path(__file__).with_name("recipe_fingerprints.json")
NOT_PINNED = f"{OPEN}no files"
COMMIT = "c" * 40  # the hub's answer for every repository
OFFLINE = {"real_offline", "laptop", "laptop_rates", "laptop_tiny"}  # read from a data root
BY_CPU = (
    "quickstart",
    "quickstart_cascade",
    "quickstart_mixtures",
    "real_offline",
)  # whose precision depends on the CPU
# Other resources for the stages of another recipe, or for some of them.
LAID_OUT_ANEW = {"xtreme_r_one_gpu": "xtreme_r", "one_vs_ten_billion_one_gpu": "one_vs_ten_billion"}
CASES = [(name, "fp32") for name in sorted(RECIPES.keys() - LAID_OUT_ANEW)] + [(name, "bf16_mixed") for name in BY_CPU]


def recipe_stages(name: str, precision: str) -> dict[str, str]:
    """The label of every stage by fingerprint: of every default choice and its repeats."""
    with _surroundings(name, precision):
        return dict(sorted(_stages(_with_fixed_messages(RECIPES[name]()))))


def _with_fixed_messages(study: Study) -> Study:
    """The study with a fixed text for each revision that could not be pinned: it is a message, and such a study cannot run."""
    space = dataclasses.replace(study.space, intermediates=tuple(map(_with_fixed_message, study.space.intermediates)))
    return dataclasses.replace(study, targets=tuple(map(_with_fixed_message, study.targets)), space=space)


def _with_fixed_message(choice: Any) -> Any:
    if isinstance(choice, PublishedAfter):
        return choice  # reads no task's data
    if isinstance(choice, Mixture):
        return dataclasses.replace(choice, tasks=tuple(map(_with_fixed_message, choice.tasks)))
    if isinstance(choice, Arm):
        parts = {field.name: getattr(choice, field.name) for field in dataclasses.fields(choice)}  # type: ignore[arg-type]
        fixed = {name: _with_fixed_message(part) for name, part in parts.items() if isinstance(part, Task | Mixture)}
        return dataclasses.replace(choice, **fixed)  # type: ignore[type-var]
    if choice.revision.startswith(OPEN):
        return dataclasses.replace(choice, data=NOT_PINNED, training_data=NOT_PINNED)
    return choice


def _stages(study: Study) -> Iterator[tuple[str, str]]:
    for size in study.sizes:
        for choice in study.space_of(size).defaults():
            for repeat in (choice, *study.repeats_of(choice)):
                for evaluation in study.chain(size, repeat):
                    yield from ((fingerprint(stage), stage.label) for stage in stages_of(evaluation))


@contextlib.contextmanager
def _surroundings(name: str, precision: str) -> Iterator[None]:
    """A hub that answers, a CPU of that precision, and a data root for recipes that need one."""
    hub = SimpleNamespace(sha=COMMIT)
    resolved = ResolvedPrecision(precision, "for this test")  # type: ignore[arg-type]
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            mock.patch.dict(os.environ, {DATA_ROOT_VARIABLE: str(DATA_ROOT)} if name in OFFLINE else {})
        )
        for method in ("dataset_info", "model_info"):
            stack.enter_context(mock.patch(f"huggingface_hub.HfApi.{method}", return_value=hub))
        for recipe in ("quickstart", "real_offline", "laptop"):
            module = importlib.import_module(f"study.recipes.{recipe}")
            stack.enter_context(mock.patch.object(module, "cpu_precision", return_value=resolved))
        yield


@pytest.mark.parametrize(("name", "precision"), CASES)
def test_no_stage_of_a_recipe_changes(name: str, precision: str) -> None:
    if name in OFFLINE and not DATA_ROOT.is_dir():
        pytest.skip(f"no published files in {DATA_ROOT}, which this recipe reads")
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    assert recipe_stages(name, precision) == expected[f"{name}, {precision}"]


@pytest.mark.parametrize("name", LAID_OUT_ANEW)
def test_a_recipe_with_other_resources_has_no_stages_of_its_own(name: str) -> None:
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))[f"{LAID_OUT_ANEW[name]}, fp32"]
    assert recipe_stages(name, "fp32").items() <= expected.items()


def main() -> None:
    """Write the file that the test compares with."""
    listed = {f"{name}, {precision}": recipe_stages(name, precision) for name, precision in CASES}
    EXPECTED.write_text(json.dumps(listed, indent=0, sort_keys=True) + "\n", encoding="utf-8")
    print({key: len(stages) for key, stages in listed.items()}, file=sys.stderr)


if __name__ == "__main__":
    main()
