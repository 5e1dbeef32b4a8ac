"""The files of every published task: a method for each format, and a call for each file or family of files."""

from __future__ import annotations

import csv
import itertools
import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.support.mini_root.languages import SEED, InventedLanguage, Passage
from trainables.data.formats.pairs import NLI_LABELS
from trainables.data.formats.tagged import NER_LABELS
from trainables.tasks.english.commonsense_qa import LETTERS
from trainables.tasks.english.squad import XQUAD_ENGLISH
from trainables.tasks.offline.ewt_xpos import XPOS
from trainables.tasks.offline.uner import ENGLISH_DEV, TESTS
from trainables.tasks.unlabelled.masked_lm import MaskedLm
from trainables.tasks.xtreme.bucc import Bucc
from trainables.tasks.xtreme.lareqa import Lareqa
from trainables.tasks.xtreme.mewslix import MewsliX
from trainables.tasks.xtreme.mlqa import Mlqa
from trainables.tasks.xtreme.panx import PanX
from trainables.tasks.xtreme.pawsx import PawsX
from trainables.tasks.xtreme.tatoeba import XTREME_R_LANGUAGES
from trainables.tasks.xtreme.tydiqa import TyDiQA
from trainables.tasks.xtreme.udpos import UPOS, Udpos
from trainables.tasks.xtreme.xcopa import TRAIN_ITEMS, Xcopa
from trainables.tasks.xtreme.xnli import Xnli
from trainables.tasks.xtreme.xquad import XQuAD

T = TypeVar("T")
TRAIN, TEST = 36, 10  # rows of a file
HELD_OUT_FROM = 40  # rows of a file that a stand-in holds a tenth out of
HELD_OUT_FAMILIES = 190  # of three rows: CAD and SNLI hold out 500 rows, and some must be left for training
DOCUMENTS = 70  # of five sentences: Universal NER holds out 300
ARTICLES = 60  # a tenth is held out as dev


