"""Pairs of texts with a label: natural language inference and paraphrases, in whatever columns they are published."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainables.data.examples import PairExample, Read
from trainables.data.fields import text_of
from trainables.data.source import Row, Rows
from trainables.data.text import column, json_lines, label_of, read_rows, separated

NLI_LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class PairForm:
    """The columns of the two texts and of the label, and how each label is written there.

    `unlabelled` are values that say that annotators did not agree: such a row is rejected. `prefix` starts every id.
    """

    first: str
    second: str
    label: str
    spelled: tuple[str, ...]
    unlabelled: frozenset[str] = frozenset()
    prefix: str = ""

    def __call__(self, rows: Rows, where: Path | str) -> Read:
        """The examples, with the line (or row) number in the id.

        Raises:
            DataError: a column is missing, a text is none, or the label is unknown.
        """

        def make(row: Row, number: int) -> PairExample | str:
            label = str(column(row, self.label, where, number))
            if label in self.unlabelled:
                return f"no gold label ({label})"
            first, second = (text_of(row, name, where, number) for name in (self.first, self.second))
            return PairExample(f"{self.prefix}{number}", first, second, label_of(label, self.spelled, where, number))

        return read_rows(rows, where, make)

    def json_lines(self, path: Path) -> Read:
        return self(json_lines(path), path)

    def tsv(self, path: Path) -> Read:
        """A tab-separated file with a header."""
        return self(separated(path), path)

    def headless_tsv(self, path: Path) -> Read:
        """A tab-separated file of the two texts and the label."""
        return self(separated(path, (self.first, self.second, self.label)), path)


def nli_json(prefix: str = "") -> PairForm:
    """SNLI and MultiNLI as JSON lines; "-" where annotators did not agree."""
    return PairForm("sentence1", "sentence2", "gold_label", NLI_LABELS, frozenset({"-"}), prefix)


# NLI sets on the hub number the labels in the order of NLI_LABELS; SNLI writes -1 where annotators did not agree.
NLI_HUB = PairForm("premise", "hypothesis", "label", ("0", "1", "2"), frozenset({"-1"}))
