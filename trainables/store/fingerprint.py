"""Fingerprints of identities: the same decisions give the same hash on every machine. Values without a fixed form are refused.

Identities are frozen dataclasses of plain values. The canonical form is JSON with sorted keys. A class may carry:

- `VERSION: ClassVar[int]`, increased when its code changes what it produces;
- `IDENTITY_NAME: ClassVar[str]`, the name it is hashed under: a renamed class keeps its fingerprints;
- `also_identified_by()`, a mapping of what identifies a value besides its fields;
- fields made by `added_field`, which are hashed only where they differ from their default;
- fields made by `descriptive_field` (`compare=False`), which are never hashed: equal values have equal fingerprints.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from pathlib import PurePath
from typing import Any

from trainables.fields import ADDED

LENGTH = 12  # hexadecimal digits kept: 48 bits, one collision in a million stages has probability 2e-3


class UnfitForFingerprint(ValueError):
    """A value that cannot be part of a reproducible identity; the message names it and its replacement."""


def fingerprint(identity: object) -> str:
    """A 12-digit hexadecimal hash of a frozen dataclass.

    Raises:
        UnfitForFingerprint: some field holds a value without a deterministic form.
    """
    return fingerprint_of_canonical(canonical(identity))


def fingerprint_of_canonical(form: Any) -> str:
    """The fingerprint of an identity in the JSON form that `canonical` returns and manifests record."""
    document = json.dumps(form, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(document.encode()).hexdigest()[:LENGTH]


def canonical(value: object, where: str = "identity") -> Any:
    """The JSON form that is hashed and that manifests record.

    Raises:
        UnfitForFingerprint: as in `fingerprint`.
    """
    if value is None or (isinstance(value, (bool, int, str)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise UnfitForFingerprint(f"{where} is {value}: use a finite number")
        return value
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _canonical_dataclass(value, where)
    if isinstance(value, tuple):
        return [canonical(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise UnfitForFingerprint(f"{where} is a {type(value).__name__}: {_advice(value)}")


def _canonical_dataclass(value: Any, where: str) -> dict[str, Any]:
    if not value.__dataclass_params__.frozen:
        raise UnfitForFingerprint(
            f"{where} is a {type(value).__name__}, which can change: declare it @dataclass(frozen=True)"
        )
    document: dict[str, Any] = {"type": identity_name(type(value)), "version": getattr(type(value), "VERSION", 1)}
    document |= canonical_extras(value)
    for field in dataclasses.fields(value):
        if not field.compare or (field.metadata.get(ADDED) and getattr(value, field.name) == field.default):
            continue
        document[field.name] = canonical(getattr(value, field.name), f"{where}.{field.name}")
    return document


def identity_name(cls: type) -> str:
    """The name a class is hashed under: its own unless it has an `IDENTITY_NAME`, which its subclasses do not inherit."""
    return str(cls.__dict__.get("IDENTITY_NAME", cls.__name__))


def canonical_extras(value: Any) -> dict[str, Any]:
    """The canonical form of `also_identified_by()`, where a value's class has it."""
    extras = getattr(value, "also_identified_by", None)
    return {} if extras is None else {name: canonical(item, name) for name, item in extras().items()}


def _advice(value: object) -> str:
    if isinstance(value, (list, set, frozenset, dict)):
        return "use a tuple, sorted where order has no meaning"
    if isinstance(value, PurePath):
        return "a path is a location, not an identity; use the content's name and revision instead"
    if callable(value):
        return "code has no stable hash; name the choice with a string and a version"
    return "use None, bool, int, float, str, a tuple, or a frozen dataclass of these"
