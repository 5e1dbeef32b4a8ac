"""Readers of pairs, choices and tagged words: their examples, and that errors name file and line of each planted fault."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from trainables.data.examples import ChoiceExample, Example, PairExample, ReadResult, RejectedRow, TaggingExample
from trainables.data.formats.ccgbank import derivations
from trainables.data.formats.choices import labelled_json_lines
from trainables.data.formats.conllu import read_conllu, treebanks, xpos_words, xtreme_words
from trainables.data.formats.copa import read_copa_xml, read_xcopa
from trainables.data.formats.pairs import NLI_HUB, NLI_LABELS, PairForm, nli_json
from trainables.data.formats.tagged import NER_LABELS, read_iob2, read_panx, read_tag_rows
from trainables.data.held_out import held_out
from trainables.data.source import DataError
from trainables.tasks.english.ccg import UNSEEN, Ccg
from trainables.tasks.english.commonsense_qa import read_commonsense, read_commonsense_json
from trainables.tasks.english.cosmos_qa import read_cosmos_csv
from trainables.tasks.english.hellaswag import read_hellaswag
from trainables.tasks.english.qqp import read_qqp
from trainables.tasks.english.social_iqa import read_social_files
from trainables.tasks.xtreme.udpos import UPOS

TSV = PairForm("a", "b", "label", NLI_LABELS)
read_upos = partial(read_conllu, tagged=xtreme_words, labels=UPOS)
read_xpos = partial(read_conllu, tagged=xpos_words, labels=("VBD", "RB", "VB", "PRP"))

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


def conllu(*rows: str) -> str:
    """Rows of id, form, UPOS, XPOS, head and, if there are any, enhanced edges."""
    filled = (row.split() for row in rows)
    return (
        "".join(f"{i}\t{form}\t_\t{u}\t{x}\t_\t{head}\t_\t{deps}\t_\n" for i, form, u, x, head, deps in filled) + "\n"
    )


DIDNT = conllu(
    "1 She PRON PRP 4 4:nsubj",
    "2-3 didn't _ _ _ _",
    "2 did AUX VBD 4 4:aux",
    "3 n't PART RB 4 4:advmod",
    "4 go VERB VB 0 0:root",
    "4.1 gone VERB VBN _ 4:conj",
)


def tags(read: ReadResult) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    examples = [example for example in read.examples if isinstance(example, TaggingExample)]
    return [(example.id, example.words, example.tags) for example in examples]


def test_pairs_by_name_and_by_number(write: Write) -> None:
    path = write("a.tsv", "a\tb\tlabel\nIt rains.\tIt is wet.\tentailment\nIt rains.\tIt snows.\tcontradiction\n")
    assert TSV.tsv(path).examples == (
        PairExample("2", "It rains.", "It is wet.", 0),
        PairExample("3", "It rains.", "It snows.", 2),
    )
    rows = [{"premise": "p", "hypothesis": "h", "label": label} for label in (2, -1)]
    assert NLI_HUB(enumerate(rows), "hub") == ReadResult(
        (PairExample("0", "p", "h", 2),), (RejectedRow("hub", 1, "no gold label (-1)"),)
    )


def test_an_unlabelled_pair_is_rejected_and_named(write: Write) -> None:
    path = write(
        "snli.jsonl",
        '{"gold_label": "-", "sentence1": "a", "sentence2": "b"}\n'
        '{"gold_label": "neutral", "sentence1": "a", "sentence2": "b"}\n',
    )
    assert nli_json("dev-").json_lines(path) == ReadResult(
        (PairExample("dev-2", "a", "b", 1),), (RejectedRow(str(path), 1, "no gold label (-)"),)
    )


def test_a_broken_question_of_qqp_is_rejected(write: Write) -> None:
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    path = write(
        "train.tsv", header + "0\t1\t2\tWho?\tWhat?\t0\n1\t3\t4\tWho is\n\twho?\t1\n2\t5\t6\tHow?\tHow so?\t1\n"
    )
    read = read_qqp(path)
    assert read.examples == (PairExample("2", "Who?", "What?", 0), PairExample("5", "How?", "How so?", 1))
    assert [(row.where, row.line) for row in read.rejected] == [(str(path), 3), (str(path), 4)]


def test_copa_items_by_id_with_the_question_of_xtreme_r(write: Write) -> None:
    path = write("copa.xml", COPA)
    assert read_copa_xml(path, first=2).examples == (
        ChoiceExample("5", "The glass fell. What was the effect?", ("It broke.", "It rang."), 0),
    )
    assert [example.id for example in read_copa_xml(path).examples] == ["4", "5"]
    xcopa = write(
        "test.sw.jsonl",
        '{"premise": "P.", "choice1": "A.", "choice2": "B.", "question": "cause", "label": 1, "idx": 0, "changed": false}\n',
    )
    assert read_xcopa(xcopa).examples == (ChoiceExample("1", "P. What was the cause?", ("A.", "B."), 1),)


COPA = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE copa-corpus SYSTEM "copa.dtd">
<copa-corpus version="1.0">
  <item id="1" asks-for="cause" most-plausible-alternative="2"><p>It is wet.</p><a1>It is late.</a1><a2>It rained.</a2></item>
  <item id="2" asks-for="effect" most-plausible-alternative="1"><p>The glass fell.</p><a1>It broke.</a1><a2>It rang.</a2></item>
</copa-corpus>
"""
CSQA = (
    '{"answerKey": "B", "question": {"stem": "Where?", "choices": ['
    + ", ".join(f'{{"label": "{letter}", "text": "place {letter}"}}' for letter in "ABCDE")
    + "]}}\n"
)


