"""The registry: one file is enough to add a task, names are unique, and a recipe's tasks are found too."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from study.recipes import load_recipe
from trainables.tasks import english, micro, offline, unlabelled, xtreme
from trainables.tasks.micro.tagging import MicroTagging
from trainables.tasks.registry import (
    INTERMEDIATE,
    MICRO,
    STAND_INS,
    TARGETS,
    TASKS,
    UNLABELLED,
    by_name,
    task_class,
    tasks_in,
)

TASK = """
from dataclasses import dataclass
from trainables.tasks.micro.tagging import MicroTagging

@dataclass(frozen=True)
class {cls}(MicroTagging):
    name = "{name}"
"""
ABSTRACT = """
from trainables.tasks.base import Task

class HalfATask(Task):
    name = "half_a_task"
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an empty package `more_tasks`."""
    folder = tmp_path / "more_tasks"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""More tasks."""\n')
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "more_tasks"]:
        del sys.modules[name]
    gc.collect()  # classes of the test must not outlive it: `task_class` looks at every subclass of Task


def test_a_file_in_the_package_is_enough_to_add_a_task(package: Path) -> None:
    (package / "second.py").write_text(TASK.format(cls="Second", name="second_task"))
    (package / "first.py").write_text(
        TASK.format(cls="Late", name="late_task") + TASK.format(cls="Early", name="early_task") + ABSTRACT
    )
    found = tasks_in(importlib.import_module("more_tasks"))
    # Modules by name, classes as defined; neither the imported MicroTagging nor the abstract class.
    assert [task.name for task in found] == ["late_task", "early_task", "second_task"]


def test_two_tasks_of_one_name_are_refused(package: Path) -> None:
    for module in ("a", "b"):
        (package / f"{module}.py").write_text(TASK.format(cls="Same", name="same_task"))
    with pytest.raises(ValueError, match=r"'same_task': more_tasks\.a\.Same and more_tasks\.b\.Same; rename one"):
        by_name(tasks_in(importlib.import_module("more_tasks")))


def test_the_groups_follow_from_packages_and_attributes() -> None:
    groups = (TARGETS, INTERMEDIATE, STAND_INS, MICRO, UNLABELLED)
    # Discovery must not lose any of the tasks that these packages had when it was introduced.
    assert all(len(group) >= least for group, least in zip(groups, (12, 10, 8, 9, 2), strict=True))
    assert list(TASKS.values()) == [task for group in groups for task in group]
    for package in (xtreme, english, offline, micro, unlabelled):
        assert set(tasks_in(package)) <= set(TASKS.values())
    assert {task.role for task in TARGETS} == {"target"}
    assert {task.role for task in INTERMEDIATE} == {"intermediate"}
    assert {name for name, task in TASKS.items() if task.mixed_only} == {task.name for task in UNLABELLED}


def test_the_order_is_that_of_modules() -> None:
    """Tables list tasks in this order, so it must not depend on the file system."""
    for group in (TARGETS, INTERMEDIATE, STAND_INS, MICRO):
        modules = [task.__module__ for task in group]
        assert modules == sorted(modules)


RECIPE = """
from dataclasses import dataclass, replace
from tests.support.recipes import inline
from trainables.tasks.micro.tagging import MicroTagging

@dataclass(frozen=True)
class Ours(MicroTagging):
    name = "our_tagging"
    test_size: int = {size}

def ours():
    return replace(inline(), name="ours", targets=(Ours(languages_=("en", "de")),))
"""


def test_a_task_of_an_imported_recipe_is_found_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no task 'our_tagging'; there are bucc, lareqa, .* that an imported recipe"):
        task_class("our_tagging")
    for size in (30, 40):  # imported twice, the later definition counts
        (tmp_path / "our_recipe.py").write_text(RECIPE.format(size=size))
        study = load_recipe(f"{tmp_path / 'our_recipe.py'}:ours")
        assert task_class("our_tagging") is type(study.targets[0])
        assert task_class("our_tagging")().examples("test", "de")
    assert task_class("micro_tagging") is MicroTagging
