"""What a task is: languages, splits, examples, head and metric. Each task is one subclass in one short file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from trainables.data.examples import Example, Read

Split = Literal["train", "dev", "test"]
Role = Literal["intermediate", "target"]
HeadName = Literal[
    "pair_classification",
    "multiple_choice",
    "tagging",
    "span_extraction",
    "bitext_retrieval",
    "bitext_mining",
    "dual_encoder",
    "masked_lm",
]


# Raised when a head's code produces other features, another loss or other predictions from the same examples.
HEAD_VERSIONS: dict[HeadName, int] = {"tagging": 1, "span_extraction": 1}


@dataclass(frozen=True)
class Task(ABC):
    """A task with everything that identifies it; what can differ between two instances is a field and is hashed.

    Class attributes name what is fixed for the task: `name`, `head`, `role`, `labels` (for classification and
    tagging), `languages` (test languages), `metric` (name of the score in percent), `source` (where the data come from)
    and `trained` (False for tasks scored with no training). `reads` names the corpora that the training set is made of and
    `scores_on` those of the test sets, for the marks of same-data controls and leaks; `pools` names extra test sets that
    hold candidates only; `calibrated` tasks set a threshold on a dev set in each language; span tasks may be `unanswerable`;
    `group` is how many training examples are read against each other and stay together; `choices` is how many alternatives an
    example of multiple choice has; `query_length` and `answer_length` are a dual encoder's longest rows in tokens;
    `mixed_only` tasks have no labels, are trained as one of a mixture and never scored.
    """

    name: ClassVar[str]
    head: ClassVar[HeadName]
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
        head = f"{self.head} {HEAD_VERSIONS.get(self.head, 1)}"
        return {"kind": head, "group": self.group, "lengths": (self.query_length, self.answer_length)}

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
