"""Where a run in MLflow comes from: the recipe, how it was started, its git commit, and the user."""

from __future__ import annotations

import getpass
import inspect
import os
import subprocess
from pathlib import Path

from study.recipes import RECIPES

RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray's job server sets it for what it starts
GIT_S = 10.0


def source_tags(recipe: str | None) -> dict[str, str]:
    """MLflow's own tags of a run's source. `recipe` is as on the command line; None where a program runs the study.

    The commit is that of the recipe's file, and missing unless git tracks that file. Its remote is left out: the URL may hold a
    password.
    """
    commit, user = git_commit(recipe_file(recipe)), _user()
    return {
        "mlflow.source.name": recipe or "run_study",
        "mlflow.source.type": "JOB" if RAY_JOB in os.environ else "LOCAL",
        **({} if commit is None else {"mlflow.source.git.commit": commit}),
        **({} if user is None else {"mlflow.user": user}),
    }


def recipe_file(recipe: str | None) -> Path:
    """The recipe's file; this one for a study without a recipe."""
    if recipe is None:
        return Path(__file__)
    if recipe in RECIPES:
        return Path(inspect.getfile(RECIPES[recipe]))
    return Path(recipe.rpartition(":")[0])


def git_commit(file: Path) -> str | None:
    """The commit that is checked out where the file is; None if git does not track the file, or is missing."""
    folder, name = str(file.resolve().parent), file.resolve().name
    # A file that git does not track, such as an installed package below a project, says nothing about a commit.
    if _git("-C", folder, "ls-files", "--error-unmatch", "--", name) is None:
        return None
    return _git("-C", folder, "rev-parse", "HEAD")


def _git(*arguments: str) -> str | None:
    try:
        ran = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=GIT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip() or None


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        return None
