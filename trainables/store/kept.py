"""Reading the JSON that runs keep. Whatever is wrong with it is a single error, and its reader says what follows.

Files and lines of journals that hold results are sealed: they carry a digest of their content. A byte that a disk or a copy
changed inside a number leaves valid JSON, and only the digest tells. Content of earlier versions has none and counts as it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

SEAL = "seal"  # the key of the digest
SEAL_LENGTH = 12  # hexadecimal digits


class KeptFileUnusable(ValueError):
    """A kept file that exists and cannot be used; the message names it and the reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[Any, ...]:
        return KeptFileUnusable, (self.path, self.reason)


def read_object(path: Path, keys: Collection[str] = ()) -> dict[str, Any] | None:
    """The JSON object in a file, which has these keys; None if there is no such file.

    Raises:
        KeptFileUnusable: it cannot be read, is not a JSON object, is not what was sealed, or lacks a key.
    """
    try:
        content = parse_object(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise KeptFileUnusable(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise KeptFileUnusable(path, str(error)) from error
    if lacking := sorted(set(keys) - content.keys()):
        raise KeptFileUnusable(path, f"lacks {', '.join(lacking)}")
    return content


def parse_object(text: bytes) -> dict[str, Any]:
    """The JSON object in the text, without its seal.

    Raises:
        ValueError: it is not a JSON object in UTF-8, or is not what was sealed; the message says which.
    """
    try:
        content = json.loads(text.decode())
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deeply
        raise ValueError(f"not JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"a JSON object is expected, not {type(content).__name__}")
    return unsealed(content)


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content, whose keys are strings, with the digest that readers check."""
    return {**content, SEAL: _digest(content)}


def unsealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Content that was read from JSON, without its seal.

    Raises:
        ValueError: it has changed since it was sealed.
    """
    bare = {key: value for key, value in content.items() if key != SEAL}
    if SEAL in content and content[SEAL] != _digest(bare):
        raise ValueError("its content has changed since it was written")
    return bare


def _digest(content: Mapping[str, Any]) -> str:
    # As it is read again: JSON turns tuples into lists and keys into strings.
    text = json.dumps(json.loads(json.dumps(content)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:SEAL_LENGTH]
