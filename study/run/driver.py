"""Runs a study: pre-training, a search for each size, benchmarks of the best models, the report. Everything resumes."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from mlflow.exceptions import MlflowException
from optuna.storages import JournalStorage

import analysis
from study.benchmarking.placement import place_of
from study.benchmarking.run import FAILED, benchmark_size, kept_measurement
from study.cluster.connection import CannotRun, connected, cores_of, room_on, trials_at_once
from study.cluster.progress_actor import ON_HEAD, Board, Poster
from study.console import Screen, Timeline
from study.errors import StorageFailed, causes_of, reason_of, storage_problem
from study.planning.estimate import parameters
from study.run.output_folder import locked
from study.run.peak_memory import Footprint
from study.run.report import attach_report
from study.search.callback import TrialLog, target_table, trial_table
from study.search.parallel import Searches
from study.search.slots import Room
from study.search.sweep import load_result
from study.search.trial_store import SearchResult, check_whole, open_journal
from study.spec import Size, Study
from study.spec.data_check import check_data, marks_of, tasks_of
from study.spec.precision import explained
from study.tracking.tracker import Tracking, default_uri
from trainables.benchmark.probes.hardware import describe_hardware
from trainables.heads import KINDS
from trainables.launch.job import Job, run_task
from trainables.models.encoder import ParameterCount
from trainables.stages.pretrain import Pretrain
from trainables.store.fingerprint import canonical
from trainables.store.locks import one_node_problem
from trainables.store.manifests import MANIFEST
from trainables.store.stage_store import StageStore
from trainables.store.versions import versions


@dataclass(frozen=True)
class Where:
    """Where a study runs and keeps its results; never part of its identity."""

    output: Path
    tracking_uri: str | None = None
    address: str | None = None
    offline: bool = False


@dataclass(frozen=True)
class Outcome:
    """What `run` prints as its last line, and which pre-trainings, trials and benchmarks failed."""

    document: dict[str, Any]
    failed: tuple[str, ...]


def run_study(study: Study, where: Where, *, retry_failed: bool = False) -> Outcome:
    """Run the study, or go on with it; `retry_failed` tries failed trials of earlier runs again, but for those that diverged.

    Raises:
        CannotRun: the output folder is not usable, holds another study or is in use; or the cluster is too small.
        DataError: some data set breaks a rule of its form.
        TrackingUnavailable: the MLflow store does not answer, or what is kept for it cannot be read.
        LedgerBroken: the journal of an earlier run's searches cannot be read, or lacks trials that MLflow was told of.
        StorageFailed: the output folder is full, read-only or gone.
    """
    if study.open_ends:
        raise CannotRun("\nerror: ".join(f"not noted when the study was made: {what}" for what in study.open_ends))
    timeline, footprint = Timeline(), Footprint()
    screen = Screen(timeline)
    with ExitStack() as stack:
        stack.enter_context(_output_of(study, where.output))
        uri = where.tracking_uri or default_uri(where.output)
        tracking = Tracking(uri, study.name, where.output, offline=where.offline, say=screen.say)
        stack.enter_context(tracking)
        storage = open_journal(where.output)
        check_whole(storage, where.output, tracking.trials)
        _describe(study, tracking)
        stack.enter_context(footprint.measure())
        results = _finished(study, where.output, storage, retry_failed=retry_failed)
        searched, lost = results is None, dict[str, str]()
        if results is not None:
            screen.say("everything is finished: nothing to train or measure")
        else:
            screen.say(f"training precision: {explained(study)}")
            with timeline.phase("start-up"):
                stack.enter_context(
                    connected(where.address, cpus=max(cores_of(size.resources) for size in study.sizes))
                )
                if problem := one_node_problem(where.output):
                    screen.say(f"{problem}: locks may hold on one node alone; on several, two could train one stage")
                room = Room(room_on(study.sizes, where.address, screen.say), trials_at_once(study.sizes))
                if study.benchmark.variants:
                    place_of(study.benchmark)  # or the study is refused now, and not after its searches
            with timeline.phase("reading data"):
                check_data(study, screen.say)
            with timeline.phase("start-up"):
                board = Board.remote()  # type: ignore[attr-defined]
            with screen.watch(board):
                with timeline.phase("pre-training"):
                    lost = _pretrain(study, where.output, board, screen)
                results = {size.name: load_result(study, size, storage)[0] for size in study.sizes if size.name in lost}
                with timeline.phase("search"):
                    results |= Searches(
                        study,
                        [size for size in study.sizes if size.name not in lost],
                        where.output,
                        storage,
                        room,
                        tracking,
                        screen,
                        Poster(board),
                        settled=partial(_search_ended, study, where.output),
                        retry_failed=retry_failed,
                    ).run()
        for size in study.sizes:
            if size.name in lost or not searched:
                log = TrialLog(study, size, tracking, screen)
                _settle(study, size, results[size.name], where.output, log, lost=lost.get(size.name))
        _describe_pretraining(study, where.output, tracking)
        benches: dict[str, dict[str, dict[str, Any] | str]] = {}
        for size in study.sizes:
            with timeline.phase("benchmark"):
                benches[size.name] = benchmark_size(study, size, results[size.name], where.output, tracking, screen)
        with timeline.phase("report"):
            report, front = _report(study, tracking, where.output, offline=where.offline, screen=screen)
        screen.say("where the time went: " + ", ".join(f"{name} {s:.0f} s" for name, s in timeline.seconds.items()))
        screen.say(f"stages: {_stage_seconds(where.output)}")
        screen.say(f"wall {timeline.wall_s:.0f} s, peak memory {footprint.peak_mb / 1000:.1f} GB; report: {report}")
    document = {
        "study": study.name,
        "output": str(where.output),
        "wall_s": round(timeline.wall_s, 1),
        "seconds": {name: round(value, 1) for name, value in timeline.seconds.items()},
        "peak_memory_mb": round(footprint.peak_mb),
        "sizes": [
            _size_document(size, _parameters(study, size, where.output), results[size.name], benches[size.name])
            for size in study.sizes
        ],
        "pareto": front,
        "report": str(report),
    }
    failed = [
        f"{name} {trial.trial_id} ({trial.choice.intermediate}): {trial.reason}"
        for name, result in results.items()
        for trial in result.failures
    ]
    broken = [
        f"{name} benchmark of {variant}: {one.removeprefix(FAILED)}"
        for name, bench in benches.items()
        for variant, one in bench.items()
        if isinstance(one, str) and one.startswith(FAILED)
    ]
    return Outcome(document, (*(f"{name} pre-training: {why}" for name, why in lost.items()), *failed, *broken))


@contextmanager
def _output_of(study: Study, output: Path) -> Iterator[None]:
    """The output folder, locked for this process and marked with the study it holds."""
    with locked(output):
        _check_identity(study, output / "study.json")
        for folder in output.glob("stages/.unfinished-*"):
            shutil.rmtree(folder)
        for left in output.glob("checkpoints/*"):  # of stages that were finished and whose checkpoints were not removed
            if (output / "stages" / left.name / MANIFEST).exists():
                shutil.rmtree(left)
        yield


def _check_identity(study: Study, path: Path) -> None:
    """Resources, repeats and benchmark may change between runs of a folder, and sizes may come and go; what each is may not."""
    identity = canonical(dataclasses.replace(study, benchmark=type(study.benchmark)()))
    for field in ("sizes", "trials", "repeats", "benchmark"):
        del identity[field]
    sizes = {
        size.name: {
            "encoder": canonical(size.encoder),
            "rate_factor": size.rate_factor,
            "trials": study.budget(size),
        }
        for size in study.sizes
    }
    if path.exists():
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            held_sizes = held.pop("sizes")
        except (ValueError, KeyError) as error:
            raise CannotRun(
                f"{path} is damaged ({error}), so what study the folder holds is not known. If it is this one, remove the file"
            ) from error
        changed = sorted(name for name in {*held, *identity} if held.get(name) != identity.get(name))
        for name in sizes.keys() & held_sizes.keys():
            differing = [key for key, value in sizes[name].items() if held_sizes[name].get(key) != value]
            changed += [f"{key} of size {name}" for key in differing]
        if changed:
            way_out = _precision_hint(study, held) or "choose another folder"
            raise CannotRun(f"--output {path.parent}: holds another study (different {', '.join(changed)}); {way_out}")
        sizes = held_sizes | sizes
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({**identity, "sizes": sizes}, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def _precision_hint(study: Study, held: Mapping[str, Any]) -> str | None:
    """What to do where the study that a folder holds was begun on a CPU with other instructions."""
    there = held.get("tuning", {}).get("precision")
    if there == study.tuning.precision:
        return None
    return (
        f"it was begun in {there}, and here its training precision is {explained(study)}: go on where that is {there} too, or "
        "choose another folder"
    )


def _finished(
    study: Study, output: Path, storage: JournalStorage, *, retry_failed: bool
) -> dict[str, SearchResult] | None:
    """The results, if every search has ended and every benchmark of its best model is kept: then no Ray is started."""
    results = {}
    for size in study.sizes:
        result, done = load_result(study, size, storage)
        if not done or (retry_failed and any(not trial.diverged for trial in result.failures)):
            return None
        if result.best is not None and any(
            kept_measurement(study, size, result.best, name, output) is None for name in study.benchmark.variants
        ):
            return None
        results[size.name] = result
    return results


def _pretrain(study: Study, output: Path, board: Any, screen: Screen) -> dict[str, str]:
    """Pre-train or import what the trials of each size share: inline ones side by side, then groups one after the other.

    Returns by size why that failed; such a size has nothing to search with, and costs the others nothing.
    """
    lost: dict[str, str] = {}
    store = StageStore(output)
    wanted = [size for size in study.sizes if store.find(study.pretrain(size)) is None]
    inline = [size for size in wanted if study.root_resources(size).inline]
    groups = [size for size in wanted if not study.root_resources(size).inline]
    for batch in ([inline] if inline else []) + [[size] for size in groups]:
        running = {}
        for size in batch:
            resources = study.root_resources(size)
            job = Job(str(output.resolve()), resources, stages=(study.pretrain(size),), size=size.name)
            needs = {"num_cpus": resources.cpus} if resources.inline else {"num_cpus": 0, "resources": ON_HEAD}
            running[size.name] = run_task.options(**needs).remote(job, f"pretrain-{size.name}", Poster(board))
        screen.say(f"pre-training {', '.join(running)}")
        for name, task in running.items():
            try:
                ray.get(task)
            except ray.exceptions.RayError as error:
                if (problem := storage_problem(error, output)) is not None:
                    raise StorageFailed(problem, output) from error
                lost[name] = reason_of(causes_of(error)[-1])
                screen.say(f"pre-training {name} failed, and the size is left out: {lost[name]}")
    return lost


def _search_ended(study: Study, output: Path, size: Size, result: SearchResult, log: TrialLog) -> None:
    """Bring MLflow up to the result and show it."""
    _settle(study, size, result, output, log)
    log.screen.show(trial_table(result))
    if result.best is not None:
        log.screen.show(target_table(study, size, result.best))


def _settle(
    study: Study, size: Size, result: SearchResult, output: Path, log: TrialLog, *, lost: str | None = None
) -> None:
    log.settle(result)
    _settle_size(study, size, result, output, log.tracking, lost=lost)


def _settle_size(
    study: Study, size: Size, result: SearchResult, output: Path, tracking: Tracking, *, lost: str | None
) -> None:
    """Note a size's counts and best trial; `lost` is why it could not be searched in this run."""
    run, count = tracking.size(size.name), _parameters(study, size, output)
    if lost is not None or tracking.tag(run, "reason"):
        tracking.tags(run, {"reason": lost or ""})
    tracking.metrics(
        run,
        {
            "params_m": count.total / 1e6,
            "params_body_m": count.body / 1e6,
            "trials": len(result.trials),
            "pruned": result.count("stopped_early"),
            "failed": result.count("failed"),
        },
    )
    if result.best is not None:
        tracking.tags(run, {"best_trial": result.best.trial_id})
    tracking.finish(run)


