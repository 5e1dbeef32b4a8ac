"""MLflow: one experiment a study, one parent run a size; trials, repeats and benchmarks its children. Only the driver writes.

Every write goes into the journal in the output folder first (`study.tracking.outbox`), and a courier takes it to MLflow from there
(`study.tracking.sender`), so no write waits for a server, fails, or is lost. A write whose value stands in the journal already is
left out: the same command run again adds nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

from study.redact import environment_secrets, redacted
from study.tracking.mlflow_store import MlflowStore, Refused, StoreUnavailable, Taken, together
from study.tracking.outbox import Entry, Journal, JournalUnusable, Receipt, Say
from study.tracking.sender import Courier

T = TypeVar("T")
Value = str | float | int | None
PATIENCE_S = 60.0  # the wait at the end of a study for a store that takes what there is, however slowly
LAST_CALL_S = 15.0  # for a call that is under way when the wait is over
HURRIED_S = 1.0  # both, of a study that is being stopped


def default_uri(output: Path) -> str:
    """A SQLite store in the output folder, by absolute path: Ray changes the working directory of its workers."""
    return f"sqlite:///{output.resolve() / 'mlflow.db'}"


def _now_ms() -> int:
    return time.time_ns() // 10**6


class TrackingUnavailable(RuntimeError):
    """The tracking store cannot be reached or written."""


@dataclass
class _Run:
    """What the journal holds of a run: the last value of everything that a later write could repeat."""

    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # name to sha256
    steps: dict[int, str] = field(default_factory=dict)  # step to a digest of its metrics
    latest: dict[str, float] = field(default_factory=dict)  # of runs that this process writes
    status: str | None = None

    def take(self, entry: Entry) -> None:
        match entry["do"]:
            case "run" | "write":
                self.params |= entry.get("params", {}).keys()
                self.tags |= entry.get("tags", {})
                if "digest" in entry:
                    self.steps[entry["step"]] = entry["digest"]
            case "file":
                self.files[Path(entry["path"]).name] = entry["sha256"]
            case "end":
                self.status = entry["status"]


class Tracking:
    """Writes one study's runs; every method may be called again with the same values, and from several threads.

    A run is named by its key, which is also its `key` tag in MLflow.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        output: Path,
        *,
        offline: bool = False,
        say: Say = lambda line: None,
        clock_ms: Callable[[], int] = _now_ms,
    ) -> None:
        """Open the journal, and the store unless `offline`: then the journal keeps everything for a later run or `send`.

        `clock_ms` gives the milliseconds since the epoch that writes are stamped with. It may go back, stamps do not.

        Raises:
            TrackingUnavailable: the store does not answer, lets nobody in, or has another folder's study of that name; or the
                journal is of another study, damaged or in use.
        """
        self.uri, self.experiment, self.output = uri, experiment, output
        self._say, self._secrets = say, environment_secrets()
        self._clock_ms, self._latest_ms = clock_ms, 0
        self._lock = threading.RLock()
        self._runs: dict[str, _Run] = {}
        self._described = _Run()
        self._courier: Courier | None = None
        try:
            self._journal = Journal(output / "outbox", experiment)
        except (JournalUnusable, OSError) as error:
            raise TrackingUnavailable(str(error)) from error
        for entry in self._journal.take_recovered():
            self._take(entry)
        self._receipt = Receipt(self._journal.folder, _destination(uri, output))
        if offline:
            self._receipt.note(self._receipt.offset)  # so that `send` knows whom it is for
            say("MLflow: offline, everything is kept for later")
            return
        try:
            store = _opened(self._journal, self._receipt, uri, output)
        except BaseException:
            self._journal.close()
            raise
        self._courier = Courier(self._journal, self._receipt, store, say=say)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(PATIENCE_S if kind is None else HURRIED_S)

    def describe(self, tags: Mapping[str, object]) -> None:
        """Tag the experiment: command, versions, hardware. Values that are no strings are written as JSON."""
        texts = {name: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for name, v in tags.items()}
        with self._lock:
            if changed := self._changed(self._described.tags, texts):
                self._append({"do": "describe", "tags": changed})

    def size(self, name: str) -> str:
        """The parent run of a size."""
        return self._run(f"size:{name}", name, {"kind": "size", "size": name})

    def trial(self, size: str, trial_id: str, *, default_cell: bool, params: Mapping[str, Value]) -> str:
        """The run of a trial, a child of its size's run. Conditional parameters that do not apply read "none"."""
        tags = {"kind": "trial", "size": size, "trial_id": trial_id, "default_cell": str(default_cell).lower()}
        name = f"{size} {params['intermediate']}"
        return self._run(f"trial:{size}:{trial_id}", name, tags, parent=self.size(size), params=params)

    def repeat(self, size: str, trial_id: str, *, of: str, params: Mapping[str, Value]) -> str:
        """The run of a repeat of the finished trial `of` with another seed, a child of its size's run."""
        tags = {"kind": "repeat", "size": size, "trial_id": trial_id, "repeats": of}
        name = f"{size} {params['intermediate']} seed {params['seed']}"
        return self._run(f"repeat:{size}:{trial_id}", name, tags, parent=self.size(size), params=params)

    @property
    def trials(self) -> dict[str, set[str]]:
        """The names of all trials and repeats that were ever written, by size."""
        found: dict[str, set[str]] = {}
        with self._lock:
            for run in self._runs.values():
                if run.tags.get("kind") in ("trial", "repeat"):
                    found.setdefault(run.tags["size"], set()).add(run.tags["trial_id"])
        return found

    def benchmark(self, size: str, variant: str, tags: Mapping[str, str]) -> str:
        """The run of a benchmark, a child of its size's run."""
        everything = {"kind": "benchmark", "size": size, "variant": variant, **tags}
        return self._run(f"benchmark:{size}:{variant}", f"{size} {variant}", everything, parent=self.size(size))

    def metrics(self, run: str, metrics: Mapping[str, Value], step: int = 0) -> None:
        """Log finite numbers at a step, those that changed; what is not finite becomes a tag `unavailable:<metric>`."""
        numbers = {name: float(v) for name, v in metrics.items() if isinstance(v, (int, float))}
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        broken = {f"unavailable:{name}": str(v) for name, v in numbers.items() if not math.isfinite(v)}
        digest = hashlib.sha256(json.dumps([finite, broken], sort_keys=True).encode()).hexdigest()[:16]
        with self._lock:
            held = self._held(run)
            if held.steps.get(step) == digest:
                return
            changed = {name: value for name, value in finite.items() if held.latest.get(name) != value}
            held.latest |= changed
            tags = self._changed(held.tags, broken)
            self._append({"do": "write", "run": run, "step": step, "digest": digest, "metrics": changed, "tags": tags})

    def tag(self, run: str, name: str) -> str | None:
        """The value that a tag was given last."""
        with self._lock:
            return self._held(run).tags.get(name)

    def tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Give a run tags, those that changed."""
        with self._lock:
            if changed := self._changed(self._held(run).tags, tags):
                self._append({"do": "write", "run": run, "tags": changed})

    def finish(self, run: str, status: str = "FINISHED") -> None:
        """Close a run as FINISHED, FAILED or KILLED."""
        with self._lock:
            held = self._held(run)
            held.latest.clear()
            if held.status != status:
                self._append({"do": "end", "run": run, "status": status})

    def artifact(self, run: str, path: Path) -> None:
        """Attach a file under its name, unless the run has it with the same content. It must stay until it is sent."""
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with self._lock:
            if self._held(run).files.get(path.name) == digest:
                return
            resolved, base = path.resolve(), self.output.resolve()
            kept = resolved.relative_to(base) if resolved.is_relative_to(base) else resolved
            self._append({"do": "file", "run": run, "path": str(kept), "sha256": digest})

    def flush(self, patience_s: float = PATIENCE_S) -> bool:
        """Wait until MLflow has everything; whether it has. A database of our own gets the time that it needs, a server
        `patience_s`."""
        if self._courier is None:
            return False
        wait = self._courier.drain if self.uri.startswith("sqlite:") else self._courier.flush
        return wait(patience_s) and self._journal.error is None

    def read(self, load: Callable[[str], T]) -> T:
        """What `load` makes of the store with everything in it: MLflow's, or one made of the journal while MLflow lacks
        something or `load` raises a ValueError, as `analysis.load` does where it cannot read a store."""
        if self.flush():
            try:
                return load(self.uri)
            except ValueError as error:
                self._say(f"MLflow cannot be read, its journal is read instead: {redacted(str(error))[:200]}")
        with tempfile.TemporaryDirectory() as folder:
            uri = f"sqlite:///{Path(folder).resolve() / 'mlflow.db'}"
            store = MlflowStore(uri, self.experiment, self.output)
            store.open(self._journal.id)
            entries = [placed.entry for placed in self._journal.read(0) if placed.entry["do"] != "file"]
            while entries:
                count = together(entries)
                try:
                    store.deliver(entries[:count])
                except Refused as refusal:
                    self._say(f"left out of the report: {refusal}")
                entries = entries[count:]
            return load(uri)

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Give MLflow some time to take what it lacks, and say what it did not take and how it gets there.

        Raises nothing, whatever happened to the output folder: an error that ends the study would be hidden.
        """
        if self._courier is not None:
            self._courier.flush(patience_s)
            self._courier.stop(min(patience_s, LAST_CALL_S))
        self._journal.close()
        try:
            lines = _left(self._journal, self._receipt, self.uri, self.output, outage=self._outage)
        except OSError as error:
            lines = [f"what MLflow at {redacted(self.uri)} lacks is not known, the journal cannot be read: {error}"]
        for line in lines:
            self._say(line)

    @property
    def _outage(self) -> str | None:
        return "offline" if self._courier is None else self._courier.outage

    def _run(
        self,
        key: str,
        name: str,
        tags: Mapping[str, str],
        *,
        parent: str | None = None,
        params: Mapping[str, Value] | None = None,
    ) -> str:
        texts = {name: "none" if value is None else str(value) for name, value in (params or {}).items()}
        with self._lock:
            held = self._runs.get(key)
            if held is None:
                written = self._changed({}, tags)
                self._append(
                    {"do": "run", "run": key, "name": name, "parent": parent, "tags": written, "params": texts}
                )
            elif missing := {name: text for name, text in texts.items() if name not in held.params}:
                self._append({"do": "write", "run": key, "params": missing})
        self.tags(key, tags)
        return key

    def _held(self, run: str) -> _Run:
        return self._runs[run]

    def _changed(self, held: Mapping[str, str], tags: Mapping[str, str]) -> dict[str, str]:
        clean = {name: redacted(value, self._secrets) for name, value in tags.items()}
        return {name: value for name, value in clean.items() if held.get(name) != value}

    def _append(self, entry: Entry) -> None:
        """Called with the lock held: the order of the journal is the order of the writes, and of their stamps.

        Of a metric's values at one step MLflow shows the one with the latest stamp, and of equal ones the largest. A study that
        goes on under another machine's clock, or writes twice in a millisecond, would leave it with the older value.
        """
        entry = {**entry, "at": max(self._clock_ms(), self._latest_ms + 1)}
        failed_before = self._journal.error is not None
        self._journal.append(entry)
        self._take(entry)
        if self._journal.error is not None and not failed_before:
            self._say(
                f"{self._journal.folder} takes no more results for MLflow, they wait in memory: {self._journal.error}"
            )
        if self._courier is not None:
            self._courier.wake()

    def _take(self, entry: Entry) -> None:
        self._latest_ms = max(self._latest_ms, entry.get("at", 0))
        if entry["do"] == "describe":
            self._described.tags |= entry["tags"]
        elif "run" in entry:
            self._runs.setdefault(entry["run"], _Run()).take(entry)


