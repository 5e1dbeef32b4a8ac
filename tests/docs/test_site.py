"""The documentation's site: its links and navigation, and its pages as a reader opens them from disk."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import pytest

from tests.support.browser import Browser
from tests.support.commands import ROOT

BUILDER = ROOT / "docs" / "site" / "build.py"
CI = bool(os.environ.get("CI"))
needs_zensical = pytest.mark.skipif(
    importlib.util.find_spec("zensical") is None and not CI, reason="no Zensical here: pip install -e '.[docs]'"
)


@pytest.fixture(scope="module")
def builder() -> ModuleType:
    """The module docs/site/build.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("site_builder", BUILDER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "site"
    done = subprocess.run([sys.executable, str(BUILDER), "--output", str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


# --- links and navigation


@pytest.mark.parametrize(
    ("source", "link", "in_site"),
    [
        ("docs/tasks.md", "encoders.md#cards", "encoders.md#cards"),
        ("docs/tasks.md", "../README.md#your-task", "index.md#your-task"),
        ("docs/clusters.md", "../clusters/README.md", "cluster_files.md"),
        ("README.md", "docs/README.md", "overview.md"),
        ("README.md", "docs/measured/first_run.json", "measured/first_run.json"),
        ("docs/results.md", "measured/laptop", "measured/laptop/index.md"),
        ("docs/tutorial.md", "example.ipynb", "example.md"),
        ("README.md", "LICENSE", "files/LICENSE.txt"),
        ("docs/concepts.md", "../study/recipes/quickstart.py", "files/study/recipes/quickstart.py.txt"),
        ("docs/tasks.md", "#mixtures", "#mixtures"),
        ("docs/tasks.md", "https://example.org/a", "https://example.org/a"),
    ],
)
def test_links_for_a_code_host_become_links_of_the_site(
    builder: ModuleType, tmp_path: Path, source: str, link: str, in_site: str
) -> None:
    problems: list[str] = []
    code = f"```\n[code]({link})\n```\n"
    assert builder.linked(f"{code}[a]({link}) b\n", ROOT / source, tmp_path, problems) == f"{code}[a]({in_site}) b\n"
    assert not problems
    if in_site.startswith("files/"):
        original = (ROOT / source).parent / link
        assert (tmp_path / in_site).read_bytes() == original.read_bytes()


@pytest.mark.parametrize("link", ["nothing.md", "../study", "measured/nothing.json"])
def test_a_link_that_leads_nowhere_is_an_error(builder: ModuleType, tmp_path: Path, link: str) -> None:
    problems: list[str] = []
    builder.linked(f"[a]({link})", ROOT / "docs" / "tasks.md", tmp_path, problems)
    assert problems == [f"docs/tasks.md: {link} is no file, and no folder of docs/measured"]


def test_the_navigation_has_every_page_and_no_other(builder: ModuleType) -> None:
    pages = set(builder.sources().values())
    assert not list(builder.navigation_problems(pages))
    changed = (pages - {"faults.md"}) | {"new.md"}
    assert list(builder.navigation_problems(changed)) == [
        "docs/site/zensical.toml: the navigation lacks new.md",
        "docs/site/zensical.toml: no page faults.md",
    ]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.html", '<script src="https://cdn.example/x.js">', True),
        ("a.html", '<link rel="stylesheet" href="//fonts.example/css">', True),
        ("a.css", "@import 'https://fonts.example/css';", True),
        ("a.css", "a { background: url(https://cdn.example/x.png) }", True),
        ("a.html", '<a href="https://example.org">a link asks nobody until it is followed</a><img src="x.png">', False),
    ],
)
def test_a_request_to_another_host_is_found(
    builder: ModuleType, tmp_path: Path, name: str, content: str, found: bool
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert bool(list(builder.foreign_requests(tmp_path))) == found


# --- the pages


@needs_zensical
@pytest.mark.slow
def test_every_link_of_the_built_pages_leads_to_a_file(site: Path) -> None:
    missing = set()
    for page in site.rglob("*.html"):
        if page.name != "404.html":  # its links start at the root of a server
            for target in re.findall(r'(?:href|src)="([^"#?]+)', page.read_text(encoding="utf-8")):
                if not re.match(r"[a-z]+:", target) and not (page.parent / unquote(target)).is_file():
                    missing.add(f"{page.relative_to(site)}: {target}")
    assert not missing


@needs_zensical
@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("width", [400, 1280])
def test_every_page_is_readable_without_a_network(
    browser: Browser, site: Path, builder: ModuleType, width: int
) -> None:
    """No warning, no request, every picture loaded; code, tables and charts alone scroll sideways; dark if asked for."""
    wrong = []
    for name in sorted(builder.sources().values()):
        for dark in (False, True):
            browser.open(site / name.replace(".md", ".html"), width=width, dark=dark)
            asked = [url for url in browser.requests if not url.startswith(("file:", "data:", "blob:", "about:"))]
            broken = browser.evaluate("[...document.images].filter((i) => !i.naturalWidth).map((i) => i.src)")
            too_wide = browser.evaluate("document.documentElement.scrollWidth > innerWidth")
            scheme = browser.evaluate("document.body.dataset.mdColorScheme")
            if asked or broken or too_wide or browser.messages or scheme != ("slate" if dark else "default"):
                wrong.append((name, dark, asked, broken, too_wide, list(browser.messages), scheme))
    assert not wrong


@needs_zensical
@pytest.mark.slow
@pytest.mark.browser
def test_the_search_finds_a_page_from_disk(browser: Browser, site: Path) -> None:
    browser.open(site / "index.html", width=1280)
    results = "[...document.querySelectorAll('*')].map((e) => e.shadowRoot?.textContent ?? '').join(' ')"
    browser.evaluate("document.querySelector('.md-search__button').click()")
    browser.wait_for("[...document.querySelectorAll('*')].some((e) => e.shadowRoot?.querySelector('input'))")
    browser.type_text("hypervolume")
    browser.wait_for(f"({results}).includes('analysis.hypervolumes')", timeout_s=90)
    assert browser.messages == []
