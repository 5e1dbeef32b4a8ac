"""Stored measurements: for each variant of a size's best model, a file in the output folder."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import torch

from study.benchmarking.placement import device_of
from study.errors import CannotRun
from study.search.records import SearchResult, TrialRecord
from study.spec import Size, Study
from trainables.benchmark.measurement import METRICS, Failed, Measured, MeasurementOutcome, Unavailable, outcome_to_json
from trainables.benchmark.repeats import combined
from trainables.benchmark.settings import BenchmarkSettings
from trainables.benchmark.variants import Variant, variant_named
from trainables.stages.evaluate import Evaluate
from trainables.store.atomic import write_text
from trainables.store.examples import EXAMPLES
from trainables.store.fingerprint import canonical, fingerprint
from trainables.store.kept import KeptFileUnusable, read_object, sealed

CONTEXT = "context.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Method:
    """How measurements are taken. Those of another method are stored beside these and replace none of them."""

    IDENTITY_NAME: ClassVar[str] = "_How"  # its former name, part of the names of files

    settings: BenchmarkSettings
    threads: int
    device: str


class MeasuredModel(Protocol):
    """What measurements are stored of: the models that fingerprints identify, of a size, measured by a method.

    They are in `folder`, `repeats` of each variant. `scored`: one of them scores the models as well.
    """

    @property
    def study(self) -> Study: ...
    @property
    def size(self) -> Size: ...
    @property
    def folder(self) -> Path: ...
    @property
    def fingerprints(self) -> tuple[str, ...]: ...
    @property
    def method(self) -> Method: ...
    @property
    def repeats(self) -> int: ...
    @property
    def scored(self) -> bool: ...
    @property
    def baseline(self) -> TrialRecord | None: ...
    @property
    def baseline_fingerprints(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class BestModel:
    """What is benchmarked: the models of a size's best trial, one per target, in the output folder of their study.

    `baseline` is the size's best trial without an intermediate task, if the best has one. Its models are scored beside the
    others and not timed, because they have the same shape.
    """

    scored: ClassVar[bool] = True

    study: Study
    size: Size
    trial: TrialRecord
    output: Path
    baseline: TrialRecord | None = None

    @classmethod
    def of(cls, study: Study, size: Size, *, result: SearchResult, output: Path) -> Self | None:
        """The best model of a size that was searched; None if no trial is complete."""
        if result.best is None:
            return None
        return cls(study, size, result.best, output, None if result.baseline is result.best else result.baseline)

    @cached_property
    def chain(self) -> tuple[Evaluate, ...]:
        return self.study.chain(self.size, self.trial.choice)

    @cached_property
    def baseline_chain(self) -> tuple[Evaluate, ...] | None:
        return None if self.baseline is None else self.study.chain(self.size, self.baseline.choice)

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        """Of the evaluations, which identify the models and their test sets."""
        return tuple(fingerprint(evaluate) for evaluate in self.chain)

    @cached_property
    def baseline_fingerprints(self) -> tuple[str, ...]:
        """As `fingerprints`, of the baseline. They identify no measurement: one without a baseline's scores is as valid."""
        return tuple(fingerprint(evaluate) for evaluate in self.baseline_chain or ())

    @cached_property
    def method(self) -> Method:
        plan = self.study.benchmark
        return Method(plan.resolved_settings(), plan.threads, plan.device)

    @property
    def folder(self) -> Path:
        return self.output / "benchmarks"

    @property
    def repeats(self) -> int:
        return self.study.benchmark.repeats

    @property
    def variants(self) -> dict[str, str | Variant]:
        """The plan's variants by name, as the plan gives them."""
        return {variant_named(variant).name: variant for variant in self.study.benchmark.variants}

    def stored(self, name: str) -> StoredMeasurements:
        """What is stored of one of the plan's variants."""
        return StoredMeasurements(self, variant_named(self.variants[name]))

    @property
    def measured(self) -> bool:
        """Whether every variant of the plan has all its repeats, or cannot run."""
        return all(self.stored(name).complete() is not None for name in self.variants)


