"""Published encoders: which checkpoint it is, which of its files are read, and from where."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from trainables.data.source import DataError, data_root, hub_errors
from trainables.models.families import FAMILIES

FOLDER = "encoders"  # of the data root: `encoders/<repository>` holds a checkpoint's files as the hub has them
FILES = "files:"
# What is read. Nothing that is not named here is even downloaded: no pickles, no code.
WEIGHTS = ("model.safetensors", "model-*.safetensors")
READ = (
    *("config.json", *WEIGHTS, "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model", "vocab.txt"),
)


@dataclass(frozen=True)
class Published:
    """A checkpoint that others have trained.

    `repository` is its id on the hub; `family` the `model_type` of its configuration; `revision` the commit, or for files
    under the data root the digest of those that are read. A revision of None is to be noted by `noted_encoder`.
    """

    name: str
    repository: str
    family: str
    revision: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.name):
            raise ValueError(f"encoder name {self.name!r}: lower-case letters, digits, ., - and _ (it names folders)")
        if self.family not in FAMILIES:
            raise ValueError(f"{self.name}: no family {self.family!r}; there are {', '.join(FAMILIES)}")
        if self.revision is not None and not re.fullmatch(rf"[0-9a-f]{{40}}|{FILES}[0-9a-f]{{12}}", self.revision):
            raise ValueError(
                f"{self.name}: revision {self.revision!r} can move; give the commit, 40 hexadecimal digits, or None to note it"
            )


def noted_encoder(encoder: Published) -> Published:
    """The encoder with its revision: the digest of its files if the data root has them, else the commit that it names, else
    the hub's present one. Where the hub does not answer it stays open, and a study with it can be planned and not run."""
    if (folder := local_folder(encoder)) is not None:
        return dataclasses.replace(encoder, revision=FILES + digest(folder))
    if encoder.revision is not None:
        return encoder
    from huggingface_hub import HfApi

    try:
        return dataclasses.replace(encoder, revision=HfApi().model_info(encoder.repository).sha)
    except hub_errors():
        return encoder


def local_folder(encoder: Published) -> Path | None:
    """The checkpoint's folder under the data root, if there is one."""
    root = data_root()
    folder = None if root is None else root / FOLDER / encoder.repository
    return folder if folder is not None and folder.is_dir() else None


def digest(folder: Path) -> str:
    """Twelve hexadecimal digits over the names and contents of the files that are read."""
    found = hashlib.sha256()
    for file in files_read(folder):
        with open(file, "rb") as stream:
            found.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\0".encode())
    return found.hexdigest()[:12]


def files_read(folder: Path) -> list[Path]:
    """The files of a checkpoint that take part in it, in a fixed order."""
    return sorted(file for file in folder.iterdir() if any(fnmatch(file.name, pattern) for pattern in READ))


def checkpoint_folder(encoder: Published) -> Path:
    """A folder with the checkpoint's files: under the data root, or downloaded from the hub at the commit.

    Raises:
        DataError: it cannot be had, is not what the study was made with, or has no weights as safetensors.
    """
    if encoder.revision is None:
        raise DataError(encoder.repository, None, "its commit was never noted; pass it through noted_encoder, online")
    if encoder.revision.startswith(FILES):
        folder = local_folder(encoder)
        if folder is None:
            raise DataError(
                encoder.repository,
                None,
                f"was read from {FOLDER}/ of a data root and is not there now; give --data-root",
            )
        if FILES + digest(folder) != encoder.revision:
            raise DataError(folder, None, f"the files of {encoder.name} have changed since the study was made")
    else:
        folder = _downloaded(encoder)
    if not any(fnmatch(file.name, pattern) for file in folder.iterdir() for pattern in WEIGHTS):
        raise DataError(folder, None, no_safetensors(encoder))
    return folder


def no_safetensors(encoder: Published) -> str:
    """Why a checkpoint without safetensors is refused, and the ways out."""
    return (
        f"{encoder.repository} at {encoder.revision} holds no weights as safetensors (model.safetensors), and pickled ones "
        "(pytorch_model.bin) run code when they are read, so they are not. Name a commit that has them in the recipe: the "
        "hub's conversion bot opens pull requests whose commits do. Or convert them yourself, on a machine where you accept "
        "that, with save_pretrained of the model and its tokenizer, and put the folder at "
        f"{FOLDER}/{encoder.repository} of --data-root"
    )


def _downloaded(encoder: Published) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(encoder.repository, revision=encoder.revision, allow_patterns=list(READ)))
    except hub_errors() as error:
        raise DataError(
            encoder.repository,
            None,
            f"commit {encoder.revision} cannot be had from the hub ({type(error).__name__}: {error}); without a network, put "
            f"its files at {FOLDER}/{encoder.repository} of --data-root",
        ) from error
