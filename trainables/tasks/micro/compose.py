"""Splits and sentences of MicroXTREME: language-neutral items are drawn first, then written in each language.

Test sets are parallel over languages, as in XNLI and XQuAD: an item is one example in every language that can write it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal, TypeVar

from trainables.data.examples import Example
from trainables.tasks.base import Role, Split, Task
from trainables.tasks.micro import cldr
from trainables.tasks.micro.cldr import Category, Concept, Phrasebook, Width

T = TypeVar("T")

SPLITS: tuple[Split, ...] = ("train", "dev", "test")
_SPLIT_SHARES = {"train": 0.6, "dev": 0.15, "test": 0.25}


def split_of(concept: Concept, seed: int) -> Split:
    """The only split whose labelled examples may use this concept."""
    digest = hashlib.sha256(f"{seed}|{concept.category}|{concept.key}".encode()).digest()
    draw = int.from_bytes(digest[:8], "big") / 2**64
    if draw < _SPLIT_SHARES["train"]:
        return "train"
    return "dev" if draw < _SPLIT_SHARES["train"] + _SPLIT_SHARES["dev"] else "test"


@lru_cache(maxsize=64)
def pool(category: Category, split: Split, seed: int) -> tuple[Concept, ...]:
    """The concepts of a category that a split may use."""
    return tuple(
        concept for concept in cldr.concepts() if concept.category == category and split_of(concept, seed) == split
    )


@dataclass(frozen=True)
class MicroTask(Task):
    """A generated task. Subclasses draw items (`draw`) and write an item in a language (`write`)."""

    seed: int = 0
    languages_: tuple[str, ...] = ()
    train_size: int = 1500
    dev_size: int = 150
    test_size: int = 100
    data: str = cldr.DATA_REVISION

    role: ClassVar[Role] = "target"
    source: ClassVar[str] = "generated from Unicode CLDR (Babel)"
    parallel: ClassVar[bool] = True

    def __post_init__(self) -> None:
        unknown = sorted(set(self.languages_) - set(cldr.languages()))
        if unknown:
            raise ValueError(
                f"{self.name}: no CLDR coverage for {', '.join(unknown)}; covered: {', '.join(cldr.languages())}"
            )

    @property
    def languages(self) -> tuple[str, ...]:
        if self.role == "intermediate":
            return ("en",)
        return self.languages_ or cldr.languages()

    def for_training(self) -> Task:
        return dataclasses.replace(self, languages_=(), dev_size=MicroTask.dev_size, test_size=MicroTask.test_size)

    @property
    def revision(self) -> str:
        return self.data

    @abstractmethod
    def draw(self, rng: random.Random, split: Split) -> Any:
        """A language-neutral item made of concepts of that split."""

    @abstractmethod
    def write(self, item: Any, book: Phrasebook, example_id: str) -> Example | None:
        """The item in the book's language, or None if the language cannot write it."""

    def examples(self, split: Split, language: str) -> Sequence[Example]:
        if split not in SPLITS or language not in self.languages or (split != "test" and language != "en"):
            raise ValueError(f"{self.name}: no {split} split in {language!r}")
        return written_examples(self, split, language)


@lru_cache(maxsize=2048)
def written_examples(task: MicroTask, split: Split, language: str) -> tuple[Example, ...]:
    """The task's items of a split, each an example where the covered language can write it."""
    book = cldr.phrasebook(language)
    assert book is not None  # __post_init__ checked coverage
    written: list[Example] = []
    for number, item in enumerate(_items(task, split)):
        example = task.write(item, book, f"{split}-{number}")
        if example is not None:
            written.append(example)
    return tuple(written)


@lru_cache(maxsize=256)
def _items(task: MicroTask, split: Split) -> tuple[Any, ...]:
    """Distinct items that English can write, the same for every language."""
    english = cldr.phrasebook("en")
    assert english is not None
    size = {"train": task.train_size, "dev": task.dev_size, "test": task.test_size}[split]
    rng = random.Random(f"{task.seed}|{task.name}|{split}")
    items: dict[Any, None] = {}
    for _ in range(size * 50):
        if len(items) == size:
            break
        item = task.draw(rng, split)
        if item not in items and task.write(item, english, "") is not None:
            items[item] = None
    return tuple(items)


def other_than(rng: random.Random, choices: Sequence[T], *taken: T) -> T:
    """A random choice that is not among those taken."""
    while (pick := rng.choice(choices)) in taken:
        pass
    return pick


def write_list(book: Phrasebook, parts: Sequence[tuple[Concept, Width]]) -> tuple[str, list[tuple[int, str]]] | None:
    """Concepts as a list in the book's language: the text, and (offset, text) of each part in it."""
    texts = [book.write(concept, width) for concept, width in parts]
    known = [text for text in texts if text is not None]
    if len(known) < len(texts) or (joined := book.join(known)) is None:
        return None
    text, offsets = joined
    return text, list(zip(offsets, known, strict=True))


def write_text(book: Phrasebook, concepts: Sequence[Concept], width: Width = "long") -> str | None:
    """One concept alone, or several as a list."""
    if len(concepts) == 1:
        return book.write(concepts[0], width)
    listed = write_list(book, [(concept, width) for concept in concepts])
    return listed[0] if listed else None


@dataclass(frozen=True)
class CalendarRun:
    """Consecutive months or weekdays, forwards or backwards."""

    table: Literal["months", "weekdays"]
    start: int
    step: Literal[1, -1]
    length: int

    @staticmethod
    def draw(rng: random.Random, lengths: Sequence[int]) -> CalendarRun:
        table: Literal["months", "weekdays"] = rng.choice(("months", "weekdays"))
        return CalendarRun(table, rng.randrange(_CYCLE[table]), rng.choice((1, -1)), rng.choice(lengths))

    def name(self, book: Phrasebook, position: int) -> str | None:
        """The name at a position of the run, which may be beyond its end."""
        number = (self.start + self.step * position) % _CYCLE[self.table]
        return book.month(number + 1) if self.table == "months" else book.weekday(number)


_CYCLE = {"months": 12, "weekdays": 7}


def write_run(book: Phrasebook, run: CalendarRun) -> str | None:
    """The run as a list in the book's language."""
    names = [run.name(book, position) for position in range(run.length)]
    known = [name for name in names if name is not None]
    joined = book.join(known) if len(known) == run.length else None
    return joined[0] if joined else None


def shared_words(first: str, second: str) -> int:
    """The number of distinct words, without punctuation, that two texts share: the overlap a shortcut could count."""
    return len(set(re.findall(r"[\w.]+", first.lower())) & set(re.findall(r"[\w.]+", second.lower())))


def shared_signs(first: str, second: str) -> int:
    """The number of distinct words and single digits that two texts share: stricter than `shared_words`."""
    return len(set(_SIGN.findall(first.lower())) & set(_SIGN.findall(second.lower())))


_SIGN = re.compile(r"[0-9]|[^\W\d_]+")
