"""`study.json`: what may change between runs of an output folder, and what may not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from study.errors import CannotRun
from study.recipes.quickstart import quickstart
from study.run.identity import STUDY_FILE, check_identity
from study.spec import Study, precision
from study.spec.precision import ResolvedPrecision
from tests.support import recipes
from trainables.hyperparameters import Precision
from trainables.resources import Resources


def _in(study: Study, chosen: Precision) -> Study:
    return dataclasses.replace(study, tuning=dataclasses.replace(study.tuning, precision=chosen))


def _on(study: Study, resources: Resources) -> Study:
    return dataclasses.replace(
        study, sizes=tuple(dataclasses.replace(size, resources=resources) for size in study.sizes)
    )


def test_a_damaged_study_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / STUDY_FILE
    check_identity(recipes.inline(), tmp_path)
    check_identity(recipes.inline(), tmp_path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(CannotRun, match=rf"{STUDY_FILE} is damaged"):
        check_identity(recipes.inline(), tmp_path)


def test_resources_repeats_and_sizes_may_change(tmp_path: Path) -> None:
    tiny = recipes.tiny()
    first, second = (dataclasses.replace(tiny, sizes=(size,)) for size in tiny.sizes)
    for study in (first, second, tiny, first.replace(repeats=1), _on(tiny, Resources(workers=2, zero_stage=3))):
        check_identity(study, tmp_path)


@pytest.mark.parametrize("first", [("micro_topic",), None])
def test_what_a_search_tries_may_not_change(first: tuple[str, ...] | None, tmp_path: Path) -> None:
    """With a budget that either allows."""
    study = quickstart()
    sizes = tuple(dataclasses.replace(size, trials=None, intermediates=None) for size in study.sizes[1:2])
    every = dataclasses.replace(study, sizes=sizes, trials=6)
    some = every.replace(intermediates=("micro_topic",))
    begun, other = (every, some) if first is None else (some, every)
    check_identity(begun, tmp_path)
    with pytest.raises(CannotRun, match=r"different (trials of size 2x128, )?intermediates of size 2x128\); .*stages/"):
        check_identity(other, tmp_path)
    check_identity(begun, tmp_path)


def test_a_ranking_decides_nothing_about_a_later_search_and_follows_an_earlier_one(tmp_path: Path) -> None:
    every = recipes.inline()
    none = every.replace(intermediates=("none",), trials=2)
    check_identity(every, tmp_path, searches=False)
    check_identity(none, tmp_path)
    check_identity(every, tmp_path, searches=False)
    with pytest.raises(CannotRun, match="different trials of size 1x32, intermediates of size 1x32"):
        check_identity(every, tmp_path)
    check_identity(none, tmp_path)


def test_the_allocation_of_trials_is_part_of_the_identity_and_equal_budgets_go_unsaid(tmp_path: Path) -> None:
    """Folders of earlier versions, which knew equal budgets alone, stay valid."""
    check_identity(recipes.inline(), tmp_path)
    assert "allocation" not in (tmp_path / STUDY_FILE).read_text()
    with pytest.raises(CannotRun, match="different allocation"):
        check_identity(dataclasses.replace(recipes.inline(), allocation="front"), tmp_path)


def test_a_size_of_the_same_name_must_be_the_same(tmp_path: Path) -> None:
    tiny = recipes.tiny()
    first, second = tiny.sizes
    check_identity(dataclasses.replace(tiny, sizes=(first,)), tmp_path)
    check_identity(dataclasses.replace(tiny, sizes=(second,)), tmp_path)
    stored = (tmp_path / STUDY_FILE).read_bytes()
    other = dataclasses.replace(tiny, sizes=(dataclasses.replace(second, name=first.name),))
    with pytest.raises(CannotRun, match=rf"different encoder of size {first.name}.*; choose another folder"):
        check_identity(other, tmp_path)
    assert (tmp_path / STUDY_FILE).read_bytes() == stored, "a refused study leaves the folder as it was"


def test_a_study_started_on_a_cpu_with_other_instructions_is_refused_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "cpu_precision", lambda: ResolvedPrecision("fp32", "this CPU has no bf16"))
    check_identity(_in(recipes.inline(), "bf16_mixed"), tmp_path)
    with pytest.raises(
        CannotRun, match=r"different tuning.*started in bf16_mixed.*here .* fp32 \(this CPU has no bf16\)"
    ):
        check_identity(_in(recipes.inline(), "fp32"), tmp_path)
