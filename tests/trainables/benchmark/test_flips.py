"""Predictions served singly, in batches and with padding, for every head and for services whose answers depend on the batch."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.serving import CPU, PAD, tiny_model
from trainables.benchmark.flips import BATCH, EXAMPLES, Flips, count_flips, sampled, summarised
from trainables.benchmark.measurement import FLIPS, Measured, Unavailable
from trainables.benchmark.scenarios.serving import ModelServer
from trainables.benchmark.variants import VARIANTS
from trainables.data.examples import (
    BitextExample,
    ChoiceExample,
    Example,
    PairExample,
    RetrievalText,
    SpanExample,
    TaggingExample,
)
from trainables.evaluation import ExampleSet, Forward, predict
from trainables.heads import HEADS, Feature, Outputs
from trainables.models.task_model import TaskModel
from trainables.tasks.base import Task
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.tasks.micro.span import MicroSpan
from trainables.tasks.micro.tagging import MicroTagging
from trainables.tasks.xtreme.bucc import Bucc
from trainables.tasks.xtreme.mewslix import MewsliX
from trainables.tasks.xtreme.xcopa import Xcopa
from trainables.training.batching import Share

LANGUAGES = ("en", "de", "zh")
CONTEXT = "The answer is one of these sixty characters, whatever they mean."


def row(number: int) -> tuple[int, ...]:
    """4 to 23 tokens that identify the number."""
    name = (5 + number % 40, 5 + number // 40)
    return (0, *name, *(5 + (number * 7 + position) % 40 for position in range(number % 20)), 2)


def window(index: int, ids: tuple[int, ...], *, first: int) -> Feature:
    """A window of an example's `CONTEXT` whose tokens, without the special ones, are a character each from `first` on."""
    offsets = [(-1, -1), *((first + place, first + place + 1) for place in range(len(ids) - 2)), (-1, -1)]
    return Feature(index, (ids,), (), layout=tuple(side for pair in offsets for side in pair))


def sets_of(task: Task, count: int) -> list[ExampleSet]:
    """Test sets of three languages with so many examples each; of retrieval half of them are candidates.

    Texts of span extraction are read in two windows, and an example of multiple choice has a row for each alternative.
    """
    sets = []
    for place, language in enumerate(LANGUAGES):
        examples: list[Example] = []
        features = []
        for index in range(count):
            rows: tuple[tuple[int, ...], ...] = (row(place * count + index),)
            layout: tuple[int, ...] = ()
            name = f"{language}{index}"
            if task.head == "tagging":
                examples.append(TaggingExample(name, ("a", "b"), (task.labels[0], task.labels[0])))
                layout = (0, 1, 2)
            elif task.head == "bitext_retrieval":
                examples.append(BitextExample(name, f"source {name}", f"target {name}"))
                rows = (rows[0], row(1000 + place * count + index))
            elif task.head in ("bitext_mining", "dual_encoder"):
                examples.append(RetrievalText(name, f"text {name}", gold=("x",) if index % 2 else None))
            elif task.head == "span_extraction":
                examples.append(SpanExample(name, "which?", CONTEXT, (("answer", 4),)))
                features.append(window(index, rows[0], first=0))
                features.append(window(index, row(1000 + place * count + index), first=30))
                continue
            elif task.head == "multiple_choice":
                examples.append(ChoiceExample(name, "because", ("a", "b"), 0))
                rows = (rows[0], row(1000 + place * count + index))
            else:
                examples.append(PairExample(name, "a", "b", 0))
            features.append(Feature(index, rows, (), layout=layout))
        sets.append(ExampleSet("test", language, examples, features))
    return sets


def model_of(task: Task) -> TaskModel:
    encoder = tiny_model().encoder
    torch.manual_seed(1)
    return TaskModel(encoder, HEADS[task.head].module(32, task)).eval()


def flips_of(forward: Forward, task: Task, count: int = 40) -> Flips:
    with torch.inference_mode():
        outputs = predict(forward, sets_of(task, count), PAD, share=Share(0, 1, 64), device=CPU)
    return count_flips(forward, task, outputs, pad_id=PAD, device=CPU)


TASKS = (MicroEntailment(), MicroTagging(), MicroSpan(), Xcopa(), MicroBitext(), Bucc(), MewsliX())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.head)
def test_fp32_answers_alike_in_every_batch(task: Task) -> None:
    flips = flips_of(model_of(task).logits, task)
    decisions = 2 * EXAMPLES if task.head == "tagging" else min(EXAMPLES, 60) if task.head in _RETRIEVAL else EXAMPLES
    assert flips == Flips(flips.examples, decisions, scored=0, batch=0, padding=0)
    assert flips.examples == (60 if task.head in _RETRIEVAL else EXAMPLES)


_RETRIEVAL = ("bitext_mining", "dual_encoder")  # half of their 120 texts are candidates


