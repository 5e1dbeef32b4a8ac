"""Scores by example: what is written is read back, and the tests of several tasks are joined in one table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from trainables.metrics import Counts
from trainables.store.examples import (
    EXAMPLES,
    example_scores,
    joined_examples,
    joined_tests,
    read_example_scores,
    write_example_scores,
)


@dataclass(frozen=True)
class Scored:
    """The scores of a set."""

    split: str
    language: str
    per_example: tuple[Counts, ...]
    confidence: tuple[float, ...] = ()


LABELS = example_scores(
    [
        Scored("dev", "en", (Counts({"correct": 1.0}),)),
        Scored("test", "en", (Counts({"correct": 1.0}), Counts({"correct": 0.0}))),
        Scored("test", "de", (Counts({"correct": 1.0}),)),
    ]
)
ANSWERS = example_scores([Scored("test", "de", (Counts({"f1": 0.5, "exact": 0.0}),))])


def test_a_table_survives_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / EXAMPLES
    write_example_scores(LABELS, path)
    read = read_example_scores(path)
    pd.testing.assert_frame_equal(read, LABELS)
    assert list(read) == ["split", "language", "example", "correct"]
    assert list(read["example"]) == [0, 0, 1, 0]
    assert [file.name for file in path.parent.iterdir()] == [EXAMPLES]


def test_the_tests_of_several_tasks_are_joined() -> None:
    joined = joined_tests([("labels", LABELS), ("answers", ANSWERS)])
    assert list(joined) == ["task", "split", "language", "example", "correct", "f1", "exact"]
    assert list(joined["task"]) == ["labels"] * 3 + ["answers"]
    assert set(joined["split"]) == {"test"}
    assert joined["f1"].isna().tolist() == [True] * 3 + [False]
    assert {str(joined.dtypes[name]) for name in ("task", "split", "language")} == {"category"}
    assert str(joined.dtypes["example"]) == "int32"


def test_english_dev_stays_where_confidence_is_known() -> None:
    """A cascade's threshold is chosen on it; tables of earlier versions are joined as before."""
    sure = example_scores(
        [
            Scored("dev", "en", (Counts({"correct": 1.0}),), (0.25,)),
            Scored("dev", "de", (Counts({"correct": 1.0}),), (0.5,)),
            Scored("test", "de", (Counts({"correct": 1.0}),), (0.75,)),
        ]
    )
    joined = joined_examples([("sure", sure), ("labels", LABELS)])
    of_task = joined[joined["task"] == "sure"]
    assert list(zip(of_task["split"], of_task["language"], of_task["confidence"], strict=True)) == [
        *(("dev", "en", 0.25), ("test", "de", 0.75)),
    ]
    assert set(joined.loc[joined["task"] == "labels", "split"]) == {"test"}
    assert joined.loc[joined["task"] == "labels", "confidence"].isna().all()
    pd.testing.assert_frame_equal(joined_examples([("labels", LABELS)]), joined_tests([("labels", LABELS)]))
    assert set(joined_tests([("sure", sure)])["split"]) == {"test"}, (
        "a serving variant's answers are of the tests alone"
    )
