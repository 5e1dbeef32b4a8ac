"""What changed between two studies: verdicts with known truth, what cannot be compared, and the words for it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import StudyFrames
from analysis.report.changelog import WIDTH, as_html, as_json, as_markdown, as_text, headline
from analysis.store.examples import Examples, Key
from analysis.store.frames import MEAN
from analysis.tables.comparison import Changes
from tests.analysis.helpers import by
from tests.support.studies import build_frames

NAMES = ("monday", "tuesday")
COUNT = 400  # examples of a test set


def _study(
    accuracy: dict[str, float],
    *,
    seeds: int = 1,
    first_seed: int = 0,
    noise: float = 0.0,
    count: int = COUNT,
    draw: int = 0,
) -> StudyFrames:
    """One size without an intermediate task; an example is right in proportion to the target's accuracy, in English and German.

    The same examples are hard in every study; `noise` is the standard deviation of a seed, in points, which `draw` chooses.
    """
    random = np.random.default_rng(draw)
    runs, tables = [], dict[Key, pd.DataFrame]()
    for number in range(seeds):
        rows, languages = list[dict[str, Any]](), dict[str, dict[str, float]]()
        for task, share in accuracy.items():
            hard = np.random.default_rng(len(task)).uniform(size=(2, count))
            right = hard < share + random.normal(0, noise) / 100
            for at, code in enumerate(("en", "de")):
                languages.setdefault(code, {})[task] = 100 * float(right[at].mean())
            rows += [
                {
                    "task": task,
                    "split": "test",
                    "language": code,
                    "example": n,
                    "correct": float(right[at, n]),
                    "total": 1.0,
                }
                for at, code in enumerate(("en", "de"))
                for n in range(count)
            ]
        means = {task: (languages["en"][task] + languages["de"][task]) / 2 for task in accuracy}
        run = {
            "size": "a",
            "trial_id": f"t{number}",
            "intermediate": "none",
            "seed": first_seed + number,
            "scores": means,
        }
        runs.append(run | {"languages": languages})
        tables["a", f"t{number}"] = pd.DataFrame(rows)
    frames = build_frames(runs, body_m={"a": 1.0})
    return dataclasses.replace(frames, examples=Examples.from_tables(tables, resamples=200))


def _with(frames: StudyFrames, **context: Any) -> StudyFrames:
    return dataclasses.replace(frames, context=frames.context | context)


def _row(changes: Changes, task: str) -> dict[str, Any]:
    return by(changes.scores, "task")[task]


def test_a_study_is_identical_to_itself() -> None:
    study = _study({"x": 0.6, "yy": 0.5}, seeds=2, noise=1.0)
    changes = analysis.changes(study, study)
    assert changes.identical
    assert headline(changes) == "identical: same scores and settings"
    again = _with(study, command="python -m study run again", experiment="later")
    assert analysis.changes(study, again).identical, "a name and a command are no settings"
    other = analysis.changes(study, _with(study, precision="bf16"))
    assert not other.identical
    assert headline(other).startswith("nothing changed: 2 cells with the same scores")


def test_a_study_that_lost_a_seed_is_not_identical() -> None:
    study, fewer = _study({"x": 0.6}, seeds=3, noise=1.0), _study({"x": 0.6}, seeds=2, noise=1.0)
    for changes, where in ((analysis.changes(study, fewer), "this"), (analysis.changes(fewer, study), "other")):
        assert not changes.identical
        row = _row(changes, "x")
        assert (row["difference"], row["n"], row["verdict"]) == (0.0, 2, "untested")
        assert changes.only.to_dict("records") == [{"where": where, "kind": "seed", "names": ["2 of a · none · x"]}]
    assert "- B alone has the seed 2 of a · none · x\n" in as_text(changes, names=NAMES)


def test_one_trained_model_is_told_from_another_by_its_examples() -> None:
    changes = analysis.changes(_study({"x": 0.7, "yy": 0.5}), _study({"x": 0.6, "yy": 0.51}))
    lower, unclear = _row(changes, "x"), _row(changes, "yy")
    assert (lower["verdict"], unclear["verdict"]) == ("lower", "unclear")
    assert (lower["pairing"], lower["basis"], lower["n"]) == ("paired", "examples", 1)
    assert lower["difference"] == pytest.approx(-10, abs=2.5)
    assert lower["low"] < -10 + 2.5
    assert lower["high"] < 0
    # A tenth of the examples changes, all for the worse: the paired variance is p (1 - p) / n, 8 times less than unpaired.
    assert lower["high"] - lower["low"] == pytest.approx(2 * 196 * np.sqrt(0.1 * 0.9 / (2 * COUNT)), rel=0.4)
    assert headline(changes) == "1 of 2 cells changed: 1 worse; 2 of 4 cells by language changed: 2 worse"
    assert "these trained models differ" in " ".join(as_text(changes, names=NAMES).split())


def test_seeds_tell_more_than_examples_only_where_they_agree() -> None:
    """With a seed's spread of 8 points, three seeds do not tell a fall by 3, though the examples of any one would."""
    before, after = _study({"x": 0.6}, seeds=3, noise=8.0), _study({"x": 0.57}, seeds=3, noise=8.0, draw=1)
    row = _row(analysis.changes(before, after), "x")
    assert (row["basis"], row["n"], row["verdict"]) == ("seeds and examples", 3, "unclear")
    sure = _study({"x": 0.6}, seeds=6, noise=0.5), _study({"x": 0.7}, seeds=6, noise=0.5, draw=1)
    assert _row(analysis.changes(*sure), "x")["verdict"] == "higher"


