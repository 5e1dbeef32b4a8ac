"""`python -m study ui`: MLflow's UI over a run's store."""

from __future__ import annotations

import os
import sqlite3
import sys
from typing import Annotated

import typer

from study.cli.options import Folder, console, refuse

Port = Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help="port on 127.0.0.1")]


def ui(folder: Folder, port: Port = 5000) -> None:
    """Serve MLflow's UI over a run's store, on 127.0.0.1.

    Prints links to the best trials and benchmarks, to all trials, and to a
    page that compares the benchmarks.
    """
    from analysis.store.database import check_readable
    from study.cluster.preflight import port_problem
    from study.run.links import links
    from study.tracking.moved import follow_folder
    from study.tracking.tracker import default_uri

    if not (folder / "mlflow.db").is_file():
        refuse(f"{folder}: no mlflow.db; give the output folder of a run")
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
    for shown, link in links(uri, address=address).items():
        console.print(f"{shown}\n  {link}", markup=False)
    os.execv(sys.executable, arguments)
