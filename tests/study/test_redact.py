"""Secrets are redacted in everything that is shown."""

from __future__ import annotations

import os

import pytest

from study.redact import holds_password, redacted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://user:secret@host/path", "https://***@host/path"),
        ("https://user:s@cret@host:80", "https://***@host:80"),
        ("postgresql+psycopg://u:p@db/x?sslpassword=abc&a=1", "postgresql+psycopg://***@db/x?sslpassword=***&a=1"),
        ("https://host/api?access_token=abc", "https://host/api?access_token=***"),
        ("run --tracking-uri https://u:p@h and mail me@host", "run --tracking-uri https://***@h and mail me@host"),
        ("https://host/a@b", "https://host/a@b"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_passwords_in_a_uri_are_redacted(text: str, shown: str) -> None:
    assert redacted(text) == shown
    assert holds_password(text) == (shown != text)


def test_values_of_secret_variables_are_redacted_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "MY_API_KEY", "abcdef-12345")
    monkeypatch.setitem(os.environ, "MY_TOKEN", "on")
    monkeypatch.setitem(os.environ, "MY_FOLDER", "abcdef-folder")
    assert redacted("abcdef-12345 is on in abcdef-folder") == "*** is on in abcdef-folder"
