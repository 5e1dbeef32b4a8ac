"""Cascades of a study: the curve that stored confidences predict for each pair of sizes, and what a served one came to."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from analysis.store.examples import Floats, Key
from analysis.store.frames import ENGLISH, MEAN, StudyFrames, cascade_in, frame, served_key
from analysis.tables.cascades.prediction import SMALL, Pair, pair_of, predicted_ms
from analysis.tables.tradeoff import best_trials

STEPS = tuple(step / 20 for step in range(21))  # shares of English dev that the smaller model answers
_CURVES = {
    **dict.fromkeys(("small", "large", "variant", "hardware"), "str"),
    **dict.fromkeys(("dev_share", "share", "score", "latency_ms"), "float64"),
}
_SERVED = {
    **dict.fromkeys(("small", "large", "variant", "hardware"), "str"),
    **dict.fromkeys(("share", "share_predicted", "score", "score_predicted", "score_large", "score_small"), "float64"),
    **dict.fromkeys(("latency_ms", "latency_predicted_ms", "latency_large_ms", "latency_small_ms"), "float64"),
    **dict.fromkeys(
        ("p50_ms", "p99_ms", "server_qps", "server_p99_ms", "server_bound_ms", "peak_memory_mb"), "float64"
    ),
}
_LANGUAGES = {
    **dict.fromkeys(("small", "large", "language"), "str"),
    **dict.fromkeys(("share", "change", "low", "high"), "float64"),
    "targets": "int64",
}


def cascade_curves(frames: StudyFrames, served: pd.DataFrame) -> pd.DataFrame:
    """Score and mean latency of every pair of sizes, as stored confidences and the speeds of single models predict them.

    One row a step of `STEPS`: `dev_share` of each task's English dev examples are answered by the smaller model, and with these
    thresholds `share` of the timed task's tests. `score` is judged as the single models' are. The scores are those of the
    evaluations, in fp32; latencies are those of the `variant` that serves the cascade, or of the first variant that both sizes
    have. Pairs whose evaluations have no confidences are missing. `served`: `tradeoff.configurations` of the study.
    """
    rows: list[dict[str, Any]] = []
    singles = [row for row in served.to_dict("records") if not row["baseline"] and not cascade_in(row)]
    preferred = [cascade["served_as"] for row in served.to_dict("records") if (cascade := cascade_in(row))]
    for pair, small, large in _timed_pairs(frames, singles, preferred):
        task, with_english = str(large["timed_task"]), large["judged_by"] == MEAN
        small_ms, large_ms = _times(small, large)
        for step in STEPS if task in pair.tests else ():
            thresholds = pair.thresholds_at(step)
            share = pair.test_share(task, thresholds[task])
            rows.append(
                {name: large[name] for name in ("variant", "hardware")}
                | {"small": pair.small, "large": pair.large, "dev_share": step, "share": share}
                | {"score": pair.test_score(thresholds, with_english=with_english)}
                | {"latency_ms": predicted_ms(small_ms, large_ms, share=share)}
            )
    return frame(rows, _CURVES)


def served_cascades(frames: StudyFrames, served: pd.DataFrame) -> pd.DataFrame:
    """Each cascade that was served: what was predicted of it, what was measured, and both of its models alone.

    Latencies are means of single queries, in ms (medians where a measurement of an earlier version has no mean); `share` is
    that of the timed queries. Predictions are NaN where confidences are not known.
    """
    rows: list[dict[str, Any]] = []
    records = served.to_dict("records")
    for row in records:
        cascade = cascade_in(row)
        if not cascade:
            continue
        named = {"small": cascade["small"], "large": row["size"], "variant": cascade["served_as"]}
        measured = {name: row[name] for name in (*_SERVED,) if name in row and name not in named}
        rows.append(
            {**dict.fromkeys(_SERVED, np.nan), **measured, **named}
            | {"share": cascade["timed_share"], "latency_ms": row["mean_ms"]}
            | _alone(records, row, cascade)
            | _predicted(frames, records, row, cascade)
        )
    return frame(rows, _SERVED)


def cascade_languages(frames: StudyFrames, served: pd.DataFrame) -> pd.DataFrame:
    """What each served cascade changes against its larger model, by language, over the targets that cascade.

    `change` is in points, the mean over the `targets` with that language, with its 95% bootstrap interval over test examples
    (both resampled together); `share` is what the smaller model answered. No rows where examples were not recorded.
    """
    rows: list[dict[str, Any]] = []
    for row in served.to_dict("records"):
        cascade = cascade_in(row)
        key = served_key(row)
        table = frames.examples.read(key) if cascade else None
        if table is None or SMALL not in table or not frames.examples.sums(key):
            continue
        known = table[table[SMALL].notna()].astype({"task": str, "language": str})
        for language, of_language in known.groupby("language", sort=True):
            shares = of_language.groupby("task")[SMALL].mean()
            changes = _changes(frames, key, _larger(frames, row, cascade), list(shares.index), str(language))
            if changes is not None:
                value, draws = changes
                low, high = np.percentile(draws, (2.5, 97.5))
                rows.append(
                    {"small": cascade["small"], "large": row["size"], "language": language}
                    | {"share": float(shares.mean()), "change": value, "low": low, "high": high}
                    | {"targets": len(shares)}
                )
    return frame(rows, _LANGUAGES)


def losing_languages(languages: pd.DataFrame) -> list[str]:
    """The languages other than English whose interval lies below zero, the largest loss first."""
    losing = languages[(languages["high"] < 0) & (languages["language"] != ENGLISH)]
    return [str(language) for language in losing.sort_values("change", kind="stable")["language"]]


def _pair(frames: StudyFrames, small: Key, large: Key) -> Pair | None:
    """The pair of two trials; None if their examples are not recorded or cannot be read."""
    if not (frames.examples.sums(small) and frames.examples.sums(large)):
        return None
    tables = [frames.examples.read(key) for key in (small, large)]
    if any(table is None for table in tables):
        return None
    return pair_of(small[0], tables[0], large[0], tables[1])  # type: ignore[arg-type]


def _timed_pairs(
    frames: StudyFrames, singles: list[dict[Any, Any]], preferred: list[str]
) -> Iterator[tuple[Pair, Mapping[Any, Any], Mapping[Any, Any]]]:
    """Each pair with the rows of both sizes in one variant and on one hardware, the smaller one faster."""
    best = dict(best_trials(frames).itertuples(index=False, name=None))
    for small, large in itertools.permutations(best, 2):
        both = [
            (first, second)
            for first, second in itertools.product(singles, singles)
            if (first["size"], second["size"]) == (small, large)
            and (first["variant"], first["hardware"]) == (second["variant"], second["hardware"])
            and (first["trial_id"], second["trial_id"]) == (best[small], best[large])
            and first["p50_ms"] < second["p50_ms"]
        ]
        both.sort(key=lambda rows: rows[0]["variant"] not in preferred)
        pair = _pair(frames, (small, best[small]), (large, best[large])) if both else None
        if pair is not None:
            yield pair, *both[0]


def _times(small: Mapping[Any, Any], large: Mapping[Any, Any]) -> tuple[float, float]:
    """Mean latencies of two rows; medians unless both have a mean."""
    name = "p50_ms" if pd.isna(small["mean_ms"]) or pd.isna(large["mean_ms"]) else "mean_ms"
    return float(small[name]), float(large[name])


def _single(
    records: list[dict[Any, Any]], row: Mapping[Any, Any], *, size: str, trial: str, variant: str
) -> dict[Any, Any] | None:
    """The measurement of a single model on the cascade's hardware."""
    wanted = {"size": size, "trial_id": trial, "variant": variant, "hardware": row["hardware"], "baseline": False}
    return next((one for one in records if all(one[name] == value for name, value in wanted.items())), None)


