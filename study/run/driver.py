"""Runs a study: encoders, a search for each size, benchmarks of the best models, the report. Every phase resumes."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage

from study.benchmarking.cascade import benchmark_cascade, cascade_of
from study.benchmarking.early import early_latencies, early_wanted, time_encoders
from study.benchmarking.front_so_far import front_line, front_so_far
from study.benchmarking.run import ToMeasure, benchmark_size
from study.benchmarking.stored import BestModel
from study.cluster.node_watch import interrupt_this_process
from study.cluster.preflight import check_disk
from study.cluster.progress_actor import ProgressActor, ProgressReporter
from study.console import Console, Timeline
from study.errors import CannotRun, joined
from study.planning.estimate.study_estimate import StudyEstimate
from study.run.bucket.driving import Shipping, keep_folder_id, kept_in_bucket
from study.run.budget import Budget, Spent, all_allow, budgets_of, left_out
from study.run.cleaning import Cleaner
from study.run.cluster import fitted_to_cluster
from study.run.document import failure_lines, size_documents
from study.run.identity import check_identity
from study.run.mlflow_records import record_language_shares, record_size, record_study
from study.run.output_folder import locked, remove_leftovers, seconds_by_stage_kind
from study.run.peak_memory import PeakMemory
from study.run.pretraining import activities, encoder_parameters, prepare_encoders
from study.run.report import report_run
from study.run.status import StudyStatus, duration_line, estimate_of
from study.search.callback import TrialLog
from study.search.collapsed import recorded, want_in_place_of_collapsed
from study.search.front.turns import Turns, positions_of
from study.search.journal import TrialStoreBroken, open_journal
from study.search.parallel import ParallelSearches
from study.search.records import SearchResult
from study.search.sweep import load_result
from study.search.tables import target_table, trial_table
from study.search.trial_store import TrialStore, check_nothing_lost
from study.spec import Size, Study
from study.spec.data_check import check_data
from study.spec.precision import explain_precision
from study.tracking.source import source_tags
from study.tracking.tracker import Tracker, default_uri
from study.watch.status_file import BENCHMARK, TIMING, StatusFile
from trainables.benchmark.measurement import CASCADE, MeasurementOutcome
from trainables.store.bucket.location import shown


@dataclass(frozen=True)
class RunOptions:
    """Where a study runs and keeps its results, and which failures it retries; never part of its identity.

    By default `tracking_uri` is SQLite in `output`, and `address` a Ray that this process starts. `offline` does not call
    MLflow and keeps everything for a later run or `sync`. `retry_failed` runs failed trials of earlier runs again, except
    diverged ones; `retry_collapsed` repeats collapsed ones with another seed. `recipe` is the study's recipe as
    on the command line, for MLflow. `keep_best` removes models that nothing needs any more (`study.run.cleaning`).
    `budget_hours` and `budget_price` limit all runs of the command together (`study.run.budget`); `price` is that of an hour
    of a GPU, or of a core where a size has no GPUs.
    """

    output: Path
    tracking_uri: str | None = None
    address: str | None = None
    offline: bool = False
    retry_failed: bool = False
    retry_collapsed: bool = False
    recipe: str | None = None
    keep_best: bool = False
    budget_hours: float | None = None
    budget_price: float | None = None
    price: float | None = None


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
        StorageFailed: the output folder is full, read-only or gone, or its bucket does not answer or has another driver now.
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
        taken_over = f"--output {shown(options.output)}: another driver has taken the study over"
        shipping = stack.enter_context(
            kept_in_bucket(options.output, say=console.say, end=lambda: interrupt_this_process(taken_over))
        )
        check_identity(study, options.output)
        if shipping is not None:
            keep_folder_id(options.output, shipping)
        status_file = StatusFile(options.output, timeline)
        stack.enter_context(status_file.running())
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
                keeper=shipping,
            )
        )
        storage = open_journal(options.output, check=None if shipping is None else shipping.check)
        check_nothing_lost(storage, options.output, known=tracker.trials)
        record_study(study, tracker)
        if options.retry_collapsed:
            for line in want_in_place_of_collapsed(study, recorded(study, tracker), storage):
                console.say(line)
        stack.enter_context(peak_memory.measure())
        estimate = estimate_of(study, options.output, address=options.address)
        spent = Spent(options.output, lambda: timeline.wall_s)
        stack.callback(spent.store)
        run = _Run(study, options, timeline, console, tracker, storage, estimate, status_file, spent, shipping)
        results, encoder_failures = run.finished_results(), dict[str, str]()
        if results is None:
            results, encoder_failures = run.search(stack)
        else:
            run.settle(results)
        run.clean()
        record_language_shares(study, options.output, tracker=tracker)
        measurements = run.benchmark(results)
        report, front = run.report()
        missing = run.left_out(results, failed=encoder_failures)
        run.summarise(peak_memory, report)
    document = {
        "study": study.name,
        "output": shown(options.output),
        "wall_s": round(timeline.wall_s, 1),
        "all_runs_s": round(spent.seconds, 1),
        "seconds": {name: round(value, 1) for name, value in timeline.seconds.items()},
        "peak_memory_mb": round(peak_memory.peak_mb),
        "peak_memory_by_phase_mb": {name: round(value) for name, value in peak_memory.by_phase.items()},
        "sizes": size_documents(study, options.output, results=results, measurements=measurements),
        "pareto": front,
        "report": str(report),
        **({"left_out": missing} if missing else {}),
    }
    failures = failure_lines(study, encoder_failures=encoder_failures, results=results, measurements=measurements)
    return RunResult(document, failures)


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
    status_file: StatusFile
    spent: Spent
    shipping: Shipping | None
    shown: dict[str, str] = dataclasses.field(default_factory=dict)  # the last line of its kind on the console

    @cached_property
    def cleaner(self) -> Cleaner:
        return Cleaner(self.options.output)

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
        if self.study.benchmark.cascade is not None:
            cascade = cascade_of(self.study, results, self.options.output)
            if not isinstance(cascade, str) and not cascade.measured:
                return None
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
        if (hours := self.options.budget_hours) is not None:
            spent = f"{self.spent.seconds / 3600:.1f} of them spent"
            self.console.say(f"budget: {hours:g} hours for all runs of the command, {spent}")
        with self.timeline.phase("start-up"):
            fitted = fitted_to_cluster(study, output, address=self.options.address, say=self.console.say)
            study, slots = stack.enter_context(fitted)
        self.estimate.on_cluster(study.sizes, slots.capacity, limits=slots.limits)
        with self.timeline.phase("reading data"):
            check_data(study, self.console.say)
        with self.timeline.phase("start-up"):
            progress_actor = ProgressActor.remote()  # type: ignore[attr-defined]
        status = StudyStatus(self.estimate, progress_actor, say=self.console.say)
        stack.enter_context(self.console.watch(self.status_file.seen(status.read)))
        with self.timeline.phase(activities(study)):
            failures = prepare_encoders(study, output, progress_actor=progress_actor, console=self.console)
        for name in failures:
            self.estimate.encoder_failed(name)
        searched = [size for size in study.sizes if size.name not in failures]
        if early_wanted(study):  # before any search, which would disturb it
            with self.timeline.phase(TIMING):
                for size in searched:
                    with self.spent.benchmark(size.name):
                        time_encoders(study, [size], output, tracker=self.tracker, console=self.console)
        first: dict[str, tuple[str, ...]] = {}
        if study.first_by is not None:
            from study.run.first_trials import first_choices  # imports estimators, and with them what trains

            with self.timeline.phase("order of first trials"):
                first = first_choices(
                    study, output, sizes=searched, progress_actor=progress_actor, console=self.console
                )
        searches = ParallelSearches(
            study,
            searched,
            output,
            self.storage,
            slots,
            self.tracker,
            self.console,
            ProgressReporter(progress_actor),
            on_search_end=self._search_ended,
            retry_failed=self.options.retry_failed,
            observer=self.estimate,
            after_trial=self._trial_ended,
            first=first,
            may_start=all_allow(self._budgets()),
            turns=self._turns if study.allocation == "front" else None,
        )
        with self.timeline.phase("search"):
            results = searches.run()
        for name, reason in failures.items():
            size = study.size(name)
            results[name], _ = load_result(study, size, storage=self.storage)
            self._settle(size, results[name], log=self._trial_log(size), failure=reason)
        return {size.name: results[size.name] for size in study.sizes}, failures

    def _turns(self, stores: Mapping[str, TrialStore]) -> Turns:
        """Trials go where the front can move; sizes stand by the latencies that are known, or else by their parameters."""
        sizes = [self.study.size(name) for name in stores]
        parameters = {
            size.name: encoder_parameters(self.study, size, output=self.options.output).body for size in sizes
        }
        return Turns(
            self.study,
            stores,
            positions=positions_of(early_latencies(self.study, self.options.output), parameters, sizes),
            seconds=self.estimate.trial_seconds,
            may_start=all_allow(self._budgets()),
        )

    def _budgets(self) -> list[Budget]:
        options = self.options
        return budgets_of(
            *(self.study, self.estimate, self.spent),
            hours=options.budget_hours,
            money=options.budget_price,
            price=options.price,
        )

    def left_out(self, results: Mapping[str, SearchResult], *, failed: Collection[str]) -> dict[str, int]:
        """The trials that the budget left out, by size, but for those whose encoder failed; says so."""
        missing = left_out(self.study, results, failed=failed) if self._budgets() else {}
        for name, count in missing.items():
            self.console.say(
                f"the budget left out {count} of {name}'s {self.study.budget(self.study.size(name))} trials; run the command "
                "again with a larger budget"
            )
        return missing

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

    def _trial_ended(self) -> None:
        """Raises nothing, as a sweep calls it."""
        self.spent.store()
        self.clean()
        if early_wanted(self.study):
            self._show_front()

    def _show_front(self) -> None:
        """Say how the front forms, if a trial has changed it."""
        try:
            line = front_line(front_so_far(self.study, self.options.output, storage=self.storage))
        except (OSError, TrialStoreBroken) as error:
            line = f"how the front forms cannot be shown: {error}"
        if self.shown.get("front") != line:
            self.shown["front"] = line
            self.console.say(line)

    def _search_ended(self, size: Size, result: SearchResult, log: TrialLog) -> None:
        self._settle(size, result, log=log)
        if result.ended is not None:
            self.console.say(f"{size.name}: the search ended before its budget was used: {result.ended}")
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
        """Remove models that nothing needs any more, if the run keeps the best only. Raises nothing, as a sweep calls it.

        The trials that say so are in the bucket before: a driver that takes over comes to the same conclusion.
        """
        if self.options.keep_best:
            ship = None if self.shipping is None else self.shipping.ship
            self.cleaner.clean(self.storage, say=self.console.say, before_removal=ship)

    def benchmark(self, results: dict[str, SearchResult]) -> dict[str, dict[str, MeasurementOutcome]]:
        """By size and variant, the measurement of the size's best model, or why there is none."""
        with self.timeline.phase(BENCHMARK):
            measured = {size.name: self._benchmark_size(size, results[size.name]) for size in self.study.sizes}
            if self.study.benchmark.cascade is not None:
                self._benchmark_cascade(results, measured)
            return measured

    @contextmanager
    def _benchmarking(self, name: str) -> Iterator[ToMeasure]:
        """The size, or the cascade, is benchmarked in this block: its time is spent, also if the process is killed in it."""
        with self.spent.benchmark(name), self.estimate.benchmark_of(name) as to_measure:

            def measured(repeats: int, scorings: int) -> None:
                to_measure(repeats, scorings)
                self.spent.store()

            yield measured

    def _benchmark_cascade(
        self, results: dict[str, SearchResult], measured: dict[str, dict[str, MeasurementOutcome]]
    ) -> None:
        """Add the cascade to the measurements of its larger model's size."""
        output, tracker, console = self.options.output, self.tracker, self.console
        with self._benchmarking(CASCADE) as to_measure:
            outcome = benchmark_cascade(
                self.study, results, output=output, tracker=tracker, console=console, to_measure=to_measure
            )
        if outcome is not None:
            measured[outcome[0]][CASCADE] = outcome[1]

    def _benchmark_size(self, size: Size, result: SearchResult) -> dict[str, MeasurementOutcome]:
        with self._benchmarking(size.name) as to_measure:
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
        for what, spent in (("phase", self.timeline.seconds), ("stage", seconds_by_stage_kind(self.options.output))):
            self.console.say(f"time by {what}: " + ", ".join(f"{name} {value:.0f} s" for name, value in spent.items()))
        wall_s, all_runs_s = self.timeline.wall_s, self.spent.seconds
        in_all = f" ({all_runs_s:.0f} s with earlier runs)" if all_runs_s - wall_s >= 1 else ""
        memory = f"peak memory {peak_memory.peak_mb / 1000:.1f} GB"
        self.console.say(f"wall time {wall_s:.0f} s{in_all}, {memory}; report: {report}")
