"""What choosing on English dev costs: planted truths, studies without any effect, and a figure computed by hand."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import StudyFrames, per_target_choices, selection_costs
from analysis.report.sections.zero_shot import SIGN
from analysis.store import frames as tables
from analysis.store.examples import Examples
from analysis.tables.selection.candidates import candidates_of
from analysis.tables.selection.costs import ALL_TARGETS
from analysis.tables.selection.halves import SPLITS, _first_half, target_scores
from tests.analysis.helpers import by, section, write
from tests.support.studies import build_frames

STUDIES = 80
ALLOWED = 10  # of 80 studies with a rate of 5%, so many or fewer have a discovery in 997 of 1,000 draws (binomial)
DEV, FOR_ALL, FOR_EACH = "English dev", "one for all", "one for each"
Truth = Mapping[str, Mapping[str, float]]  # by intermediate task and target, in percent


def study(
    test: Truth,
    dev: Truth,
    *,
    seeds: int = 1,
    examples: int = 400,
    seed_sd: float = 0.0,
    number: int = 0,
    signals: Mapping[str, Truth] | None = None,
) -> StudyFrames:
    """A trial for each intermediate task, and repeats with further seeds. A seed moves a run's true score by `seed_sd`."""
    random = np.random.default_rng(number)
    targets = list(next(iter(test.values())))
    hard = {task: random.random(examples) for task in targets}
    runs, diagnostics = [], []
    by_run: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for (place, name), seed in itertools.product(enumerate(test), range(seeds)):
        scores = {}
        trial = f"t{place}" if seed == 0 else f"t{place}-s{seed}"
        for task in targets:
            right = (test[name][task] + random.normal(0, seed_sd)) / 100
            answers = ((0.5 * hard[task] + 0.5 * random.random(examples)) < _quantile(right)).astype(float)
            scores[task] = 100 * float(answers.mean())
            table = pd.DataFrame({"task": task, "split": "test", "language": "sw", "example": range(examples)})
            by_run.setdefault(("a", trial), []).append(table.assign(correct=answers, total=1.0))
        own = {"size": "a", "trial_id": trial, "intermediate": name, "seed": seed, "scores": scores}
        own |= {"without_english": scores, "dev": dev[name], "dev_score": float(np.mean(list(dev[name].values())))}
        runs.append(own | ({"repeats": f"t{place}"} if seed else {}))
        for signal, values in (signals or {}).items():
            diagnostics += [
                {"size": "a", "trial_id": trial, "task": task, "signal": signal, "value": value}
                for task, value in values[name].items()
            ]
    frames = build_frames(runs, body_m={"a": 1.0})
    frames.context.update(targets=targets, intermediates=list(test))
    joined = {key: pd.concat(parts) for key, parts in by_run.items()}
    return dataclasses.replace(
        frames,
        examples=Examples.from_tables(joined, resamples=50),
        diagnostics=tables.frame(diagnostics, tables.DIAGNOSTICS),
    )


def _quantile(share: float) -> float:
    """Below which the mean of two uniform numbers lies with this probability."""
    return math.sqrt(share / 2) if share <= 0.5 else 1 - math.sqrt((1 - share) / 2)


def rows(frames: StudyFrames) -> dict[Any, dict[str, Any]]:
    return by(selection_costs(frames), "selector", "scope", "task")


MISLEADING: dict[str, Any] = {
    "test": {"none": {"x": 60.0, "y": 70.0}, "pos": {"x": 61.0, "y": 50.0}},
    "dev": {"none": {"x": 80.0, "y": 70.0}, "pos": {"x": 82.0, "y": 69.0}},
}


def test_a_choice_that_english_dev_prefers_and_is_worse_costs_what_was_planted() -> None:
    """English dev prefers "pos" by half a point; on test it is 9.5 points worse on average, by one target."""
    found = rows(study(**MISLEADING, seeds=6, examples=2000))
    over_all = found[DEV, FOR_ALL, ALL_TARGETS]
    assert over_all["chosen"] == "pos"
    assert over_all["low"] < 9.5 < over_all["high"]
    assert over_all["verdict"] == "costs"
    assert over_all["seeds"] == 5  # the further ones, not the one that was chosen on
    assert found[DEV, FOR_ALL, "y"]["cost"] == pytest.approx(20.0, abs=4)
    assert found[DEV, FOR_ALL, "y"]["verdict"] == "costs"
    assert found[DEV, FOR_ALL, "x"]["verdict"] != "costs"


