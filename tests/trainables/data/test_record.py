"""Checked values of rows and JSON documents: what each method accepts, and that errors name the place."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from trainables.data.record import Record, label_index
from trainables.data.source import DataError

ROW = Record(
    {
        "text": "a",
        "number": 3,
        "flag": True,
        "texts": ["a", "b"],
        "spans": [{"start": 1}, [0, 4]],
        "inner": {"text": "b"},
    },
    "file.jsonl",
    7,
)


def test_values_of_the_right_type_are_returned() -> None:
    assert (ROW.text("text"), ROW.integer("number"), ROW.texts("texts")) == ("a", 3, ("a", "b"))
    assert ROW.items("texts") == ["a", "b"]
    assert ROW.record("inner").text("text") == "b"
    first, second = ROW.records("spans")
    assert (first.integer("start"), second.integer(0), second.integer(1)) == (1, 0, 4)
    assert ROW.value("flag") is True


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (
            lambda row: row.text("absent"),
            "file.jsonl:7: absent: missing; there are text, number, flag, texts, spans, inner",
        ),
        (lambda row: row.text("number"), "file.jsonl:7: number: expected text, got 3"),
        (lambda row: row.integer("text"), "file.jsonl:7: text: expected an integer, got 'a'"),
        (lambda row: row.integer("flag"), "file.jsonl:7: flag: expected an integer, got True"),
        (lambda row: row.texts("text"), "file.jsonl:7: text: expected a list of texts, got 'a'"),
        (lambda row: row.texts("spans"), "file.jsonl:7: spans: expected a list of texts, got [{'start': 1}, [0, 4]]"),
        (lambda row: row.record("texts"), "file.jsonl:7: texts: expected an object, got ['a', 'b']"),
        (lambda row: row.record("inner").text("x"), "file.jsonl:7: inner.x: missing; there are text"),
        (lambda row: next(row.records("spans")).text("start"), "file.jsonl:7: spans[0].start: expected text, got 1"),
        (lambda row: list(row.records("spans"))[1].integer(2), "file.jsonl:7: spans[1][2]: missing"),
        (lambda row: next(iter(row.records("texts"))).text("x"), "file.jsonl:7: texts[0].x: missing"),
    ],
)
def test_an_error_names_file_line_path_and_value(read: Callable[[Record], object], message: str) -> None:
    with pytest.raises(DataError) as error:
        read(ROW)
    assert str(error.value) == message


def test_an_error_of_the_whole_record_names_its_own_path() -> None:
    assert str(ROW.error("2 tags for 1 words")) == "file.jsonl:7: 2 tags for 1 words"
    assert str(ROW.record("inner").error("broken")) == "file.jsonl:7: inner: broken"


def test_a_label_is_given_by_its_name() -> None:
    assert label_index("b", ("a", "b"), where="file.tsv", line=2) == 1
    with pytest.raises(DataError, match=r"file\.tsv:2: unknown label 'c'; there are a, b"):
        label_index("c", ("a", "b"), where="file.tsv", line=2)
