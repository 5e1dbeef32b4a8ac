"""Pins the data that a published task reads: a digest of its files, and the commits of its data sets on the hub.

`PublishedTask.data` holds both as one line, such as "files:0123456789ab;owner/name@<commit>".
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trainables.data.digests import file_digest
from trainables.data.hub import current_commit
from trainables.data.source import DataError, data_root

if TYPE_CHECKING:
    from trainables.tasks.published_task import PublishedTask

T = TypeVar("T", bound="PublishedTask")
OPEN = "open: "  # starts the `data` of a task whose data could not be pinned; the reason follows
FILES = "files:"


def pinned(task: T) -> T:
    """The task with the digest of its files under the data root and, for what is not there, the commits on the hub.

    Raises:
        DataError: some split is neither under the root nor on the hub (the message names all such splits), or the hub does
            not answer.
    """
    root = data_root()
    before = tuple(pinned(first) for first in task.before)
    training = _revision(task.training_part(), root) if task.trained else ""
    return dataclasses.replace(task, before=before, data=_revision(task, root), training_data=training)


def pinned_if_possible(task: T) -> T:
    """As `pinned`; if its data are unavailable now, `data` holds the reason, and a study can be planned but not run."""
    try:
        return pinned(task)
    except DataError as error:
        return dataclasses.replace(task, data=f"{OPEN}{error.rule}", training_data=f"{OPEN}{error.rule}")


def check_pinned(task: PublishedTask, root: Path | None) -> None:
    """Compare the files under the root with the digest that the task is pinned to.

    Raises:
        DataError: the root is missing, or the files have changed.
    """
    digest = next((entry for entry in task.data.split(";") if entry.startswith(FILES)), "")
    if digest and root is None:
        raise DataError(task.name, None, "pinned to files of a data root, and none is given; give it with --data-root")
    if digest != _files_digest(task, root):
        raise DataError(root or task.name, None, f"the files of {task.name} have changed since the study was made")


def pinned_commit(task: PublishedTask, dataset: str) -> str | None:
    """The commit of a data set that the task is pinned to, if any."""
    return dict(entry.split("@") for entry in task.data.split(";") if "@" in entry).get(dataset)


def _revision(task: PublishedTask, root: Path | None) -> str:
    """What the splits of the task are read from, in one line."""
    commits: dict[str, str | None] = {}
    unavailable: dict[str, list[str]] = {}
    for split, language in task.splits():
        source = task.source_of(split, language)
        if source.files is not None and source.files.exist(root):
            continue
        if source.hub is None:
            paths = ", ".join(source.files.paths) if source.files else "no files"
            unavailable.setdefault(paths, []).append(f"{split} {language}")
            continue
        commits |= dict(commit for hub in (source.hub, *source.more) for commit in hub.commits)
    if unavailable:
        splits = "; ".join(f"{', '.join(names)} ({paths})" for paths, names in unavailable.items())
        where = "no data root is given" if root is None else f"{root} does not have it"
        raise DataError(task.name, None, f"not all on the hub, and {where} (--data-root): {splits}")
    digest = _files_digest(task, root)
    entries = sorted(f"{dataset}@{commit or current_commit(dataset)}" for dataset, commit in commits.items())
    return ";".join([digest, *entries] if digest else entries)


def _files_digest(task: PublishedTask, root: Path | None) -> str:
    """FILES and the digest of every file of the task under the root; "" if there is none."""
    all_files = [files for split, language in task.splits() if (files := task.source_of(split, language).files)]
    paths = {path for files in all_files if files.exist(root) for path in files.paths}
    if root is None or not paths:
        return ""
    digest = hashlib.sha256()
    for file in (file for path in sorted(paths) for file in _files_of(root / path)):
        digest.update(f"{file.relative_to(root).as_posix()}\0{file_digest(file)}\0".encode())
    return f"{FILES}{digest.hexdigest()[:12]}"


def _files_of(path: Path) -> list[Path]:
    """The file itself, or every file under a folder: a folder's modification time does not cover its files'."""
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
