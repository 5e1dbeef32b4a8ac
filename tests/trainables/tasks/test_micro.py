"""MicroXTREME: one suite over every task, properties of its corpus and phrasebooks, and no surface cue to an answer."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression

from trainables.data.examples import BitextExample, ChoiceExample, Example, PairExample, SpanExample, TaggingExample
from trainables.models.vocabulary import train_vocabulary
from trainables.tasks.base import Split
from trainables.tasks.micro import cldr
from trainables.tasks.micro.compose import SPLITS, MicroTask, pool, split_of
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.tasks.micro.follows import MicroFollows
from trainables.tasks.micro.intermediate import MicroParaphrase
from trainables.tasks.micro.mention import MicroMention
from trainables.tasks.micro.tagging import split_words
from trainables.tasks.registry import MICRO

LEFT_OUT = {"ht", "qu", "wo", "yo"}
SMALL = {"train_size": 60, "dev_size": 30, "test_size": 40}

_FRESH_PROCESS = """
import hashlib, json
import babel.lists
from trainables.tasks.registry import MICRO
from trainables.tasks.micro import cldr

cldr.own_data("de"), cldr.own_data("sv")
lists = {locale: babel.lists.format_list(["a", "b", "c"], locale=locale) for locale in ("de", "sv")}
digests = {}
for make in MICRO:
    name, task = make.name, make(train_size=60, dev_size=30, test_size=40)
    parts = [task.examples(split, "en") for split in ("train", "dev")] if task.trained else []
    parts += [task.examples("test", language) for language in task.languages[:6]]
    digests[name] = hashlib.sha256(repr(parts).encode()).hexdigest()
