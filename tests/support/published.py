"""Publishes a finished quickstart: the bundle of its evidence, and what README.md and docs/evidence.md say of its results.

    python -m study run quickstart > run.json
    python -m tests.support.published runs/quickstart run.json

`run.json` ends with the line that `run` prints. It and the report's charts replace those in `docs/measured/quickstart/`, so the
run needs a quiet machine: without other work on it. Of a run beside other work leave `run.json` out. Then the bundle alone is
replaced, with the scores and digests in the pages; published speeds stay those of the earlier run, which must have the same
scores. `tests/study/evidence/test_published.py` compares pages, bundle and run.

    python -m tests.support.published docs/measured/quickstart/evidence.zip

computes the tables of the report in the published bundle again, from its own tables: after a change of the report.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

import analysis
from analysis.store.frames import NONE
from study.errors import CannotRun
from study.evidence.bundle import is_bundle, read_bundle
from study.evidence.export import export
from study.evidence.merge import merge
from study.evidence.recount import close
from study.evidence.verify import Verified, verify
from study.run.output_folder import unchanging
from study.run.report import load_study_frames

ROOT = Path(__file__).parents[2]
PUBLISHED = "docs/measured/quickstart"
BUNDLE, RUN = f"{PUBLISHED}/evidence.zip", f"{PUBLISHED}/run.json"
PAGES = ("README.md", "docs/evidence.md")
START, END = "<!-- Written by `python -m tests.support.published`. -->", "<!-- End of what it writes. -->"
MOST_BYTES = 1 << 20  # of a bundle in the repository
SAVED = 1e-6  # relative; saved tables round to ten decimals
SCORED_AS = "fp32"  # the serving variant whose scores README.md shows


def main() -> None:
    """Publish; exits with 1 and the reason where the results do not belong together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="output folder of a finished run, or a bundle")
    parser.add_argument("run", type=Path, nargs="?", help="what `run` printed, if nothing else ran on the machine")
    arguments = parser.parse_args()
    try:
        publish(arguments.source, arguments.run, root=ROOT)
    except (CannotRun, ValueError) as error:
        sys.exit(str(error))
    print(ROOT / BUNDLE)


def publish(source: Path, run: Path | None, *, root: Path) -> None:
    """Replace bundle and pages in a copy of the repository; with `run`, of an output folder, also run and charts.

    Raises:
        ValueError: the bundle has a fault or is too large, or the published run has other scores.
        CannotRun: a run is using the folder.
    """
    text = (run or root / RUN).read_text(encoding="utf-8")
    document = json.loads(text.splitlines()[-1] if run else text)
    with tempfile.TemporaryDirectory() as temporary:
        bundle = Path(temporary) / "evidence.zip"
        if is_bundle(str(source)):
            merge([source], bundle)
        else:
            with unchanging(source):
                export(load_study_frames(str(source)), source, bundle, page=False)
        verified = verify(bundle)
        if problems := [*verified.faults, *_problems(bundle, document)]:
            raise ValueError("\n".join(problems))
        shutil.copy(bundle, root / BUNDLE)
    if run is not None:
        _replace_run(document, source, root)
    blocks = results(root / BUNDLE, document), checked(root / BUNDLE, document, verified)
    for page, block in zip(PAGES, blocks, strict=True):
        path = root / page
        path.write_text(with_block(path.read_text(encoding="utf-8"), block), encoding="utf-8")


def _problems(bundle: Path, document: Mapping[str, Any]) -> Iterator[str]:
    if (size := bundle.stat().st_size) > MOST_BYTES:
        yield f"the bundle has {size} bytes, and the repository takes {MOST_BYTES}"
    frames = read_bundle(bundle)
    for row in _benchmarks(frames):
        published = _measured(document, row["size"]).get(row["variant"], {}).get("test_score_without_english")
        if published is None or f"{published:.1f}" != f"{row['test_score_without_english']:.1f}":
            yield (
                f"{row['size']} in {row['variant']} scores {row['test_score_without_english']:.1f}, and {published} in the run "
                "whose speeds are published; give what `run` printed, of a quiet machine, as the second argument"
            )


def _replace_run(document: Mapping[str, Any], output: Path, root: Path) -> None:
    """Replace the document, with the folder that `run` uses by default, and the charts that are published of the report."""
    folder = f"runs/{document['study']}"
    named = {**document, "output": folder, "report": f"{folder}/report.html"}
    (root / RUN).write_text(json.dumps(named, indent=1) + "\n", encoding="utf-8")
    for chart in (root / PUBLISHED).glob("*.svg"):
        shutil.copy(output / "report_files" / "charts" / chart.name, chart)


