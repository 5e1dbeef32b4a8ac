"""Languages compared: planted effects under unequal coverage, and what cannot be compared."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import StudyFrames
from analysis.store import frames as tables
from analysis.store.frames import ENGLISH
from analysis.tables.languages import associations, effects_by_script, language_effects, script_of
from tests.analysis.helpers import by, section, write
from tests.support.studies import LANGUAGES, Planted, build_frames

PLANTED = Planted()
CODES = ("de", "es", "fi", "ru", "ar", "hi", "zh", "sw", "ta", "tr")
LEVELS = {"easy": 85.0, "middle": 50.0, "hard": 10.0}
# The better a language is, the harder the tasks that it has.
COVERED = {
    "easy": CODES[5:],
    "middle": (*CODES[3:7], CODES[9]),
    "hard": CODES[:6],
}


def planted_scores(covered: Mapping[str, tuple[str, ...]]) -> dict[tuple[str, str], float]:
    """Scores by task and language: the task's level, one point less for each position of the language in `CODES`."""
    return {
        (task, language): LEVELS[task] - CODES.index(language) for task, some in covered.items() for language in some
    }


def study_of(scores: Mapping[tuple[str, str], float], **context: Any) -> StudyFrames:
    """One size whose best trial has these test scores."""
    frames = build_frames([{"size": "a", "trial_id": "t", "intermediate": "none", "seed": 0}], body_m={"a": 1.0})
    run = {"size": "a", "trial_id": "t", "intermediate": "none", "default_cell": True, "outcome": "complete"}
    rows = [
        run | {"task": task, "split": "test", "language": language, "value": value}
        for (task, language), value in scores.items()
    ]
    trials = frames.trials.assign(dev_score=50.0)
    table = tables.frame(rows, tables.SCORES)
    return dataclasses.replace(frames, trials=trials, scores=table, context=frames.context | context)


def wide(scores: Mapping[tuple[str, str], float]) -> pd.DataFrame:
    return pd.Series(scores).unstack(0)


def test_an_effect_is_the_centred_mean_where_every_language_has_every_task() -> None:
    random = np.random.default_rng(0)
    scores = pd.DataFrame(random.normal(50, 10, size=(10, 3)), index=pd.Index(CODES), columns=pd.Index(LEVELS))
    means = scores.mean(axis=1)
    pd.testing.assert_series_equal(language_effects(scores), means - means.mean(), check_names=False)
    scores.loc[ENGLISH] = 90.0
    assert language_effects(scores)[ENGLISH] == pytest.approx(90.0 - means.mean())
    assert language_effects(scores)[list(CODES)].sum() == pytest.approx(0.0), "English is not in the fit"


def test_planted_effects_are_recovered_although_languages_have_different_tasks() -> None:
    scores = planted_scores(COVERED)
    shares = {language: 2.0**-place for place, language in enumerate(CODES)}
    table = analysis.language_table(study_of(scores, pretraining=shares))
    effects = table.set_index("language")["effect"]
    assert effects[list(CODES)].tolist() == pytest.approx([4.5 - place for place in range(len(CODES))])
    assert table.set_index("language")["tasks"][["de", "hi"]].tolist() == [1, 3]
    (association,) = associations(table).to_dict("records")
    assert association["what"] == "language effect with pre-training share"
    assert association["spearman"] == pytest.approx(1.0), "within each task the order is the planted one"
    means = table.set_index("language")["score"]
    assert means.corr(pd.Series(shares), method="spearman") < 0, "mean scores suggest the opposite"


def test_scores_with_noise_are_fitted_as_by_dummy_variables() -> None:
    """Against the normal equations of task and language dummies, the last language as base."""
    random = np.random.default_rng(1)
    scores = {cell: value + float(random.normal(0, 3)) for cell, value in planted_scores(COVERED).items()}
    design = np.array(
        [[task == name for name in LEVELS] + [language == code for code in CODES[:-1]] for task, language in scores],
        dtype=float,
    )
    solved = np.linalg.solve(design.T @ design, design.T @ np.array(list(scores.values())))
    of_languages = np.append(solved[len(LEVELS) :], 0.0)
    expected = pd.Series(of_languages - of_languages.mean(), index=pd.Index(CODES))
    effects = language_effects(wide(scores))
    assert effects[list(CODES)].to_dict() == pytest.approx(expected.to_dict())


