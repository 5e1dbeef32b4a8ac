"""Training sets in other languages: translated files, XNLI's translations on the hub, MicroXTREME's generators."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from tests.support.mini_root.files import build
from tests.support.recipes import LANGUAGES, SMALL
from trainables.benchmark.subjects.rebuild import rebuild
from trainables.data.examples import PairExample
from trainables.data.source import DATA_ROOT_VARIABLE, DataError
from trainables.heads import HEADS
from trainables.hyperparameters import EarlyStopping, Training
from trainables.models.encoder import Shape
from trainables.stages.base import Workplace, ensure
from trainables.stages.finetune import FineTune
from trainables.stages.mixture import FineTuneMixture
from trainables.stages.pretrain import Pretrain
from trainables.stages.vocabulary import Vocabulary
from trainables.store.fingerprint import canonical, fingerprint
from trainables.store.stage_store import StageStore
from trainables.tasks.english.commonsense_qa import CommonsenseQA
from trainables.tasks.english.hellaswag import HellaSwag
from trainables.tasks.english.mnli import Mnli
from trainables.tasks.english.squad import Squad
from trainables.tasks.micro.corpus import MicroCorpus
from trainables.tasks.micro.intermediate import MicroTopic
from trainables.tasks.micro.masked_lm import MicroMaskedLm
from trainables.tasks.micro.tagging import MicroTagging
from trainables.tasks.mixture import Mixture
from trainables.tasks.pinning import pinned
from trainables.tasks.registry import MICRO
from trainables.tasks.translated import MicroTranslated, Translated, in_languages
from trainables.tasks.unlabelled.masked_lm import MaskedLm
from trainables.tasks.xtreme.xnli import Xnli

# Rows with the columns of the English sets on the hub.
ROWS: dict[str, dict[str, Any]] = {
    "mnli": {"premise": "Ein Satz.", "hypothesis": "Noch einer.", "label": 2},
    "hellaswag": {"ctx": "Sie geht", "endings": ["heim", "weg", "aus", "los"], "label": "3"},
    "commonsense_qa": {
        "question": "Wo?",
        "choices": {"label": list("ABCDE"), "text": ["a", "b", "c", "d", "e"]},
        "answerKey": "B",
    },
    "squad": {
        "id": "1",
        "title": "T",
        "context": "Es war in Rom.",
        "question": "Wo?",
        "answers": {"text": ["Rom"], "answer_start": [10]},
    },
}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A miniature data root with German translations of four training sets."""
    build(tmp_path)
    for name, row in ROWS.items():
        path = tmp_path / "translated" / name / "de.jsonl"
        path.parent.mkdir(parents=True)
        path.write_text("".join(json.dumps({**row, "id": str(number)}) + "\n" for number in range(3)), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
        yield tmp_path


@pytest.mark.parametrize("english", [Mnli(), HellaSwag(), CommonsenseQA(), Squad()], ids=lambda task: str(task.name))
def test_a_translated_file_has_the_columns_of_the_hub(english: Any, root: Path) -> None:
    task = pinned(in_languages(english, ("de",)))
    assert task.name == f"{english.name}_in_de"
    assert (task.head, task.metric, task.labels, task.choices) == (
        *(english.head, english.metric, english.labels, english.choices),
    )
    assert task.splits() == [("train", "de"), ("dev", "en")]
    assert task.training_languages == task.languages == ("de",)
    assert task.reads == english.reads  # a translation of the target's own training data is no transfer either
    examples = task.examples("train", "de")
    assert len(examples) == 3
    assert type(examples[0]) is type(english.examples("train", "en")[0])
    assert task.examples("dev", "en") == english.examples("dev", "en")
    assert task.for_training().splits() == [("train", "de")]
    for language in ("en", "fr"):
        with pytest.raises(ValueError, match=f"{task.name}: no train set in {language}"):
            task.examples("train", language)


def test_a_sample_is_drawn_in_each_language_and_english_is_the_task_s_own(root: Path) -> None:
    english = Mnli(train_size=2, sample_seed=4)
    task = pinned(in_languages(english, ("en", "de")))
    assert task.splits() == [("train", "en"), ("train", "de"), ("dev", "en")]
    assert task.examples("train", "en") == english.examples("train", "en")
    assert len(task.examples("train", "de")) == 2


def test_a_mistake_in_a_translated_file_names_file_and_line(root: Path) -> None:
    path = root / "translated/mnli/de.jsonl"
    path.write_text(json.dumps(ROWS["mnli"]) + '\n{"premise": "Nur das."}\n', encoding="utf-8")
    with pytest.raises(DataError, match=r"mnli/de\.jsonl:2: "):
        in_languages(Mnli(), ("de",)).examples("train", "de")
    with pytest.raises(DataError, match=r"translated/hellaswag/fr\.jsonl"):
        pinned(in_languages(HellaSwag(), ("fr",)))


def test_a_changed_translation_is_another_task(root: Path) -> None:
    task = in_languages(Mnli(), ("de",))
    before = pinned(task)
    path = root / "translated/mnli/de.jsonl"
    path.write_text(json.dumps(ROWS["mnli"] | {"label": 0}) + "\n", encoding="utf-8")
    after = pinned(task)
    assert before.for_training() != after.for_training()
    assert fingerprint(before.for_training()) != fingerprint(after.for_training())


def test_mnli_is_read_from_xnli_s_translations_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    task = in_languages(Mnli(), ("sw", "zh"))
    hub = task.source_of("train", "sw").hub
    assert hub is not None
    assert (hub.dataset, hub.config, hub.split) == ("facebook/xnli", "sw", "train")
    assert hub.revision == Xnli().source_of("test", "sw").hub.revision  # type: ignore[union-attr]
    assert {language for language in Xnli.official_languages if Mnli().translation(language)} == {
        *(set(Xnli.official_languages) - {"en"})
    }
    with mock.patch("huggingface_hub.HfApi.dataset_info", return_value=SimpleNamespace(sha="c" * 40)):
        assert f"facebook/xnli@{hub.revision}" in pinned(task).data
    rows = [{"premise": "a", "hypothesis": "b", "label": 1}]
    with mock.patch("trainables.tasks.reading.load_rows", return_value=rows) as load:
        (example,) = task.examples("train", "sw")
    assert load.call_args.args[:2] == ("facebook/xnli", "sw")
    assert isinstance(example, PairExample)
    assert example.label == 1


@pytest.mark.parametrize("english", [task for task in MICRO if task.role == "intermediate"], ids=lambda task: task.name)
def test_generated_tasks_write_the_english_items_in_every_language(english: Any) -> None:
    own = english(**SMALL)
    task = in_languages(own, ("de", "zh"))
    assert task.splits() == [("train", "de"), ("train", "zh"), ("dev", "en")]
    assert task.examples("dev", "en") == own.examples("dev", "en")
    in_english = {example.id: example for example in own.examples("train", "en")}
    for language in ("de", "zh"):
        examples = task.examples("train", language)
        assert len(examples) > 0.8 * len(in_english)
        assert {example.id for example in examples} <= in_english.keys()
        differ = sum(example != in_english[example.id] for example in examples)
        assert differ > 0.9 * len(examples)
        for example in examples:
            assert getattr(example, "label", None) == getattr(in_english[example.id], "label", None)
    with pytest.raises(ValueError, match="no train split in 'en'"):
        task.examples("train", "en")


def test_what_has_no_training_set_in_other_languages_is_refused() -> None:
    for task in (Xnli(), MicroTagging(languages_=LANGUAGES), MaskedLm()):
        with pytest.raises(ValueError, match="it is no labelled intermediate task"):
            in_languages(task, ("de",))
    with pytest.raises(ValueError, match="neither a published nor a generated task"):
        in_languages(MicroMaskedLm(), ("de",))
    for languages, rule in (
        ((), "one or more different languages"),
        (("de", "de"), "one or more different languages"),
        (("en",), "no language besides English"),
    ):
        with pytest.raises(ValueError, match=rule):
            in_languages(MicroTopic(), languages)
    with pytest.raises(ValueError, match="no CLDR coverage for xx"):
        in_languages(MicroTopic(), ("xx",))


def test_translated_tasks_are_rebuilt_from_their_identities() -> None:
    for task in (in_languages(Mnli(train_size=5), ("de",)), in_languages(MicroTopic(**SMALL), ("de",))):
        assert isinstance(task, Translated | MicroTranslated)
        assert rebuild(canonical(task)) == task
        assert fingerprint(task) != fingerprint(dataclasses.replace(task, train_languages=("fr",)))


TRAINING = Training(learning_rate=1e-3, steps=6, batch_size=16, seed=0)
BASE = Pretrain(Vocabulary(MicroCorpus(LANGUAGES, 200), 600), Shape(1, 32), TRAINING, 8, trained=False)


def test_it_trains_alone_with_early_stopping_on_english_and_beside_the_english_task(tmp_path: Path) -> None:
    work, task = Workplace(StageStore(tmp_path)), in_languages(MicroTopic(**SMALL), ("de", "zh"))
    stopping = dataclasses.replace(TRAINING, early_stopping=EarlyStopping(3, 1))
    alone = FineTune(BASE, task.for_training(), stopping, development=task)
    metrics = ensure(alone, work).metrics
    assert alone.features.sets == (("train", "de"), ("train", "zh"))
    assert metrics["examples"] == len(alone.features.table(work))
    assert next(done for done, _ in metrics["dev_scores"]) == 3
    assert HEADS[task.head].name == "pair_classification"
    mixed = FineTuneMixture(BASE, Mixture("en_and_more", (MicroTopic(**SMALL), task)).for_training(), TRAINING)
    assert set(ensure(mixed, work).metrics["steps"]) == {"micro_topic", "micro_topic_in_de_zh"}
