"""`python -m study watch`: serves the report of a run while it runs."""

from __future__ import annotations

import signal
import sys
import webbrowser
from contextlib import suppress
from functools import partial
from typing import Annotated

import typer

from study.cli.options import BucketOrFolder, read_bucket, refuse

Port = Annotated[
    int | None,
    typer.Option(min=1, max=65535, metavar="PORT", help="port on 127.0.0.1; default: 8765, or a free one"),
]
Open = Annotated[bool, typer.Option("--open", help="open the page in a browser", show_default=False)]
Every = Annotated[
    int, typer.Option(min=1, max=86400, metavar="S", help="seconds between two builds of the page, at least")
]


def watch(folder: BucketOrFolder, port: Port = None, open_: Open = False, every: Every = 30) -> None:
    """Serve the report of a run while it runs, on 127.0.0.1.

    The page follows the run and keeps the reader's place. The command only
    reads the output folder or bucket. Ctrl-C ends it.
    """
    from study.run.bucket.following import following
    from study.run.identity import STUDY_FILE
    from study.watch.live import LivePage
    from study.watch.server import PortTaken, Server, serve
    from trainables.store.bucket.location import shown, url_of

    read_bucket(folder, "DIR")
    if url_of(folder) is not None and not (folder / STUDY_FILE).is_file():
        refuse(f"{shown(folder)}: no run has started there; give the bucket of a run")
    if not folder.is_dir():
        refuse(f"{folder}: no such folder; give the output folder of a run")
    try:
        server = Server(LivePage(folder, every_s=every), port)
    except PortTaken as error:
        refuse(f"--port {port}: {error.strerror}; choose another port")
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt), following(folder, say=partial(print, file=sys.stderr, flush=True)):
        print(server.url, flush=True)
        if open_:
            webbrowser.open(server.url)
        serve(server, ended=lambda: False)
    signal.signal(signal.SIGTERM, former)