def _models(
    records: list[dict[Any, Any]], row: Mapping[Any, Any], cascade: Mapping[str, Any]
) -> tuple[dict[Any, Any] | None, dict[Any, Any] | None]:
    """The measurements of the smaller and of the larger model alone, as the cascade serves both."""
    variant = cascade["served_as"]
    small = _single(records, row, size=cascade["small"], trial=cascade["small_trial"], variant=variant)
    return small, _single(records, row, size=row["size"], trial=row["trial_id"], variant=variant)


def _alone(records: list[dict[Any, Any]], row: Mapping[Any, Any], cascade: Mapping[str, Any]) -> dict[str, float]:
    small, large = _models(records, row, cascade)
    if small is None or large is None:
        return {}
    small_ms, large_ms = _times(small, large)
    return {
        "score_small": small["score"],
        "score_large": large["score"],
        "latency_small_ms": small_ms,
        "latency_large_ms": large_ms,
    }


def _predicted(
    frames: StudyFrames, records: list[dict[Any, Any]], row: Mapping[Any, Any], cascade: Mapping[str, Any]
) -> dict[str, float]:
    small, large = _models(records, row, cascade)
    pair = _pair(frames, (cascade["small"], cascade["small_trial"]), (str(row["size"]), str(row["trial_id"])))
    task, thresholds = str(row["timed_task"]), dict(cascade["thresholds"])
    if pair is None or small is None or large is None or pair.tests.keys() != thresholds.keys():
        return {}
    share = pair.test_share(task, thresholds[task])
    with_english = row["judged_by"] == MEAN
    small_ms, large_ms = _times(small, large)
    return {
        "share_predicted": share,
        "score_predicted": pair.test_score(thresholds, with_english=with_english),
        "latency_predicted_ms": predicted_ms(small_ms, large_ms, share=share),
    }


def _larger(frames: StudyFrames, row: Mapping[Any, Any], cascade: Mapping[str, Any]) -> Key:
    """The larger model as served alone, or as evaluated where its examples as served are not recorded."""
    served = served_key({**row, "variant": cascade["served_as"]})
    return served if frames.examples.sums(served) else (str(row["size"]), str(row["trial_id"]))


def _changes(
    frames: StudyFrames, cascade: Key, large: Key, tasks: list[str], language: str
) -> tuple[float, Floats] | None:
    """The mean change over the tasks in a language, in points, and its bootstrap draws; None if examples are missing."""
    values, draws = [], []
    for task in tasks:
        first, second = (frames.examples.draws(key, task, language) for key in (cascade, large))
        if first is None or second is None:
            return None
        sums = [frames.examples.sums(key)[task][language] for key in (cascade, large)]
        scores = [100.0 * float(numerator.sum()) / float(denominator.sum()) for numerator, denominator in sums]
        values.append(scores[0] - scores[1])
        draws.append(first - second)
    return float(np.mean(values)), np.mean(draws, axis=0)
