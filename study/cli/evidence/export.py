"""`python -m study export`: writes the evidence of an output folder to one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from study.cli.options import Folder, console, refuse, to_path
from study.redact import redacted

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE.zip", help="file to write", parser=to_path)]
Texts = Annotated[
    bool,
    typer.Option("--texts", help="with answers in words, if the licences of the data allow it", show_default=False),
]
Weights = Annotated[
    bool, typer.Option("--weights", help="with the models, if the licence of the encoder allows it", show_default=False)
]


def export(folder: Folder, bundle: Bundle, texts: Texts = False, weights: Weights = False) -> None:
    """Write a study's evidence to one file, for `verify`, `merge` and `report`.

    Predictions and references by example, scores, measurements, manifests and
    the report; no texts of the data and no models.
    """
    from study.evidence.bundle import SUFFIX
    from study.evidence.export import export as write
    from study.run.report import load_study_frames

    if bundle.suffix != SUFFIX:
        refuse(f"{bundle}: give a name that ends in {SUFFIX}")
    try:
        frames = load_study_frames(str(folder))
        written = write(frames, folder, bundle, texts=texts, weights=weights)
    except ValueError as error:
        refuse(redacted(str(error)))
    except OSError as error:
        refuse(f"{error.filename or bundle}: {error.strerror or error}")
    console.print(f"{bundle}: {written.stages} stages, {written.evaluations} evaluations", markup=False)
    if written.without_answers:
        console.print(f"{written.without_answers} evaluations of an earlier version have no predictions to export")
    console.print(f"sha256 {written.sha256}")
