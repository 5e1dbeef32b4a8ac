"""The runs of a study in MLflow: one experiment, one parent run per size, with trials, repeats and benchmarks as its children.

Only the driver writes, and `sync` sends what it left. Every write goes to the outbox in the output folder first
(`study.tracking.outbox`), and a sender takes it to MLflow (`study.tracking.sender`): no write waits for a server, fails or is
lost. A write that would change nothing is left out, so the same command run again adds nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self, TypeVar

from study.redact import environment_secrets, redacted
from study.tracking import sync
from study.tracking.notes import NOTE_TAG, benchmark_note, repeat_note, size_note, trial_note
from study.tracking.outbox import FOLDER, DeliveryOffset, Entry, Outbox, OutboxUnusable, Say
from study.tracking.sender import Sender
from study.tracking.sync import LAST_CALL_S, PATIENCE_S, TrackingUnavailable
from study.tracking.views import BEST_TAG
from trainables.store.atomic import write_text

T = TypeVar("T")
Value = str | float | int | None
# MLflow's limits, in characters, of the values of a run's tags and parameters.
MOST_IN_TAG, MOST_IN_PARAM = 8000, 6000
LONG_VALUES = "long_values"  # folder of the whole values that are longer
HURRIED_S = 1.0  # instead of both `PATIENCE_S` and `LAST_CALL_S`, when a study is interrupted


def default_uri(output: Path) -> str:
    """A SQLite store in the output folder. The path is absolute: Ray changes the working directory of its workers."""
    return f"sqlite:///{output.resolve() / 'mlflow.db'}"


def _cut(name: str, text: str, most: int) -> str:
    """The text within MLflow's limit. MLflow itself would cut it without a word."""
    if len(text) <= most:
        return text
    note = f" [cut: all {len(text)} characters are in the artifact {_file_name(name)}]"
    return text[: most - len(note)] + note


