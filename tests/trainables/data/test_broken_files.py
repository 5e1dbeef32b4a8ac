"""Files that a parser chokes on: one error that names file, line and rule, whatever the parser raised."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from study.spec.data_check import check_data
from tests.support import recipes
from trainables.data.examples import ChoiceExample, Example, PairExample, ReadResult, SpanExample, doubt
from trainables.data.formats.conllu import read_conllu, xtreme_words
from trainables.data.formats.copa import read_copa_xml
from trainables.data.formats.pairs import NLI_LABELS, PairForm, nli_json
from trainables.data.formats.squad import from_file
from trainables.data.source import DataError
from trainables.data.text import separated
from trainables.tasks.base import Task
from trainables.tasks.english.cosmos_qa import read_cosmos_csv
from trainables.tasks.xtreme.udpos import UPOS

PAIRS = PairForm("a", "b", "label", NLI_LABELS)
COSMOS = "id,context,question,answer0,answer1,answer2,answer3,label\n"
WORD = "{id}\tgo\t_\tVERB\tVB\t_\t{head}\t_\t_\t_\n"
ITEM = '<item id="{id}" asks-for="cause" most-plausible-alternative="1"><p>P</p><a1>A</a1><a2>B</a2></item>'
SNLI = '{"gold_label": "neutral", "sentence1": "%s", "sentence2": "b"}\n'


def read_upos(path: Path) -> object:
    return read_conllu(path, tagged=xtreme_words, labels=UPOS)


def questions(path: Path) -> object:
    return list(from_file(path))


@pytest.mark.parametrize(
    ("read", "content", "line", "rule"),
    [
        (read_cosmos_csv, COSMOS + f"1,{'x' * 131_073},q,a,b,c,d,0\n", 2, "not CSV: field larger than field limit"),
        (PAIRS.tsv, "a\tb\tlabel\rp\th\tneutral\r", 1, "carriage returns alone"),
        (read_upos, WORD.format(id="²", head=0), 1, "id '²' is neither a word"),
        (read_upos, WORD.format(id=1, head="²"), 1, "head '²' is not a number"),
        (read_copa_xml, f"<copa>{ITEM.format(id='²')}</copa>", 1, "item id '²' is not a number"),
        (nli_json().json_lines, SNLI % "a" + SNLI % "\\ud83d", 2, "half of a surrogate pair"),
        (nli_json().json_lines, "[" * 100_000, 1, "nested too deeply"),
        (questions, "\n\n" + "[" * 100_000, 1, "nested too deeply"),
        (questions, '{"data": [{"paragraphs": [{"context": "\\udc00", "qas": []}]}]}', 1, "half of a surrogate pair"),
        (questions, '{"data":\n[1, }', 2, "not JSON"),
        (nli_json().json_lines, f'{{"gold_label": {"9" * 5000}}}', 1, "not JSON that can be read"),
    ],
)
def test_an_error_names_file_line_and_rule(
    read: Callable[[Path], object], content: str, line: int, rule: str, tmp_path: Path
) -> None:
    path = tmp_path / "data"
    path.write_bytes(content.encode())
    with pytest.raises(DataError, match=rule) as raised:
        read(path)
    assert (raised.value.where, raised.value.line) == (str(path), line)


def test_an_escaped_pair_of_surrogates_is_text(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text(SNLI % "\\ud83d\\ude00", encoding="utf-8")
    (example,) = nli_json().json_lines(path).examples
    assert isinstance(example, PairExample)
    assert example.first == "😀"


@pytest.mark.parametrize("quoted", [False, True])
def test_blank_lines_of_tables_are_skipped(quoted: bool, tmp_path: Path) -> None:
    path = tmp_path / "data"
    delimiter = "," if quoted else "\t"
    path.write_text("\na\tb\n\n1\t2\n\n".replace("\t", delimiter), encoding="utf-8")
    assert list(separated(path, delimiter=delimiter, quoted=quoted)) == [(4, {"a": "1", "b": "2"})]


def test_ranges_of_words_that_overlap_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data"
    ranges = [f"{name}\tx\t_\t_\t_\t_\t_\t_\t_\t_\n" for name in ("1-2", "2-3")]
    words = [WORD.format(id=number, head=0 if number == 1 else 1) for number in (1, 2, 3)]
    path.write_text("".join((ranges[0], words[0], ranges[1], *words[1:])), encoding="utf-8")
    with pytest.raises(DataError, match="token 2-3 begins inside another"):
        read_upos(path)


@pytest.mark.parametrize(
    ("example", "reason"),
    [
        (PairExample("1", "p", " ", 0), "its second text is empty"),
        (PairExample("1", "NS", "h", 0), "its first text is 'NS'"),
        (PairExample("1", "p", None, 0), None),
        (ChoiceExample("1", "c", ("a", ""), 0), "its alternative 2 is empty"),
        (ChoiceExample("1", "c", ("a", "None"), 0), None),
        (SpanExample("1", "", "c", ()), "its question is empty"),
    ],
)
def test_a_missing_text_is_doubtful(example: Example, reason: str | None) -> None:
    found = doubt(example)
    assert found is None if reason is None else found is not None and found.startswith(reason)


def test_doubtful_examples_are_counted_and_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    study = recipes.inline()
    planted = ReadResult((PairExample("7", "p", "", 0), *(PairExample(f"{n}", "p", "h", 1) for n in range(8, 39))))
    monkeypatch.setattr(Task, "read", lambda self, split, language: planted)
    said: list[str] = []
    check_data(study, said.append)
    assert "1 of 32 examples are doubtful and kept; the first is '7': its second text is empty" in said[0]
    assert all("\n" not in line for line in said)


def test_a_training_set_that_fills_no_batch_is_refused_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study = recipes.inline()
    few = ReadResult(tuple(PairExample(f"{n}", "p", "h", 1) for n in range(study.tuning.batch_size - 1)))
    monkeypatch.setattr(Task, "read", lambda self, split, language: few)
    with pytest.raises(
        DataError, match=r"micro_[a-z]+, train en: 15 examples do not fill a batch of 16: give own_tuning"
    ):
        check_data(study, pytest.fail)
