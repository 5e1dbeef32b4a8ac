"""Builds the documentation as a site that is read from disk or from any web server.

    python docs/site/build.py [--output FOLDER]

The pages are README.md (the home page), docs/*.md, clusters/README.md and the notebook docs/example.ipynb. Their links are
written for a code host; here each is rewritten to the page or to a copy of the file. Zensical renders the pages with
`zensical.toml`. A broken link or anchor, a page missing from the navigation and a request to another host are errors.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HERE, DOCS, MEASURED = ROOT / "docs" / "site", ROOT / "docs", ROOT / "docs" / "measured"
NOTEBOOK = DOCS / "example.ipynb"
FILES = "files"  # copies of linked files that are no pages
SHOWN_BY_BROWSERS = {".json", ".svg", ".png", ".txt", ".ipynb"}  # other names get .txt

FENCED = re.compile(r"(^[ \t]*```.*?^[ \t]*```[ \t]*$)", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(\[[^\]\[]*\]\()([^()\s]+)(\))")
FOREIGN = re.compile(r"""<(?:script|link|img|iframe|source)\b[^>]*?\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
KINDS = ("image/png", "text/html", "text/plain")  # of a notebook's output: the first that is there is shown


class BrokenSite(Exception):
    """What is wrong with the pages, one line for each."""


def main() -> None:
    """Build the site; exits with 1 and the reasons where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "site", help="folder of the site, replaced")
    output = parser.parse_args().output
    try:
        build(output)
    except BrokenSite as error:
        sys.exit(str(error))
    print(f"{output / 'index.html'}")


def build(output: Path) -> None:
    """Write the site to `output`, which is replaced.

    Raises:
        BrokenSite: a link leads nowhere, a page is not in the navigation, Zensical warns, or a page asks another host.
    """
    with tempfile.TemporaryDirectory() as scratch:
        project = Path(scratch)
        stage(project)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *_python_path()])}
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BrokenSite(_plain(done.stdout + done.stderr))
        if asking := list(foreign_requests(project / "site")):
            raise BrokenSite("\n".join(asking))
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(project / "site", output)


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _plain(text: str) -> str:
    """Zensical's messages without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# --- pages


def sources() -> dict[Path, str]:
    """Every page by its file in the repository, with its name in the site."""
    pages = {path: path.name for path in sorted(DOCS.glob("*.md"))}
    pages |= {DOCS / "README.md": "overview.md", ROOT / "README.md": "index.md"}
    return pages | {ROOT / "clusters" / "README.md": "cluster_files.md", NOTEBOOK: "example.md"}


def stage(project: Path) -> None:
    """Write the project that Zensical builds: its configuration, pages with links of the site, and linked files.

    Raises:
        BrokenSite: a link leads nowhere, or pages and navigation differ.
    """
    pages, names = project / "pages", sources()
    shutil.copytree(MEASURED, pages / "measured")
    for name in ("site.css", "iframe-worker.js"):
        shutil.copy(HERE / name, pages / name)
    shutil.copy(HERE / "zensical.toml", project / "zensical.toml")
    problems = list(navigation_problems(set(names.values())))
    for source, name in names.items():
        text = notebook_page(pages) if source == NOTEBOOK else source.read_text(encoding="utf-8")
        text = linked(text, source, pages, problems)
        if source == NOTEBOOK:
            text += (
                f"\nThis page is the notebook [{NOTEBOOK.name}]({_copied(NOTEBOOK, pages)}) with its stored outputs.\n"
            )
        (pages / name).write_text(text, encoding="utf-8")
    for folder in (MEASURED, *(path for path in MEASURED.rglob("*") if path.is_dir())):
        staged = pages / folder.relative_to(DOCS)
        (staged / "index.md").write_text(_listing(folder), encoding="utf-8")
    if problems:
        raise BrokenSite("\n".join(problems))


def navigation_problems(pages: set[str]) -> Iterator[str]:
    """Pages that the navigation lacks, and entries without a page."""
    config = tomllib.loads((HERE / "zensical.toml").read_text(encoding="utf-8"))
    listed = set(_listed(config["project"]["nav"]))
    yield from (f"docs/site/zensical.toml: the navigation lacks {page}" for page in sorted(pages - listed))
    yield from (f"docs/site/zensical.toml: no page {page}" for page in sorted(listed - pages))


