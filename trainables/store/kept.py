"""Reading the JSON files that runs keep. Whatever is wrong with one is a single error, and its reader says what follows."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any


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
        KeptFileUnusable: it cannot be read, is not JSON, is no object, or lacks a key.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise KeptFileUnusable(path, error.strerror or str(error)) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested too deeply
        raise KeptFileUnusable(path, f"not JSON ({error})") from error
    if not isinstance(content, dict):
        raise KeptFileUnusable(path, f"a JSON object is expected, not {type(content).__name__}")
    if lacking := sorted(set(keys) - content.keys()):
        raise KeptFileUnusable(path, f"lacks {', '.join(lacking)}")
    return content
