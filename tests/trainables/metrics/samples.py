"""Random predictions, often right or nearly so, and their references."""

from __future__ import annotations

import random
from collections.abc import Sequence

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
