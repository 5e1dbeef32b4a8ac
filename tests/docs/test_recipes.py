"""The recipes that the pages show load, and do what their page says; nothing is trained."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from study.cli.app import app
from study.recipes import RECIPES, load_recipe
from study.spec import Study
from study.spec.data_check import check_data
from tests.docs.pages import NAME, fenced, snippets
from trainables.data.source import DATA_ROOT_VARIABLE
from trainables.store.fingerprint import fingerprint

COMMIT = "c" * 40  # what a hub that answers says of every repository


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


def test_the_recipe_of_the_concepts(tmp_path: Path) -> None:
    loaded = load_recipe(f"{write('longer.py', tmp_path)}:longer")
    assert (loaded.name, loaded.trials, loaded.tuning.steps) == ("longer", 20, 400)


def test_the_recipe_of_the_arms(tmp_path: Path) -> None:
    plan = plan_of(f"{write('arms.py', tmp_path)}:arms")
    assert "joint_micro_topic" in plan
    assert "micro_topic_in_de_sw" in plan


def test_every_snippet_is_run_here() -> None:
    """Or, those of the tutorial, in `tests/docs/test_tutorial.py`."""
    others = {name[1] for code in fenced("docs/tutorial.md", "python") if (name := NAME.match(code))}
    assert set(snippets()) - others == {
        "my_encoder.py",
        "my_task.py",
        "my_languages.py",
        "my_cluster.py",
        "longer.py",
        "arms.py",
    }
