"""What a task is: languages, splits, examples, head kind and metric. One subclass in one short file for each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

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
    "masked_lm",
]


# Raised when a head kind's code makes other features, another loss or other predictions of the same examples.
KIND_VERSIONS: dict[KindName, int] = {"tagging": 1, "span_extraction": 1}


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


@dataclass(frozen=True)
class TextExample:
    """A sentence or paragraph without a label."""

    id: str
    text: str


Example = (
    PairExample
    | ChoiceExample
    | TaggingExample
    | SpanExample
    | BitextExample
    | RetrievalPair
    | RetrievalText
    | TextExample
)


@dataclass(frozen=True)
class Rejected:
    """A row that was read and cannot be used, with where it stands and why."""

    where: str
    line: int | None
    rule: str


@dataclass(frozen=True)
class Read:
    """The examples of a split in the file's order, and the rows that were rejected: reported, never dropped in silence."""

    examples: tuple[Example, ...]
    rejected: tuple[Rejected, ...] = ()

    def __add__(self, other: Read) -> Read:
        return Read(self.examples + other.examples, self.rejected + other.rejected)


@dataclass(frozen=True)
class Task(ABC):
    """A task with everything that identifies it; what can differ between two instances is a field and is hashed.

    Class attributes name what is fixed for the task: `name`, `kind` (head kind), `role`, `labels` (for classification and
    tagging), `languages` (test languages), `metric` (name of the score in percent), `source` (where the data come from)
    and `trained` (False for tasks scored with no training). `reads` names the corpora that the training set is made of and
    `scores_on` those of the test sets, for the marks of same-data controls and leaks; `pools` names extra test sets that
    hold candidates only; `calibrated` tasks set a threshold on a dev set in each language; span tasks may be `unanswerable`;
    `group` is how many training examples are read against each other and stay together; `choices` is how many alternatives an
    example of multiple choice has; `query_length` and `answer_length` are a dual encoder's longest rows in tokens;
    `mixed_only` tasks have no labels, are trained as one of a mixture and never scored.
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
    group: ClassVar[int] = 1
    choices: ClassVar[int] = 0
    query_length: ClassVar[int | None] = None
    answer_length: ClassVar[int | None] = None
    mixed_only: ClassVar[bool] = False

    @property
    @abstractmethod
    def languages(self) -> tuple[str, ...]:
        """Languages with a test set; those of the training set for intermediate tasks, English for all that have labels."""

    @property
    @abstractmethod
    def revision(self) -> str:
        """Identifies the data: two runs with the same revision read the same examples."""

    @property
    def hidden_layer(self) -> int | None:
        """The hidden layer that sentence vectors are read from, counted from 1; None is the encoder's output."""
        return None

    def also_identified_by(self) -> dict[str, Any]:
        """What makes other features or another loss, and is no field."""
        kind = f"{self.kind} {KIND_VERSIONS.get(self.kind, 1)}"
        return {"kind": kind, "group": self.group, "lengths": (self.query_length, self.answer_length)}

    def for_training(self) -> Task:
        """The task as a training stage knows it: without what makes no other model (test languages, sizes of test sets)."""
        return self

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
        """The examples of a split in a language, in a fixed order. Training and dev sets with labels are English.

        Raises:
            ValueError: the task has no such split in that language.
        """

    def read(self, split: Split, language: str) -> Read:
        """The examples of a split, with the rows that were rejected."""
        return Read(tuple(self.examples(split, language)))

    @abstractmethod
    def chance(self) -> float:
        """Score, in percent, of a guess that ignores the input."""
