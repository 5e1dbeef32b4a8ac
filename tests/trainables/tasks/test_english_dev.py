"""English dev sets of targets without training: what they hold, what they never hold, and that selection sees them."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from study.recipes.laptop import laptop
from tests.support import recipes
from tests.support.data import DATA_ROOT, needs_data
from tests.trainables.tasks.suite import all_sets, features_of, perfect_outputs
from trainables.data.examples import BitextExample, PairExample, RetrievalText
from trainables.data.source import DATA_ROOT_VARIABLE
from trainables.evaluation import ExampleSet, score_outputs
from trainables.models.vocabulary import train_vocabulary
from trainables.stages.base import Workplace
from trainables.stages.chain import run_chain
from trainables.stages.evaluate import Evaluate
from trainables.store.fingerprint import fingerprint
from trainables.store.stage_store import StageStore
from trainables.tasks.english_dev import as_bitext, as_mining
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.cldr import phrasebook
from trainables.tasks.micro.compose import pool
from trainables.tasks.micro.paraphrases import NUMBERED
from trainables.tasks.pinning import pinned
from trainables.tasks.xtreme.bucc import Bucc
from trainables.tasks.xtreme.tatoeba import Tatoeba
from trainables.tasks.xtreme.xnli import Xnli

PAIRS = [
    PairExample("1", "A dog ran.", "An animal moved.", 0),
    PairExample("2", "A dog ran.", "A cat slept.", 1),
    PairExample("3", "A dog ran.", "Something ran.", 0),  # its first sentence has its pair
    PairExample("4", "It rains.", "It is wet.", 0),
]


def test_a_sentence_has_one_right_answer() -> None:
    assert [(pair.source, pair.target) for pair in as_bitext(PAIRS, 0)] == [
        ("A dog ran.", "An animal moved."),
        ("It rains.", "It is wet."),
    ]
    queries, candidates = (
        [text for text in as_mining(PAIRS, 1) if (text.gold is not None) is is_query] for is_query in (True, False)
    )
    assert [len(query.gold or ()) for query in queries] == [1, 0]  # of the label 1
    assert {text.text for text in candidates} == {pair.second for pair in PAIRS}


@pytest.mark.usefixtures("on_mini_root")
@pytest.mark.parametrize(
    ("source", "file"), [("xnli_entailment", "xnli/dev-en.tsv"), ("qqp_duplicates", "qqp/dev.tsv")]
)
@pytest.mark.parametrize("target", [Tatoeba, Bucc])
def test_it_is_read_and_pinned_with_the_task_and_identity_changes_only_where_it_is_named(
    target: Any, source: Any, file: str, mini_root: Path
) -> None:
    without, task = target(languages_=("de",)), target(languages_=("de",), english_dev=source)
    assert ("dev", "en") in task.splits()
    assert ("dev", "en") not in without.splits()
    assert fingerprint(without) != fingerprint(task)
    assert pinned(task).data != pinned(without).data
    with pytest.raises(ValueError, match="no dev set in en"):
        without.examples("dev", "en")
    original = (mini_root / file).read_text(encoding="utf-8")
    for example in task.examples("dev", "en"):
        texts = [example.source, example.target] if isinstance(example, BitextExample) else [example.text]
        assert all(text in original for text in texts)


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ValueError, match="no English dev set 'snli'; there are xnli_entailment, qqp_duplicates"):
        Tatoeba(english_dev="snli")  # type: ignore[arg-type]


@pytest.mark.usefixtures("on_mini_root")
@pytest.mark.parametrize("target", [Tatoeba, Bucc])
def test_a_perfect_model_scores_100_on_it(target: Any) -> None:
    """BUCC's threshold is set on each dev set, so the English one is scored like a language's."""
    task = target(languages_=("de",), english_dev="xnli_entailment")
    sets = {named: task.examples(*named) for named in all_sets(task)}
    texts = [getattr(e, "text", "") or f"{e.source} {e.target}" for examples in sets.values() for e in examples]
    tokenizer = train_vocabulary(texts, 2000)
    featurised = [
        ExampleSet(*named, examples, features_of(task, examples, tokenizer)) for named, examples in sets.items()
    ]
    scores = {(score.split, score.language): score for score in score_outputs(perfect_outputs(task, featurised), task)}
    assert scores["dev", "en"].value == 100.0
    pairs = sum(pair.label == 0 for pair in Xnli().examples("dev", "en") if isinstance(pair, PairExample))
    queries = [e for e in sets["dev", "en"] if not isinstance(e, RetrievalText) or e.gold is not None]
    assert scores["dev", "en"].examples == len(queries) >= pairs / 2 > 0


@needs_data
def test_the_laptops_is_xnlis_without_a_test_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """One entailed hypothesis for each of XNLI's 830 premises. What words alone find is the figure in docs/tasks.md."""
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(DATA_ROOT))
    task = next(target for target in laptop().targets if target.name == "tatoeba")
    pairs = [pair for pair in task.examples("dev", "en") if isinstance(pair, BitextExample)]
    assert len(pairs) == WITH_OWN_PREMISE
    tested = {
        text
        for language in task.languages
        for pair in task.examples("test", language)
        if isinstance(pair, BitextExample)
        for text in (pair.source, pair.target)
    }
    assert not {text for pair in pairs for text in (pair.source, pair.target)} & tested
    assert 100 * found_by_words(pairs) == pytest.approx(FOUND_BY_WORDS, abs=0.5)


