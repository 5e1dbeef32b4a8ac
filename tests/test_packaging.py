"""Packaging metadata: what the packages import is declared, what is declared is used, and the wheel ships their data files."""

from __future__ import annotations

import ast
import functools
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PACKAGES = ("study", "trainables", "analysis")
OWN = {*PACKAGES, "clusters", "tests"}
# Modules whose distribution has another name; `google.` is a namespace that several distributions share.
DISTRIBUTIONS = {
    "faiss": "faiss-cpu",
    "google.cloud": "google-cloud-compute",
    "google.protobuf": "protobuf",
    "huggingface_hub": "huggingface-hub",
    "kubernetes_validate": "kubernetes-validate",
    "mlperf_loadgen": "mlcommons-loadgen",
    "optimum_benchmark": "optimum-benchmark",
    "pynvml": "nvidia-ml-py",
    "sklearn": "scikit-learn",
    "vl_convert": "vl-convert-python",
    "xdist": "pytest-xdist",
    "yaml": "pyyaml",
}
# Declared and never imported here: what the libraries above load by themselves.
LOADED_BY_OTHERS = {
    "ninja": "DeepSpeed compiles its communication operator",
    "setuptools": "the same",
    "sentencepiece": "transformers reads mT5's tokenizers",
    "onnx": "torch.onnx writes the exported model",
    "onnxscript": "torch.onnx builds the graph",
}
EXTRAS = ("onnx", "openvino", "float8", "object-storage")
UNDECLARED_PEERS = {"optimum-benchmark"}  # pins versions of its own; `latency_agreement` runs without it


def declared(*extras: str) -> set[str]:
    """Canonical names of the dependencies, and of the extras named."""
    project = _project()
    requirements = [*project["dependencies"]]
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    return {str(canonicalize_name(Requirement(text).name)) for text in requirements} - {project["name"]}


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project


@functools.cache
def trees(folder: str) -> dict[str, ast.Module]:
    """The syntax tree of each module of a folder, by its path in the repository."""
    return {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def imported_distributions(folders: Iterable[str]) -> dict[str, str]:
    """Third-party distributions that the modules import, inside functions too, each with a module that does."""
    return {
        _distribution(name): path
        for folder in folders
        for path, tree in trees(folder).items()
        for name in _imported(tree)
        if _is_third_party(name)
    }


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module)


def _is_third_party(module: str) -> bool:
    top = module.split(".")[0]
    return top not in OWN and top not in sys.stdlib_module_names


def _distribution(module: str) -> str:
    parts = module.split(".")
    top = ".".join(parts[:2]) if parts[0] == "google" else parts[0]
    return str(canonicalize_name(DISTRIBUTIONS.get(top, top)))


def test_every_import_is_declared() -> None:
    missing = {name: path for name, path in imported_distributions(PACKAGES).items() if name not in declared(*EXTRAS)}
    assert not missing


def test_every_dependency_is_used() -> None:
    used = {*imported_distributions(PACKAGES), *LOADED_BY_OTHERS}
    assert not declared(*EXTRAS) - used


def test_every_import_of_the_tests_is_declared() -> None:
    known = declared("dev", "peers", *EXTRAS) | UNDECLARED_PEERS
    missing = {name: path for name, path in imported_distributions(["tests"]).items() if name not in known}
    assert not missing


def test_no_optional_package_is_imported_when_a_module_is() -> None:
    """A module that imports an extra at its top could not be loaded without it."""
    optional = declared(*EXTRAS) - declared()
    eager = [
        f"{path}: {name}"
        for folder in PACKAGES
        for path, tree in trees(folder).items()
        for statement in tree.body
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for name in _imported(statement)
        if _is_third_party(name) and _distribution(name) in optional
    ]
    assert not eager


def test_constraints_pin_only_what_is_declared() -> None:
    extras = [name for name in _project()["optional-dependencies"] if name != "all"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert not {str(canonicalize_name(pin.name)) for pin in pins} - declared(*extras)


def test_metadata_names_files_that_exist() -> None:
    project = _project()
    assert (ROOT / project["readme"]).is_file()
    assert [name for name in project["license-files"] if not (ROOT / name).is_file()] == []
    assert project["license"] == "Apache-2.0"


@pytest.mark.parametrize("package", ["analysis", "clusters", "trainables.models"])
def test_data_files_are_shipped(package: str) -> None:
    """Every file of the folder that is no Python module matches a pattern of `package-data`."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = document["tool"]["setuptools"]["package-data"][package]
    folder = ROOT.joinpath(*package.split("."))
    shipped = {path for pattern in patterns for path in folder.glob(pattern)}
    unpacked = {
        path
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in {".py", ".pyc"} and "__pycache__" not in path.parts
    }
    assert not {path.relative_to(ROOT).as_posix() for path in unpacked - shipped}
