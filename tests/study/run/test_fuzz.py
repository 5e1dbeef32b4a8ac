"""Damaged files of a finished study: every command gives its usual result, or one sentence, and never another result.

Each example damages one file of an output folder and runs one command in it. What would start Ray or a benchmark is replaced by
a refusal: damage must be found before. Drawing charts is left out; the tables behind them are compared.
"""

from __future__ import annotations

import io
import logging
import os
import random
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking._tracking_service import utils as mlflow_caches
from typer.testing import CliRunner

import analysis
from study.cli.app import app
from study.errors import CannotRun
from tests.support.commands import ROOT
from tests.support.damage import DAMAGES
from tests.support.fuzz import fuzzed, problem_of
from tests.support.kept_output import renew, unpack

EXAMPLES = 100
RECIPE = f"{ROOT / 'tests' / 'support' / 'recipes.py'}:tiny"
WOULD_START = "this test starts no Ray"
TABLES = ("sizes", "trials", "scores", "benchmarks", "speed_by_language")
# SQLite has no checksums, so a byte that changed inside a number of MLflow's database is not noticed.
NOT_NOTICED = {("mlflow.db", damage) for damage in ("flipped", "not UTF-8", "with another value", "a line lost")}
# A missing measurement is measured again without a word about the file: the run says what it measures.
MISSING = ("removed", "its folder removed", "a link to nowhere")

# A trial whose end is missing resumes, and finds its stages finished.
RESUMES = {("optuna.journal", "a line lost"), ("optuna.journal", "cut")}

COMMANDS: dict[str, Callable[[Path, Path], list[str]]] = {  # of the output folder and the damaged file
    "run": lambda output, file: ["run", RECIPE, "--output", str(output)],
    "report": lambda output, file: ["report", str(output)],
    "sync": lambda output, file: ["sync", str(output)],
    "sync --again": lambda output, file: ["sync", str(output), "--again"],
    "ui": lambda output, file: ["ui", str(output), "--port", "59999"],
    "bench": lambda output, file: ["bench", RECIPE, "--output", str(output)],
    "bench of a folder": lambda output, file: ["bench", str(_stage_of(output, file)), "--quick"],
}


def _stage_of(output: Path, file: Path) -> Path:
    parts = file.relative_to(output).parts
    return output.joinpath(*parts[:2]) if parts[0] == "stages" else file.parent


def kind_of(file: Path) -> str:
    """The file's path without what differs between stages, runs and variants of one kind."""
    return re.sub(r"@[0-9a-f]{12}|-[0-9a-f]{12}|[0-9a-f]{32}|1x\d\d|micro_\w+", "*", str(file))


@dataclass(frozen=True)
class Outcome:
    """The end of a command, and the study as its report and its document show it."""

    ran: Any
    said: str
    tables: dict[str, str] | None
    problems: dict[Any, str]

    @property
    def starts_ray(self) -> bool:
        return WOULD_START in self.said


@dataclass
class Finished:
    """A finished study, copies of it, and what commands say of the undamaged one."""

    origin: Path
    reported: list[analysis.StudyFrames]
    log: io.StringIO
    usual: dict[str, Outcome] = field(default_factory=dict)
    copies: int = 0

    def files(self) -> dict[str, list[Path]]:
        """The files by kind, without the report's exports, which nothing reads."""
        by_kind: dict[str, list[Path]] = {}
        for path in sorted(self.origin.rglob("*")):
            relative = path.relative_to(self.origin)
            if path.is_file() and "report_files" not in relative.parts:
                by_kind.setdefault(kind_of(relative), []).append(relative)
        return by_kind

    @contextmanager
    def copy(self, damaged: Path = Path()) -> Iterator[Path]:
        """A copy, whose weights are links unless they are the file that is damaged."""

        def link_or_copy(source: str, target: str) -> None:
            is_weights = source.endswith(".safetensors") and Path(source) != self.origin / damaged
            (os.link if is_weights else shutil.copyfile)(source, target)

        self.copies += 1  # MLflow remembers stores by their paths
        folder = self.origin.with_name(f"copy-{self.copies}")
        shutil.copytree(self.origin, folder, ignore=shutil.ignore_patterns("report_files"), copy_function=link_or_copy)
        try:
            yield folder
        finally:
            shutil.rmtree(folder)

    def invoke(self, command: str, output: Path, file: Path) -> Outcome:
        mlflow_caches._artifact_repos_cache.clear()  # where the files of a run are, by its id
        for engine in SqlAlchemyStore._engine_map.values():
            engine.dispose()
        SqlAlchemyStore._engine_map.clear()
        self.reported.clear()
        self.log.seek(0)
        self.log.truncate()
        ran = CliRunner().invoke(app, COMMANDS[command](output, output / file))
        said = ran.stderr + self.log.getvalue()
        if not self.reported:
            return Outcome(ran, said, None, {})
        frames = self.reported[-1]
        tables = {name: getattr(frames, name).to_csv(index=False) for name in TABLES}
        tables["gains"] = analysis.gains(frames).to_csv(index=False)
        return Outcome(ran, said, tables, {**frames.examples.problems})


