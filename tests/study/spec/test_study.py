"""The rules of a study, and that all violations are reported at once."""

from __future__ import annotations

import dataclasses
import math

import pytest

from study.recipes.quickstart import quickstart
from study.spec import InvalidStudy, Size
from study.spec.space import LogUniform, Repeats
from tests.support import recipes
from tests.support.recipes import published_study
from trainables.models.catalogue import published
from trainables.resources import Resources
from trainables.stages.finetune import FineTune
from trainables.tasks.micro.intermediate import MicroParaphrase, MicroTopic
from trainables.tasks.mixture import Mixture


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


@pytest.mark.parametrize("name", ["../x", "", "a/b", "a\nb", "it's", "a b", "x" * 101, ".hidden"])
def test_a_size_s_name_is_fit_for_folders_and_filters(name: str) -> None:
    study = recipes.inline()
    with pytest.raises(InvalidStudy, match=r"sizes: name .*: at most 100 letters"):
        dataclasses.replace(study, sizes=(dataclasses.replace(study.sizes[0], name=name),))


def test_names_that_stand_for_something_else_are_refused() -> None:
    study = recipes.inline()
    (size,) = study.sizes
    with pytest.raises(InvalidStudy, match=r"'1x32.repeats': may not end with .repeats"):
        dataclasses.replace(study, sizes=(size, dataclasses.replace(size, name="1x32.repeats")))
    members = (MicroTopic(), MicroParaphrase())
    for name, rule in (("none", "stands for no intermediate task"), ("a/b", "at most 100 letters")):
        with pytest.raises(InvalidStudy, match=rule):
            dataclasses.replace(study, space=dataclasses.replace(study.space, intermediates=(Mixture(name, members),)))


def test_values_are_finite() -> None:
    study = recipes.inline()
    with pytest.raises(InvalidStudy) as refused:
        dataclasses.replace(
            study,
            seed=2**31,
            sizes=(dataclasses.replace(study.sizes[0], rate_factor=math.inf),),
            space=dataclasses.replace(
                study.space,
                lr_intermediate=(math.inf,),
                lr_target=LogUniform(1e-4, math.inf, 1e-3),
                epochs=(math.inf,),
            ),
        )
    assert [error.split(":")[0].split(" ")[0] for error in refused.value.errors] == [
        *("space.lr_intermediate", "space.lr_target", "space.epochs", "seed", "sizes[1x32]"),
    ]


def test_trials_do_not_draw_the_seed_that_the_study_has() -> None:
    study = recipes.inline()
    drawing = dataclasses.replace(study, space=dataclasses.replace(study.space, seeds=(1, 2)))
    with pytest.raises(InvalidStudy, match=r"space\.seeds \(1, 2\): 1 is the study's own seed"):
        drawing.replace(seed=1)


def test_a_size_tries_the_intermediate_tasks_that_it_names() -> None:
    study = recipes.inline()
    names = study.space.names[1:]
    size = dataclasses.replace(study.sizes[0], intermediates=names[:1])
    restricted = dataclasses.replace(study, sizes=(size,))
    assert restricted.space_of(size).names == ("none", names[0])
    assert restricted.budget(size) <= restricted.space_of(size).choice_count
    with pytest.raises(InvalidStudy, match=r"sizes\[1x32\]: no intermediate task 'absent' in this study"):
        dataclasses.replace(study, sizes=(dataclasses.replace(size, intermediates=("absent",)),))


def test_the_command_line_names_the_intermediate_tasks_that_every_size_tries() -> None:
    study = quickstart()
    topic, paraphrase = study.space.names[1:3]
    every = dataclasses.replace(study.sizes[0], trials=None, intermediates=None)
    other = dataclasses.replace(every, name="other", intermediates=(paraphrase,))
    some = dataclasses.replace(study, sizes=(every, other)).replace(intermediates=(topic,))
    assert [some.space_of(size).names for size in some.sizes] == [("none", topic), ("none",)]
    assert some.encoder_stage(some.sizes[0]) == study.encoder_stage(every)
    alone = study.replace(intermediates=("none",))
    assert {alone.space_of(size).names for size in alone.sizes} == {("none",)}
    assert study.replace(intermediates=(paraphrase, topic)) == study.replace(intermediates=(topic, paraphrase, topic))
    with pytest.raises(InvalidStudy, match=f"--intermediates: no intermediate task 'absent'; there are .*{topic}"):
        study.replace(intermediates=("absent",))


def test_an_order_that_the_allocation_would_ignore_is_refused() -> None:
    ordered = dataclasses.replace(recipes.tiny(), first_by="text_similarity")
    with pytest.raises(InvalidStudy, match="first_by 'text_similarity': without effect where allocation is 'front'"):
        dataclasses.replace(ordered, allocation="front")


def test_all_faults_of_a_study_are_reported_at_once() -> None:
    study = recipes.tiny()
    with pytest.raises(InvalidStudy) as refused:
        dataclasses.replace(
            study,
            name="Tiny Study",
            trials=1,
            reduction_factor=1,
            allocation="rear",  # type: ignore[arg-type]
            first_rung=0,
            targets=study.targets[::-1],
            sizes=(study.sizes[0], study.sizes[0]),
            repeats=Repeats(seeds=0),
            space=dataclasses.replace(study.space, lr_target=LogUniform(1e-3, 1e-4, 1e-3), epochs=(0.0,)),
        )
    errors = "\n".join(refused.value.errors)
    for fault in (
        *(
            "name 'Tiny Study'",
            "trials 1",
            "reduction_factor 1",
            "allocation 'rear'",
            "first_rung 0",
            "targets: the first",
        ),
        *("'1x32' appears twice", "repeats", "space.lr_target LogUniform", "space.epochs"),
    ):
        assert fault in errors
