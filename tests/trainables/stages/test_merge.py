"""The stage that merges trained encoders, and what starts from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.support import recipes
from trainables.benchmark.subjects.rebuild import rebuild
from trainables.hyperparameters import Training
from trainables.models.encoder import load_encoder, load_tokenizer
from trainables.models.task_model import ENCODER
from trainables.stages.base import Workplace, ensure, without_device
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import FineTune
from trainables.stages.merge import MergeEncoders
from trainables.stages.tokenise import Tokenise
from trainables.stages.vocabulary import TOKENIZER
from trainables.store.fingerprint import canonical, fingerprint
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.intermediate import MicroParaphrase, MicroTopic
from trainables.tasks.micro.tagging import MicroTagging

STUDY = recipes.inline()
ROOT = STUDY.encoder_stage(STUDY.sizes[0])
TRAINING = Training(learning_rate=1e-3, steps=2, batch_size=16, seed=0)
TOPIC, PARAPHRASE = (
    FineTune(ROOT, task(**recipes.SMALL).for_training(), TRAINING) for task in (MicroTopic, MicroParaphrase)
)
AVERAGE = MergeEncoders(ROOT, (TOPIC, PARAPHRASE), (0.5, 0.5))


def test_a_merge_is_trained_on_and_scored_like_any_encoder(tmp_path: Path) -> None:
    work = Workplace(StageStore(tmp_path))
    target = MicroTagging(languages_=recipes.LANGUAGES, **recipes.SMALL)
    tuned = FineTune(AVERAGE, target.for_training(), TRAINING)
    scores = ensure(Evaluate(tuned, target), work)
    assert set(scores.metrics["test"]) == set(recipes.LANGUAGES)

    merged, base = work.store.folder(AVERAGE), work.store.folder(ROOT)
    first, second = (
        dict(load_encoder(work.store.folder(stage) / ENCODER).named_parameters()) for stage in AVERAGE.encoders
    )
    start = dict(load_encoder(base / ENCODER).named_parameters())
    for name, value in load_encoder(merged / ENCODER).named_parameters():
        expected = start[name] + (first[name] - start[name]) * 0.5 + (second[name] - start[name]) * 0.5
        assert torch.equal(value, expected), name
    assert not torch.equal(first["encoder.layer.0.output.dense.weight"], second["encoder.layer.0.output.dense.weight"])
    vocabularies = [load_tokenizer(folder / TOKENIZER).get_vocab() for folder in (merged, base)]
    assert vocabularies[0] == vocabularies[1]
    finished = work.store.find(AVERAGE)
    assert finished is not None
    assert finished.metrics["parameters"] == work.store.find(ROOT).metrics["parameters"]  # type: ignore[union-attr]


def test_what_starts_from_a_merge_shares_the_tables_and_labels_of_its_encoder() -> None:
    target = MicroTagging(languages_=recipes.LANGUAGES, **recipes.SMALL)
    plain, after = (FineTune(base, target.for_training(), TRAINING) for base in (ROOT, AVERAGE))
    assert after.features == plain.features
    assert (after.label, after.memory_key) == (plain.label, plain.memory_key)
    assert Evaluate(after, target).features == Evaluate(plain, target).features


def test_the_identity_is_parents_and_weights() -> None:
    others = (
        replace(AVERAGE, weights=(0.25, 0.25)),
        replace(AVERAGE, encoders=(TOPIC, replace(PARAPHRASE, training=replace(TRAINING, seed=1)))),
        MergeEncoders(ROOT, (TOPIC,), (0.5,)),
    )
    assert len({fingerprint(stage) for stage in (AVERAGE, *others)}) == 4
    assert AVERAGE.label == "merge-2-1x32"
    assert rebuild(canonical(AVERAGE)) == AVERAGE, "a benchmark of a model's folder rebuilds its stages"


def test_no_device_is_needed() -> None:
    needed = without_device([FineTune(AVERAGE, MicroTagging(**recipes.SMALL).for_training(), TRAINING)])
    assert AVERAGE in needed
    assert all(isinstance(stage, (MergeEncoders, Tokenise)) for stage in needed)


def test_what_makes_no_merge_is_refused() -> None:
    with pytest.raises(ValueError, match="merge of 2 encoders with 1 weights"):
        replace(AVERAGE, weights=(1.0,))
    with pytest.raises(ValueError, match="merge of 0 encoders"):
        MergeEncoders(ROOT, (), ())
    with pytest.raises(ValueError, match="all must be finite"):
        replace(AVERAGE, weights=(0.5, float("nan")))
    other = replace(ROOT, group_pairs=4)  # type: ignore[call-arg]
    with pytest.raises(ValueError, match="intermediate-micro_topic-1x32, intermediate-micro_paraphrase-1x32 was not"):
        replace(AVERAGE, base=other)
