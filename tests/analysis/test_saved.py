"""Tables survive their output folder in a file, and runs with different seeds are one study again."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import analysis
from analysis import StudyFrames
from analysis.store.examples import Examples
from analysis.store.frames import BENCHMARKS, NONE, SPEED_BY_LANGUAGE, frame, served_key
from analysis.store.saved import TABLES, examples_path
from tests.analysis.helpers import default_cells, section, write
from tests.support.studies import build_frames

TRUE = {"small": {"none": 50.0, "nli": 52.0, "pos": 49.0}, "large": {"none": 60.0, "nli": 61.0, "pos": 60.0}}


def of_seed(frames: StudyFrames, seed: int, **context: Any) -> StudyFrames:
    """What a run with this seed alone would have, under ids of its own."""
    trials = frames.trials[frames.trials["seed"] == seed]
    own = {old: f"t{number:04}" for number, old in enumerate(trials["trial_id"].unique())}
    scores = frames.scores[frames.scores["trial_id"].isin(own)]
    return dataclasses.replace(
        frames,
        trials=trials.assign(trial_id=trials["trial_id"].map(own)),
        scores=scores.assign(trial_id=scores["trial_id"].map(own)),
        context=frames.context | {"seed": str(seed)} | context,
    )


def assert_equal(left: StudyFrames, right: StudyFrames) -> None:
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(left, name), getattr(right, name))
    assert left.context == right.context


def test_saved_tables_are_read_as_they_were(tmp_path: Path) -> None:
    frames = build_frames(
        [
            {"size": "small", "trial_id": "t", "intermediate": "none", "scores": {"x": 60.0}},
            {"size": "small", "trial_id": "u", "intermediate": "nli", "lr_intermediate": 1e-4, "scores": {"x": 61.5}},
        ],
        [{"size": "small", "trial_id": "t", "task_scores": {"x": 60.0}, "p50_ms": 1.25}],
        body_m={"small": 1.0},
    )
    seen: dict[str, Any] = {"seen": {"x": "bitext"}, "seen_by_arm": {"mt0": {"x": "bitext"}}}
    sizes = frames.sizes.assign(**{name: pd.Series([value], dtype=object) for name, value in seen.items()})
    frames = dataclasses.replace(frames, sizes=sizes)
    assert_equal(analysis.read_saved(analysis.save(frames, tmp_path / "study.json")), frames)


def test_a_file_of_a_version_without_diagnostics_is_read(tmp_path: Path) -> None:
    path = analysis.save(default_cells({"none": 50.0, "nli": 52.0}, sd=0.1, seeds=2), tmp_path / "study.json")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content.pop("diagnostics") == []
    path.write_text(json.dumps(content), encoding="utf-8")
    assert analysis.read_saved(path).diagnostics.empty


def with_examples(frames: StudyFrames) -> StudyFrames:
    """Two trials with 50 examples each of one target; 30 and 40 of them right."""
    table = pd.DataFrame({"task": "x", "split": "test", "language": "en", "example": range(50), "total": 1.0})
    right = {"t": 30, "u": 40}
    tables = {
        ("small", trial): table.assign(correct=[float(n < count) for n in range(50)]) for trial, count in right.items()
    }
    return dataclasses.replace(frames, examples=Examples.from_tables(tables))


def test_scores_by_example_are_saved_beside_the_tables_and_widen_intervals_as_before(tmp_path: Path) -> None:
    trials: list[dict[str, Any]] = [
        {"size": "small", "trial_id": "t", "intermediate": "none", "scores": {"x": 60.0}},
        {"size": "small", "trial_id": "u", "intermediate": "nli", "lr_intermediate": 1e-4, "scores": {"x": 80.0}},
    ]
    frames = with_examples(build_frames(trials, [], body_m={"small": 1.0}))
    path = analysis.save(frames, tmp_path / "study.json")
    read = analysis.read_saved(path)
    np.testing.assert_array_equal(read.examples.draws(("small", "t"), "x"), frames.examples.draws(("small", "t"), "x"))
    pd.testing.assert_frame_equal(analysis.gains(read), analysis.gains(frames))
    examples_path(path).write_bytes(examples_path(path).read_bytes()[:-9])
    with pytest.raises(ValueError, match="not a study's scores by example"):
        analysis.read_saved(path)
    analysis.save(dataclasses.replace(frames, examples=Examples()), path)
    assert analysis.read_saved(path).examples.draws(("small", "t"), "x") is None


def test_seeds_that_were_run_apart_give_the_gains_of_one_study() -> None:
    whole = default_cells(TRUE, sd=1.0, seeds=3)
    together = analysis.joined([of_seed(whole, seed) for seed in range(3)])
    pd.testing.assert_frame_equal(analysis.gains(together), analysis.gains(whole))
    assert set(analysis.gains(together)["n"]) == {3}
    assert together.context["joined"][2] == {"seed": "2", "hardware": None, "precision": None, "command": None}
    kinds = together.trials.groupby("kind").size().to_dict()
    assert kinds == {"trial": 6, "repeat": 12}, "a search is the first seed's alone"
    repeated = together.trials.set_index(["size", "trial_id"])
    for row in together.trials[together.trials["kind"] == "repeat"].to_dict("records"):
        original = repeated.loc[(row["size"], row["repeats"])]
        assert (original["intermediate"], original["seed"]) == (row["intermediate"], 0)
        assert row["trial_id"].startswith(f"seed{row['seed']}-")


def test_sizes_that_were_run_apart_are_joined_too() -> None:
    whole = default_cells(TRUE, sd=1.0, seeds=1)
    names = ("sizes", "trials", "scores")
    apart = [
        dataclasses.replace(
            whole, **{name: table[table["size"] == size] for name in names for table in [getattr(whole, name)]}
        )
        for size in ("large", "small")
    ]
    together = analysis.joined([dataclasses.replace(part, context=whole.context | {"seed": "0"}) for part in apart])
    assert together.size_names == ["small", "large"]
    pd.testing.assert_frame_equal(analysis.gains(together), analysis.gains(whole))
    assert set(together.trials["kind"]) == {"trial"}


def trying(frames: StudyFrames, *choices: str) -> StudyFrames:
    """What a run of these choices and none would have, under ids of its own, with better luck without a task than others."""
    trials = frames.trials[frames.trials["intermediate"].isin([NONE, *choices])]
    scores = frames.scores[frames.scores["trial_id"].isin(trials["trial_id"])]
    luck = (scores["intermediate"] == NONE) * 9.0 * len(choices[0])
    own = {old: f"t{number:04}" for number, old in enumerate(trials["trial_id"].unique())}
    return dataclasses.replace(
        frames,
        trials=trials.assign(trial_id=trials["trial_id"].map(own)),
        scores=scores.assign(trial_id=scores["trial_id"].map(own), value=scores["value"] + luck),
    )


def test_choices_of_a_seed_that_were_run_apart_are_compared_with_the_first_runs_training_without_one() -> None:
    whole = default_cells(TRUE, sd=1.0, seeds=3)
    first, second, third = (of_seed(whole, seed) for seed in range(3))
    baseline = third.scores["value"] + (third.scores["intermediate"] == NONE) * 27.0
    expected = analysis.joined([first, second, dataclasses.replace(third, scores=third.scores.assign(value=baseline))])
    together = analysis.joined([first, second, trying(third, "nli"), trying(third, "pos")])
    pd.testing.assert_frame_equal(analysis.gains(together), analysis.gains(expected))
    assert len(together.trials) == len(whole.trials)
    assert not together.trials.duplicated(["size", "trial_id"]).any()
    assert not together.scores.duplicated(["size", "trial_id", "task", "split", "language"]).any()


def test_one_choice_in_two_runs_of_a_seed_is_refused_and_named() -> None:
    whole = of_seed(default_cells(TRUE, sd=1.0, seeds=1), 0)
    with pytest.raises(
        ValueError, match=r"in two runs: size large with seed 0, size small with seed 0 \(nli\); give each"
    ):
        analysis.joined([trying(whole, "nli"), whole])
    with pytest.raises(ValueError, match=r"\(none\); give each once"):
        analysis.joined([trying(whole, "nli"), trying(whole, "absent")])


def test_measurements_of_a_repeated_training_without_a_task_are_of_the_first_one() -> None:
    """A trial that is left out has been served, and scored by example."""
    whole = of_seed(default_cells({"none": 50.0, "nli": 52.0, "pos": 49.0}, sd=1.0, seeds=1), 0)
    second = dataclasses.replace(trying(whole, "pos"), benchmarks=_timed("a cpu", {"fp32": 5.0}))
    together = analysis.joined([trying(whole, "nli"), second])
    assert list(together.benchmarks["trial_id"]) == ["t0000"]
    assert dict(zip(together.trials["intermediate"], together.trials["trial_id"], strict=True)) == {
        "none": "t0000",
        "nli": "t0001",
        "pos": "seed0-t0001",
    }


def test_examples_are_those_of_the_run_that_has_the_trial() -> None:
    whole = default_cells(TRUE, sd=1.0, seeds=2)
    parts = []
    for seed in range(2):
        asked: dict[Any, pd.DataFrame] = {}
        part = of_seed(whole, seed)
        for size, trial in part.trials[["size", "trial_id"]].itertuples(index=False):
            asked[size, trial] = pd.DataFrame({"from": [f"{seed} {size} {trial}"]})
        parts.append(dataclasses.replace(part, examples=Examples.from_tables(asked)))
    read = analysis.joined(parts).examples.read
    found = read(("large", "seed1-t0002")), read(("small", "t0001")), read(("small", "t9"))
    assert [None if table is None else table.iloc[0, 0] for table in found] == ["1 large t0002", "0 small t0001", None]


def test_examples_as_served_are_those_of_the_run_that_measured_the_trial() -> None:
    """The second run has another seed, whose trials have the same ids; the third is a copy of the first, measured elsewhere."""
    whole = default_cells(TRUE, sd=1.0, seeds=2)
    first, second = (of_seed(whole, seed) for seed in range(2))
    parts = [
        dataclasses.replace(first, benchmarks=_timed("a cpu", {"fp32": 5.0})),
        dataclasses.replace(second, benchmarks=_timed("a cpu", {"fp32": 5.0, "bf16": 4.0})),
        dataclasses.replace(first, benchmarks=_timed("a gpu", {"bf16": 1.0})),
    ]
    for number, part in enumerate(parts):
        tables = {
            served_key(row): pd.DataFrame({"from": [f"run {number}"]}) for row in part.benchmarks.to_dict("records")
        }
        parts[number] = dataclasses.replace(part, examples=Examples.from_tables(tables))
    together = analysis.joined(parts)
    found = {
        (row["variant"], row["trial_id"]): together.examples.read(served_key(row))
        for row in together.benchmarks.to_dict("records")
    }
    origins = {key: None if table is None else table.iloc[0, 0] for key, table in found.items()}
    assert origins == {("fp32", "t0000"): "run 0", ("bf16", "seed1-t0000"): "run 1", ("bf16", "t0000"): "run 2"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"targets": ["x", "y"]}, "the runs differ in targets"),
        ({"experiment": "another", "data": {"x": "1"}}, "the runs differ in experiment, data"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(changed: dict[str, Any], message: str) -> None:
    whole = default_cells(TRUE, sd=1.0, seeds=2)
    first, second = of_seed(whole, 0), of_seed(whole, 1)
    with pytest.raises(ValueError, match=message):
        analysis.joined([first, dataclasses.replace(second, context=second.context | changed)])


def test_a_run_given_twice_is_refused() -> None:
    first = of_seed(default_cells(TRUE, sd=1.0, seeds=1), 0)
    with pytest.raises(ValueError, match="in two runs: size large with seed 0, size small with seed 0"):
        analysis.joined([first, first])


def test_a_seed_that_one_run_repeats_and_another_starts_with_is_refused() -> None:
    whole = default_cells(TRUE, sd=1.0, seeds=2)
    repeated = dataclasses.replace(whole, context=whole.context | {"seed": "0"})
    with pytest.raises(ValueError, match="in two runs: size large with seed 1"):
        analysis.joined([repeated, of_seed(whole, 1)])


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 9}', '{"format": 1, "context": {}}', b"\xff"])
def test_a_file_that_holds_no_tables_is_named(content: str | bytes, tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=r"study\.json: "):
        analysis.read_saved(path)


def test_the_report_names_the_runs_that_were_joined(tmp_path: Path) -> None:
    """Machines choose the precision, so seeds may differ in it; a gain compares trials of one seed."""
    whole = default_cells(TRUE, sd=0.1, seeds=3)
    precisions = ("bf16_mixed", "fp32", "bf16_mixed")
    parts = [of_seed(whole, seed, hardware=f"machine {seed}", precision=precisions[seed]) for seed in range(3)]
    together = analysis.joined(parts)
    pd.testing.assert_frame_equal(analysis.gains(together), analysis.gains(whole))
    assert together.context["precision"] == "bf16_mixed, fp32"
    measured = section(write(together, tmp_path), "How it was measured")
    runs = [f"seed {seed} on machine {seed}, trained in {precision}" for seed, precision in enumerate(precisions)]
    assert "; ".join(runs) in measured
    assert analysis.joined(parts[::2]).context["precision"] == "bf16_mixed"


def test_the_command_saves_joins_and_reports(tmp_path: Path) -> None:
    from study.run.report import NoStudy, report_on

    whole = default_cells(TRUE, sd=1.0, seeds=2)
    files = [analysis.save(of_seed(whole, seed), tmp_path / f"seed{seed}.json") for seed in range(2)]
    both = tmp_path / "both.json"
    written = report_on(str(files[0]), join=[str(files[1])], save=both, to=tmp_path / "joined.html")
    assert written == tmp_path / "joined.html"
    assert len(json.loads(both.read_text())["trials"]) == 12
    assert report_on(str(files[0])) == tmp_path / "seed0.html"
    with pytest.raises(NoStudy, match=r"--save .*cannot be written"):
        report_on(str(files[0]), save=tmp_path)
    for missing in (tmp_path / "none.json", tmp_path / "folder.json"):
        (tmp_path / "folder.json").mkdir(exist_ok=True)
        with pytest.raises(NoStudy, match=r"\.json: cannot be read: .* --save wrote"):
            report_on(str(missing))
    with pytest.raises(NoStudy, match="in two runs"):
        report_on(str(files[0]), join=[str(files[0])])


def test_a_size_with_the_same_trials_adds_its_benchmarks_alone() -> None:
    """As of an output folder that was copied and benchmarked on another machine. Without new ones it is a run given twice."""
    whole = default_cells(TRUE, sd=1.0, seeds=1)
    here = dataclasses.replace(
        whole,
        context=whole.context | {"seed": "0"},
        benchmarks=_timed("a cpu", {"fp32": 5.0}),
        speed_by_language=_timed_by_language("a cpu", {"fp32": 5.0}),
    )
    there = dataclasses.replace(
        here,
        benchmarks=_timed("a cpu", {"fp32": 6.0, "bf16": 4.0}),
        speed_by_language=_timed_by_language("a cpu", {"fp32": 6.0, "bf16": 4.0}),
    )
    together = analysis.joined([here, there])
    assert list(together.benchmarks[["variant", "p50_ms"]].itertuples(index=False, name=None)) == [
        ("fp32", 5.0),
        ("bf16", 4.0),
    ], "of the same hardware the first measurement"
    pd.testing.assert_frame_equal(together.trials, here.trials)
    pd.testing.assert_frame_equal(together.scores, here.scores)
    with pytest.raises(ValueError, match="in two runs"):
        analysis.joined([here, here])


def test_measurements_of_one_variant_on_two_machines_are_both_kept() -> None:
    whole = default_cells(TRUE, sd=1.0, seeds=1)
    cpu, gpu = (
        dataclasses.replace(
            whole,
            context=whole.context | {"seed": "0"},
            benchmarks=_timed(hardware, {"fp32": p50_ms}),
            speed_by_language=_timed_by_language(hardware, {"fp32": p50_ms}),
        )
        for hardware, p50_ms in (("a cpu", 5.0), ("a gpu", 1.0))
    )
    together = analysis.joined([cpu, gpu])
    for table in (together.benchmarks, together.speed_by_language):
        assert list(table[["variant", "hardware", "p50_ms"]].itertuples(index=False, name=None)) == [
            ("fp32", "a cpu", 5.0),
            ("fp32", "a gpu", 1.0),
        ]


def _timed(hardware: str, p50_ms: dict[str, float]) -> pd.DataFrame:
    """Benchmarks of the small size by serving variant."""
    return frame(_measured(hardware, p50_ms), BENCHMARKS)


def _timed_by_language(hardware: str, p50_ms: dict[str, float]) -> pd.DataFrame:
    return frame((row | {"language": "en"} for row in _measured(hardware, p50_ms)), SPEED_BY_LANGUAGE)


def _measured(hardware: str, p50_ms: dict[str, float]) -> Iterator[dict[str, Any]]:
    for name, value in p50_ms.items():
        yield {"size": "small", "variant": name, "trial_id": "t0000", "hardware": hardware, "p50_ms": value}
