"""Sends the outbox to an MLflow store from a thread of its own, so no search waits for a slow or absent server."""

from __future__ import annotations

import threading
from collections.abc import Callable

from study.tracking.mlflow_store import MlflowStore, StoreUnavailable, WriteRefused, batch_length
from study.tracking.outbox import DeliveryOffset, Outbox, Say, StoredEntry

READ_AHEAD = 64  # entries
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0  # between attempts at a store that does not answer
MOST_REFUSALS_SHOWN = 5


class Sender:
    """Delivers entries in order and advances the delivery offset after each.

    After a failure, the same entry is tried again after a pause, which doubles up to half a minute. A dead server thus costs
    one time-out per pause, however many entries wait.
    """

    def __init__(
        self,
        outbox: Outbox,
        delivery: DeliveryOffset,
        *,
        store: MlflowStore,
        say: Say,
        kept_bytes: Callable[[], int] | None = None,
    ) -> None:
        """`kept_bytes`: how much of the outbox outlives this machine, if not all of it; the rest is not sent yet."""
        self._outbox, self._delivery, self._store, self._say = outbox, delivery, store, say
        self._kept_bytes = kept_bytes
        self._changed = threading.Condition()
        self._stopping = self._hurry = False
        self._attempt = self._failed = self._succeeded = 0  # numbers of attempts to deliver everything
        self.outage: str | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow-sender", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look for new entries in the outbox."""
        with self._changed:
            self._changed.notify_all()

    def flush(self, patience_s: float) -> bool:
        """Wait until everything is delivered, and return whether it is. Gives up if the store fails, or after `patience_s`."""
        with self._changed:
            # A first failure may be transient, so there are two attempts; a store that was away already gets one.
            next_attempt, last = self._attempt + 1, self._attempt + (1 if self.outage else 2)
            self._hurry = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._succeeded >= next_attempt or self._failed >= last, timeout=patience_s)
            return self._delivered

    def drain(self, patience_s: float) -> bool:
        """As `flush`, but without giving up while the store takes at least one entry in every `patience_s`."""
        while True:
            before = self._delivery.offset
            if self.flush(patience_s) or self._delivery.offset == before:
                return self._delivered

    def stop(self, patience_s: float) -> None:
        """End the thread; a call to the store in progress has `patience_s` to return."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(patience_s)

    @property
    def _delivered(self) -> bool:
        return self._delivery.offset >= self._outbox.end

    @property
    def _sendable(self) -> int:
        """Up to which byte of the outbox it may be sent."""
        return self._outbox.end if self._kept_bytes is None else min(self._outbox.end, self._kept_bytes())

    def _work(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._stopping:
            with self._changed:
                self._changed.wait_for(lambda: self._stopping or self._hurry or self._delivery.offset < self._sendable)
                self._attempt += 1
                self._hurry = False
            try:
                while not self._stopping and self._delivery.offset < self._sendable:
                    self._deliver_some()
                    self._end_outage()
                    pause_s = FIRST_PAUSE_S
                self._store.reconcile()
            except Exception as error:  # no error of an MLflow client may end this thread
                self._start_outage(str(error) if isinstance(error, StoreUnavailable) else repr(error))
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
        sendable = self._sendable
        waiting = [stored for stored in self._outbox.read(self._delivery.offset, READ_AHEAD) if stored.end <= sendable]
        while waiting and not self._stopping:
            count = batch_length([stored.entry for stored in waiting])
            self._deliver(waiting[:count])
            waiting = waiting[count:]

    def _deliver(self, batch: list[StoredEntry]) -> None:
        try:
            self._store.deliver([stored.entry for stored in batch])
        except WriteRefused as refusal:
            if len(batch) > 1:  # one by one, so that only the offending entry is lost
                for stored in batch:
                    self._deliver([stored])
                return
            entry = batch[0].entry
            reason = f"{entry.get('run', 'experiment')}, {entry['do']}: {refusal}"
            self._delivery.advance(batch[0].end, [reason])
            if len(self._delivery.refused) <= MOST_REFUSALS_SHOWN:
                self._say(f"MLflow refused a write: {reason}")
            return
        self._delivery.advance(batch[-1].end)

    def _start_outage(self, reason: str) -> None:
        if self.outage is None:
            self._say(f"MLflow does not take results ({reason}); the study continues, and results wait on disk")
        self.outage = reason

    def _end_outage(self) -> None:
        if self.outage is not None:
            waiting = self._outbox.count(self._delivery.offset)
            self._say(f"MLflow answers again; {waiting} writes are still to be sent")
        self.outage = None
