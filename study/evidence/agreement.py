"""Whether a run's tables agree with its evaluations and its measurements."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.store.frames import BENCHMARKS, MEAN, MEAN_WITHOUT_ENGLISH, StudyFrames, served_key
from analysis.tables.cascades.prediction import SMALL
from study.evidence.recount import MALFORMED, close
from trainables.benchmark.measurement import METRICS, Measured
from trainables.benchmark.repeats import combined

ScoreKey = tuple[str, str]  # split, and language or aggregate
SUMS = ("correct", "ap", "f1", "exact", "hits", "predicted", "gold", "total")  # of all metrics, by example
SAME_SCORE = 1e-9


@dataclass(frozen=True)
class Evaluation:
    """What a bundle has of a finished evaluation: its recorded metrics, and a digest of its test examples' sums."""

    metrics: Mapping[str, Any]
    examples: str

    @property
    def scores(self) -> dict[ScoreKey, float | None]:
        """As the table of scores shows them."""
        test = self.metrics.get("test", {})
        return {
            **{("test", language): value for language, value in test.items()},
            ("dev", MEAN): self.metrics.get("dev"),
            ("test", MEAN): self.metrics.get("test_mean"),
            ("test", MEAN_WITHOUT_ENGLISH): self.metrics.get("test_mean_without_english"),
        }


def sums_digest(table: pd.DataFrame) -> str:
    """A digest of the test examples' sums, in the precision in which tables of a study are saved.

    In a served cascade it covers which model answered.
    """
    test = table[table["split"].astype(str) == "test"]
    named = [name for name in (*SUMS, SMALL) if name in test and test[name].notna().any()]
    digest = hashlib.sha256(",".join(named).encode())
    for language, example in zip(test["language"].astype(str), test["example"], strict=True):
        digest.update(f"{language} {example},".encode())
    for name in named:
        digest.update(test[name].to_numpy(dtype="<f4").tobytes())
    return digest.hexdigest()


def score_faults(frames: StudyFrames, evaluations: Mapping[str, Evaluation]) -> Iterator[str]:
    """Trials whose scores, or sums by example, are not those of the evaluation that they name.

    A trial of an earlier version names none; then some evaluation of the same task must have them.
    """
    named = frames.evaluations.set_index(["size", "trial_id", "task"])["stage"].to_dict()
    for key, rows in frames.scores.groupby(["size", "trial_id", "task"], sort=False):
        size, trial, task = map(str, key)
        where, stage = f"trial {trial} of {size} on {task}", named.get((size, trial, task))
        if stage is not None and stage not in evaluations:
            yield f"{where}: its evaluation {stage} is missing"
            continue
        candidates = [evaluations[stage]] if stage is not None else _of_task(evaluations, task)
        shown = {(row["split"], row["language"]): row["value"] for row in rows.to_dict("records")}
        problems = [_differences(shown, candidate) for candidate in candidates]
        if not problems:
            yield f"{where}: no evaluation of the task in the bundle"
        elif all(problems):
            source = stage or "no evaluation of the task has these scores; the nearest"
            yield f"{where}: {min(problems, key=len)[0]} ({source})"
        else:
            yield from _example_faults(frames, (size, trial), task=task, candidates=candidates)


def _of_task(evaluations: Mapping[str, Evaluation], task: str) -> list[Evaluation]:
    return [evaluation for evaluation in evaluations.values() if evaluation.metrics.get("task") == task]


def _differences(shown: Mapping[ScoreKey, float], evaluation: Evaluation) -> list[str]:
    """Scores of the table that are not the evaluation's. Earlier versions recorded no mean without English."""
    recorded = evaluation.scores
    optional = {("test", MEAN_WITHOUT_ENGLISH)}
    keys = {key for key, value in recorded.items() if value is not None} - optional | shown.keys()
    return [
        f"{split}/{language} is {shown.get((split, language))} in the tables and {recorded.get((split, language))} as evaluated"
        for split, language in sorted(keys)
        if not close(shown.get((split, language)), recorded.get((split, language)), SAME_SCORE)
    ]


