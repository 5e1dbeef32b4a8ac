"""Removes secrets from what is printed or stored: passwords in URIs, and values of secret environment variables.

And from what is published, folders of the machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

HIDDEN = "***"
SHORTEST_SECRET = 6  # a shorter value would match inside ordinary words

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s'\"]*@")
_QUERY = re.compile(r"([?&][\w.-]*(?:password|passwd|token|secret|api_?key|signature|sig)=)[^&\s'\"]+", re.IGNORECASE)
_FOLDERS = re.compile(r"(?:(?<![^\s='\"])(?:~\w*)?|(?<=://)|(?<=:///))/(?:[^\s/'\"]+/)*(?=[^\s/'\"])")
_SECRET_NAME = re.compile(
    r"(TOKEN|PASSWORD|PASSWD|SECRET|ACCESS_KEY(_ID)?|ACCOUNT_KEY|STORAGE_KEY|SERVICE_ACCOUNT|API_?KEY|CREDENTIALS)$"
)


def redacted(text: str, secrets: Sequence[str] | None = None) -> str:
    """The text without the user part of URIs, secret query parameters, and `secrets`: by default `environment_secrets()`."""
    for value in environment_secrets() if secrets is None else secrets:
        text = text.replace(value, HIDDEN)
    return _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", text))


def without_folders(command: str) -> str:
    """A command line whose absolute paths are shortened to their last part: names of users and machines are in the others."""
    return _FOLDERS.sub(".../", command)


def holds_password(uri: str) -> bool:
    """Whether the URI itself carries credentials."""
    return _USER.search(uri) is not None or _QUERY.search(uri) is not None


def environment_secrets() -> list[str]:
    """Values of variables with secret-like names, longest first: a value that contains another is then replaced whole."""
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name.upper())}
    return sorted((value for value in values if len(value) >= SHORTEST_SECRET), key=len, reverse=True)
