"""Which weights of an output folder nothing needs any more, and their removal.

A target's model is scored once and then read again by nothing but the benchmark, which measures each size's best trial and its
best one without an intermediate task. The models of all other trials that ended, repeats among them, can go once their
evaluations are finished: manifests, scores and results by example stay. Encoders and intermediate stages stay too, since later
trials start from them, and so do the stages of trials that failed or have not ended, which will be run (again).

A run looks after every trial, and its output may be in a bucket. So what was found once of an evaluation, and of a model
without weights, is remembered.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from optuna.storages import JournalStorage

from study.search.callback import EVALUATIONS
from study.search.journal import TrialStoreBroken
from study.search.records import SearchResult, TrialOutcome
from study.search.trial_store import stored_searches
from study.tracking.outbox import FOLDER, read_tags
from trainables.store.fingerprint import fingerprint_of_canonical
from trainables.store.opening import open_store

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


class Cleaner:
    """Finds and removes superfluous models of one output folder, wherever it is. One process at a time uses the folder."""

    def __init__(self, output: Path) -> None:
        self._output, self._store = output, open_store(output)
        self._scored: dict[str, str] = {}  # the fingerprint of the model by finished evaluation
        self._without = set[str]()  # models that had nothing to remove, or were removed

    def superfluous(self, storage: JournalStorage) -> Cleaning:
        """The models that nothing needs any more.

        Raises:
            TrialStoreBroken: the journal has something other than trials.
            OSError: the stages cannot be read.
        """
        recorded, searches = _recorded(self._output), stored_searches(storage)
        ended = [
            (size, trial.trial_id)
            for size, result in searches.items()
            for trial in (*result.trials, *result.repeats)
            if trial.outcome in ENDED
        ]
        unknown = sum(key not in recorded for key in ended)
        needed = {(size, trial) for size, result in searches.items() for trial in _needed(result)}
        if needed - recorded.keys():  # their models cannot be told from others'
            return Cleaning((), unknown)
        models = self._models()
        kept = {name for key in needed for name in self._models_of(recorded[key], models)}
        others = [recorded[key] for key in ended if key in recorded and key not in needed]
        candidates = {name for evaluations in others for name in self._models_of(evaluations, models)} - kept
        self._without -= kept  # which may be trained again
        sizes = self._store.removable(sorted(candidates - self._without))
        self._without |= candidates - sizes.keys()
        return Cleaning(tuple(Superfluous(name, size) for name, size in sizes.items()), unknown)

    def remove(self, cleaning: Cleaning) -> int:
        """Remove these weights and return the bytes freed. A stage that another process holds is left alone."""
        return sum(self._store.remove_weights(stage.name) for stage in cleaning.stages)

    def clean(
        self,
        storage: JournalStorage,
        *,
        say: Callable[[str], object],
        before_removal: Callable[[], None] | None = None,
    ) -> None:
        """Remove what nothing needs any more, and say how much. Raises nothing, as a sweep calls it.

        `before_removal` raises OSError where nothing may be removed.
        """
        try:
            cleaning = self.superfluous(storage)
            if cleaning.stages and before_removal is not None:
                before_removal()
            if freed := self.remove(cleaning):
                say(f"removed {len(cleaning.stages)} models that are no longer needed, {freed / 1e6:.1f} MB")
        except (OSError, TrialStoreBroken) as error:
            say(f"models that are no longer needed could not be removed: {error}")

    def _models(self) -> dict[str, list[str]]:
        """The names of the folders of targets' models, by fingerprint."""
        models: dict[str, list[str]] = {}
        for name in self._store.names():
            if name.startswith(TARGET):
                models.setdefault(name.rpartition("@")[2], []).append(name)
        return models

    def _models_of(self, evaluations: Mapping[str, str], models: Mapping[str, list[str]]) -> Iterator[str]:
        """The names of the folders of the targets' models that these finished evaluations scored."""
        for name in evaluations.values():
            if name not in self._scored and (manifest := self._store.manifest(name)) is not None:
                self._scored[name] = fingerprint_of_canonical(manifest["identity"]["model"])
            yield from models.get(self._scored.get(name, ""), ())


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
