"""`python -m study ui`: MLflow's UI over a run's store."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from study.cli.options import Folder, console, refuse

Port = Annotated[int, typer.Option(min=1, max=65535, metavar="PORT", help="port on 127.0.0.1")]


def ui(folder: Folder, port: Port = 5000) -> None:
    """Serve MLflow's UI over a run's store, on 127.0.0.1."""
    from study.cluster.preflight import port_problem
    from study.tracking.tracker import default_uri

    if not (folder / "mlflow.db").is_file():
        refuse(f"{folder}: no mlflow.db; give the output folder of a run")
    if problem := port_problem(port):
        refuse(f"--port {port}: {problem}; choose another port")
    arguments = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", default_uri(folder)]
    arguments += ["--host", "127.0.0.1", "--port", str(port)]
    console.print(f"http://127.0.0.1:{port}")
    os.execv(sys.executable, arguments)
