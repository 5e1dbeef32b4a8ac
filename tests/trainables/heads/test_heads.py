"""Heads: features lead back to the reference, long texts are split, scores merge, batches have the right shapes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from trainables.data.examples import Example, SpanExample, TaggingExample
from trainables.heads import HEADS, Feature, Outputs
from trainables.heads.base import IGNORED
from trainables.metrics import METRICS, Counts
from trainables.models.vocabulary import train_vocabulary
from trainables.tasks.base import Task
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.compose import MicroTask
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.tasks.micro.follows import MicroFollows
from trainables.tasks.micro.span import MicroSpan
from trainables.tasks.micro.tagging import MicroTagging
from trainables.training.batching import collate

LANGUAGES = ("en", "de", "zh", "ar", "ja")
MAX_LENGTH = 128
BY_HEAD: dict[str, type[MicroTask]] = {
    "pair_classification": MicroEntailment,
    "multiple_choice": MicroFollows,
    "tagging": MicroTagging,
    "span_extraction": MicroSpan,
    "bitext_retrieval": MicroBitext,
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    corpus = MicroCorpus(languages=LANGUAGES, sentences=400).parallel()
    return train_vocabulary((text for texts in corpus for text in texts.values()), 2000)


def make(name: str) -> Task:
    return BY_HEAD[name](languages_=LANGUAGES, test_size=120)


def features_of(
    task: Task, examples: Sequence[Example], tokenizer: PreTrainedTokenizerFast, max_length: int = MAX_LENGTH
) -> list[Feature]:
    return HEADS[task.head].features(examples, task=task, tokenizer=tokenizer, max_length=max_length)


def decode(task: Task, logits: Sequence[np.ndarray], features: Sequence[Feature], examples: Sequence[Any]) -> list[Any]:
    return HEADS[task.head].decode(Outputs("test", task.languages[0], examples, features, logits), task)


def perfect_logits(task: Task, features: Sequence[Feature], count: int) -> list[np.ndarray]:
    """The logits of a model that is always right and certain, for each feature."""
    logits = []
    for feature in features:
        length = feature.length
        if task.head == "pair_classification":
            values = np.eye(len(task.labels))[list(feature.target)]
        elif task.head == "multiple_choice":
            values = np.eye(len(feature.rows))[feature.target[0]][:, None]
        elif task.head == "tagging":
            wanted = [max(label, 0) for label in feature.target]
            values = np.eye(len(task.labels))[wanted].reshape(1, length, -1)
        elif task.head == "span_extraction":
            values = np.stack([np.eye(length)[position] for position in feature.target], axis=-1)[None]
        else:
            values = np.repeat(np.eye(count)[feature.example % count][None], 2, axis=0)
        logits.append(values.astype(np.float32))
    return logits


def random_logits(task: Task, features: Sequence[Feature]) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    shaped = [values.shape for values in perfect_logits(task, features, 16)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shaped]


def scored(task: Task, logits: Sequence[np.ndarray], features: Sequence[Feature], examples: Sequence[Any]) -> float:
    references = [HEADS[task.head].reference(example, task) for example in examples]
    return METRICS[task.metric].score(decode(task, logits, features, examples), references)


@pytest.mark.parametrize("name", BY_HEAD)
class TestEveryHead:
    def test_the_right_target_decodes_to_the_reference(self, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
        task = make(name)
        for language in task.languages:
            examples = task.examples("test", language)
            features = features_of(task, examples, tokenizer)
            predictions = decode(task, perfect_logits(task, features, len(examples)), features, examples)
            for prediction, example in zip(predictions, examples, strict=True):
                reference = HEADS[name].reference(example, task)
                right = reference if name == "span_extraction" else [reference]
                assert prediction in right, (language, example)

    def test_perfect_predictions_score_100(self, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
        task = make(name)
        for language in task.languages:
            examples = task.examples("test", language)
            features = features_of(task, examples, tokenizer)
            assert scored(task, perfect_logits(task, features, len(examples)), features, examples) == 100.0

    def test_random_logits_score_no_better_than_chance(self, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
        task = make(name)
        language = task.languages[0]
        examples = task.examples("test", language)
        features = features_of(task, examples, tokenizer)
        score, chance = scored(task, random_logits(task, features), features, examples), task.chance()
        # Four binomial standard errors. A random span or tag sequence may be worse than a guess among whole parts.
        margin = 4 * np.sqrt(max(chance, 1.0) * (100 - chance) / len(examples))
        assert score <= chance + margin
        if name in ("pair_classification", "multiple_choice"):
            assert score >= chance - margin

    def test_confidence_of_a_head_that_cascades_follows_from_the_outputs_for_one_example(
        self, name: str, tokenizer: PreTrainedTokenizerFast
    ) -> None:
        """Rows of at most 24 tokens split the longer texts, whose windows belong together."""
        task, head = make(name), HEADS[name]
        examples = task.examples("test", "de")[:12]
        features = features_of(task, examples, tokenizer, max_length=24)
        logits = random_logits(task, features)
        together = head.confidence(Outputs("test", "de", examples, features, logits), task)
        assert together is not None
        alone = []
        for index, example in enumerate(examples):
            pairs = zip(features, logits, strict=True)
            own = [(feature, values) for feature, values in pairs if feature.example == index]
            moved = [dataclasses.replace(feature, example=0) for feature, _ in own]
            outputs = Outputs("test", "de", [example], moved, [values for _, values in own])
            alone += head.confidence(outputs, task) or []
        assert all(0 <= value <= 1 for value in together)
        assert (alone == pytest.approx(together)) == head.cascades

    def test_scores_merge_over_shards(self, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
        task = make(name)
        examples = task.examples("test", task.languages[0])
        features = features_of(task, examples, tokenizer)
        predictions = decode(task, random_logits(task, features), features, examples)
        right = [HEADS[name].reference(example, task) for example in examples]
        metric = METRICS[task.metric]
        shards = [metric.total(predictions[rank::3], right[rank::3]) for rank in range(3)]
        assert metric.value(sum(shards, Counts())) == pytest.approx(metric.score(predictions, right))

    def test_batches_are_padded_and_masked(self, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
        task = make(name)
        features = features_of(task, task.examples("test", task.languages[0])[:9], tokenizer)
        batch = collate(features, HEADS[name], tokenizer.pad_token_id)
        rows = [row for feature in features for row in feature.rows]
        shape = tuple(batch["input_ids"].shape)
        assert shape == tuple(batch["attention_mask"].shape)
        assert shape[0] == len(rows)
        assert 0 <= shape[1] - max(map(len, rows)) < 8  # at most up to a multiple of 8
        for row, ids, mask in zip(rows, batch["input_ids"], batch["attention_mask"], strict=True):
            assert ids[: len(row)].tolist() == list(row)
            assert mask.tolist() == [1] * len(row) + [0] * (shape[1] - len(row))
            assert set(ids[len(row) :].tolist()) <= {tokenizer.pad_token_id}
        if "labels" in batch and name == "tagging":
            assert tuple(batch["labels"].shape) == shape
            assert bool((batch["labels"][batch["attention_mask"] == 0] == IGNORED).all())
        elif "labels" in batch:
            assert batch["labels"].tolist() == [feature.target[0] for feature in features]

    def test_the_head_reads_a_batch(self, name: str, tokenizer: PreTrainedTokenizerFast) -> None:
        """The loss of a batch is the sum over its features', whatever they are padded to."""
        task = make(name)
        torch.manual_seed(0)
        module, table = HEADS[name].module(8, task), torch.nn.Embedding(len(tokenizer), 8)
        features = features_of(task, task.examples("test", task.languages[0])[:5], tokenizer)
        if name == "bitext_retrieval":
            with pytest.raises(ValueError, match="not trained"):
                module.loss(torch.zeros(1), {})
            return

        def loss(chosen: Sequence[Feature]) -> float:
            batch = collate(chosen, HEADS[name], tokenizer.pad_token_id)
            return module.loss(module(table(batch["input_ids"]), batch["attention_mask"]), batch).item()

        assert loss(features) == pytest.approx(sum(loss([feature]) for feature in features), rel=1e-4)