@dataclass(frozen=True)
class StoredMeasurements:
    """The repeats of one variant of a model, or the reason why the variant cannot run, in a file."""

    model: MeasuredModel
    variant: Variant

    @property
    def path(self) -> Path:
        name = f"{self.model.size.name}-{self.variant.name}@{fingerprint(self.model.method)}.json"
        return self.model.folder / name

    @property
    def examples(self) -> Path:
        """The scores by example of the repeat that is scored."""
        return self.path.with_suffix("") / EXAMPLES

    @property
    def context(self) -> Path:
        """The context of the combined measurement, an artifact of its MLflow run."""
        return self.path.with_suffix("") / CONTEXT

    def load(self) -> list[Measured] | Unavailable:
        """The usable repeats, at most as many as the plan wants; or why the variant cannot run.

        Usable are those under the same conditions as the newest, the scored one first; without a scored one, a place is left
        for it. A reason holds until this machine's own reason changes, for instance after a compiler is installed. The reason
        of an actor on another node may differ from it, and stays until the file is removed.
        """
        document = self._read()
        if document is None:
            return []
        measured = document["measured"]
        if isinstance(measured, str):
            return Unavailable(measured) if document["here"] == self._unavailable_here() else []
        return self._usable(measured)

    def measured(self) -> list[Measured]:
        """As `load`, but a variant that cannot run has no repeats; needs no cluster."""
        document = self._read()
        return [] if document is None or isinstance(document["measured"], str) else self._usable(document["measured"])

    def _usable(self, measured: Sequence[Mapping[str, Any]]) -> list[Measured]:
        repeats = [Measured(values) for values in measured]
        comparable = [repeat for repeat in repeats if repeat.conditions == repeats[-1].conditions]
        comparable.sort(key=lambda repeat: not repeat.scored)
        wanted = self.model.repeats
        return comparable[: wanted if has_scores(comparable) or not self.model.scored else wanted - 1]

    def save(self, content: Sequence[Measured] | Unavailable) -> None:
        """Replace what is stored by these repeats or by this reason."""
        document: dict[str, Any] = {"of": self._identity}
        if isinstance(content, Unavailable):
            document |= {"measured": outcome_to_json(content), "here": self._unavailable_here()}
        else:
            document["measured"] = [outcome_to_json(repeat) for repeat in content]
        write_json(self.path, sealed(document))

    def complete(self) -> Measured | Unavailable | None:
        """The combined repeats, or why the variant cannot run; None if a repeat is missing."""
        repeats = self.load()
        if isinstance(repeats, Unavailable):
            return repeats
        return self._combined(repeats) if len(repeats) >= self.model.repeats else None

    def outcome(self) -> MeasurementOutcome:
        """As `complete`, but from fewer repeats too if one of them is scored."""
        repeats = self.load()
        if isinstance(repeats, Unavailable):
            return repeats
        return self._combined(repeats) if has_scores(repeats) else Failed("no two repeats ran on the same machine")

    def with_baseline(self, measured: Measured) -> Measured:
        """The repeat, its baseline's scores marked with the trial and the models that they belong to."""
        baseline, trial = measured.get("baseline"), self.model.baseline
        if baseline is None or trial is None:
            return measured
        marked = {"trial_id": trial.trial_id, "models": list(self.model.baseline_fingerprints), **baseline}
        return Measured({**measured.values, "baseline": marked})

    def _combined(self, repeats: Sequence[Measured]) -> Measured:
        """The repeats combined, without the scores of a former baseline: a longer search may find a better one."""
        values = dict(combined(repeats).values)
        baseline = values.get("baseline")
        if baseline is not None and baseline.get("models") != list(self.model.baseline_fingerprints):
            del values["baseline"]
        return Measured(values)

    @property
    def _identity(self) -> dict[str, Any]:
        """What the measurements are of: the models, and the method."""
        # Where answers depend on the batch, earlier versions scored other answers than those of the queries that they timed.
        scored = {"scored": "single queries"} if self.variant.depends_on_batch and self.model.scored else {}
        return {"models": list(self.model.fingerprints), "how": canonical(self.model.method), **scored}

    def _read(self) -> dict[str, Any] | None:
        """The file's content, if it is of these models. A damaged file is named and counts as absent: it is measured again.

        Raises:
            CannotRun: there can be no file. Nothing that is measured could be stored.
        """
        folder = self.path.parent
        if os.path.lexists(folder) and not folder.is_dir():
            raise CannotRun(f"{folder} is not a folder, so no measurement can be stored in it: move it away")
        try:
            document = read_object(self.path, ("of", "measured"))
            if document is not None and not _is_measured(document):
                raise KeptFileUnusable(self.path, "its measurements have another form")
        except KeptFileUnusable as error:
            logger.warning("%s; it is measured again", error)
            return None
        return document if document is not None and document["of"] == self._identity else None

    def _unavailable_here(self) -> str | None:
        """Why the variant cannot run on this machine, which may not be the one that measures."""
        on_gpu = device_of(self.model.study.benchmark) == "cuda" and torch.cuda.is_available()
        return self.variant.unavailable(torch.device("cuda" if on_gpu else "cpu"))


def _is_measured(document: Mapping[str, Any]) -> bool:
    """Whether it holds the reason why there are no measurements, or a list of them."""
    measured = document["measured"]
    if isinstance(measured, str):
        return "here" in document
    return isinstance(measured, list) and bool(measured) and all(map(_is_repeat, measured))


def _is_repeat(values: object) -> bool:
    """Whether these are the figures of a repeat, with what it ran on: a file of an earlier version is not sealed."""
    if not (isinstance(values, dict) and {"variant", "samples", *METRICS} <= values.keys()):
        return False
    objects = ("languages", "valid", "problems", "unavailable", "interference", "context")
    if not all(isinstance(values.get(name), dict) for name in objects):
        return False
    context = values["context"]
    known = {"hardware", "device", "device_name", "versions", "torch_threads", "queries"} <= context.keys()
    return known and isinstance(context["hardware"], dict) and "summary" in context["hardware"]


def has_scores(repeats: Sequence[Measured]) -> bool:
    """Whether one of the repeats is scored; one is enough, since a variant's answers do not change between repeats."""
    return any(repeat.scored for repeat in repeats)


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(document, indent=1))