class MiniRoot:
    """Writes the files under `root`. The order of the calls matters: all draw from one generator."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rng = random.Random(SEED)
        self.invented_languages: dict[str, InventedLanguage] = {}

    def invented(self, language: str) -> InventedLanguage:
        return self.invented_languages.setdefault(language, InventedLanguage(language))

    @property
    def english(self) -> InventedLanguage:
        return self.invented("en")

    def lines(self, path: str, lines: Iterable[str]) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")

    def json_lines(self, path: str, rows: Iterable[Mapping[str, Any]]) -> None:
        self.lines(path, (json.dumps(row, ensure_ascii=False) for row in rows))

    def table(self, path: str, rows: Iterable[Sequence[object]], *header: str) -> None:
        self.lines(path, ("\t".join(map(str, row)) for row in ((header,) if header else ()) + tuple(rows)))

    def pick(self, choices: Sequence[T]) -> T:
        return self.rng.choice(choices)

    # Pairs of texts.

    def pairs(self, language: str, count: int, labels: Sequence[T]) -> list[tuple[str, str, T]]:
        invented = self.invented(language)
        return [(invented.sentence(), invented.sentence(), self.pick(labels)) for _ in range(count)]

    def families(self, count: int) -> list[tuple[str, str, str]]:
        """Three hypotheses for each premise, one of each label."""
        premises = [self.english.sentence() for _ in range(count)]
        return [(premise, self.english.sentence(), label) for premise in premises for label in NLI_LABELS]

    def nli_json(self, path: str, rows: Iterable[tuple[str, str, str]]) -> None:
        self.json_lines(path, ({"gold_label": label, "sentence1": a, "sentence2": b} for a, b, label in rows))

    def inference(self) -> None:
        for path, count in (("mnli/multinli_1.0_train", TRAIN), ("mnli/multinli_1.0_dev_matched", TEST)):
            self.nli_json(f"{path}.jsonl", self.pairs("en", count, NLI_LABELS))
        snli = self.families(HELD_OUT_FAMILIES)
        self.nli_json("snli/snli_1.0_train.jsonl", self.pairs("en", TRAIN, NLI_LABELS))
        self.nli_json("snli/snli_1.0_dev.jsonl", [*snli[:300], ("Not agreed.", "On this.", "-")])
        self.nli_json("snli/snli_1.0_test.jsonl", snli[300:])
        for name, (split, count) in itertools.product(("R1", "R2", "R3"), (("train", TRAIN), ("dev", TEST))):
            pairs = self.pairs("en", count, "enc")
            rows = ({"uid": str(n), "context": a, "hypothesis": b, "label": c} for n, (a, b, c) in enumerate(pairs))
            self.json_lines(f"anli/{name}/{split}.jsonl", rows)
        self.table("cad_nli/train.tsv", self.families(HELD_OUT_FAMILIES), "sentence1", "sentence2", "gold_label")
        for split, languages in (("dev", ("en",)), ("test", Xnli.official_languages)):
            for language in languages:
                self.table(f"xnli/{split}-{language}.tsv", self.pairs(language, TEST, NLI_LABELS))

    def paraphrases(self) -> None:
        for split, count in (("train", TRAIN), ("dev", TEST)):
            rows = [(n, 2 * n, 2 * n + 1, *pair) for n, pair in enumerate(self.pairs("en", count, "01"))]
            self.table(f"qqp/{split}.tsv", rows, "id", "qid1", "qid2", "question1", "question2", "is_duplicate")
        sizes = {"train": TRAIN, "dev_2k": TEST, "test_2k": TEST}
        for language, (file, count) in itertools.product(PawsX.official_languages, sizes.items()):
            if language == "en" or file == "test_2k":
                numbered = [(n, *pair) for n, pair in enumerate(self.pairs(language, count, "01"))]
                self.table(f"pawsx/{language}/{file}.tsv", numbered, "id", "sentence1", "sentence2", "label")

    # Alternatives.

    def choices(self) -> None:
        def sentences(count: int) -> list[str]:
            return [self.english.sentence() for _ in range(count)]

        for file, count in (("train", TRAIN), ("val", HELD_OUT_FROM)):
            rows: list[dict[str, Any]] = [
                {"ctx": sentences(1)[0], "endings": sentences(4), "label": self.pick(range(4))} for _ in range(count)
            ]
            self.json_lines(f"hellaswag/hellaswag_{file}.jsonl", rows)
        for file, count in (("train", TRAIN), ("valid", HELD_OUT_FROM)):
            path = self.root / f"cosmos_qa/{file}.csv"
            path.parent.mkdir(exist_ok=True)
            with open(path, "w", encoding="utf-8", newline="") as stream:
                writer = csv.writer(stream, lineterminator="\n")
                writer.writerow(["id", "context", "question", *(f"answer{n}" for n in range(4)), "label"])
                for number in range(count):
                    context = "\n".join(sentences(2)) + ' "Said, and done."'  # a line break and quotes in one field
                    writer.writerow([number, context, *sentences(5), self.pick(range(4))])
        for split, count in (("train", TRAIN), ("dev", TEST)):
            rows = []
            for number in range(count):
                listed = [{"label": letter, "text": self.english.word()} for letter in LETTERS]
                question = {"stem": f"{sentences(1)[0]}?", "choices": listed}
                rows.append({"id": str(number), "question": question, "answerKey": self.pick(LETTERS)})
            self.json_lines(f"commonsense_qa/{split}_rand_split.jsonl", rows)
            names = ("context", "question", "answerA", "answerB", "answerC")
            self.json_lines(f"siqa/{split}.jsonl", (dict(zip(names, sentences(5), strict=True)) for _ in range(count)))
            self.lines(f"siqa/{split}-labels.lst", (self.pick("123") for _ in range(count)))
        self.copa("copa/copa-dev.xml", [*range(1, TRAIN), *range(TRAIN_ITEMS, TRAIN_ITEMS + TEST)])
        for language in Xcopa.official_languages:
            invented = self.invented(language)
            rows = [
                {
                    **{part: invented.sentence() for part in ("premise", "choice1", "choice2")},
                    "question": self.pick(("cause", "effect")),
                    "label": self.pick(range(2)),
                    "idx": number,
                    "changed": False,
                }
                for number in range(TEST)
            ]
            self.json_lines(f"xcopa/{language}/test.{language}.jsonl", rows)

    def copa(self, path: str, numbers: Sequence[int]) -> None:
        items = [
            line
            for number in numbers
            for line in (
                f'  <item id="{number}" asks-for="{self.pick(("cause", "effect"))}"'
                f' most-plausible-alternative="{self.pick("12")}">',
                *(f"    <{part}>{self.english.sentence()}</{part}>" for part in ("p", "a1", "a2")),
                "  </item>",
            )
        ]
        self.lines(path, ['<?xml version="1.0" encoding="UTF-8"?>', "<copa-corpus>", *items, "</copa-corpus>"])

    # Words with tags.

    def names(self, count: int) -> list[str]:
        """IOB2 tags of a name of one to three words among other words."""
        tags = ["O"] * count
        kind, length = self.pick(("PER", "ORG", "LOC")), self.pick((1, 2, 3))
        start = self.pick(range(count - length + 1))
        tags[start : start + length] = [f"B-{kind}", *[f"I-{kind}"] * (length - 1)]
        assert set(tags) <= set(NER_LABELS)
        return tags

    def tagged(
        self, path: str, language: str, count: int, tags: Callable[[int], list[Any]], line: Callable[..., str]
    ) -> None:
        """Sentences with one word a line, each under a comment with its id; five make a document."""
        lines = []
        for number in range(count):
            words = self.invented(language).words(self.pick(range(4, 9)))
            lines.append(f"# sent_id = {Path(path).stem}{number // 5}-{number % 5:04}")
            lines += [line(n, word, tag) for n, (word, tag) in enumerate(zip(words, tags(len(words)), strict=True), 1)]
            lines.append("")
        self.lines(path, lines)

    def tagging(self) -> None:
        for language in PanX.official_languages:

            def panx(number: int, word: str, tag: str, language: str = language) -> str:
                return f"{language}:{word}\t{tag}"

            for split, count in (("train", TRAIN), ("dev", TEST), ("test", TEST)):
                if language == "en" or split == "test":
                    self.tagged(f"panx/{language}/{split}", language, count, self.names, panx)

        def iob2(number: int, word: str, tag: str) -> str:
            return f"{number}\t{word}\t{tag}\t-\t-"

        self.tagged(ENGLISH_DEV, "en", 5 * DOCUMENTS, self.names, iob2)
        for language, paths in TESTS.items():
            for path in paths:
                self.tagged(path, language, TEST, self.names, iob2)

        def conllu(number: int, word: str, tag: tuple[str, str]) -> str:
            return f"{number}\t{word}\t_\t{tag[0]}\t{tag[1]}\t_\t{number - 1}\t_\t_\t_"

        def parts_of_speech(count: int) -> list[tuple[str, str]]:
            return [(self.pick(UPOS), self.pick(XPOS)) for _ in range(count)]

        for language in Udpos.official_languages:
            self.tagged(f"ud/UD_Mini/{language}_mini-ud-test.conllu", language, TEST, parts_of_speech, conllu)
        for split, count in (("train", 3 * TRAIN), ("dev", TEST), ("test", TEST)):
            path = f"ud/UD_English-EWT/en_ewt-ud-{split}.conllu"
            self.tagged(path, "en", count, parts_of_speech, conllu)
        categories = ("N", "NP/N", "(S[dcl]\\NP)/NP", "NP", "(NP\\NP)/NP", ".")
        for section in range(22):
            derivations = []
            for number in range(2 if section else TEST):
                leaves = " ".join(
                    f"(<L {self.pick(categories)} X X {word} X>)" for word in self.english.words(self.pick((4, 7)))
                )
                derivations += [f"ID=wsj_{section:02}01.{number} PARSER=GOLD NUMPARSE=1", f"(<T S 0 2> {leaves} )"]
            self.lines(f"ccgbank/data/AUTO/{section:02}/wsj_{section:02}01.auto", derivations)

    # Questions on paragraphs.

    def paragraph(
        self, language: str, ids: Sequence[str], *, breaks: bool = False, answered: int = 2
    ) -> dict[str, Any]:
        """A passage with a question for each id; the first `answered` have an answer of one to three words."""
        invented = self.invented(language)
        passage = invented.passage(3)
        questions = []
        for number, name in enumerate(ids):
            words = self.pick(passage.words)
            first = self.pick(range(len(words)))
            start, end = words[first][0], words[min(first + self.pick(range(3)), len(words) - 1)][1]
            answers = [{"text": passage.text[start:end], "answer_start": start}] if number < answered else []
            questions.append({"id": name, "question": f"{invented.sentence()}?", "answers": answers})
        paragraph: dict[str, Any] = {"context": passage.text, "qas": questions}
        if breaks:
            paragraph["sentence_breaks"] = [list(span) for span in passage.sentences]
            paragraph["sentences"] = [passage.text[slice(*span)] for span in passage.sentences]
        return paragraph

    def squad(self, path: str, articles: Iterable[Sequence[Mapping[str, Any]]], title: str = "") -> None:
        data = [
            {"title": f"{title or Path(path).stem} {number}", "paragraphs": paragraphs}
            for number, paragraphs in enumerate(articles)
        ]
        self.lines(path, [json.dumps({"version": "1.1", "data": data}, ensure_ascii=False)])

    def articles(self, name: str, language: str, count: int, answered: int = 2) -> list[list[dict[str, Any]]]:
        return [[self.paragraph(language, [f"{name}-{n}-a", f"{name}-{n}-b"], answered=answered)] for n in range(count)]

    def questions(self) -> None:
        translated: list[dict[str, Any]] = []  # XQuAD's English paragraphs, which are in SQuAD's dev set too
        for language in XQuAD.official_languages:
            paragraphs = [self.paragraph(language, [f"x{n}-a", f"x{n}-b"], breaks=True) for n in range(TEST // 2)]
            plain = [{name: paragraph[name] for name in ("context", "qas")} for paragraph in paragraphs]
            self.squad(f"xquad/xquad.{language}.json", [plain], "XQuAD")
            if f"xquad/xquad.{language}.json" == XQUAD_ENGLISH:
                translated = plain
            if language in Lareqa.official_languages:
                self.squad(f"xquad_r/{language}.json", [paragraphs], "XQuAD")
        for version, answered in (("v1.1", 2), ("v2.0", 1)):
            self.squad(f"squad/train-{version}.json", self.articles("train", "en", ARTICLES, answered))
            dev = self.articles(f"dev{version}", "en", TEST, answered)
            self.squad(f"squad/dev-{version}.json", [translated, *dev])
        for language in Mlqa.official_languages:
            self.squad(
                f"mlqa/test-context-{language}-question-{language}.json", self.articles("m", language, TEST // 2)
            )
        self.squad("tydiqa_goldp/tydiqa.en.train.json", self.articles("english-train", "en", ARTICLES))
        for language in TyDiQA.official_languages:
            path = f"tydiqa_goldp/tydiqa.{language}.dev.json"
            self.squad(path, self.articles(f"{language}-dev", language, TEST // 2))

    # Sentences and their translations; mentions and their entities.

    def bitext(self) -> None:
        for language, code in XTREME_R_LANGUAGES.items():
            for end, invented in ((code, self.invented(language)), ("eng", self.english)):
                self.lines(f"tatoeba/tatoeba.{code}-eng.{end}", (invented.sentence() for _ in range(TEST)))
        for language, split in itertools.product(Bucc.official_languages, ("dev", "test")):
            stem, count = f"bucc18/{language}-en.{split}", 2 * TEST
            for end in (language, "en"):
                rows = [(f"{end}-{n}", self.invented(end).sentence()) for n in range(count)]
                self.table(f"{stem}.{end}", rows)
            english = self.rng.sample(range(count), TEST)
            self.table(f"{stem}.gold", [(f"{language}-{2 * n}", f"en-{m}") for n, m in enumerate(english)])

    def mention(self, language: str, name: str, entity: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """A context, and a mention in it."""
        passage = self.invented(language).passage(2)
        start, end = self.pick(self.pick(passage.words))
        span = {"start": start, "end": end, "text": passage.text[start:end]}
        context = {"language": language, "text": passage.text, "sentence_spans": _spans(passage)}
        return context, {"example_id": name, "entity_id": entity, "mention_span": span}

    def entities(self) -> None:
        described = {}
        for number in range(6 * TEST):
            passage = self.invented(self.pick(MewsliX.official_languages)).passage(2)
            described[f"Q{number}"] = {"description": passage.text, "sentence_spans": _spans(passage)}
        rows = [{"entity_id": name, **entity} for name, entity in described.items()]
        self.json_lines("mewsli_x/candidate_set_entities.jsonl", rows)
        for split, count in (("train", TRAIN), ("dev", TEST)):
            pairs = []
            for number in range(count):
                passage = self.english.passage(2)
                context, mention = self.mention("en", f"{split}-{number}", f"{split}-Q{number}")
                entity = {"entity_id": mention["entity_id"], "description": passage.text}
                entity["sentence_spans"] = _spans(passage)
                pairs.append({"contextual_mention": {"context": context, "mention": mention}, "entity": entity})
            self.json_lines(f"mewsli_x/wikipedia_pairs-{split}.jsonl", pairs)
        articles = []
        for language, number in itertools.product(MewsliX.official_languages, range(TEST)):
            context, mention = self.mention(language, f"{language}-{number}", self.pick(list(described)))
            articles.append({"context": context, "mentions": [mention]})
        self.json_lines("mewsli_x/wikinews_mentions-test.jsonl", articles)

    def text(self) -> None:
        """A sentence a line."""
        for language in MaskedLm.official_languages:
            self.lines(f"text/{language}.txt", (self.invented(language).sentence() for _ in range(TRAIN)))


def _spans(passage: Passage) -> list[dict[str, int]]:
    return [{"start": start, "end": end} for start, end in passage.sentences]


def build(root: Path) -> None:
    """Write the files of all published tasks under `root`: 383 files, one megabyte together."""
    mini = MiniRoot(root)
    for part in (
        *(mini.inference, mini.paraphrases, mini.choices, mini.tagging),
        *(mini.questions, mini.bitext, mini.entities, mini.text),
    ):
        part()
