"""Runs the examples of the documentation and stores what they show.

    python -m tests.support.examples

The sessions in `docs/api.md` (blocks marked `pycon`) get their output, the cells of `docs/example.ipynb` theirs: tables as text
and HTML, charts as PNG. No Jupyter is needed. `tests/docs/test_examples.py` compares what is stored with what the code
shows now.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import copy
import doctest
import hashlib
import io
import json
import re
import traceback
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert as vlc

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
API, NOTEBOOK = DOCS / "api.md", DOCS / "example.ipynb"
SESSION = re.compile(r"(^```pycon\n)(.*?)(^```$)", re.MULTILINE | re.DOTALL)
PNG_SCALE = 2.0
DIGITS = 6  # of a chart's numbers that are compared


def main() -> None:
    """Run everything and write the outputs."""
    API.write_text(with_output(API.read_text(encoding="utf-8")), encoding="utf-8")
    write_notebook(executed(read_notebook()))


# --- sessions of a page


def with_output(page: str) -> str:
    """The page with the output of its sessions, which share their names and run in the repository's root."""
    names: dict[str, Any] = {}
    with contextlib.chdir(ROOT):
        return SESSION.sub(lambda match: f"{match[1]}{_session(match[2], names)}{match[3]}", page)


def _session(text: str, names: dict[str, Any]) -> str:
    shown = []
    for example in doctest.DocTestParser().get_examples(text):
        first, *more = example.source.rstrip("\n").split("\n")
        shown += [f">>> {first}", *(f"... {line}".rstrip() for line in more), *_shown(example.source, names)]
    return "\n".join([*shown, ""])


def _shown(source: str, names: dict[str, Any]) -> list[str]:
    """What an interactive interpreter prints for a statement; of an exception the last line, as doctest reads it."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        try:
            exec(compile(source, "<example>", "single"), names)
        except Exception as error:
            last = traceback.format_exception_only(error)[-1].rstrip()
            print(f"Traceback (most recent call last):\n    ...\n{last}")
    return [line.rstrip() for line in output.getvalue().splitlines()]


# --- the notebook


def read_notebook() -> dict[str, Any]:
    """The notebook's JSON document."""
    notebook: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return notebook


def write_notebook(notebook: dict[str, Any]) -> None:
    """Write the notebook as Jupyter formats it."""
    NOTEBOOK.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with new outputs. Its cells run in order, in its folder, as a new kernel would run them."""
    notebook, names, count = copy.deepcopy(notebook), dict[str, Any](), 0
    with contextlib.chdir(NOTEBOOK.parent):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                count += 1
                cell["execution_count"] = count
                cell["outputs"] = _outputs("".join(cell["source"]), names, count)
    return notebook


def _outputs(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """What a cell prints, and the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = tree.body[-1]
    shown = last.value if isinstance(last, ast.Expr) else None
    tree.body = tree.body[:-1] if shown else tree.body
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        value = eval(compile(ast.Expression(shown), "<cell>", "eval"), names) if shown else None
    outputs: list[dict[str, Any]] = []
    if text := printed.getvalue():
        outputs.append({"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)})
    if value is not None:
        result = {"data": _display(value), "execution_count": count, "output_type": "execute_result"}
        outputs.append(result | {"metadata": _metadata(value)})
    return outputs


def _display(value: Any) -> dict[str, Any]:
    if _is_chart(value):
        picture = base64.b64encode(vlc.vegalite_to_png(value.to_json(), scale=PNG_SCALE)).decode()
        return {"image/png": picture, "text/plain": [f"alt.{type(value).__name__}(...)"]}
    shown: dict[str, Any] = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "_repr_html_"):
        shown |= {"text/html": value._repr_html_().splitlines(keepends=True)}
    return shown


def _metadata(value: Any) -> dict[str, str]:
    """Of a chart: a digest of its specification. Pictures differ with fonts and versions; what they show does not."""
    if not _is_chart(value):
        return {}
    specification = {name: part for name, part in value.to_dict().items() if name not in ("$schema", "config")}
    text = json.dumps(_rounded(specification), sort_keys=True)
    return {"specification": hashlib.sha256(text.encode()).hexdigest()[:16]}


def _is_chart(value: Any) -> bool:
    return isinstance(value, alt.TopLevelMixin)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return round(value, DIGITS) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