def _listed(entries: list[dict[str, Any]]) -> Iterator[str]:
    for entry in entries:
        for value in entry.values():
            if isinstance(value, str):
                yield value
            else:
                yield from _listed(value)


def linked(text: str, source: Path, pages: Path, problems: list[str]) -> str:
    """A page's text with the links of its prose as the site has them; files they lead to are copied to `pages`.

    Adds to `problems` the links that lead nowhere, or to a folder that the site has no page for.
    """

    def rewritten(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        path, hash_sign, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", path) or (source == NOTEBOOK and (pages / path).is_file()):
            return match[0]
        file = (source.parent / path).resolve()
        if not file.is_file() and not (file.is_dir() and file.is_relative_to(MEASURED)):
            problems.append(f"{source.relative_to(ROOT)}: {target} is no file, and no folder of docs/measured")
            return match[0]
        return f"{before}{_in_site(file, pages)}{hash_sign}{anchor}{after}"

    parts = FENCED.split(text)
    return "".join(part if number % 2 else LINK.sub(rewritten, part) for number, part in enumerate(parts))


def _in_site(file: Path, pages: Path) -> str:
    """Where the site has a page or file of the repository; a file that is no page is copied."""
    if (name := sources().get(file)) is not None:
        return name
    if file.is_relative_to(MEASURED):
        return file.relative_to(DOCS).as_posix() + ("/index.md" if file.is_dir() else "")
    return _copied(file, pages)


def _copied(file: Path, pages: Path) -> str:
    """Copies a file of the repository into the site; returns its place there."""
    name = f"{FILES}/{file.relative_to(ROOT).as_posix()}" + ("" if file.suffix in SHOWN_BY_BROWSERS else ".txt")
    (pages / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, pages / name)
    return name


def _listing(folder: Path) -> str:
    """A page of a folder's files, which a code host shows by itself."""
    name = folder.relative_to(ROOT).as_posix()
    lines = [f"# {name}", "", "| file | kB |", "|---|---|"]
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.is_dir():
            lines.append(f"| [{path.name}/]({path.name}/index.md) | |")
        else:
            lines.append(f"| [{path.name}]({path.name}) | {path.stat().st_size / 1e3:.1f} |")
    return "\n".join([*lines, ""])


# --- the notebook


def notebook_page(pages: Path) -> str:
    """The notebook as Markdown with its stored outputs; its pictures are written beside the page."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    parts, heading = list[str](), ""
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            shown = [_output(output["data"], pages / f"example-{number}.png", heading) for output in cell["outputs"]]
            parts += [f"```python\n{source}\n```", *shown]
        else:
            heading = (re.findall(r"^#+ (.*)$", source, re.MULTILINE) or [heading])[-1]
            parts.append(source)
    return "\n\n".join(parts) + "\n"


def _output(data: dict[str, Any], picture: Path, heading: str) -> str:
    """A cell's value as Markdown: a picture named after the heading above it, a table or text."""
    kind = next(key for key in KINDS if key in data)
    content = "".join(data[kind])
    if kind == "image/png":
        picture.write_bytes(base64.b64decode(content))
        return f"![{heading}]({picture.name})"
    return _table(content) if kind == "text/html" else f"```text\n{content}\n```"


def _table(html: str) -> str:
    """A frame's HTML in the site's own style."""
    return re.sub(r"<style.*?</style>|<div>|</div>| border=\"1\" class=\"dataframe\"", "", html, flags=re.DOTALL)


# --- requests


def foreign_requests(site: Path) -> Iterator[str]:
    """Elements of the site's pages that would make a browser ask another host, and such URLs in style sheets."""
    for page in sorted(site.rglob("*.html")):
        for match in FOREIGN.finditer(page.read_text(encoding="utf-8")):
            if 'rel="canonical"' not in match[0]:
                yield f"{page.relative_to(site)}: {match[0]}"
    for sheet in sorted(site.rglob("*.css")):
        for match in re.finditer(r"(?:@import|url\()\s*[\"']?(?:https?:)?//[^)\s]+", sheet.read_text(encoding="utf-8")):
            yield f"{sheet.relative_to(site)}: {match[0]}"


if __name__ == "__main__":
    main()
