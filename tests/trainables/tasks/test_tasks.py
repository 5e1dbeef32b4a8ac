"""One suite that every task passes, published (on a miniature data root) and generated alike."""

from __future__ import annotations

import dataclasses
import functools
import shutil
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tests.support.mini_root import build
from tests.trainables.heads.test_heads import perfect_logits
from trainables.data import revisions
from trainables.data.examples import (
    BitextExample,
    ChoiceExample,
    Example,
    PairExample,
    RetrievalPair,
    RetrievalText,
    SpanExample,
    TaggingExample,
    TextExample,
)
from trainables.data.source import DATA_ROOT_VARIABLE, DataError, data_root
from trainables.evaluation import ExampleSet
from trainables.heads import HEADS, Feature, Outputs
from trainables.metrics import METRICS, Counts
from trainables.models.vocabulary import train_vocabulary
from trainables.stages.tokenise import scored_sets
from trainables.store.fingerprint import fingerprint
from trainables.tasks.base import Split, Task
from trainables.tasks.english.squad import Squad
from trainables.tasks.pinning import pinned
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.registry import TASKS
from trainables.tasks.suites import SUITES
from trainables.tasks.xtreme.xnli import Xnli
from trainables.tasks.xtreme.xquad import XQuAD

MAX_LENGTH = 256  # a LAReQA answer's: the longest row of any task
GUESSES = 2000  # at random: a standard error of 1.1 points around 50%
VECTOR = 1024  # dimensions: two random unit vectors have a cosine of 0 with a standard deviation of 0.03
# Without Arabic and Hebrew, which write "and" onto the name that follows: whether a piece parts them is up to the vocabulary.
MICRO_LANGUAGES = tuple("en de fa hi ja ko th zh".split())
LABELLED = {name: kind for name, kind in TASKS.items() if not kind.mixed_only}
PUBLISHED = {name: kind for name, kind in TASKS.items() if issubclass(kind, PublishedTask)}
# A random model answers each question with any of so many choices, all alike.
DRAWN_FROM_CHOICES = ("pair_classification", "multiple_choice", "bitext_retrieval", "dual_encoder")
# Points by which random guesses may pass a chance of 0, that of published sizes. Here a random span of 20 words overlaps with
# the answer (MLQA: 7.8), and one in 20 sentences mined is right (BUCC: 3.6).
SMALL_SETS = 10.0
# What the task is called in the table of its benchmark.
STANDS_FOR = {
    "xnli_from_cad_nli": "xnli",
    "xcopa_from_copa": "xcopa",
    "xquad_from_tydiqa": "xquad",
    "lareqa_from_tydiqa": "lareqa",
}


@pytest.fixture(scope="module", autouse=True)
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("mini_root")
    build(folder)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # starting threads takes longer than any search here: 12 s for Tatoeba's draws, not 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DATA_ROOT_VARIABLE, str(folder))
        yield folder
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer(root: Path) -> PreTrainedTokenizerFast:
    """Knows every character of every task."""
    tasks = [make(name) for name in LABELLED]
    examples = (one for task in tasks for split, language in all_sets(task) for one in task.examples(split, language))
    return train_vocabulary((text for one in examples for row in texts_of(one) for text in row), 4000)


Featurise = Callable[[Task], list[ExampleSet]]


@pytest.fixture(scope="module")
def featurise(tokenizer: PreTrainedTokenizerFast) -> Featurise:
    """All sets of a task with their features, made once."""
    known: dict[str, list[ExampleSet]] = {}

    def features(task: Task) -> list[ExampleSet]:
        if task.name not in known:
            known[task.name] = [
                ExampleSet(split, language, some, features_of(task, some, tokenizer))
                for split, language in all_sets(task)
                if (some := task.examples(split, language))
            ]
        return known[task.name]

    return features


def make(name: str) -> Task:
    """The task on all its languages; a generated one on some of its languages, and small."""
    if name in PUBLISHED:
        return PUBLISHED[name]()
    languages = tuple(language for language in MICRO_LANGUAGES if language in TASKS[name]().languages)
    return TASKS[name](languages_=languages, train_size=40, dev_size=20, test_size=20)  # type: ignore[call-arg]


