"""What MLflow holds of a size's encoder, from the recipe to the report's tables."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import analysis
from study.run.mlflow_records import record_size, record_study
from study.search.records import SearchResult
from study.spec import Card, InvalidStudy, PublishedAfter, Resources, Size, Study
from study.spec.data_check import seen_flags
from study.tracking.tracker import Tracker, default_uri
from tests.analysis.helpers import by, header, section, write
from tests.support import recipes
from trainables.models.catalogue import CATALOGUE, published
from trainables.models.published_encoder import pinned_encoder

E5 = "intfloat/multilingual-e5-small, first 6 of 12 layers"
PARAMS = {"intermediate": "none", "lr_intermediate": None, "lr_target": 1e-3, "seed": 0}


def _study() -> Study:
    """mBERT, which has seen nothing but text, beside six layers of E5, which has seen translations."""
    encoders = {"plain": published("mbert"), "seen": published("e5-small", layers=6)}
    sizes = (Size(name, pinned_encoder(encoder), Resources()) for name, encoder in encoders.items())
    return recipes.published_study(*sizes)


def test_targets_are_flagged_by_what_the_encoder_has_seen() -> None:
    study = _study()
    bitext = study.targets[2].name
    assert seen_flags(study) == {"seen": {bitext: "bitext"}}
    own = dataclasses.replace(study.sizes[0], encoder=published("mbert", card=Card(seen=("bitext", "retrieval"))))
    assert seen_flags(dataclasses.replace(study, sizes=(own,))) == {"plain": {bitext: "bitext"}}


def test_seen_data_that_no_task_has_are_refused() -> None:
    study = _study()
    own = dataclasses.replace(study.sizes[0], encoder=published("mbert", card=Card(seen=("squad_trian", "bitext"))))
    with pytest.raises(
        InvalidStudy, match=r"sizes\[plain\]: the card of mbert has seen 'squad_trian', .* squad_train, "
    ) as error:
        dataclasses.replace(study, sizes=(own,))
    assert "seen 'bitext'" not in str(error.value)


def test_a_published_arm_s_marks_reach_the_tables_by_size_and_choice(tmp_path: Path) -> None:
    """The gain of E5 after XLM-R base on retrieval is flagged; that on tagging counts."""
    size = Size("base", pinned_encoder(published("xlm-r-base")), Resources())
    arm = PublishedAfter("e5", (("base", pinned_encoder(published("e5-base"))),))
    study = recipes.published_study(size)
    study = dataclasses.replace(study, space=dataclasses.replace(study.space, intermediates=(arm,)), trials=2)
    tagging, _, bitext = (task.name for task in study.targets)
    with Tracker(default_uri(tmp_path), "tiny", output=tmp_path) as tracker:
        record_study(study, tracker)
        result = SearchResult(size.name, (), ended="dominated: a faster size scores more")
        record_size(study, size, result=result, output=tmp_path, tracker=tracker)
        for number, name in enumerate(("none", "e5")):
            run = tracker.trial(size.name, f"t{number}", default_cell=True, params={**PARAMS, "intermediate": name})
            scores = {f"test/{task.name}": 80.0 + number for task in study.targets}
            tracker.metrics(run, {**scores, "test/score": 80.0, "dev/score": 80.0, "targets_finished": 3})
            tracker.tags(run, {"outcome": "complete"})
        assert tracker.flush()
    frames = analysis.load(default_uri(tmp_path), "tiny")
    assert (frames.seen("base", bitext), frames.seen("base", bitext, "e5")) == ("", "bitext")
    protocol = frames.context["protocols"][bitext]
    assert protocol.startswith("base: ")
    assert "; base as e5-base: " in protocol, "E5 reads sentences with a prefix"
    rows = by(analysis.gains(frames), "task")
    names = ("gain", "mark", "seen", "verdict")
    assert [rows[bitext][name] for name in names] == [1.0, "seen", "bitext", ""]
    assert [rows[tagging][name] for name in names] == [1.0, "", "", "one seed"]
    (average,) = analysis.average_gains(frames).to_dict("records")
    assert average["targets"] == 2
    report = write(frames, tmp_path)
    ended = "The search of base ended before its budget was used. Dominated: a faster size scores more."
    assert ended in section(report, "Search")
    page = section(report, "What intermediate training buys")
    assert "† others trained the checkpoint" in page
    assert "seen by the encoder: bitext" in page


@pytest.mark.parametrize("name", CATALOGUE)
def test_every_known_card_names_data_of_tasks(name: str) -> None:
    size = Size("any", pinned_encoder(published(name)), Resources())
    assert recipes.published_study(size).sizes == (size,)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> analysis.StudyFrames:
    output, study = tmp_path_factory.mktemp("run"), _study()
    with Tracker(default_uri(output), "tiny", output=output) as tracker:
        record_study(study, tracker)
        for size in study.sizes:
            record_size(study, size, result=SearchResult(size.name, ()), output=output, tracker=tracker)
            run = tracker.trial(size.name, "t0", default_cell=True, params=PARAMS)
            names = [f"test/{task.name}{language}" for task in study.targets for language in ("", "/en", "/de")]
            scores = dict.fromkeys(names, 80.0)
            tracker.metrics(run, {**scores, "test/score": 80.0, "dev/score": 80.0, "targets_finished": 3})
            tracker.tags(run, {"outcome": "complete"})
        assert tracker.flush()
    return analysis.load(default_uri(output), "tiny")


def test_the_tables_name_the_encoder_and_mark_what_it_has_seen(frames: analysis.StudyFrames, tmp_path: Path) -> None:
    bitext = _study().targets[2].name
    assert frames.encoders == {"plain": "google-bert/bert-base-multilingual-cased", "seen": E5}
    assert (frames.seen("seen", bitext), frames.seen("plain", bitext)) == ("bitext", "")
    page = write(frames, tmp_path)
    assert f"seen: {E5}, which has seen data of {bitext} (bitext)" in section(page, "How it was measured")
    cells = section(page, "Languages") + section(page, "What size buys")
    assert f"{bitext} · seen (seen)" in cells
    assert f"{bitext} · plain (seen)" not in cells
    assert E5 in section(page, "What size buys")
    only = dataclasses.replace(frames, trials=frames.trials[frames.trials["size"] == "seen"])
    assert f"Its encoder was trained on data of these targets before: {bitext} (bitext)." in header(
        write(only, tmp_path)
    )
    assert frames.members("micro_topic") == ("micro_topic",)
    assert frames.trained_languages("micro_topic") == ()
    protocols = frames.context["protocols"]
    assert protocols[bitext].startswith("plain: last layer, ")
    assert "; seen: texts begin with 'query: ', last layer, " in protocols[bitext]