@pytest.fixture(scope="module")
def finished() -> Iterator[Finished]:
    """In memory where that is possible: SQLite flushes every commit to the disk."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        output = unpack(Path(folder)).folder
        renew(output)
        reported: list[analysis.StudyFrames] = []
        log = io.StringIO()
        handler = logging.StreamHandler(log)
        logging.getLogger().addHandler(handler)
        _replace_boundaries(patch, reported)
        study = Finished(output, reported, log)
        assert study.invoke("run", output, output).ran.exit_code == 0  # completes what this version keeps
        (output / "claims").mkdir()
        (output / "claims" / "0123456789ab.lock").touch()
        for command in COMMANDS:
            with study.copy() as copy:
                study.usual[command] = study.invoke(command, copy, Path("stages/none/manifest.json"))
        yield study
        logging.getLogger().removeHandler(handler)


def _replace_boundaries(patch: pytest.MonkeyPatch, reported: list[analysis.StudyFrames]) -> None:
    @contextmanager
    def connected(*arguments: Any, **options: Any) -> Iterator[None]:
        raise CannotRun(WOULD_START)
        yield

    def write_report(frames: analysis.StudyFrames, path: Path, **options: Any) -> Path:
        reported.append(frames)
        path.write_text("a report", encoding="utf-8")
        return path

    def serve(*arguments: Any) -> NoReturn:
        raise typer.Exit(0)

    patch.setattr("study.run.cluster.connected", connected)
    patch.setattr("study.cluster.connection.connected", connected)
    patch.setattr("study.benchmarking.fresh.measure_fresh", lambda *arguments, **options: {})
    patch.setattr("analysis.write_report", write_report, raising=False)
    patch.setattr("os.execv", serve)
    patch.setenv("MLFLOW_TRACKING_URI", "")


def problem_with(study: Finished, outcome: Outcome, command: str, file: Path, damage: str) -> str | None:
    """What is wrong with a command's end in a damaged folder."""
    usual = study.usual[command]
    if problem := problem_of(outcome.ran, outcome.said):
        return problem
    expected = damage in MISSING or (file.name, damage) in RESUMES
    if command == "run" and outcome.starts_ray and not expected and not _is_named(file, outcome.said):
        return f"would start Ray without naming the file: {outcome.said}"
    if outcome.ran.exit_code or (file.name, damage) in NOT_NOTICED or usual.tables is None or outcome.tables is None:
        return None
    differing = {name for name, table in outcome.tables.items() if table != usual.tables[name]}
    if file.parts[0] == "artifacts" and file.name == "examples.parquet":
        differing -= {"gains"}  # intervals need the scores by example; the report says which are missing
    return f"another result, without a word: {sorted(differing)}, {outcome.said[-500:]}" if differing else None


def _is_named(file: Path, said: str) -> bool:
    """By its own name, or by that of the stage, run or variant whose folder it is in: "stages" says nothing."""
    return any(name in said for name in (file.name, *file.parts[1:2]))


def check(study: Finished, file: Path, damage: str, command: str, rng: random.Random) -> None:
    if damage.startswith("its folder") and file.parent == Path():
        return
    with study.copy(file) as copy:
        DAMAGES[damage](copy / file, rng)
        outcome = study.invoke(command, copy, file)
    problem = problem_with(study, outcome, command, file, damage)
    assert problem is None, f"{command} with {file} {damage}: {problem}"


@pytest.mark.parametrize(
    ("kind", "damage", "command"),
    [
        ("study.id", "not UTF-8", "sync"),
        ("study.json", "of another shape", "run"),
        ("optuna.journal", "flipped", "run"),
        ("outbox/journal.jsonl", "flipped", "sync"),
        ("outbox/journal.jsonl", "with another value", "sync"),
        ("outbox/receipt*.json", "emptied", "sync"),
        ("benchmarks/*-fp32*.json", "flipped", "run"),
        ("benchmarks/*-fp32*/context.json", "a folder", "run"),
        ("benchmarks/*-fp32*.json", "its folder a file", "run"),
        ("artifacts/*/artifacts/report.html", "a link to itself", "run"),
        ("stages/evaluate-*-**/manifest.json", "with another value", "bench of a folder"),
        ("mlflow.db", "cut", "report"),
        (".lock", "a folder", "run"),
    ],
)
def test_damage_is_one_sentence(kind: str, damage: str, command: str, finished: Finished) -> None:
    check(finished, finished.files()[kind][0], damage, command, random.Random(0))


@pytest.mark.slow
def test_random_damage_gives_the_usual_result_or_one_sentence(finished: Finished) -> None:
    by_kind = finished.files()
    kinds, damages, commands = sorted(by_kind), sorted(DAMAGES), sorted(COMMANDS)
    assert len(kinds) > 20

    @fuzzed(EXAMPLES)
    @given(st.sampled_from(kinds), st.sampled_from(damages), st.sampled_from(commands), st.integers(0, 2**32))
    def check_one(kind: str, damage: str, command: str, state: int) -> None:
        rng = random.Random(state)
        check(finished, rng.choice(by_kind[kind]), damage, command, rng)

    check_one()
