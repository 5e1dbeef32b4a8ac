"""Would an estimator have found the best intermediate tasks, before any target was trained?

    python -m tests.benchmarks.estimators [--source quickstart] [--output DIR] [--save] [--quick]
    python -m tests.benchmarks.estimators --source laptop --data-root DIR [--output DIR] [--save]
    python -m tests.benchmarks.estimators --source laptop --regrade [--save]

Estimates are computed as `python -m study rank` does, on the encoders of the study in `--output`; intermediate trainings that
it lacks run first. They are graded (`analysis.tables.estimates.grades`) by measured test scores without English:

    quickstart    the size 2x128, four intermediate tasks: means over six seeds, kept in `docs/measured/first_run_seeds.json`
    micro_grid    eight intermediate choices of the same size, mixtures among them (`micro_grid`), trained here with one seed
    laptop        the first 3 layers of multilingual-e5-small, seven choices: every seed that is kept in `docs/measured/laptop`

With the same `--output` an interrupted command resumes. `--save` writes the JSON document to `docs/measured/estimators`, from
where `python -m tests.benchmarks.estimators_results --write` puts it into the documentation. `--regrade` estimates nothing: it
grades the kept document's estimates by the scores that are kept now, as when `docs/measured/laptop` has further seeds.
Intermediate tasks that share data with a target, and runs at chance, are left out. `random_` is the expectation of a random
order. The last line is one JSON document.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from analysis import grades, joined, measured_scores, read_saved
from analysis.tables.estimates.grades import KS, summary
from study.recipes.laptop import laptop
from study.recipes.quickstart import quickstart
from study.run.ranking import Ranking, rank
from study.spec import NONE, Size, Study
from study.spec.precision import resumed_precision
from tests.benchmarks.micro_grid import SINGLE, Lengths, elapsed_since, micro_grid, size_of, workplace
from tests.support.commands import ROOT
from trainables.benchmark.probes.hardware import hardware
from trainables.data.source import DATA_ROOT_VARIABLE
from trainables.estimators.registry import ESTIMATORS
from trainables.stages.chain import run_chain
from trainables.store.versions import versions

MEASURED = ROOT / "docs" / "measured"
SAVED = MEASURED / "estimators"  # a document for each source
SEEDS_OF_FIRST_RUN = 6
# Scores without an intermediate task of the size 2x128, to which the kept gains are added: the table of "The first run" in
# docs/measurements.md, as the JSON holds gains alone. Only relative regret depends on them.
WITHOUT = {
    "micro_tagging": 29.7,
    "micro_mention": 76.3,
    "micro_follows": 86.3,
    "micro_span": 36.2,
    "micro_bitext": 99.4,
}
TINY: dict[str, Any] = {"train_size": 64, "dev_size": 24, "test_size": 12}

console = Console(highlight=False, width=150)


class Source(enum.StrEnum):
    quickstart = "quickstart"
    micro_grid = "micro_grid"
    laptop = "laptop"


From = Annotated[Source, typer.Option(help="which measured scores grade the estimates")]
Output = Annotated[Path | None, typer.Option(help="a study's output folder; what it lacks is trained and kept there")]
DataRoot = Annotated[Path | None, typer.Option(help="folder of published data files, for laptop")]
Save = Annotated[bool, typer.Option("--save", help="keep the document in docs/measured/estimators")]
Regrade = Annotated[bool, typer.Option("--regrade", help="grade the kept estimates by the scores that are kept now")]
Quick = Annotated[bool, typer.Option("--quick", help="three intermediate tasks of micro_grid, a few steps")]


def main(
    source: From = Source.quickstart,
    output: Output = None,
    data_root: DataRoot = None,
    save: Save = False,
    regrade: Regrade = False,
    quick: Quick = False,
) -> None:
    """Print tables and one JSON line."""
    started = time.perf_counter()
    if save and quick:
        raise typer.BadParameter("--save: a quick run measures nothing that is worth keeping")
    if regrade:
        if quick or source is Source.micro_grid:
            raise typer.BadParameter(
                "--regrade: only the scores of quickstart and laptop are kept apart from estimates"
            )
        _finish(regraded(json.loads((SAVED / f"{source.value}.json").read_text(encoding="utf-8")), source), save=save)
        return
    if data_root is not None:
        os.environ[DATA_ROOT_VARIABLE] = str(data_root.resolve())
    with ExitStack() as stack:
        folder = output or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with resumed_precision(folder):
            study, size = _tiny() if quick else _study(source)
        rankings = rank(study, folder, sizes=[size], estimators=tuple(ESTIMATORS))
        trains = quick or source is Source.micro_grid
        measured = _trained(study, size, folder) if trains else _kept(source, size)
    estimates = estimates_of(rankings)
    _show(grades(estimates, measured), summary(estimates, measured), rankings)
    document = {
        "source": "quick" if quick else source.value,
        "size": size.name,
        **_graded(estimates, measured),
        "rankings": [ranking.document() for ranking in rankings],
        "load_average": os.getloadavg(),
        "wall_s": elapsed_since(started),
        "hardware": hardware().as_dict(),
        "versions": versions(),
        "command": _command(),
    }
    _finish(document, save=save)


def _finish(document: dict[str, Any], *, save: bool) -> None:
    if save:
        SAVED.mkdir(exist_ok=True)
        (SAVED / f"{document['source']}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(document))


def regraded(document: dict[str, Any], source: Source) -> dict[str, Any]:
    """A kept document with its estimates graded by the scores that are kept now."""
    from tests.benchmarks.estimators_results import estimates_in

    _, size = _study(source)
    assert size.name == document["size"], f"{source}: estimates of {document['size']}, scores of {size.name}"
    return document | _graded(estimates_in(document), _kept(source, size))


def _graded(estimates: pd.DataFrame, measured: pd.DataFrame) -> dict[str, Any]:
    return {
        "seeds": int(measured["seeds"].min()),
        "summary": _records(summary(estimates, measured)),
        "grades": _records(grades(estimates, measured)),
        "scores": _records(measured),
    }


def _command() -> str:
    """As it was typed, without absolute paths, which name folders of this machine."""
    options = ["DIR" if option.startswith("/") else option for option in sys.argv[1:]]
    return " ".join(["python", "-m", "tests.benchmarks.estimators", *options])


def _study(source: Source) -> tuple[Study, Size]:
    """The study whose scores were measured, and the size."""
    if source is Source.laptop:
        study = laptop()
        return study, study.size("3l")
    if source is Source.quickstart:
        study = quickstart()
        return study, study.size("2x128")
    study = micro_grid(lr_intermediate=(5e-4,), lr_target=(1e-3,))
    return study, size_of(study)


def _tiny() -> tuple[Study, Size]:
    study = micro_grid(lr_intermediate=(5e-4,), lr_target=(1e-3,), lengths=Lengths(2, 2))
    languages: dict[str, Any] = {"languages_": ("en", "de")}
    targets = tuple(dataclasses.replace(task, **TINY, **languages) for task in study.targets)
    intermediates = tuple(dataclasses.replace(task, **TINY) for task in SINGLE[:3])
    space = dataclasses.replace(study.space, intermediates=intermediates)
    study = dataclasses.replace(study, targets=targets, space=space, trials=4)
    return study, size_of(study)


def _trained(study: Study, size: Size, folder: Path) -> pd.DataFrame:
    """Train and score every default cell; test scores without English."""
    rows = []
    for choice in study.space_of(size).defaults():
        metrics: dict[str, Any] = {}
        run_chain(study.chain(size, choice), workplace(folder), metrics.update)
        if choice.intermediate != NONE:
            scores = {task.name: metrics[f"test_without_english/{task.name}"] for task in study.targets}
            rows += [_row(size, target, choice.intermediate, score, seeds=1) for target, score in scores.items()]
        console.print(f"{choice.intermediate} is trained and scored on every target")
    return pd.DataFrame(rows)


def _kept(source: Source, size: Size, *, laptop_folder: Path = MEASURED / "laptop") -> pd.DataFrame:
    """Scores of committed runs; of `laptop`, every seed of the size that is there."""
    if source is Source.laptop:
        runs = [path for path in sorted(laptop_folder.glob(f"{size.name}-seed*.json")) if ".run." not in path.name]
        return measured_scores(joined([read_saved(path) for path in runs]))
    document = json.loads((MEASURED / "first_run_seeds.json").read_text(encoding="utf-8"))
    cells = {tuple(key.split()): gain for key, (gain, _, _) in document["gains"].items()}
    return pd.DataFrame(
        _row(size, target, intermediate, WITHOUT[target] + gain, seeds=SEEDS_OF_FIRST_RUN)
        for (name, intermediate, target), gain in cells.items()
        if name == size.name
    )


def _row(size: Size, target: str, intermediate: str, score: float, *, seeds: int) -> dict[str, Any]:
    return {"size": size.name, "target": target, "intermediate": intermediate, "score": score, "seeds": seeds}


def estimates_of(rankings: Sequence[Ranking]) -> pd.DataFrame:
    """The estimates of intermediate tasks, as `grades` takes them."""
    return pd.DataFrame(
        [
            (ranking.estimator, ranking.size, target, intermediate, value)
            for ranking in rankings
            for (intermediate, target), value in ranking.values.items()
            if intermediate != NONE
        ],
        columns=["estimator", "size", "target", "intermediate", "value"],
    )


def _show(by_target: pd.DataFrame, overall: pd.DataFrame, rankings: Sequence[Ranking]) -> None:
    regrets = [f"regret@{k} (random)" for k in KS]
    table = Table("estimator", "target", "choices", *regrets, "Spearman", "Kendall")
    for row in by_target.to_dict("records"):
        shown = [f"{row[f'regret_{k}']:.1f} ({row[f'random_regret_{k}']:.1f})" for k in KS]
        table.add_row(
            *(row["estimator"], row["target"], str(row["choices"]), *shown),
            *(f"{row[name]:+.2f}" for name in ("spearman", "kendall")),
        )
    console.print(table)
    seconds = {ranking.estimator: ranking for ranking in rankings}
    table = Table("estimator", "targets", *regrets, "Spearman [95%]", "p (Holm)", "estimates, s", "trainings, s")
    for row in overall.to_dict("records"):
        shown = [f"{row[f'regret_{k}']:.1f} ({row[f'random_regret_{k}']:.1f})" for k in KS]
        correlation = f"{row['spearman']:+.2f} [{row['spearman_low']:+.2f}, {row['spearman_high']:+.2f}]"
        spent = seconds[row["estimator"]]
        table.add_row(
            *(row["estimator"], str(row["targets"]), *shown, correlation, f"{row['p_holm']:.3f}"),
            *(f"{spent.estimates_s:.1f}", f"{spent.trainings_s:.1f}"),
        )
    console.print(table)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values, NaN as null."""
    records: list[dict[str, Any]] = json.loads(table.to_json(orient="records", double_precision=4))
    return records


if __name__ == "__main__":
    typer.run(main)
