"""The command line application: `python -m study`, and the console script `xstilts`."""

from __future__ import annotations

from collections.abc import Callable

import typer

from study.cli.bench import bench
from study.cli.clean import clean
from study.cli.doctor import doctor
from study.cli.evidence.export import export
from study.cli.evidence.merge import merge
from study.cli.evidence.verify import verify
from study.cli.plan import plan
from study.cli.rank import rank
from study.cli.results.compare import compare
from study.cli.results.report import report
from study.cli.results.sync import sync
from study.cli.results.ui import ui
from study.cli.results.watch import watch
from study.cli.run import run
from study.cli.submit import submit
from study.cli.tasks import tasks

HELP = "Cross-lingual transfer against inference speed: plan, run and report studies."

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)

COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {  # by panel of the help
    "Studies": (run, submit, plan, rank, clean),
    "Results": (watch, report, compare, sync, ui),
    "Evidence": (export, verify, merge),
    "Serving speed": (bench,),
    "Data and machine": (tasks, doctor),
}
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)


def main() -> None:
    """Entry point of the console script."""
    app()
