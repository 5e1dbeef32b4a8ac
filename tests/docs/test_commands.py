"""Command lines in the pages parse, and every command and option is documented."""

from __future__ import annotations

import ast
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from study.cli.app import app
from study.recipes import RECIPES
from tests.docs.pages import COMMANDS, FENCE, PAGES, README, inline_code, sections, snippets, text_of
from tests.support.commands import ROOT

PLACEHOLDERS = {"P": "1"}  # of a number, in a command line


def command_lines(page: str) -> list[str]:
    """Command lines of a page, in code blocks and in code spans, without a shell's comments and redirections."""
    blocks = "\n".join(code for name, code in FENCE.findall(text_of(page)) if name != "python")
    lines = [line.strip() for line in re.sub(r"\\\n\s*", "", blocks).splitlines()]
    return [re.split(" [#>]", line)[0].strip() for line in (*lines, *inline_code(page))]


def study_commands(page: str) -> list[list[str]]:
    """The arguments of the study's own commands on a page; those with a placeholder for a command or options are left out."""
    starts = ("python -m study ", "xstilts ", "clusters/local.sh submit ")
    commands = []
    for line in command_lines(page):
        start = next((start for start in starts if line.startswith(start)), None)
        if start is not None and "..." not in line and "COMMAND" not in line:
            arguments = [PLACEHOLDERS.get(word, word) for word in shlex.split(line.removeprefix(start))]
            commands.append(["submit", *arguments] if start.endswith("submit ") else arguments)
    return commands


@cache
def command_group() -> TyperGroup:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return group


USAGE_ERROR = typer.BadParameter.__bases__[0]


def parse(arguments: list[str]) -> dict[str, Any]:
    """The parameters of a command, which is not run.

    Raises:
        USAGE_ERROR: no such command or option, or a value that it does not take.
    """
    group = command_group()
    parent = group.make_context("study", list(arguments))
    name, command, rest = group.resolve_command(parent, list(arguments))
    assert command is not None
    parameters: dict[str, Any] = command.make_context(name, rest, parent=parent).params
    return parameters


@pytest.mark.parametrize(
    ("page", "arguments"), [(page, arguments) for page in PAGES for arguments in study_commands(page)]
)
def test_study_commands_parse(page: str, arguments: list[str]) -> None:
    if len(arguments) == 1:  # a command's name in a sentence
        assert arguments[0] in command_group().commands
        return
    recipe = parse(arguments).get("recipe")
    if recipe is not None and recipe != "RECIPE":
        path, colon, function = recipe.partition(":")
        if not colon:
            assert recipe in RECIPES
        elif path != "path/to/file.py":
            assert f"def {function}(" in snippets()[path]


def test_the_parser_refuses_what_the_command_line_does() -> None:
    for wrong in (["run", "quickstart", "--no-such-option"], ["nope"], ["run", "quickstart", "--trials", "many"]):
        with pytest.raises(USAGE_ERROR):
            parse(wrong)


BENCHMARK = re.compile(r"^python -m (tests\.[\w.]+)(.*)$")


@pytest.mark.parametrize("page", PAGES)
def test_benchmark_commands_exist(page: str) -> None:
    wrong = []
    for match in filter(None, map(BENCHMARK.match, command_lines(page))):
        module, options = match.groups()
        path = ROOT / f"{module.replace('.', '/')}.py"
        known = _options_of(path) if path.is_file() else set()
        if not path.is_file() or set(re.findall(r"--[\w-]+", options)) - known:
            wrong.append(match.group(0))
    assert not wrong


def _options_of(path: Path) -> set[str]:
    """The options of a Typer command `main`: its parameters by name, and those that are spelled out."""
    source = path.read_text(encoding="utf-8")
    main = next(
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef) and node.name == "main"
    )
    named = {f"--{argument.arg.replace('_', '-')}" for argument in main.args.args}
    return named | set(re.findall(r'"(--[\w-]+)', source))


@pytest.mark.parametrize("command", sorted(command_group().commands))
def test_every_option_is_documented_and_none_that_there_is_not(command: str) -> None:
    """A negation (`--no-...`) may be left out."""
    parameters = command_group().commands[command].params
    options = {option for parameter in parameters for option in parameter.opts if option.startswith("--")}
    negations = {option for parameter in parameters for option in parameter.secondary_opts}
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", sections(COMMANDS)[command]))
    assert options <= mentioned
    assert mentioned <= options | negations


def test_every_command_is_in_the_readme() -> None:
    entries = re.findall(r"^- ((?:`\w+`(?:, )?)+):", text_of(README), re.MULTILINE)
    assert sorted(re.findall(r"\w+", " ".join(entries))) == sorted(command_group().commands)
