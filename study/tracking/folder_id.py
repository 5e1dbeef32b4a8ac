"""The id of an output folder: an MLflow experiment is tagged with that of the folder which it belongs to.

The file moves with the folder, and stays when the outbox is removed. It is sealed: an id with another character would be a
valid one, of a stranger.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path

from trainables.store.atomic import write_text
from trainables.store.kept import KeptFileUnusable, read_object, sealed

FILE = "study.id"  # in the output folder


class FolderIdDamaged(RuntimeError):
    """The file with the id is damaged, and no experiment is known to be the folder's; the message says what to do."""


def folder_id(output: Path, owner: str | None) -> str:
    """The folder's id, which is written where it is lost or new.

    `owner` is the id in the tags of an experiment that has received this folder's outbox, if there is one. It is the folder's
    own, and replaces one that is damaged, missing, or not sealed (written by an earlier version) and different.

    Raises:
        FolderIdDamaged: there is no `owner`.
        OSError: the id cannot be written.
    """
    path = output / FILE
    bare = _bare(path)
    try:
        stored = bare or _sealed(path)
    except KeptFileUnusable as error:
        if owner is None:
            raise FolderIdDamaged(
                f"{path} is damaged ({error.reason}), and the experiment cannot be told from another folder's without it: "
                "restore it from a copy of the folder, or remove it, for a new id"
            ) from error
        stored = None
    if stored is not None and (bare is None or owner in (None, stored)):
        return stored
    settled = owner or uuid.uuid4().hex
    write_text(path, json.dumps(sealed({"id": settled})))
    return settled


def _bare(path: Path) -> str | None:
    """The id as earlier versions wrote it, without a seal; None if the file has another form."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
    return text if text.isalnum() and text.isascii() else None


def _sealed(path: Path) -> str | None:
    """The id in a sealed file; None if there is no file.

    Raises:
        KeptFileUnusable: it is damaged.
    """
    content = read_object(path, ("id",))
    if content is None:
        return None
    if not isinstance(content["id"], str) or not content["id"]:
        raise KeptFileUnusable(path, "its id is not a text")
    return content["id"]
