"""Which package may import which, and that the command line starts without the heavy ones."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("study", "trainables", "analysis", "clusters")
FORBIDDEN = {
    "trainables": {"study", "analysis", "clusters"},
    "analysis": {"study", "trainables", "clusters"},
    "study": {"clusters"},
}
MODULES = [path for package in FORBIDDEN for path in sorted((ROOT / package).rglob("*.py"))]


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Top-level names of all imports, also inside functions; a relative one stays in its package."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield package if node.level else str(node.module).split(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_arrows(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not set(imported(tree, package)) & FORBIDDEN[package]


def test_the_check_sees_imports_and_modules() -> None:
    tree = ast.parse("def f():\n    import study.spec.study as s\n    from analysis import load\n    from . import x\n")
    assert set(imported(tree, "trainables")) == {"study", "analysis", "trainables"}
    assert len(MODULES) > 30


HEAVY = {"torch", "ray", "mlflow", "transformers", "deepspeed", "optuna"}


@pytest.mark.parametrize(
    ("module", "needless"),
    [
        ("study.cli.app", HEAVY),
        ("study.cluster.progress_actor", HEAVY - {"ray"}),
        ("study.recipes.xtreme_r", {"mlflow", "deepspeed", "transformers.modeling_utils"}),
        ("study.run.driver", {"deepspeed", "transformers.modeling_utils"}),
        ("trainables.stages.chain", {"mlflow", "deepspeed", "transformers.modeling_utils"}),
    ],
)
def test_a_process_imports_what_it_needs(module: str, needless: set[str]) -> None:
    """Whoever reads a recipe, plans, drives or keeps count pays nothing for what only training needs."""
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(json.loads(done.stdout))
    assert module in loaded
    assert not loaded & needless
