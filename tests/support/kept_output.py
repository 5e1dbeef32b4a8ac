"""The output folder of a finished study, as an earlier version of the code wrote it, and as this version would have."""

from __future__ import annotations

import json
import sqlite3
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import recipes
from tests.support.commands import ROOT
from trainables.store.bucket.client import ObjectStore
from trainables.store.examples import EXAMPLES, read_example_scores, write_example_scores
from trainables.store.kept import sealed
from trainables.store.manifests import MANIFEST, write_manifest
from trainables.store.removal import SUFFIX

ARCHIVE = ROOT / "tests" / "study" / "run" / "kept_output.tar.xz"
WEIGHTS = b"weights" * 1000
WRITTEN_TO = "/kept/output/folder"  # where the folder was; MLflow stores absolute paths of artifacts


@dataclass(frozen=True)
class KeptOutput:
    """The unpacked folder, and the document that the command printed when it was written."""

    folder: Path
    document: dict[str, Any]

    def manifests(self) -> dict[str, bytes]:
        return {path.parent.name: path.read_bytes() for path in self.folder.glob("stages/*/manifest.json")}

    def runs(self) -> dict[str, str]:
        """The status of every MLflow run."""
        with sqlite3.connect(self.folder / "mlflow.db") as connection:
            return dict(connection.execute("SELECT run_uuid, status FROM runs"))

    def experiment_tags(self) -> dict[str, str]:
        with sqlite3.connect(self.folder / "mlflow.db") as connection:
            return dict(connection.execute("SELECT key, value FROM experiment_tags"))


def unpack(where: Path) -> KeptOutput:
    """The archive, unpacked; skips the test if this machine's Babel makes other data than the study had."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(where, filter="data")
    folder = where / "output"
    with sqlite3.connect(folder / "mlflow.db") as connection:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            connection.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (WRITTEN_TO, str(folder)))
    targets = json.loads((folder / "study.json").read_text(encoding="utf-8"))["targets"]
    if {target["data"] for target in targets} != {target.revision for target in recipes.tiny().targets}:
        pytest.skip(f"written with the data {targets[0]['data']}, and another version of Babel makes others")
    return KeptOutput(folder, json.loads((where / "document.json").read_text(encoding="utf-8")))


def with_weights(where: Path) -> Path:
    """The folder as this version would have written it, with bytes in place of the weights that the archive lacks."""
    folder = unpack(where).folder
    for path in folder.glob(f"stages/*/{MANIFEST}"):
        for name in json.loads(path.read_bytes())["files"]:
            if not (file := path.parent / name).exists():
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(WEIGHTS)
    renew(folder)
    return folder


def copied(folder: Path, bucket: ObjectStore) -> None:
    """Put a copy of the folder into a bucket, of its stages only what commands read that train nothing."""
    read = (SUFFIX, MANIFEST, ".parquet")
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and (name.endswith(read) or not name.startswith("stages/")):
            bucket.upload(path, name)


def renew(folder: Path) -> None:
    """Write what this version seals, or gives checksums, again: the earlier version did neither."""
    for path in folder.rglob(EXAMPLES):
        write_example_scores(read_example_scores(path), path)
    for path in folder.glob(f"stages/*/{MANIFEST}"):
        content = json.loads(path.read_bytes())
        if all((path.parent / name).is_file() for name in content["files"]):
            del content["files"]
            write_manifest(path.parent, content)
        else:  # the archive lacks its weights
            _write_lines(path, [content])
    for path in folder.glob("benchmarks/*.json"):
        _write_lines(path, [json.loads(path.read_bytes())])
    for path in (folder / "optuna.journal", folder / "outbox" / "journal.jsonl"):
        _write_lines(path, [json.loads(line) for line in path.read_bytes().splitlines()])


def _write_lines(path: Path, documents: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(sealed(document))}\n" for document in documents), encoding="utf-8")