def test_a_choice_for_each_target_that_differs_takes_the_cost_away() -> None:
    frames = study(**MISLEADING, seeds=6, examples=2000)
    assert rows(frames)[DEV, FOR_EACH, ALL_TARGETS]["chosen"] == "pos; none"
    assert abs(rows(frames)[DEV, FOR_EACH, ALL_TARGETS]["cost"]) < 1
    table = by(per_target_choices(frames), "selector")[DEV]
    assert (table["one"], table["each"]) == ("pos", "x: pos; y: none")
    assert table["low"] < 10.0 < table["high"]  # 20 points on one of two targets
    assert table["p_holm"] < 0.05
    assert table["score_each"] - table["score_one"] == pytest.approx(10.0, abs=3)


def test_the_same_choice_for_each_target_differs_by_nothing() -> None:
    dev = {"none": {"x": 80.0, "y": 70.0}, "pos": {"x": 70.0, "y": 60.0}}
    table = by(per_target_choices(study(MISLEADING["test"], dev, seeds=3)), "selector")[DEV]
    assert (table["difference"], table["low"], table["high"]) == (0.0, 0.0, 0.0)


@pytest.mark.slow
def test_a_tie_has_an_apparent_distance_and_no_cost() -> None:
    """Six equal trials: the best on the same examples is ahead by luck, on the other half it is not."""
    truth = {f"i{number}": {"x": 60.0, "y": 60.0} for number in range(6)}
    costs, apparent = [], []
    for number in range(20):
        row = rows(study(truth, truth, examples=200, number=number))[DEV, FOR_ALL, ALL_TARGETS]
        costs.append(row["cost"])
        apparent.append(row["apparent"])
    assert np.mean(apparent) > 1.5
    assert abs(np.mean(costs)) < 3 * np.std(costs, ddof=1) / math.sqrt(20) + 0.2


def test_the_best_choice_costs_nothing_and_says_so() -> None:
    dev = {"none": {"x": 80.0}, "pos": {"x": 70.0}}
    row = rows(study({"none": {"x": 80.0}, "pos": {"x": 50.0}}, dev))[DEV, FOR_ALL, "x"]
    assert (row["cost"], row["low"], row["high"], row["apparent"]) == (0.0, 0.0, 0.0, 0.0)
    assert row["verdict"] == "none"


def test_signals_without_labels_choose_as_they_say() -> None:
    signals = {"agreement": {"none": {"x": 90.0, "y": 91.0}, "pos": {"x": 92.0, "y": 60.0}}}
    found = rows(study(**MISLEADING, signals=signals))
    agreement = found["agreement between languages", FOR_ALL, ALL_TARGETS]
    assert agreement["chosen"] == "none"
    assert agreement["score"] > found[DEV, FOR_ALL, ALL_TARGETS]["score"]
    assert found["agreement between languages", FOR_EACH, ALL_TARGETS]["chosen"] == "pos; none"
    missing = found["confidence", FOR_ALL, ALL_TARGETS]
    assert pd.isna(missing["score"])
    assert "not recorded" in missing["reason"]


def test_a_signal_that_one_trial_lacks_chooses_nothing() -> None:
    signals = {"confidence": {"none": {"x": 90.0}, "pos": {}}}
    assert "not recorded" in rows(study(**MISLEADING, signals=signals))["confidence", FOR_ALL, ALL_TARGETS]["reason"]


def test_one_seed_is_not_tested_and_without_examples_there_is_no_cost() -> None:
    frames = study(**MISLEADING)
    one = rows(frames)[DEV, FOR_ALL, ALL_TARGETS]
    assert (one["verdict"], one["seeds"]) == ("one seed", 1)
    assert one["low"] > 0
    bare = rows(dataclasses.replace(frames, examples=Examples()))[DEV, FOR_ALL, ALL_TARGETS]
    assert pd.isna(bare["cost"])
    assert bare["apparent"] == one["apparent"]
    assert "test example" in bare["reason"]