def send(output: Path, uri: str | None = None, *, again: bool = False, say: Say) -> bool:
    """Send what MLflow lacks of a study: to the store with the URI, or to every store that it was meant for.

    `again` sends everything, to a store that lost some of it; what is there is not doubled. Returns whether the stores have
    everything now.

    Raises:
        TrackingUnavailable: there is no journal, or a store does not answer or has another folder's study of that name.
    """
    try:
        journal = Journal(output / "outbox")
    except (JournalUnusable, OSError) as error:
        raise TrackingUnavailable(str(error)) from error
    try:
        uris = [uri] if uri else [_uri_of(name, output) for name in Receipt.destinations(journal.folder)]
        if hidden := [name for name in uris if "***" in name]:
            raise TrackingUnavailable(f"{hidden[0]}: its password was not kept; give the URI with --tracking-uri")
        complete = True
        for one in uris:
            receipt = Receipt(journal.folder, _destination(one, output))
            store = _opened(journal, receipt, one, output)
            if again:
                receipt.reset()
            waiting = journal.count(receipt.offset)
            courier = Courier(journal, receipt, store, say=say)
            courier.drain(PATIENCE_S)
            courier.stop(LAST_CALL_S)
            left = _left(journal, receipt, one, output, outage=courier.outage)
            for line in left or [f"{redacted(one)} has everything; {waiting} writes were sent"]:
                say(line)
            complete = complete and not left
        return complete
    finally:
        journal.close()