def test_choices_of_each_form(write: Write) -> None:
    places = tuple(f"place {letter}" for letter in "ABCDE")
    assert read_commonsense_json(write("dev.jsonl", CSQA)).examples == (ChoiceExample("1", "Where?", places, 1),)
    row = {"question": "Where?", "choices": {"label": list("ABCDE"), "text": list(places)}, "answerKey": "B"}
    assert read_commonsense([(7, row)], "hub").examples == (ChoiceExample("7", "Where?", places, 1),)

    # The hub writes HellaSwag's labels as text, its files as numbers.
    rows = [{"ctx": "She sits.", "endings": list("wxyz"), "label": label} for label in (3, "3")]
    assert [example.label for example in only_choices(read_hellaswag(enumerate(rows), "hub"))] == [3, 3]

    header = "id,context,question,answer0,answer1,answer2,answer3,label\n"
    cosmos = write("valid.csv", header + 'x,"He said ""no"",\nand left.",Why?,a,b,c,d,2\n')
    assert read_cosmos_csv(cosmos).examples == (
        ChoiceExample("3", 'He said "no",\nand left. Why?', ("a", "b", "c", "d"), 2),
    )

    siqa = '{"context": "Kim helped.", "question": "Why?", "answerA": "a", "answerB": "b", "answerC": "c"}\n'
    files = write("train.jsonl", siqa), write("train-labels.lst", "3\n")
    assert read_social_files(*files).examples == (ChoiceExample("1", "Kim helped. Why?", ("a", "b", "c"), 2),)


def only_choices(read: ReadResult) -> list[ChoiceExample]:
    return [example for example in read.examples if isinstance(example, ChoiceExample)]


def test_conllu_has_syntactic_words_or_words_as_written(write: Write) -> None:
    path = write("en_x-ud-test.conllu", "# sent_id = s1\n# text = She didn't go\n" + DIDNT)
    # "did" and "n't" depend on the same word; AUX precedes PART in XTREME's ranks.
    assert tags(read_upos(path)) == [("s1", ("She", "didn't", "go"), ("PRON", "AUX", "VERB"))]
    assert tags(read_xpos(path)) == [("s1", ("She", "did", "n't", "go"), ("PRP", "VBD", "RB", "VB"))]


