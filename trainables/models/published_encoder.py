"""Published encoders: the identity of a checkpoint, which of its files are read, and from where."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import ClassVar

from trainables.data.hub import hub_errors
from trainables.data.source import DataError, data_root
from trainables.models.families import FAMILIES

FOLDER = "encoders"  # in the data root: `encoders/<repository>` holds a checkpoint's files as on the hub
SHIPPED = Path(__file__).parent / "shipped"  # encoders that come with the package, by the same names
FILES = "files:"
# The files that are read. Others, such as pickles and code, are not even downloaded.
WEIGHTS = ("model.safetensors", "model-*.safetensors")
READ = (
    *("config.json", *WEIGHTS, "model.safetensors.index.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("sentencepiece.bpe.model", "spiece.model", "spm.model", "tokenizer.model", "vocab.txt"),
)


@dataclass(frozen=True)
class PublishedEncoder:
    """A checkpoint that others have trained.

    `repository` is its id on the hub, `family` the `model_type` of its configuration, and `revision` the commit or, for files
    under the data root, a digest of those that are read. `pinned_encoder` fills in a revision of None.
    """

    IDENTITY_NAME: ClassVar[str] = "Published"

    name: str
    repository: str
    family: str
    revision: str | None = None

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", self.name):
            raise ValueError(
                f"encoder name {self.name!r}: use lower-case letters, digits, ., - and _, as it names folders"
            )
        if self.family not in FAMILIES:
            raise ValueError(f"{self.name}: no family {self.family!r}; use one of {', '.join(FAMILIES)}")
        if self.revision is not None and not re.fullmatch(rf"[0-9a-f]{{40}}|{FILES}[0-9a-f]{{12}}", self.revision):
            raise ValueError(
                f"{self.name}: revision {self.revision!r} can move; give the commit (40 hexadecimal digits), or None to pin it"
            )


def pinned_encoder(encoder: PublishedEncoder) -> PublishedEncoder:
    """The encoder with its revision: the digest of its files in the data root, else the commit it names, else the hub's newest.

    Where the hub does not answer, the revision stays None: a study with it can be planned but not run.
    """
    if (folder := local_folder(encoder)) is not None:
        return dataclasses.replace(encoder, revision=FILES + digest(folder))
    if encoder.revision is not None:
        return encoder
    from huggingface_hub import HfApi

    try:
        return dataclasses.replace(encoder, revision=HfApi().model_info(encoder.repository).sha)
    except hub_errors():
        return encoder


def shipped_encoder(ladder: str, size: str) -> PublishedEncoder:
    """An encoder of a ladder that comes with the package, pinned: its identity is the digest of its files.

    Raises:
        ValueError: the package has no such encoder.
    """
    shipped = SHIPPED / ladder
    try:
        family = json.loads((shipped / size / "config.json").read_text(encoding="utf-8"))["model_type"]
    except OSError:
        sizes = ", ".join(sorted(path.name for path in shipped.glob("*/"))) or "none"
        raise ValueError(f"no shipped encoder {ladder}/{size}; this ladder's sizes: {sizes}") from None
    return pinned_encoder(PublishedEncoder(size, f"{ladder}/{size}", family))


def local_folder(encoder: PublishedEncoder) -> Path | None:
    """The checkpoint's folder under the data root, or among the encoders shipped with the package, if there is one."""
    root = data_root()
    folders = [*([] if root is None else [root / FOLDER]), SHIPPED]
    return next((path for folder in folders if (path := folder / encoder.repository).is_dir()), None)


def is_shipped(encoder: PublishedEncoder) -> bool:
    """Whether the checkpoint is one that comes with the package."""
    folder = local_folder(encoder)
    return folder is not None and folder.is_relative_to(SHIPPED)


def digest(folder: Path) -> str:
    """Twelve hexadecimal digits over the names and contents of the files that are read."""
    total = hashlib.sha256()
    for file in files_read(folder):
        with open(file, "rb") as stream:
            total.update(f"{file.name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\0".encode())
    return total.hexdigest()[:12]


def files_read(folder: Path) -> list[Path]:
    """The files of a checkpoint that are read, in a fixed order."""
    return sorted(file for file in folder.iterdir() if any(fnmatch(file.name, pattern) for pattern in READ))


def checkpoint_folder(encoder: PublishedEncoder) -> Path:
    """A folder with the checkpoint's files, under the data root or downloaded from the hub at the commit.

    Raises:
        DataError: the checkpoint is unavailable, differs from the one the study was made with, or has no safetensors.
    """
    if encoder.revision is None:
        raise DataError(
            encoder.repository, None, "it has no commit; pin it with `pinned_encoder` while the hub answers"
        )
    if encoder.revision.startswith(FILES):
        folder = local_folder(encoder)
        if folder is None:
            raise DataError(
                encoder.repository,
                None,
                f"it was read from {FOLDER}/ of a data root and is missing there now; give --data-root",
            )
        if FILES + digest(folder) != encoder.revision:
            raise DataError(folder, None, f"the files of {encoder.name} have changed since the study was made")
    else:
        folder = _downloaded(encoder)
    if not any(fnmatch(file.name, pattern) for file in folder.iterdir() for pattern in WEIGHTS):
        raise DataError(folder, None, no_safetensors(encoder))
    return folder


def no_safetensors(encoder: PublishedEncoder) -> str:
    """Why a checkpoint without safetensors is refused, and what to do."""
    return (
        f"{encoder.repository} at {encoder.revision} holds no weights as safetensors (model.safetensors). Pickled ones "
        "(pytorch_model.bin) are refused, as reading them runs code. Name a commit with safetensors in the recipe: the hub's "
        "conversion bot opens pull requests with such commits. Or convert the weights yourself, on a machine where you accept "
        "the risk, with save_pretrained of the model and its tokenizer, and put the folder at "
        f"{FOLDER}/{encoder.repository} of --data-root"
    )


def _downloaded(encoder: PublishedEncoder) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(encoder.repository, revision=encoder.revision, allow_patterns=list(READ)))
    except hub_errors() as error:
        raise DataError(
            encoder.repository,
            None,
            f"commit {encoder.revision} is unavailable from the hub ({type(error).__name__}: {error}); without a network, put "
            f"its files at {FOLDER}/{encoder.repository} of --data-root",
        ) from error
