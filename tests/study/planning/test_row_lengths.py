"""The table of real row lengths, against the histograms that it was counted from."""

from __future__ import annotations

import pytest

from study.planning.row_lengths import SCORED, TRAINING, Tokens, scored_rows, training_tokens
from tests.benchmarks import row_lengths
from trainables.tasks.english.mnli import Mnli
from trainables.tasks.english.squad import Squad
from trainables.tasks.registry import TASKS
from trainables.tasks.unlabelled.masked_lm import MaskedLm
from trainables.tasks.xtreme.tydiqa import TyDiQA
from trainables.tasks.xtreme.udpos import Udpos
from trainables.tasks.xtreme.xnli import Xnli


@pytest.mark.parametrize("name", ["xnli", "udpos"])
def test_lengths_are_those_of_the_committed_histogram(name: str) -> None:
    lengths = row_lengths.committed().of(name)
    mean = sum(lengths) / len(lengths)
    square = sum(length**2 for length in lengths) / len(lengths)
    assert TRAINING[name].mean == pytest.approx(mean, abs=0.05)
    assert TRAINING[name].mean_square == pytest.approx(square, rel=0.005)


def test_every_entry_is_a_task_of_this_study() -> None:
    assert {*TRAINING, *SCORED} <= set(TASKS)


def test_a_limit_cuts_and_unknown_rows_are_estimated_from_it() -> None:
    assert training_tokens(Squad(), 384) == TRAINING["squad"]
    assert training_tokens(Squad(), 128) == Tokens(128, 128**2)
    assert training_tokens(Mnli(), 128) == training_tokens(Xnli(), 128)
    assert training_tokens(MaskedLm(), 256) is None, "text fills rows"
    rows, tokens = scored_rows(Xnli(languages_=("en", "de")), 128)
    assert (rows, tokens.mean) == (2 * 5010, 44.0)
    rows, tokens = scored_rows(Udpos(languages_=("en",)), 128)
    assert tokens == Tokens(43, 43**2)
    assert scored_rows(TyDiQA(), 384)[0] == 9 * 564
