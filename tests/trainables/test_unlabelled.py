"""What a model's answers say without labels: confidence by head, agreement between languages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from tests.trainables.heads.test_heads import perfect_logits, random_logits
from trainables.heads import HEADS, Feature, Outputs
from trainables.models.vocabulary import train_vocabulary
from trainables.tasks.base import Task
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.tasks.micro.follows import MicroFollows
from trainables.tasks.micro.span import MicroSpan
from trainables.tasks.micro.tagging import MicroTagging
from trainables.unlabelled import unlabelled_signals

SMALL: dict[str, Any] = {"languages_": ("en", "de", "zh"), "train_size": 8, "dev_size": 8, "test_size": 24}
LABELS = (MicroEntailment(**SMALL), MicroFollows(**SMALL))
TASKS: tuple[Task, ...] = (*LABELS, MicroTagging(**SMALL), MicroSpan(**SMALL), MicroBitext(**SMALL))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    texts = [str(vars(example)) for task in TASKS for name in task.languages for example in task.examples("test", name)]
    return train_vocabulary(texts, 2000)


def outputs_of(
    task: Task, tokenizer: PreTrainedTokenizerFast, scale: float, *, random: bool = False
) -> list[Outputs[Any]]:
    """The right logits times `scale`, or random ones."""
    outputs = []
    for language in task.languages:
        examples = task.examples("test", language)
        features = HEADS[task.head].features(examples, task=task, tokenizer=tokenizer, max_length=128)
        logits = random_logits(task, features) if random else perfect_logits(task, features, len(examples))
        outputs.append(Outputs("test", language, examples, features, [scale * values for values in logits]))
    return outputs


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_confidence_grows_with_the_distance_of_the_logits(task: Task, tokenizer: PreTrainedTokenizerFast) -> None:
    unsure, sure = (unlabelled_signals(outputs_of(task, tokenizer, scale), task)["confidence"] for scale in (0.1, 40.0))
    assert sure == pytest.approx(100.0)
    guessed = unlabelled_signals(outputs_of(task, tokenizer, 1.0, random=True), task)["confidence"]
    assert guessed < 90
    assert unsure < 60 or task.head == "bitext_retrieval"  # which sees directions, not lengths


def test_confidence_leaves_english_out_and_is_the_mean_of_languages() -> None:
    task = MicroEntailment(**SMALL)
    examples = task.examples("test", "de")[:2]
    logits = {"en": [0.0, 0.0], "de": [0.0, np.log(3.0)], "zh": [np.log(9.0), 0.0]}
    outputs = [
        Outputs("test", name, examples, _features(2), [np.array([values])] * 2) for name, values in logits.items()
    ]
    outputs.append(Outputs("dev", "en", examples, _features(2), [np.array([[9.0, 0.0]])] * 2))
    assert unlabelled_signals(outputs, task)["confidence"] == pytest.approx((75 + 90) / 2)


def test_agreement_is_the_mean_over_pairs_of_languages_of_equal_answers_by_id() -> None:
    task = MicroEntailment(**SMALL)
    answers = {"en": [0, 0, 1, 1], "de": [0, 0, 1, 0], "zh": [1, 0, 1]}  # zh lacks the last example
    outputs = []
    for name, labels in answers.items():
        examples = task.examples("test", "en")[: len(labels)]
        outputs.append(
            Outputs("test", name, examples, _features(len(labels)), [np.eye(2)[[label]] for label in labels])
        )
    assert unlabelled_signals(outputs, task)["agreement"] == pytest.approx(100 * (3 / 4 + 2 / 3 + 2 / 3) / 3)


def test_only_labels_on_parallel_tests_agree(tokenizer: PreTrainedTokenizerFast) -> None:
    with_agreement = {
        task.name for task in TASKS if "agreement" in unlabelled_signals(outputs_of(task, tokenizer, 1.0), task)
    }
    assert with_agreement == {task.name for task in LABELS}


def _features(count: int) -> list[Any]:
    return [Feature(index, ((1,),), (0,)) for index in range(count)]
