"""Brings a store up to the outbox: opening it, sending what it lacks (`study sync`), and saying what it still lacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from study.redact import redacted
from study.tracking.folder_id import FolderIdDamaged
from study.tracking.mlflow_store import ExperimentTaken, MlflowStore, StoreUnavailable, WriteRefused, batch_length
from study.tracking.outbox import FOLDER, DeliveryOffset, Entry, Outbox, OutboxUnusable, Say
from study.tracking.sender import Sender

PATIENCE_S = 60.0  # the wait for a store that keeps taking entries, however slowly
LAST_CALL_S = 15.0  # for a call to the store that is in progress when the wait is over


class TrackingUnavailable(RuntimeError):
    """The store cannot be reached or written, or the outbox cannot be used."""


def send(output: Path, uri: str | None = None, *, again: bool = False, say: Say) -> bool:
    """Send what MLflow lacks of a study, and return whether it has everything now.

    Sends to the store at the URI, or to every store that the outbox was meant for. With `again` everything is sent, to a store
    that lost some of it; nothing is duplicated.

    Raises:
        TrackingUnavailable: there is no usable outbox, a store does not answer, or it has another folder's study of this name.
    """
    try:
        outbox = Outbox(output / FOLDER)
    except (OutboxUnusable, OSError) as error:
        raise TrackingUnavailable(str(error)) from error
    try:
        uris = [uri] if uri else [_uri_of(name, output) for name in DeliveryOffset.destinations(outbox.folder)]
        if without_password := [name for name in uris if "***" in name]:
            raise TrackingUnavailable(
                f"{without_password[0]}: its password was not kept; give the URI with --tracking-uri"
            )
        complete = True
        for name in uris:
            complete = _send_to(outbox, name, output=output, again=again, say=say) and complete
        return complete
    finally:
        outbox.close()


def _send_to(outbox: Outbox, uri: str, *, output: Path, again: bool, say: Say) -> bool:
    delivery = DeliveryOffset(outbox, destination_of(uri, output))
    store = open_store(outbox, delivery, uri=uri, output=output)
    if again:
        delivery.reset()
    waiting = outbox.count(delivery.offset)
    sender = Sender(outbox, delivery, store=store, say=say)
    sender.drain(PATIENCE_S)
    sender.stop(LAST_CALL_S)
    lacking = missing(outbox, delivery, uri=uri, output=output, outage=sender.outage)
    for line in lacking or [f"{redacted(uri)} has everything; {waiting} writes were sent"]:
        say(line)
    return not lacking


def open_store(outbox: Outbox, delivery: DeliveryOffset, *, uri: str, output: Path) -> MlflowStore:
    """Connect to the store. The delivery offset is reset for a store that has not received the outbox before.

    Raises:
        TrackingUnavailable: it does not answer, denies access, or has another folder's study of this name; or the folder's id
            is damaged.
    """
    store = MlflowStore(uri, outbox.experiment, output=output)
    try:
        if not store.open(outbox.id):
            delivery.reset()  # before the mark: a marked store with the offset of a former store would lack entries
            store.mark(outbox.id)
    except FolderIdDamaged as error:
        raise TrackingUnavailable(str(error)) from error
    except ExperimentTaken as error:
        raise TrackingUnavailable(f"MLflow at {redacted(uri)}: {error}") from error
    except (StoreUnavailable, WriteRefused) as error:
        raise TrackingUnavailable(
            f"no MLflow store at {redacted(uri)} takes results: {error}. Fix that, or run with --offline: results are kept in "
            f"{output} and sent later"
        ) from error
    return store


def rebuild(journal: Sequence[Entry], uri: str, *, output: Path, say: Say) -> None:
    """Write the entries of an outbox, header first, into an empty store in the folder `output`, all but the files."""
    header = journal[0]
    store = MlflowStore(uri, header["experiment"], output=output)
    store.open(header["id"])
    entries = [entry for entry in journal if entry["do"] != "file"]
    while entries:
        count = batch_length(entries)
        try:
            store.deliver(entries[:count])
        except WriteRefused as refusal:
            say(f"left out of the report: {refusal}")
        entries = entries[count:]


def missing(outbox: Outbox, delivery: DeliveryOffset, *, uri: str, output: Path, outage: str | None) -> list[str]:
    """Lines for the console about what MLflow lacks, and what to do; none if it has everything."""
    lines = []
    shown = redacted(uri)
    if waiting := outbox.count(delivery.offset):
        reason = f" ({outage})" if outage else ""
        lines.append(
            f"MLflow at {shown} lacks {waiting} of this study's writes{reason}. They are kept in {outbox.folder}: run the same "
            f"command again to send them, or python -m study sync {output} --tracking-uri {shown}"
        )
    if outbox.error is not None:
        lines.append(
            f"some writes could not be kept on disk ({outbox.error}); the same command run again writes the final results"
        )
    if delivery.refused:
        lines.append(
            f"MLflow at {shown} refused {len(delivery.refused)} writes, the first: {delivery.refused[0]}. Once that is fixed: "
            f"python -m study sync {output} --tracking-uri {shown} --again"
        )
    return lines


def destination_of(uri: str, output: Path) -> str:
    """A store's name in the delivery offsets: without a password, and the same after the output folder has moved."""
    return redacted(uri).replace(str(output.resolve()), "OUTPUT")


def _uri_of(destination: str, output: Path) -> str:
    return destination.replace("OUTPUT", str(output.resolve()))