def test_languages_that_no_task_links_to_the_others_have_no_effect(tmp_path: Path) -> None:
    apart = {"easy": ("de", "es", "fi", "ru"), "middle": ("ru", "ar", "hi"), "hard": ("sw", "ta")}
    scores = planted_scores(apart) | {(task, ENGLISH): 95.0 for task in apart}
    frames = study_of(scores)
    effects = analysis.language_table(frames).set_index("language")["effect"]
    assert effects[["sw", "ta"]].isna().all(), "English links tasks, but is not a zero-shot language"
    assert effects["de"] - effects["hi"] == pytest.approx(5.0), "linked by Russian"
    assert effects[ENGLISH] == pytest.approx(np.mean([95 - 85 + 2.5, 95 - 50 + 2.5]))
    page = section(write(frames, tmp_path), "Languages")
    assert "Without an effect: Swahili, Tamil. No shared target links them to the other languages" in page
    assert "language effects in points from −2.5 in Hindi (size a) to" in page
    assert "Swahili (sw) · a\nLatn\nshares no target\n" in page


def test_effects_are_averaged_by_script_over_languages_other_than_english(tmp_path: Path) -> None:
    scores = planted_scores(COVERED) | {(task, ENGLISH): 95.0 for task in COVERED}
    frames = study_of(scores)
    table = effects_by_script(analysis.language_table(frames)).set_index("script")
    latn = table.to_dict("index")["Latn"]
    latin = ("de", "es", "fi", "sw", "tr")  # places 0, 1, 2, 7 and 9 of ten, the mean at 4.5
    assert latn["effect"] == pytest.approx(4.5 - np.mean([CODES.index(code) for code in latin]))
    assert [latn[name] for name in ("lowest", "highest", "languages")] == pytest.approx([-4.5, 4.5, 5])
    assert table["languages"].sum() == len(CODES)
    assert table.index[0] == "Cyrl", "place 3, the best of the means"
    page = section(write(frames, tmp_path), "Languages")
    assert "Mean language effect by script" in page
    assert "a · Cyrl\n+1.5\n+1.5 to +1.5\n1\n" in page
    assert "Size a: no shares of the pre-training text." in page


def test_tokens_per_word_are_correlated_with_the_effect_where_there_are_words(tmp_path: Path) -> None:
    by_language = tables.frame(
        [
            {"size": "a", "variant": "fp32", "language": code, "p50_ms": 1.0, "mean_pieces": 20.0}
            | ({} if code == "zh" else {"pieces_per_word": 1.0 + place})
            for place, code in enumerate(CODES)
        ],
        tables.SPEED_BY_LANGUAGE,
    )
    frames = dataclasses.replace(study_of(planted_scores(COVERED)), speed_by_language=by_language)
    (association,) = associations(analysis.language_table(frames)).to_dict("records")
    assert (association["what"], association["languages"]) == ("language effect with pieces per word", 9)
    assert association["spearman"] == pytest.approx(-1.0)
    page = write(frames, tmp_path)
    assert 'data-name="language_fertility"' in page
    assert "not measured, or written without spaces" in section(page, "Languages")


def test_nothing_but_english_has_no_effect() -> None:
    effects = language_effects(wide({("easy", ENGLISH): 80.0}))
    assert math.isnan(effects[ENGLISH])


def test_languages_have_scripts_gaps_and_costs(study: StudyFrames) -> None:
    assert {code: script_of(code) for code in ("en", "ru", "zh", "hi", "ar", "xx")} == {
        "en": "Latn",
        "ru": "Cyrl",
        "zh": "Hans",
        "hi": "Deva",
        "ar": "Arab",
        "xx": "",
    }
    languages = analysis.language_table(study)
    table = by(languages, "size", "language")
    assert len(table) == len(PLANTED.sizes) * len(LANGUAGES)
    swahili, english = table["4x192", "sw"], table["4x192", ENGLISH]
    assert swahili["name"] == "Swahili"
    assert swahili["pieces_to_english"] == pytest.approx(32 / 16)
    assert swahili["latency_to_english"] == pytest.approx(1.2 / 0.8)
    assert english["gap_to_english"] == 0
    assert swahili["gap_to_english"] == pytest.approx(english["score"] - swahili["score"])
    rho = associations(languages).set_index(["size", "what"])["spearman"]
    assert rho["4x192", "latency with pieces"] == pytest.approx(1.0)
    assert rho["4x192", "language effect with pieces"] < -0.6  # planted: a point less with each further language


def test_the_page_names_languages_in_which_no_model_could_score_100(tmp_path: Path) -> None:
    frames = study_of({("qa", "fi"): 50.0, ("qa", "en"): 60.0, ("qa", "ar"): 40.0})
    rows = [("a", "qa", "fi", 93.64), ("a", "qa", "en", 99.9), ("a", "qa", "ar", 95.18), ("other", "qa", "fi", 1.0)]
    bounded = dataclasses.replace(frames, ceilings=tables.frame(rows, tables.CEILINGS))
    page = write(bounded, tmp_path)
    assert "where it is below 99.5: qa: ar 95.2, fi 93.6." in section(page, "Languages")
    assert "Highest reachable score" not in write(frames, tmp_path)
