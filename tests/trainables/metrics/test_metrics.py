"""Scores against seqeval, scikit-learn, worked examples, the output of official scripts, and second implementations."""

from __future__ import annotations

import itertools
import random
import re
import string
import unicodedata
import warnings
from collections.abc import Callable, Sequence

import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from sklearn.metrics import accuracy_score, average_precision_score
from sklearn.metrics import f1_score as binary_f1_score

from trainables.metrics import METRICS, Counts, normalise_mlqa, normalise_squad

MLQA_LANGUAGES = ("ar", "de", "en", "es", "hi", "vi", "zh")
UD_TAGS = "ADJ ADP ADV AUX CCONJ DET INTJ NOUN NUM PART PRON PROPN PUNCT SCONJ SYM VERB X".split()
MLQA_ARTICLES = {
    "de": "ein eine einen einem eines einer der die das den dem des".split(),
    "en": "a an the".split(),
    "es": "un una unos unas el la los las".split(),
    "vi": "của là cái chiếc những".split(),
}
WORDS = [
    *(
        "the An a Cat cat. DOG sat, el La los unos der Die einen des của là những Cái l'una x_y Straße ﬁ İstanbul".split()
    ),
    *("ال البيت والكتاب مدرسة، سؤال؟ القاهرة ٢٠٠٨".split()),
    *("東京 北京市 2008年 《红楼梦》 。 ， 、 ABC公司 㐀 𠮷".split()),
    *("ข้าว ผัด กรุงเทพฯ नई दिल्ली राजधानी। १९४७".split()),
    *("“x” — … ¿Qué? $5 e=mc^2 a°b 1,000 ` ~ ? ... !".split()),
    *("the\u0301", "\u00a0", "\u200b", "\t"),
]


def text(rng: random.Random) -> str:
    """Zero to five words of mixed scripts, sometimes without spaces."""
    return rng.choice([" ", " ", ""]).join(rng.choices(WORDS, k=rng.randrange(6)))


def questions(rng: random.Random, count: int, *, unanswerable: bool = False) -> tuple[list[str], list[tuple[str, ...]]]:
    """Predictions, often close to one of their one to three reference answers."""
    predicted, answers = [], []
    for _ in range(count):
        right = [text(rng) for _ in range(rng.randrange(1, 4))]
        near = rng.choice(right) + rng.choice(["", ".", " the", " 京", "x"])
        predicted.append(rng.choice([near, near, text(rng), ""]))
        answers.append(() if unanswerable and rng.random() < 0.3 else tuple(right))
    return predicted, answers


