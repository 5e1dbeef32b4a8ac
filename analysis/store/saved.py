"""A study's tables in a JSON file, its scores by example in a Parquet file beside it, and runs of a study joined into one.

Both files outlive the output folder, and are small enough to commit.

Seeds of a study share nothing but the encoder: they can be run one after the other, or on several machines, and be compared
seed by seed afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from analysis.store.examples import CONFIDENCE, Examples, Key
from analysis.store.frames import (
    BENCHMARKS,
    CEILINGS,
    DIAGNOSTICS,
    EVALUATIONS,
    NONE,
    SCORES,
    SIZES,
    SPEED_BY_LANGUAGE,
    TRIALS,
    StudyFrames,
    frame,
    served_key,
    unique,
)

FORMAT = 1
ZSTD_LEVEL = 19  # files of examples are committed and sent
TABLES = {
    "sizes": SIZES,
    "trials": TRIALS,
    "scores": SCORES,
    "benchmarks": BENCHMARKS,
    "speed_by_language": SPEED_BY_LANGUAGE,
    "ceilings": CEILINGS,
    "retried": TRIALS,
    "diagnostics": DIAGNOSTICS,
    "evaluations": EVALUATIONS,
}
_ADDED = {"diagnostics", "evaluations"}  # tables that files of earlier versions lack
_EXAMPLE_NAMES = ["size", "trial_id", "task", "split", "language"]
_EXAMPLE_COLUMNS = [*_EXAMPLE_NAMES, "example"]
_IDS = {"trial_id", "baseline_trial_id", "best_trial"}  # columns that name trials
_CONFIGURATION = ["size", "intermediate", "lr_intermediate", "lr_target"]
_BY_TRIAL = ("trials", "scores", "diagnostics", "evaluations")
_SAME = ("experiment", "targets", "intermediates", "data")  # of the context of runs that can be joined


def save(frames: StudyFrames, path: Path) -> Path:
    """Write the tables and the context as JSON, and the scores by example, where there are any, to `examples_path`."""
    tables = {name: json.loads(getattr(frames, name).to_json(orient="records")) for name in TABLES}
    path.write_text(json.dumps({"format": FORMAT, "context": frames.context, **tables}, indent=0), encoding="utf-8")
    if (examples := _all_examples(frames)) is not None:
        examples.to_parquet(
            examples_path(path),
            index=False,
            compression="zstd",
            compression_level=ZSTD_LEVEL,
            write_page_checksum=True,
        )
    else:  # of a study that was saved here before
        examples_path(path).unlink(missing_ok=True)
    return path


def examples_path(path: Path) -> Path:
    """The file of sums by example beside a JSON file of tables. Without it intervals count seeds alone."""
    return path.with_suffix(".examples.parquet")


def read_saved(path: Path) -> StudyFrames:
    """The study that `save` wrote.

    Raises:
        ValueError: a file is not one, is damaged, or of another version's form.
        OSError: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            raise ValueError(f"{path}: tables of format {content['format']}, {FORMAT} expected")
        tables: dict[str, Any] = {
            name: frame(content.get(name, ()) if name in _ADDED else content[name], dtypes)
            for name, dtypes in TABLES.items()
        }
        return StudyFrames(context=dict(content["context"]), examples=_read_examples(examples_path(path)), **tables)
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a study's saved tables ({type(error).__name__}: {error})") from error


def _all_examples(frames: StudyFrames) -> pd.DataFrame | None:
    """The examples of every trial and measurement that has them, or None if none has.

    A table that cannot be read is in `Examples.problems`. Confidences as served are left out: no analysis reads them, and they
    are half of such a table's bytes.
    """
    trials = frames.trials[["size", "trial_id"]].drop_duplicates().itertuples(index=False, name=None)
    tables = []
    served = dict.fromkeys(map(served_key, frames.benchmarks.to_dict("records")))
    for size, trial_id in (*trials, *served):
        table = frames.examples.read((size, trial_id)) if frames.examples.sums((size, trial_id)) else None
        if table is not None:
            known = table if "split" in table else table.assign(split="test")
            if (size, trial_id) in served:
                known = known.drop(columns=CONFIDENCE, errors="ignore")
            tables.append(known.assign(size=size, trial_id=trial_id).astype({"split": str}))
    if not tables:
        return None
    examples = pd.concat([table.astype({"task": str, "language": str}) for table in tables], ignore_index=True)
    sums = [name for name in examples.columns if name not in _EXAMPLE_COLUMNS]
    types = {"example": "int32", **dict.fromkeys(sums, "float32"), **dict.fromkeys(_EXAMPLE_NAMES, "category")}
    return examples[[*_EXAMPLE_COLUMNS, *sums]].astype(types)


