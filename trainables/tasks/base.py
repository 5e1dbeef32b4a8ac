"""The interface of a task: languages, splits, examples, head and metric. Each task is a subclass in a short file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from trainables.data.examples import Example, ReadResult

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
    """A task with everything that identifies it. Whatever can differ between two instances is a field, and is hashed.

    Class attributes are fixed for the task:

    - `name`, `head`, `role`, `metric` (its score is in percent), and `source` (where the data come from, for people);
    - `labels`, for classification and tagging; `choices`, the number of alternatives in multiple choice;
    - `trained`: False for tasks that are scored without training;
    - `reads` and `scores_on`: the corpora of the training set and of the test sets, for contamination flags;
    - `pools`: additional test sets that have only candidates;
    - `calibrated`: a threshold is set on a dev set in each language;
    - `unanswerable`: a question may have no answer;
    - `group`: training examples that are each other's negatives and stay together;
    - `query_length` and `answer_length`: a dual encoder's longest rows, in tokens;
    - `parallel`: the test sets are translations of each other, example by example, under the same ids;
    - `mixed_only`: the task has no labels, is trained only in a mixture, and is never scored.
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
    parallel: ClassVar[bool] = False
    mixed_only: ClassVar[bool] = False

    @property
    @abstractmethod
    def languages(self) -> tuple[str, ...]:
        """Languages with a test set; for intermediate tasks those of the training set."""

    @property
    @abstractmethod
    def revision(self) -> str:
        """Identifies the data: runs with the same revision read the same examples."""

    @property
    def training_languages(self) -> tuple[str, ...]:
        """Languages of the labelled training set. A gain in one of them besides English is not zero-shot."""
        return () if self.mixed_only else ("en",)

    @property
    def hidden_layer(self) -> int | None:
        """The hidden layer that sentence vectors come from, counted from 1; None is the encoder's output."""
        return None

    def also_identified_by(self) -> dict[str, Any]:
        """What changes features, loss or scores but is not a field. The key "kind" keeps existing fingerprints valid.

        The tasks of this package raise `VERSION` when their attributes change. For a task defined elsewhere, whose author may
        not know that, the attributes count as well.
        """
        head = f"{self.head} {HEAD_VERSIONS.get(self.head, 1)}"
        identity = {"kind": head, "group": self.group, "lengths": (self.query_length, self.answer_length)}
        if type(self).__module__.partition(".")[0] != __name__.partition(".")[0]:
            metric = getattr(self, "metric", None)  # a task that is only mixed in has none
            identity |= {"attributes": (metric, self.labels, self.choices, self.unanswerable, self.calibrated)}
        return identity

    def for_training(self) -> Task:
        """The task as a training stage sees it: without what does not change the model (test languages, test set sizes)."""
        return self

    @property
    def prerequisites(self) -> tuple[Task, ...]:
        """English tasks with the same head that the model, head included, is always trained on first (XCOPA: Social IQa)."""
        return ()

    @property
    def has_english_dev(self) -> bool:
        """Whether there is an English dev set: always for training, otherwise where a task's own field names one."""
        return self.trained

    def splits(self) -> list[tuple[Split, str]]:
        """Every split and language that a study reads: training sets, the English dev set, test sets, candidate pools."""
        english: list[tuple[Split, str]] = [("train", name) for name in self.training_languages] if self.trained else []
        english += [("dev", "en")] if self.has_english_dev else []
        if self.role == "intermediate":
            return english
        calibration: list[tuple[Split, str]] = [("dev", name) for name in self.languages] if self.calibrated else []
        return english + calibration + [("test", name) for name in (*self.languages, *self.pools)]

    @abstractmethod
    def examples(self, split: Split, language: str) -> Sequence[Example]:
        """The examples of a split in a language, in a fixed order. Labelled dev sets are English.

        Raises:
            ValueError: the task has no such split in that language.
        """

    def read(self, split: Split, language: str) -> ReadResult:
        """The examples of a split, with the rows that were rejected."""
        return ReadResult(tuple(self.examples(split, language)))

    @abstractmethod
    def chance(self) -> float:
        """The score, in percent, of a guess that ignores the input."""
