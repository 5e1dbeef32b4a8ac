"""English intermediate tasks whose training set is in other languages: translations, or generated in them.

`in_languages` makes one of an English task. The dev set stays English. Sources of a translated training set:

- a file `translated/<task>/<language>.jsonl` under the data root: a row a line, with the columns of the English set on the hub;
- the hub, where a task names a published translation (`PublishedTask.translation`);
- MicroXTREME's generators, which write the same items in every language that CLDR covers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, overload

from trainables.data.examples import Example, ReadResult
from trainables.data.source import Files, Source
from trainables.data.text import json_lines
from trainables.tasks.base import HeadName, Role, Split, Task
from trainables.tasks.micro import cldr
from trainables.tasks.micro.compose import MicroTask, written_examples
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.registry import task_class

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = "translated"


@overload
def in_languages(task: PublishedTask, languages: tuple[str, ...]) -> Translated: ...
@overload
def in_languages(task: MicroTask, languages: tuple[str, ...]) -> MicroTranslated: ...
@overload
def in_languages(task: Task, languages: tuple[str, ...]) -> Translated | MicroTranslated: ...
def in_languages(task: Task, languages: tuple[str, ...]) -> Translated | MicroTranslated:
    """An English intermediate task with its training set in these languages, which may include English.

    Sizes and seeds are the task's; a sample of `train_size` examples is drawn in each language, the same rows in all that have
    the same rows. A published task is pinned afterwards, as the files or the data set are others than the English ones.

    Raises:
        ValueError: the task cannot be had in other languages, or the languages are unfit.
    """
    if isinstance(task, PublishedTask):
        return Translated(
            of=task.name,
            train_languages=languages,
            train_size=task.train_size,
            dev_size=task.dev_size,
            sample_seed=task.sample_seed,
        )
    if isinstance(task, MicroTask):
        return MicroTranslated(
            of=task.name, train_languages=languages, seed=task.seed, train_size=task.train_size, dev_size=task.dev_size
        )
    raise ValueError(
        f"{task.name} is neither a published nor a generated task, so that it has no data in other languages"
    )


class _OfEnglishTask:
    """What a translated task takes from the English one, which `of` names."""

    of: str
    train_languages: tuple[str, ...]

    @property
    def english_class(self) -> type[Any]:
        return task_class(self.of)

    @property
    def name(self) -> str:
        return f"{self.of}_in_{'_'.join(self.train_languages)}"

    @property
    def head(self) -> HeadName:
        head: HeadName = self.english_class.head
        return head

    @property
    def metric(self) -> str:
        return str(self.english_class.metric)

    @property
    def labels(self) -> tuple[str, ...]:
        labels: tuple[str, ...] = self.english_class.labels
        return labels

    @property
    def choices(self) -> int:
        return int(self.english_class.choices)

    @property
    def unanswerable(self) -> bool:
        return bool(self.english_class.unanswerable)

    @property
    def reads(self) -> frozenset[str]:
        """The English corpora: a translation of a target's own data is no transfer either."""
        reads: frozenset[str] = self.english_class.reads
        return reads

    @property
    def source(self) -> str:
        return f"{self.english_class.source}; its training set in {', '.join(self.train_languages)}"

    @property
    def languages(self) -> tuple[str, ...]:
        return self.train_languages

    @property
    def training_languages(self) -> tuple[str, ...]:
        return self.train_languages

    def check(self, kind: type[Any]) -> None:
        """Refuse an English task of another kind or role, and languages that make no training set of its own."""
        english = self.english_class
        if not issubclass(english, kind) or english.role != "intermediate" or english.mixed_only:
            raise ValueError(f"{self.of} has no training set in other languages: it is no labelled intermediate task")
        if not self.train_languages or len(set(self.train_languages)) < len(self.train_languages):
            raise ValueError(
                f"{self.of}: train_languages {self.train_languages} must be one or more different languages"
            )
        if self.train_languages == ("en",):
            raise ValueError(f"{self.of}: train_languages has no language besides English; use the English task")


@dataclass(frozen=True)
class Translated(_OfEnglishTask, PublishedTask):  # type: ignore[override]  # class attributes of a task are properties here
    """The published task `of` with its training set in `train_languages`."""

    of: str = ""
    train_languages: tuple[str, ...] = ()

    role: ClassVar[Role] = "intermediate"

    def __post_init__(self) -> None:
        self.check(PublishedTask)
        if self._english().source_of("train", "en").hub is None:
            raise ValueError(f"{self.of}: has no columns on the hub, in which translated rows are read")

    def _english(self) -> PublishedTask:
        english: PublishedTask = self.english_class()
        return english

    def source_of(self, split: Split, language: str) -> Source:
        english = self._english()
        if split == "dev":
            return english.source_of(split, language)
        if split != "train" or language not in self.train_languages:
            raise ValueError(f"{self.name}: no {split} set in {language}")
        of_english = english.source_of("train", "en")
        if language == "en" or of_english.hub is None:
            return of_english
        files = Files((f"{FOLDER}/{self.of}/{language}.jsonl",), _reader(of_english.hub.read))
        return Source(files, english.translation(language))

    def chance(self) -> float:
        return self._english().chance()


def _reader(read: Callable[..., ReadResult]) -> Callable[[Path], ReadResult]:
    """A reader of JSON lines with the columns that `read` reads from the hub."""
    return lambda path: read(json_lines(path), path)


@dataclass(frozen=True)
class MicroTranslated(_OfEnglishTask, MicroTask):  # type: ignore[override]  # class attributes of a task are properties here
    """The generated task `of` with its training set in `train_languages`: its items, where a language can write them."""

    of: str = ""
    train_languages: tuple[str, ...] = ()

    role: ClassVar[Role] = "intermediate"

    def __post_init__(self) -> None:
        self.check(MicroTask)
        if unknown := sorted(set(self.train_languages) - set(cldr.languages())):
            raise ValueError(f"{self.name}: no CLDR coverage for {', '.join(unknown)}")

    @property
    def english(self) -> MicroTask:
        """The English task of the same items."""
        english: MicroTask = self.english_class(
            seed=self.seed, train_size=self.train_size, dev_size=self.dev_size, data=self.data
        )
        return english

    def draw(self, rng: random.Random, split: Split) -> Any:
        return self.english.draw(rng, split)

    def write(self, item: Any, book: cldr.Phrasebook, example_id: str) -> Example | None:
        return self.english.write(item, book, example_id)

    def examples(self, split: Split, language: str) -> Sequence[Example]:
        if split != "train":
            return self.english.examples(split, language)
        if language not in self.train_languages:
            raise ValueError(f"{self.name}: no {split} split in {language!r}")
        return written_examples(self.english, split, language)

    def chance(self) -> float:
        return self.english.chance()