def sentences(rng: random.Random, count: int, tags: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    """Predicted and gold tags, drawn without regard to valid sequences."""
    gold = [[rng.choice(tags) for _ in range(rng.randrange(1, 12))] for _ in range(count)]
    predicted = [[tag if rng.random() < 0.7 else rng.choice(tags) for tag in sentence] for sentence in gold]
    return predicted, gold


def rankings(rng: random.Random, count: int) -> tuple[list[list[str]], list[list[str]]]:
    """Up to 40 ids with repetitions, 1 to 30 gold ids, in pools of up to 50."""
    predicted, gold = [], []
    for _ in range(count):
        pool = [f"c{index}" for index in range(rng.randrange(1, 50))]
        gold.append(rng.sample(pool, rng.randrange(1, min(len(pool), 30) + 1)))
        predicted.append(rng.choices(pool, k=rng.randrange(40)))
    return predicted, gold


def pairs(rng: random.Random, count: int) -> tuple[list[list[int]], list[list[int]]]:
    """For each source sentence the ids predicted and the gold ids, mostly none or one."""
    predicted, gold = ([rng.sample(range(5), rng.choice([0, 0, 1, 1, 2])) for _ in range(count)] for _ in range(2))
    return [right if rng.random() < 0.5 else wrong for right, wrong in zip(gold, predicted, strict=True)], gold


def labels(rng: random.Random, count: int) -> tuple[list[int], list[int]]:
    predicted, gold = ([rng.randrange(3) for _ in range(count)] for _ in range(2))
    return predicted, gold


SAMPLES: dict[str, Callable[[random.Random, int], tuple[Sequence[object], Sequence[object]]]] = {
    "accuracy": labels,
    "span_f1": lambda rng, count: sentences(rng, count, ["O", "B-place", "I-place", "B-date", "I-date"]),
    "f1_em": questions,
    "squad2_f1_em": lambda rng, count: questions(rng, count, unanswerable=True),
    "mlqa_f1_em": questions,
    "map_at_20": rankings,
    "mining_f1": pairs,
}


class TestEveryMetric:
    def test_has_a_sample(self) -> None:
        assert set(SAMPLES) == set(METRICS)

    @pytest.mark.parametrize("name", SAMPLES)
    @pytest.mark.parametrize("shards", [2, 7])
    def test_shards_merge_to_the_same_score(self, name: str, shards: int) -> None:
        metric = METRICS[name]
        predicted, gold = SAMPLES[name](random.Random(shards), 60)
        merged = sum((metric.total(predicted[rank::shards], gold[rank::shards]) for rank in range(shards)), Counts())
        assert metric.value(merged) == pytest.approx(metric.score(predicted, gold))
        assert metric.parts(merged) == pytest.approx(metric.parts(metric.total(predicted, gold)))
        assert 0 < metric.score(predicted, gold) < 100

    @pytest.mark.parametrize("name", SAMPLES)
    def test_nothing_to_score_and_unequal_lengths_are_errors(self, name: str) -> None:
        predicted, gold = SAMPLES[name](random.Random(0), 3)
        with pytest.raises(ValueError, match="no examples"):
            METRICS[name].score([], [])
        with pytest.raises(ValueError, match="zip"):
            METRICS[name].score(predicted[:2], gold)


@pytest.mark.parametrize(
    ("name", "predicted", "gold", "parts"),
    [
        ("accuracy", [1, 2], [1, 2], {}),
        ("span_f1", [["B-a", "I-a", "O"]], [["B-a", "I-a", "O"]], {"precision": 100.0, "recall": 100.0}),
        ("f1_em", ["cat", "東京"], [("dog", "Cat"), ("東京",)], {"f1": 100.0, "exact": 100.0}),
        ("squad2_f1_em", ["cat", ""], [("dog", "Cat"), ()], {"f1": 100.0, "exact": 100.0}),
        ("mlqa_f1_em", ["cat", "der Turm"], [("dog", "Cat"), ("der Turm",)], {"f1": 100.0, "exact": 100.0}),
        ("map_at_20", [["b", "a", "c"]], [["a", "b"]], {}),
        ("map_at_20", [list(range(40))], [list(range(30))], {}),  # 30 gold ids: 20 of them fill the ranking
        ("mining_f1", [["b", "a"], []], [["a", "b"], []], {"precision": 100.0, "recall": 100.0}),
    ],
)
def test_perfect_predictions_score_100(
    name: str, predicted: Sequence[object], gold: Sequence[object], parts: dict[str, float]
) -> None:
    metric = METRICS[name]
    assert metric.score(predicted, gold) == 100.0
    assert metric.parts(metric.total(predicted, gold)) == parts


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_is_scikit_learns(seed: int) -> None:
    predicted, gold = labels(random.Random(seed), 97)
    assert METRICS["accuracy"].score(predicted, gold) == pytest.approx(100 * accuracy_score(gold, predicted))


class TestSpans:
    @pytest.mark.parametrize("seed", range(6))
    def test_iob2_is_seqevals(self, seed: int) -> None:
        rng = random.Random(seed)
        gold = [iob2(rng) for _ in range(40)]
        tags = ("O", "B-place", "I-place", "B-date", "I-date")
        self.check([[tag if rng.random() < 0.8 else rng.choice(tags) for tag in sentence] for sentence in gold], gold)

    @pytest.mark.parametrize("seed", range(12))
    def test_any_order_of_tags_is_seqevals(self, seed: int) -> None:
        """Orders that no scheme allows, single-word and end tags, and types with a hyphen."""
        tags = ["O", "B-a", "I-a", "E-a", "S-a", "B-b", "I-b", "B-x-y", "I-x-y"]
        self.check(*sentences(random.Random(seed), 30, tags))

    def check(self, predicted: list[list[str]], gold: list[list[str]]) -> None:
        metric = METRICS["span_f1"]
        assert metric.score(predicted, gold) == pytest.approx(100 * f1_score(gold, predicted))
        assert metric.parts(metric.total(predicted, gold)) == pytest.approx(
            {"precision": 100 * precision_score(gold, predicted), "recall": 100 * recall_score(gold, predicted)}
        )

    @pytest.mark.parametrize("seed", range(8))
    def test_part_of_speech_tags_are_runs_of_equal_tags(self, seed: int) -> None:
        rng = random.Random(seed)
        predicted, gold = sentences(rng, 30, [*rng.sample(UD_TAGS, rng.randrange(2, 7)), "SCONJ", "CCONJ"])
        hits = sum(len(runs(tags) & runs(gold_tags)) for tags, gold_tags in zip(predicted, gold, strict=True))
        size = sum(len(runs(tags)) for tags in [*predicted, *gold])
        assert METRICS["span_f1"].score(predicted, gold) == pytest.approx(200 * hits / size)

    @pytest.mark.parametrize("seed", range(4))
    def test_part_of_speech_tags_that_seqeval_tells_apart_are_seqevals(self, seed: int) -> None:
        """Without SCONJ, which seqeval 1.x confuses with CCONJ, and X, whose type is empty without its first letter."""
        tags = [tag for tag in UD_TAGS if tag not in ("SCONJ", "X")]
        predicted, gold = sentences(random.Random(seed), 30, tags)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "NOUN seems not to be NE tag"
            assert METRICS["span_f1"].score(predicted, gold) == pytest.approx(100 * f1_score(gold, predicted))

    def test_conjunctions_of_both_kinds_differ(self) -> None:
        """seqeval 1.2.2 gives 1.0 here; 0.0.12, with which XTREME's mock UDPOS score of 70.2 comes out, gives 0.5."""
        assert METRICS["span_f1"].score([["NOUN", "SCONJ"]], [["NOUN", "CCONJ"]]) == 50.0

    def test_without_any_entity_everything_is_zero(self) -> None:
        metric = METRICS["span_f1"]
        assert metric.score([["O", "O"]], [["O", "O"]]) == 0.0
        assert metric.parts(metric.total([["O", "O"]], [["O", "O"]])) == {"precision": 0.0, "recall": 0.0}

    def test_sentences_do_not_run_into_each_other(self) -> None:
        assert METRICS["span_f1"].score([["B-a"], ["I-a"]], [["B-a"], ["I-a"]]) == 100.0
        assert METRICS["span_f1"].total([["B-a"], ["I-a"]], [["B-a"], ["O"]]).sums["predicted"] == 2

    def test_a_sentence_with_too_few_tags_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="1 tags predicted for a sentence of 2 words"):
            METRICS["span_f1"].count(["O"], ["O", "O"])


