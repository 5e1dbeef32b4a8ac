"""Which tests of `make test` go to the same process."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[2]
RUN_ONCE = ("tiny_run", "faulty_run")  # a minute each
SHARED_BY_PACKAGE = ("tests/study/evidence",)  # fixtures of a package's conftest that take long


class ModuleScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Whole modules, and together those that use a study which runs once, or their package's fixtures.

    `--dist loadgroup` reads the same from marks, but not with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid.partition("::")[0])


@cache
def group_of(module: str) -> str:
    """The group of a module, given by its path from the repository's root."""
    path = Path(module)
    if path.parent.as_posix() in SHARED_BY_PACKAGE:
        return path.parent.as_posix()
    source = (ROOT / path).read_text(encoding="utf-8")
    return next((fixture for fixture in RUN_ONCE if re.search(rf"\b{fixture}:", source)), module)
