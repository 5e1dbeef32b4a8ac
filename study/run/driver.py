"""Runs a study: encoders, a search for each size, benchmarks of the best models, the report. Every phase resumes."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage

from analysis import StudyFrames, load
from study.benchmarking.placement import placement_of
from study.benchmarking.run import benchmark_size
from study.benchmarking.stored import BestModel
from study.cluster.connection import cluster_address, connected
from study.cluster.fit import (
    cores_per_trial,
    empty_nodes,
    max_concurrent_trials,
    slot_amounts,
    with_memory,
    with_placement,
)
from study.cluster.gpus import with_accelerators
from study.cluster.preflight import check_disk, check_local_start
from study.cluster.progress_actor import ProgressActor, ProgressReporter
from study.console import Console, Timeline
from study.errors import CannotRun, joined
from study.planning.study_estimate import StudyEstimate
from study.planning.worker_memory import worker_gb
from study.run.cleaning import remove, superfluous
from study.run.document import failure_lines, size_documents
from study.run.identity import check_identity
from study.run.mlflow_records import record_language_shares, record_size, record_study
from study.run.output_folder import locked, remove_leftovers, seconds_by_stage_kind
from study.run.peak_memory import PeakMemory
from study.run.pretraining import activities, prepare_encoders
from study.run.report import report_run
from study.run.source import source_tags
from study.run.status import StudyStatus, duration_line, estimate_of
from study.search.callback import TrialLog
from study.search.collapsed import want_in_place_of_collapsed
from study.search.parallel import ParallelSearches
from study.search.records import SearchResult
from study.search.slots import Slots
from study.search.sweep import load_result
from study.search.tables import target_table, trial_table
from study.search.trial_store import TrialStoreBroken, check_nothing_lost, open_journal
from study.spec import Size, Study
from study.spec.data_check import check_data
from study.spec.precision import explain_precision
from study.tracking.tracker import Tracker, default_uri
from trainables.benchmark.measurement import MeasurementOutcome
from trainables.store.locks import one_node_problem


@dataclass(frozen=True)
class RunOptions:
    """Where a study runs and keeps its results, and which failures it retries; never part of its identity.

    By default `tracking_uri` is SQLite in `output`, and `address` a Ray that this process starts. `offline` does not call
    MLflow and keeps everything for a later run or `sync`. `retry_failed` runs failed trials of earlier runs again, except
    diverged ones; `retry_collapsed` repeats collapsed ones with another seed. `recipe` is the study's recipe as
    on the command line, for MLflow. `keep_best` removes models that nothing needs any more (`study.run.cleaning`).
    """

    output: Path
    tracking_uri: str | None = None
    address: str | None = None
    offline: bool = False
    retry_failed: bool = False
    retry_collapsed: bool = False
    recipe: str | None = None
    keep_best: bool = False


@dataclass(frozen=True)
class RunResult:
    """The document that `run` prints as its last line, and one line for each encoder, trial or benchmark that failed."""

    document: dict[str, Any]
    failures: tuple[str, ...]


def run_study(study: Study, options: RunOptions) -> RunResult:
    """Run the study, or resume it.

    Raises:
        CannotRun: the output folder is unusable, in use or holds another study; or the cluster is too small, or Ray cannot
            start on this machine.
        DataError: a data set breaks a rule of its format.
        TrackingUnavailable: the MLflow store does not answer, or the local journal of what it lacks cannot be read.
        TrialStoreBroken: the journal of earlier searches cannot be read, or lacks trials that MLflow has.
        StorageFailed: the output folder is full, read-only or gone.
    """
    if study.unpinned:
        raise CannotRun(joined(f"not pinned when the study was built: {what}" for what in study.unpinned))
    timeline = Timeline()
    peak_memory = PeakMemory(lambda: timeline.current)
    console = Console(timeline)
    if warning := check_disk(options.output).warning:
        console.say(warning)
    with ExitStack() as stack:
        stack.enter_context(locked(options.output))
        check_identity(study, options.output)
        remove_leftovers(options.output)
        uri = options.tracking_uri or default_uri(options.output)
        tracker = stack.enter_context(
            Tracker(
                uri,
                study.name,
                output=options.output,
                offline=options.offline,
                source=source_tags(options.recipe),
                say=console.say,
            )
        )
        storage = open_journal(options.output)
        check_nothing_lost(storage, options.output, known=tracker.trials)
        record_study(study, tracker)
        if options.retry_collapsed:
            for line in want_in_place_of_collapsed(study, _recorded(study, tracker), storage):
                console.say(line)
        stack.enter_context(peak_memory.measure())
        estimate = estimate_of(study, options.output, address=options.address)
        run = _Run(study, options, timeline, console, tracker, storage, estimate)
        results, encoder_failures = run.finished_results(), dict[str, str]()
        if results is None:
            results, encoder_failures = run.search(stack)
        else:
            run.settle(results)
        run.clean()
        record_language_shares(study, options.output, tracker=tracker)
        measurements = run.benchmark(results)
        report, front = run.report()
        run.summarise(peak_memory, report)
    document = {
        "study": study.name,
        "output": str(options.output),
        "wall_s": round(timeline.wall_s, 1),
        "seconds": {name: round(value, 1) for name, value in timeline.seconds.items()},
        "peak_memory_mb": round(peak_memory.peak_mb),
        "peak_memory_by_phase_mb": {name: round(value) for name, value in peak_memory.by_phase.items()},
        "sizes": size_documents(study, options.output, results=results, measurements=measurements),
        "pareto": front,
        "report": str(report),
    }
    failures = failure_lines(study, encoder_failures=encoder_failures, results=results, measurements=measurements)
    return RunResult(document, failures)


def _recorded(study: Study, tracker: Tracker) -> StudyFrames:
    """What earlier runs of the command recorded.

    Raises:
        CannotRun: it cannot be read.
    """
    try:
        return tracker.read(partial(load, experiment=study.name))
    except ValueError as error:
        raise CannotRun(
            f"--retry-collapsed: the runs of earlier runs of the command cannot be read: {error}"
        ) from error


@dataclass(frozen=True)
class _Run:
    """The phases of one run, and what they share."""

    study: Study
    options: RunOptions
    timeline: Timeline
    console: Console
    tracker: Tracker
    storage: JournalStorage
    estimate: StudyEstimate

    def finished_results(self) -> dict[str, SearchResult] | None:
        """Every size's result if all searches and benchmarks are finished: such a run does not start Ray."""
        results = {}
        for size in self.study.sizes:
            result, done = load_result(self.study, size, storage=self.storage)
            if not done or (self.options.retry_failed and any(trial.retriable for trial in result.failures)):
                return None
            model = BestModel.of(self.study, size, result=result, output=self.options.output)
            if model is not None and not model.measured:
                return None
            results[size.name] = result
        return results

    def settle(self, results: dict[str, SearchResult]) -> None:
        """Complete MLflow's record of a run that finished before."""
        self.console.say("every search and benchmark is finished: nothing to train or measure")
        for size in self.study.sizes:
            self._settle(size, results[size.name], log=self._trial_log(size))

    def search(self, stack: ExitStack) -> tuple[dict[str, SearchResult], dict[str, str]]:
        """Prepare the encoders and search every size; the results, and the reason of each encoder that failed.

        Ray stays connected until the stack closes.
        """
        study, output = self.study, self.options.output
        self.console.say(f"training precision: {explain_precision(study)}")
        self._resume_estimate()
        self.console.say(duration_line(self.estimate))
        with self.timeline.phase("start-up"):
            study, slots = self._connect(stack)
        self.estimate.on_cluster(study.sizes, slots.capacity, limits=slots.limits)
        with self.timeline.phase("reading data"):
            check_data(study, self.console.say)
        with self.timeline.phase("start-up"):
            progress_actor = ProgressActor.remote()  # type: ignore[attr-defined]
        stack.enter_context(self.console.watch(StudyStatus(self.estimate, progress_actor, say=self.console.say).read))
        with self.timeline.phase(activities(study)):
            failures = prepare_encoders(study, output, progress_actor=progress_actor, console=self.console)
        for name in failures:
            self.estimate.searched(name)
        searches = ParallelSearches(
            study,
            [size for size in study.sizes if size.name not in failures],
            output,
            self.storage,
            slots,
            self.tracker,
            self.console,
            ProgressReporter(progress_actor),
            on_search_end=self._search_ended,
            retry_failed=self.options.retry_failed,
            observer=self.estimate,
            after_trial=self.clean,
        )
        with self.timeline.phase("search"):
            results = searches.run()
        for name, reason in failures.items():
            size = study.size(name)
            results[name], _ = load_result(study, size, storage=self.storage)
            self._settle(size, results[name], log=self._trial_log(size), failure=reason)
        return {size.name: results[size.name] for size in study.sizes}, failures

    def _resume_estimate(self) -> None:
        """Tell the estimate of the trials that earlier runs of the command finished."""
        for size in self.study.sizes:
            result, _ = load_result(self.study, size, storage=self.storage)
            again = self.options.retry_failed
            search, repeats = (
                [trial.choice for trial in trials if not (trial.retried or (again and trial.retriable))]
                for trials in (result.trials, result.repeats)
            )
            self.estimate.resume(size.name, search, repeats)

    def _connect(self, stack: ExitStack) -> tuple[Study, Slots]:
        """Connect to Ray, and refuse the study at once if a size or the benchmark can never get its nodes.

        Returns the study with what its workers request of this cluster, GPUs, memory and placement, and the slots.
        """
        sizes, address = self.study.sizes, self.options.address
        if cluster_address(address) is None:
            for warning in check_local_start():
                self.console.say(warning)
        stack.enter_context(connected(address, cpus=max(cores_per_trial(size.resources) for size in sizes)))
        if problem := one_node_problem(self.options.output):
            self.console.say(f"{problem}: its locks may hold on one node only; two nodes could train the same stage")
        sizes = with_accelerators(sizes, say=self.console.say)
        amounts = slot_amounts(sizes, address, say=self.console.say)
        needed_gb = {size.name: worker_gb(self.study, size) for size in sizes}
        sizes = with_placement(with_memory(sizes, needed_gb, say=self.console.say), say=self.console.say)
        slots = Slots(amounts, max_concurrent_trials(sizes), empty_nodes(sizes))
        if self.study.benchmark.variants:
            placement_of(self.study.benchmark)
        return dataclasses.replace(self.study, sizes=sizes), slots

    def _search_ended(self, size: Size, result: SearchResult, log: TrialLog) -> None:
        self._settle(size, result, log=log)
        self.console.show(trial_table(size, result))
        if result.best is not None:
            self.console.show(target_table(self.study, size, trial=result.best))

    def _settle(self, size: Size, result: SearchResult, *, log: TrialLog, failure: str | None = None) -> None:
        """Complete MLflow's record of a size; `failure` is why it was not searched in this run."""
        log.log_missing(result)
        record_size(self.study, size, result=result, output=self.options.output, tracker=self.tracker, failure=failure)

    def _trial_log(self, size: Size) -> TrialLog:
        return TrialLog(self.study, size, self.tracker, self.console)

    def clean(self) -> None:
        """Remove models that nothing needs any more, if the run keeps the best only. Raises nothing, as a sweep calls it."""
        if not self.options.keep_best:
            return
        try:
            cleaning = superfluous(self.options.output, self.storage)
            if freed := remove(self.options.output, cleaning):
                count = len(cleaning.stages)
                self.console.say(f"removed {count} models that nothing needs any more, {freed / 1e6:.1f} MB")
        except (OSError, TrialStoreBroken) as error:
            self.console.say(f"models that nothing needs any more were left: {error}")

    def benchmark(self, results: dict[str, SearchResult]) -> dict[str, dict[str, MeasurementOutcome]]:
        """By size and variant, the measurement of the size's best model, or why there is none."""
        with self.timeline.phase("benchmark"):
            return {size.name: self._benchmark_size(size, results[size.name]) for size in self.study.sizes}

    def _benchmark_size(self, size: Size, result: SearchResult) -> dict[str, MeasurementOutcome]:
        with self.estimate.benchmark_of(size.name) as to_measure:
            return benchmark_size(
                self.study,
                size,
                result=result,
                output=self.options.output,
                tracker=self.tracker,
                console=self.console,
                to_measure=to_measure,
            )

    def report(self) -> tuple[Path, list[dict[str, Any]]]:
        """The report's path, and the front of score against latency."""
        with self.timeline.phase("report"):
            return report_run(self.study.name, self.tracker, attach=not self.options.offline, say=self.console.say)

    def summarise(self, peak_memory: PeakMemory, report: Path) -> None:
        """Print where the time went, peak memory and the report's path."""
        phases = [f"{name} {seconds:.0f} s" for name, seconds in self.timeline.seconds.items()]
        stages = [f"{kind} {seconds:.0f} s" for kind, seconds in seconds_by_stage_kind(self.options.output).items()]
        self.console.say("time by phase: " + ", ".join(phases))
        self.console.say("time by stage: " + ", ".join(stages))
        self.console.say(
            f"wall time {self.timeline.wall_s:.0f} s, peak memory {peak_memory.peak_mb / 1000:.1f} GB; report: {report}"
        )
