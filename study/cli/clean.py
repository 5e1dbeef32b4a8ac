"""`python -m study clean`: removes the weights of models that nothing needs any more."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from study.cli.options import FAILED, BucketOrFolder, console, read_bucket, refuse

Yes = Annotated[bool, typer.Option("--yes", help="remove them; without it they are only listed", show_default=False)]


def clean(folder: BucketOrFolder, yes: Yes = False) -> None:
    """Show which models are no longer needed; --yes removes them.

    These are the models of targets, except those of each size's best trial
    and of its best trial without an intermediate task. Scores and results by
    example stay.
    """
    from study.errors import CannotRun
    from study.search.journal import JOURNAL, TrialStoreBroken
    from trainables.store.bucket.location import shown

    read_bucket(folder, "DIR")
    if not (folder / JOURNAL).is_file():
        refuse(f"{shown(folder)}: no {JOURNAL} in it; give the output folder of a run")
    try:
        count, size, unknown = _clean(folder, yes=yes)
    except (CannotRun, TrialStoreBroken) as error:
        refuse(str(error))
    except OSError as error:
        print(f"error: {error.filename or folder}: {error.strerror or error}", file=sys.stderr)
        raise typer.Exit(FAILED) from error
    if unknown:
        console.print(
            f"{unknown} trials are left alone: an earlier version did not record which models they have. "
            "Run the study's command again, which records them"
        )
    if yes:
        console.print(f"{count} models removed, {size / 1e6:.1f} MB freed")
    elif count:
        console.print(f"{count} models, {size / 1e6:.1f} MB; --yes removes them")
    else:
        console.print("nothing to remove")


def _clean(folder: Path, *, yes: bool) -> tuple[int, int, int]:
    """Show, and if `yes` remove the models: how many, their bytes or those freed, and trials whose models are unknown.

    The folder is used as by a run, and one in a bucket excludes a run on any machine while models are removed: what says that
    a model is superfluous is in the bucket before the model goes. Showing them changes nothing there.
    """
    from study.run.bucket.driving import kept_in_bucket
    from study.run.bucket.reading import refresh
    from study.run.cleaning import Cleaner
    from study.run.output_folder import locked
    from study.search.journal import open_journal

    if not yes:
        refresh(folder)
    with locked(folder), kept_in_bucket(folder) if yes else nullcontext() as shipping:
        cleaner = Cleaner(folder)
        cleaning = cleaner.superfluous(open_journal(folder))
        for stage in cleaning.stages:
            console.print(f"{stage.name}  {stage.bytes / 1e6:.1f} MB", markup=False)
        if yes and shipping is not None:
            shipping.ship()
        size = cleaner.remove(cleaning) if yes else cleaning.bytes
    return len(cleaning.stages), size, cleaning.unknown
