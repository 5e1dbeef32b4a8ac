"""Removes the weights of a finished stage and keeps everything else: its manifest, metrics and results.

The manifest is replaced first, durably: it then lists the weights under `REMOVED` instead of among the files. A process killed
after that leaves files which the manifest no longer vouches for, and the next removal deletes them. So a stage is whole, or is
known to be without weights; it is never damaged. Deleting a file takes nothing from a process that has it open, nor from
another name of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.store.manifests import Files, write_manifest

REMOVED = "removed"  # in a manifest: the weights that were removed, as its files list them
SUFFIX = ".safetensors"


def removed_files(manifest: Mapping[str, Any]) -> Files:
    """The weights that were removed; empty for a stage that is whole."""
    files = manifest.get(REMOVED)
    return dict(files) if isinstance(files, dict) else {}


def is_whole(manifest: Mapping[str, Any] | None) -> bool:
    """Whether the stage of the manifest is finished and has its weights: nobody is training it, or will."""
    return manifest is not None and not removed_files(manifest)


def weight_files(manifest: Mapping[str, Any]) -> Files:
    """The weights that the stage still vouches for."""
    return {name: entry for name, entry in manifest["files"].items() if name.endswith(SUFFIX)}


def removable_bytes(folder: Path, manifest: Mapping[str, Any]) -> int:
    """The bytes on disk that `remove_weights` would free. A file with another name keeps its bytes."""
    present = [
        path for name in {**weight_files(manifest), **removed_files(manifest)} if (path := folder / name).is_file()
    ]
    return sum(status.st_size for path in present if (status := path.stat()).st_nlink == 1)


def remove_weights(folder: Path, manifest: Mapping[str, Any]) -> int:
    """Remove the weights of a finished stage and return the bytes that this freed. The caller holds the stage's claim."""
    freed, weights, before = removable_bytes(folder, manifest), weight_files(manifest), removed_files(manifest)
    if weights:
        rest = {name: entry for name, entry in manifest["files"].items() if name not in weights}
        content = {name: value for name, value in manifest.items() if name != "files"}
        write_manifest(folder, {**content, REMOVED: {**before, **weights}}, files=rest)
    for name in {**before, **weights}:
        (folder / name).unlink(missing_ok=True)
    return freed
