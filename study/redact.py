"""Removes secrets from what is printed or stored: passwords in URIs, and values of secret environment variables."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

HIDDEN = "***"
SHORTEST_SECRET = 6  # a shorter value would match inside ordinary words

_USER = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^/\s'\"]*@")
_QUERY = re.compile(r"([?&][\w.-]*(?:password|passwd|token|secret|api_?key|signature|sig)=)[^&\s'\"]+", re.IGNORECASE)
_SECRET_NAME = re.compile(r"(TOKEN|PASSWORD|PASSWD|SECRET|SECRET_ACCESS_KEY|API_?KEY|CREDENTIALS)$")


def redacted(text: str, secrets: Sequence[str] | None = None) -> str:
    """The text without the user part of URIs, secret query parameters, and `secrets`: by default `environment_secrets()`."""
    for value in environment_secrets() if secrets is None else secrets:
        text = text.replace(value, HIDDEN)
    return _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(rf"\1{HIDDEN}@", text))


def holds_password(uri: str) -> bool:
    """Whether the URI itself carries credentials."""
    return _USER.search(uri) is not None or _QUERY.search(uri) is not None


def environment_secrets() -> list[str]:
    """Values of variables with secret-like names, longest first: a value that contains another is then replaced whole."""
    values = {value for name, value in os.environ.items() if _SECRET_NAME.search(name.upper())}
    return sorted((value for value in values if len(value) >= SHORTEST_SECRET), key=len, reverse=True)