def test_a_multiword_token_is_tagged_as_its_highest_word(write: Write) -> None:
    # "dáselo": the clitics depend on the verb. "zum": both words depend on the same noun outside the token.
    spanish = conllu("1-3 dáselo _ _ _ _", "1 da VERB _ 0 _", "2 se PRON _ 1 _", "3 lo PRON _ 1 _")
    german = conllu("1-2 zum _ _ _ _", "1 zu ADP _ 3 _", "2 dem DET _ 3 _", "3 Haus NOUN _ 0 _")
    assert tags(read_upos(write("es_x.conllu", spanish))) == [("1", ("dáselo",), ("VERB",))]
    assert tags(read_upos(write("de_x.conllu", german))) == [("1", ("zum", "Haus"), ("ADP", "NOUN"))]
    # The enhanced graph counts: here it puts "zu" below "dem". It also contains a cycle.
    enhanced = conllu("1-2 zum _ _ _ _", "1 zu ADP _ 3 2:x", "2 dem DET _ 3 3:det", "3 Haus NOUN _ 0 3:x")
    assert tags(read_upos(write("de_y.conllu", enhanced))) == [("1", ("zum", "Haus"), ("DET", "NOUN"))]


def test_words_are_cleaned_as_in_xtreme(write: Write) -> None:
    row = "1\t200 \u200c000\t_\tNUM\t_\t_\t0\t_\t_\t_\n2\t.\t_\tPUNCT\t_\t_\t1\t_\t_\t_\n"
    assert tags(read_upos(write("fi_x.conllu", row))) == [("1", ("200000", "."), ("NUM", "PUNCT"))]


def test_withheld_text_is_rejected(write: Write) -> None:
    path = write("en_esl.conllu", "# sent_id = w\n" + conllu("1 _ NOUN NN 2 _", "2 _ VERB VB 0 _") + DIDNT)
    read = read_upos(path)
    assert len(read.examples) == 1
    assert read.rejected == (RejectedRow(str(path), 2, "sentence w: its text is withheld"),)


def test_treebanks_of_a_language(write: Write, tmp_path: Path) -> None:
    for name in ("UD_German-PUD/de_pud", "UD_German-GSD/de_gsd", "UD_Danish-DDT/da_ddt"):
        write(f"ud/{name}-ud-test.conllu", "")
    assert treebanks(tmp_path, "de", "test") == (
        "ud/UD_German-GSD/de_gsd-ud-test.conllu",
        "ud/UD_German-PUD/de_pud-ud-test.conllu",
    )
    assert treebanks(tmp_path, "de", "dev") == treebanks(None, "de", "dev") == ("ud/UD_*/de_*-ud-dev.conllu",)


def test_names_of_both_forms(write: Write) -> None:
    uner = write("x.iob2", "# sent_id = s\n# text = #1 Oslo\n1\t#1\tO\t-\t-\n2\tOslo\tB-LOC\t-\tann\n\n\n")
    assert tags(read_iob2(uner)) == [("s", ("#1", "Oslo"), ("O", "B-LOC"))]
    panx = write("dev", "en:Oslo\tB-LOC\nen::\tO\n\nen:Ann\tB-PER\n")
    assert tags(read_panx(panx)) == [("1", ("Oslo", ":"), ("B-LOC", "O")), ("4", ("Ann",), ("B-PER",))]
    row = {"tokens": ["Ann", "Lee"], "ner_tags": [1, 2]}
    assert tags(read_tag_rows([(0, row)], "hub", tags="ner_tags", labels=NER_LABELS)) == [
        ("0", ("Ann", "Lee"), ("B-PER", "I-PER"))
    ]


AUTO = "ID=wsj_{0}.1 PARSER=GOLD NUMPARSE=1\n(<T S[dcl] 0 2> (<L NP NNP NNP Ann NP>) (<L {1} VBD VBD ran {1}>) )\n"