def with_block(page: str, block: str) -> str:
    """A page with another block between the markers.

    Raises:
        ValueError: it has no markers, or several.
    """
    if page.count(START) != 1 or page.count(END) != 1:
        raise ValueError(f"a page must have each marker once: {START} {END}")
    return re.sub(f"(?<={re.escape(START)}\n).*(?={re.escape(END)})", lambda _: f"{block}\n", page, flags=re.DOTALL)


def block_of(page: str) -> str:
    """What is between the markers of a page."""
    return page.partition(f"{START}\n")[2].partition(END)[0].strip("\n")


def digest_of(bundle: Path) -> str:
    return hashlib.sha256(bundle.read_bytes()).hexdigest()


def results(bundle: Path, document: Mapping[str, Any]) -> str:
    """README's table: scores of the bundle, speeds of the run."""
    frames = read_bundle(bundle)
    variants = list(dict.fromkeys(bench["variant"] for size in document["sizes"] for bench in size["bench"]))
    heads = ["size", "body parameters", "intermediate task chosen", f"score, {SCORED_AS}", "without one"]
    rows = [[*heads, *(f"p50, {variant}" for variant in variants)], ["---"] * (len(heads) + len(variants))]
    for row in _benchmarks(frames):
        if row["variant"] != SCORED_AS:
            continue
        score, without = scores_shown(row)
        measured = _measured(document, row["size"])
        times = [f"{measured[name]['p50_ms']:.2f} ms" if name in measured else "n/a" for name in variants]
        shown = [row["size"], f"{row['params_body_m']:.2f}M", _choice(frames, row), f"{score:.1f}", f"{without:.1f}"]
        rows.append([*shown, *times])
    lines = [f"| {' | '.join(cells)} |" for cells in rows]
    lines[1] = "|" + "---|" * len(rows[1])
    return "\n".join([*lines, "", f"sha256 of the evidence: `{digest_of(bundle)}`"])


def scores_shown(row: Mapping[Any, Any]) -> tuple[float, float]:
    """The means without English of a row of the benchmarks: as chosen, and without an intermediate task."""
    score = float(row["test_score_without_english"])
    return score, float(row["baseline_test_score_without_english"]) if row["baseline_trial_id"] else score


def checked(bundle: Path, document: Mapping[str, Any], verified: Verified) -> str:
    """The section of docs/evidence.md: the command, what it prints, and what the bundle's speeds are worth."""
    command = f"python -m study verify {BUNDLE}"
    same = all(
        close(row["p50_ms"], _measured(document, row["size"]).get(row["variant"], {}).get("p50_ms"), SAVED)
        for row in _benchmarks(read_bundle(bundle))
    )
    speeds = (
        "The quickstart's scores and speeds in README are of this run."
        if same
        else "The quickstart's scores in README are of this run. Its speeds are not: it ran beside other work. Those in\n"
        "README are of an earlier run with the same scores ([JSON](measured/quickstart/run.json))."
    )
    shown = f"The file is {bundle.stat().st_size / 1000:.0f} kB; its sha256 is\n`{digest_of(bundle)}`."
    lines = [*verified.faults, *verified.remarks, verified.summary]
    return "\n".join(["```", command, "```", "", "It prints", "", "```", *lines, "```", "", shown, speeds])


def _benchmarks(frames: analysis.StudyFrames) -> list[dict[Any, Any]]:
    """The measurements in the order of sizes."""
    return frames.benchmarks[frames.benchmarks["reason"] == ""].to_dict("records")


def _measured(document: Mapping[str, Any], size: str) -> dict[str, Mapping[str, Any]]:
    """What a run's document says of a size's measurements, by serving variant."""
    return {bench["variant"]: bench for of in document["sizes"] if of["name"] == size for bench in of["bench"]}


def _choice(frames: analysis.StudyFrames, row: Mapping[Any, Any]) -> str:
    """The intermediate task that English dev chose."""
    trials: pd.DataFrame = frames.searched[frames.searched["size"] == row["size"]]
    (chosen,) = trials.loc[trials["trial_id"] == row["trial_id"], "intermediate"]
    return f"{chosen} (only choice)" if set(trials["intermediate"]) == {NONE} else str(chosen)


if __name__ == "__main__":
    main()
