"""Question answering: F1 and exact match of normalised texts, each the best over a question's references.

The score is (F1 + EM) / 2, as in XTREME. Data sets differ in the normaliser: XQuAD and TyDiQA use SQuAD's, which is made for
English, in every language; MLQA has one for each of its languages.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from trainables.metrics.base import Counts, Metric


def normalise_squad(text: str) -> str:
    """The SQuAD v1.1 evaluation script's normaliser: lower case, no ASCII punctuation, no English articles."""
    text = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def _whole_words(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(words.split())})\b")


_MLQA_ARTICLES: dict[str, re.Pattern[str] | None] = {
    # The script's pattern is `\sال^|ال`. Its first branch cannot match, so every ال is removed, also inside words.
    "ar": re.compile("ال"),
    "de": _whole_words("ein eine einen einem eines einer der die das den dem des"),
    "en": _whole_words("a an the"),
    "es": _whole_words("un una unos unas el la los las"),
    "hi": None,
    "vi": _whole_words("của là cái chiếc những"),
    "zh": None,
}
_MLQA_HAN = re.compile("[\u4e00-\u9fa5]")  # the script's range: in Chinese each of these is a separate token


def normalise_mlqa(text: str, language: str) -> str:
    """MLQA's normaliser (facebookresearch/MLQA, mlqa_evaluation_v1.py); tokens are separated by single spaces.

    Lower case; no character of a Unicode P category or of ASCII punctuation; no articles of the answer's language. In
    Chinese each Han character is a token, and the text between them is split at white space.

    Raises:
        ValueError: MLQA has no such language.
    """
    if language not in _MLQA_ARTICLES:
        raise ValueError(f"mlqa_f1_em: no normaliser for language {language!r}; MLQA has {', '.join(_MLQA_ARTICLES)}")
    articles = _MLQA_ARTICLES[language]
    plain = "".join(character for character in text.lower() if not _is_punctuation(character))
    if articles is not None:
        plain = articles.sub(" ", plain)
    if language == "zh":
        plain = _MLQA_HAN.sub(r" \g<0> ", plain)
    return " ".join(plain.split())


def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def token_f1(prediction: str, answer: str) -> float:
    """F1 (0 to 1) over the white-space tokens of two normalised texts (Rajpurkar et al. 2016, section 6)."""
    predicted, gold = prediction.split(), answer.split()
    common = sum((Counter(predicted) & Counter(gold)).values())
    return 2 * common / (len(predicted) + len(gold)) if common else 0.0


def _best(prediction: str, answers: Iterable[str]) -> Counts:
    """The sums of one question, from normalised texts. F1 and exact match may come from different answers."""
    answers = list(answers)
    if not answers:
        raise ValueError("a question has no reference answers; for unanswerable questions use squad2_f1_em")
    f1 = max(token_f1(prediction, answer) for answer in answers)
    return Counts({"f1": f1, "exact": float(prediction in answers), "total": 1.0})


def _count_squad(prediction: str, reference: Sequence[str], language: str) -> Counts:
    return _best(normalise_squad(prediction), map(normalise_squad, reference))


def _count_squad2(prediction: str, reference: Sequence[str], language: str) -> Counts:
    """SQuAD v2.0's evaluation script: answers that normalise to "" are dropped; if none is left, "" is right."""
    normalised, answers = normalise_squad(prediction), [answer for answer in map(normalise_squad, reference) if answer]
    if answers:
        return _best(normalised, answers)
    return Counts({"f1": float(not normalised), "exact": float(not normalised), "total": 1.0})


def _count_mlqa(prediction: str, reference: Sequence[str], language: str) -> Counts:
    return _best(normalise_mlqa(prediction, language), (normalise_mlqa(answer, language) for answer in reference))


def _normalise_squad(text: str, language: str) -> str:
    return normalise_squad(text)


def _f1_em(counts: Counts) -> float:
    return 100.0 * 0.5 * (counts["f1"] + counts["exact"]) / counts["total"]


def _f1_and_em(counts: Counts) -> dict[str, float]:
    return {name: 100.0 * counts[name] / counts["total"] for name in ("f1", "exact")}


F1_EM = Metric("f1_em", _count_squad, _f1_em, _f1_and_em, _normalise_squad)
SQUAD2_F1_EM = Metric("squad2_f1_em", _count_squad2, _f1_em, _f1_and_em, _normalise_squad)
MLQA_F1_EM = Metric("mlqa_f1_em", _count_mlqa, _f1_em, _f1_and_em, normalise_mlqa)
