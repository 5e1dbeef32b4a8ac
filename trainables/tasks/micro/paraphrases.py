"""English dev set of MicroXTREME's retrieval: the same measures written long and short, among others with the same digits.

"5 hours and 5 kilometers" is to find "5 hr and 5 km" and neither "5 wk and 5 km" nor "in 5 min. and 5 lb". All measures of an
item have one number, which several items share, so that digits alone do not give the answer. Concepts are those of dev, and
measures are in no test sentence of the task, which lists names. No name can be used here: English CLDR writes them one way.
"""

from __future__ import annotations

import random
from collections import defaultdict
from functools import lru_cache

from trainables.data.examples import BitextExample
from trainables.tasks.micro import cldr
from trainables.tasks.micro.cldr import Category, Concept, Phrasebook
from trainables.tasks.micro.compose import pool, write_list

NUMBERED: tuple[Category, ...] = ("quantity", "relative")  # a date's digits are its own
TRIES = 50  # draws for each pair that is wanted


@lru_cache(maxsize=16)
def english_paraphrases(seed: int, size: int) -> tuple[BitextExample, ...]:
    """At most `size` pairs, the long form and the short one; no text occurs twice, nor two measures in another order."""
    book = cldr.phrasebook("en")
    assert book is not None
    by_number = _measures_by_number(book, seed)
    numbers = sorted(number for number, measures in by_number.items() if len(measures) > 1)
    rng = random.Random(f"{seed}|micro_bitext|dev")
    drawn: set[frozenset[Concept]] = set()
    pairs: dict[str, BitextExample] = {}
    for _ in range(size * TRIES):
        if len(pairs) == size:
            break
        measures = rng.sample(by_number[rng.choice(numbers)], 2)
        long, short = (write_list(book, [(measure, width) for measure in measures]) for width in ("long", "short"))
        if long is None or short is None or frozenset(measures) in drawn or short[0] in pairs:
            continue
        drawn.add(frozenset(measures))
        pairs[short[0]] = BitextExample(f"dev-{len(pairs)}", long[0], short[0])
    return tuple(pairs.values())


def _measures_by_number(book: Phrasebook, seed: int) -> dict[int, list[Concept]]:
    """The measures of dev that have a short form of their own."""
    by_number: defaultdict[int, list[Concept]] = defaultdict(list)
    for category in NUMBERED:
        for concept in pool(category, "dev", seed):
            if book.write(concept, "long") != book.write(concept, "short"):
                by_number[abs(int(concept.key[1]))].append(concept)
    return by_number