def _read_examples(path: Path) -> Examples:
    """Examples by trial; none where the file is missing.

    Raises:
        ValueError: it is damaged.
    """
    if not path.is_file():
        return Examples()
    try:
        table = pq.read_table(path, page_checksum_verification=True).to_pandas(ignore_metadata=True)
        return Examples.from_tables(dict(iter(table.groupby(["size", "trial_id"], observed=True))))
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise ValueError(f"{path}: not a study's scores by example ({' '.join(str(error).split())})") from error


def joined(parts: Sequence[StudyFrames]) -> StudyFrames:
    """Runs of one study with different seeds, sizes or intermediate choices, as one study.

    The trials of a further seed are repeats of the first run's trials with the same choice. Where runs divide the choices of a
    size and seed among them, each has trained without an intermediate task, and the first of these trials counts. A size with
    the same trials in two runs, as when a copy of an output folder was benchmarked on another machine, counts once. The first
    measurement of a size and serving variant on each kind of hardware counts. Trials that a run has not finished are left out.
    `context` is the first run's, with the training precisions of all; its key `joined` has seed, hardware, precision and
    command of each. Precisions may differ, as a gain compares trials of one size and seed, which are mostly of one run; sizes
    that were trained in different precisions are compared all the same.

    Raises:
        ValueError: the runs are not of one study, or two of them have the same choice of a size and seed.
    """
    first = parts[0]
    for part in parts[1:]:
        if differing := [name for name in _SAME if part.context.get(name) != first.context.get(name)]:
            raise ValueError(f"the runs differ in {', '.join(differing)}: only runs of one study can be joined")
    parts = [_finished(part) for part in parts]
    parts, copies = _known_once([_without_empty(part, parts) for part in parts])
    parts, baselines = _baselines_once(parts)
    _refuse_twice(parts)
    own_ids = _joined_ids(parts)
    ids = own_ids | {
        (number, size, old): joined_id
        for (number, size), first in copies.items()
        for (of, of_size, old), joined_id in own_ids.items()
        if (of, of_size) == (first, size)
    }
    ids |= {(number, size, old): ids[first, size, same] for (number, size, old), (first, same) in baselines.items()}
    tables = {name: _joined_table(name, parts, ids) for name in TABLES}
    sizes = tables["sizes"].drop_duplicates("size").sort_values(["params_m", "size"], kind="stable")
    timed = ["size", "variant", "hardware"]
    kept = tables["benchmarks"].drop_duplicates(timed)[[*timed, "trial_id"]]
    tables |= {
        "sizes": sizes.reset_index(drop=True),
        "benchmarks": tables["benchmarks"].drop_duplicates(timed).reset_index(drop=True),
        "speed_by_language": tables["speed_by_language"].merge(kept, on=[*timed, "trial_id"]),
        "ceilings": tables["ceilings"].drop_duplicates(["size", "task", "language"]).reset_index(drop=True),
    }
    # Of a joined trial: its run and its id there, then those of copies that were timed.
    origins: dict[Key, list[tuple[int, str]]] = {}
    for (number, size, old), (new, _) in ids.items():
        origins.setdefault((size, new), []).append((number, old))

    def read(key: Key) -> pd.DataFrame | None:
        size, (trial, slash, variant) = key[0], key[1].partition("/")
        known = origins.get((size, trial), [(0, trial)])
        tables = (parts[number].examples.read((size, f"{old}{slash}{variant}")) for number, old in known)
        return next((table for table in tables if table is not None), None)

    runs = [{name: part.context.get(name) for name in ("seed", "hardware", "precision", "command")} for part in parts]
    precisions = list(dict.fromkeys(run["precision"] for run in runs if run["precision"]))
    machines = list(dict.fromkeys(run["hardware"] for run in runs if run["hardware"]))
    together = {"joined": runs} | ({"precision": ", ".join(precisions)} if len(precisions) > 1 else {})
    together |= {"hardware": "; ".join(machines)} if len(machines) > 1 else {}
    return StudyFrames(context=first.context | together, examples=Examples(read), **tables)


