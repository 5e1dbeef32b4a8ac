"""Secrets are redacted in everything that is shown."""

from __future__ import annotations

import os

import pytest

from study.redact import holds_password, redacted, without_folders


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


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("run quickstart --output /home/me/out", "run quickstart --output .../out"),
        ("run /a/b/mine.py:mine --data-root ~/x/data", "run .../mine.py:mine --data-root .../data"),
        (
            "run quickstart --output=/a/out --tracking-uri sqlite:////a/b/c.db",
            "run quickstart --output=.../out --tracking-uri sqlite:///.../c.db",
        ),
        ("run quickstart --output s3://bucket/prefix", "run quickstart --output s3://bucket/prefix"),
        (
            "run mine.py:mine --output runs/x --tracking-uri http://host:5000/a",
            "run mine.py:mine --output runs/x --tracking-uri http://host:5000/a",
        ),
    ],
)
def test_folders_of_the_machine_are_left_out_of_a_command(command: str, shown: str) -> None:
    assert without_folders(command) == shown


def test_values_of_secret_variables_are_redacted_and_others_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "MY_API_KEY", "abcdef-12345")
    monkeypatch.setitem(os.environ, "MY_TOKEN", "on")
    monkeypatch.setitem(os.environ, "MY_FOLDER", "abcdef-folder")
    assert redacted("abcdef-12345 is on in abcdef-folder") == "*** is on in abcdef-folder"


@pytest.mark.parametrize(
    "name", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY"]
)
def test_credentials_of_object_stores_are_redacted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, name, "abcdef-12345")
    assert redacted("refused for abcdef-12345") == "refused for ***"
