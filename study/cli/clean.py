"""`python -m study clean`: removes the weights of models that nothing needs any more."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from study.cli.options import FAILED, Folder, console, refuse

Yes = Annotated[bool, typer.Option("--yes", help="remove them; without it they are only listed", show_default=False)]


def clean(folder: Folder, yes: Yes = False) -> None:
    """Show which models nothing needs any more; --yes removes them.

    They are those of targets, but for the best trial of each size and its best
    one without an intermediate task. Scores and results by example stay.
    """
    from study.errors import CannotRun
    from study.run.cleaning import remove, superfluous
    from study.run.output_folder import locked
    from study.search.trial_store import JOURNAL, TrialStoreBroken, open_journal

    if not (folder / JOURNAL).is_file():
        refuse(f"{folder}: no {JOURNAL} in it; give the output folder of a run")
    try:
        with locked(folder):
            cleaning = superfluous(folder, open_journal(folder))
            freed = remove(folder, cleaning) if yes else 0
    except (CannotRun, TrialStoreBroken) as error:
        refuse(str(error))
    except OSError as error:
        print(f"error: {error.filename or folder}: {error.strerror or error}", file=sys.stderr)
        raise typer.Exit(FAILED) from error
    for stage in cleaning.stages:
        console.print(f"{stage.name}  {stage.bytes / 1e6:.1f} MB", markup=False)
    if cleaning.unknown:
        console.print(
            f"{cleaning.unknown} trials are left alone: an earlier version did not record which models they have. "
            "Run the study's command again, which records them"
        )
    count = len(cleaning.stages)
    if yes:
        console.print(f"{count} models removed, {freed / 1e6:.1f} MB freed")
    elif count:
        console.print(f"{count} models, {cleaning.bytes / 1e6:.1f} MB; --yes removes them")
    else:
        console.print("nothing to remove")
