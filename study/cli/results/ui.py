"""`python -m study ui`: MLflow's UI over a run's store."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from study.cli.options import BucketOrFolder, console, read_bucket, refuse

Port = Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help="port on 127.0.0.1")]


def ui(folder: BucketOrFolder, port: Port = 5000) -> None:
    """Serve MLflow's UI over a run's store, on 127.0.0.1.

    Prints links to the best trials and benchmarks, to all trials, and to a
    page that compares the benchmarks. A run in a bucket is followed.
    """
    from analysis.store.database import check_readable
    from study.cluster.ports import port_problem
    from study.tracking.links import links
    from study.tracking.moved import follow_folder
    from study.tracking.tracker import default_uri
    from trainables.store.bucket.location import shown, url_of

    read_bucket(folder, "DIR", database=True)
    if not (folder / "mlflow.db").is_file():
        refuse(f"{shown(folder)}: no mlflow.db; give the output folder of a run")
    if problem := port_problem(port):
        refuse(f"--port {port}: {problem}; choose another port")
    uri, address = default_uri(folder), f"http://127.0.0.1:{port}"
    try:
        check_readable(folder / "mlflow.db")
        follow_folder(uri, folder)
    except (ValueError, sqlite3.Error) as error:
        refuse(str(error))
    arguments = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    console.print(address, markup=False)
    for name, link in links(uri, address=address).items():
        console.print(f"{name}\n  {link}", markup=False)
    if url_of(folder) is None:
        os.execv(sys.executable, arguments)
    raise typer.Exit(_serve_and_follow(folder, arguments))


def _serve_and_follow(folder: Path, arguments: Sequence[str]) -> int:
    """Run MLflow's server, and bring further results into its database until it ends; its exit code."""
    from study.run.bucket.following import following

    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with subprocess.Popen(arguments) as server, following(folder, say=partial(print, file=sys.stderr, flush=True)):
        try:
            return server.wait()
        except KeyboardInterrupt:
            server.terminate()
            return server.wait()
