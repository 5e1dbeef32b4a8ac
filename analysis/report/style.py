"""Style sheet, script and content security policy of the report; the files of `assets/` are written into the page."""

from __future__ import annotations

from pathlib import Path

ASSETS = Path(__file__).parent / "assets"

# The policy forbids all network access. Vega compiles its expressions, hence unsafe-eval.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


def style() -> str:
    """The style sheet."""
    return (ASSETS / "style.css").read_text(encoding="utf-8")


def script() -> str:
    """What draws the charts and answers the controls: one module, so that the files share their names with each other alone."""
    return "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in ("draw.js", "budget.js", "start.js"))