def all_sets(task: Task) -> list[tuple[Split, str]]:
    """What the task is trained on, and what it is scored on; English dev alone for intermediate tasks."""
    train: list[tuple[Split, str]] = [("train", "en")] if task.trained else []
    return [*train, *(one for one in scored_sets(task) if task.role == "target" or one == ("dev", "en"))]


def texts_of(example: Example) -> list[tuple[str, ...]]:
    """The texts of each row that an example is read in."""
    match example:
        case PairExample():
            return [(example.first,) if example.second is None else (example.first, example.second)]
        case ChoiceExample():
            return [(example.context, choice) for choice in example.choices]
        case TaggingExample():
            return [example.words]
        case SpanExample():
            return [(example.question, example.context)]
        case BitextExample():
            return [(example.source,), (example.target,)]
        case RetrievalPair():
            return [(example.query,), (example.answer, *([example.context] if example.context else []))]
        case RetrievalText():
            return [(example.text, *([example.context] if example.context else []))]
        case TextExample():
            return [(example.text,)]


def content(example: Example) -> object:
    """What must not be in two splits: a paragraph where there are questions on it, else all texts."""
    if isinstance(example, (SpanExample, RetrievalPair, RetrievalText)) and (paragraph := example.context):
        return paragraph
    return tuple(texts_of(example))


def family(example: Example) -> object:
    """What examples of one file share that are more alike than others: a premise, a paragraph, a document."""
    match example:
        case PairExample():
            return example.first
        case TaggingExample():
            return example.id.rpartition("-")[0]
        case _:
            return content(example)


def is_candidate(example: Example) -> bool:
    return isinstance(example, RetrievalText) and example.gold is None


def features_of(task: Task, examples: Sequence[Any], tokenizer: PreTrainedTokenizerFast) -> Any:
    return HEADS[task.head].features(examples, task=task, tokenizer=tokenizer, max_length=MAX_LENGTH)


def scored(sets: Sequence[ExampleSet]) -> list[ExampleSet]:
    return [one for one in sets if one.split != "train"]


def outputs_of(task: Task, sets: Sequence[ExampleSet], logits: Sequence[Sequence[np.ndarray]]) -> list[Outputs[Any]]:
    return [
        Outputs(one.split, one.language, one.examples, one.features, values)
        for one, values in zip(sets, logits, strict=True)
    ]


def perfect_outputs(task: Task, sets: Sequence[ExampleSet]) -> list[Outputs[Any]]:
    """What a model that is always right would give for all sets of a task."""
    if task.head in ("bitext_mining", "dual_encoder"):
        vector = functools.cache(_unit_vector)
        return outputs_of(task, sets, [[_right_vectors(example, vector) for example in one.examples] for one in sets])
    return outputs_of(task, sets, [perfect_logits(task, one.features, len(one.examples)) for one in sets])


def _right_vectors(example: Example, vector: Callable[[str], np.ndarray]) -> np.ndarray:
    """A candidate's vector depends on its name alone; a query's is the sum of those it seeks."""
    if isinstance(example, RetrievalPair):
        return np.stack([vector(example.answer)] * 2)
    assert isinstance(example, RetrievalText)
    names = [f"nothing for {example.id}"] if example.gold == () else example.gold or (example.id,)
    return np.stack([vector(name) for name in names]).sum(0, keepdims=True)


def _unit_vector(name: str) -> np.ndarray:
    vector = np.random.default_rng(list(name.encode())).normal(size=VECTOR).astype(np.float32)
    return np.asarray(vector / np.linalg.norm(vector))


def random_outputs(task: Task, sets: Sequence[ExampleSet], rng: np.random.Generator) -> list[Outputs[Any]]:
    """Every value drawn alike: what a model knows that has read nothing."""
    labels = len(task.labels)

    def shape(feature: Feature) -> tuple[int, int] | tuple[int, int, int]:
        match task.head:
            case "pair_classification":
                return 1, labels
            case "multiple_choice":
                return len(feature.rows), 1
            case "tagging":
                return 1, feature.length, labels
            case "span_extraction":
                return 1, feature.length, 2
            case _:
                return len(feature.rows), 64

    drawn = [[rng.normal(size=shape(feature)).astype(np.float32) for feature in one.features] for one in sets]
    return outputs_of(task, sets, drawn)


