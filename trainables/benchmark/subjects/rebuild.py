"""The evaluation that a stage's folder belongs to, rebuilt from its manifest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.data.formats.ntrex import NtrexCorpus
from trainables.hyperparameters import EarlyStopping, Training
from trainables.models.card import Card
from trainables.models.encoder import Shape
from trainables.models.published_encoder import PublishedEncoder
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import FineTune
from trainables.stages.import_encoder import ImportEncoder
from trainables.stages.joint import FineTuneJoint
from trainables.stages.merge import MergeEncoders
from trainables.stages.mixture import FineTuneMixture
from trainables.stages.pretrain import Pretrain
from trainables.stages.tokenise import Tokenise
from trainables.stages.vocabulary import Vocabulary
from trainables.store.fingerprint import canonical, identity_name
from trainables.store.manifests import read_manifest
from trainables.store.opening import open_store
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.mixture import Mixture
from trainables.tasks.registry import TASKS
from trainables.tasks.translated import MicroTranslated, Translated

_CLASSES: tuple[type, ...] = (
    *(Evaluate, FineTune, FineTuneMixture, FineTuneJoint, MergeEncoders, Pretrain, ImportEncoder, Tokenise, Vocabulary),
    *(Shape, PublishedEncoder, Card, Training, EarlyStopping, MicroCorpus, NtrexCorpus, Mixture),
    *(Translated, MicroTranslated),
    *TASKS.values(),
)
BUILT_IN: Mapping[str, type] = {identity_name(cls): cls for cls in _CLASSES}


class CannotRebuild(ValueError):
    """An identity that this code cannot rebuild: a class is unknown, or was written by another version."""


class UnknownClass(CannotRebuild):
    """An identity contains a class that is not built in, such as a task that a recipe defines."""


def evaluation_of(folder: Path, classes: Mapping[str, type] | None = None) -> Evaluate | None:
    """The evaluation in the folder, or the one of its store that scored its model; None if there is none.

    `classes` are known besides the built-in ones, by the names they are hashed under (`classes_in` a recipe's study).

    Raises:
        UnknownClass: there is one, with a class that is neither built in nor among `classes`.
        CannotRebuild: there is one, written by another version of the code.
    """
    known = {**BUILT_IN, **(classes or {})}
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    identity = manifest.get("identity", {})
    if identity.get("type") == identity_name(Evaluate):
        return _evaluation(identity, known)
    for other in open_store(folder.absolute().parent.parent).manifests().values() if identity else ():
        if other.get("identity", {}).get("model") == identity:
            return _evaluation(other["identity"], known)
    return None


def classes_in(value: object) -> dict[str, type]:
    """Dataclasses of a value and of all values in it, by the names they are hashed under."""
    classes: dict[str, type] = {}
    values = [value]
    while values:
        current = values.pop()
        if isinstance(current, tuple):
            values += current
        elif dataclasses.is_dataclass(current) and not isinstance(current, type):
            classes[identity_name(type(current))] = type(current)
            values += [getattr(current, field.name) for field in dataclasses.fields(current)]
    return classes


def _evaluation(document: dict[str, Any], known: Mapping[str, type]) -> Evaluate:
    evaluation = rebuild(document, known)
    if not isinstance(evaluation, Evaluate) or canonical(evaluation) != document:
        raise CannotRebuild("its manifest was written by another version of this code")
    return evaluation


def rebuild(document: Any, known: Mapping[str, type] = BUILT_IN) -> Any:
    """The value whose `canonical` form the document is, from classes by the names they are hashed under.

    Raises:
        UnknownClass: a class is not among `known`.
        CannotRebuild: a class has other fields, or refuses their values.
    """
    if isinstance(document, list):
        return tuple(rebuild(item, known) for item in document)
    if not isinstance(document, dict):
        return document
    name = document.get("type")
    if not isinstance(name, str):
        raise CannotRebuild("its manifest names no class")
    cls = known.get(name)
    if cls is None:
        raise UnknownClass(f"its class {name} is not built in")
    names = {field.name for field in dataclasses.fields(cls)}
    values = {field: rebuild(value, known) for field, value in document.items() if field in names}
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise CannotRebuild(f"{name}: {error}") from error