def test_ccgbank_from_the_users_files(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XSTILTS_DATA_ROOT", str(tmp_path))
    for section in range(2, 22):
        write(f"ccgbank/data/AUTO/{section:02}/wsj_{section:02}01.auto", AUTO.format(f"{section:02}01", r"S[dcl]\NP"))
    write("ccgbank/data/AUTO/00/wsj_0001.auto", AUTO.format("0001", "NP/NP"))
    task = Ccg()
    assert task.labels == ("B-NP", r"B-S[dcl]\NP", UNSEEN)
    assert len(task.examples("train", "en")) == 20
    assert task.examples("dev", "en") == (TaggingExample("wsj_0001.1", ("Ann", "ran"), ("B-NP", UNSEEN)),)
    assert task.chance() == pytest.approx(100 / 3)


def test_held_out_keeps_families_together() -> None:
    def keys(example: Example) -> tuple[str, str]:
        assert isinstance(example, PairExample)
        return f"1 {example.first}", f"2 {example.second}"

    # Families of three: a-x, a-y and b-y are linked through a and y.
    pairs = [(f"{side}{n}", f"{other}{n}") for n in range(40) for side, other in (("a", "x"), ("a", "y"), ("b", "y"))]
    result = ReadResult(
        tuple(PairExample(str(row), *pair, 0) for row, pair in enumerate(pairs)), (RejectedRow("f", 1, "why"),)
    )
    train, dev = (held_out(result, side, size=31, keys=keys) for side in ("train", "dev"))
    assert (len(train.examples), len(dev.examples)) == (90, 30)
    train_keys, dev_keys = ({key for example in side.examples for key in keys(example)} for side in (train, dev))
    assert not train_keys & dev_keys
    assert (train.rejected, dev.rejected) == (result.rejected, ())
    # A family's side depends neither on its position nor on the other families.
    reversed_dev = held_out(ReadResult(result.examples[::-1]), "dev", size=31, keys=keys)
    assert set(reversed_dev.examples) == set(dev.examples)


BAD: dict[str, tuple[Callable[[Path], object], str | bytes, int, str]] = {
    "bytes": (TSV.tsv, b"a\tb\tlabel\n\xff\tx\tneutral\n", 2, "not UTF-8"),
    "json": (nli_json().json_lines, '{"gold_label": "neutral"\n', 1, "not JSON"),
    "column": (
        nli_json().json_lines,
        '{"gold_label": "neutral", "sentence1": "a"}\n',
        1,
        "sentence2: missing",
    ),
    "text": (
        nli_json().json_lines,
        '{"gold_label": "neutral", "sentence1": 1, "sentence2": ""}\n',
        1,
        "sentence1: expected text, got 1",
    ),
    "label": (TSV.tsv, "a\tb\tlabel\nx\ty\tmaybe\n", 2, "unknown label 'maybe'"),
    "count": (TSV.tsv, "a\tb\tlabel\nx\ty\tneutral\nx\ty\n", 3, "2 columns, expected 3"),
    "headless count": (TSV.headless_tsv, "x\ty\tneutral\textra\n", 1, "4 columns, expected 3"),
    "letters": (
        read_commonsense_json,
        CSQA.replace('"label": "E"', '"label": "F"'),
        1,
        "choices.label: letters A, B, C, D, F",
    ),
    "question": (
        read_commonsense_json,
        '{"answerKey": "A", "question": "Where?"}\n',
        1,
        "question: expected an object",
    ),
    "answer": (read_commonsense_json, CSQA.replace('"answerKey": "B"', '"answerKey": ""'), 1, "unknown label ''"),
    "xcopa": (
        read_xcopa,
        '{"premise": "", "choice1": "", "choice2": "", "question": "why", "label": 0}\n',
        1,
        "unknown question 'why'",
    ),
    "xml": (read_copa_xml, COPA.replace("</a2></item>", "</item>", 1), 4, "not well-formed"),
    "item": (read_copa_xml, COPA.replace("<a1>It is late.</a1>", ""), 4, "the item lacks a1"),
    "item id": (read_copa_xml, COPA.replace('id="2"', 'id="two"'), 5, "item id 'two' is not a number"),
    "alternative": (
        read_copa_xml,
        COPA.replace('alternative="2"', 'alternative="3"'),
        4,
        "most-plausible-alternative is '3'",
    ),
    "conllu columns": (read_upos, "1\tShe\t_\tPRON\n", 1, "4 columns, expected the 10 of CoNLL-U"),
    "conllu id": (read_upos, conllu("x She PRON PRP 0 _"), 1, "'x' is neither"),
    "conllu order": (read_upos, conllu("1 She PRON PRP 0 _", "3 go VERB VB 1 _"), 2, "word 3 follows word 1"),
    "conllu range": (read_upos, conllu("1-2 du _ _ _ _", "1 de ADP _ 0 _"), 1, "no words for token 1-2"),
    "conllu head": (read_upos, conllu("1 She PRON PRP _ _"), 1, "head '_' is not a number"),
    "conllu far head": (read_upos, conllu("1 She PRON PRP 9 _"), 1, "head 9 in a sentence of 1 words"),
    "conllu tag": (read_upos, "# c\n" + conllu("1 She PRN PRP 0 _"), 2, "unknown label 'PRN'"),
    "iob2 columns": (read_iob2, "1\tOslo\tB-LOC\n", 1, "3 columns, expected 5"),
    "iob2 tag": (read_iob2, "1\tOslo\tB-GPE\t-\t-\n", 1, "unknown label 'B-GPE'"),
    "panx columns": (read_panx, "en:Ann\tB-PER\nen:Lee\n", 2, "1 columns, expected 2"),
    "panx language": (read_panx, "Ann\tB-PER\n", 1, "no language before the word: 'Ann'"),
    "ccg line": (lambda path: list(derivations(path.parent)), "ID=1 x\nnot a derivation\n", 2, "neither an ID line"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_fault_is_named_with_file_and_line(fault: str, write: Write) -> None:
    read, content, line, rule = BAD[fault]
    path = write("bad.auto", content)
    with pytest.raises(DataError) as raised:
        read(path)
    message = str(raised.value)
    assert message.startswith(f"{path}:{line}: ")
    assert rule in message


def test_faults_of_two_files_and_of_folders(write: Write, tmp_path: Path) -> None:
    texts, labels = write("train.jsonl", "{}\n{}\n"), write("train-labels.lst", "1\n")
    with pytest.raises(DataError, match=f"{labels}:1: ends here, while {texts} has 2 lines"):
        list(labelled_json_lines(texts, labels))
    (tmp_path / "02").mkdir()
    with pytest.raises(DataError, match=r"02: no \.auto file"):
        list(derivations(tmp_path / "02"))
    with pytest.raises(DataError, match=r"nowhere\.tsv: No such file"):
        TSV.tsv(tmp_path / "nowhere.tsv")


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ({"tokens": ["a"]}, "ner_tags: missing; there are tokens"),
        ({"tokens": "a", "ner_tags": [0]}, "tokens: expected a list of texts, got 'a'"),
        ({"tokens": ["a"], "ner_tags": [0, 0]}, "2 tags for 1 words"),
        ({"tokens": ["a"], "ner_tags": [7]}, "unknown label 7"),
    ],
)
def test_a_fault_in_a_row_of_the_hub(row: dict[str, object], rule: str) -> None:
    with pytest.raises(DataError, match=f"hub:5: .*{rule}"):
        read_tag_rows([(5, row)], "hub", tags="ner_tags", labels=NER_LABELS)


def test_too_few_alternatives() -> None:
    row = {"ctx": "She sits.", "endings": ["a", "b"], "label": 0}
    with pytest.raises(DataError, match="hub:3: 2 alternatives, expected 4"):
        read_hellaswag([(3, row)], "hub")
