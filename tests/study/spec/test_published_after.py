"""Published arms: a size's checkpoint as others trained it further."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from study.planning.stages import stages_of
from study.planning.tables import choices_table
from study.spec import Card, InvalidStudy, PublishedAfter, PublishedEncoder, Resources, Size, Space, Study
from study.spec.data_check import arm_records, contamination_flags, seen_flags, seen_flags_of_arms
from tests.support import recipes
from trainables.models.catalogue import published
from trainables.models.published_encoder import pinned_encoder
from trainables.stages.finetune import FineTune
from trainables.stages.import_encoder import ImportEncoder
from trainables.stages.tokenise import Tokenise
from trainables.store.fingerprint import fingerprint

E5 = pinned_encoder(published("e5-base"))  # trained from XLM-R base on translations and others


def study_with(arm: PublishedAfter, *sizes: Size) -> Study:
    study = recipes.published_study(*(sizes or (size_of("xlm-r-base"),)))
    space = Space((arm,), lr_intermediate=(1e-3,), lr_target=(1e-3,))
    return replace(study, space=space, trials=2)


def size_of(name: str, **changes: Any) -> Size:
    return Size(name, pinned_encoder(published(name)), Resources(), **changes)


def test_the_targets_start_from_the_other_checkpoint() -> None:
    study = study_with(PublishedAfter("e5", (("xlm-r-base", E5),)))
    size = study.sizes[0]
    none, choice = study.space.defaults()
    assert choice.lr_intermediate is None
    assert study.base(size, choice) == ImportEncoder(E5)
    assert study.encoder_stages(size) == (study.encoder_stage(size), ImportEncoder(E5))
    tagging, _, bitext = study.chain(size, choice)
    assert isinstance(tagging.model, FineTune)
    assert tagging.model.base == bitext.model == ImportEncoder(E5)
    assert tagging.model.training == study.chain(size, none)[0].model.training  # type: ignore[union-attr]


def test_nothing_is_shared_with_the_size_s_encoder_but_no_intermediate_training_is_needed() -> None:
    study = study_with(PublishedAfter("e5", (("xlm-r-base", E5),)))
    of_none, of_arm = (
        {fingerprint(stage): stage for leaf in study.chain(study.sizes[0], choice) for stage in stages_of(leaf)}
        for choice in study.space.defaults()
    )
    assert not of_none.keys() & of_arm.keys()
    assert sum(isinstance(stage, Tokenise) for stage in of_arm.values()) == 5  # two train sets, three scored
    trainings = [
        [stage.label.split("-")[0] for stage in stages.values() if isinstance(stage, FineTune)]
        for stages in (of_none, of_arm)
    ]
    assert trainings == [["target"] * 2] * 2


def test_marks_belong_to_the_size_and_the_arm() -> None:
    seen = replace(E5, name="other", card=Card("mean", seen=("bitext",)))
    sizes = (size_of("xlm-r-base"), replace(size_of("xlm-r-base"), name="again"))
    study = study_with(
        PublishedAfter("more", (("xlm-r-base", replace(E5, card=Card("mean"))), ("again", seen))), *sizes
    )
    bitext = study.targets[2].name
    assert [seen_flags_of_arms(study, size) for size in sizes] == [{}, {"more": {bitext: "bitext"}}]
    assert seen_flags(study) == {}
    assert contamination_flags(study) == {}


def test_the_languages_of_its_labelled_data_are_those_its_card_states_or_unknown() -> None:
    in_some, in_others = (
        replace(E5, name=name, card=Card("mean", labelled_languages=languages))
        for name, languages in (("some", ("en", "de", "sw")), ("others", ("en", "fr")))
    )
    silent = replace(E5, card=Card("mean", seen=("bitext",)))
    sizes = (size_of("xlm-r-base"), replace(size_of("xlm-r-base"), name="again"))

    def arm(first: PublishedEncoder, second: PublishedEncoder) -> PublishedAfter:
        return PublishedAfter("more", (("xlm-r-base", first), ("again", second)))

    assert arm(in_some, in_others).trained_languages == ("de", "sw", "fr")
    assert arm(in_some, silent).trained_languages is None
    study = study_with(arm(in_some, silent), *sizes)
    assert arm_records(study) == {"more": {"members": [], "languages": None}}
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(choices_table(study))
    assert "languages of its labelled data unknown" in console.export_text()


@pytest.mark.parametrize(
    ("encoder", "size", "error"),
    [
        (
            published("e5-small"),
            "xlm-r-base",
            "not trained from FacebookAI/xlm-roberta-base: family bert instead of xlm-rob",
        ),
        (
            published("e5-base"),
            "xlm-r-large",
            "layers 12 instead of 24, width 768 instead of 1024, attention heads 12 inst",
        ),
        (published("e5-base", layers=6), "xlm-r-base", "layers 6 instead of 12"),
        (published("xlm-r-base"), "xlm-r-base", "FacebookAI/xlm-roberta-base is the size's own encoder"),
        (replace(published("e5-base"), layers=13), "xlm-r-base", "layers 13: the checkpoint has 12"),
    ],
)
def test_a_checkpoint_of_another_shape_is_refused(encoder: PublishedEncoder, size: str, error: str) -> None:
    with pytest.raises(InvalidStudy, match=error) as refused:
        study_with(PublishedAfter("after", ((size, pinned_encoder(encoder)),)), size_of(size))
    assert len(refused.value.errors) == 1


def test_an_encoder_of_the_study_s_own_ladder_has_no_published_arm() -> None:
    study = recipes.inline()
    space = Space((PublishedAfter("e5", (("1x32", E5),)),), lr_intermediate=(1e-3,), lr_target=(1e-3,))
    with pytest.raises(InvalidStudy, match=r"sizes\[1x32\]: e5: the size's encoder is pre-trained by the study"):
        replace(study, space=space)


def test_a_size_without_a_checkpoint_says_so_in_its_intermediates() -> None:
    arm = PublishedAfter("e5", (("xlm-r-base", E5),))
    with pytest.raises(InvalidStudy, match=r"sizes\[xlm-r-large\]: e5 has no checkpoint for this size"):
        study_with(arm, size_of("xlm-r-base"), size_of("xlm-r-large"))
    large = size_of("xlm-r-large", intermediates=())
    study = study_with(arm, size_of("xlm-r-base"), large)
    assert study.encoder_stages(large) == (study.encoder_stage(large),)
    assert study.replace(sizes=("xlm-r-large",)).sizes == (large,), (
        "a checkpoint of a size that is left out is no error"
    )
    with pytest.raises(InvalidStudy, match="e5: two checkpoints for size xlm-r-base"):
        study_with(PublishedAfter("e5", arm.encoders * 2))


def test_what_its_card_has_seen_and_its_revision_are_checked() -> None:
    wrong = replace(E5, card=Card(seen=("squad_trian",)))
    with pytest.raises(InvalidStudy, match=r"sizes\[xlm-r-base\]: the card of e5-base has seen 'squad_trian'"):
        study_with(PublishedAfter("e5", (("xlm-r-base", wrong),)))
    open_ = dataclasses.replace(E5, revision=None)
    study = study_with(PublishedAfter("e5", (("xlm-r-base", open_),)))
    assert [line.split(":")[0] for line in study.unpinned] == ["intfloat/multilingual-e5-base"]