def _describe(study: Study, tracking: Tracking) -> None:
    tracking.describe(
        {
            "study.command": " ".join(["python -m study", *sys.argv[1:]]),
            "study.versions": versions(),
            "study.hardware": describe_hardware(),
            "study.precision": study.tuning.precision,
            "study.seed": study.seed,
            "study.targets": [task.name for task in study.targets],
            "study.intermediates": list(study.space.names),
            "study.selection": "English dev",
            "study.marks": marks_of(study),
            "study.languages": {task.name: list(task.languages) for task in study.targets},
            "study.protocols": {
                task.name: protocol for task in study.targets if (protocol := KINDS[task.kind].protocol(task))
            },
            "study.data": {task.name: task.revision for task in tasks_of(study)},
        }
    )


def _describe_pretraining(study: Study, output: Path, tracking: Tracking) -> None:
    """Note each language's part of the text that the ladder was pre-trained on; of published encoders it is not known here."""
    store = StageStore(output)
    shares: dict[str, dict[str, float]] = {}
    for size in study.sizes:
        root = study.pretrain(size)
        made = store.find(root.tokenizer) if isinstance(root, Pretrain) else None
        characters = {} if made is None else made.metrics.get("characters", {})
        whole = sum(characters.values())
        shares |= {size.name: {name: count / whole for name, count in characters.items()}} if whole else {}
    if shares:
        tracking.describe({"study.pretraining": shares})


