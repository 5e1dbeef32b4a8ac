"""Kinds of dataclass fields, by how they enter a fingerprint (`trainables.store.fingerprint`)."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

T = TypeVar("T")
ADDED = "added"  # metadata key of fields that a later version of the class added


def added_field(default: T) -> T:
    """A dataclass field that a later version of a class adds: values with its default keep their old fingerprints."""
    field: T = dataclasses.field(default=default, metadata={ADDED: True})
    return field


def descriptive_field(default: T) -> T:
    """A dataclass field for people, which changes no result: it takes no part in comparisons and fingerprints."""
    field: T = dataclasses.field(default=default, compare=False)
    return field