def test_the_cost_is_that_of_halves_computed_by_hand() -> None:
    """Three trials, one target, one seed: another way to the same number, and the error of a difference of two means."""
    truth = {"none": {"x": 60.0}, "pos": {"x": 58.0}, "nli": {"x": 62.0}}
    dev = {"none": {"x": 80.0}, "pos": {"x": 82.0}, "nli": {"x": 70.0}}
    frames = study(truth, dev, examples=100)
    answers = np.stack([frames.examples.sums(("a", f"t{number}"))["x"]["sw"][0] for number in range(3)])
    gaps, errors = [], []
    for half in _first_half("x", 100).astype(bool):
        for mine, other in ((half, ~half), (~half, half)):
            best = int(answers[:, mine].mean(axis=1).argmax())
            gaps.append(100 * (answers[best, other].mean() - answers[1, other].mean()))
            errors.append(100 * np.std(answers[best] - answers[1], ddof=1) / math.sqrt(50))
    row = rows(frames)[DEV, FOR_ALL, "x"]
    assert len(gaps) == 2 * SPLITS
    assert row["cost"] == pytest.approx(np.mean(gaps))
    assert row["high"] - row["low"] == pytest.approx(2 * 1.959964 * np.mean(errors), rel=1e-6)


def test_languages_of_one_example_are_halved_alike_and_english_is_left_out() -> None:
    frames = study({"none": {"x": 60.0}, "pos": {"x": 50.0}}, {"none": {"x": 80.0}, "pos": {"x": 70.0}}, examples=100)
    tables_of = {}
    for key in (("a", "t0"), ("a", "t1")):
        table = frames.examples.read(key)
        assert table is not None
        english = table.assign(language="en", correct=1.0)
        tables_of[key] = pd.concat([table, table.assign(language="de"), english], ignore_index=True)
    more = dataclasses.replace(frames, examples=Examples.from_tables(tables_of))
    candidates = candidates_of(frames, "a")
    assert candidates is not None
    one, several = (target_scores(own, candidates, "x") for own in (frames, more))
    assert one.judged is not None
    assert several.judged is not None
    assert one.covariance is not None
    assert several.covariance is not None
    np.testing.assert_allclose(several.judged, one.judged)
    # The copy in German adds no information, so the error over examples must not shrink.
    np.testing.assert_allclose(several.covariance, one.covariance)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 4])
def test_intervals_cover_and_false_discoveries_stay_under_the_stated_rate(seeds: int) -> None:
    """80 studies of five equal choices on two targets; seeds move runs only where further seeds judge."""
    discovered, covered = dict.fromkeys(("costs", "per target"), 0), []
    random = np.random.default_rng(7)
    names = [f"i{number}" for number in range(5)]
    for number in range(STUDIES):
        truth = {name: {"x": 60.0, "y": 45.0} for name in names}
        dev, sure = ({name: dict(zip("xy", random.normal(80, 1, 2), strict=True)) for name in names} for _ in range(2))
        sd = 2.0 if seeds > 1 else 0.0
        frames = study(truth, dev, seeds=seeds, examples=60, seed_sd=sd, number=number, signals={"confidence": sure})
        costs, choices = selection_costs(frames), per_target_choices(frames)
        discovered["costs"] += bool(costs["verdict"].isin(["costs", "gains"]).any())
        discovered["per target"] += bool((choices["p_holm"] < 0.05).any())
        known = [table[table["low"].notna()] for table in (costs, choices)]
        covered += [((table["low"] <= 0) & (table["high"] >= 0)).mean() for table in known]
    assert np.mean(covered) >= 0.94
    assert max(discovered.values()) / STUDIES <= ALLOWED / STUDIES, discovered


def test_the_report_shows_costs_and_both_ways_to_choose(tmp_path: Path) -> None:
    written = write(study(**MISLEADING, seeds=3), tmp_path)
    page = section(written, "What choosing on English dev costs")
    assert "Cost of choosing on English dev, against the best trial" in page
    assert "a · English dev · one for all" in page
    assert "x: pos; y: none" in page
    assert '<td class="absent" colspan="7">not recorded for every trial' in written, "one cell for a whole row"
    assert f">{SIGN}<" not in written, "no sign without a choice"


