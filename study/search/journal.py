"""The journal of a study's searches: one file of Optuna's in the output folder, sealed line by line."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import TrialState, create_trial

from trainables.store.kept import sealed, unsealed

JOURNAL = "optuna.journal"
DRAWN = create_trial(state=TrialState.RUNNING)._trial_id  # of every trial that Optuna creates outside a storage


class TrialStoreBroken(RuntimeError):
    """The journal cannot be read or written, or lacks trials that it once held."""


class _JournalFile(JournalFileBackend):  # type: ignore[misc]
    """Optuna's journal file, where a failed write leaves no partial line and is the last write of the process.

    All searches of a study share the file. A line appended to a partial one would make the file unreadable.
    """

    _failed: OSError | None = None
    check: Callable[[], None] = staticmethod(lambda: None)  # raises OSError where nothing may be written any more

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Raises ValueError: a line is not a JSON object, or is not what was sealed."""
        for log in super().read_logs(log_number_from):
            if not isinstance(log, dict):
                raise ValueError(f"a JSON object is expected, not {type(log).__name__}")
            yield unsealed(log)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        if self._failed is not None:
            raise self._failed
        self.check()
        size = os.path.getsize(self._file_path)
        try:
            super().append_logs([sealed(log) for log in logs])
        except OSError as error:
            self._failed = error
            with contextlib.suppress(OSError):  # if this fails as well, `open_journal` removes the partial line
                os.truncate(self._file_path, size)
            raise


class TrialJournal(JournalStorage):  # type: ignore[misc]
    """Optuna's journal, which keeps nothing of what a sampler draws until it is started as a trial.

    TPE with a constant liar shares its draws with other processes, as attributes of a stored trial.
    """

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        if trial_id != DRAWN:
            super().set_trial_system_attr(trial_id, key, value)


def open_journal(output: Path, *, check: Callable[[], None] | None = None) -> TrialJournal:
    """Open the journal of an output folder, or create it. The caller holds the folder's lock.

    `check` is called before every write, and raises OSError where what is written would be lost.

    A partial last line, left by a killed process or a full disk, is removed; the trial it was about resumes from its earlier
    state.

    Raises:
        TrialStoreBroken: the journal cannot be read.
    """
    path = output / JOURNAL
    try:
        _remove_partial_line(path)
        Path(f"{path}.lock").unlink(missing_ok=True)  # of a killed process: the folder's lock keeps all others out
        file = _JournalFile(str(path), lock_obj=JournalFileOpenLock(str(path)))
        file.check = check or file.check
        return TrialJournal(file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrialStoreBroken(
            f"{path} cannot be read ({type(error).__name__}: {error}). It stores which trials are finished. {ways_out(output)}"
        ) from error


def ways_out(output: Path) -> str:
    """What to do about a journal that cannot be used."""
    return (
        f"Restore it from a complete copy, or start over in another --output; copy {output / 'stages'} there first to keep "
        "what is trained."
    )


def _remove_partial_line(path: Path) -> None:
    if not path.exists():
        return
    with open(path, "r+b") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            file.truncate(end)
            file.flush()
            os.fsync(file.fileno())


# Optuna logs every study that it opens, and warns that TPE's `group` is experimental.
optuna.logging.set_verbosity(optuna.logging.WARNING)
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
