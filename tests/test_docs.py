"""The documentation against the tree: links, commands, paths, names and options exist, and README's recipes run.

No page is written by a program, so whatever a page names is looked up here.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

import study.spec
from study.cli.app import app
from study.recipes import RECIPES, load_recipe
from study.spec import Study
from study.spec.data_check import check_data
from trainables.benchmark.variants import VARIANTS
from trainables.data.source import DATA_ROOT_VARIABLE
from trainables.models.catalogue import CATALOGUE
from trainables.store.fingerprint import fingerprint

ROOT = Path(__file__).parents[1]
README, COMMANDS = "README.md", "docs/commands.md"
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (ROOT / README, ROOT / "clusters" / "README.md", *(ROOT / "docs").rglob("*.md"))
)
MOST_LINES = 170  # of README.md; the rest belongs in docs/
TOP_FOLDERS = ("study", "trainables", "analysis", "clusters", "tests", "docs")
# Names in code style that this repository does not define.
FOREIGN = {"AutoModel", "TorchTrainer", "ReadWriteMany", "AccessDenied", "ImageId"}
PLACEHOLDERS = {"P": "1"}  # of a number, in a command line
COMMIT = "c" * 40  # what a hub that answers says of every repository

FENCE = re.compile(r"^[ \t]*```(\w*)\n(.*?)^[ \t]*```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]\[]*\]\(([^()\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")


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


# --- links


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    missing = [
        f"{path}#{anchor}" if anchor else path
        for path, anchor in links(page)
        if not (ROOT / path).exists() or (anchor and anchor not in anchors(path))
    ]
    assert not missing


def test_every_page_is_reached_from_the_index() -> None:
    reached, waiting = set[str](), ["docs/README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page in PAGES:
            reached.add(page)
            waiting += [path for path, _ in links(page)]
    assert set(PAGES) == reached


def test_every_kept_measurement_is_linked_from_the_page_of_measurements() -> None:
    """By itself, or with a folder inside `docs/measured`."""
    linked = {path for path, _ in links("docs/measurements.md")} - {"docs/measured"}
    kept = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "measured").rglob("*") if path.is_file()}
    assert not {path for path in kept if not {path, str(Path(path).parent)} & linked}


def test_every_fault_names_a_test() -> None:
    rows = [line for line in text_of("docs/faults.md").splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 40
    for row in rows:
        assert re.search(r"`tests/[\w/]+\.py`", row.split("|")[3]), row


def test_readme_is_short() -> None:
    assert len(text_of(README).splitlines()) <= MOST_LINES


# --- commands


def command_lines(page: str) -> list[str]:
    """Command lines of a page, in code blocks and in code spans, without a shell's comments."""
    blocks = "\n".join(code for name, code in FENCE.findall(text_of(page)) if name != "python")
    lines = [line.strip() for line in re.sub(r"\\\n\s*", "", blocks).splitlines()]
    return [line.partition(" #")[0].strip() for line in (*lines, *inline_code(page))]


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