def _opened(journal: Journal, receipt: Receipt, uri: str, output: Path) -> MlflowStore:
    store = MlflowStore(uri, journal.experiment, output)
    try:
        if not store.open(journal.id):
            receipt.reset()  # before the mark: a receipt of an earlier store of that name would be believed
            store.mark(journal.id)
    except Taken as error:
        raise TrackingUnavailable(f"MLflow at {redacted(uri)}: {error}") from error
    except (StoreUnavailable, Refused) as error:
        raise TrackingUnavailable(
            f"no MLflow store at {redacted(uri)} takes results: {error}. Mend that, or run with --offline: "
            f"everything is kept in {output} and sent later"
        ) from error
    return store


def _left(journal: Journal, receipt: Receipt, uri: str, output: Path, *, outage: str | None) -> list[str]:
    """What MLflow lacks, in lines for people; none if nothing."""
    lines = []
    shown = redacted(uri)
    if waiting := journal.count(receipt.offset):
        why = f" ({outage})" if outage else ""
        lines.append(
            f"MLflow at {shown} lacks {waiting} of this study's writes{why}. They are kept in {journal.folder}: the same "
            f"command run again sends them, or python -m study sync {output} --tracking-uri {shown}"
        )
    if journal.error is not None:
        lines.append(
            f"some of them could not be kept ({journal.error}); the same command run again writes the final results"
        )
    if receipt.refused:
        lines.append(
            f"MLflow at {shown} refused {len(receipt.refused)} writes, the first: {receipt.refused[0]}. Once that is mended: "
            f"python -m study sync {output} --tracking-uri {shown} --again"
        )
    return lines


def _destination(uri: str, output: Path) -> str:
    """The name of a store in the receipts: no password in it, and the same after the folder moved."""
    return redacted(uri).replace(str(output.resolve()), "OUTPUT")


def _uri_of(destination: str, output: Path) -> str:
    return destination.replace("OUTPUT", str(output.resolve()))
