"""`python -m study tasks`: every task, and which of its data files are present."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from study.cli.options import DataRoot, console, use_data_root

if TYPE_CHECKING:
    from trainables.tasks.base import Task

FEW_LANGUAGES = 5  # at most so many are listed by name
WIDTHS = (22, 20, 13)  # of name, head and metric: with the availability they fit 80 columns


def tasks(data_root: DataRoot = None) -> None:
    """List every task: head, metric, availability, languages and source.

    With --data-root it shows which data files of each task are present,
    which are missing, and where each is expected.
    """
    use_data_root(data_root)
    console.print(render_tasks(), soft_wrap=False)


def render_tasks() -> Group:
    """Two lines a task, by role. Under a data root, then each missing split and language with its expected path."""
    from trainables.data.source import data_root
    from trainables.tasks.registry import TASKS

    built = {name: build() for name, build in TASKS.items()}
    lines: list[Text | Padding | Table] = []
    missing: list[Text] = []
    for role in dict.fromkeys(task.role for task in built.values()):
        lines.append(Text(f"{role} tasks", style="bold underline"))
        for name, task in built.items():
            if task.role == role:
                availability, absent = _availability(task)
                lines += _lines(name, task, availability)
                missing += [Text(f"{name}: {entry}") for entry in absent]
        lines.append(Text())
    root = data_root()
    if root is None:
        note = "Published tasks are read from the hub; with --data-root DIR, from files in DIR."
        return Group(*lines, Text(note))
    return Group(*lines, Text(f"missing under {root}:" if missing else f"nothing is missing under {root}"), *missing)


def _lines(name: str, task: Task, availability: str) -> Iterator[Table | Padding]:
    few = len(task.languages) <= FEW_LANGUAGES
    languages = ", ".join(task.languages) if few else f"{len(task.languages)} languages"
    row = Table.grid(padding=(0, 1))
    for width in WIDTHS:
        row.add_column(min_width=width, no_wrap=True)
    row.add_column(no_wrap=True)
    row.add_row(Text(name, style="bold"), task.head, task.metric, availability)
    yield row
    yield Padding(Text(f"{languages}; {task.source}"), (0, 0, 0, 4), expand=False)


def _availability(task: Task) -> tuple[str, list[str]]:
    """Where the task's data are, in a few words; and what is missing under the data root."""
    from trainables.data.source import data_root
    from trainables.tasks.published_task import PublishedTask

    if not isinstance(task, PublishedTask):
        return "generated", []
    root = data_root()
    if root is None:
        return "on the hub" if task.on_hub else "files only", []
    missing = task.missing(root)
    splits = len(task.splits())
    absent = len({entry.split(":")[0] for entry in missing})
    return ("present" if not missing else f"{splits - absent} of {splits} present"), missing
