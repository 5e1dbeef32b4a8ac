"""Versions of what a result depends on."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("torch", "transformers", "deepspeed", "ray", "babel")


@cache
def versions() -> dict[str, str]:
    """Installed versions by package, Python among them; a package that is not installed is left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):  # Ray, where a model alone is measured
            found[package] = version(package)
    return found
