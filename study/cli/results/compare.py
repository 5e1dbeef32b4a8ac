"""`python -m study compare`: what changed between two studies."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.options import refuse, to_path, to_source
from study.redact import redacted

if TYPE_CHECKING:
    from analysis import StudyFrames

TOLD_WORSE = 3  # exit code

A = Annotated[
    str,
    typer.Argument(
        metavar="A",
        help="output folder, MLflow URI, URI#experiment, bundle, or file that report --save wrote",
        parser=to_source,
    ),
]
B = Annotated[str, typer.Argument(metavar="B", help="the later study, in any of these forms", parser=to_source)]
To = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="also write the changes to FILE.html, FILE.md or FILE.txt", parser=to_path),
]
Json = Annotated[bool, typer.Option("--json", help="print one JSON document instead of text", show_default=False)]
FailOnWorse = Annotated[
    bool, typer.Option("--fail-on-worse", help="exit code 3 if a score is significantly worse in B", show_default=False)
]


def compare(a: A, b: B, to: To = None, json_: Json = False, fail_on_worse: FailOnWorse = False) -> None:
    """Show what changed from one study to another, with intervals.

    Exit code: 0; with --fail-on-worse 3 if a score is significantly worse; 2
    if a study cannot be read.
    """
    from analysis import changes
    from analysis.report.changelog import as_html, as_json, as_markdown, as_text, study_name

    forms = {".html": as_html, ".md": as_markdown, ".txt": as_text}
    if to is not None and to.suffix not in forms:
        refuse(f"--to {to}: give a name that ends in .html, .md or .txt")
    first, second = _load(a), _load(b)
    found = changes(first, second)
    names = (redacted(study_name(a, first)), redacted(study_name(b, second)))
    if to is not None:
        try:
            to.write_text(forms[to.suffix](found, names=names), encoding="utf-8")
        except OSError as error:
            refuse(f"--to {to}: {error.strerror or error}; give another file")
    print(json.dumps(as_json(found, names=names)) if json_ else as_text(found, names=names), end="\n" if json_ else "")
    sys.stdout.flush()
    if fail_on_worse and as_json(found, names=names)["worse"]:
        raise typer.Exit(TOLD_WORSE)


def _load(source: str) -> StudyFrames:
    from study.run.bucket.reading import readable
    from study.run.report import load_study_frames
    from study.tracking.sync import TrackingUnavailable

    try:
        return load_study_frames(readable(source))
    except (ValueError, TrackingUnavailable) as error:
        refuse(redacted(str(error)))
    except OSError as error:
        refuse(f"{source}: {error.strerror or error}")
