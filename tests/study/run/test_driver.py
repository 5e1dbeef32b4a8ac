"""The driver refuses a study before it does any work."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from study.errors import CannotRun
from study.run import driver
from study.run.driver import RunOptions, run_study
from tests.support import recipes


def test_a_size_that_no_node_can_hold_is_refused_before_data_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_small(*_: object, **__: object) -> None:
        raise CannotRun("too small")

    monkeypatch.setattr(driver, "connected", lambda address, cpus: nullcontext())
    monkeypatch.setattr(driver, "slot_amounts", too_small)
    monkeypatch.setattr(driver, "check_data", lambda *_: pytest.fail("data were read"))
    with pytest.raises(CannotRun, match="too small"):
        run_study(recipes.inline(), RunOptions(tmp_path / "out"))
