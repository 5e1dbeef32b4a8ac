"""Versions of what a result depends on."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import version

PACKAGES = ("torch", "transformers", "deepspeed", "ray", "babel")


@cache
def versions() -> dict[str, str]:
    """Installed versions by package, Python among them."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}
