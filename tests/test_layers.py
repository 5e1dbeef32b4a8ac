"""Which module may import which: between packages, between rooms inside a package; and what a process loads at start-up."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "trainables": {"study", "analysis", "clusters"},
    "analysis": {"study", "trainables", "clusters"},
    "study": {"clusters"},
}
# From the bottom up: a room imports only rooms before it. Modules of one room may import each other.
LAYERS = {
    "study": (
        *("redact", "errors", "console", "spec", "recipes", "tracking", "cluster"),
        *("search", "benchmarking", "planning", "evidence", "watch", "run", "cli", "__main__"),
    ),
    "trainables": (
        *("fields", "hyperparameters", "out_of_memory", "resources", "metrics", "data", "tasks", "heads", "models"),
        *("store", "training", "evaluation", "unlabelled", "stages", "estimators", "launch", "benchmark"),
    ),
    "trainables.benchmark": (
        *("placement", "scenarios", "probes", "settings", "measurement", "repeats", "flips"),
        *("results", "variants", "benchmark", "subjects", "actor"),
    ),
    "analysis": ("store", "tables", "charts", "report"),
}
MOST_MODULES = 16  # in a folder; more of them should be split into rooms


def modules(package: str) -> list[Path]:
    return sorted(ROOT.joinpath(*package.split(".")).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported(tree: ast.AST, package: str) -> Iterator[str]:
    """Dotted names of all imports, also inside functions; a relative import stays in its package.

    `from a import b` yields `a` and `a.b`, because `b` may be a module.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package if node.level else str(node.module)
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def upward(name: str, tree: ast.AST, package: str, layers: tuple[str, ...]) -> list[str]:
    """Imports of the module `name` that point upward between the layers of `package`."""
    room = name.removeprefix(f"{package}.").split(".")[0]
    wrong = []
    for other in imported(tree, package):
        if other.startswith(f"{package}."):
            target = other.removeprefix(f"{package}.").split(".")[0]
            if target in layers and target != room and layers.index(target) > layers.index(room):
                wrong.append(f"{name} -> {other}")
    return wrong


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_arrows_between_packages(package: str) -> None:
    wrong = [
        f"{module_name(path)} -> {other}"
        for path in modules(package)
        for other in imported(ast.parse(path.read_text(encoding="utf-8")), package)
        if other.split(".")[0] in FORBIDDEN[package]
    ]
    assert not wrong


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_layers_inside_a_package(package: str) -> None:
    wrong = []
    for path in modules(package):
        name = module_name(path)
        if name != package:  # a package's own `__init__` re-exports from all rooms
            wrong += upward(name, ast.parse(path.read_text(encoding="utf-8")), package, LAYERS[package])
    assert not wrong


@pytest.mark.parametrize("package", sorted(LAYERS))
def test_every_room_has_its_layer(package: str) -> None:
    folder = ROOT.joinpath(*package.split("."))
    rooms = {path.stem for path in folder.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert rooms - {"__init__"} == set(LAYERS[package])


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_no_folder_hides_rooms_and_each_says_what_belongs_there(package: str) -> None:
    folders = {path.parent for path in modules(package)}
    crowded = {
        folder.relative_to(ROOT).as_posix(): count
        for folder in folders
        if (count := len(list(folder.glob("*.py")))) > MOST_MODULES
    }
    silent = [
        folder.relative_to(ROOT).as_posix()
        for folder in folders
        if not ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    ]
    assert not crowded
    assert not silent


def test_the_checks_see_what_they_forbid() -> None:
    tree = ast.parse("def f():\n    import study.spec.study as s\n    from analysis import load\n    from . import x\n")
    assert set(imported(tree, "trainables")) == {
        *("study.spec.study", "analysis", "analysis.load", "trainables", "trainables.x"),
    }
    layers = ("spec", "search", "run")
    assert upward("study.search.x", ast.parse("from study.run.driver import y"), "study", layers) == [
        *("study.search.x -> study.run.driver", "study.search.x -> study.run.driver.y"),
    ]
    assert upward("study.search.x", ast.parse("from study import run"), "study", layers) == [
        "study.search.x -> study.run"
    ]
    assert not upward("study.run.x", ast.parse("from study.spec import y\nimport study.search.z"), "study", layers)


HEAVY = {"torch", "ray", "mlflow", "transformers", "deepspeed", "optuna"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "needless"),
    [
        ("study.cli.app", HEAVY),
        ("study.errors", HEAVY),
        ("study.run.output_folder", HEAVY),
        ("study.cluster.progress_actor", HEAVY - {"ray"}),
        ("study.recipes.xtreme_r", {"mlflow", "deepspeed", "transformers.modeling_utils"}),
        ("study.run.driver", {"deepspeed", "transformers.modeling_utils"}),
        ("trainables.stages.chain", {"mlflow", "deepspeed", "transformers.modeling_utils"}),
    ],
)
def test_a_process_imports_what_it_needs(module: str, needless: set[str]) -> None:
    """Reading a recipe, planning, driving and reporting progress do not import what only training needs."""
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(json.loads(done.stdout))
    assert module in loaded
    assert not loaded & needless


@pytest.mark.slow
def test_tables_load_no_chart_library() -> None:
    """A notebook or a command that wants numbers does not wait for Altair."""
    names = [module_name(path) for path in modules("analysis.tables")]
    code = f"import json, sys, {', '.join(names)}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(json.loads(done.stdout))
    assert set(names) <= loaded
    assert not loaded & {"altair", "vl_convert", "analysis.report.write"}


def test_only_the_store_s_own_package_chooses_where_stages_are_kept() -> None:
    """Elsewhere `open_store` opens them, or a study in a bucket is looked for in a folder of this machine."""
    where = {
        path.relative_to(ROOT).parts[:2]
        for package in ("study", "trainables", "analysis")
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"(?<!Bucket)\bStageStore\(", path.read_text(encoding="utf-8"))
    }
    assert where == {("trainables", "store")}
