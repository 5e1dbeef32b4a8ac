"""The pages of the documentation: their prose, code, links and sections.

No page is written by a program, so the tests here look up whatever a page names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from tests.support.commands import ROOT

README, COMMANDS = "README.md", "docs/commands.md"
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / README, ROOT / "clusters" / "README.md", *(ROOT / "docs").rglob("*.md"))
)

FENCE = re.compile(r"^[ \t]*```(\w*)\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\[]*\]\(([^()\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
NAME = re.compile(r"# (\w+\.py)\n")  # of a recipe's file, in its first line


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    """A page without its fenced code."""
    return FENCE.sub("", text_of(page))


def fenced(page: str, language: str | None = None) -> list[str]:
    """The fenced code of a page, of one language."""
    return [code for name, code in FENCE.findall(text_of(page)) if language is None or name == language]


def inline_code(page: str) -> list[str]:
    """Code spans of a page; a span may continue on the next line."""
    joined = re.sub(r"(?<!\n)\n(?![\n|#>*-])", " ", prose(page))
    return [re.sub(r"\s+", " ", code) for code in CODE.findall(joined)]


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(page: str) -> Iterator[tuple[str, str]]:
    """Relative links and images of a page, as a path in the repository and an anchor."""
    for target in LINK.findall(prose(page)):
        if not re.match(r"[a-z]+:", target):
            path, _, anchor = target.partition("#")
            resolved = (ROOT / page).parent / path if path else ROOT / page
            yield resolved.resolve().relative_to(ROOT).as_posix(), anchor


def sections(page: str) -> dict[str, str]:
    """The text under each heading of the second level."""
    parts = re.split(r"^## (.*)$", text_of(page), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@cache
def snippets() -> dict[str, str]:
    """Recipe files in the pages, by the name in their first line."""
    files = {}
    for page in PAGES:
        for code in fenced(page, "python"):
            if match := NAME.match(code):
                files[match.group(1)] = code
    return files
