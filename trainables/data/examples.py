"""Example types, one class for each form of task, and the result of reading a split."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PairExample:
    """One or two texts with a label, an index into `Task.labels`. `second` is None for single-text tasks."""

    id: str
    first: str
    second: str | None
    label: int


@dataclass(frozen=True)
class ChoiceExample:
    """A context and its alternatives; `label` is the index of the right one."""

    id: str
    context: str
    choices: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class TaggingExample:
    """Words with one tag each, IOB2 or plain."""

    id: str
    words: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True)
class SpanExample:
    """A question on a context; an answer is a text with its character offset. Without answers it is unanswerable."""

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
    """A query and its answer, with the passage of the answer: a dual encoder's training example."""

    id: str
    query: str
    answer: str
    context: str | None = None


@dataclass(frozen=True)
class RetrievalText:
    """A text of a retrieval set: a query with the ids of its right candidates, or (if `gold` is None) a candidate."""

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


# What files hold where a text is missing.
_PLACEHOLDERS = frozenset({"n/a", "na", "nan", "none", "ns", "null"})


def doubt(example: Example) -> str | None:
    """Why an example may be worth nothing although its row breaks no rule: a text is empty or a placeholder for one."""
    texts: dict[str, str | None]
    match example:
        case PairExample():
            texts = {"first text": example.first, "second text": example.second}
        case ChoiceExample():
            texts = {"context": example.context}
            texts |= {f"alternative {number}": text for number, text in enumerate(example.choices, 1)}
        case SpanExample():
            texts = {"question": example.question, "context": example.context}
        case _:
            return None
    for name, text in texts.items():
        if text is not None and not text.strip():
            return f"its {name} is empty"
        if text is not None and not name.startswith("alternative") and text.strip().lower() in _PLACEHOLDERS:
            return f"its {name} is {text.strip()!r}, which stands for a missing text"
    return None


@dataclass(frozen=True)
class RejectedRow:
    """A row that cannot be used: its file or data set, its line, and the rule that it breaks."""

    where: str
    line: int | None
    rule: str


@dataclass(frozen=True)
class ReadResult:
    """The examples of a split in the order of the file, and the rejected rows, which a study reports."""

    examples: tuple[Example, ...]
    rejected: tuple[RejectedRow, ...] = ()

    def __add__(self, other: ReadResult) -> ReadResult:
        return ReadResult(self.examples + other.examples, self.rejected + other.rejected)
