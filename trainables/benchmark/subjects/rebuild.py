"""The evaluation that a stage's folder belongs to, read back from its manifest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from trainables.data.formats.ntrex import NtrexCorpus
from trainables.hyperparameters import EarlyStopping, Training
from trainables.models.encoder import Shape
from trainables.models.published_encoder import Published
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import FineTune
from trainables.stages.import_encoder import ImportEncoder
from trainables.stages.mixture import FineTuneMixture
from trainables.stages.pretrain import Pretrain
from trainables.stages.tokenise import Tokenise
from trainables.stages.vocabulary import Vocabulary
from trainables.store.fingerprint import canonical, identity_name
from trainables.store.manifests import MANIFEST, read_manifest
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.mixture import Mixture
from trainables.tasks.registry import TASKS

_CLASSES: tuple[type, ...] = (
    *(Evaluate, FineTune, FineTuneMixture, Pretrain, ImportEncoder, Tokenise, Vocabulary),
    *(Shape, Published, Training, EarlyStopping, MicroCorpus, NtrexCorpus, Mixture, *TASKS.values()),
)
BY_NAME = {identity_name(one): one for one in _CLASSES}


class CannotRebuild(ValueError):
    """An identity whose classes are not known here, or which this version of the code would write differently."""


def evaluation_of(folder: Path) -> Evaluate | None:
    """The evaluation in the folder, or the one beside it that scored its model; None if there is none.

    Raises:
        CannotRebuild: there is one, made by other code or of tasks of a recipe's own.
    """
    mine = read_manifest(folder)
    if mine is None:
        return None
    if mine["identity"]["type"] == Evaluate.__name__:
        return _evaluation(mine["identity"])
    for path in sorted(folder.parent.glob(f"*/{MANIFEST}")):
        other = read_manifest(path.parent)
        if other is not None and other["identity"].get("model") == mine["identity"]:
            return _evaluation(other["identity"])
    return None


def _evaluation(document: dict[str, Any]) -> Evaluate:
    found = rebuild(document)
    if not isinstance(found, Evaluate) or canonical(found) != document:
        raise CannotRebuild("its manifest was written by another version of this code")
    return found


def rebuild(document: Any) -> Any:
    """The value that `canonical` wrote so.

    Raises:
        CannotRebuild: a class that is not known here, or fields that it does not have.
    """
    if isinstance(document, list):
        return tuple(rebuild(item) for item in document)
    if not isinstance(document, dict):
        return document
    made = BY_NAME.get(document["type"])
    if made is None:
        raise CannotRebuild(f"{document['type']} is no class of this project")
    names = {one.name for one in dataclasses.fields(made)}
    try:
        return made(**{name: rebuild(value) for name, value in document.items() if name in names})
    except (TypeError, ValueError) as error:
        raise CannotRebuild(f"{document['type']}: {error}") from error