def test_other_seeds_are_compared_unpaired_and_said_to_be() -> None:
    before, after = (
        _study({"x": 0.6}, seeds=3, noise=1.0),
        _study({"x": 0.8}, seeds=4, first_seed=10, noise=1.0, draw=1),
    )
    changes = analysis.changes(before, after)
    row = _row(changes, "x")
    assert (row["pairing"], row["n"], row["n_other"], row["verdict"]) == ("unpaired: other seeds", 3, 4, "higher")
    values = [frames.scores.query("split == 'test' and language == 'mean'")["value"] for frames in (before, after)]
    seeds_alone = 2 * 1.96 * np.sqrt(sum(value.var(ddof=1) / len(value) for value in values))
    assert row["high"] - row["low"] > seeds_alone
    assert "1 are unpaired: other seeds, so their intervals are wider" in as_text(changes, names=NAMES)


def test_one_shared_seed_among_several_is_not_judged_alone() -> None:
    """Its examples alone would tell these two models apart, which the spread of the seeds does not bear out."""
    before = _study({"x": 0.6}, seeds=3, noise=8.0)
    after = _study({"x": 0.56}, seeds=3, first_seed=2, noise=8.0, draw=1)
    row = _row(analysis.changes(before, after), "x")
    assert (row["pairing"], row["basis"]) == ("unpaired: one shared seed", "seeds and examples")
    assert (row["n"], row["n_other"], row["verdict"]) == (3, 3, "unclear")
    two = _row(analysis.changes(before, _study({"x": 0.56}, seeds=3, first_seed=1, noise=8.0, draw=1)), "x")
    assert (two["pairing"], two["n"]) == ("paired", 2)


def test_the_width_of_unpaired_intervals_is_said_as_it_is() -> None:
    changes = analysis.changes(_study({"x": 0.6}), _study({"x": 0.8}, first_seed=10))
    assert _row(changes, "x")["basis"] == "examples"
    text = " ".join(as_text(changes, names=NAMES).split())
    assert "1 are unpaired: other seeds, and their intervals have no seed variance" in text
    assert "wider" not in text
    bare = dataclasses.replace(_study({"x": 0.6}), examples=Examples())
    text = " ".join(as_text(analysis.changes(bare, _study({"x": 0.8}, first_seed=10)), names=NAMES).split())
    assert "1 are unpaired: other seeds, and have no interval" in text


