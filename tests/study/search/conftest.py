"""A searcher over the trial store of a folder, as a sweep builds it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from study.search.journal import open_journal
from study.search.searcher import TrialStoreSearcher
from study.search.slots import Slots, trial_request
from study.search.suggestions import suggest
from study.search.trial_store import TrialStore
from study.spec.space import Space
from tests.support import recipes

STUDY = recipes.tiny()
SIZE = STUDY.sizes[0]
TARGETS = len(STUDY.targets)
COMPLETE = {"dev_score": 50.0, "test_score": 40.0, "targets_finished": TARGETS, "training_iteration": 3}


class MakeSearcher(Protocol):
    def __call__(
        self,
        output: Path,
        *,
        trials: int = 3,
        cores: int = 2,
        space: Space = STUDY.space,
        turn: Callable[[], bool] | None = None,
    ) -> TrialStoreSearcher: ...


@pytest.fixture
def make_searcher() -> Iterator[MakeSearcher]:
    """Opens the folder's journal; `cores` is the number of slots, `trials` how many trials are still to run."""
    with contextlib.ExitStack() as stack:

        def make(
            output: Path,
            *,
            trials: int = 3,
            cores: int = 2,
            space: Space = STUDY.space,
            turn: Callable[[], bool] | None = None,
        ) -> TrialStoreSearcher:
            store = TrialStore(open_journal(output), SIZE.name, space=space)
            slots = Slots({"CPU": cores})
            stack.enter_context(slots.admitted(SIZE.name, trial_request(SIZE), trials=trials))
            return TrialStoreSearcher(
                store, SIZE.name, slots=slots, suggest_next=lambda: suggest(store, 0), turn=turn, targets=TARGETS
            )

        yield make