def test_long_tagging_sentences_are_split_and_never_truncated(tokenizer: PreTrainedTokenizerFast) -> None:
    task = make("tagging")
    parts = [example for example in task.examples("test", "en")[:12] if isinstance(example, TaggingExample)]
    words = tuple(word for example in parts for word in example.words)
    tags = tuple(tag for example in parts for tag in example.tags)
    example = TaggingExample("long", words, tags)
    features = features_of(task, [example], tokenizer, max_length=24)
    assert len(features) > 3
    assert max(feature.length for feature in features) <= 24
    assert sum(feature.weight for feature in features) == len(words)  # each word is supervised once
    predictions = decode(task, perfect_logits(task, features, 1), features, [example])
    assert predictions == [list(tags)]


@pytest.mark.parametrize("place", [0, 7, 20, 33, 46, 59])
def test_long_contexts_are_read_in_windows(tokenizer: PreTrainedTokenizerFast, place: int) -> None:
    task = make("span_extraction")
    names = ["days", "months"] * 30
    names[place] = "weeks"
    context = " ".join(names)
    example = SpanExample("long", "years", context, (("weeks", context.index("weeks")),))
    features = features_of(task, [example], tokenizer, max_length=24)
    assert len(features) > 3
    assert max(feature.length for feature in features) <= 24
    holding_the_answer = [feature for feature in features if feature.target != (0, 0)]
    assert 0 < len(holding_the_answer) < len(features)
    predictions = decode(task, perfect_logits(task, features, 1), features, [example])
    assert predictions == ["weeks"]
