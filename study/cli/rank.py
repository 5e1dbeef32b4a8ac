"""`python -m study rank`: the order of intermediate tasks by estimates, before any target is trained."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.interrupts import interruptible
from study.cli.options import (
    FAILED,
    DataRoot,
    Recipe,
    Seed,
    console,
    load_study,
    read_bucket,
    refuse,
    split_names,
    to_output,
    to_text,
    use_data_root,
)
from study.redact import redacted

if TYPE_CHECKING:
    from study.run.ranking import Ranking
    from study.spec import Study

Estimators = Annotated[
    str | None,
    typer.Option(
        metavar="A,B",
        help="logme, probe, embedding_map or text_similarity; default: all",
        parser=to_text,
    ),
]
SizeNames = Annotated[
    str | None,
    typer.Option(metavar="A,B", help="only these sizes; default: all with an intermediate task", parser=to_text),
]
Output = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="the study's output folder or bucket; default: runs/STUDY", parser=to_output),
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document instead")]


def rank(
    recipe: Recipe,
    estimator: Estimators = None,
    output: Output = None,
    size: SizeNames = None,
    data_root: DataRoot = None,
    seed: Seed = None,
    as_json: AsJson = False,
) -> None:
    """Rank intermediate tasks by estimates, before targets are trained.

    Trains the intermediate tasks that the output folder lacks, except for
    text_similarity, and no targets. Needs no Ray. The same command again
    computes only what is missing, and a later run finds what was trained.
    """
    with interruptible():
        use_data_root(data_root)
        rankings = _ranked(recipe, estimator, output, sizes=size, seed=seed)
    if as_json:
        print(json.dumps([ranking.document() for ranking in rankings]), flush=True)
    else:
        console.print("\n".join(line for ranking in rankings for line in lines_of(ranking)), markup=False)


def _ranked(
    recipe: str, estimator: str | None, output: Path | None, *, sizes: str | None, seed: int | None
) -> list[Ranking]:
    from study.cli.run import as_storage_failure, check_output, study_and_folder
    from study.errors import CannotRun
    from study.run.ranking import rank as rank_study
    from trainables.data.source import DataError
    from trainables.estimators.registry import ESTIMATORS

    names = tuple(ESTIMATORS) if estimator is None else split_names(estimator) or (estimator,)
    if unknown := [name for name in names if name not in ESTIMATORS]:
        refuse(f"--estimator {unknown[0]}: unknown; choose from {', '.join(ESTIMATORS)}")

    def load() -> Study:
        return load_study(recipe, trials=None, sizes=None, seed=seed, repeats=None)

    if output is not None:
        read_bucket(output, "--output")
    study, folder = study_and_folder(load, output)
    check_output(folder)
    chosen = [size for size in study.sizes if len(study.space_of(size).names) > 1]
    if sizes is not None:
        known = {size.name: size for size in study.sizes}
        if unknown := [name for name in split_names(sizes) or () if name not in known]:
            refuse(f"--size {', '.join(unknown)}: unknown; choose from {', '.join(known)}")
        chosen = [known[name] for name in dict.fromkeys(split_names(sizes) or ())]
    if not any(len(study.space_of(size).names) > 1 for size in chosen):
        refuse("no intermediate task to rank: the recipe's sizes, or those of --size, try none")
    try:
        return rank_study(study, folder, sizes=chosen, estimators=tuple(dict.fromkeys(names)))
    except (CannotRun, DataError) as error:
        refuse(redacted(str(error)))
    except OSError as error:
        print(f"error: {redacted(str(as_storage_failure(error, folder)))}", file=sys.stderr)
        raise typer.Exit(FAILED) from error


def lines_of(ranking: Ranking) -> list[str]:
    """A ranking as text: cost, order over all targets and by target, and what the first few choices would spare."""
    from study.spec import NONE

    after = f", after intermediate trainings of {ranking.trainings_s:.1f} s" if ranking.trainings_s else ""
    lines = [f"size {ranking.size}, {ranking.estimator}: {ranking.estimates_s:.1f} s{after}"]
    places = ", ".join(f"{place.choice} {place.rank:.1f}" for place in ranking.order)
    lines.append(f"  all targets, mean rank: {places or 'no order'}")
    for target in ranking.targets:
        values = ranking.by_value(target)
        if values:
            lines.append(f"  {target}: {', '.join(f'{choice} {value:.3f}' for choice, value in values)}")
        reasons: dict[str, list[str]] = {}
        for (choice, of), reason in ranking.unavailable.items():
            if of == target:
                reasons.setdefault(reason, []).append(choice)
        for reason, choices in reasons.items():
            whose = " for " + ", ".join(choices) if values else ""
            lines.append(f"  {target}: unavailable{whose}: {reason}")
    tasks = [place.choice for place in ranking.order if place.choice != NONE]
    for count, share in enumerate(ranking.spared, 1):
        if count < len(tasks):
            lines.append(
                f"  {NONE} and the first {count} of {len(tasks)} only: {share:.0%} of the cells' seconds spared"
            )
    return lines
