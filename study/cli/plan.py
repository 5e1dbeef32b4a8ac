"""`python -m study plan`: what a study would run and cost."""

from __future__ import annotations

from typing import Annotated

import typer

from study.cli.options import DataRoot, Recipe, Repeats, Seed, Sizes, Trials, console, load_study, use_data_root

Price = Annotated[
    float | None, typer.Option(min=0.0, metavar="PRICE", help="price per GPU-hour, in any currency; adds the cost")
]


def plan(
    recipe: Recipe,
    data_root: DataRoot = None,
    trials: Trials = None,
    sizes: Sizes = None,
    seed: Seed = None,
    repeats: Repeats = None,
    price: Price = None,
) -> None:
    """Show what would run and what it would cost; starts nothing.

    Prints sizes and parameters, memory, trials, shared stages and GPU-hours:
    as tables where the terminal is wide enough for them.
    """
    from study.planning.plan import render_plan

    use_data_root(data_root)
    study = load_study(recipe, trials=trials, sizes=sizes, seed=seed, repeats=repeats)
    console.print(render_plan(study, price=price), soft_wrap=False)