def iob2(rng: random.Random) -> list[str]:
    tags: list[str] = []
    for _ in range(rng.randrange(1, 12)):
        before = tags[-1] if tags else "O"
        inside = [f"I-{before[2:]}"] if before != "O" else []
        tags.append(rng.choice(["O", "B-place", "B-date", *inside]))
    return tags


def runs(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Runs of equal tags; tags in S stand alone, since seqeval reads "S" as "single"."""
    spans, start = set(), 0
    for tag, group in itertools.groupby(tags):
        length = len(list(group))
        step = 1 if tag.startswith("S") else length
        spans |= {(tag, begin, begin + step) for begin in range(start, start + length, step)}
        start += length
    return spans


class TestAnswers:
    @pytest.mark.parametrize(
        ("predicted", "answers", "f1", "exact"),
        [
            ("the cat", ("Cat.",), 1.0, 1.0),  # article, case and full stop do not count
            ("a big cat", ("big dog",), 0.5, 0.0),  # tokens: {big, cat} and {big, dog}: precision and recall 1/2
            ("cat cat", ("cat",), 2 / 3, 0.0),  # a token counts as often as in both: precision 1/2, recall 1
            ("", ("cat",), 0.0, 0.0),
            ("New York", ("York", "New York City"), 0.8, 0.0),  # the better of 2/3 and 2 * 2 / (2 + 3)
            ("St. John's", ("st johns",), 1.0, 1.0),
            ("theatre", ("atre",), 0.0, 0.0),  # articles go as words only
            ("東京", ("東京",), 1.0, 1.0),
            # From here on as XTREME's evaluate_squad.py prints them: English articles, ASCII punctuation, white space only.
            ("北京市", ("北京",), 0.0, 0.0),
            ("ข้าวผัด", ("ข้าว ผัด",), 0.0, 0.0),
            ("राजधानी।", ("राजधानी",), 0.0, 0.0),
            ("الكتاب", ("كتاب",), 0.0, 0.0),
            ("“cat”", ("cat",), 0.0, 0.0),
            ("der Turm", ("Turm",), 2 / 3, 0.0),
            ("?!", ("...",), 0.0, 1.0),  # both normalise to nothing: equal, but with no token in common
        ],
    )
    def test_squad_by_hand(self, predicted: str, answers: tuple[str, ...], f1: float, exact: float) -> None:
        assert_answer("f1_em", predicted, answers, "en", f1=f1, exact=exact)

    @pytest.mark.parametrize(
        ("predicted", "answers", "score"),
        [
            ("", (), 1.0),
            ("cat", (), 0.0),
            ("", ("cat",), 0.0),
            # As SQuAD's evaluate-v2.0.py has it: what counts is the normalised text.
            ("the", (), 1.0),
            ("?", (), 1.0),
            ("", ("The", "?!"), 1.0),
            ("cat", ("The", "a cat"), 1.0),
            ("", ("The", "a cat"), 0.0),
        ],
    )
    def test_unanswerable_questions(self, predicted: str, answers: tuple[str, ...], score: float) -> None:
        assert_answer("squad2_f1_em", predicted, answers, "en", f1=score, exact=score)

    @pytest.mark.parametrize(
        ("language", "predicted", "answers", "f1", "exact"),
        [  # as mlqa_evaluation_v1.py prints them
            ("en", "the Eiffel Tower", ("Eiffel tower!",), 1.0, 1.0),
            ("en", "“Tower”", ("tower",), 1.0, 1.0),  # Unicode punctuation, unlike SQuAD's
            ("en", "$5", ("5",), 1.0, 1.0),  # "$" is a symbol to Unicode and punctuation to ASCII
            ("es", "Las Palmas", ("palmas",), 1.0, 1.0),
            ("es", "the palm", ("palm",), 2 / 3, 0.0),  # English articles are words in Spanish
            ("de", "der Eiffelturm", ("Eiffelturm",), 1.0, 1.0),
            ("de", "in dem Haus", ("Haus",), 2 / 3, 0.0),
            ("vi", "thủ đô của Việt Nam", ("thủ đô Việt Nam",), 1.0, 1.0),
            ("hi", "राजधानी।", ("राजधानी",), 1.0, 1.0),
            ("hi", "नई दिल्ली", ("दिल्ली",), 2 / 3, 0.0),
            ("ar", "الكتاب", ("كتاب",), 1.0, 1.0),
            ("ar", "والبيت", ("بيت",), 2 / 3, 0.0),  # the article goes inside a word too, and leaves a space
            ("ar", "سؤال", ("سؤ",), 1.0, 1.0),  # even where these two letters are no article
            ("ar", "مدرسة،", ("مدرسة",), 1.0, 1.0),
            ("zh", "北京市", ("北京",), 0.8, 0.0),
            ("zh", "2008年8月", ("2008年",), 2 / 3, 0.0),  # tokens 2008, 年, 8, 月
            ("zh", "《红楼梦》", ("红楼梦",), 1.0, 1.0),
            ("zh", "ABC公司", ("abc 公司",), 1.0, 1.0),
            ("zh", "a cat", ("cat",), 2 / 3, 0.0),
            ("zh", "北京", ("南京", "东京"), 0.5, 0.0),
            ("zh", "ข้าวผัด", ("ข้าวผัด",), 1.0, 1.0),
            ("zh", "。", ("，",), 0.0, 1.0),
            ("en", "?!", ("...",), 0.0, 1.0),
            ("en", "", ("cat",), 0.0, 0.0),
        ],
    )
    def test_mlqa_as_its_script_prints(
        self, language: str, predicted: str, answers: tuple[str, ...], f1: float, exact: float
    ) -> None:
        assert_answer("mlqa_f1_em", predicted, answers, language, f1=f1, exact=exact)

    @pytest.mark.parametrize("seed", range(4))
    def test_squad_against_the_definition(self, seed: int) -> None:
        predicted, answers = questions(random.Random(seed), 150)
        for prediction, right in zip(predicted, answers, strict=True):
            f1, exact = definition(squad_tokens(prediction), [squad_tokens(answer) for answer in right])
            assert_answer("f1_em", prediction, right, "en", f1=f1, exact=exact)

    @pytest.mark.parametrize("seed", range(4))
    def test_squad2_against_the_definition(self, seed: int) -> None:
        predicted, answers = questions(random.Random(seed), 150, unanswerable=True)
        for prediction, right in zip(predicted, answers, strict=True):
            kept = [tokens for answer in right if (tokens := squad_tokens(answer))]
            f1, exact = (
                definition(squad_tokens(prediction), kept) if kept else (float(not squad_tokens(prediction)),) * 2
            )
            assert_answer("squad2_f1_em", prediction, right, "en", f1=f1, exact=exact)

    @pytest.mark.parametrize("language", MLQA_LANGUAGES)
    def test_mlqa_against_the_definition(self, language: str) -> None:
        predicted, answers = questions(random.Random(language), 400)
        for prediction, right in zip(predicted, answers, strict=True):
            f1, exact = definition(
                mlqa_tokens(prediction, language), [mlqa_tokens(answer, language) for answer in right]
            )
            assert_answer("mlqa_f1_em", prediction, right, language, f1=f1, exact=exact)

    @pytest.mark.parametrize("language", MLQA_LANGUAGES)
    def test_mlqa_drops_the_articles_of_its_language_alone(self, language: str) -> None:
        for article in itertools.chain(*MLQA_ARTICLES.values()):
            own = article in MLQA_ARTICLES.get(language, [])
            assert normalise_mlqa(f"x {article} y{article}", language) == f"x {'' if own else article + ' '}y{article}"

    def test_mlqa_splits_the_basic_han_characters_of_unicode_1(self) -> None:
        """The script's range is U+4E00 to U+9FA5: what lies beside it, or was added later, stays in a word."""
        assert normalise_mlqa("㐀㐁一丁\u9fa5\u9fa6a", "zh") == "㐀㐁 一 丁 \u9fa5 \u9fa6a"

    def test_the_score_is_the_mean_of_f1_and_exact_match(self) -> None:
        metric = METRICS["f1_em"]
        total = metric.total(["a big cat", "cat"], [("big dog",), ("cat",)])  # F1 1/2 and 1, exact match 0 and 1
        assert metric.parts(total) == {"f1": 75.0, "exact": 50.0}
        assert metric.value(total) == 62.5

    def test_the_language_reaches_the_normaliser(self) -> None:
        metric = METRICS["mlqa_f1_em"]
        assert metric.score(["der Turm"], [("Turm",)], language="de") == 100.0
        assert metric.score(["der Turm"], [("Turm",)]) == pytest.approx(100 / 3)  # English: F1 2/3, exact match 0
        with pytest.raises(ValueError, match="no normaliser for language 'th'; MLQA has ar, de, en, es, hi, vi, zh"):
            metric.count("ข้าว", ("ข้าว",), "th")

    @pytest.mark.parametrize("name", ["f1_em", "mlqa_f1_em"])
    def test_a_question_without_answers_needs_squad2(self, name: str) -> None:
        with pytest.raises(ValueError, match="squad2_f1_em"):
            METRICS[name].count("", ())

    def test_normalisers_leave_other_scripts_alone(self) -> None:
        assert normalise_squad(" The  Große Straße, ") == "große straße"
        assert normalise_mlqa(" Die  Große Straße, ", "de") == "große straße"
        assert (
            normalise_mlqa("東京タワー、ABC 1", "zh") == "東 京 タワーabc 1"
        )  # kana are not split; "、" is dropped first


def assert_answer(name: str, predicted: str, answers: Sequence[str], language: str, *, f1: float, exact: float) -> None:
    counts = METRICS[name].count(predicted, answers, language)
    assert counts.sums == pytest.approx({"f1": f1, "exact": exact, "total": 1.0}), (predicted, answers, language)


def definition(predicted: list[str], answers: list[list[str]]) -> tuple[float, float]:
    """Best F1 and exact match over the answers, worded as in section 6 of Rajpurkar et al. 2016, with lists of tokens."""
    f1 = 0.0
    for answer in answers:
        left, common = list(answer), 0
        for word in predicted:
            if word in left:
                left.remove(word)
                common += 1
        if common:
            precision, recall = common / len(predicted), common / len(answer)
            f1 = max(f1, 2 * precision * recall / (precision + recall))
    return f1, float(predicted in answers)


def squad_tokens(text: str) -> list[str]:
    plain = re.sub(f"[{re.escape(string.punctuation)}]", "", text.lower())
    return without_articles(plain, ["a", "an", "the"]).split()


def mlqa_tokens(text: str, language: str) -> list[str]:
    """mlqa_evaluation_v1.py in words: lower case, punctuation, articles, then tokens; character by character."""
    plain = ""
    for character in text.lower():
        ascii_mark = "!" <= character <= "~" and not character.isalnum()
        if not ascii_mark and unicodedata.category(character)[0] != "P":
            plain += character
    plain = (
        " ".join(plain.split("ال")) if language == "ar" else without_articles(plain, MLQA_ARTICLES.get(language, []))
    )
    if language != "zh":
        return plain.split()
    tokens = [""]
    for character in plain:
        if 0x4E00 <= ord(character) <= 0x9FA5:
            tokens += [character, ""]
        elif character.isspace():
            tokens.append("")
        else:
            tokens[-1] += character
    return [token for token in tokens if token]


def without_articles(text: str, articles: list[str]) -> str:
    """Articles blanked where they are a whole run of letters and digits, which is what \\b...\\b means."""
    grouped = itertools.groupby(text, key=str.isalnum)
    whole = ["".join(group) for _, group in grouped]
    return "".join(" " if run in articles else run for run in whole)


class TestRankings:
    @pytest.mark.parametrize(
        ("predicted", "gold", "average_precision"),
        [
            (["a"], ["a"], 1.0),
            (["x", "a"], ["a"], 1 / 2),  # with one gold id it is the reciprocal rank: Mewsli-X's score
            (["a", "x", "b"], ["a", "b"], (1 + 2 / 3) / 2),
            (["a", "x", "b"], ["a", "b", "c"], (1 + 2 / 3) / 3),  # what was not found counts as 0
            (["a", "a", "b"], ["a", "b"], (1 + 2 / 3) / 2),  # the repetition is no hit and uses up a rank
            ([*map(str, range(20)), "a"], ["a"], 0.0),  # rank 21
            ([], ["a"], 0.0),
            (["x"] * 19 + ["a"], ["a", "a"], 1 / 20),  # gold ids are a set
            ([f"g{index}" for index in range(20)], [f"g{index}" for index in range(25)], 1.0),  # divisor 20, not 25
        ],
    )
    def test_by_hand(self, predicted: list[str], gold: list[str], average_precision: float) -> None:
        assert METRICS["map_at_20"].score([predicted], [gold]) == pytest.approx(100 * average_precision)

    @pytest.mark.parametrize("seed", range(6))
    def test_against_the_definition(self, seed: int) -> None:
        predicted, gold = rankings(random.Random(seed), 60)
        expected = sum(map(definition_of_average_precision, predicted, gold)) / len(gold)
        assert METRICS["map_at_20"].score(predicted, gold) == pytest.approx(100 * expected)

    @pytest.mark.parametrize("seed", range(6))
    def test_is_scikit_learns_where_the_whole_pool_fits(self, seed: int) -> None:
        """scikit-learn knows no cut: pools of at most 20 candidates, all of them ranked."""
        rng = random.Random(seed)
        predicted, gold, expected = [], [], 0.0
        for _ in range(40):
            pool = list(range(rng.randrange(1, 21)))
            predicted.append(rng.sample(pool, len(pool)))
            gold.append(rng.sample(pool, rng.randrange(1, len(pool) + 1)))
            relevant = [candidate in gold[-1] for candidate in predicted[-1]]
            expected += average_precision_score(relevant, range(len(pool), 0, -1))
        assert METRICS["map_at_20"].score(predicted, gold) == pytest.approx(100 * expected / 40)

    def test_a_query_without_gold_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="without gold ids"):
            METRICS["map_at_20"].count(["a"], [])


