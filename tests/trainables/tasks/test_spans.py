"""Question answering and retrieval tasks, on the published files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.data import DATA_ROOT, needs_data
from trainables.data.examples import BitextExample, ReadResult, RetrievalPair, RetrievalText, SpanExample
from trainables.data.formats.ntrex import CODES, NtrexCorpus, pinned_corpus
from trainables.data.formats.sentences import sentence_spans
from trainables.data.formats.squad import paragraphs
from trainables.data.source import DATA_ROOT_VARIABLE, DataError
from trainables.store.fingerprint import fingerprint
from trainables.tasks.english.squad import XQUAD_ENGLISH, Squad
from trainables.tasks.english.squad2 import Squad2
from trainables.tasks.offline.lareqa_from_tydiqa import LareqaFromTyDiQA
from trainables.tasks.offline.xquad_from_tydiqa import XQuADFromTyDiQA
from trainables.tasks.pinning import pinned
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.xtreme.bucc import Bucc
from trainables.tasks.xtreme.lareqa import SENTENCES, Lareqa
from trainables.tasks.xtreme.mewslix import MewsliX
from trainables.tasks.xtreme.mlqa import Mlqa
from trainables.tasks.xtreme.tatoeba import XTREME_LANGUAGES, XTREME_R_LANGUAGES, Tatoeba
from trainables.tasks.xtreme.tydiqa import TyDiQA
from trainables.tasks.xtreme.xquad import XQuAD

XQUAD_HERE = tuple("ar de el en es ru tr zh".split())
TYDIQA_HERE = {"en": 440, "ar": 921, "ru": 812, "fi": 782, "id": 565}  # questions, as published
TATOEBA_HERE = tuple("af ar bg de el es et fi fr he hi id it ja ko nl pt ru sw tr".split())
ALL: tuple[type[PublishedTask], ...] = (
    Squad,
    Squad2,
    XQuAD,
    Mlqa,
    TyDiQA,
    Bucc,
    Tatoeba,
    MewsliX,
    Lareqa,
    XQuADFromTyDiQA,
    LareqaFromTyDiQA,
)


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(DATA_ROOT))


def spans_of(read: ReadResult) -> list[SpanExample]:
    examples = [example for example in read.examples if isinstance(example, SpanExample)]
    assert len(examples) == len(read.examples)
    assert all(example.context.startswith(text, start) for example in examples for text, start in example.answers)
    assert all(example.answers for example in examples)
    return examples


@pytest.mark.parametrize("cls", ALL)
def test_a_task_has_its_splits_and_refuses_others(cls: type[PublishedTask]) -> None:
    task = cls()
    for split, language in task.splits():
        assert task.source_of(split, language).files is not None
    for split, language in (("train", "de"), ("dev", "xx"), ("test", "xx")):
        with pytest.raises(ValueError, match=f"no {split} set in {language}"):
            task.source_of(split, language)
    assert 0.0 <= task.chance() < 100.0
    assert task.name == cls.name
    assert len(fingerprint(task)) == 12


@pytest.mark.parametrize("cls", [Squad, Squad2, Bucc, Tatoeba])
def test_tasks_without_training_or_scores_lack_that_split(cls: type[PublishedTask]) -> None:
    split = "train" if cls in (Bucc, Tatoeba) else "test"
    with pytest.raises(ValueError, match=f"no {split} set in en"):
        cls().source_of(split, "en")  # type: ignore[arg-type]


@needs_data
@pytest.mark.usefixtures("published")
def test_xquad_has_1190_parallel_questions_in_each_language() -> None:
    task = XQuAD(languages_=XQUAD_HERE)
    sets = {language: spans_of(task.read("test", language)) for language in XQUAD_HERE}
    assert all(len(examples) == 1190 for examples in sets.values())
    assert len({tuple(example.id for example in examples) for examples in sets.values()}) == 1
    assert all(task.read("test", language).rejected == () for language in XQUAD_HERE)


@needs_data
@pytest.mark.usefixtures("published")
def test_tydiqa_holds_articles_out_of_its_training_set() -> None:
    task = pinned(TyDiQA(languages_=tuple(TYDIQA_HERE)))
    train, dev = spans_of(task.read("train", "en")), spans_of(task.read("dev", "en"))
    assert len(train) + len(dev) == 3696
    assert 300 <= len(dev) <= 440
    assert not {example.id for example in train} & {example.id for example in dev}
    assert not {example.context for example in train} & {example.context for example in dev}
    scored = {language: spans_of(task.read("test", language)) for language in TYDIQA_HERE}
    assert {language: len(examples) for language, examples in scored.items()} == TYDIQA_HERE
    seen = {example.context for example in (*train, *dev)}
    assert not seen & {example.context for example in scored["en"]}
    assert all(task.read(split, language).rejected == () for split, language in task.splits())


@needs_data
@pytest.mark.usefixtures("published")
def test_xquad_from_tydiqa_trains_on_tydiqa_and_scores_xquad() -> None:
    task = pinned(XQuADFromTyDiQA(languages_=XQUAD_HERE, train_size=100))
    assert task.examples("dev", "en") == TyDiQA().examples("dev", "en")
    assert set(task.examples("train", "en")) < set(TyDiQA().examples("train", "en"))
    assert task.examples("test", "tr") == XQuAD().examples("test", "tr")


@needs_data
@pytest.mark.usefixtures("published")
def test_tatoeba_has_a_pair_for_each_line() -> None:
    task = pinned(Tatoeba(languages_=TATOEBA_HERE))
    for language in TATOEBA_HERE:
        read, code = task.read("test", language), XTREME_R_LANGUAGES[language]
        with open(DATA_ROOT / f"tatoeba/tatoeba.{code}-eng.{code}", "rb") as stream:
            assert len(read.examples) == sum(1 for _ in stream) == (390 if language == "sw" else 1000)
        assert all(isinstance(example, BitextExample) for example in read.examples)
        assert read.rejected == ()
    german = task.examples("test", "de")
    assert len({example.target for example in german if isinstance(example, BitextExample)}) > 990


def test_tatoebas_chance_is_that_of_its_sets() -> None:
    assert Tatoeba(languages_=("de", "sw")).chance() == pytest.approx((100 / 1000 + 100 / 390) / 2)
    assert Tatoeba(languages_=("de", "sw"), test_size=100).chance() == pytest.approx(1.0)
    assert fingerprint(Tatoeba(layer=7)) != fingerprint(Tatoeba())
    assert (Tatoeba(layer=7).hidden_layer, Tatoeba().hidden_layer) == (7, None)
    assert (len(XTREME_LANGUAGES), len(Tatoeba().languages)) == (36, 41)


@needs_data
@pytest.mark.usefixtures("published")
def test_lareqas_right_answers_are_candidates_in_every_language() -> None:
    task = pinned(LareqaFromTyDiQA(languages_=XQUAD_HERE))
    questions: list[RetrievalText] = []
    candidates: dict[str, RetrievalText] = {}
    for language in XQUAD_HERE:
        read = task.read("test", language)
        assert read.rejected == ()
        texts = [example for example in read.examples if isinstance(example, RetrievalText)]
        queries = [text for text in texts if text.gold is not None]
        sentences = {text.id: text for text in texts if text.gold is None}
        # The number of candidates is that of LAReQA's README: equal sentences are not merged.
        assert (len(queries), len(sentences)) == (1190, SENTENCES[language])
        assert all(text.context is not None and text.text in text.context for text in sentences.values())
        questions += queries
        candidates |= sentences
    assert len(candidates) == sum(SENTENCES[language] for language in XQUAD_HERE)
    assert all(name in candidates for question in questions for name in question.gold or ())
    assert all([name[:2] for name in question.gold or ()] == list(XQUAD_HERE) for question in questions)
    assert len({question.id for question in questions}) == 8 * 1190
    by_id = {question.id: question.gold for question in questions}
    assert all(by_id[f"de:{name[3:]}"] == by_id[name] for name in by_id)


@needs_data
@pytest.mark.usefixtures("published")
def test_lareqa_from_tydiqa_trains_on_sentences_that_hold_the_answer() -> None:
    task = LareqaFromTyDiQA(languages_=("en",))
    answers = {
        example.id: example.answers[0][0]
        for split in ("train", "dev")
        for example in spans_of(TyDiQA().read(split, "en"))
    }
    train, dev = ([e for e in task.examples(split, "en") if isinstance(e, RetrievalPair)] for split in ("train", "dev"))
    assert len(train) + len(dev) == 3696
    assert not {pair.context for pair in train} & {pair.context for pair in dev}
    whole = sum(answers[pair.id] in pair.answer for pair in train)
    assert whole / len(train) > 0.97  # an answer may extend into the next sentence, or the splitter may cut it


@needs_data
def test_english_sentences_are_split_much_as_lareqa_publishes_them() -> None:
    same = total = 0
    for paragraph in paragraphs(DATA_ROOT / "xquad_r/en.json"):
        for question in paragraph.questions:
            at = question.answers[0][1]
            ours, theirs = (
                next(((start, end) for start, end in sentences if start <= at < end), None)
                for sentences in (sentence_spans(paragraph.context), paragraph.sentences or ())
            )
            same, total = same + (ours == theirs), total + 1
    assert total == 1190
    assert same / total > 0.98


@needs_data
@pytest.mark.usefixtures("published")
def test_ntrex_has_1997_sentences_in_47_languages() -> None:
    corpus = pinned_corpus(NtrexCorpus())
    sentences = corpus.parallel()
    assert len(sentences) == 1997
    assert all(set(sentence) == {"en", *CODES} for sentence in sentences)
    assert len(CODES) == 46
    assert corpus.data != pinned_corpus(NtrexCorpus(("de",))).data
    assert len(fingerprint(corpus)) == 12


def paragraph(context: str, *ids: str) -> dict[str, Any]:
    answers = [{"text": context[:3], "answer_start": 0}]
    return {"context": context, "qas": [{"id": id, "question": f"{id}?", "answers": answers} for id in ids]}


def write_squad(path: Path, articles: dict[str, list[dict[str, Any]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    listed = [{"title": title, "paragraphs": paragraphs} for title, paragraphs in articles.items()]
    path.write_text(json.dumps({"version": "1.1", "data": listed}))


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SQuAD with twenty articles for training, and a dev set of which XQuAD translates the first paragraph."""
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    articles = {f"title {n}": [paragraph(f"Text {n}. More of it.", f"t{n}")] for n in range(40)}
    dev = {"A": [paragraph("Kept no more.", "a", "b"), paragraph("Kept here.", "c"), paragraph("Other text", "d", "e")]}
    for version in ("v1.1", "v2.0"):
        write_squad(tmp_path / f"squad/train-{version}.json", articles)
        write_squad(tmp_path / f"squad/dev-{version}.json", dev)
    write_squad(tmp_path / XQUAD_ENGLISH, {"A": [paragraph("Kept no more.", "a"), paragraph("Other  text", "e")]})
    return tmp_path


