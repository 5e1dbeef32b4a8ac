"""Recipes: functions that return a complete, frozen `Study`, referenced by name or as `path/to/file.py:function`."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.cloudpickle

from study.recipes.laptop import laptop, laptop_arms, laptop_rates, laptop_tiny
from study.recipes.micro_arms import micro_arms
from study.recipes.micro_ladder import micro_ladder
from study.recipes.mt0_vs_mt5 import mt0_vs_mt5
from study.recipes.one_vs_ten_billion import one_vs_ten_billion, one_vs_ten_billion_one_gpu
from study.recipes.quickstart import quickstart, quickstart_cascade, quickstart_mixtures
from study.recipes.real_offline import real_offline
from study.recipes.xtreme_r import xtreme_r, xtreme_r_one_gpu
from study.spec import InvalidStudy, Study
from trainables.data.source import DataError

RECIPES: dict[str, Callable[[], Study]] = {
    recipe.__name__: recipe
    for recipe in (
        *(quickstart, quickstart_cascade, quickstart_mixtures, micro_arms, micro_ladder),
        *(laptop, laptop_arms, laptop_rates, laptop_tiny),
        *(real_offline, xtreme_r, xtreme_r_one_gpu, one_vs_ten_billion, one_vs_ten_billion_one_gpu, mt0_vs_mt5),
    )
}


class UnknownRecipe(ValueError):
    """No built-in recipe of that name, no such function in that file, or a file that cannot be imported."""


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
        return _called(RECIPES[reference], reference)
    path, _, name = reference.rpartition(":")
    function = getattr(_import_file(Path(path)), name, None)
    if not callable(function):
        raise UnknownRecipe(f"{path} has no function {name!r}")
    if required := _required_arguments(function):
        raise UnknownRecipe(f"{reference} needs {', '.join(required)}; a recipe is called without arguments")
    study = _called(function, reference)
    if not isinstance(study, Study):
        raise InvalidStudy([f"{reference} returned {type(study).__name__}, not a Study"])
    return study


def _called(function: Callable[[], Any], reference: str) -> Any:
    """The recipe's result; what it raises becomes one sentence.

    Raises:
        InvalidStudy: some part of the study refuses a value, or the recipe's code fails.
    """
    try:
        return function()
    except (InvalidStudy, DataError):
        raise
    except ValueError as error:  # its message is meant for the recipe's author
        raise InvalidStudy([f"{reference}: {error}"]) from error
    except (Exception, SystemExit) as error:
        raise InvalidStudy([f"{reference}: {_place_and_reason(error)}"]) from error


def _required_arguments(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is inspect.Parameter.empty and one.kind not in optional]


def _place_and_reason(error: BaseException) -> str:
    """The kind and message of an error of user code, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    message = " ".join(f"{type(error).__name__}: {error}".split())
    return f"{message} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else message


def _import_file(path: Path) -> object:
    if not path.is_file():
        raise UnknownRecipe(f"no file {path}")
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UnknownRecipe(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise UnknownRecipe(f"{error.filename}, line {error.lineno}: not Python: {error.msg}") from error
    except (InvalidStudy, DataError):
        raise
    except (Exception, SystemExit) as error:
        raise UnknownRecipe(f"{path} cannot be imported: {_place_and_reason(error)}") from error
    ray.cloudpickle.register_pickle_by_value(module)  # workers cannot import a file on the driver's disk
    return module
