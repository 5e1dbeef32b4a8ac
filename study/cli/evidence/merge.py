"""`python -m study merge`: joins the bundles of several runs of a study."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from study.cli.options import console, refuse, to_path

Bundles = Annotated[
    list[Path], typer.Argument(metavar="BUNDLE.zip...", help="bundles of runs of one study", parser=to_path)
]
Output = Annotated[Path, typer.Option(metavar="BUNDLE.zip", help="bundle to write", parser=to_path)]


def merge(bundles: Bundles, output: Output) -> None:
    """Merge bundles of one study: other seeds, other sizes, other machines.

    The first bundle's trials count as they are; those of a further seed
    repeat them. `verify` and `report` read the merged bundle.
    """
    from study.evidence.bundle import SUFFIX
    from study.evidence.merge import merge as write

    if output.suffix != SUFFIX:
        refuse(f"--output {output}: give a name that ends in {SUFFIX}")
    try:
        merged = write(bundles, output)
    except ValueError as error:
        refuse(str(error))
    except OSError as error:
        refuse(f"{error.filename or output}: {error.strerror or error}")
    for difference in merged.differing:
        console.print(f"evaluated differently: {difference}", markup=False)
    console.print(f"{output}: {merged.runs} runs", markup=False)
    console.print(f"sha256 {merged.sha256}")