def _example_faults(
    frames: StudyFrames, key: tuple[str, str], *, task: str, candidates: Sequence[Evaluation]
) -> Iterator[str]:
    """Sums by example in the tables that no candidate has."""
    if not frames.examples.sums(key):
        if (problem := frames.examples.problems.get(key)) is not None:
            yield f"trial {key[1]} of {key[0]}: its scores by example cannot be used ({problem})"
        return
    table = frames.examples.read(key)
    assert table is not None  # it has sums
    rows = table[table["task"].astype(str) == task]
    if sums_digest(rows) not in {candidate.examples for candidate in candidates}:
        yield f"trial {key[1]} of {key[0]} on {task}: its scores by example are not those of its evaluation"


def digests_by_task(table: pd.DataFrame) -> dict[str, str]:
    """`sums_digest` of each task in a table of a measurement."""
    return {str(task): sums_digest(rows) for task, rows in table.groupby(table["task"].astype(str))}


def served_faults(frames: StudyFrames, served: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Scores by example of measurements in the tables that no measurement (digests by task, by the name of its file) has.

    Tables of earlier versions hold none.
    """
    for row in frames.benchmarks.to_dict("records"):
        table = frames.examples.read(served_key(row))
        if table is None:
            continue
        digests, start = digests_by_task(table), _file_start(row)
        if not any(name.startswith(start) and digests == known for name, known in served.items()):
            yield f"benchmark of {row['size']} in {row['variant']}: its scores by example are not those of its measurement"


def mean_faults(frames: StudyFrames) -> Iterator[str]:
    """Trials whose mean scores are not the means over their targets."""
    by_trial = dict(iter(frames.scores.groupby(["size", "trial_id"], sort=False)))
    for row in frames.trials.to_dict("records"):
        scores = by_trial.get((row["size"], row["trial_id"]))
        for column, split, language in (
            ("test_score", "test", MEAN),
            ("test_score_without_english", "test", MEAN_WITHOUT_ENGLISH),
            ("dev_score", "dev", MEAN),
        ):
            if pd.isna(row[column]):
                continue
            values: list[float] = []
            if scores is not None:
                chosen = scores[(scores["split"] == split) & (scores["language"] == language)]
                values = chosen["value"].tolist()
            mean = sum(values) / len(values) if values else None
            if not close(row[column], mean):
                yield f"trial {row['trial_id']} of {row['size']}: {column} is {row[column]}; its targets give {mean}"


def benchmark_faults(frames: StudyFrames, documents: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Rows of the benchmarks that no measurement (by the name of its file) gives."""
    for row in frames.benchmarks.to_dict("records"):
        if row["reason"]:
            continue
        start, where = _file_start(row), f"benchmark of {row['size']} in {row['variant']}"
        problems = [
            _measurement_problem(row, document) for name, document in documents.items() if name.startswith(start)
        ]
        if not problems:
            yield f"{where}: its measurement is missing"
        elif None not in problems:
            yield f"{where}: {problems[0]}"


def _file_start(row: Mapping[Any, Any]) -> str:
    """How the names of files with measurements of a row of the benchmarks start."""
    return f"{row['size']}-{row['variant']}@"


def _measurement_problem(row: Mapping[Any, Any], document: Mapping[str, Any]) -> str | None:
    """A figure of a row that the measurement does not give; None if it gives all of them."""
    try:
        repeats = [Measured(values) for values in document["measured"]]
        comparable = [repeat for repeat in repeats if repeat.conditions == repeats[-1].conditions]
        comparable.sort(key=lambda repeat: not repeat.scored)
        measured = combined(comparable if pd.isna(row["repeats"]) else comparable[: int(row["repeats"])])
        expected = {name: measured[name] for name in (*METRICS, "samples") if name in BENCHMARKS}
        scores = measured.get("scores") or {}
        expected |= {name: measured.get(name) for name in ("mean_ms", "test_score")}
        shown = {**row, **{f"score on {task}": value for task, value in (row["task_scores"] or {}).items()}}
        expected |= {f"score on {task}": scored["test_mean"] for task, scored in scores.items()}
    except (*MALFORMED, IndexError) as error:
        return f"its measurement cannot be read ({type(error).__name__}: {error})"
    for name, value in expected.items():
        if not close(shown.get(name), value):
            return f"{name} is {shown.get(name)} in the tables and {value} as measured"
    return None


def served_scores(document: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """What a variant's evaluations recorded, by task, in the repeat that was scored; empty if none was."""
    measured = document.get("measured")
    repeats = measured if isinstance(measured, list) else []
    return next((repeat["scores"] for repeat in repeats if isinstance(repeat, dict) and "scores" in repeat), {})
