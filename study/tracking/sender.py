"""Takes the journal to an MLflow store, in a thread of its own: no search waits for a server that is slow or gone."""

from __future__ import annotations

import threading

from study.tracking.mlflow_store import MlflowStore, Refused, StoreUnavailable, together
from study.tracking.outbox import Journal, Placed, Receipt, Say

AHEAD = 64  # entries read at once
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # between attempts at a store that does not answer
SAID_REFUSALS = 5


class Courier:
    """Delivers entries one after the other and notes each in the receipt.

    A store that does not answer is left alone for a while, then tried with the same entry again: the pause doubles up to
    half a minute, so that a dead server costs one time-out each pause, whatever waits.
    """

    def __init__(self, journal: Journal, receipt: Receipt, store: MlflowStore, *, say: Say) -> None:
        self._journal, self._receipt, self._store, self._say = journal, receipt, store, say
        self._changed = threading.Condition()
        self._stopping = self._hurry = False
        self._attempt = self._failed = self._succeeded = 0  # numbers of attempts to deliver all there is
        self.outage: str | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-courier", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something new in the journal."""
        with self._changed:
            self._changed.notify_all()

    def flush(self, patience_s: float) -> bool:
        """Wait until everything is delivered; whether it is. Gives up when the store fails now, or patience ends."""
        with self._changed:
            # One failure may pass; a store that was away already is asked once.
            next_one, last = self._attempt + 1, self._attempt + (1 if self.outage else 2)
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._succeeded >= next_one or self._failed >= last, timeout=patience_s)
            return self._delivered

    def drain(self, patience_s: float) -> bool:
        """As `flush`, and as long as it takes while the store takes something within each `patience_s`."""
        while True:
            before = self._receipt.offset
            if self.flush(patience_s) or self._receipt.offset == before:
                return self._delivered

    def stop(self, patience_s: float) -> None:
        """End the thread; a call that is under way has `patience_s` to end."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(patience_s)

    @property
    def _delivered(self) -> bool:
        return self._receipt.offset >= self._journal.end

    def _work(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._hurry or not self._delivered)
                self._attempt += 1
                self._hurry = False
            try:
                while not self._stopping and not self._delivered:
                    self._deliver_some()
                    self._end_outage()
                    pause_s = FIRST_PAUSE_S
                self._store.reconcile()
            except (
                Exception
            ) as error:  # whatever a store's client throws must end neither the search nor the deliveries
                self._begin_outage(str(error) if isinstance(error, StoreUnavailable) else repr(error))
                with self._changed:
                    self._failed = self._attempt
                    self._changed.notify_all()
                    self._changed.wait_for(lambda: self._stopping or self._hurry, timeout=pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                with self._changed:
                    self._succeeded = self._attempt
                    self._changed.notify_all()

    def _deliver_some(self) -> None:
        placed = self._journal.read(self._receipt.offset, AHEAD)
        while placed and not self._stopping:
            count = together([one.entry for one in placed])
            self._deliver(placed[:count])
            placed = placed[count:]

    def _deliver(self, group: list[Placed]) -> None:
        try:
            self._store.deliver([one.entry for one in group])
        except Refused as refusal:
            if len(group) > 1:  # which of them it was
                for one in group:
                    self._deliver([one])
                return
            entry = group[0].entry
            reason = f"{entry.get('run', 'experiment')}, {entry['do']}: {refusal}"
            self._receipt.note(group[0].after, [reason])
            if len(self._receipt.refused) <= SAID_REFUSALS:
                self._say(f"MLflow refused a write: {reason}")
            return
        self._receipt.note(group[-1].after)

    def _begin_outage(self, reason: str) -> None:
        if self.outage is None:
            self._say(f"MLflow does not take results ({reason}); the study goes on and they wait on disk")
        self.outage = reason

    def _end_outage(self) -> None:
        if self.outage is not None:
            waiting = self._journal.count(self._receipt.offset)
            self._say(f"MLflow answers again; {waiting} writes are still to be sent")
        self.outage = None
