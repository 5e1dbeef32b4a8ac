"""Fingerprints: the same on every machine, different for every decision, refused for values without a fixed form."""

from __future__ import annotations

import dataclasses
import enum
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from study.recipes.quickstart import quickstart
from tests.support.serving import Pairs
from trainables.fields import added_field, descriptive_field
from trainables.hyperparameters import Training
from trainables.resources import Resources
from trainables.store.fingerprint import LENGTH, UnfitForFingerprint, canonical, fingerprint
from trainables.tasks.micro.intermediate import MicroTopic

TRAINING = Training(learning_rate=1e-3, steps=10, batch_size=4, seed=0)


class Colour(enum.Enum):
    RED = 1
    GREEN = 2


@dataclass(frozen=True)
class Plain:
    value: object = 0


@dataclass(frozen=True)
class Alike:
    value: object = 0


@dataclass(frozen=True)
class Versioned:
    VERSION: ClassVar[int] = 1
    value: object = 0


@dataclass
class Mutable:
    value: int = 0


_OTHER_PROCESS = """
from study.recipes.quickstart import quickstart
from trainables.store.fingerprint import fingerprint

study = quickstart()
print(*(fingerprint(e) for s in study.sizes for c in study.space_of(s).defaults() for e in study.chain(s, c)))
"""


@pytest.mark.slow
def test_another_process_computes_the_same_fingerprints() -> None:
    study = quickstart()
    chains = [study.chain(size, choice) for size in study.sizes for choice in study.space_of(size).defaults()]
    here = [fingerprint(stage) for chain in chains for stage in chain]
    command = [sys.executable, "-c", _OTHER_PROCESS]
    # This process has a random hash seed unless it was given one; 0 would disable randomisation.
    environment = {**os.environ, "PYTHONHASHSEED": "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == here
    assert len(set(here)) == len(here)


def test_form() -> None:
    assert len(fingerprint(TRAINING)) == LENGTH == 12
    assert set(fingerprint(TRAINING)) <= set("0123456789abcdef")
    assert canonical(Plain((1, None, "x", Colour.RED))) == {
        "type": "Plain",
        "version": 1,
        "value": [1, None, "x", "Colour.RED"],
    }


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 2e-3},
        {"steps": 11},
        {"batch_size": 8},
        {"seed": 1},
        {"precision": "bf16_mixed"},
        {"max_length": 64},
        {"warmup": 0.2},
        {"schedule": "constant"},
        {"weight_decay": 0.0},
        {"max_gradient_norm": 2.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_counts(change: dict[str, object]) -> None:
    changed = dataclasses.replace(TRAINING, **change)  # type: ignore[arg-type]
    assert fingerprint(changed) != fingerprint(TRAINING)


def test_types_nesting_and_version_count(monkeypatch: pytest.MonkeyPatch) -> None:
    values = (0, 0.5, "0", None, True, (), (0,), ((0,),), (0, 0), Plain(0), Alike(0), Colour.RED, Colour.GREEN)
    assert len({fingerprint(Plain(value)) for value in values}) == len(values)
    assert fingerprint(Plain(1)) != fingerprint(Alike(1))
    before = fingerprint(Plain(Versioned()))
    monkeypatch.setattr(Versioned, "VERSION", 2)
    assert fingerprint(Plain(Versioned())) != before


def test_labels_of_a_task_defined_elsewhere_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its author may not know `VERSION`. Fingerprints of the package's own tasks stay."""
    before = fingerprint(Pairs())
    monkeypatch.setattr(Pairs, "labels", ("no", "yes", "perhaps"))
    assert fingerprint(Pairs()) != before
    own = fingerprint(MicroTopic())
    monkeypatch.setattr(MicroTopic, "metric", "another")
    assert fingerprint(MicroTopic()) == own


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (len, "version"),
        (lambda: 0, "version"),
        ([1], "tuple"),
        ({"a": 1}, "tuple"),
        ({1}, "tuple"),
        (Path("data"), "revision"),
        (float("nan"), "finite"),
        (float("inf"), "finite"),
        (Mutable(), r"frozen=True"),
        (object(), "frozen dataclass"),
        (b"x", "str"),
        (Plain, "version"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_refusals_name_the_field_and_a_replacement(value: object, advice: str) -> None:
    with pytest.raises(UnfitForFingerprint, match=advice) as refusal:
        fingerprint(Plain((1, Plain(value))))
    assert "identity.value[1].value" in str(refusal.value)


def test_resources_identify_nothing() -> None:
    study = quickstart()
    moved = dataclasses.replace(
        study,
        sizes=tuple(
            dataclasses.replace(size, resources=Resources(workers=1 if size.resources.workers > 1 else 2, zero_stage=1))
            for size in study.sizes
        ),
    )
    assert moved != study
    for size, other in zip(study.sizes, moved.sizes, strict=True):
        for choice in study.space.defaults():
            stages, others = study.chain(size, choice), moved.chain(other, choice)
            assert [fingerprint(stage) for stage in stages] == [fingerprint(stage) for stage in others]


@dataclass(frozen=True)
class Renamed:
    IDENTITY_NAME: ClassVar[str] = "Plain"
    value: object = 0
    later: int = added_field(3)


@dataclass(frozen=True)
class Derived(Renamed):
    pass


def test_a_renamed_class_keeps_its_fingerprints_and_its_subclasses_have_their_own() -> None:
    assert fingerprint(Renamed(1)) == fingerprint(Plain(1))
    assert canonical(Derived(1))["type"] == "Derived"


def test_an_added_field_counts_only_where_it_is_set() -> None:
    assert "later" not in canonical(Renamed(1))
    assert canonical(Renamed(1, later=4))["later"] == 4
    assert fingerprint(Renamed(1, later=4)) != fingerprint(Plain(1))


@dataclass(frozen=True)
class Described:
    value: object = 0
    remark: str = descriptive_field("")


def test_a_descriptive_field_counts_in_neither_comparisons_nor_fingerprints() -> None:
    assert Described(1, "read this") == Described(1)
    assert fingerprint(Described(1, "read this")) == fingerprint(Described(1))
    assert "remark" not in canonical(Described(1, "read this"))
