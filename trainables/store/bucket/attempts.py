"""Names of what a producer of a stage keeps in the bucket before the stage is finished: each producer has a prefix of its own.

It has the fencing token of the producer's lease. A producer that was taken for dead and lives therefore writes beside its
successor, never into it; and as everyone deletes only what has its own token or a lower one, it cannot delete from it either.
"""

from __future__ import annotations

import re

_PREFIX = re.compile(r"attempt-(\d+)/")


def attempt_prefix(token: int) -> str:
    """What the names of a producer's objects start with; empty for one without a lease."""
    return f"attempt-{token:08d}/" if token else ""


def token_of(name: str) -> int:
    """The token of the producer that put the object; 0 for what was copied from a folder."""
    found = _PREFIX.match(name)
    return int(found[1]) if found else 0
