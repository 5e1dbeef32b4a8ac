"""Which weights of an output folder nothing needs any more, and their removal.

A target's model is scored once and then read again by nothing but the benchmark, which measures each size's best trial and its
best one without an intermediate task. The models of all other trials that ended, repeats among them, can go once their
evaluations are finished: manifests, scores and results by example stay. Encoders and intermediate stages stay too, since later
trials start from them, and so do the stages of trials that failed or have not ended, which will be run (again).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from optuna.storages import JournalStorage

from study.search.callback import EVALUATIONS
from study.search.records import SearchResult, TrialOutcome
from study.search.trial_store import stored_searches
from study.tracking.outbox import FOLDER, read_tags
from trainables.store.fingerprint import fingerprint_of_canonical
from trainables.store.manifests import read_manifest, wrong_sizes
from trainables.store.removal import removable_bytes
from trainables.store.stage_store import StageStore

ENDED = (TrialOutcome.COMPLETE, TrialOutcome.STOPPED_EARLY)
TARGET = "target-"  # how the names of a target's models start
TrialKey = tuple[str, str]  # size and trial id


@dataclass(frozen=True)
class Superfluous:
    """A stage by the name of its folder, and the bytes that its removal frees."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Cleaning:
    """What can be removed, and how many trials must be left alone because an earlier version did not record their stages."""

    stages: tuple[Superfluous, ...]
    unknown: int

    @property
    def bytes(self) -> int:
        return sum(stage.bytes for stage in self.stages)


def superfluous(output: Path, storage: JournalStorage) -> Cleaning:
    """The models that nothing needs any more.

    Raises:
        TrialStoreBroken: the journal has something other than trials.
    """
    recorded, searches = _recorded(output), stored_searches(storage)
    ended = [
        (size, trial.trial_id)
        for size, result in searches.items()
        for trial in (*result.trials, *result.repeats)
        if trial.outcome in ENDED
    ]
    needed = {(size, trial) for size, result in searches.items() for trial in _needed(result)}
    if needed - recorded.keys():  # their models cannot be told from others'
        return Cleaning((), sum(key not in recorded for key in ended))
    kept = {name for key in needed for name in _models(output, recorded[key])}
    candidates = {name for key in ended if key in recorded for name in _models(output, recorded[key])} - kept
    sizes = {name: _removable_bytes(output, name) for name in sorted(candidates)}
    stages = tuple(Superfluous(name, size) for name, size in sizes.items() if size)
    return Cleaning(stages, sum(key not in recorded for key in ended))


def remove(output: Path, cleaning: Cleaning) -> int:
    """Remove these weights and return the bytes freed. A stage that another process holds is left alone."""
    store = StageStore(output)
    return sum(store.remove_weights(stage.name) for stage in cleaning.stages)


def _needed(result: SearchResult) -> Iterator[str]:
    """The trials of a size whose models the benchmark reads."""
    for trial in (result.best, result.baseline):
        if trial is not None:
            yield trial.trial_id


def _recorded(output: Path) -> dict[TrialKey, dict[str, str]]:
    """The evaluations of each trial, by target, as its run records them."""
    recorded: dict[TrialKey, dict[str, str]] = {}
    for tags in read_tags(output / FOLDER):
        if tags.get("kind") in ("trial", "repeat") and EVALUATIONS in tags:
            recorded[tags["size"], tags["trial_id"]] = json.loads(tags[EVALUATIONS])
    return recorded


def _models(output: Path, evaluations: Mapping[str, str]) -> Iterator[str]:
    """The names of the folders of the targets' models that these finished evaluations scored."""
    for name in evaluations.values():
        folder = output / "stages" / name
        manifest = read_manifest(folder)
        if manifest is not None and not any(wrong_sizes(folder, manifest)):
            model = fingerprint_of_canonical(manifest["identity"]["model"])
            yield from (path.name for path in (output / "stages").glob(f"{TARGET}*@{model}"))


def _removable_bytes(output: Path, name: str) -> int:
    folder = output / "stages" / name
    manifest = read_manifest(folder)
    return 0 if manifest is None else removable_bytes(folder, manifest)
