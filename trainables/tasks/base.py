"""What a task is: languages, splits, examples, head kind and metric. One subclass in one short file for each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

Split = Literal["train", "dev", "test"]
Role = Literal["intermediate", "target"]
KindName = Literal[
    "pair_classification",
    "multiple_choice",
    "tagging",
    "span_extraction",
    "bitext_retrieval",
    "bitext_mining",
    "dual_encoder",
]


@dataclass(frozen=True)
class PairExample:
    """A text, or two, with one label out of `Task.labels`. `second` is None for single-sentence tasks."""

    id: str
    first: str
    second: str | None
    label: int


@dataclass(frozen=True)
class ChoiceExample:
    """A context and the alternatives, of which `label` indexes the right one."""

    id: str
    context: str
    choices: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class TaggingExample:
    """Words and one IOB2 tag (or plain tag) for each."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class SpanExample:
    """A question on a context; each answer is a text with its character offset in the context. No answers: unanswerable."""

    id: str
    question: str
    context: str
    answers: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        for text, start in self.answers:
            if self.context[start : start + len(text)] != text:
                raise ValueError(f"example {self.id!r}: answer {text!r} is not at offset {start} of its context")


@dataclass(frozen=True)
class BitextExample:
    """A sentence and its English translation."""

    id: str
    source: str
    target: str


@dataclass(frozen=True)
class RetrievalPair:
    """A query and the text that answers it, with the passage it stands in: what a dual encoder is trained on."""

    id: str
    query: str
    answer: str
    context: str | None = None


@dataclass(frozen=True)
class RetrievalText:
    """One text of a retrieval set: a query, with the ids of the candidates to be found, or (`gold` None) a candidate."""

    id: str
    text: str
    context: str | None = None
    gold: tuple[str, ...] | None = None


Example = PairExample | ChoiceExample | TaggingExample | SpanExample | BitextExample | RetrievalPair | RetrievalText


@dataclass(frozen=True)
class Task(ABC):
    """A task with everything that identifies it; what can differ between two instances is a field and is hashed.

    Class attributes name what is fixed for the task: `name`, `kind` (head kind), `role`, `labels` (for classification and
    tagging), `languages` (test languages), `metric` (name of the score in percent), `source` (where the data come from)
    and `trained` (False for tasks scored with no training). `reads` names the corpora that the training set is made of and
    `scores_on` those of the test sets, for the marks of same-data controls and leaks; `pools` names extra test sets that
    hold candidates only; `calibrated` tasks set a threshold on a dev set in each language; span tasks may be `unanswerable`;
    `query_length` and `answer_length` are a dual encoder's longest rows in tokens.
    """

    name: ClassVar[str]
    kind: ClassVar[KindName]
    role: ClassVar[Role]
    metric: ClassVar[str]
    source: ClassVar[str]
    labels: ClassVar[tuple[str, ...]] = ()
    trained: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset()
    scores_on: ClassVar[frozenset[str]] = frozenset()
    pools: ClassVar[tuple[str, ...]] = ()
    calibrated: ClassVar[bool] = False
    unanswerable: ClassVar[bool] = False
    query_length: ClassVar[int | None] = None
    answer_length: ClassVar[int | None] = None

    @property
    @abstractmethod
    def languages(self) -> tuple[str, ...]:
        """Languages with a test set; English alone for intermediate tasks."""

    @property
    @abstractmethod
    def revision(self) -> str:
        """Identifies the data: two runs with the same revision read the same examples."""

    @property
    def hidden_layer(self) -> int | None:
        """The hidden layer that sentence vectors are read from, counted from 1; None is the encoder's output."""
        return None

    @property
    def prerequisites(self) -> tuple[Task, ...]:
        """English tasks of the same head that the model is always trained on first (XCOPA: Social IQa), head and all."""
        return ()

    def splits(self) -> list[tuple[Split, str]]:
        """Every split and language that a study reads: English training and dev sets, test sets, pools of candidates."""
        trained: list[tuple[Split, str]] = [("train", "en"), ("dev", "en")] if self.trained else []
        if self.role == "intermediate":
            return trained
        calibration: list[tuple[Split, str]] = [("dev", name) for name in self.languages] if self.calibrated else []
        return trained + calibration + [("test", name) for name in (*self.languages, *self.pools)]

    @abstractmethod
    def examples(self, split: Split, language: str) -> Sequence[Example]:
        """The examples of a split in a language, in a fixed order. Training and dev sets are English.

        Raises:
            ValueError: the task has no such split in that language.
        """

    def rejected(self, split: Split, language: str) -> int:
        """Rows of the split that were read and could not be used."""
        return 0

    @abstractmethod
    def chance(self) -> float:
        """Score, in percent, of a guess that ignores the input."""

    def available(self) -> str | None:
        """None if the data can be read here, else what is missing and where it is looked for."""
        return None
