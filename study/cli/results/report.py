"""`python -m study report`: writes the report from MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from study.cli.options import console, refuse, to_path, to_source, to_text
from study.redact import redacted

Source = Annotated[
    str,
    typer.Argument(
        metavar="DIR_OR_URI",
        help="output folder or bucket of a run, an MLflow URI, a file that --save wrote, or a bundle",
        parser=to_source,
    ),
]
Experiment = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="the study's name, where the store holds several", parser=to_text),
]
To = Annotated[
    Path | None, typer.Option(metavar="FILE", help="file to write; default: report.html in the folder", parser=to_path)
]
Budget = Annotated[
    str | None, typer.Option(metavar="BOUND", help='what a model may cost, such as "p50_ms<=15"', parser=to_text)
]
Compare = Annotated[
    str | None,
    typer.Option(metavar="OTHER", help="another study to compare with: a folder, URI or URI#name", parser=to_source),
]
Join = Annotated[
    list[str] | None,
    typer.Option(
        metavar="OTHER",
        help="a run of the study with another seed, other sizes or choices: a folder, URI, saved file or bundle; repeatable",
        parser=to_source,
    ),
]
Save = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.json",
        help="also write the study's tables to this file, and scores by example beside it",
        parser=to_path,
    ),
]
Attach = Annotated[bool, typer.Option(help="attach the report to the study's MLflow experiment")]


def report(
    source: Source,
    experiment: Experiment = None,
    to: To = None,
    budget: Budget = None,
    compare: Compare = None,
    join: Join = None,
    save: Save = None,
    attach: Attach = True,
) -> None:
    """Write the report from what MLflow holds.

    Also writes its charts as SVG and PNG and its tables as CSV and LaTeX,
    in a folder beside it.
    """
    from study.run.bucket.reading import readable
    from study.run.report import NoStudy, report_on
    from study.tracking.sync import TrackingUnavailable
    from trainables.store.bucket.client import StorageUnavailable

    try:
        written = report_on(
            readable(source),
            experiment,
            to=to,
            budget=budget,
            compare=None if compare is None else readable(compare),
            join=[readable(other) for other in join or ()],
            save=save,
            attach=attach,
        )
    except (NoStudy, ValueError, TrackingUnavailable, StorageUnavailable) as error:
        refuse(redacted(str(error)))
    console.print(str(written), markup=False)  # a path may hold brackets
