"""The examples that an evaluation needs are read once and stored with their features."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import recipes
from trainables.data.examples import (
    BitextExample,
    ChoiceExample,
    Example,
    PairExample,
    RetrievalPair,
    RetrievalText,
    SpanExample,
    TaggingExample,
    TextExample,
)
from trainables.data.stored import read_examples, writing_examples
from trainables.stages.base import Workplace, ensure
from trainables.stages.tokenise import EXAMPLES
from trainables.store.stage_store import StageStore

EVERY_KIND: tuple[Example, ...] = (
    PairExample("1", "a", None, 0),
    PairExample("2", "a\n", "b\u2028 ü", 1),
    ChoiceExample("3", "c", ("x", "y"), 1),
    TaggingExample("4", ("w",), ("O",)),
    TaggingExample("5", (), ()),
    SpanExample("6", "q", "an answer", (("answer", 3), ("an", 0))),
    SpanExample("7", "q", "", ()),
    BitextExample("8", "s", "t"),
    RetrievalPair("9", "q", "a"),
    RetrievalText("10", "q", None, ("1", "2")),
    RetrievalText("11", "candidate", "passage"),
    TextExample("12", "t"),
)


def test_examples_of_every_kind_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "examples.arrow"
    with writing_examples(path) as write:
        write("dev/en", EVERY_KIND[:5])
        write("dev/en", EVERY_KIND[5:])
        write("test/en", [])
        write("test/de", EVERY_KIND[::-1])
    assert read_examples(path, "dev/en") == EVERY_KIND
    assert read_examples(path, "test/de") == EVERY_KIND[::-1]
    assert read_examples(path, "test/en") == read_examples(path, "test/fr") == ()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Splits and languages that were read from the task's source."""
    done: list[tuple[str, str]] = []
    task_class = type(recipes.tiny().targets[0])
    read = task_class.examples

    def counted(task: object, split: str, language: str) -> object:
        done.append((split, language))
        return read(task, split, language)  # type: ignore[arg-type]

    monkeypatch.setattr(task_class, "examples", counted)
    return done


def test_an_evaluation_reads_the_store_and_not_the_source(tmp_path: Path, reads: list[tuple[str, str]]) -> None:
    study = recipes.inline()
    evaluate = study.chain(study.sizes[0], study.space.defaults()[0])[0]
    work = Workplace(StageStore(tmp_path))
    ensure(evaluate.features, work)
    assert len(reads) == len(evaluate.features.sets)
    reads.clear()
    sets = evaluate.sets(work)
    assert reads == []
    assert [(scored.split, scored.language) for scored in sets] == list(evaluate.features.sets)
    of_source = [evaluate.task.examples(split, language) for split, language in evaluate.features.sets]
    assert [tuple(scored.examples) for scored in sets] == list(map(tuple, of_source))

    # A table of an earlier version has no examples beside it.
    (work.store.folder(evaluate.features) / EXAMPLES).unlink()
    assert [tuple(scored.examples) for scored in evaluate.sets(work)] == list(map(tuple, of_source))