def _report(
    study: Study, tracking: Tracking, output: Path, *, offline: bool, screen: Screen
) -> tuple[Path, list[dict[str, Any]]]:
    """Write the report and attach it to the experiment, where MLflow answers; also its front of score against latency."""
    frames = tracking.read(lambda uri: analysis.load(uri, study.name))
    report = analysis.write_report(frames, output / "report.html")
    if not offline:
        try:
            attach_report(tracking.uri, study.name, report)
        except (MlflowException, OSError) as error:
            screen.say(f"the report is not attached to the MLflow experiment: {error}")
    front: list[dict[str, Any]] = json.loads(analysis.front(frames).to_json(orient="records"))
    return report, front


def _parameters(study: Study, size: Size, output: Path) -> ParameterCount:
    """As counted when the encoder was made or imported."""
    made = StageStore(output).find(study.pretrain(size))
    if made is None:
        return parameters(study, size)
    return ParameterCount(made.metrics["parameters"], made.metrics["parameters_body"])


def _size_document(
    size: Size, count: ParameterCount, result: SearchResult, bench: Mapping[str, dict[str, Any] | str]
) -> dict[str, Any]:
    best = result.best
    return {
        "name": size.name,
        "params_m": round(count.total / 1e6, 3),
        "params_body_m": round(count.body / 1e6, 3),
        "trials": len(result.trials),
        "pruned": result.count("stopped_early"),
        "failed": result.count("failed"),
        "best": best
        and {
            **dataclasses.asdict(best.choice),
            "dev_score": round(best.dev_score or 0.0, 2),
            "test_score": round(best.metrics["test_score"], 2),
        },
        "bench": [
            {
                key: one.get(key)
                for key in (
                    *("variant", "p50_ms", "p90_ms", "throughput_sps", "peak_memory_mb"),
                    *("test_score", "test_score_without_english"),
                )
            }
            for one in bench.values()
            if not isinstance(one, str)
        ],
        "bench_unavailable": {variant: one for variant, one in bench.items() if isinstance(one, str)},
    }


def _stage_seconds(output: Path) -> str:
    """Seconds of stages by sort, summed over the workers that ran at the same time, from their manifests."""
    seconds: dict[str, float] = {}
    for path in output.glob("stages/*/manifest.json"):
        sort = path.parent.name.split("-")[0]
        seconds[sort] = seconds.get(sort, 0.0) + json.loads(path.read_text(encoding="utf-8"))["context"]["seconds"]
    return ", ".join(f"{sort} {value:.0f} s" for sort, value in sorted(seconds.items(), key=lambda item: -item[1]))
