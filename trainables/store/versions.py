"""Versions of the packages a result depends on."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "transformers", "deepspeed", "ray", "babel")


@cache
def versions() -> dict[str, str]:
    """Installed versions by package, with Python's own; packages that are not installed are left out."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):  # measuring a single model needs no Ray
            installed[package] = version(package)
    return installed
