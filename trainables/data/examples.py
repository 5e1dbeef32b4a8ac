"""Examples as readers give them and tasks hold them, one class for each form, and what reading a split found."""

from __future__ import annotations

from dataclasses import dataclass


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
