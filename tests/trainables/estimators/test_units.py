"""What estimators see of each head's features."""

from __future__ import annotations

import pytest

from trainables.estimators.units import (
    END,
    MOST_TOKENS,
    OTHER,
    START,
    WHOLE,
    Undefined,
    Unit,
    decisions,
    rows,
    spaced,
    tokens,
    why_undefined,
)
from trainables.heads import HEADS, Feature
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.follows import MicroFollows
from trainables.tasks.micro.masked_lm import MicroMaskedLm
from trainables.tasks.micro.mention import MicroMention
from trainables.tasks.micro.span import MicroSpan
from trainables.tasks.micro.tagging import MicroTagging
from trainables.tasks.registry import TASKS
from trainables.tasks.xtreme.lareqa import Lareqa

A, B, C = (0, 5, 2), (0, 6, 2), (0, 7, 2)


def test_every_target_has_units_or_a_reason() -> None:
    """A head that is added needs an entry in `trainables.estimators.units`."""
    heads = set()
    for build in TASKS.values():
        task = build()
        heads.add(task.head)
        if (reason := why_undefined(task)) is None:
            assert decisions(task, []) == []
        else:
            with pytest.raises(Undefined, match=reason):
                decisions(task, [])
    assert heads == set(HEADS)


def test_a_classified_row_has_its_label() -> None:
    assert decisions(MicroMention(), [Feature(0, (A,), (1,)), Feature(1, (B,), (0,))]) == [Unit(A, 1, 0), Unit(B, 0, 1)]


def test_an_alternative_is_right_or_wrong() -> None:
    assert decisions(MicroFollows(), [Feature(0, (A, B, C), (1,))]) == [Unit(A, 0, 0), Unit(B, 1, 0), Unit(C, 0, 0)]


def test_a_word_is_its_first_token() -> None:
    feature = Feature(0, ((0, 5, 6, 7, 2),), (-100, 3, -100, 4, -100), 2.0, (0, 1, 3))
    assert decisions(MicroTagging(), [feature]) == [Unit(feature.rows[0], 3, 0, 1), Unit(feature.rows[0], 4, 0, 3)]


def test_an_answer_is_its_ends_beside_as_many_other_tokens_of_the_context() -> None:
    row = tuple(range(9))
    layout = tuple(number for token in range(9) for number in ((token, token + 1) if 3 <= token < 8 else (-1, -1)))
    units = decisions(MicroSpan(), [Feature(0, (row,), (4, 5), layout=layout)])
    assert {(unit.position, unit.label) for unit in units} == {(4, START), (5, END), (3, OTHER), (7, OTHER)}
    units = decisions(MicroSpan(), [Feature(0, (row,), (4, 4), layout=layout)])
    assert [(unit.position, unit.label) for unit in units] == [(4, WHOLE), (3, OTHER)]
    assert decisions(MicroSpan(), [Feature(0, (row,), (0, 0), layout=layout)]) == []


def test_a_query_meets_its_own_answer_and_the_next_ones() -> None:
    pairs = [Feature(0, (A, B), ()), Feature(1, (B, C), ()), Feature(2, (C, C), ())]
    units = decisions(Lareqa(), pairs)
    assert [(unit.row, unit.other, unit.label) for unit in units] == [
        *((A, B, 1), (A, C, 0)),
        (B, C, 1),  # the next pair's answer is the same text, so no wrong pair
        *((C, C, 1), (C, B, 0)),
    ]


def test_texts_have_no_labels() -> None:
    feature = Feature(3, (A, (0, *range(5, 30), 2)), (1,))
    assert [unit.row for unit in rows([feature])] == list(feature.rows)
    places = tokens([feature])
    assert [unit.position for unit in places if unit.row == A] == [1]
    of_long = [unit.position for unit in places if unit.row != A]
    assert (of_long[0], of_long[-1], len(of_long)) == (1, 25, 8)
    assert {unit.label for unit in (*rows([feature]), *places)} == {-1}


def test_reasons_name_what_is_missing() -> None:
    assert "no training set" in str(why_undefined(MicroBitext()))
    assert "labels" in str(why_undefined(MicroMaskedLm()))
    assert why_undefined(MicroSpan()) is None


def test_many_tokens_are_thinned_evenly() -> None:
    assert spaced(range(5), 5) == [0, 1, 2, 3, 4]
    assert spaced(range(101), 3) == [0, 50, 100]
    feature = Feature(0, (tuple(range(5002)),), (-100, *[1] * 5000, -100), layout=(0, *range(1, 5001)))
    assert len(decisions(MicroTagging(), [feature])) == MOST_TOKENS
