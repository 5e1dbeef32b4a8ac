"""Odd values of every option and argument of every command: success, or one sentence and exit code 1 or 2.

The commands are found in the application, so a new command or option is tested without a change here. What would take long or
leave this machine is replaced at its boundary: Ray's start, requests, benchmarks, MLflow's server, the drawing of charts.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from study.cli.app import app
from study.errors import CannotRun
from tests.support.commands import ROOT
from tests.support.fuzz import fuzzed, keep_inside, problem_of, watched_writes
from tests.support.studies import Planted, plant
from trainables.data.source import DATA_ROOT_VARIABLE

EXAMPLES = 150  # of random values for one to three options
SMALL = Planted(
    sizes={"2x128": 0.4}, targets={"xnli": 55.0}, gains={"topic": {"xnli": 2.0}}, seeds=1, sampled=0, examples=20
)
RECIPE = f"{ROOT / 'tests' / 'support' / 'recipes.py'}:inline"
TEXTS = [
    "",
    " ",
    "\t",
    "None",
    "x" * 10_000,
    "a" * 300,
    "a/" * 300,
    "a\nb",
    "a\rb",
    "a\x00b",
    "\x1b[31mred",
    "\udcff",
    "\ud800",
]
TEXTS += ["é漢😀", "\u202e", "\ufeff", "[bold]x[/bold]", "[/]", "%s%n", "{}", "'", "-", "--", "a b", "a,b", ",", ",,"]
NUMBERS = [
    "0",
    "-1",
    "1",
    "2",
    "5",
    "7.5",
    "1e3",
    "1e999",
    "-1e999",
    "nan",
    "inf",
    "-inf",
    "0x10",
    "1_0",
    "٣",
    "9" * 20,
    "9" * 5000,
]
PATHS = [
    ".",
    "..",
    "../x",
    "../../x",
    "~",
    "/proc/nothing",
    "a?b",
    "a#b",
    "a%20b",
    "a:b",
    ":",
    "::",
    ":x",
    "x:",
    "x.py:y",
]
URIS = ["://", "a://", "http://", "http://[", "http://127.0.0.1:1/a?b=%zz#c", "http://a b", "http://127.0.0.1:99999999"]
URIS += [
    "https://127.0.0.1:1",
    "http://me:secret@127.0.0.1:1",
    "file:///no/such",
    "file://host/x?y=%41",
    "postgresql://127.0.0.1:1/x",
]
URIS += [
    "sqlite://",
    "sqlite:///",
    "sqlite:///x.db?mode=%s",
    "mysql://x",
    "databricks",
    "ray://127.0.0.1:1",
    "auto",
    "local",
]
NAMES = [
    "p50_ms<=15",
    "p50_ms<=",
    "<=",
    "p50_ms<=nan",
    "p50_ms<=1e999",
    "speed<=1",
    "fp32",
    "int8",
    "cpu",
    "cuda",
    "SingleStream",
]
NAMES += ["micro_entailment", "1x32", "planted", "planted#x", "#", "#planted"]
# What no text or path may be, refused while the command line is read; of a number, whatever is none.
REFUSED = ["", " ", "x" * 10_000, "a\nb", "a\x00b", "\udcff"]


@dataclass(frozen=True)
class Place:
    """The folder of a test, and the paths in it that values may name."""

    root: Path
    current: Path

    @property
    def study(self) -> Path:
        return self.root / "study"

    def paths(self) -> list[str]:
        names = (
            "study",
            "file",
            "folder",
            "broken.db",
            "recipe.py",
            "missing",
            "link",
            "loop",
            "closed",
            "closed/x",
            "file/x",
        )
        paths = [str(self.root / name) for name in names]
        extra = [f"{self.root / 'recipe.py'}:{name}" for name in ("study", "number", "fails", "exits", "absent", "")]
        uris = [
            f"sqlite:///{self.root / name}"
            for name in ("study/mlflow.db", "broken.db", "folder", "new.db", "missing/x.db")
        ]
        uris += [
            f"sqlite:///{self.study / 'mlflow.db'}?x=%41",
            f"file://{self.root / 'folder'}",
            f"{self.study}#planted",
        ]
        return [*paths, *extra, *uris, f"{self.study}#other"]


def fill(place: Place) -> None:
    place.study.mkdir()
    plant(place.study, SMALL)
    (place.root / "file").write_text("text")
    (place.root / "folder").mkdir()
    (place.root / "broken.db").write_bytes(b"SQLite format 3\x00" + bytes(500))
    (place.root / "link").symlink_to(place.root / "nowhere")
    (place.root / "loop").symlink_to(place.root / "loop")
    (place.root / "closed").mkdir(mode=0)
    (place.root / "recipe.py").write_text(
        "import sys\nnumber = 3\nstudy = lambda: 3\nexits = lambda: sys.exit(3)\ndef fails():\n    raise KeyError('\\n')\n"
    )


def usual(metavar: str | None, place: Place) -> str:
    """A value that a required argument accepts. An argument of a new kind needs one here."""
    known = {
        "RECIPE": RECIPE,
        "RECIPE_OR_CHECKPOINT": RECIPE,
        "DIR": str(place.study),
        **dict.fromkeys(("DIR_OR_URI", "A", "B"), str(place.study)),
        **dict.fromkeys(("BUNDLE.zip", "BUNDLE.zip..."), str(place.root / "bundle.zip")),
    }
    return known[str(metavar)]


COMMANDS: dict[str, Any] = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Parameter:
    command: str
    name: str
    is_flag: bool

    def __str__(self) -> str:
        return f"{self.command} {self.name}"


PARAMETERS = [
    Parameter(command, parameter.opts[0], bool(getattr(parameter, "is_flag", False)))
    for command, found in COMMANDS.items()
    for parameter in found.params
]


def command_line(command: str, given_values: dict[str, str | None], place: Place) -> list[str]:
    """The command with these values of its options and arguments, None for a flag, and usual ones of what it needs besides."""
    words = [command]
    for parameter in COMMANDS[command].params:
        name = parameter.opts[0]
        if parameter.param_type_name == "argument":
            if name in given_values:
                words.append(str(given_values[name]))
            elif parameter.required or (command == "submit" and not given_values.keys() & {"--status", "--stop"}):
                words.append(usual(parameter.metavar, place))
        elif name in given_values:
            value = given_values[name]
            words += [name] if value is None else [f"{name}={value}"]
    if command in ("run", "rank", "submit", "bench") and "--output" not in given_values:
        words += ["--output", str(place.root / "output")]
    if command == "run" and "--tracking-uri" not in given_values:
        words.append("--offline")
    return words


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        place = Place(root, keep_inside(root, patch))
        fill(place)
        patch.setenv(DATA_ROOT_VARIABLE, "")  # a command may set it: restored after the tests
        patch.setenv("MLFLOW_TRACKING_URI", "")
        _replace_boundaries(patch)
        yield place
    (root / "closed").chmod(0o700)


def _replace_boundaries(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_ray(**options: Any) -> NoReturn:
        raise ConnectionError("no Ray in this test")

    def no_network(*arguments: Any, **options: Any) -> NoReturn:
        raise socket.gaierror("no network in this test")

    def replaced(*arguments: Any) -> NoReturn:
        raise typer.Exit(0)

    monkeypatch.setattr("ray.init", no_ray)
    monkeypatch.setattr("socket.getaddrinfo", no_network)

    def no_training(*arguments: Any) -> NoReturn:
        raise CannotRun("no training in this test")

    def ended(code: int) -> NoReturn:
        raise AssertionError(f"the process was ended with {code}")

    monkeypatch.setattr("os.execv", replaced)
    monkeypatch.setattr("webbrowser.open", lambda url: True)
    monkeypatch.setattr("study.watch.server.serve", lambda server, **more: server.server_close())
    monkeypatch.setattr("study.watch.child.watched", lambda folder, port: nullcontext("http://127.0.0.1:1/"))
    monkeypatch.setattr("study.run.ranking.ensure", no_training)
    monkeypatch.setattr("os._exit", ended)
    monkeypatch.setattr("study.benchmarking.fresh.measure_fresh", lambda *arguments, **options: {})
    monkeypatch.setattr("analysis.report.exports.vlc.vegalite_to_svg", lambda text: "<svg/>")
    monkeypatch.setattr("analysis.report.exports.vlc.vegalite_to_png", lambda text, scale: b"")


def check(words: list[str], place: Place) -> Result:
    """Run the command line, check its end and what it wrote, and put everything back."""
    with watched_writes() as writes:
        ran = CliRunner().invoke(app, words)
    problem = problem_of(ran)
    assert problem is None, f"{words}: {problem}"
    assert not writes.outside(place.root), f"{words} wrote {writes.outside(place.root)}"
    shutil.rmtree(place.root / "output", ignore_errors=True)
    os.environ[DATA_ROOT_VARIABLE] = ""
    return ran


def values(place: Place, parameter: Parameter) -> st.SearchStrategy[str | None]:
    if parameter.is_flag:
        return st.none()
    known = [*TEXTS, *NUMBERS, *PATHS, *URIS, *NAMES, *place.paths()]
    return st.one_of(st.sampled_from(known), st.sampled_from(known), st.text(max_size=20))


@pytest.mark.parametrize("parameter", [one for one in PARAMETERS if not one.is_flag], ids=str)
def test_what_no_text_may_be_is_refused(parameter: Parameter, place: Place) -> None:
    for value in REFUSED:
        ran = check(command_line(parameter.command, {parameter.name: value}, place), place)
        assert ran.exit_code == 2, f"{parameter} takes {value[:20]!r}"


@pytest.mark.slow
def test_odd_values_are_taken_or_refused_in_a_sentence(place: Place) -> None:
    by_command = {name: [one for one in PARAMETERS if one.command == name] for name in COMMANDS}

    @fuzzed(EXAMPLES)
    @given(st.sampled_from(PARAMETERS), st.integers(0, 2), st.data())
    def check_one(first: Parameter, others: int, data: st.DataObject) -> None:
        more = data.draw(st.lists(st.sampled_from(by_command[first.command]), max_size=others))
        given_values = {one.name: data.draw(values(place, one)) for one in (first, *more)}
        check(command_line(first.command, given_values, place), place)

    check_one()
