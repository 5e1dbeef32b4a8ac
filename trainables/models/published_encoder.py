"""Published encoders: the identity of a checkpoint, its card, which of its files are read, and from where."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import ClassVar

from trainables.data.hub import hub_errors, patient
from trainables.data.source import DataError, data_root
from trainables.fields import added_field
from trainables.heads.base import Pooling
from trainables.models.card import (
    DESCRIPTIONS,
    TOKENIZER_SETTINGS,
    Card,
    deviations,
    first_stated,
    gives_token_types,
    pooling_of_checkpoint,
    read_card,
)
from trainables.models.families import FAMILIES, Family
from trainables.models.known_cards import KNOWN_CARDS

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
    """A checkpoint that others have trained, or its first `layers` layers; None: all of them.

    `repository` is its id on the hub, `family` the `model_type` of its configuration, and `revision` the commit or, for files
    under the data root, a digest of those that are read. `card` says how it reads texts and what it has seen, where that is
    not its family's default. `pinned_encoder` fills in a revision of None, and what the card leaves open.
    """

    IDENTITY_NAME: ClassVar[str] = "Published"

    name: str
    repository: str
    family: str
    revision: str | None = None
    layers: int | None = added_field(None)
    card: Card = added_field(Card())

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
        if self.layers is not None and self.layers < 1:
            raise ValueError(
                f"{self.name}: layers {self.layers}: keep at least the first layer, or None for all of them"
            )
        if self.card.second_segment and not self.architecture.second_segment:
            raise ValueError(f"{self.name}: its card marks a second segment, which {self.family} does not have")

    @property
    def architecture(self) -> Family:
        return FAMILIES[self.family]

    @property
    def marks_second_segment(self) -> bool:
        stated = self.card.second_segment
        return self.architecture.second_segment if stated is None else stated


def pinned_encoder(encoder: PublishedEncoder) -> PublishedEncoder:
    """The encoder with its revision and its card.

    The revision is the digest of its files in the data root, else the commit it names, else the hub's newest. Where the hub
    does not answer, it stays None: a study with it can be planned but not run.

    Raises:
        DataError: a file that describes the checkpoint is damaged, or says what is not supported.
    """
    if (folder := local_folder(encoder.repository)) is not None:
        return dataclasses.replace(encoder, revision=FILES + digest(folder), card=resolved_card(encoder, folder))
    if encoder.revision is None:
        from huggingface_hub import HfApi

        with contextlib.suppress(*hub_errors()):
            commit = patient(lambda: HfApi().model_info(encoder.repository)).sha
            encoder = dataclasses.replace(encoder, revision=commit)
    return dataclasses.replace(encoder, card=resolved_card(encoder, _described(encoder)))


def resolved_card(encoder: PublishedEncoder, folder: Path | None = None) -> Card:
    """The card of the encoder: what it states itself, then `card.json`, then a known card or else the checkpoint's files.

    A known card (`known_cards`) makes the checkpoint's files unnecessary, so that the hub need not answer. What `card.json`, a
    known card or the files say as is usual (as the configuration names it, or its family has it) is not stated: it changes no
    identity.

    Args:
        encoder: with the recipe's card.
        folder: the checkpoint's files, or those that describe it, where they are at hand.

    Raises:
        DataError: as in `read_card` and `pooling_of_checkpoint`.
    """
    family = encoder.architecture
    usual = Card(family.pooling, family.second_segment, "", "")
    if folder is None:
        lower = KNOWN_CARDS.get(encoder.repository, Card())
    else:
        usual = dataclasses.replace(usual, pooling=_written_pooling(folder) or family.pooling)
        lower = first_stated(read_card(folder), KNOWN_CARDS.get(encoder.repository) or Card())
        if encoder.repository not in KNOWN_CARDS:
            lower = first_stated(lower, _card_of_files(folder, first_stated(encoder.card, lower), family))
    return first_stated(encoder.card, deviations(lower, usual))


def _card_of_files(folder: Path, stated: Card, family: Family) -> Card:
    """What the checkpoint's files say; pooling is not looked for where it is stated, as no head may pool like the files."""
    pooling = None if stated.pooling is not None else pooling_of_checkpoint(folder)
    return Card(pooling, gives_token_types(folder) if family.second_segment else None)


def _written_pooling(folder: Path) -> Pooling | None:
    """The `pooling` that a checkpoint's own configuration names, as those that this package wrote do."""
    path = folder / "config.json"
    return json.loads(path.read_text(encoding="utf-8")).get("pooling") if path.is_file() else None


def _described(encoder: PublishedEncoder) -> Path | None:
    """The files of the hub that describe the checkpoint; None where it is known without, or the hub does not answer."""
    if encoder.repository in KNOWN_CARDS or encoder.revision is None:
        return None
    from huggingface_hub import snapshot_download

    patterns = [*DESCRIPTIONS, TOKENIZER_SETTINGS, "config.json"]
    with contextlib.suppress(*hub_errors()):
        return Path(
            patient(lambda: snapshot_download(encoder.repository, revision=encoder.revision, allow_patterns=patterns))
        )
    return None


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


def local_folder(repository: str) -> Path | None:
    """The checkpoint's folder under the data root, or among the encoders shipped with the package, if there is one."""
    root = data_root()
    folders = [*([] if root is None else [root / FOLDER]), SHIPPED]
    return next((path for folder in folders if (path := folder / repository).is_dir()), None)


def is_shipped(encoder: PublishedEncoder) -> bool:
    """Whether the checkpoint is one that comes with the package."""
    folder = local_folder(encoder.repository)
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


def config_file(repository: str, revision: str | None = None) -> Path:
    """The configuration of a repository, under the data root or downloaded from the hub; a revision of None is the newest.

    Raises:
        DataError: it is in neither.
    """
    if (folder := local_folder(repository)) is not None:
        if not (path := folder / "config.json").is_file():
            raise DataError(folder, None, "no config.json")
        return path
    from huggingface_hub import hf_hub_download

    try:
        return Path(patient(lambda: hf_hub_download(repository, "config.json", revision=revision)))
    except hub_errors() as error:
        raise DataError(
            repository,
            None,
            f"no config.json on the hub ({type(error).__name__}); without a network, put its files at {FOLDER}/{repository} of "
            "--data-root",
        ) from error


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
        folder = local_folder(encoder.repository)
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
        patterns = [*READ, *DESCRIPTIONS]
        return Path(
            patient(lambda: snapshot_download(encoder.repository, revision=encoder.revision, allow_patterns=patterns))
        )
    except hub_errors() as error:
        raise DataError(
            encoder.repository,
            None,
            f"commit {encoder.revision} is unavailable from the hub ({type(error).__name__}: {error}); without a network, put "
            f"its files at {FOLDER}/{encoder.repository} of --data-root",
        ) from error
