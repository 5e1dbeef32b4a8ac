"""The text of masked language modelling: generated, from files, or from Wikipedia; and its identity."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from study.spec.data_check import check_data
from tests.support.recipes import SMALL
from tests.trainables.tasks.test_masked_studies import study_with
from tests.trainables.tasks.test_masked_training import BASE, TEXT
from trainables.data.examples import TextExample
from trainables.data.source import DATA_ROOT_VARIABLE, DataError
from trainables.stages.tokenise import Tokenise
from trainables.store.fingerprint import fingerprint
from trainables.tasks.micro.intermediate import MicroTopic
from trainables.tasks.micro.masked_lm import MicroMaskedLm
from trainables.tasks.mixture import Mixture
from trainables.tasks.pinning import pinned
from trainables.tasks.unlabelled.masked_lm import ARTICLES, MaskedLm


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with German and Swahili text."""
    (tmp_path / "text").mkdir()
    (tmp_path / "text/de.txt").write_text("Ein Satz.\n\nNoch einer.\n  Und ein dritter. \n", encoding="utf-8")
    (tmp_path / "text/sw.txt").write_text("Habari ya asubuhi.\nKaribu.\n", encoding="utf-8")
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    return tmp_path


def test_languages_without_text_are_refused() -> None:
    with pytest.raises(ValueError, match="masked_lm: no data in tlh; its languages are af, ar"):
        MaskedLm(languages_=("de", "tlh"))
    with pytest.raises(ValueError, match="no CLDR coverage for tlh"):
        MicroMaskedLm(languages_=("tlh",))
    with pytest.raises(ValueError, match="a language besides English"):
        MicroMaskedLm(languages_=("en",))
    for task in (TEXT, MaskedLm(languages_=("de", "zh"))):
        with pytest.raises(ValueError, match="no dev"):
            task.examples("dev", "de")
        with pytest.raises(ValueError, match=r"no train s\w+ in '?xx"):
            task.examples("train", "xx")


def test_generated_text_is_in_its_languages_and_depends_on_the_seed() -> None:
    task = MicroMaskedLm(languages_=("en", "de", "zh"), train_size=30)
    texts = {language: [example.text for example in task.examples("train", language)] for language in task.languages}
    assert all(20 < len(set(of_language)) <= 30 for of_language in texts.values())
    assert all(any("一" <= character <= "鿿" for character in text) for text in texts["zh"])
    assert not set(texts["en"]) & set(texts["de"])
    other = dataclasses.replace(task, seed=1)
    assert [example.text for example in other.examples("train", "de")] != texts["de"]
    assert [example.text for example in dataclasses.replace(task).examples("train", "de")] == texts["de"]


def test_files_are_read_line_by_line(root: Path) -> None:
    task = pinned(MaskedLm(languages_=("de", "sw")))
    assert task.data.startswith("files:")
    assert task.splits() == task.for_training().splits() == [("train", "de"), ("train", "sw")]
    german = [TextExample("1", "Ein Satz."), TextExample("3", "Noch einer."), TextExample("4", "Und ein dritter.")]
    assert list(task.examples("train", "de")) == german
    swahili = [TextExample("1", "Habari ya asubuhi."), TextExample("2", "Karibu.")]
    assert list(task.for_training().examples("train", "sw")) == swahili
    samples = [
        MaskedLm(languages_=("de",), train_size=2, sample_seed=seed).examples("train", "de") for seed in range(8)
    ]
    assert {len(sample) for sample in samples} == {2}
    assert set().union(*samples) == set(german)
    assert MaskedLm().missing(root)[0] == f"train af: no {root / 'text/af.txt'}"
    assert len(MaskedLm().missing(root)) == 48  # of 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"text/de\.txt:1: no text; expected a sentence or paragraph a line"),
        (b"\n  \n", r"text/de\.txt:1: no text"),
        (b"Gut.\nSch\xf6n.\n", r"text/de\.txt:2: not UTF-8: .* at byte 3"),
    ],
    ids=["empty", "blank", "latin-1"],
)
def test_files_without_text_are_errors(root: Path, content: bytes, message: str) -> None:
    (root / "text/de.txt").write_bytes(content)
    mixture = Mixture("mix", (MicroTopic(**SMALL), pinned(MaskedLm(languages_=("de", "sw")))))
    with pytest.raises(DataError, match=message):
        check_data(study_with(mixture), say=pytest.fail)


def test_languages_and_files_are_part_of_the_training_set(root: Path) -> None:
    both, german = pinned(MaskedLm(languages_=("de", "sw"))), pinned(MaskedLm(languages_=("de",)))
    assert both.for_training() != german.for_training()
    stages = [Tokenise(BASE.tokenizer, task.for_training(), "train", 64) for task in (both, german)]
    assert fingerprint(stages[0]) != fingerprint(stages[1])
    assert stages[0].sets == (("train", "de"), ("train", "sw"))
    assert fingerprint(TEXT) != fingerprint(dataclasses.replace(TEXT, languages_=("de",)))
    (root / "text/de.txt").write_text("Anderes.\n", encoding="utf-8")
    assert pinned(MaskedLm(languages_=("de",))).for_training() != german.for_training()
    with pytest.raises(DataError, match="the files of masked_lm have changed"):
        dataclasses.replace(german, sample_seed=7).examples("train", "de")


def test_without_a_file_the_first_articles_of_wikipedia_are_read_at_a_fixed_commit(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[Any] = []

    class Streamed(list[dict[str, str]]):
        def take(self, count: int) -> list[dict[str, str]]:
            requests.append(count)
            return self[:count]

    def load(name: str, config: str, **options: Any) -> Streamed:
        requests.append((name, config, options))
        long = "Suomi on tasavalta Pohjois-Euroopassa, ja sen naapureita ovat Ruotsi, Norja ja Venäjä."
        return Streamed([{"id": "1", "url": "", "title": "Suomi", "text": f"{long}\n\nHistoria\n\n {long} \n"}] * 3)

    monkeypatch.setattr("datasets.load_dataset", load)
    task = pinned(MaskedLm(languages_=("de", "fi"), train_size=5))
    commit = "b04c8d1ceb2f5cd4588862100d08de323dccfbaa"
    assert task.data.split(";")[1] == f"wikimedia/wikipedia@{commit}"
    examples = task.examples("train", "fi")
    options = {"split": "train", "revision": commit, "streaming": True}
    assert requests == [("wikimedia/wikipedia", "20231101.fi", options), ARTICLES]
    assert len(examples) == 5
    assert {example.id for example in examples} < {f"{article}-{line}" for article in range(3) for line in (0, 4)}
    assert all(isinstance(example, TextExample) and example.text.startswith("Suomi on") for example in examples)
    assert len(task.examples("train", "de")) == 3  # those of the file
