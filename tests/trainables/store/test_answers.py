"""Predictions and references by example count again for what they counted, with words numbered and candidates named."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.serving import CPU, PAD
from tests.trainables.benchmark.test_flips import TASKS, model_of, sets_of
from trainables.data.examples import BitextExample, RetrievalPair, RetrievalText
from trainables.evaluation import Answer, predict, score_outputs
from trainables.heads import HEADS, Feature, Outputs
from trainables.metrics import METRICS
from trainables.metrics.numbered import numbered
from trainables.store.answers import ANSWERS, TEXTS, answers_table, count_again, write_answers
from trainables.store.examples import read_example_scores
from trainables.tasks.base import Task
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.xtreme.bucc import Bucc
from trainables.tasks.xtreme.mewslix import MewsliX
from trainables.training.batching import Share

WORDS = (
    "the",
    "a",
    "Cat's",
    "cat",
    "sat",
    "der",
    "das",
    "Über",
    "uber",
    "猫",
    "坐",
    "ال",
    "القط",
    "w0",
    "of",
    "un",
    "",
    "!",
)
LANGUAGES = ("ar", "de", "en", "es", "hi", "vi", "zh")


@dataclass(frozen=True)
class Answered:
    """The answers of a set."""

    split: str
    language: str
    answers: tuple[Answer, ...] = field(default=())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("task", [task for task in TASKS if not isinstance(task, Bucc)], ids=lambda task: task.head)
def test_an_evaluations_answers_count_for_its_sums(task: Task) -> None:
    with torch.inference_mode():
        outputs = predict(model_of(task).logits, sets_of(task, 20), PAD, share=Share(0, 1, 64), device=CPU)
    scores = score_outputs(outputs, task)
    assert scores
    table = answers_table(scores, task.metric)
    again = [
        count_again(task.metric, prediction=row["prediction"], reference=row["reference"], language=row["language"])
        for row in table.to_dict("records")
    ]
    assert again == [counts for score in scores for counts in score.per_example]
    assert not any("target " in text for column in ("prediction", "reference") for text in table[column])


def _texts(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randrange(5)))


@pytest.mark.parametrize("metric", ["f1_em", "squad2_f1_em", "mlqa_f1_em"])
def test_numbered_words_count_as_the_words_do(metric: str) -> None:
    rng, chosen = random.Random(metric), METRICS[metric]
    normaliser = chosen.normaliser
    assert normaliser is not None
    seen = set()
    for _ in range(2000):
        language, prediction = rng.choice(LANGUAGES), _texts(rng)
        reference = [rng.choice((_texts(rng), prediction)) for _ in range(rng.randint(1, 3))]
        hidden = numbered(prediction, reference, language=language, normaliser=normaliser)
        counts = chosen.count(prediction, reference, language)
        assert chosen.count(*hidden, language) == counts
        assert not set(" ".join((hidden[0], *hidden[1])).split()) & {"cat", "über", "猫", "of"}
        seen.add(round(counts["f1"], 2))
    assert len(seen) > 5


def test_texts_are_written_to_a_file_of_their_own(tmp_path: Path) -> None:
    sets = [Answered("test", "en", (Answer("q1", "the red house", ["red house", "a house"]),))]
    write_answers(sets, "f1_em", tmp_path)
    (plain,) = read_example_scores(tmp_path / ANSWERS).to_dict("records")
    assert (json.loads(plain["prediction"]), json.loads(plain["reference"])) == ("w0 w1", ["w0 w1", "w1"])
    assert b"house" not in (tmp_path / ANSWERS).read_bytes()
    (words,) = read_example_scores(tmp_path / TEXTS).to_dict("records")
    assert (words["id"], json.loads(words["prediction"])) == ("q1", "the red house")
    write_answers([Answered("test", "en", (Answer("s1", 1, 0),))], "accuracy", tmp_path / "labels")
    assert not (tmp_path / "labels" / TEXTS).exists()


def _outputs(examples: list[Any], vectors: list[Any], split: str = "test") -> Outputs[Any]:
    features = [Feature(number, (), ()) for number in range(len(examples))]
    return Outputs(split, "en", examples, features, [np.asarray(vector, dtype=np.float32) for vector in vectors])


def test_candidates_that_are_texts_have_names() -> None:
    """The second sentence finds the first's translation, which the third shares: its name is the first that has it."""
    east, north = [1.0, 0.0], [0.0, 1.0]
    examples = [BitextExample("1", "eins", "one"), BitextExample("2", "zwei", "two"), BitextExample("3", "1", "one")]
    (score,) = score_outputs([_outputs(examples, [[east, east], [east, north], [east, east]])], MicroBitext())
    assert [answer.reference for answer in score.answers] == ["0", "1", "0"]
    assert [answer.prediction for answer in score.answers] == ["0", "0", "0"]
    assert [counts["correct"] for counts in score.per_example] == [1.0, 0.0, 1.0]


def test_answers_of_pairs_have_names_and_ids_stay_ids() -> None:
    east, north = [1.0, 0.0], [0.0, 1.0]
    pairs = [RetrievalPair("a", "query a", "answer a"), RetrievalPair("b", "query b", "answer b")]
    texts = [RetrievalText("q", "query", gold=("Q1",)), RetrievalText("Q1", "entity"), RetrievalText("Q2", "other")]
    sets = [_outputs(pairs, [[east, east], [north, north]], "dev"), _outputs(texts, [[east], [east], [north]])]
    dev, test = score_outputs(sets, MewsliX())
    assert [(answer.prediction, answer.reference) for answer in dev.answers] == [
        (["0", "1"], ["0"]),
        (["1", "0"], ["1"]),
    ]
    assert [(answer.id, answer.prediction, answer.reference) for answer in test.answers] == [
        ("q", ["Q1", "Q2"], ["Q1"])
    ]
    assert HEADS["dual_encoder"].candidate_names(sets[1:]) == [{}]
