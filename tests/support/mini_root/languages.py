"""Invented languages: random syllables of each language's script.

Among them is what a round trip through a tokenizer can break: combining accents, vowel signs, scripts without spaces, and
scripts from right to left. A seed fixes the words.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

SEED = 20240607


@dataclass(frozen=True)
class Script:
    syllables: tuple[str, ...]
    stop: str = ". "
    space: str = " "


def _script(syllables: str, **punctuation: str) -> Script:
    return Script(tuple(syllables.split()), **punctuation)


LATIN = _script("ba ke\u0301 di lo\u0308 nu tra ša zé ço ín e\u0323\u0302m ör gi vel mo")
CYRILLIC = _script("ба кё ди лой ну тра ша зе и\u0306к гі вел мо")
ARABIC = _script("با كِ دي لُو نّ تَر شا زي عو مٌ", stop="۔ ")
DEVANAGARI = _script("बा कि दी लो नु त्र शा ड\u093cे क्षौ मं")
SCRIPTS: dict[str, Script] = {
    "el": _script("βα κέ δι λο\u0301 νυ τρα σή ζω ξεν μο"),
    "he": _script("בָּ קֶ דִי לוֹ נוּ תְר שַׁ זֵ עם"),
    "bn": _script("বা কি দী ল\u09c7\u09be নু ত্র শা য\u09bcে মং"),
    "gu": _script("બા કિ દી લો નુ ત્ર શા ક્ષે મં"),
    "pa": _script("ਬਾ ਕਿ ਦੀ ਲੋ ਨੁ ਤ੍ਰ ਸ਼ਾ ਖ਼ੇ ਮੰ"),
    "ta": _script("பா கி தீ ல\u0bc6\u0bbe நு த்ர ஷா மெ"),
    "te": _script("బా కి దీ లో ను త్ర శా మ\u0c46\u0c56"),
    "ml": _script("ബാ കി ദീ ല\u0d46\u0d3e നു ത്ര ശാ മേ ൻ"),
    "ka": _script("ბა კე დი ლო ნუ ტრა შა ზე მო"),
    "ko": _script("바 \u1112\u1161\u11ab 디 로 누 글 샤 \u1100\u116e\u11a8 모"),
    "ja": _script("東 京 か\u3099 リン ｶ\uff9e 語 です ヴ 山", stop="。", space=""),
    "zh": _script("东 京 语 大 山 水 书 车 人 〇", stop="。", space=""),
    "th": _script("บา กิ ดี น้ำ นุ แต่ ชา เซ ม่ำ", stop=" ", space=""),
    "my": _script("ဘာ ကို ဒီ လော် နု မြ ရှာ ဇေ မံ့", stop="။", space=""),
    **dict.fromkeys(("ar", "fa", "ur"), ARABIC),
    **dict.fromkeys(("bg", "kk", "ru", "uk"), CYRILLIC),
    **dict.fromkeys(("hi", "mr"), DEVANAGARI),
}


@dataclass(frozen=True)
class Passage:
    """A text with the spans of its sentences and, by sentence, of their words."""

    text: str
    sentences: tuple[tuple[int, int], ...]
    words: tuple[tuple[tuple[int, int], ...], ...]


class InventedLanguage:
    """Random words in a language's script."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.script = SCRIPTS.get(language, LATIN)
        self.rng = random.Random(f"{SEED}|{language}")

    def word(self) -> str:
        return "".join(self.rng.choices(self.script.syllables, k=self.rng.randint(2, 4)))

    def words(self, count: int) -> list[str]:
        return [self.word() for _ in range(count)]

    def passage(self, sentences: int) -> Passage:
        """Sentences that start with a capital, if the script has them, and end with its full stop."""
        text, spans, of_words = "", [], []
        for _ in range(sentences):
            start, words = len(text), []
            for number, word in enumerate(self.words(self.rng.randint(4, 8))):
                text += self.script.space if number else ""
                words.append((len(text), len(text) + len(word)))
                text += word if number else word[0].title() + word[1:]
            spans.append((start, len(text) + len(self.script.stop.rstrip())))
            of_words.append(tuple(words))
            text += self.script.stop
        return Passage(text.rstrip(), tuple(spans), tuple(of_words))

    def sentence(self) -> str:
        return self.passage(1).text
