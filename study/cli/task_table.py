"""Every task as a table for people, and what a data root lacks."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table
from rich.text import Text

from trainables.data.source import data_root
from trainables.tasks.base import Task
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.registry import TASKS


def render_tasks() -> Group:
    """The table; under a data root, then each split and language that is missing, with where it is looked for."""
    root = data_root()
    table = Table()
    for column in ("task", "role", "head", "languages", "metric", "source", "there"):
        table.add_column(column)
    lacking: list[Text] = []
    for name, make in TASKS.items():
        task = make()
        there, missing = _presence(task)
        spoken = ", ".join(task.languages) if len(task.languages) < 6 else str(len(task.languages))
        table.add_row(name, task.role, task.head, spoken, task.metric, task.source, there)
        lacking += [Text(f"{name}: {entry}") for entry in missing]
    if root is None:
        return Group(table, Text("published tasks are read from the hub; --data-root DIR reads their files instead"))
    return Group(table, Text(f"missing under {root}:" if lacking else f"nothing is missing under {root}"), *lacking)


def _presence(task: Task) -> tuple[str, list[str]]:
    """In a word, and what is missing."""
    if not isinstance(task, PublishedTask):
        return "generated", []
    if data_root() is None:
        return "hub" if task.on_hub else "files only", []
    missing = task.missing(data_root())
    every = len(task.splits())
    absent = len({entry.split(":")[0] for entry in missing})
    return ("yes" if not missing else f"{every - absent} of {every}"), missing