def test_what_has_other_test_data_is_not_compared() -> None:
    study = _study({"x": 0.6, "yy": 0.5})
    other = _with(study, data={"x": "r2", "yy": "r1"}, versions={"torch": "3"})
    changes = analysis.changes(_with(study, data={"x": "r1", "yy": "r1"}, versions={"torch": "2"}), other)
    assert changes.scores["task"].tolist() == ["yy"]
    assert by(changes.incomparable, "what")["target x"]["reason"] == "other data revision (r1; r2)"
    text = as_text(changes, names=NAMES)
    assert "- target x: other data revision (r1; r2)" in text
    assert "- versions: A torch: 2; B torch: 3" in text

    fewer = analysis.changes(study, _study({"x": 0.6, "yy": 0.5}, count=COUNT // 2))
    assert fewer.scores.empty
    assert "other test examples (de: 400; 200, en: 400; 200)" in set(fewer.incomparable["reason"])
    assert headline(fewer) == "nothing to compare: no score of one study has a counterpart in the other"


def test_what_only_one_has_is_listed() -> None:
    changes = analysis.changes(_study({"x": 0.6, "yy": 0.5}), _study({"x": 0.6, "zzz": 0.5}))
    found = {(row["where"], row["kind"]): row["names"] for row in changes.only.to_dict("records")}
    assert found["this", "target"] == ["yy"]
    assert found["other", "default cell"] == ["a · none · zzz"]
    assert "- A alone has the target yy\n" in as_text(changes, names=NAMES)
    assert not changes.identical


def test_other_languages_are_compared_in_those_that_both_have() -> None:
    study = _study({"x": 0.6})
    scores = study.scores[study.scores["language"] != "de"]
    changes = analysis.changes(study, dataclasses.replace(study, scores=scores))
    assert changes.scores.empty
    assert by(changes.incomparable, "what")["mean of x"]["reason"] == "other languages (de in one only)"
    assert changes.by_language["judged_by"].tolist() == ["en"]


def test_without_examples_one_seed_is_not_tested() -> None:
    study, other = _study({"x": 0.6}), _study({"x": 0.3})
    changes = analysis.changes(dataclasses.replace(study, examples=Examples()), other)
    row = _row(changes, "x")
    assert (row["basis"], row["verdict"]) == ("", "untested")
    assert headline(changes) == "nothing can be told apart: 1 cell, 1 of them not tested"


def _served(p50_ms: float, *, spread: float = 0.1, repeats: int = 5, **more: Any) -> StudyFrames:
    run = {"size": "a", "trial_id": "t0", "intermediate": "none", "seed": 0, "scores": {"x": 50.0}}
    measured = {
        "size": "a",
        "variant": "fp32",
        "trial_id": "t0",
        "p50_ms": p50_ms,
        "repeats": repeats,
        "hardware": "one",
    }
    measured |= {"p50_ms_low": p50_ms - spread, "p50_ms_high": p50_ms + spread, "task_scores": {"x": 50.0}}
    measured |= {"results": {"SingleStream": "VALID"}, "unavailable": {}} | more
    return build_frames([run], [measured], body_m={"a": 1.0})


@pytest.mark.parametrize(
    ("before", "after", "verdict", "why_not"),
    [
        (_served(1.0), _served(1.5), "worse", ""),
        (_served(1.5), _served(1.0), "better", ""),
        (_served(1.0), _served(1.05), "overlap", ""),
        (_served(1.0, repeats=3), _served(1.5, repeats=3), "", ""),
        (_served(1.0), _served(1.5, hardware="two"), "", "other hardware (one; two)"),
        (_served(1.0), _served(1.5, driver="9"), "", "other driver (not recorded; 9)"),
        (
            _with(_served(1.0), versions={"a": "1"}),
            _with(_served(1.5), versions={"a": "2"}),
            "",
            "other versions (a 1; 2)",
        ),
    ],
)
def test_speeds_are_judged_on_one_machine_with_one_set_of_versions(
    before: StudyFrames, after: StudyFrames, verdict: str, why_not: str
) -> None:
    changes = analysis.changes(before, after)
    (speed,) = changes.speeds.to_dict("records")
    assert (speed["metric"], speed["verdict"], speed["why_not"]) == ("p50_ms", verdict, why_not)
    assert changes.told("lower") == 0, "a speed is never told: days differ"
    assert (why_not in as_text(changes, names=NAMES)) or not why_not


def test_served_models_are_compared_where_the_choice_is_the_same() -> None:
    changes = analysis.changes(_served(1.0), _served(1.0, task_scores={"x": 45.0}))
    (row,) = changes.served.to_dict("records")
    assert (row["variant"], row["difference"], row["verdict"]) == ("fp32", -5.0, "untested")
    other = _served(1.0)
    other = dataclasses.replace(other, trials=other.trials.assign(intermediate="nli"))
    changes = analysis.changes(_served(1.0), other)
    assert changes.served.empty
    assert by(changes.incomparable, "what")["a served as fp32"]["reason"] == (
        "the chosen intermediate task differs (none; nli)"
    )


def _on(frames: StudyFrames, *hardware: str) -> StudyFrames:
    """The study with each of its measurements on each hardware."""
    measured = pd.concat([frames.benchmarks.assign(hardware=name) for name in hardware], ignore_index=True)
    return dataclasses.replace(frames, benchmarks=measured)


def test_a_model_on_several_machines_is_one_model() -> None:
    before, after = _on(_served(1.0), "one", "two"), _on(_served(1.0, task_scores={"x": 45.0}), "one", "two")
    (row,) = analysis.changes(before, after).served.to_dict("records")
    assert (row["n"], row["n_other"], row["difference"], row["verdict"]) == (1, 1, -5.0, "untested")


@pytest.mark.parametrize(
    ("own", "theirs", "compared", "refused"),
    [
        (("one", "two"), ("two", "one"), 2, 0),
        (("one", "two"), ("two",), 1, 0),
        (("one",), ("two", "three"), 0, 2),
    ],
)
def test_a_machine_is_compared_with_itself(
    own: tuple[str, ...], theirs: tuple[str, ...], compared: int, refused: int
) -> None:
    speeds = analysis.changes(_on(_served(1.0), *own), _on(_served(1.5), *theirs)).speeds
    assert (speeds["verdict"] == "worse").sum() == compared
    assert (speeds["why_not"] != "").sum() == refused


def test_every_form_says_the_same() -> None:
    targets = {f"a_target_with_quite_a_long_name_{n}": 0.7 for n in range(3)}
    changed = dict.fromkeys(targets, 0.5)
    changes = analysis.changes(_with(_study(targets), hardware="x" * 20), _with(_study(changed), hardware="<b> | *y*"))
    text, markdown, page = (form(changes, names=NAMES) for form in (as_text, as_markdown, as_html))
    answer = headline(changes)
    assert answer.startswith("3 of 3 cells changed: 3 worse")
    assert " ".join(text.split()).startswith(answer)
    assert max(map(len, text.splitlines())) <= WIDTH
    assert markdown.startswith(f"**{answer}**")
    assert "\\<b\\> \\| \\*y\\*" in markdown
    assert "<b>" not in page
    assert page.count("<tr>") == 2 + 3 + 6, "heads and rows of both tables"
    document = json.loads(json.dumps(as_json(changes, names=NAMES), allow_nan=False))
    assert (document["answer"], document["worse"], document["better"], document["a"]) == (answer, 9, 0, "monday")
    assert {row["verdict"] for row in document["scores"]} == {"lower"}
    assert set(changes.scores["judged_by"]) == {MEAN}


def test_cascades_of_other_models_are_not_compared() -> None:
    """Which pair is served follows from measured speeds, so two nights may serve two pairs under one name."""
    pair = {"small": "3l", "small_trial": "t", "served_as": "fp32", "thresholds": {}, "timed_share": 0.6}
    one, same, other = (
        _served(5.0, variant="cascade", cascade=pair | more) for more in ({}, {"timed_share": 0.7}, {"small": "6l"})
    )
    assert not set(analysis.changes(one, same).speeds["why_not"]) - {""}
    changed = analysis.changes(one, other)
    assert {reason.partition(" (")[0] for reason in changed.speeds["why_not"]} == {"other models"}
    assert len(changed.served) == 0
    assert any("served as cascade" in what for what in changed.incomparable["what"])