@pytest.mark.parametrize("cls", [Squad, Squad2, XQuAD, Mlqa])
def test_squads_dev_set_has_none_of_xquads_paragraphs(small: Path, cls: type[PublishedTask]) -> None:
    task = cls()
    assert len(task.examples("train", "en")) == 40
    assert [example.id for example in task.examples("dev", "en")] == ["c"]
    (small / XQUAD_ENGLISH).unlink()
    assert any(XQUAD_ENGLISH in line for line in task.missing(small))


def test_on_the_hub_too_xquads_paragraphs_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)

    def rows(*contexts: str) -> list[dict[str, Any]]:
        answers = {"text": ["K"], "answer_start": [0]}
        return [{"id": f"{c}?", "context": c, "question": "?", "answers": answers} for c in contexts]

    tables = {"rajpurkar/squad": rows("Kept no more.", "Kept here."), "google/xquad": rows("Kept no more.")}
    monkeypatch.setattr("datasets.load_dataset", lambda name, config, *, split, revision: tables[name])
    assert [example.id for example in XQuAD(data="hub").examples("dev", "en")] == ["Kept here.?"]


def test_tydiqas_table_on_the_hub_is_split_by_language_and_article(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    answers = {"text": ["T"], "answer_start": [0]}
    table = [
        {"id": f"{language}-{n}", "title": f"t{n}", "context": "Text", "question": "?", "answers": answers}
        for language in ("english", "finnish")
        for n in range(200)
    ]
    monkeypatch.setattr("datasets.load_dataset", lambda name, config, *, split, revision: table)
    task = TyDiQA(data="hub")
    train, dev = (task.examples(split, "en") for split in ("train", "dev"))
    assert (len(train) + len(dev), len(task.examples("test", "fi"))) == (200, 200)
    assert 5 <= len(dev) <= 40
    assert all(example.id.startswith("english-") for example in (*train, *dev))


def test_lareqa_trains_on_squad_and_leaves_xquads_paragraphs_out_of_dev(small: Path) -> None:
    train, dev = (Lareqa().examples(split, "en") for split in ("train", "dev"))
    assert len(train) == 40
    assert [example.id for example in dev] == ["c"]
    assert train[0] == RetrievalPair("t0", "t0?", "Text 0.", "Text 0. More of it.")


def test_lareqas_pool_is_that_of_its_languages() -> None:
    with pytest.raises(ValueError, match="de is not a language of this instance, en"):
        Lareqa(languages_=("en",)).source_of("test", "de")


def test_chance_of_lareqa_falls_with_its_pool() -> None:
    thai, all_languages = Lareqa(languages_=("th",)), Lareqa()
    # One right answer at a random rank among 852: (1 + 1/2 + ... + 1/20) / 852.
    assert thai.chance() == pytest.approx(100 * 3.59774 / 852, rel=1e-5)
    assert all_languages.chance() < 0.1


def test_tasks_that_are_not_on_the_hub_need_a_data_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    for task in (Bucc(), MewsliX(), Lareqa()):
        with pytest.raises(DataError, match="not all on the hub, and no data root is given"):
            pinned(task)


def test_bucc_reads_dev_and_test_of_each_language(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    (tmp_path / "bucc18").mkdir()
    for split in ("dev", "test"):
        for end, text in (("de", "de-1\tJa.\n"), ("en", "en-1\tYes.\n"), ("gold", "de-1\ten-1\n")):
            (tmp_path / f"bucc18/de-en.{split}.{end}").write_text(text)
    task = pinned(Bucc(languages_=("de",)))
    assert task.splits() == [("dev", "de"), ("test", "de")]
    assert task.examples("test", "de") == (RetrievalText("de-1", "Ja.", gold=("en-1",)), RetrievalText("en-1", "Yes."))


def test_mewsli_reads_pairs_queries_and_its_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    (tmp_path / "mewsli_x").mkdir()
    sentence = [{"start": 0, "end": 6}]
    context = {"language": "uk", "text": "Ada S.", "sentence_spans": sentence}
    mention = {"example_id": "m", "entity_id": "Q1", "mention_span": {"start": 0, "end": 3, "text": "Ada"}}
    entity = {"entity_id": "Q1", "description": "Ada S.", "sentence_spans": sentence}
    rows = {
        "wikipedia_pairs-train": {"contextual_mention": {"context": context, "mention": mention}, "entity": entity},
        "wikipedia_pairs-dev": {"contextual_mention": {"context": context, "mention": mention}, "entity": entity},
        "wikinews_mentions-test": {"context": context, "mentions": [mention]},
        "candidate_set_entities": entity,
    }
    for name, row in rows.items():
        (tmp_path / f"mewsli_x/{name}.jsonl").write_text(json.dumps(row) + "\n")
    task = pinned(MewsliX(languages_=("uk",)))
    assert task.examples("dev", "en") == (RetrievalPair("m", "Ada: { Ada } S.", "Ada S."),)
    assert task.examples("test", "uk") == (RetrievalText("m", "Ada: { Ada } S.", gold=("Q1",)),)
    assert task.examples("test", "entities") == (RetrievalText("Q1", "Ada S."),)