def test_windows_and_alternatives_that_a_batch_changes_are_counted_by_example() -> None:
    """The first token's logits, or the first row's, decide unless the service sees several queries at once."""

    def spans(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        token = 1 if len(ids_NL) == 1 else 2
        return torch.eye(ids_NL.shape[1])[token].expand(len(ids_NL), -1).unsqueeze(-1).expand(-1, -1, 2)

    def choices(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
        chosen = 0 if len(ids_NL) == 2 else 1  # an example alone is two rows
        return (torch.arange(len(ids_NL)) % 2 == chosen).float().unsqueeze(-1)

    for forward, task in ((spans, MicroSpan()), (choices, Xcopa())):
        assert flips_of(forward, task) == Flips(EXAMPLES, EXAMPLES, scored=EXAMPLES, batch=EXAMPLES, padding=0), (
            task.head
        )


def test_a_task_without_a_reference_answer_is_left_out() -> None:
    """Such a set has candidates of retrieval only. Nothing of it is served."""
    task = Bucc()
    outputs: list[Outputs[Any]] = []
    for of_set in sets_of(task, 4):
        texts = [RetrievalText(example.id, "a text", gold=None) for example in of_set.examples]
        outputs.append(Outputs("test", of_set.language, texts, of_set.features, [np.zeros((1, 2))] * len(texts)))
    none = count_flips(by_rows, task, outputs, pad_id=PAD, device=CPU)
    assert none == Flips(0, 0, 0, 0, 0)
    assert [summarised({"none": none, "a": Flips(64, 64, 0, 16, 8)})[name] for name in FLIPS] == [0.0, 25.0, 12.5]
    values = summarised({"none": none})
    assert values["flips"]["none"]["decisions"] == 0
    unknown = Measured({"scores": {}, **values}).flips
    assert isinstance(unknown, Unavailable)
    assert "no test example" in unknown.reason


def by_rows(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
    """Another class in a batch than alone, whatever the length."""
    return torch.eye(2)[[int(len(ids_NL) > 1)] * len(ids_NL)]


def by_length(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
    """Another class for a row that is padded."""
    return torch.eye(2)[(mask_NL.sum(1) < ids_NL.shape[1]).long()]


def test_what_depends_on_the_batch_or_on_padding_is_counted_as_such() -> None:
    task = MicroEntailment()
    assert len(task.labels) == 2
    batched = flips_of(by_rows, task)
    assert batched == Flips(EXAMPLES, EXAMPLES, scored=EXAMPLES, batch=EXAMPLES, padding=0)
    padded = flips_of(by_length, task)
    assert padded.batch == padded.padding, "this service sees nothing else of a batch"
    assert EXAMPLES - 2 * BATCH // 8 < padded.padding < EXAMPLES, (
        "all but the longest of the two batches of random lengths"
    )


@pytest.mark.usefixtures("one_thread")
def test_a_batch_changes_the_scales_of_dynamic_int8() -> None:
    """The reason for the audit. Whether an answer flips is chance; that logits move is not."""
    if reason := VARIANTS["int8"].unavailable(CPU):
        pytest.skip(reason)
    model, rows = model_of(MicroEntailment()), [row(number) for number in range(40)]
    for name, moves in (("fp32", False), ("int8", True)):
        forward = VARIANTS[name].prepare(model, CPU)
        server = ModelServer(forward, [(ids,) for ids in rows], pad_id=PAD, device=CPU, threads=1)
        alone = torch.cat([server.serve_batch([number]) for number in range(len(rows))])
        assert (float((server.serve_batch(range(len(rows))) - alone).abs().max()) > 1e-5) == moves, name


def test_the_sample_is_spread_over_languages_and_depends_on_the_seed_alone() -> None:
    task = MicroEntailment()

    def drawn(seed: int) -> list[str]:
        outputs = [
            Outputs(
                "test", of_set.language, of_set.examples, of_set.features, [np.zeros((1, 2))] * len(of_set.features)
            )
            for of_set in sets_of(task, 40)
        ]
        sample, examples = sampled(outputs, task, seed)
        assert examples == len(sample.examples) == EXAMPLES
        assert [feature.example for feature in sample.features] == list(range(EXAMPLES))
        return [example.id for example in sample.examples]

    names = drawn(0)
    counts = [sum(name.startswith(language) for name in names) for language in LANGUAGES]
    assert counts == [22, 21, 21]
    assert drawn(0) == names != drawn(1)


def test_windows_of_a_text_stay_together() -> None:
    @dataclasses.dataclass(frozen=True)
    class Windowed:
        """Two features for each example of a set."""

        of: ExampleSet

        def outputs(self) -> Outputs[Any]:
            features = [feature for feature in self.of.features for _ in range(2)]
            logits = [np.full((1, 2), place % 2) for place in range(len(features))]
            return Outputs("test", self.of.language, self.of.examples, features, logits)

    outputs = [Windowed(of_set).outputs() for of_set in sets_of(MicroEntailment(), 5)]
    sample, examples = sampled(outputs, MicroEntailment(), 0)
    assert examples == 15
    assert [feature.example for feature in sample.features] == [place // 2 for place in range(30)]
    assert [int(values[0, 0]) for values in sample.logits] == [0, 1] * 15


def test_shares_are_means_over_tasks_and_a_measurement_without_them_says_why() -> None:
    values = summarised({"a": Flips(64, 64, 0, 16, 8), "b": Flips(64, 1000, 10, 0, 20)})
    assert [values[name] for name in FLIPS] == [0.5, 12.5, 7.25]
    assert values["flips_examples"] == 128
    assert values["flips"]["b"]["decisions"] == 1000
    assert Measured({"scores": {}, **values}).flips == {name: values[name] for name in FLIPS}
    for earlier, reason in ((Measured({"scores": {}}), "earlier version"), (Measured({}), "nothing was scored")):
        unknown = earlier.flips
        assert isinstance(unknown, Unavailable)
        assert reason in unknown.reason
