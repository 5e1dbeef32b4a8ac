"""Pairs of texts with a label: natural language inference and paraphrases, in any columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainables.data.examples import PairExample, ReadResult
from trainables.data.record import Record, label_index
from trainables.data.source import Location, Rows
from trainables.data.text import json_lines, read_rows, separated

NLI_LABELS = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class PairForm:
    """The columns of the two texts and of the label, and the spelling of each label.

    Rows whose label is in `unlabelled` (annotators disagreed) are rejected. `prefix` starts every id.
    """

    first: str
    second: str
    label: str
    spellings: tuple[str, ...]
    unlabelled: frozenset[str] = frozenset()
    prefix: str = ""

    def __call__(self, rows: Rows, where: Location) -> ReadResult:
        """The examples; an id ends with the line (or row) number.

        Raises:
            DataError: a column is missing, a text is not a string, or the label is unknown.
        """

        def build(row: Record) -> PairExample | str:
            label = str(row.value(self.label))
            if label in self.unlabelled:
                return f"no gold label ({label})"
            index = label_index(label, self.spellings, where=where, line=row.line)
            return PairExample(f"{self.prefix}{row.line}", row.text(self.first), row.text(self.second), index)

        return read_rows(rows, where, build)

    def json_lines(self, path: Path) -> ReadResult:
        return self(json_lines(path), path)

    def tsv(self, path: Path) -> ReadResult:
        """A tab-separated file with a header."""
        return self(separated(path), path)

    def headless_tsv(self, path: Path) -> ReadResult:
        """A tab-separated file without a header: the two texts and the label."""
        return self(separated(path, (self.first, self.second, self.label)), path)


def nli_json(prefix: str = "") -> PairForm:
    """SNLI and MultiNLI as JSON lines; the label is "-" if annotators disagreed."""
    return PairForm("sentence1", "sentence2", "gold_label", NLI_LABELS, frozenset({"-"}), prefix)


# NLI sets on the hub number the labels in the order of NLI_LABELS; in SNLI -1 means that annotators disagreed.
NLI_HUB = PairForm("premise", "hypothesis", "label", ("0", "1", "2"), frozenset({"-1"}))
