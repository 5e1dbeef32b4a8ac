"""A published task: its official languages, where each split is read from, and the revision of its data."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from trainables.data.examples import Example, ReadResult
from trainables.data.source import Hub, Source, data_root
from trainables.tasks.base import Role, Split, Task
from trainables.tasks.reading import read_split


@dataclass(frozen=True)
class PublishedTask(Task):
    """Subclasses define where a split comes from (`source_of`); everything else is here.

    `languages_` restricts the test languages (empty: all official languages). The `..._size` fields sample that many
    examples, with `sample_seed`. `before` are the tasks that the model is trained on first. `data` is the revision of the
    data, and `training_data` that of the training set alone; `pinning.pinned` sets both. `part` "train" is the task as a
    training stage sees it: test sets and test languages do not change the model.
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

    def translation(self, language: str) -> Hub | None:
        """The training set in another language on the hub; None where no translation is known that is published and pinned."""
        return None

    def trained_as(self) -> PublishedTask:
        """The task whose training set this task uses: itself, or another task for a target without one."""
        return self

    def for_training(self) -> Task:
        return dataclasses.replace(self.training_part(), data=self.training_data)

    def training_part(self) -> PublishedTask:
        """The task reduced to what decides its training set, before pinning."""
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
        if self.part == "all":
            return super().splits()
        return [("train", language) for language in self.training_languages]

    def examples(self, split: Split, language: str) -> tuple[Example, ...]:
        return self.read(split, language).examples

    def read(self, split: Split, language: str) -> ReadResult:
        """The examples of a split, with the rows that were rejected.

        Raises:
            ValueError: the task has no such split in that language.
            DataError: the data are missing, break a rule of their format, or are not those that the task is pinned to.
        """
        return read_split(self, split, language, root=data_root())

    @property
    def on_hub(self) -> bool:
        """Whether every split can be read from the hub."""
        return all(self.source_of(split, language).hub is not None for split, language in self.splits())

    def missing(self, root: Path | None) -> list[str]:
        """The splits that cannot be read from files under `root`, each with the path that was searched."""
        missing = []
        for split, language in self.splits():
            files = self.source_of(split, language).files
            if files is None:
                missing.append(f"{split} {language}: not published as files")
            elif root is None:
                missing.append(f"{split} {language}: no data root with {', '.join(files.paths)}")
            else:
                missing += [f"{split} {language}: no {path}" for path in files.absent(root)]
        return missing
