"""A published task: its official languages, where each split comes from, and what identifies the data that were read."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, TypeVar

from trainables.data.source import DataError, Read, Source, data_root
from trainables.tasks.base import Example, RetrievalText, Role, Split, Task

T = TypeVar("T", bound="PublishedTask")
HUB = "hub"


@dataclass(frozen=True)
class PublishedTask(Task):
    """Subclasses say where a split comes from (`source_of`); everything else is here.

    `languages_` restricts the test languages (empty: all official ones); the `..._size` fields take a sample of so many
    examples, drawn with `sample_seed`; `data` says what was read, "hub" (at the pinned revisions) or the hash of the files,
    and is set by `pinned`; `before` are tasks that the model is trained on first.
    """

    languages_: tuple[str, ...] = ()
    train_size: int | None = None
    dev_size: int | None = None
    test_size: int | None = None
    sample_seed: int = 0
    data: str = ""
    before: tuple[PublishedTask, ...] = ()

    official_languages: ClassVar[tuple[str, ...]] = ("en",)
    role: ClassVar[Role] = "target"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.languages_) - set(self.official_languages))
        if unknown:
            raise ValueError(
                f"{self.name}: no test set in {', '.join(unknown)}; there are {', '.join(self.official_languages)}"
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

    def examples(self, split: Split, language: str) -> tuple[Example, ...]:
        return self.read(split, language).examples

    def read(self, split: Split, language: str) -> Read:
        """The examples of a split, with the rows that were rejected.

        Raises:
            ValueError: the task has no such split in that language.
            DataError: the data are missing or break a rule of their form.
        """
        read = _read.__wrapped__ if language in self.pools else _read  # a pool of a million texts is not worth keeping
        return read(self, split, language, data_root())

    def rejected(self, split: Split, language: str) -> int:
        return len(self.read(split, language).rejected)

    @property
    def on_hub(self) -> bool:
        """Whether every split can be read from the hub."""
        return all(self.source_of(split, language).hub is not None for split, language in self.splits())

    def available(self) -> str | None:
        lacking = self.missing(data_root())
        return "; ".join(lacking) if lacking else None

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
    """The task with `data` naming what it reads: the files under the data root if one is given, else the hub.

    Raises:
        DataError: a data root is given and lacks files of the task; every missing one is named.
    """
    task = dataclasses.replace(task, before=tuple(pinned(one) for one in task.before))
    root = data_root()
    if root is None:
        return dataclasses.replace(task, data=_hub_revisions(task))
    if lacking := task.missing(root):
        raise DataError(root, None, f"{task.name} is not complete there: {'; '.join(lacking)}")
    return dataclasses.replace(task, data=f"files:{_digest(task, root)}")


def _hub_revisions(task: PublishedTask) -> str:
    """ "hub", followed by the present commit of each data set for which none is pinned in the code."""
    sources = [task.source_of(split, language) for split, language in task.splits()]
    if not task.on_hub:
        raise DataError(task.name, None, "is not on the hub as a whole; give its files with --data-root")
    hubs = [hub for source in sources if source.hub for hub in (source.hub, *source.more)]
    open_ends = sorted({hub.dataset for hub in hubs if hub.revision is None})
    if not open_ends:
        return HUB
    from huggingface_hub import HfApi

    found = HfApi()
    return f"{HUB}:" + ";".join(f"{name}@{found.dataset_info(name).sha}" for name in open_ends)


def _digest(task: PublishedTask, root: Path) -> str:
    digest = hashlib.sha256()
    paths = {path for split, language in task.splits() for path in _paths(task, split, language)}
    for file in (file for path in sorted(paths) for file in _files(root / path)):
        name, content = file.relative_to(root).as_posix(), _file_digest(file, file.stat().st_mtime_ns)
        digest.update(f"{name}\0{content}\0".encode())
    return digest.hexdigest()[:12]


def _files(path: Path) -> list[Path]:
    """A file, or all files under a folder, whose own time of change says nothing of theirs."""
    return sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]


def _paths(task: PublishedTask, split: Split, language: str) -> tuple[str, ...]:
    files = task.source_of(split, language).files
    return () if files is None else files.paths


@lru_cache(maxsize=4096)
def _file_digest(path: Path, modified_ns: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@lru_cache(maxsize=64)
def _read(task: PublishedTask, split: Split, language: str, root: Path | None) -> Read:
    source = task.source_of(split, language)
    if task.data.startswith("files:"):
        if root is None:
            raise DataError(task.name, None, "its files were read from a data root, and none is given now")
        if task.data != f"files:{_digest(task, root)}":
            raise DataError(root, None, f"the files of {task.name} have changed since the study was made")
    found = _from_hub(task, source) if task.data.startswith(HUB) or root is None else _from_files(task, source, root)
    if not found.examples:
        raise DataError(task.name, None, f"the {split} split in {language} holds no examples")
    return _sampled(task, split, language, found)


def _from_files(task: PublishedTask, source: Source, root: Path) -> Read:
    if source.files is None:
        raise DataError(task.name, None, "is not published as files; run without a data root to read it from the hub")
    for path in source.files.paths:
        if not (root / path).exists():
            raise DataError(root / path, None, f"no such file; {task.name} is read from it")
    return source.files.read(*(root / path for path in source.files.paths))


def _from_hub(task: PublishedTask, source: Source) -> Read:
    if source.hub is None:
        raise DataError(task.name, None, "is not on the hub; give its files with --data-root")
    from datasets import load_dataset

    found = Read(())
    for hub in (source.hub, *source.more):
        name = f"{hub.dataset}{'' if hub.config is None else f':{hub.config}'} {hub.split}"
        revision = hub.revision or _noted(task, hub.dataset)
        found += hub.read(enumerate(load_dataset(hub.dataset, hub.config, split=hub.split, revision=revision)), name)
    return found


def _noted(task: PublishedTask, dataset: str) -> str | None:
    """The commit that `pinned` noted for a data set."""
    noted = dict(entry.split("@") for entry in task.data.removeprefix(f"{HUB}:").split(";") if "@" in entry)
    return noted.get(dataset)


def _sampled(task: PublishedTask, split: Split, language: str, found: Read) -> Read:
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