WITH_OWN_PREMISE, FOUND_BY_WORDS = 830, 60.2


def found_by_words(pairs: list[BitextExample]) -> float:
    """How many queries share the largest part of their words with the right answer (Jaccard), ties as a guess among them."""
    words = [[set(re.findall(r"\w+", text.lower())) for text in (pair.source, pair.target)] for pair in pairs]
    total = 0.0
    for number, (query, _) in enumerate(words):
        shares = [len(query & answer) / max(len(query | answer), 1) for _, answer in words]
        best = max(shares)
        total += (shares[number] == best) / shares.count(best)
    return total / len(pairs)


class TestMicro:
    task = MicroBitext(english_dev="paraphrases")

    def pairs(self) -> list[BitextExample]:
        return [pair for pair in self.task.examples("dev", "en") if isinstance(pair, BitextExample)]

    def test_the_same_measures_in_two_forms_and_no_text_twice(self) -> None:
        pairs = self.pairs()
        assert len(pairs) == self.task.dev_size
        assert all(pair.source != pair.target for pair in pairs)
        for side in ("source", "target"):
            assert len({getattr(pair, side) for pair in pairs}) == len(pairs)

    def test_concepts_are_those_of_dev_and_in_no_test_sentence(self) -> None:
        book = phrasebook("en")
        assert book is not None
        of_dev = {book.write(concept, "long") for category in NUMBERED for concept in pool(category, "dev", 0)}
        tests = {e.target for e in self.task.examples("test", "de") if isinstance(e, BitextExample)}
        for pair in self.pairs():
            parts = pair.source.split(" and ")
            assert set(parts) <= of_dev, pair
            assert not any(part in text for part in parts for text in tests)

    def test_digits_alone_do_not_find_the_answer(self) -> None:
        digits = Counter(tuple(re.findall(r"\d+", pair.target)) for pair in self.pairs())
        assert all(len(set(numbers)) == 1 for numbers in digits)
        assert len(digits) / sum(digits.values()) < 0.25  # a guess among those with the same digits

    def test_its_identity_changes_only_where_it_is_asked_for(self) -> None:
        assert fingerprint(MicroBitext()) != fingerprint(self.task)
        assert ("dev", "en") not in MicroBitext().splits()
        with pytest.raises(ValueError, match="no dev split"):
            MicroBitext().examples("dev", "en")


@pytest.mark.slow
def test_selection_sees_an_untrained_target_once_it_has_an_english_dev_set(tmp_path: Path) -> None:
    tagging, _, bitext = recipes.inline().targets
    assert isinstance(bitext, MicroBitext)
    both = tuple(dataclasses.replace(bitext, english_dev=source) for source in ("", "paraphrases"))
    metrics = []
    for target in both:
        study = dataclasses.replace(recipes.inline(), targets=(tagging, target))
        chain: tuple[Evaluate, ...] = study.chain(study.sizes[0], study.space.defaults()[0])
        reports: list[dict[str, Any]] = []
        run_chain(chain, Workplace(StageStore(tmp_path)), reports.append)
        metrics.append(reports[-1])
    without, seen = metrics
    assert "dev/micro_bitext" not in without
    assert without["dev_score"] == without["dev/micro_tagging"]
    assert seen["dev_score"] == pytest.approx((seen["dev/micro_tagging"] + seen["dev/micro_bitext"]) / 2)
    assert seen["test/micro_bitext"] == without["test/micro_bitext"], "the tests are the same"
    assert 0 <= seen["confidence/micro_bitext"] <= 100
    assert seen["first_loss/micro_tagging"] > 0
    assert "first_loss/micro_bitext" not in seen