print(json.dumps({"lists": lists, "digests": digests}))
"""


TASKS = {task.name: task for task in MICRO}


def make_task(name: str, **fields: object) -> MicroTask:
    task = TASKS[name](**fields)
    assert isinstance(task, MicroTask)
    return task


def splits_of(task: MicroTask) -> tuple[Split, ...]:
    return SPLITS if task.trained else ("test",)


def english(task: MicroTask, split: Split) -> Sequence[Example]:
    """The English examples; German ones for bitext, which has no English test set."""
    return task.examples(split, "en" if "en" in task.languages else "de")


def texts_of(example: Example) -> tuple[str, ...]:
    """The sentences of an example, without alternatives: month names are in every split, their runs are not."""
    match example:
        case PairExample():
            return (example.first,) if example.second is None else (example.first, example.second)
        case ChoiceExample():
            return (example.context,)
        case TaggingExample():
            return (" ".join(example.words),)
        case SpanExample():
            return (example.question, example.context)
        case BitextExample():
            return (example.source, example.target)
    raise TypeError(f"MicroXTREME has no {type(example).__name__}")


def concepts_in(item: object) -> Iterator[cldr.Concept]:
    if isinstance(item, cldr.Concept):
        yield item
    elif isinstance(item, tuple):
        for part in item:
            yield from concepts_in(part)
    elif dataclasses.is_dataclass(item):
        for field in dataclasses.fields(item):
            yield from concepts_in(getattr(item, field.name))


def structure_of(example: Example) -> object:
    """What every language must have in common."""
    match example:
        case PairExample():
            return example.label
        case ChoiceExample():
            return example.label, len(example.choices)
        case TaggingExample():
            return [tag for tag in example.tags if tag.startswith("B-")]
        case SpanExample():
            return bool(example.answers)
        case BitextExample():
            return example.target
    raise TypeError(f"MicroXTREME has no {type(example).__name__}")


@pytest.fixture(scope="module")
def fresh_process() -> dict[str, dict[str, str]]:
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", _FRESH_PROCESS]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    output: dict[str, dict[str, str]] = json.loads(done.stdout)
    return output


@pytest.mark.parametrize("name", TASKS)
class TestEveryTask:
    def test_the_seed_decides_the_examples(self, name: str, fresh_process: dict[str, dict[str, str]]) -> None:
        task, other = make_task(name, **SMALL), make_task(name, **SMALL, seed=1)
        parts = [task.examples(split, "en") for split in ("train", "dev")] if task.trained else []
        parts += [task.examples("test", language) for language in task.languages[:6]]
        assert hashlib.sha256(repr(parts).encode()).hexdigest() == fresh_process["digests"][name]
        for split in splits_of(task):
            assert english(task, split) != english(other, split)

    def test_sizes_and_ids(self, name: str) -> None:
        task = make_task(name)
        sizes = {"train": task.train_size, "dev": task.dev_size, "test": task.test_size}
        for split in splits_of(task):
            ids = [example.id for example in english(task, split)]
            assert len(ids) == sizes[split] == len(set(ids))
        for language in task.languages:
            assert task.test_size / 2 <= len(task.examples("test", language)) <= task.test_size, language

    def test_languages_are_parallel(self, name: str) -> None:
        task = make_task(name)
        reference = {example.id: structure_of(example) for example in english(task, "test")}
        for language in task.languages:
            for example in task.examples("test", language):
                assert structure_of(example) == reference.get(example.id, structure_of(example)), (language, example)
        assert set(task.languages) <= {*cldr.languages()}

    def test_unknown_languages_and_splits_are_refused(self, name: str) -> None:
        task = make_task(name, **SMALL)
        with pytest.raises(ValueError, match="tlh"):
            task.examples("test", "tlh")
        with pytest.raises(ValueError, match="validation"):
            task.examples("validation", "en")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="ht"):
            make_task(name, languages_=("en", "ht"))
        for split in ("train", "dev"):
            with pytest.raises(ValueError, match=split):
                task.examples(split, "de")

    def test_splits_share_neither_concepts_nor_sentences(self, name: str) -> None:
        task = make_task(name)
        rng = random.Random(0)
        for split in splits_of(task):
            for _ in range(200):
                for concept in concepts_in(task.draw(rng, split)):
                    assert split_of(concept, task.seed) == split
        seen = {split: {t for e in english(task, split) for t in texts_of(e)} for split in splits_of(task)}
        for split, texts in seen.items():
            for other in set(seen) - {split}:
                assert not texts & seen[other], (split, other)

    def test_answers_are_well_formed(self, name: str) -> None:
        task = make_task(name)
        for language in task.languages:
            for example in task.examples("test", language):
                match example:
                    case SpanExample():
                        for text, start in example.answers:
                            assert text.strip() == text != ""
                            assert example.context[start : start + len(text)] == text
                    case TaggingExample():
                        assert set(example.tags) <= set(task.labels)
                        for before, tag in zip(("O", *example.tags), example.tags, strict=False):
                            assert not tag.startswith("I-") or before[2:] == tag[2:], example
                    case ChoiceExample():
                        assert 0 <= example.label < len(example.choices) == round(100 / task.chance())
                        assert len(set(example.choices)) == len(example.choices), (language, example)
                    case PairExample():
                        assert 0 <= example.label < len(task.labels)
                    case BitextExample():
                        assert example.source.strip()
                        assert example.target.strip()


def test_tagged_words_join_to_the_list_they_were_cut_from() -> None:
    task = make_task("micro_tagging")
    rng = random.Random(3)
    for language in ("en", "de", "ar", "he", "ja", "th", "zh", "my", "ko"):
        book = cldr.phrasebook(language)
        assert book is not None
        for _ in range(60):
            concepts = task.draw(rng, "test")
            example, parts = task.write(concepts, book, "x"), [book.write(concept) for concept in concepts]
            joined = book.join([part for part in parts if part is not None])
            if example is None:
                assert None in parts
                continue
            assert isinstance(example, TaggingExample)
            assert joined is not None
            assert "".join(example.words) == re.sub(r"\s", "", joined[0])
            words = split_words(" ".join(example.words), language)
            assert language in ("ja", "my", "th", "zh") or words == list(example.words)


@pytest.mark.parametrize("make", [MicroEntailment, MicroMention, MicroParaphrase])
@pytest.mark.parametrize("split", SPLITS)
def test_labels_are_balanced(make: type[MicroTask], split: Split) -> None:
    labels = [example.label for example in make().examples(split, "en") if isinstance(example, PairExample)]
    assert 0.4 <= sum(labels) / len(labels) <= 0.6  # at 100 examples, two standard errors of a fair coin


def test_pretraining_names_test_concepts_but_contains_no_labelled_sentence() -> None:
    corpus = MicroCorpus(cldr.languages(), 800).parallel()
    sentences = {(language, text) for texts in corpus for language, text in texts.items()}
    for make in TASKS.values():
        task = make()
        assert isinstance(task, MicroTask)
        for split in splits_of(task):
            for language in task.languages if split == "test" else ("en",):
                texts = {(language, text) for e in task.examples(split, language) for text in texts_of(e)}
                assert not texts & sentences, (task.name, split, language)
    book = cldr.phrasebook("en")
    assert book is not None
    named = [book.write(concept) or "" for concept in pool("territory", "test", 0)]
    everything = "\n".join(texts["en"] for texts in corpus)
    # 800 sentences name some 500 territories: each of 257 with probability 1 - exp(-2), 0.86.
    assert sum(name in everything for name in named) > 0.6 * len(named)


def test_four_languages_are_left_out_for_lack_of_data() -> None:
    assert len(cldr.languages()) == 46
    assert set(cldr.XTREME_R_LANGUAGES) - set(cldr.languages()) == LEFT_OUT
    assert {language for language in LEFT_OUT if min(cldr.coverage(language).values()) < 0.5} >= LEFT_OUT - {"qu"}
    quechua = cldr.phrasebook("qu")  # has words, but no list patterns
    assert quechua is not None
    assert quechua.join(["a", "b"]) is None


def test_no_language_answers_in_another(fresh_process: dict[str, dict[str, str]]) -> None:
    assert cldr.phrasebook("ht") is None  # Babel answers in French
    assert set(cldr.coverage("ht").values()) == {0.0}
    yoruba = cldr.phrasebook("yo")
    assert yoruba is not None
    for field in set(cldr.FIELDS) - {"year"}:  # CLDR 47 has Yoruba years alone
        assert yoruba.write(cldr.Concept("relative", (field, 3))) is None
    # CLDR's list patterns of German and Swedish; a broken cache gives the root's "a, b, c" or an error.
    assert fresh_process["lists"] == {"de": "a, b und c", "sv": "a, b och c"}


def test_common_quantities_are_written_in_nearly_every_language() -> None:
    """Some locales have only "per day" in the long form and the amount in the short one (Dutch, Italian, Korean)."""
    written = Counter(
        unit
        for language in cldr.languages()
        if (book := cldr.phrasebook(language)) is not None
        for unit in ("duration-day", "duration-week", "duration-month", "duration-year")
        if book.write(cldr.Concept("quantity", (unit, 5)))
    )
    assert min(written.values(), default=0) >= 0.9 * len(cldr.languages()), written


Tokenize = Callable[[str], list[str]]


@functools.cache
def subwords() -> Tokenize:
    """A vocabulary that keeps most English words whole, as those of the recipes."""
    corpus = MicroCorpus(("en", "de", "zh", "ar", "ja"), 400).parallel()
    tokenize: Tokenize = train_vocabulary((text for texts in corpus for text in texts.values()), 3000).tokenize
    return tokenize


def words(text: str) -> list[str]:
    return re.findall(r"[\w.]+", text.lower())


def bag(first: str, second: str, tokenize: Tokenize) -> dict[str, float]:
    a, b = tokenize(first), tokenize(second)
    counts: dict[str, float] = {**Counter(f"1:{token}" for token in a), **Counter(f"2:{token}" for token in b)}
    return {**counts, "overlap": len(set(a) & set(b)), "length 1": len(a), "length 2": len(b)}


@pytest.mark.slow
@pytest.mark.parametrize("tokenize", ["words", "subwords"])
@pytest.mark.parametrize("make", [MicroEntailment, MicroFollows, MicroMention])
def test_a_bag_of_tokens_learns_nothing(make: type[MicroTask], tokenize: str) -> None:
    task = make(train_size=2000, test_size=1000)
    cut = words if tokenize == "words" else subwords()

    def table(split: Split) -> tuple[list[dict[str, float]], np.ndarray, int]:
        rows, right, alternatives = [], [], 1
        for example in task.examples(split, "en"):
            if isinstance(example, PairExample) and example.second is not None:
                rows.append(bag(example.first, example.second, cut))
                right.append(example.label)
            elif isinstance(example, ChoiceExample):
                rows += [bag(example.context, choice, cut) for choice in example.choices]
                right += [int(index == example.label) for index in range(len(example.choices))]
                alternatives = len(example.choices)
        return rows, np.array(right), alternatives

    rows, right, _ = table("train")
    vectors = DictVectorizer()
    model = LogisticRegression(C=0.3, max_iter=500).fit(vectors.fit_transform(rows), right)
    rows, right, alternatives = table("test")
    scores = model.decision_function(vectors.transform(rows)).reshape(-1, alternatives)
    right = right.reshape(-1, alternatives)
    hits = (scores.argmax(1) == right.argmax(1)) if alternatives > 1 else ((scores > 0) == right)
    chance = task.chance()
    # Three binomial standard errors of 1000 answers (4.7 points at 50%), and 2 points for shared word endings.
    bound = chance + 3 * np.sqrt(chance * (100 - chance) / len(hits)) + 2
    assert 100 * hits.mean() <= bound


@pytest.mark.parametrize("make", [MicroEntailment, MicroMention, MicroParaphrase])
def test_no_word_of_the_second_text_goes_with_a_label(make: type[MicroTask]) -> None:
    labels: dict[str, list[int]] = defaultdict(list)
    examples = [e for e in make(train_size=2000).examples("train", "en") if isinstance(e, PairExample)]
    share = sum(example.label for example in examples) / len(examples)
    for example in examples:
        for word in set(words(example.second or "")):
            labels[word].append(example.label)
    # Five standard errors: one in two million words by chance.
    telling = {
        word: (sum(given), len(given))
        for word, given in labels.items()
        if abs(sum(given) - share * len(given)) > 5 * np.sqrt(share * (1 - share) * len(given))
    }
    assert not telling
