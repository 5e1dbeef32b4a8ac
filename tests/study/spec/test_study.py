"""The rules of a study, and that all violations are reported at once."""

from __future__ import annotations

import dataclasses

import pytest

from study.spec import InvalidStudy, Size
from study.spec.space import LogUniform, Repeats
from tests.support import recipes
from tests.support.recipes import published_study
from trainables.models.catalogue import published
from trainables.resources import Resources
from trainables.stages.finetune import FineTune


def test_a_study_of_published_encoders_needs_no_corpus_and_a_ladder_does() -> None:
    study = published_study(Size("b", published("mbert"), Resources(), rate_factor=2.0))
    size, choice = study.sizes[0], study.space.defaults()[1]
    evaluate = study.chain(size, choice)[0]
    root = study.encoder_stage(size)
    assert isinstance(evaluate.model, FineTune)
    assert evaluate.label == "evaluate-micro_tagging-mbert"
    assert evaluate.features.tokenizer == root
    assert evaluate.model.training.learning_rate == 2.0 * choice.lr_target
    assert study.encoder_resources(size).inline
    assert study.with_seed(3).sizes == study.sizes
    with pytest.raises(ValueError, match="baseline for the ladder's encoders"):
        study.encoder_stage(size, trained=False)
    with pytest.raises(InvalidStudy, match="corpus: required to pre-train") as refused:
        published_study(recipes.tiny().sizes[0])
    assert len(refused.value.errors) == 3


def test_unpadded_training_is_refused_where_attention_needs_padding() -> None:
    with pytest.raises(InvalidStudy, match=r"sizes\[m\]: unpad: its attention adds a learned bias"):
        published_study(Size("m", published("mt5-small"), Resources(unpad=True)))
    with pytest.raises(InvalidStudy, match=r"sizes\[x\]: unpad: .* computes in bf16, and training is in fp32"):
        published_study(Size("x", published("xlm-r-base"), Resources(unpad=True, gpus=1)))
    with pytest.raises(InvalidStudy, match=r"sizes\[x\]: unpad: .* needs a GPU"):
        published_study(Size("x", published("xlm-r-base"), Resources(unpad=True)))


def test_all_faults_of_a_study_are_reported_at_once() -> None:
    study = recipes.tiny()
    with pytest.raises(InvalidStudy) as refused:
        dataclasses.replace(
            study,
            name="Tiny Study",
            trials=1,
            reduction_factor=1,
            first_rung=0,
            targets=study.targets[::-1],
            sizes=(study.sizes[0], study.sizes[0]),
            repeats=Repeats(seeds=0),
            space=dataclasses.replace(study.space, lr_target=LogUniform(1e-3, 1e-4, 1e-3), epochs=(0.0,)),
        )
    errors = "\n".join(refused.value.errors)
    for fault in (
        *("name 'Tiny Study'", "trials 1", "reduction_factor 1", "first_rung 0", "targets: the first"),
        *("'1x32' appears twice", "repeats", "space.lr_target LogUniform", "space.epochs"),
    ):
        assert fault in errors