def counts_of(task: Task, outputs: Sequence[Outputs[Any]]) -> list[list[Counts]]:
    """For each set the sums of each example that is scored."""
    kind, metric = HEADS[task.head], METRICS[task.metric]
    found = []
    for one, said in zip(outputs, kind.decode_all(outputs, task), strict=True):
        right = [kind.reference(example, task) for example in one.examples]
        pairs = [(said, right) for said, right in zip(said, right, strict=True) if right is not None]
        found.append([metric.count(*pair, one.language) for pair in pairs])
    return found


def mean_score(task: Task, outputs: Sequence[Outputs[Any]]) -> float:
    """The mean over sets, as a study reports a task."""
    totals = [sum(counts, Counts()) for counts in counts_of(task, outputs) if counts]
    return float(np.mean([METRICS[task.metric].value(total) for total in totals]))


def normal(*texts: str) -> str:
    """Texts as the tokenizer reads them, without white space."""
    return "".join("".join(unicodedata.normalize("NFKC", text).split()) for text in texts)


def pieces(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    special = set(tokenizer.all_special_ids)
    return "".join(tokenizer.convert_ids_to_tokens([id for id in ids if id not in special]))


def test_every_task_of_the_benchmarks_is_here() -> None:
    targets = {name for name, kind in TASKS.items() if kind().role == "target"}
    assert targets >= {one.name for suite in SUITES.values() for one in suite.tasks}


@pytest.mark.parametrize("name", LABELLED)
class TestEveryTask:
    def test_languages_are_the_official_ones(self, name: str) -> None:
        task = TASKS[name]()
        assert task.name == name
        assert len(set(task.languages)) == len(task.languages) > 0
        if task.role == "intermediate":
            assert task.languages == ("en",)
        listed = [one for suite in SUITES.values() for one in suite.tasks if one.name == STANDS_FOR.get(name, name)]
        for official in listed[-1:]:  # XTREME-R's, where both benchmarks have the task
            assert set(task.languages) == set(official.languages)

    def test_every_split_can_be_read_and_no_other(self, name: str) -> None:
        task = make(name)
        for split, language in all_sets(task):
            examples = task.examples(split, language)
            assert examples
            assert examples == task.examples(split, language)
            assert len({example.id for example in examples}) == len(examples)
        with pytest.raises(ValueError, match="xx"):
            task.examples("test", "xx")
        with pytest.raises(ValueError, match="train"):
            task.examples("train", "tr")
        if not task.trained:
            with pytest.raises(ValueError, match="train"):
                task.examples("train", "en")

    def test_examples_are_whole(self, name: str) -> None:
        task = make(name)
        kinds: dict[str, Any] = {
            "pair_classification": PairExample,
            "multiple_choice": ChoiceExample,
            "tagging": TaggingExample,
            "span_extraction": SpanExample,
            "bitext_retrieval": BitextExample,
            "bitext_mining": RetrievalText,
            "dual_encoder": (RetrievalPair, RetrievalText),
        }
        for split, language in all_sets(task):
            for example in task.examples(split, language):
                assert isinstance(example, kinds[task.head])
                assert example.id
                assert all(text.strip() for row in texts_of(example) for text in row), example
                match example:
                    case PairExample():
                        assert 0 <= example.label < len(task.labels)
                    case ChoiceExample():
                        assert 0 <= example.label < len(example.choices) == task.choices
                    case TaggingExample():
                        assert len(example.words) == len(example.tags)
                        assert set(example.tags) <= set(task.labels)
                    case SpanExample():
                        assert all(text.strip() for text, _ in example.answers)
                        assert example.answers or task.unanswerable

    def test_what_is_sought_is_among_the_candidates(self, name: str) -> None:
        task = make(name)
        for split in ("dev", "test"):
            texts = [
                example
                for one, language in all_sets(task)
                for example in task.examples(one, language)
                if one == split and isinstance(example, RetrievalText)
            ]
            queries, candidates = ([one for one in texts if (one.gold is None) == sought] for sought in (False, True))
            assert {gold for one in queries for gold in one.gold or ()} <= {one.id for one in candidates}
            assert not queries or any(one.gold for one in queries)

    def test_splits_are_disjoint(self, name: str) -> None:
        task = make(name)
        splits: dict[Split, list[Example]] = {}
        for split, language in all_sets(task):
            splits.setdefault(split, []).extend(task.examples(split, language))
        for split, examples in splits.items():
            for other in set(splits) - {split}:
                assert not {content(one) for one in examples} & {content(one) for one in splits[other]}, (split, other)
        paths = [set(paths_of(task, split)) if isinstance(task, PublishedTask) else set() for split in splits]
        if task.trained and paths[0] & paths[1]:
            # Train and dev come from one file: what belongs together is on one side. (Elsewhere ids are numbers of lines.)
            for part in (family, lambda one: one.id):
                assert not {part(one) for one in splits["train"]} & {part(one) for one in splits["dev"]}

    def test_texts_stand_in_their_rows(
        self, name: str, featurise: Featurise, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        task = make(name)
        for one in featurise(task):
            assert {feature.example for feature in one.features} == set(range(len(one.examples)))
            for feature in one.features:
                assert feature.length <= MAX_LENGTH
                assert one.split != "train" or len(feature.rows) == HEADS[task.head].rows_per_feature(task)
                assert not any(tokenizer.unk_token_id in row for row in feature.rows)
                example = one.examples[feature.example]
                if not isinstance(example, (SpanExample, TaggingExample)):
                    texts = texts_of(example)
                    if isinstance(example, RetrievalText) and example.gold is not None:
                        texts = [(example.text,)]
                    said = [pieces(tokenizer, row) for row in feature.rows]
                    assert said == [normal(*row) for row in texts]

    def test_tags_lead_back_to_their_words(
        self, name: str, featurise: Featurise, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        task = make(name)
        for one in featurise(task) if task.head == "tagging" else []:
            found: list[list[tuple[str, str]]] = [[] for _ in one.examples]
            for feature in one.features:
                _, *starts = feature.layout
                for start, end in zip(starts, [*starts[1:], None], strict=True):
                    word = pieces(tokenizer, feature.rows[0][start:end])
                    found[feature.example].append((word, task.labels[feature.target[start]]))
                supervised = [position for position, target in enumerate(feature.target) if target >= 0]
                assert supervised == starts  # a word's first piece, and nothing else
            for example, words in zip(one.examples, found, strict=True):
                assert isinstance(example, TaggingExample)
                assert words == [(normal(word), tag) for word, tag in zip(example.words, example.tags, strict=True)]

    def test_spans_lead_back_to_the_exact_answer(self, name: str, featurise: Featurise) -> None:
        task = make(name)
        for one in featurise(task) if task.head == "span_extraction" else []:
            held = set()
            for feature in one.features:
                example, offsets_L2 = one.examples[feature.example], np.array(feature.layout).reshape(-1, 2)
                assert isinstance(example, SpanExample)
                if feature.target != (0, 0):
                    start, end = offsets_L2[feature.target[0], 0], offsets_L2[feature.target[1], 1]
                    assert (example.context[start:end], start) == example.answers[0]
                    held.add(feature.example)
            assert held == {row for row, one in enumerate(one.examples) if isinstance(one, SpanExample) and one.answers}

    def test_perfect_predictions_score_100(self, name: str, featurise: Featurise) -> None:
        task = make(name)
        outputs = perfect_outputs(task, scored(featurise(task)))
        value = METRICS[task.metric].value
        scores = [value(sum(counts, Counts())) for counts in counts_of(task, outputs) if counts]
        assert scores == pytest.approx([100.0] * len(scores))
        assert len(scores) == len(outputs) - len(task.pools)

    def test_perfect_predictions_are_the_references(self, name: str, featurise: Featurise) -> None:
        task = make(name)
        kind, outputs = HEADS[task.head], perfect_outputs(task, scored(featurise(task)))
        for one, said in zip(outputs, kind.decode_all(outputs, task), strict=True):
            for prediction, example in zip(said, one.examples, strict=True):
                reference = kind.reference(example, task)
                match task.head:
                    case "span_extraction":
                        assert prediction in (reference or ("",))
                    case "dual_encoder":
                        assert set((prediction or ())[: len(reference or ())]) == set(reference or ())
                    case "bitext_mining":
                        assert prediction == (reference or ())
                    case _:
                        assert prediction == reference

    def test_chance_predictions_score_chance(
        self, name: str, featurise: Featurise, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        task = make(name)
        sets = [one for one in scored(featurise(task)) if one.split == "test" or task.role == "intermediate"]
        if isinstance(task, PublishedTask):
            task = dataclasses.replace(task, test_size=10)  # whole sets: Tatoeba's chance depends on their size
        # Chance is stated for the published pools of candidates; here, for the pool at hand.
        pools = {one.language: sum(is_candidate(example) for example in one.examples) for one in sets}
        monkeypatch.setattr("trainables.tasks.xtreme.lareqa.SENTENCES", pools)
        monkeypatch.setattr("trainables.tasks.xtreme.mewslix.CANDIDATES", sum(pools.values()))
        if task.calibrated:
            sets = scored(featurise(task))
        words_are_spans = task.head == "tagging" and all(label.startswith("B-") for label in task.labels)
        from_choices = words_are_spans or task.head in DRAWN_FROM_CHOICES
        draws = max(10, GUESSES // sum(len(one.examples) for one in sets) if from_choices else 0)
        rng = np.random.default_rng(0)
        scores = [mean_score(task, random_outputs(task, sets, rng)) for _ in range(draws)]
        error = float(np.std(scores, ddof=1) / np.sqrt(draws))
        assert np.mean(scores) <= task.chance() + 4 * error + (0.0 if task.chance() else SMALL_SETS)
        if from_choices:
            assert np.mean(scores) >= task.chance() - 4 * error
            assert error < task.chance() / 10  # else the bounds would let anything pass

    def test_the_same_answer_to_everything_scores_chance(self, name: str, featurise: Featurise) -> None:
        """Where chance is the score of no names, or of no answers."""
        task = make(name)
        if task.unanswerable or task.labels[:1] == ("O",):
            sets = scored(featurise(task))
            same = outputs_of(
                task, sets, [[np.zeros_like(v) for v in one.logits] for one in perfect_outputs(task, sets)]
            )
            assert mean_score(task, same) == pytest.approx(task.chance())

    def test_metrics_merge_over_shards(self, name: str, featurise: Featurise) -> None:
        task = make(name)
        kind, metric, sets = HEADS[task.head], METRICS[task.metric], scored(featurise(task))
        right = kind.decode_all(perfect_outputs(task, sets), task)
        wrong = kind.decode_all(random_outputs(task, sets, np.random.default_rng(1)), task)
        values = []
        for one, *said in zip(sets, right, wrong, strict=True):
            gold = [kind.reference(example, task) for example in one.examples]
            rows = [row for row in range(len(gold)) if gold[row] is not None]
            # Half of the predictions are right, and some of the others.
            mixed = [said[row % 2][row] for row in rows]
            gold = [gold[row] for row in rows]
            if rows:
                whole = metric.total(mixed, gold, language=one.language)
                for workers in (2, 3):
                    parts = [(mixed[rank::workers], gold[rank::workers]) for rank in range(workers)]
                    merged = sum((metric.total(*part, language=one.language) for part in parts), Counts())
                    assert metric.value(merged) == pytest.approx(metric.value(whole))
                    assert metric.parts(merged) == pytest.approx(metric.parts(whole))
                values.append(metric.value(whole))
        assert min(values) > 0.0
        assert np.mean(values) < 100.0

    def test_heads_fit_those_they_are_trained_on_first(self, name: str) -> None:
        task = make(name)
        for first in task.prerequisites:
            assert first.head == task.head
            assert first.trained
            heads = [HEADS[one.head].module(8, one).state_dict() for one in (first, task)]
            shapes = [{key: value.shape for key, value in head.items()} for head in heads]
            assert shapes[0] == shapes[1]


def paths_of(task: PublishedTask, split: Split | None = None) -> list[str]:
    """Files and folders that a split is read from, or all of them, with those of the tasks it is trained on first."""
    sources = [task.source_of(one, language) for one, language in task.splits() if split in (None, one)]
    own = [path for source in sources if source.files is not None for path in source.files.paths]
    return [*own, *(path for first in task.before for path in paths_of(first, split))]


@pytest.mark.parametrize("name", PUBLISHED)
class TestEveryPublishedTask:
    def test_the_data_are_pinned(self, name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        here = pinned(PUBLISHED[name]())
        assert here.revision == here.data == pinned(PUBLISHED[name]()).data
        assert here.missing(data_root()) == []
        copied = sorted(set(paths_of(here)))
        for path in copied:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (root / path).is_dir() else shutil.copy2)(root / path, tmp_path / path)
        monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
        split, language = here.splits()[-1]
        there = pinned(PUBLISHED[name]())
        assert there == here  # where the files lie is no part of what they are
        assert there.examples(split, language)
        own = set(paths_of(dataclasses.replace(here, before=())))
        for number, path in enumerate(path for path in copied if path in own):
            file = min((tmp_path / path).glob("*")) if (tmp_path / path).is_dir() else tmp_path / path
            with open(file, "a") as stream:
                stream.write("\n")
            assert pinned(PUBLISHED[name]()).data != here.data, path
            with pytest.raises(DataError, match=f"the files of {name} have changed since the study was made"):
                dataclasses.replace(there, sample_seed=number + 1).examples(split, language)  # not read before
            shutil.copy2(root / file.relative_to(tmp_path), file)
        assert pinned(PUBLISHED[name]()).data == here.data

    def test_a_sample_has_its_size_and_all_candidates(self, name: str) -> None:
        task = PUBLISHED[name]()
        sizes = {"train": 5, "dev": 4, "test": 3}
        small = PUBLISHED[name](train_size=5, dev_size=4, test_size=3)
        other = dataclasses.replace(small, sample_seed=1)
        for split, language in task.splits():
            whole, some = task.examples(split, language), small.examples(split, language)
            assert [one for one in whole if one in set(some)] == list(some)  # of the set, in its order
            asked, sought = ([one for one in some if is_candidate(one) == kind] for kind in (False, True))
            assert sought == [one for one in whole if is_candidate(one)]
            assert len(asked) == min(sizes[split], len(whole) - len(sought))
        assert any(small.examples(*one) != other.examples(*one) for one in task.splits())

    def test_samples_of_parallel_test_sets_are_parallel(self, name: str) -> None:
        task, small = PUBLISHED[name](), PUBLISHED[name](test_size=3)
        languages = task.languages if task.role == "target" else ()
        whole, some = (
            [[one.id for one in it.examples("test", language) if not is_candidate(one)] for language in languages]
            for it in (task, small)
        )
        if all(ids == whole[0] for ids in whole):
            assert all(ids == some[0] for ids in some)


def test_targets_share_a_training_stage_where_they_share_a_training_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested, and in which languages, makes no other model."""
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    assert pinned(XQuAD()).for_training() == pinned(Squad()).for_training() == pinned(Squad(dev_size=9)).for_training()
    assert pinned(Xnli()).for_training() == pinned(Xnli(languages_=("sw",), test_size=7)).for_training()
    assert pinned(Xnli(train_size=50)).for_training() != pinned(Xnli()).for_training()
    assert fingerprint(pinned(XQuAD())) != fingerprint(pinned(XQuAD(languages_=("de",))))


def test_a_commit_of_the_hub_is_part_of_the_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    before = pinned(Squad())
    assert "rajpurkar/squad@" in before.data
    assert "google/xquad@" in before.data  # its dev set leaves XQuAD's paragraphs out
    monkeypatch.setattr(revisions, "SQUAD", "0" * 40)
    assert fingerprint(pinned(Squad())) != fingerprint(before)
