"""F1 and exact match of answers against worked examples, the output of official scripts, and second implementations."""

from __future__ import annotations

import itertools
import random
import re
import string
import unicodedata
from collections.abc import Sequence

import pytest

from tests.trainables.metrics.samples import questions
from trainables.metrics import METRICS, normalise_mlqa, normalise_squad

MLQA_LANGUAGES = ("ar", "de", "en", "es", "hi", "vi", "zh")
MLQA_ARTICLES = {
    "de": "ein eine einen einem eines einer der die das den dem des".split(),
    "en": "a an the".split(),
    "es": "un una unos unas el la los las".split(),
    "vi": "của là cái chiếc những".split(),
}


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