def sections(page: str) -> dict[str, str]:
    """The text under each heading of the second level."""
    parts = re.split(r"^## (.*)$", text_of(page), flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


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
    listed = set(re.findall(r"^- `(\w+)`:", text_of(README), re.MULTILINE))
    assert listed == set(command_group().commands)


# --- paths and names

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


# --- recipes


@cache
def snippets() -> dict[str, str]:
    """Recipe files in the pages, by the name in their first line."""
    files = {}
    for page in PAGES:
        for code in fenced(page, "python"):
            if match := re.match(r"# (\w+\.py)\n", code):
                files[match.group(1)] = code
    return files


def write(name: str, folder: Path) -> str:
    """Write a page's recipe file; returns its path."""
    path = folder / name
    path.write_text(snippets()[name], encoding="utf-8")
    return str(path)


def plan_of(reference: str) -> str:
    """What `plan` prints of a recipe."""
    result = CliRunner().invoke(app, ["plan", reference])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(folder))
    return folder


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that answers with a commit."""
    for method in ("dataset_info", "model_info"):
        monkeypatch.setattr(f"huggingface_hub.HfApi.{method}", lambda *_, **__: SimpleNamespace(sha=COMMIT))


@pytest.mark.slow
def test_your_encoder(tmp_path: Path, data_root: Path) -> None:
    from trainables.models.encoder import Shape
    from trainables.models.vocabulary import train_vocabulary

    folder = data_root / "encoders" / "our-org" / "our-encoder"
    tokenizer = train_vocabulary(["the words of a small vocabulary"] * 20, 60)
    Shape(2, 32).build(tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    reference = f"{write('my_encoder.py', tmp_path)}:our_encoder"
    (size,) = load_recipe(reference).sizes
    assert size.encoder.revision.startswith("files:")  # type: ignore[union-attr]
    assert "our-org/our-encoder" in plan_of(reference)


def test_your_task(tmp_path: Path, data_root: Path) -> None:
    folder = data_root / "duplicates"
    folder.mkdir()
    names = ("train-en", "dev-en", "test-en", "test-de", "test-sw")
    for name in names:
        rows = "".join(f"a question {row}\tanother {row}\t{('different', 'same')[row % 2]}\n" for row in range(8))
        (folder / f"{name}.tsv").write_text(f"first\tsecond\tlabel\n{rows}", encoding="utf-8")
    reference = f"{write('my_task.py', tmp_path)}:duplicates"
    loaded = load_recipe(reference)
    task = loaded.targets[0]
    assert (task.name, task.languages) == ("duplicates", ("en", "de", "sw"))
    assert len(task.examples("test", "sw")) == 8
    plan_of(reference)
    (folder / "test-sw.tsv").write_text("first\tsecond\tlabel\na\tb\tperhaps\n", encoding="utf-8")
    with pytest.raises(ValueError, match="duplicates"):
        check_data(load_recipe(reference), lambda line: None)


@pytest.mark.slow
def test_your_data(tmp_path: Path, hub: None) -> None:
    reference = f"{write('my_languages.py', tmp_path)}:our_languages"
    loaded = load_recipe(reference)
    assert {task.languages for task in loaded.targets} == {("en", "de", "ur")}
    assert "xlm-roberta-base" in plan_of(reference)


@pytest.mark.slow
def test_your_cluster(tmp_path: Path, hub: None) -> None:
    """Other resources, the same stages."""
    reference = f"{write('my_cluster.py', tmp_path)}:on_our_gpus"
    ours, original = load_recipe(reference), RECIPES["xtreme_r"]()
    assert {size.resources.accelerator_type for size in ours.sizes} == {"H100"}
    assert _stages(ours) == _stages(original)
    plan_of(reference)


def _stages(recipe: Study) -> set[str]:
    choices = recipe.space.defaults()
    return {fingerprint(stage) for size in recipe.sizes for choice in choices for stage in recipe.chain(size, choice)}


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


def test_the_recipe_of_the_concepts(tmp_path: Path) -> None:
    loaded = load_recipe(f"{write('longer.py', tmp_path)}:longer")
    assert (loaded.name, loaded.trials, loaded.tuning.steps) == ("longer", 20, 400)


def test_the_recipe_of_the_arms(tmp_path: Path) -> None:
    plan = plan_of(f"{write('arms.py', tmp_path)}:arms")
    assert "joint_micro_topic" in plan
    assert "micro_topic_in_de_sw" in plan


def test_every_snippet_is_run_here() -> None:
    """Or, those of the tutorial, in tests/test_tutorial.py."""
    others = {name for code in fenced("docs/tutorial.md", "python") for name in re.findall(r"\A# (\w+\.py)\n", code)}
    assert set(snippets()) - others == {
        "my_encoder.py",
        "my_task.py",
        "my_languages.py",
        "my_cluster.py",
        "longer.py",
        "arms.py",
    }


def test_every_kept_chart_is_in_the_gallery_with_a_caption() -> None:
    parts = re.split(r"^!\[.+\]\((measured/.+)\)$", text_of("docs/gallery.md"), flags=re.MULTILINE)
    captions = dict(zip(parts[1::2], parts[2::2], strict=True))
    kept = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs" / "measured").rglob("*.svg")}
    assert set(captions) == kept
    assert all(len(caption.partition("## ")[0].split()) > 15 for caption in captions.values())
