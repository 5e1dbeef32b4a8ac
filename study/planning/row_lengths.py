"""Real tokens of rows, and how many rows are scored: what an estimate needs of the data without reading them.

Training rows were counted on the published files, in English, with mBERT's vocabulary and special tokens, at the length limits
of the recipes; other vocabularies give other numbers. Test sets were counted in the languages at hand. Sizes of test
sets are those of the XTREME and XTREME-R papers (Hu et al. 2020; Ruder et al. 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

from trainables.heads import HEADS
from trainables.tasks.base import Task

UNKNOWN_FILL = 1 / 3  # of the limit, for rows that hold sentences, as of XNLI with 128
UNKNOWN_ROWS = 2000  # that are scored in each language, where the set is not listed


@dataclass(frozen=True)
class Tokens:
    """Tokens of a row: the mean, and the mean of the squares, which attention follows."""

    mean: float
    mean_square: float

    @classmethod
    def all_of(cls, length: int) -> Tokens:
        """Rows that are all of this length."""
        return cls(length, length**2)

    def cut(self, length: int) -> Tokens:
        """No more than this length; what was counted at a higher limit counts as it is below it."""
        return Tokens(min(self.mean, length), min(self.mean_square, length**2))


def _tokens(mean: float, rms: float) -> Tokens:
    return Tokens(mean, rms**2)


_PASSAGES = _tokens(150.7, 168.3)  # TyDiQA's 3,314 English questions, in place of SQuAD as well
TRAINING: dict[str, Tokens] = {
    **dict.fromkeys(("mnli", "xnli"), _tokens(39.7, 41.6)),  # XNLI's 2,490 English dev pairs
    "udpos": _tokens(21.9, 26.3),  # UD English-EWT, 12,551 sentences
    "commonsense_qa": _tokens(21.5, 22.6),  # of each alternative; 9,741 questions
    "cosmos_qa": _tokens(109.4, 113.2),  # the same; 2,985 questions
    "hellaswag": _tokens(45.4, 47.5),  # the same; 10,042 questions
    **dict.fromkeys(("tydiqa", "squad", "squad2", "xquad", "mlqa"), _PASSAGES),
}
_PASSAGES_SCORED = _tokens(163.2, 184.3)  # TyDiQA in ar, en, fi, id, ru
# Rows that are scored in each language, alternatives and candidates included, and their tokens where they were counted.
SCORED: dict[str, tuple[int, Tokens | None]] = {
    "xnli": (5010, _tokens(44.0, 46.7)),  # in en and sw
    "pawsx": (2000, None),
    "xcopa": (2 * 500, None),
    "panx": (10_000, None),  # fewer in small languages
    "xquad": (1190, _PASSAGES_SCORED),
    "mlqa": (6035, _PASSAGES_SCORED),  # on average
    "tydiqa": (564, _PASSAGES_SCORED),  # on average
    "tatoeba": (2 * 1000, None),
    "lareqa": (1190 + 1183, None),  # questions and sentences, on average
    "mewslix": (1400 + 91_000, None),  # mentions, and a language's part of a million candidates
}


def training_tokens(task: Task, limit: int) -> Tokens | None:
    """The real tokens of a row of a task's training set, cut at the limit; None for passages that were not counted."""
    if task.name in TRAINING:
        return TRAINING[task.name].cut(limit)
    return None if HEADS[task.head].fills_rows else Tokens.all_of(round(UNKNOWN_FILL * limit))


def scored_rows(task: Task, limit: int) -> tuple[int, Tokens]:
    """Rows that an evaluation of a task scores in all its languages, and their tokens."""
    rows, tokens = SCORED.get(task.name, (UNKNOWN_ROWS, None))
    if tokens is None:
        tokens = Tokens.all_of(limit if HEADS[task.head].fills_rows else round(UNKNOWN_FILL * limit))
    return rows * len(task.languages), tokens.cut(limit)
