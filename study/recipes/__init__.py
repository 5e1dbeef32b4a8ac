"""Recipes: functions that return a complete, frozen `Study`, referenced by name or as `path/to/file.py:function`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import ray.cloudpickle

from study.recipes.micro_ladder import micro_ladder
from study.recipes.one_vs_ten_billion import one_vs_ten_billion
from study.recipes.quickstart import quickstart, quickstart_mixtures
from study.recipes.real_offline import real_offline
from study.recipes.xtreme_r import xtreme_r
from study.spec import InvalidStudy, Study
from trainables.data.source import DataError

RECIPES: dict[str, Callable[[], Study]] = {
    recipe.__name__: recipe
    for recipe in (quickstart, quickstart_mixtures, micro_ladder, real_offline, xtreme_r, one_vs_ten_billion)
}


class UnknownRecipe(ValueError):
    """No built-in recipe of that name, or no such function in that file."""


def load_recipe(reference: str) -> Study:
    """The study of a built-in recipe or of `path/to/file.py:function`.

    Raises:
        UnknownRecipe: there is no such recipe; the message lists the built-in ones.
        InvalidStudy: the recipe's study is invalid, or it returns something else.
    """
    if ":" not in reference:
        if reference not in RECIPES:
            raise UnknownRecipe(
                f"no recipe {reference!r}; built in are {', '.join(sorted(RECIPES))}; give your own as path/to/file.py:function"
            )
        return RECIPES[reference]()
    path, _, name = reference.rpartition(":")
    function = getattr(_import_file(Path(path)), name, None)
    if not callable(function):
        raise UnknownRecipe(f"{path} has no function {name!r}")
    try:
        study = function()
    except ValueError as error:  # a value that some part of the study refuses
        raise (
            error if isinstance(error, (InvalidStudy, DataError)) else InvalidStudy([f"{reference}: {error}"])
        ) from error
    if not isinstance(study, Study):
        raise InvalidStudy([f"{reference} returned {type(study).__name__}, not a Study"])
    return study


def _import_file(path: Path) -> object:
    if not path.is_file():
        raise UnknownRecipe(f"no file {path}")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UnknownRecipe(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    ray.cloudpickle.register_pickle_by_value(module)  # workers cannot import a file on the driver's disk
    return module
