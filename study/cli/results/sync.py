"""`python -m study sync`: sends MLflow the results of a run that it does not have yet."""

from __future__ import annotations

from typing import Annotated

import typer

from study.cli.options import FAILED, TRACKING_URI, BucketOrFolder, console, hide_password, read_bucket, refuse, to_uri

TrackingUri = Annotated[
    str | None,
    typer.Option(
        metavar="URI", envvar=TRACKING_URI, help="MLflow store; default: the one given to the run", parser=to_uri
    ),
]
Again = Annotated[
    bool, typer.Option(show_default=False, help="send everything, to a store that lost some of it; duplicates nothing")
]


def sync(folder: BucketOrFolder, tracking_uri: TrackingUri = None, again: Again = False) -> None:
    """Send MLflow the results of a run that it does not have yet.

    For results written with --offline or while the store was unavailable.
    With --tracking-uri they can also go to another store.
    """
    from study.tracking.sync import TrackingUnavailable, send

    hide_password(tracking_uri)
    read_bucket(folder, "DIR", database=tracking_uri is None)
    try:
        complete = send(folder, tracking_uri, again=again, say=console.print)
    except TrackingUnavailable as error:
        refuse(str(error))
    if not complete:
        raise typer.Exit(FAILED)
