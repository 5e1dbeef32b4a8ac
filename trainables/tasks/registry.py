"""Every task by name. To add one, put its class in a file of one of the packages below; nothing else lists it.

A recipe file may define tasks too: `task_class` finds them once the file is imported. Tasks with training data in other
languages (`trainables.tasks.translated`) are made of those here.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Iterator
from types import ModuleType

from trainables.tasks import english, micro, offline, unlabelled, xtreme
from trainables.tasks.base import Task


def tasks_in(package: ModuleType) -> tuple[type[Task], ...]:
    """The concrete tasks that the modules of a package define, in the order of module names and of definition."""
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."))
    return tuple(task for name in names for task in _defined_in(importlib.import_module(name)))


def by_name(tasks: Iterable[type[Task]]) -> dict[str, type[Task]]:
    """The tasks by name.

    Raises:
        ValueError: two tasks have the same name.
    """
    registered: dict[str, type[Task]] = {}
    for task in tasks:
        other = registered.setdefault(task.name, task)
        if other is not task:
            places = " and ".join(f"{same.__module__}.{same.__qualname__}" for same in (other, task))
            raise ValueError(f"two tasks are named {task.name!r}: {places}; rename one")
    return registered


def _defined_in(module: ModuleType) -> Iterator[type[Task]]:
    """The concrete tasks of a module, without those it imports."""
    classes = dict.fromkeys(value for value in vars(module).values() if isinstance(value, type))  # an alias counts once
    for cls in classes:
        if issubclass(cls, Task) and cls.__module__ == module.__name__ and not inspect.isabstract(cls):
            yield cls


TARGETS = tasks_in(xtreme)
INTERMEDIATE = tasks_in(english)
STAND_INS = tasks_in(offline)
MICRO = tuple(task for task in tasks_in(micro) if not task.mixed_only)
UNLABELLED = (*tasks_in(unlabelled), *(task for task in tasks_in(micro) if task.mixed_only))

TASKS = by_name((*TARGETS, *INTERMEDIATE, *STAND_INS, *MICRO, *UNLABELLED))


def task_class(name: str) -> type[Task]:
    """The task of that name: one of TASKS, or one that an imported recipe file defines.

    Raises:
        ValueError: there is no such task.
    """
    if name in TASKS:
        return TASKS[name]
    # Reversed: if a file was imported twice, its latest definition counts.
    for task in reversed(list(_subclasses(Task))):  # type: ignore[type-abstract]
        if not inspect.isabstract(task) and getattr(task, "name", None) == name:
            return task
    raise ValueError(f"no task {name!r}; there are {', '.join(TASKS)}, and those that an imported recipe defines")


def _subclasses(task: type[Task]) -> Iterator[type[Task]]:
    for subclass in task.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