_ONCE = (
    "sizes",
    "trials",
    "scores",
    "ceilings",
    "retried",
    "evaluations",
)  # tables that benchmarks on another machine repeat


def _finished(part: StudyFrames) -> StudyFrames:
    """The run without unfinished trials: they lack targets, so their means are of other ones than their counterparts'."""
    over = part.trials["outcome"] != "unfinished"
    keys = pd.MultiIndex.from_frame(part.trials.loc[over, ["size", "trial_id"]])
    kept = {}
    for name in _BY_TRIAL:
        table = getattr(part, name)
        kept[name] = table[pd.MultiIndex.from_frame(table[["size", "trial_id"]]).isin(keys)]
    return replace(part, **kept)


def _without_empty(part: StudyFrames, parts: Sequence[StudyFrames]) -> StudyFrames:
    """The run without sizes of which it has no trial, as where their encoder failed, if another run has some."""
    own = set(part.trials["size"])
    elsewhere = {size for other in parts for size in other.trials["size"]} - own
    return replace(part, sizes=part.sizes[~part.sizes["size"].isin(elsewhere)])


def _known_once(parts: Sequence[StudyFrames]) -> tuple[list[StudyFrames], dict[tuple[int, str], int]]:
    """The runs without sizes whose every trial, with its scores, an earlier run has, if they add benchmarks, which stay.

    Also the number of that earlier run, by the number of the run and the size that it lost.
    """
    known: list[tuple[int, str, pd.DataFrame]] = []
    timed: set[tuple[str, str, str]] = set()
    kept, copies = [], dict[tuple[int, str], int]()
    for number, part in enumerate(parts):
        of_sizes = [(number, size, _identifying(part, size)) for size in part.sizes["size"]]
        measured = set(part.benchmarks[["size", "variant", "hardware"]].itertuples(index=False, name=None))
        same = {
            size: first
            for _, size, own in of_sizes
            for first, name, other in known
            if size == name and own.equals(other)
        }
        again = same if measured - timed else dict[str, int]()
        copies |= {(number, size): first for size, first in again.items()}
        known, timed = known + of_sizes, timed | measured
        tables = {name: getattr(part, name) for name in _ONCE}
        kept.append(replace(part, **{name: table[~table["size"].isin(list(again))] for name, table in tables.items()}))
    return kept, copies


def _baselines_once(
    parts: Sequence[StudyFrames],
) -> tuple[list[StudyFrames], dict[tuple[int, str, str], tuple[int, str]]]:
    """The runs without the trials without an intermediate task that an earlier run has, if they have other choices of the seed.

    Also the earlier run and its trial, by the number of the run, the size and the trial that it lost.
    """
    earlier: dict[tuple[Any, ...], tuple[int, str]] = {}
    kept, dropped = [], dict[tuple[int, str, str], tuple[int, str]]()
    for number, part in enumerate(parts):
        own = _cells(part)
        divided = {cell[:2] for cell in own if cell not in earlier}
        lost = {
            (number, cell[0], trial): earlier[cell]
            for cell, trial in own.items()
            if cell[2] == NONE and cell in earlier and cell[:2] in divided
        }
        gone = pd.MultiIndex.from_tuples([(size, trial) for _, size, trial in lost], names=["size", "trial_id"])
        tables = {name: getattr(part, name) for name in _BY_TRIAL}
        tables = {
            name: table[~pd.MultiIndex.from_frame(table[["size", "trial_id"]]).isin(gone)]
            for name, table in tables.items()
        }
        kept.append(replace(part, **tables) if lost else part)
        dropped |= lost
        earlier = {cell: (number, trial) for cell, trial in own.items()} | earlier
    return kept, dropped


