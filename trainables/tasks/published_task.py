"""A published task: its official languages, where each split comes from, and what identifies the data that were read.

A split is read from files under the data root where they are all there, else from the hub at a fixed commit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, TypeVar

from trainables.data.examples import Example, Read, RetrievalText
from trainables.data.source import DataError, Hub, Row, Source, data_root
from trainables.tasks.base import Role, Split, Task

T = TypeVar("T", bound="PublishedTask")
OPEN = "open: "


@dataclass(frozen=True)
class PublishedTask(Task):
    """Subclasses say where a split comes from (`source_of`); everything else is here.

    `languages_` restricts the test languages (empty: all official ones); the `..._size` fields take a sample of so many
    examples, drawn with `sample_seed`; `before` are tasks that the model is trained on first. `data` says what is read, the
    hash of files and commits of the hub, and `training_data` the same of the training set alone; `pinned` sets both. `part`
    "train" is the task as a training stage knows it: what is tested, and in which languages, makes no other model.
    """

    languages_: tuple[str, ...] = ()
    train_size: int | None = None
    dev_size: int | None = None
    test_size: int | None = None
    sample_seed: int = 0
    data: str = ""
    training_data: str = ""
    before: tuple[PublishedTask, ...] = ()
    part: Literal["all", "train"] = "all"

    official_languages: ClassVar[tuple[str, ...]] = ("en",)
    role: ClassVar[Role] = "target"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.languages_) - set(self.official_languages))
        if unknown:
            raise ValueError(
                f"{self.name}: no data in {', '.join(unknown)}; its languages are {', '.join(self.official_languages)}"
            )

    @property
    def languages(self) -> tuple[str, ...]:
        return self.languages_ or self.official_languages

    @property
    def revision(self) -> str:
        return self.data

    @property
    def prerequisites(self) -> tuple[Task, ...]:
        return self.before

    @abstractmethod
    def source_of(self, split: Split, language: str) -> Source:
        """Where the split in that language is read from.

        Raises:
            ValueError: the task has no such split in that language.
        """

    def trained_as(self) -> PublishedTask:
        """The task whose training set this one has: itself, or for a target that has none of its own another one."""
        return self

    def for_training(self) -> Task:
        return dataclasses.replace(self._training_part(), data=self.training_data)

    def _training_part(self) -> PublishedTask:
        return dataclasses.replace(
            self.trained_as(),
            languages_=(),
            train_size=self.train_size,
            dev_size=None,
            test_size=None,
            sample_seed=self.sample_seed,
            training_data="",
            before=(),
            part="train",
        )

    def splits(self) -> list[tuple[Split, str]]:
        return [("train", "en")] if self.part == "train" else super().splits()

    def examples(self, split: Split, language: str) -> tuple[Example, ...]:
        return self.read(split, language).examples

    def read(self, split: Split, language: str) -> Read:
        """The examples of a split, with the rows that were rejected.

        Raises:
            ValueError: the task has no such split in that language.
            DataError: the data are missing or break a rule of their form, or are not those that were pinned.
        """
        read = _read.__wrapped__ if language in self.pools else _read  # a pool of a million texts is not worth keeping
        return read(self, split, language, data_root())

    @property
    def on_hub(self) -> bool:
        """Whether every split can be read from the hub."""
        return all(self.source_of(split, language).hub is not None for split, language in self.splits())

    def missing(self, root: Path | None) -> list[str]:
        """What cannot be read from the files under `root`, each with where it is looked for; empty if all is there."""
        lacking = []
        for split, language in self.splits():
            files = self.source_of(split, language).files
            if files is None:
                lacking.append(f"{split} {language}: not published as files")
            elif root is None:
                lacking.append(f"{split} {language}: no data root, or {', '.join(files.paths)} in it")
            else:
                absent = [path for path in files.paths if not (root / path).exists()]
                lacking += [f"{split} {language}: no {root / path}" for path in absent]
        return lacking


def pinned(task: T) -> T:
    """The task with what it reads noted: the files that are under the data root, and for the rest the hub's commits.

    Raises:
        DataError: some split is neither there nor on the hub, all of them named; or the hub does not answer.
    """
    root = data_root()
    before = tuple(pinned(one) for one in task.before)
    training = _revision(task._training_part(), root) if task.trained else ""
    return dataclasses.replace(task, before=before, data=_revision(task, root), training_data=training)


def noted(task: T) -> T:
    """As `pinned`; what can be had nowhere now is left open, with the reason: a study with it can be planned and not run."""
    try:
        return pinned(task)
    except DataError as error:
        return dataclasses.replace(task, data=f"{OPEN}{error.rule}", training_data=f"{OPEN}{error.rule}")


def _revision(task: PublishedTask, root: Path | None) -> str:
    """What the splits of the task are read from, in one line."""
    hubs: dict[str, str | None] = {}
    lacking: dict[str, list[str]] = {}
    for split, language in task.splits():
        source = task.source_of(split, language)
        if not _in_files(source, root):
            if source.hub is None:
                paths = ", ".join(source.files.paths) if source.files else "no files"
                lacking.setdefault(paths, []).append(f"{split} {language}")
                continue
            for dataset, revision in (pair for hub in (source.hub, *source.more) for pair in _commits(hub)):
                hubs[dataset] = revision
    if lacking:
        what = "; ".join(f"{', '.join(sets)} ({paths})" for paths, sets in lacking.items())
        where = "no data root is given" if root is None else f"{root} does not have it"
        raise DataError(task.name, None, f"is not all on the hub, and {where} (--data-root): {what}")
    files = _files_revision(task, root)
    noted = sorted(f"{dataset}@{revision or _present_commit(dataset)}" for dataset, revision in hubs.items())
    return ";".join([files, *noted] if files else noted)


def _in_files(source: Source, root: Path | None) -> bool:
    return root is not None and source.files is not None and all((root / path).exists() for path in source.files.paths)


def _commits(hub: Hub) -> list[tuple[str, str | None]]:
    """Data sets and commits that reading a split of the hub takes."""
    return [(hub.dataset, hub.revision), *hub.beside]


def _present_commit(dataset: str) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(dataset).sha)
    except Exception as error:  # a client of many layers: whatever it raises, the way out is the same
        raise DataError(dataset, None, f"the hub does not answer ({error}); give files with --data-root") from error


def _files_revision(task: PublishedTask, root: Path | None) -> str:
    """ "files:" and the hash of every file of the task under the root; "" if there is none."""
    sources = [task.source_of(split, language) for split, language in task.splits()]
    paths = {path for source in sources if source.files and _in_files(source, root) for path in source.files.paths}
    if root is None or not paths:
        return ""
    digest = hashlib.sha256()
    for file in (file for path in sorted(paths) for file in _files(root / path)):
        name, content = file.relative_to(root).as_posix(), _file_digest(file, file.stat().st_mtime_ns)
        digest.update(f"{name}\0{content}\0".encode())
    return f"files:{digest.hexdigest()[:12]}"


def _files(path: Path) -> list[Path]:
    """A file, or all files under a folder, whose own time of change says nothing of theirs."""
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]


@lru_cache(maxsize=4096)
def _file_digest(path: Path, modified_ns: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def forget_examples() -> None:
    """Let go of what was read: a driver has no more use for it once it is checked."""
    _read.cache_clear()


@lru_cache(maxsize=64)
def _read(task: PublishedTask, split: Split, language: str, root: Path | None) -> Read:
    source = task.source_of(split, language)
    if task.data:
        _check_pinned(task, root)
    if root is not None and source.files is not None and _in_files(source, root):
        found = source.files.read(*(root / path for path in source.files.paths))
    else:
        found = _from_hub(task, source, root)
    if not found.examples:
        raise DataError(task.name, None, f"the {split} split in {language} holds no examples")
    return _sampled(task, split, found)


def _check_pinned(task: PublishedTask, root: Path | None) -> None:
    noted = next((part for part in task.data.split(";") if part.startswith("files:")), "")
    if noted and root is None:
        raise DataError(task.name, None, "its files were read from a data root, and none is given now")
    if noted != _files_revision(task, root):
        raise DataError(root or task.name, None, f"the files of {task.name} have changed since the study was made")


def _from_hub(task: PublishedTask, source: Source, root: Path | None) -> Read:
    if source.hub is None:
        if source.files is None or root is None:
            raise DataError(task.name, None, "is not on the hub; give its files with --data-root")
        absent = [str(root / path) for path in source.files.paths if not (root / path).exists()]
        raise DataError(absent[0], None, f"no such file; {task.name} is read from it")
    found = Read(())
    for hub in (source.hub, *source.more):
        name = f"{hub.dataset}{'' if hub.config is None else f':{hub.config}'} {hub.split}"
        found += hub.read(enumerate(_load(hub, hub.revision or _noted(task, hub.dataset))), name)
    return found


def _load(hub: Hub, revision: str | None) -> Iterable[Row]:
    from datasets import load_dataset

    try:
        if hub.first is not None:
            streamed = load_dataset(hub.dataset, hub.config, split=hub.split, revision=revision, streaming=True)
            return list(streamed.take(hub.first))
        rows: Iterable[Row] = load_dataset(hub.dataset, hub.config, split=hub.split, revision=revision)
    except Exception as error:  # as in `_present_commit`
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(hub.dataset, None, f"cannot be read from the hub ({reason}); or give --data-root") from error
    return rows


def _noted(task: PublishedTask, dataset: str) -> str | None:
    """The commit that `pinned` noted for a data set."""
    return dict(entry.split("@") for entry in task.data.split(";") if "@" in entry).get(dataset)


def _sampled(task: PublishedTask, split: Split, found: Read) -> Read:
    size = {"train": task.train_size, "dev": task.dev_size, "test": task.test_size}[split]
    if size is None or size >= len(found.examples):
        return found
    candidates = [row for row, example in enumerate(found.examples) if _is_candidate(example)]
    questions = [row for row, example in enumerate(found.examples) if not _is_candidate(example)]
    # The same rows in every language, where the test sets are parallel.
    chosen = random.Random(f"{task.sample_seed}|{split}").sample(questions, min(size, len(questions)))
    return Read(tuple(found.examples[row] for row in sorted([*chosen, *candidates])), found.rejected)


def _is_candidate(example: Example) -> bool:
    """What is searched through stays whole, however few questions are asked."""
    return isinstance(example, RetrievalText) and example.gold is None
