"""`python -m study export`: writes the evidence of an output folder to one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from study.cli.options import console, refuse, to_path, to_source
from study.redact import redacted

Source = Annotated[str, typer.Argument(metavar="DIR", help="output folder or bucket of a run", parser=to_source)]
Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE.zip", help="file to write", parser=to_path)]
Texts = Annotated[
    bool,
    typer.Option("--texts", help="include answers as text, if the licences of the data allow it", show_default=False),
]
Weights = Annotated[
    bool,
    typer.Option("--weights", help="include the models, if the licence of the encoder allows it", show_default=False),
]
NoPage = Annotated[
    bool,
    typer.Option(
        "--no-page", help="without the report's page, most of a small bundle; its tables stay", show_default=False
    ),
]


def export(
    source: Source, bundle: Bundle, texts: Texts = False, weights: Weights = False, no_page: NoPage = False
) -> None:
    """Write a study's evidence to one file, for `verify`, `merge` and `report`.

    The file holds predictions and references by example, scores, measurements,
    manifests and the report. Without --texts and --weights it has no texts of
    the data and no models.
    """
    from study.errors import CannotRun
    from study.evidence.bundle import SUFFIX
    from study.evidence.export import export as write
    from study.run.bucket.reading import readable
    from study.run.output_folder import unchanging
    from study.run.report import load_study_frames
    from study.tracking.sync import TrackingUnavailable

    if bundle.suffix != SUFFIX:
        refuse(f"{bundle}: give a name that ends in {SUFFIX}")
    try:
        folder = Path(readable(source))
        with unchanging(folder):
            frames = load_study_frames(str(folder))
            written = write(frames, folder, bundle, texts=texts, weights=weights, page=not no_page)
    except (CannotRun, ValueError, TrackingUnavailable) as error:
        refuse(redacted(str(error)))
    except OSError as error:
        refuse(f"{error.filename or bundle}: {error.strerror or error}")
    console.print(f"{bundle}: {written.stages} stages, {written.evaluations} evaluations", markup=False)
    if written.without_answers:
        console.print(f"{written.without_answers} evaluations of an earlier version have no predictions to export")
    console.print(f"sha256 {written.sha256}")