def _cells(part: StudyFrames) -> dict[tuple[Any, ...], str]:
    """The run's trials by size, seed and choice."""
    return {
        (row["size"], _seed(part, row), *_configuration(row)[1:]): row["trial_id"]
        for row in part.trials.to_dict("records")
    }


def _seed(part: StudyFrames, row: Mapping[Any, Any]) -> str:
    return str(part.context.get("seed") if pd.isna(row["seed"]) else row["seed"])


def _configuration(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    return tuple(None if pd.isna(row[name]) else row[name] for name in _CONFIGURATION)


def _identifying(part: StudyFrames, size: str) -> pd.DataFrame:
    """What tells one search of a size from another: its trials with their choices and scores."""
    columns = ["trial_id", "seed", *_CONFIGURATION, "dev_score", "test_score"]
    trials = part.trials[part.trials["size"] == size]
    return trials[columns].sort_values("trial_id").reset_index(drop=True)


def _refuse_twice(parts: Sequence[StudyFrames]) -> None:
    """A choice of a size and seed counts once, whether a run started with the seed or repeated trials with it."""
    seen: set[tuple[Any, ...]] = set()
    for part in parts:
        own = set(_cells(part))
        if twice := own & seen:
            named = ", ".join(f"size {size} with seed {seed}" for size, seed in sorted({cell[:2] for cell in twice}))
            choices = ", ".join(unique(cell[2] for cell in sorted(twice, key=str)))
            raise ValueError(f"in two runs: {named} ({choices}); give each once")
        seen |= own


def _joined_ids(parts: Sequence[StudyFrames]) -> dict[tuple[int, str, str], tuple[str, str]]:
    """For each run, size and trial id: the id in the joined tables, and the trial that it repeats ("" for none).

    A trial keeps its id in the first run that has trials of its size. In later ones the seed precedes it. Two runs' trials are
    one where their choices are equal; a repeat belongs to whatever its own run repeated.
    """
    ids: dict[tuple[int, str, str], tuple[str, str]] = {}
    trials_of: dict[tuple[Any, ...], str] = {}
    sizes: set[str] = set()
    taken: set[tuple[str, str]] = set()
    for number, part in enumerate(parts):
        found = dict[tuple[Any, ...], str]()
        for row in part.trials.sort_values("kind", ascending=False, kind="stable").to_dict("records"):  # trials first
            size, old = row["size"], row["trial_id"]
            new = f"seed{part.context.get('seed')}-{old}" if size in sizes else old
            while (size, new) in taken:  # by another run of this seed
                new += "+"
            taken.add((size, new))
            if row["kind"] == "repeat":
                repeated, original = ids.get((number, size, row["repeats"]), (row["repeats"], ""))
                ids[number, size, old] = new, original or repeated
                continue
            configuration = _configuration(row)
            ids[number, size, old] = new, trials_of.get(configuration, "")
            found.setdefault(configuration, new)
        trials_of = found | trials_of
        sizes |= set(part.trials["size"])
    return ids


def _joined_table(
    name: str, parts: Sequence[StudyFrames], ids: Mapping[tuple[int, str, str], tuple[str, str]]
) -> pd.DataFrame:
    """The rows of all runs, with the joined tables' trial ids."""
    rows = []
    for number, part in enumerate(parts):
        for row in getattr(part, name).to_dict("records"):
            original = ids.get((number, row["size"], row.get("trial_id", "")), ("", ""))[1]
            if name == "trials" and original:
                row |= {"kind": "repeat", "repeats": original}
            for column in _IDS & row.keys():
                row[column] = ids.get((number, row["size"], row[column]), (row[column], ""))[0]
            if row.get("in_place_of"):
                stood_for = row["in_place_of"].split(", ")
                row["in_place_of"] = ", ".join(ids.get((number, row["size"], run), (run, ""))[0] for run in stood_for)
            rows.append(row)
    return frame(rows, TABLES[name])
