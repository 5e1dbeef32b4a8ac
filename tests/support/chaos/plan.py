"""Which faults strike in a round, and when: all of it follows from the seed and the round's number.

When a fault strikes is given in progress (stages committed, lines written to the trial store) and not in seconds: the same seed
strikes at the same place of a study on a slow machine. Which process or file it hits is a number in [0, 1), the place among the
candidates of that moment.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "driver killed",
    "driver terminated",
    "machine lost",
    "trial actor killed",
    "group worker killed",
    "other worker killed",
    "head killed",
    "raylet killed",
    "server killed",
    "process stopped",
    "disk filled",
    "files cut",
]
StudyName = Literal["tiny", "inline"]  # recipes in `recipe.py`
KINDS: tuple[Kind, ...] = get_args(Kind)
MOST_FAULTS = 3  # in a round
LATEST_S = (
    1.5  # between the progress at which a fault is due and its strike, so that it hits in the middle of something
)
SHORTEST_S, LONGEST_S = 0.5, 10.0  # of a stop, an outage or a full disk

# What is not injected, and why: its effect is no recovery that the invariants could check.
NOT_INJECTED = {
    "a byte changed inside a number of mlflow.db": "not noticed: SQLite has no checksums (docs/faults.md)",
    "whole lines cut from the trial store": "refused until a person restores the file",
    "study.json cut": "refused until a person removes the file",
    "a changed line in the middle of the outbox": "refused until a person moves the file away",
}
NOT_INJECTED_IN_BUCKETS = {"an object changed or lost": "stores keep what they have answered for"}


@dataclass(frozen=True)
class Fault:
    """A fault of a round.

    Attributes:
        kind: what happens.
        at: share of the undisturbed study's progress from which on it is due, in [0, 1).
        wait_s: from then to its strike, in seconds.
        pick: which candidate it hits, in [0, 1).
        last_s: how long it lasts where it ends by itself, in seconds.
        salt: seeds further draws, such as where a file is cut.
    """

    kind: Kind
    at: float
    wait_s: float
    pick: float
    last_s: float
    salt: int


@dataclass(frozen=True)
class Plan:
    """A round: on a cluster that others started, or on a Ray of the driver's own; and its faults in the order they are due."""

    number: int
    on_cluster: bool
    faults: tuple[Fault, ...]


def planned(seed: int, number: int, kinds: tuple[Kind, ...] = KINDS) -> Plan:
    """The round's plan. The same arguments give the same plan."""
    draw = random.Random(f"{seed}|{number}")
    on_cluster = draw.random() < 0.5
    faults = [
        Fault(
            draw.choice(kinds),
            at=draw.random(),
            wait_s=draw.uniform(0, LATEST_S),
            pick=draw.random(),
            last_s=draw.uniform(SHORTEST_S, LONGEST_S),
            salt=draw.getrandbits(32),
        )
        for _ in range(draw.randint(1, MOST_FAULTS))
    ]
    return Plan(number, on_cluster, tuple(sorted(faults, key=lambda fault: fault.at)))