TRANSLATED: dict[str, Any] = {
    "test": {"none": {"x": 60.0, "y": 60.0}, "pos": {"x": 55.0, "y": 55.0}, "pos_in_sw": {"x": 80.0, "y": 80.0}},
    "dev": {"none": {"x": 80.0, "y": 80.0}, "pos": {"x": 82.0, "y": 82.0}, "pos_in_sw": {"x": 81.0, "y": 81.0}},
}


def _translated(languages: list[str] | None, *, seeds: int = 3) -> StudyFrames:
    """`TRANSLATED`, where the third choice has labelled data in these languages; targets are tested in Swahili."""
    frames = study(**TRANSLATED, seeds=seeds)
    arms = {name: {"members": [name], "languages": []} for name in ("none", "pos")}
    arms["pos_in_sw"] = {"members": ["pos_in_sw"], "languages": languages}  # type: ignore[dict-item]
    swahili = frames.scores[(frames.scores["split"] == "test") & (frames.scores["language"] == "mean")]
    scores = pd.concat([frames.scores, swahili.assign(language="sw")], ignore_index=True)
    return dataclasses.replace(frames, scores=scores, context=frames.context | {"arms": arms})


@pytest.mark.parametrize(("languages", "why"), [(["sw"], "trained in sw"), (None, "unknown languages")])
def test_a_trial_that_is_not_zero_shot_is_no_candidate_of_the_main_figure(languages: Any, why: str) -> None:
    """English dev prefers "pos", which is 5 points below none; the translated task is 20 above none."""
    table = by(selection_costs(_translated(languages)), "among", "selector", "scope", "task")
    main, every = (table[among, DEV, FOR_ALL, ALL_TARGETS] for among in ("zero-shot", "every trial"))
    assert (main["trials"], every["trials"]) == (2, 3)
    assert main["cost"] == pytest.approx(5.0, abs=2.5)
    assert every["cost"] == pytest.approx(25.0, abs=2.5)
    assert (main["marked"], every["marked"]) == ("", ""), "the chosen is zero-shot, the best is not"
    dev = {**TRANSLATED["dev"], "pos_in_sw": {"x": 90.0, "y": 90.0}}
    frames = dataclasses.replace(study(TRANSLATED["test"], dev), context=_translated(languages).context)
    frames = dataclasses.replace(frames, scores=_translated(languages, seeds=1).scores)
    chosen = by(selection_costs(frames), "among", "selector", "scope", "task")["every trial", DEV, FOR_ALL, ALL_TARGETS]
    assert (chosen["chosen"], chosen["marked"]) == ("pos_in_sw", f"pos_in_sw: {why}")


@pytest.mark.parametrize(("flag", "counts"), [("leak", False), ("same data", True)])
def test_leaked_tests_are_no_candidate_and_shared_english_data_are(flag: str, counts: bool) -> None:
    frames = study(**TRANSLATED)
    frames.context["marks"] = {"pos_in_sw": {"x": flag}}
    candidates = candidates_of(frames, "a")
    assert candidates is not None
    assert ("pos_in_sw" in candidates.intermediates) == counts
    assert ("every trial" in set(selection_costs(frames)["among"])) != counts


def test_the_lead_says_what_was_not_tested_and_which_trials_are_not_zero_shot(tmp_path: Path) -> None:
    page = section(write(_translated(["sw"], seeds=1), tmp_path), "What choosing on English dev costs")
    assert page.count("(one seed: not tested)") == 2
    assert "With trials that are not zero-shot: a " in page
    assert "a · English dev · one for all · every trial" in page
    (tmp_path / "repeated").mkdir()
    page = section(write(study(**MISLEADING, seeds=3), tmp_path / "repeated"), "What choosing on English dev costs")
    assert "not tested" not in page
    assert "· every trial" not in page


def test_a_study_without_a_choice_has_no_costs_and_says_so(tmp_path: Path) -> None:
    frames = study({"none": {"x": 60.0}}, {"none": {"x": 80.0}})
    assert selection_costs(frames).empty
    assert list(per_target_choices(frames).columns) == list(per_target_choices(study(**MISLEADING)).columns)
    assert "nothing to choose between" in section(write(frames, tmp_path), "What choosing on English dev costs")
