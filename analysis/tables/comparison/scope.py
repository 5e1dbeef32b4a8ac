"""What two studies can be compared in: what only one has, what has other test data, and which settings differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.store.frames import AGGREGATES, StudyFrames, frame, unique

_OF_TARGETS = {"data": "data revision", "metrics": "metric", "protocols": "protocol"}  # keys of the context, by target
THIS, OTHER = "this", "other"
_CELL, _CELL_JOINT = ["size", "intermediate", "task"], " · "


@dataclass(frozen=True)
class Scope:
    """Two studies, and why targets of both cannot be compared."""

    frames: StudyFrames
    other: StudyFrames
    refused: Mapping[str, str]  # target to reason

    @staticmethod
    def of(frames: StudyFrames, other: StudyFrames) -> Scope:
        shared = [target for target in frames.targets if target in other.targets]
        return Scope(frames, other, {target: why for target in shared if (why := _why_not(frames, other, target))})

    @property
    def only(self) -> pd.DataFrame:
        """What one study alone has: where, kind, names. Seeds are those of default cells that both have."""
        cells = _cells(self.frames), _cells(self.other)
        shared = set(cells[0]) & set(cells[1])
        rows = []
        for kind, own, theirs in (
            ("size", self.frames.size_names, self.other.size_names),
            ("intermediate task", _tried(self.frames), _tried(self.other)),
            ("target", self.frames.targets, self.other.targets),
            ("language", self.frames.languages, self.other.languages),
            ("serving variant", _variants(self.frames), _variants(self.other)),
            ("default cell", *cells),
            ("seed", *(_seeds(study, cells=shared) for study in (self.frames, self.other))),
        ):
            for where, names, missing in ((THIS, own, theirs), (OTHER, theirs, own)):
                if lacking := [name for name in names if name not in set(missing)]:
                    rows.append((where, kind, lacking))
        return frame(rows, {"where": "str", "kind": "str", "names": "object"})

    def incomparable(self, refused: Iterable[Mapping[str, str]]) -> pd.DataFrame:
        """What both have and cannot be compared, with what tables of scores refused: what, reason."""
        found = {f"target {target}": why for target, why in self.refused.items()}
        for more in refused:
            found |= more
        return frame(found.items(), {"what": "str", "reason": "str"})

    def comparable(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows about targets that can be compared."""
        return rows[~rows["task"].isin(list(self.refused))]


def _why_not(frames: StudyFrames, other: StudyFrames, target: str) -> str:
    """Why a target's scores in two studies are not of one measure; "" where nothing recorded says so."""
    reasons = []
    for key, name in _OF_TARGETS.items():
        own, theirs = ((study.context.get(key) or {}).get(target) for study in (frames, other))
        if own is not None and theirs is not None and own != theirs:
            reasons.append(f"other {name} ({own}; {theirs})")
    return ", ".join(reasons)


def settings(frames: StudyFrames, other: StudyFrames) -> pd.DataFrame:
    """Recorded settings that differ: setting, this, other."""
    rows = []
    for name in unique([*frames.context, *other.context]):
        own, theirs = frames.context.get(name), other.context.get(name)
        if own != theirs:
            rows.append((name, _setting_text(own, theirs), _setting_text(theirs, own)))
    return frame(rows, {"setting": "str", "this": "str", "other": "str"})


def languages_of(frames: StudyFrames, target: str) -> set[str]:
    """The languages in which a target was scored on test."""
    rows = frames.scores[(frames.scores["split"] == "test") & (frames.scores["task"] == target)]
    return set(rows["language"]) - set(AGGREGATES)


def _tried(frames: StudyFrames) -> list[str]:
    return unique(name for name in frames.trials["intermediate"] if name)


def _variants(frames: StudyFrames) -> list[str]:
    return unique(frames.benchmarks["variant"])


def _cells(frames: StudyFrames) -> list[str]:
    """Default cells that were scored on test."""
    keys = _cell_scores(frames)[_CELL].drop_duplicates()
    return [_CELL_JOINT.join(key) for key in keys.itertuples(index=False, name=None)]


def _seeds(frames: StudyFrames, *, cells: set[str]) -> list[str]:
    """Seeds with a test score in each of the default cells."""
    scores = _cell_scores(frames).dropna(subset=["value"])
    rows = scores.merge(frames.trials[["size", "trial_id", "seed"]], on=["size", "trial_id"]).dropna(subset=["seed"])
    keys = rows[["seed", *_CELL]].drop_duplicates().itertuples(index=False, name=None)
    return [f"{int(seed)} of {cell}" for seed, *key in keys if (cell := _CELL_JOINT.join(key)) in cells]


def _cell_scores(frames: StudyFrames) -> pd.DataFrame:
    return frames.scores[frames.scores["default_cell"] & (frames.scores["split"] == "test")]


def _setting_text(value: Any, against: Any) -> str:
    """A setting as text; of two mappings only the entries that differ."""
    if isinstance(value, dict):
        against = against if isinstance(against, dict) else {}
        entries = (f"{name}: {entry}" for name, entry in value.items() if against.get(name) != entry)
        return ", ".join(entries) or "not recorded"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "not recorded"
    return str(value) if value not in (None, "") else "not recorded"
