"""What the examples in docs/api.md and docs/example.ipynb show is what their code shows now."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import analysis
from tests.support.examples import API, NOTEBOOK, executed, read_notebook, with_output

REMEDY = "run python -m tests.support.examples"
MOST_LINES = 10  # of code for a figure


@pytest.mark.slow
def test_the_sessions_print_what_the_page_says() -> None:
    page = API.read_text(encoding="utf-8")
    assert with_output(page) == page, REMEDY


def test_an_output_that_changed_is_found() -> None:
    page = "```pycon\n>>> print(1 + 1)\n3\n>>> for n in range(2):\n...     n\n>>> 1 / 0\n```\n"
    ran = "```pycon\n>>> print(1 + 1)\n2\n>>> for n in range(2):\n...     n\n0\n1\n>>> 1 / 0\n"
    error = "Traceback (most recent call last):\n    ...\nZeroDivisionError: division by zero\n```\n"
    assert with_output(page) == ran + error


def test_everything_public_is_described_and_used_in_an_example() -> None:
    page = API.read_text(encoding="utf-8")
    assert set(re.findall(r"^::: analysis\.(\w+)$", page, re.MULTILINE)) == set(analysis.__all__)
    functions = {name for name in analysis.__all__ if not isinstance(getattr(analysis, name), type)}
    run = set(re.findall(r"analysis\.(\w+)", "\n".join(re.findall(r"^(?:>>>|\.\.\.) .*$", page, re.MULTILINE))))
    elsewhere = {"load", "save", "joined"}  # in the tutorial, tests/analysis/test_saved.py and the notebook
    assert functions - run == elsewhere


@pytest.mark.slow
def test_the_notebook_shows_what_its_code_does() -> None:
    """Charts are compared by what they draw (`specification`), tables by their text."""
    stored = read_notebook()
    for old, new in zip(_outputs(stored), _outputs(executed(stored)), strict=True):
        pictures = [output["data"].pop("image/png", None) for output in (old, new)]
        assert old == new, REMEDY
        assert (pictures[0] is None) == (pictures[1] is None)


def _outputs(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [output for cell in notebook["cells"] for output in cell.get("outputs", ())]


def test_the_notebook_is_complete_short_and_has_no_path_of_a_machine() -> None:
    notebook = read_notebook()
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert all(cell["outputs"] and len(cell["source"]) <= MOST_LINES for cell in code)
    figures = [output for output in _outputs(notebook) if "image/png" in output["data"]]
    assert len(figures) == 2
    assert all(figure["data"]["image/png"].startswith("iVBOR") for figure in figures)  # PNG in base64
    text = json.dumps([cell["source"] for cell in notebook["cells"]] + [_without_pictures(notebook)])
    assert not re.findall(r"/(?:home|root|tmp|work|Users)/", text)


def _without_pictures(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [{name: part for name, part in o["data"].items() if name != "image/png"} for o in _outputs(notebook)]


def test_the_notebook_is_written_as_it_is_read() -> None:
    """Running it again changes outputs alone."""
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert json.dumps(json.loads(text), indent=1, ensure_ascii=False, sort_keys=True) + "\n" == text
