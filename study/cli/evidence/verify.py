"""`python -m study verify`: finds the faults of a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from study.cli.options import FAILED, console, refuse, to_path

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE.zip", help="a file that export or merge wrote", parser=to_path)]


def verify(bundle: Bundle) -> None:
    """Check a bundle: digests, scores from predictions, tables and report.

    Needs no model and no data. Prints a line for each fault.
    """
    from study.evidence.verify import verify as check

    try:
        verified = check(bundle)
    except OSError as error:
        refuse(f"{bundle}: {error.strerror or error}")
    for fault in verified.faults:
        console.print(fault, markup=False)
    for remark in verified.remarks:
        console.print(remark, markup=False)
    console.print(verified.summary)
    if verified.faults:
        raise typer.Exit(FAILED)