def _file_name(name: str) -> str:
    """A file's name for the whole value of a tag or parameter."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)[:100] + ".txt"


def _now_ms() -> int:
    return time.time_ns() // 10**6


@dataclass
class _RunState:
    """What the outbox has of a run: the last value of everything that a later write could repeat."""

    params: set[str] = field(default_factory=set)
    tags: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)  # name to sha256
    steps: dict[int, str] = field(default_factory=dict)  # step to a digest of its metrics
    latest: dict[str, float] = field(default_factory=dict)  # metrics, only of runs that this process writes
    status: str | None = None

    def apply(self, entry: Entry) -> None:
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


class Keeper(Protocol):
    """Keeps a copy of the outbox where a loss of this machine does not reach it."""

    def keep(self) -> object:
        """Keep what is written by now. Raises OSError."""

    def kept_bytes(self) -> int:
        """How much of the outbox is kept."""

    def after_keeping(self, do: Callable[[], object]) -> None:
        """Call this whenever more is kept."""


class Tracker:
    """Writes one study's runs. Methods may be called again with the same values, and from several threads.

    A run is identified by its key, which is its `key` tag in MLflow.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        *,
        output: Path,
        offline: bool = False,
        source: Mapping[str, str] | None = None,
        say: Say = lambda line: None,
        clock_ms: Callable[[], int] = _now_ms,
        keeper: Keeper | None = None,
    ) -> None:
        """Open the outbox, and the store unless `offline`: then a later run or `sync` sends everything.

        `keeper` keeps the outbox elsewhere too, and MLflow gets only what it has kept: a driver that takes over after a loss of
        this machine knows every run that MLflow has.

        `source` are tags of every run that this process creates: where it comes from. Runs that exist keep theirs.
        `clock_ms` is the time since the epoch that writes are stamped with. It may go back; stamps never do.

        Raises:
            TrackingUnavailable: the store does not answer, denies access, or has another folder's study of this name; or the
                outbox is damaged, in use or another study's.
        """
        self.uri, self.experiment, self.output = uri, experiment, output
        self.source = dict(source or {})
        self._say, self._secrets, self._keeper = say, environment_secrets(), keeper
        self._clock_ms, self._latest_ms = clock_ms, 0
        self._lock = threading.RLock()
        self._runs: dict[str, _RunState] = {}
        self._described = _RunState()
        self._sender: Sender | None = None
        try:
            self._outbox = Outbox(output / FOLDER, experiment)
        except (OutboxUnusable, OSError) as error:
            raise TrackingUnavailable(str(error)) from error
        for entry in self._outbox.take_recovered():
            self._apply(entry)
        self._delivery = DeliveryOffset(self._outbox, sync.destination_of(uri, output))
        if offline:
            self._delivery.advance(self._delivery.offset)  # saves the destination for `sync`
            say("MLflow: offline, results are kept for later")
            return
        try:
            store = sync.open_store(self._outbox, self._delivery, uri=uri, output=output)
        except BaseException:
            self._outbox.close()
            raise
        kept_bytes = None if keeper is None else keeper.kept_bytes
        self._sender = Sender(self._outbox, self._delivery, store=store, say=say, kept_bytes=kept_bytes)
        if keeper is not None:
            keeper.after_keeping(self._sender.wake)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(PATIENCE_S if kind is None else HURRIED_S)

    def describe(self, tags: Mapping[str, object]) -> None:
        """Tag the experiment with command, versions, hardware and the like. Values other than strings become JSON."""
        texts = {name: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for name, v in tags.items()}
        with self._lock:
            if changed := self._changed(self._described.tags, texts, most=None):
                self._append({"do": "describe", "tags": changed})

    def size(self, name: str) -> str:
        """The parent run of a size."""
        return self._run(f"size:{name}", name, {"kind": "size", "size": name}, note=size_note(name))

    def trial(self, size: str, trial_id: str, *, default_cell: bool, params: Mapping[str, Value]) -> str:
        """The run of a trial, a child of its size's run. Parameters that do not apply are None here and "none" in MLflow."""
        tags = {"kind": "trial", "size": size, "trial_id": trial_id, "default_cell": str(default_cell).lower()}
        name, note = f"{size} {params['intermediate']}", trial_note(size, params)
        return self._run(f"trial:{size}:{trial_id}", name, tags, note=note, parent=self.size(size), params=params)

    def repeat(self, size: str, trial_id: str, *, of: str, params: Mapping[str, Value]) -> str:
        """The run that repeats the finished trial `of` with another seed, a child of its size's run."""
        tags = {"kind": "repeat", "size": size, "trial_id": trial_id, "repeats": of}
        name, note = f"{size} {params['intermediate']} seed {params['seed']}", repeat_note(size, params, of=of)
        return self._run(f"repeat:{size}:{trial_id}", name, tags, note=note, parent=self.size(size), params=params)

    @property
    def trials(self) -> dict[str, set[str]]:
        """The names of all trials and repeats that were ever written, by size."""
        names: dict[str, set[str]] = {}
        with self._lock:
            for run in self._runs.values():
                if run.tags.get("kind") in ("trial", "repeat"):
                    names.setdefault(run.tags["size"], set()).add(run.tags["trial_id"])
        return names

    def benchmark(self, size: str, variant: str, *, tags: Mapping[str, str]) -> str:
        """The run of a benchmark, a child of its size's run."""
        all_tags = {"kind": "benchmark", "size": size, "variant": variant, **tags}
        note = benchmark_note(size, all_tags["variant"])
        return self._run(
            f"benchmark:{size}:{variant}", f"{size} {variant}", all_tags, note=note, parent=self.size(size)
        )

    def mark_best(self, size: str, trial_id: str) -> None:
        """Tag the size's best trial and its benchmarks as the best, and no others: the runs table can filter by it."""
        with self._lock:
            for key, run in list(self._runs.items()):
                if run.tags.get("size") != size or run.tags.get("kind") == "size":
                    continue
                current = run.tags.get("kind") in ("trial", "benchmark")
                best = current and run.tags.get("trial_id") == trial_id
                if best or BEST_TAG in run.tags:
                    self.tags(key, {BEST_TAG: str(best).lower()})

    def metrics(self, run: str, metrics: Mapping[str, Value], *, step: int = 0) -> None:
        """Log the numbers that changed at a step. A NaN or infinite one becomes a tag `unavailable:<metric>`."""
        numbers = {name: float(v) for name, v in metrics.items() if isinstance(v, (int, float))}
        finite = {name: value for name, value in numbers.items() if math.isfinite(value)}
        unavailable = {f"unavailable:{name}": str(v) for name, v in numbers.items() if not math.isfinite(v)}
        digest = hashlib.sha256(json.dumps([finite, unavailable], sort_keys=True).encode()).hexdigest()[:16]
        with self._lock:
            state = self._runs[run]
            if state.steps.get(step) == digest:
                return
            changed = {name: value for name, value in finite.items() if state.latest.get(name) != value}
            state.latest |= changed
            tags = self._changed(state.tags, unavailable)
            self._append({"do": "write", "run": run, "step": step, "digest": digest, "metrics": changed, "tags": tags})

    def tag(self, run: str, name: str) -> str | None:
        """The last value of a tag."""
        with self._lock:
            return self._runs[run].tags.get(name)

    def tags(self, run: str, tags: Mapping[str, str]) -> None:
        """Set those of the tags that changed."""
        with self._lock:
            if changed := self._changed(self._runs[run].tags, tags):
                self._append({"do": "write", "run": run, "tags": changed})
        self._attach_long(run, tags, MOST_IN_TAG)

    def finish(self, run: str, status: str = "FINISHED") -> None:
        """Close a run as FINISHED, FAILED or KILLED."""
        with self._lock:
            state = self._runs[run]
            state.latest.clear()
            if state.status != status:
                self._append({"do": "end", "run": run, "status": status})

    def artifact(self, run: str, path: Path) -> None:
        """Attach a file by its name, unless the run has it with this content. The file must stay until it is sent."""
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with self._lock:
            if self._runs[run].files.get(path.name) == digest:
                return
            resolved, base = path.resolve(), self.output.resolve()
            relative = resolved.relative_to(base) if resolved.is_relative_to(base) else resolved
            self._append({"do": "file", "run": run, "path": str(relative), "sha256": digest})

    def flush(self, patience_s: float = PATIENCE_S) -> bool:
        """Wait until MLflow has everything, and return whether it has.

        Waits at most `patience_s` for a server, but as long as it takes for a SQLite file.
        """
        if self._sender is None:
            return False
        self._keep()
        wait = self._sender.drain if self.uri.startswith("sqlite:") else self._sender.flush
        return wait(patience_s) and self._outbox.error is None

    def read(self, load: Callable[[str], T]) -> T:
        """The result of `load` on the URI of a store that has everything.

        That is MLflow, or a temporary store built from the outbox: while MLflow lacks something, or when `load` raises a
        ValueError, as `analysis.load` does on a store that it cannot read.
        """
        if self.flush():
            try:
                return load(self.uri)
            except ValueError as error:
                self._say(f"MLflow cannot be read, the outbox is read instead: {redacted(str(error))[:200]}")
        with tempfile.TemporaryDirectory() as folder:
            uri = default_uri(Path(folder))
            entries = [stored.entry for stored in self._outbox.read(0)]
            sync.rebuild(entries, uri, output=Path(folder), say=self._say)
            return load(uri)

    def _keep(self) -> None:
        """Have all of the outbox kept, if that is possible: what is not stays unsent, and the keeper ends the run by itself."""
        if self._keeper is not None:
            with contextlib.suppress(OSError):
                self._keeper.keep()

    def close(self, patience_s: float = PATIENCE_S) -> None:
        """Give MLflow some time to take what it lacks; then say what is missing and how to send it.

        Raises nothing, whatever happened to the output folder: that would hide the error that ended the study.
        """
        if self._sender is not None:
            self._keep()
            self._sender.flush(patience_s)
            self._sender.stop(min(patience_s, LAST_CALL_S))
        self._outbox.close()
        outage = "offline" if self._sender is None else self._sender.outage
        try:
            lines = sync.missing(self._outbox, self._delivery, uri=self.uri, output=self.output, outage=outage)
        except OSError as error:
            lines = [f"what MLflow at {redacted(self.uri)} lacks is unknown, the outbox cannot be read: {error}"]
        for line in lines:
            self._say(line)

    def _run(
        self,
        key: str,
        name: str,
        tags: Mapping[str, str],
        *,
        note: str,
        parent: str | None = None,
        params: Mapping[str, Value] | None = None,
    ) -> str:
        """Create the run, or complete the one that exists. Its source and its note are written only with its creation."""
        whole = {name: "none" if value is None else str(value) for name, value in (params or {}).items()}
        texts = {name: _cut(name, text, MOST_IN_PARAM) for name, text in whole.items()}
        with self._lock:
            state = self._runs.get(key)
            if state is None:
                clean = self._changed({}, {**self.source, NOTE_TAG: note, **tags})
                self._append({"do": "run", "run": key, "name": name, "parent": parent, "tags": clean, "params": texts})
            elif missing := {name: text for name, text in texts.items() if name not in state.params}:
                self._append({"do": "write", "run": key, "params": missing})
        self._attach_long(key, whole, MOST_IN_PARAM)
        self.tags(key, tags)
        return key

    def _attach_long(self, run: str, values: Mapping[str, str], most: int) -> None:
        """Attach what MLflow cannot hold as a tag or parameter as a file of the run."""
        for name, value in values.items():
            if len(value) > most:
                folder = self.output / LONG_VALUES / hashlib.sha256(run.encode()).hexdigest()[:12]
                folder.mkdir(parents=True, exist_ok=True)
                write_text(folder / _file_name(name), redacted(value, self._secrets))
                self.artifact(run, folder / _file_name(name))

    def _changed(
        self, stored: Mapping[str, str], tags: Mapping[str, str], *, most: int | None = MOST_IN_TAG
    ) -> dict[str, str]:
        clean = {name: redacted(value, self._secrets) for name, value in tags.items()}
        if most is not None:
            clean = {name: _cut(name, value, most) for name, value in clean.items()}
        return {name: value for name, value in clean.items() if stored.get(name) != value}

    def _append(self, entry: Entry) -> None:
        """Stamp the entry and put it into the outbox. Called with the lock held: entries and stamps are in the order of writes.

        Of a metric's values at one step, MLflow shows the one with the latest stamp, and of equal stamps the largest value.
        Stamps therefore increase strictly, even when a study resumes under another machine's clock or writes twice in a
        millisecond.
        """
        entry = {**entry, "at": max(self._clock_ms(), self._latest_ms + 1)}
        failed_before = self._outbox.error is not None
        self._outbox.append(entry)
        self._apply(entry)
        if self._outbox.error is not None and not failed_before:
            self._say(
                f"{self._outbox.folder} cannot be written, results for MLflow wait in memory: {self._outbox.error}"
            )
        if self._sender is not None:
            self._sender.wake()

    def _apply(self, entry: Entry) -> None:
        self._latest_ms = max(self._latest_ms, entry.get("at", 0))
        if entry["do"] == "describe":
            self._described.tags |= entry["tags"]
        elif "run" in entry:
            self._runs.setdefault(entry["run"], _RunState()).apply(entry)
