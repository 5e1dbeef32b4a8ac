"""What the pages name in code style exists: paths, modules, classes with their fields; and built-in names are listed."""

from __future__ import annotations

import re
from functools import cache

import pytest

import study.spec
from study.recipes import RECIPES
from tests.docs.pages import PAGES, inline_code, sections
from tests.support.commands import ROOT
from trainables.benchmark.variants import VARIANTS
from trainables.models.catalogue import CATALOGUE

TOP_FOLDERS = ("study", "trainables", "analysis", "clusters", "tests", "docs")
# Names in code style that this repository does not define.
FOREIGN = {"AutoModel", "TorchTrainer", "ReadWriteMany", "AccessDenied", "ImageId"}

PATH = re.compile(rf"^(?:{'|'.join(TOP_FOLDERS)})/[\w./*@-]*$")
MODULE = re.compile(rf"^(?:{'|'.join(TOP_FOLDERS)})(?:\.\w+)+$")
CLASS = re.compile(r"^([A-Z][a-z]+[A-Z]\w*|[A-Z][a-z]+(?=\())(\(.*\))?$")


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_code_style_exist(page: str) -> None:
    paths = [code for code in inline_code(page) if PATH.match(code)]
    assert not [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]


@pytest.mark.parametrize("page", PAGES)
def test_modules_in_code_style_exist(page: str) -> None:
    missing = []
    for code in filter(MODULE.match, inline_code(page)):
        path = ROOT / code.replace(".", "/")
        parent = path.parent.with_suffix(".py")
        exists = path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()
        if not exists and not (parent.is_file() and _defines(parent.read_text(encoding="utf-8"), path.name)):
            missing.append(code)
    assert not missing


@cache
def sources() -> str:
    folders = ("study", "trainables", "analysis", "tests")
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def _defines(source: str, name: str) -> bool:
    return re.search(rf"^(?:class|def) {name}\b|^{name}\b.*=", source, re.MULTILINE) is not None


@pytest.mark.parametrize("page", PAGES)
def test_classes_in_code_style_exist_with_their_fields(page: str) -> None:
    wrong = []
    for name, call in (match.groups() for match in filter(None, map(CLASS.match, inline_code(page)))):
        if name not in FOREIGN and not _defines(sources(), name):
            wrong.append(name)
        elif call and hasattr(study.spec, name) and call != "(...)":
            fields = set(getattr(study.spec, name).__dataclass_fields__)
            keywords = set(re.findall(r"[(,] ?(\w+)=", call))
            wrong += [f"{name}({keyword}=)" for keyword in keywords - fields]
    assert not wrong


@pytest.mark.parametrize(
    ("page", "section", "names"),
    [
        ("docs/concepts.md", "A recipe", set(RECIPES)),
        ("docs/benchmark.md", "Variants", set(VARIANTS)),
        ("docs/encoders.md", "Published checkpoints", set(CATALOGUE)),
    ],
)
def test_built_in_names_are_listed(page: str, section: str, names: set[str]) -> None:
    assert names <= set(re.findall(r"`([\w-]+)`", sections(page)[section]))