def definition_of_average_precision(predicted: Sequence[str], gold: Sequence[str]) -> float:
    """Mean, over min(number of gold ids, 20), of the precision at each rank where a gold id first appears."""
    new = [
        rank
        for rank in range(1, min(len(predicted), 20) + 1)
        if predicted[rank - 1] in set(gold) - set(predicted[: rank - 1])
    ]
    return sum(len(set(predicted[:rank]) & set(gold)) / rank for rank in new) / min(len(set(gold)), 20)


class TestMinedPairs:
    @pytest.mark.parametrize("seed", range(6))
    def test_is_scikit_learns_f1_over_all_possible_pairs(self, seed: int) -> None:
        predicted, gold = pairs(random.Random(seed), 80)
        chosen, right = (
            [target in of_sentence for of_sentence in side for target in range(5)] for side in (predicted, gold)
        )
        assert METRICS["mining_f1"].score(predicted, gold) == pytest.approx(100 * binary_f1_score(right, chosen))

    def test_parts(self) -> None:
        metric = METRICS["mining_f1"]
        counts = metric.total([[1], [2, 3], [], [4]], [[1], [2], [5], []])  # 2 hits, 4 predicted, 3 gold
        assert metric.parts(counts) == pytest.approx({"precision": 50.0, "recall": 200 / 3})
        assert metric.value(counts) == pytest.approx(400 / 7)

    def test_a_repeated_pair_counts_once(self) -> None:
        assert METRICS["mining_f1"].score([[1, 1]], [[1]]) == 100.0

    def test_nothing_found_is_zero(self) -> None:
        metric = METRICS["mining_f1"]
        assert metric.score([[], []], [[1], []]) == 0.0
        assert metric.parts(metric.total([[], []], [[1], []])) == {"precision": 0.0, "recall": 0.0}


def test_counts_add() -> None:
    assert (Counts({"hits": 1.0}) + Counts({"hits": 2.0, "gold": 3.0})).sums == {"hits": 3.0, "gold": 3.0}
