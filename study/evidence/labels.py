"""Whether a trial was trained as its row says: its choice and seed against the identities of the evaluations that it names.

An evaluation's identity holds the whole chain that made its model: encoder, trainings, tasks, rates, seeds. Its fingerprint is
part of the folder's name, so a changed identity is found by the check of manifests.

Not tied, because the tables have no column for them: the multiple of the targets' steps, and what tells two arms of the same
tasks apart by a number alone, such as the scale of a merge or a weight decay.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.store.frames import NONE, StudyFrames

Identity = Mapping[str, Any]
# How an arm is trained, beside which tasks: the class of the arm, and of the stage that shows it.
_STAGES_OF_ARMS = {"Joint": "FineTuneJoint", "Merged": "MergeEncoders"}
_FORMS = frozenset({"Mixture", *_STAGES_OF_ARMS.values()})
_PUBLISHED_ARM = "PublishedAfter"  # starts from a checkpoint of its own, and trains nothing before the targets


@dataclass(frozen=True)
class Settings:
    """What `study.json` says of the choices: arms by name, rate factors and encoders by size, rate factors by task.

    `untrained`: targets that are scored without training; empty where there are none, or the study did not record them.
    """

    arms: Mapping[str, Identity]
    sizes: Mapping[str, Identity]
    factor_of_task: Mapping[str, float]
    untrained: Collection[str]

    @staticmethod
    def of(study: Identity, context: Mapping[str, Any]) -> Settings:
        """Of the document and the context of the run's tables.

        Raises:
            KeyError, TypeError, ValueError: the document is not one, or is of another study.
        """
        named = [name for name in context["intermediates"] if name != NONE]
        arms = dict(zip(named, study["space"]["intermediates"], strict=True))
        own = {tuning["task"]: float(tuning.get("rate_factor", 1.0)) for tuning in study["own_tuning"]}
        return Settings(arms, study["sizes"], own, context.get("untrained") or ())

    def is_trained(self, task: str, evaluation: Identity) -> bool:
        """Whether the outermost stage of the model is known to be the target's training."""
        if self.untrained:
            return task not in self.untrained
        return _class_of(evaluation["model"].get("task")) == _class_of(evaluation["task"])


def label_faults(frames: StudyFrames, identities: Mapping[str, Identity], settings: Settings) -> Iterator[str]:
    """Trials that name an evaluation whose model was trained otherwise than their row says.

    Args:
        identities: of the evaluations, by the names of their folders.
    """
    trials = {(row["size"], row["trial_id"]): row for row in frames.trials.to_dict("records")}
    common = _common_parts(frames, identities)
    for row in frames.evaluations.to_dict("records"):
        trial, evaluation = trials.get((row["size"], row["trial_id"])), identities.get(row["stage"])
        if trial is None or evaluation is None:
            continue  # found by the check of scores
        problems = _problems(trial, evaluation, settings, task=row["task"], common=common[row["size"], row["task"]])
        if not row["stage"].startswith(f"evaluate-{row['task']}-"):
            problems = iter(["its evaluation is of another target"])
        if problem := next(problems, None):
            yield f"trial {row['trial_id']} of {row['size']} on {row['task']}: {problem} ({row['stage']})"


def _problems(
    trial: Mapping[Any, Any], evaluation: Identity, settings: Settings, *, task: str, common: frozenset[str]
) -> Iterator[str]:
    model, arm = evaluation["model"], settings.arms.get(trial["intermediate"], {})
    trained = settings.is_trained(task, evaluation)
    left_out = common if trained else common | {"FineTuneJoint"}  # an untrained target is scored on the arm's encoder
    wanted, found = _parts_of_arm(arm) - left_out, _parts(model) - left_out
    if wanted != found:
        expected, actual = (", ".join(sorted(parts)) or "nothing" for parts in (wanted, found))
        yield f"{trial['intermediate']} trains {expected} beside the target, and its evaluation {actual}"
    size = settings.sizes[trial["size"]]
    encoders = [stage["encoder"] for stage in _walk(model) if stage.get("type") == "ImportEncoder"]
    if any((encoder == size["encoder"]) is (arm.get("type") == _PUBLISHED_ARM) for encoder in encoders):
        yield "its evaluation starts from another encoder"
    if any(not _same(trial["seed"], training["seed"]) for training in _trainings(model)):
        yield f"seed {trial['seed']} is not that of its evaluation's trainings"
    of_target = model.get("training") if trained else None
    rates = [training["learning_rate"] for training in _trainings(model) if training is not of_target]
    if arm.get("type") == "Joint" and of_target is not None:
        rates.append(of_target["learning_rate"])  # its only training is both
    own, factor = settings.factor_of_task, float(size["rate_factor"])
    if trained and not _same(trial["lr_target"] * factor * own.get(task, 1.0), model["training"]["learning_rate"]):
        yield f"lr_target {trial['lr_target']:g} is not that of its evaluation"
    rate = trial["lr_intermediate"]
    if not pd.isna(rate) and not any(_same(rate * factor * f, r) for f in {1.0, *own.values()} for r in rates):
        yield f"lr_intermediate {rate:g} is not that of its evaluation"


def _common_parts(frames: StudyFrames, identities: Mapping[str, Identity]) -> dict[tuple[str, str], frozenset[str]]:
    """By size and task, what all its models were trained on: the target, and what it is always trained after."""
    common: dict[tuple[str, str], frozenset[str]] = {}
    for row in frames.evaluations.to_dict("records"):
        if row["stage"] in identities:
            key, parts = (row["size"], row["task"]), _parts(identities[row["stage"]]["model"])
            common[key] = common.get(key, parts) & parts
    return common


def _parts(model: Identity) -> frozenset[str]:
    """The classes of the tasks that the model was trained on, and the forms of these trainings."""
    tasks = {_class_of(value) for value in _walk(model) if "kind" in value}
    return frozenset(tasks | {_class_of(value) for value in _walk(model)} & _FORMS)


def _parts_of_arm(arm: Identity) -> frozenset[str]:
    """What an arm leaves in the model of a trained target."""
    if arm.get("type") == _PUBLISHED_ARM:
        return frozenset()
    form = _STAGES_OF_ARMS.get(_class_of(arm))
    return _parts(arm) | ({form} if form else frozenset())


def _trainings(model: Identity) -> list[Identity]:
    """How each fine-tuning stage of the chain was trained."""
    return [stage["training"] for stage in _walk(model) if _class_of(stage).startswith("FineTune")]


def _walk(value: Any) -> Iterator[Identity]:
    """Every JSON object in the value, itself included."""
    if isinstance(value, Mapping):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _walk(part)


def _class_of(value: Any) -> str:
    return str(value.get("type", "")) if isinstance(value, Mapping) else ""


def _same(left: Any, right: Any) -> bool:
    return not pd.isna(left) and math.isclose(float(left), float(right), rel_tol=1e-9)
