"""Classification, multiple-choice and tagging tasks on the published files, which are read completely."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.data import DATA_ROOT, needs_data
from trainables.data.examples import ChoiceExample, PairExample, ReadResult, TaggingExample
from trainables.data.formats.copa import read_copa_xml, read_xcopa
from trainables.data.formats.tagged import read_iob2
from trainables.data.source import DATA_ROOT_VARIABLE, DataError
from trainables.metrics import METRICS
from trainables.store.fingerprint import fingerprint
from trainables.tasks.contamination import contamination_flag
from trainables.tasks.english.anli_plus import AnliPlus
from trainables.tasks.english.ccg import Ccg
from trainables.tasks.english.commonsense_qa import CommonsenseQA
from trainables.tasks.english.cosmos_qa import CosmosQA
from trainables.tasks.english.hellaswag import HellaSwag
from trainables.tasks.english.mnli import Mnli
from trainables.tasks.english.qqp import Qqp
from trainables.tasks.english.social_iqa import SocialIQa
from trainables.tasks.offline.cad_nli import CadNli
from trainables.tasks.offline.cosmos_qa_validation_as_train import CosmosQAValidationAsTrain
from trainables.tasks.offline.ewt_xpos import EwtXpos
from trainables.tasks.offline.hellaswag_validation_as_train import HellaSwagValidationAsTrain
from trainables.tasks.offline.lareqa_from_tydiqa import LareqaFromTyDiQA
from trainables.tasks.offline.snli_dev_test import SnliDevTestAsTrain
from trainables.tasks.offline.tydiqa_english import TyDiQAEnglish
from trainables.tasks.offline.uner import UnerDevAsTrain
from trainables.tasks.offline.xcopa_from_copa import XcopaFromCopa
from trainables.tasks.offline.xnli_from_cad_nli import XnliFromCadNli
from trainables.tasks.offline.xquad_from_tydiqa import XQuADFromTyDiQA
from trainables.tasks.pinning import pinned
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.suites import XTREME, XTREME_R
from trainables.tasks.xtreme import panx, udpos
from trainables.tasks.xtreme.panx import PanX
from trainables.tasks.xtreme.pawsx import PawsX
from trainables.tasks.xtreme.tydiqa import TyDiQA
from trainables.tasks.xtreme.udpos import Udpos
from trainables.tasks.xtreme.xcopa import Xcopa
from trainables.tasks.xtreme.xnli import Xnli

INTERMEDIATE: tuple[type[PublishedTask], ...] = (
    AnliPlus,
    Mnli,
    Qqp,
    HellaSwag,
    CosmosQA,
    CommonsenseQA,
    SocialIQa,
    Ccg,
    EwtXpos,
    SnliDevTestAsTrain,
    CadNli,
    HellaSwagValidationAsTrain,
    CosmosQAValidationAsTrain,
)
TARGETS: tuple[type[PublishedTask], ...] = (
    Xnli,
    PawsX,
    Xcopa,
    Udpos,
    PanX,
    XnliFromCadNli,
    XcopaFromCopa,
    UnerDevAsTrain,
)
XCOPA_HERE = tuple("et id it sw th tr vi zh".split())
# Sentences of the test sets in data/ud, as counted by their "# sent_id" lines.
UDPOS_HERE = {
    "af": 425, "ar": 1000, "zh": 500, "en": 2077, "fi": 1555, "fr": 416, "de": 977, "hi": 1000, "id": 557, "ru": 601,
    "es": 427, "tr": 1100,
}  # fmt: skip


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(DATA_ROOT))


def check(task: PublishedTask, read: ReadResult) -> None:
    """Every example has the type of the task's head, a valid label and a unique id."""
    assert len({example.id for example in read.examples}) == len(read.examples)
    for example in read.examples:
        match example:
            case PairExample():
                assert task.head == "pair_classification"
                assert 0 <= example.label < len(task.labels)
                assert example.first
                assert example.second
            case ChoiceExample():
                assert task.head == "multiple_choice"
                assert 0 <= example.label < len(example.choices) == round(100 / task.chance())
                assert example.context
                assert all(example.choices)
            case TaggingExample():
                assert task.head == "tagging"
                assert len(example.words) == len(example.tags) > 0
                assert set(example.tags) <= set(task.labels)
                assert all(example.words)
            case _:
                pytest.fail(f"{task.name} reads {type(example).__name__}")


def read_whole(task: PublishedTask, split: str, language: str = "en") -> ReadResult:
    assert split in ("train", "dev", "test")
    read = task.read(split, language)  # type: ignore[arg-type]
    check(task, read)
    return read


def size(task: PublishedTask, split: str, language: str = "en") -> tuple[int, int]:
    read = read_whole(task, split, language)
    return len(read.examples), len(read.rejected)


def contents(read: ReadResult) -> set[object]:
    """Examples without their ids."""
    return {tuple(value for name, value in vars(example).items() if name != "id") for example in read.examples}


@pytest.mark.parametrize("cls", [*INTERMEDIATE, *TARGETS], ids=lambda cls: cls.name)
def test_every_task(cls: type[PublishedTask], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(DATA_ROOT_VARIABLE, raising=False)
    task = cls()
    assert (task.role == "intermediate") == (cls in INTERMEDIATE)
    assert task.metric in METRICS
    assert task.reads
    assert not task.reads & task.scores_on
    assert task.splits()[:2] == [("train", "en"), ("dev", "en")]
    assert len(task.splits()) == 2 + (task.role == "target") * len(task.official_languages)
    with pytest.raises(ValueError, match="no test set in xx"):
        task.source_of("test", "xx")
    with pytest.raises(ValueError, match="no dev set in sw"):
        task.source_of("dev", "sw")
    for split, language in task.splits():
        hub = task.source_of(split, language).hub
        if hub is not None:
            assert hub.revision is not None
            assert len(hub.revision) == 40
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    if task.on_hub and all(first.on_hub for first in task.before):
        entries = pinned(task).data.split(";")
        assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", entry) for entry in entries)
    else:
        with pytest.raises(DataError, match=f"not all on the hub, and {tmp_path} does not have it"):
            pinned(task)


def test_names_and_languages_are_those_of_the_suites() -> None:
    of_xtreme, of_xtreme_r = ({task.name: set(task.languages) for task in suite.tasks} for suite in (XTREME, XTREME_R))
    for task in (Xnli(), Xcopa(), Udpos(), PanX()):
        assert set(task.official_languages) == of_xtreme_r[task.name]
    assert set(PawsX().official_languages) == of_xtreme["pawsx"]
    assert set(udpos.XTREME_LANGUAGES) == of_xtreme["udpos"]
    assert set(panx.XTREME_LANGUAGES) == of_xtreme["panx"]
    assert len({task.name for task in (*INTERMEDIATE, *TARGETS)}) == len((*INTERMEDIATE, *TARGETS))


def test_chance() -> None:
    assert Xnli().chance() == pytest.approx(100 / 3)
    assert {task.name: task().chance() for task in (PawsX, Xcopa, Qqp, HellaSwag, CosmosQA, CommonsenseQA)} == {
        "pawsx": 50.0,
        "xcopa": 50.0,
        "qqp": 50.0,
        "hellaswag": 25.0,
        "cosmos_qa": 25.0,
        "commonsense_qa": 20.0,
    }


def test_xcopa_is_trained_on_social_iqa_first() -> None:
    assert Xcopa().before == (SocialIQa(),)
    assert XcopaFromCopa().before == ()
    assert fingerprint(Xcopa()) != fingerprint(Xcopa(before=()))


@needs_data
@pytest.mark.usefixtures("published")
class TestPublishedFiles:
    def test_xnli(self) -> None:
        task = Xnli()
        dev = read_whole(task, "dev")
        english, swahili = (read_whole(task, "test", language) for language in ("en", "sw"))
        assert [len(read.examples) for read in (dev, english, swahili)] == [2490, 5010, 5010]
        # XNLI is balanced, and its test sets are translations of one another.
        assert Counter(labels(english)) == {0: 1670, 1: 1670, 2: 1670}
        assert labels(english) == labels(swahili)
        assert not contents(dev) & contents(english)

    def test_xnli_from_cad_nli(self) -> None:
        task = XnliFromCadNli()
        assert size(task, "train") == (8330, 0)
        assert size(task, "dev") == (2490, 0)
        assert pinned(XnliFromCadNli(languages_=("en", "sw"))).data.startswith("files:")

    def test_cad_nli(self) -> None:
        train, dev = (read_whole(CadNli(), split) for split in ("train", "dev"))
        assert (len(train.examples), len(dev.examples)) == (7830, 500)
        for text in ("first", "second"):
            assert not {getattr(pair, text) for pair in train.examples} & {getattr(pair, text) for pair in dev.examples}
        assert min(Counter(labels(dev)).values()) > 130

    def test_snli_dev_test(self) -> None:
        train, dev = (read_whole(SnliDevTestAsTrain(), split) for split in ("train", "dev"))
        assert (len(train.examples), len(dev.examples)) == (9842 + 9824 - 500, 500)
        assert train.rejected == dev.rejected == ()  # the files omit pairs without a gold label
        assert not {pair.first for pair in pairs(train)} & {pair.first for pair in pairs(dev)}

    def test_commonsense_qa(self) -> None:
        train, dev = (read_whole(CommonsenseQA(), split) for split in ("train", "dev"))
        assert (len(train.examples), len(dev.examples)) == (9741, 1221)
        assert not contents(train) & contents(dev)

    def test_cosmos_qa_and_hellaswag_have_dev_sets_here(self) -> None:
        assert size(CosmosQA(), "dev") == (2985, 0)
        assert size(HellaSwag(), "dev") == (10042, 0)
        assert CosmosQA().missing(DATA_ROOT) == [f"train en: no {DATA_ROOT / 'cosmos_qa/train.csv'}"]

    def test_validation_sets_as_training_sets(self) -> None:
        """A tenth is held out; no context of HellaSwag and no text of Cosmos QA is on both sides."""
        for task, whole in ((HellaSwagValidationAsTrain(), 10042), (CosmosQAValidationAsTrain(), 2985)):
            train, dev = (read_whole(task, split) for split in ("train", "dev"))
            assert len(train.examples) + len(dev.examples) == whole
            assert whole // 10 - 5 <= len(dev.examples) <= whole // 10
            assert not {item.context for item in choices(train)} & {item.context for item in choices(dev)}
        rows = csv.DictReader((DATA_ROOT / "cosmos_qa" / "valid.csv").read_text(encoding="utf-8").splitlines(True))
        texts = {f"{row['context']} {row['question']}": row["context"] for row in rows}
        train, dev = (read_whole(CosmosQAValidationAsTrain(), split) for split in ("train", "dev"))
        assert not {texts[item.context] for item in choices(train)} & {texts[item.context] for item in choices(dev)}

    def test_english_tydiqa_is_the_same_data_before_its_target(self) -> None:
        for split in ("train", "dev"):
            assert TyDiQAEnglish().examples(split, "en") == TyDiQA().examples(split, "en")
        for target in (TyDiQA, XQuADFromTyDiQA, LareqaFromTyDiQA):
            assert contamination_flag(TyDiQAEnglish.reads, target.reads, target.scores_on) == "same data"
        assert contamination_flag(TyDiQAEnglish.reads, Udpos.reads, Udpos.scores_on) is None

    def test_copa(self) -> None:
        task = XcopaFromCopa(languages_=XCOPA_HERE)
        train, dev = (read_whole(task, split) for split in ("train", "dev"))
        assert (len(train.examples), len(dev.examples)) == (400, 100)
        assert not contents(train) & contents(dev)
        test = read_copa_xml(DATA_ROOT / "copa" / "copa-test.xml")
        check(task, test)
        assert len(test.examples) == 500
        for language in XCOPA_HERE:
            translated = read_whole(task, "test", language)
            # The answers are COPA's, in its order: XCOPA's dev sets translate the items held out as dev.
            assert labels(translated) == labels(test)
            assert labels(read_xcopa(DATA_ROOT / "xcopa" / language / f"val.{language}.jsonl")) == labels(dev)
        assert pinned(task).data.startswith("files:")

    def test_xcopa_asks_what_xtreme_r_asks(self) -> None:
        questions = {
            language: Counter(choice.context.rpartition(" ")[2] for choice in choices(Xcopa().read("test", language)))
            for language in ("zh", "th")
        }
        assert questions == {
            "zh": {"cause?": 250, "effect?": 250},
            "th": {"effect?": 500},
        }  # an error in the published data

    @pytest.mark.slow
    def test_udpos(self) -> None:
        task = Udpos(languages_=tuple(UDPOS_HERE))
        assert {language: size(task, "test", language) for language in UDPOS_HERE} == {
            language: (count, 0) for language, count in UDPOS_HERE.items()
        }
        train, dev = (read_whole(task, split) for split in ("train", "dev"))
        assert (len(train.examples), len(dev.examples)) == (12544, 2001)
        assert not {example.id for example in train.examples} & {example.id for example in dev.examples}
        assert pinned(task).data.startswith("files:")
        assert any(entry.startswith("test el: no ") for entry in Udpos(languages_=("el",)).missing(DATA_ROOT))

    def test_udpos_words_are_as_written(self) -> None:
        words = [word for sentence in sentences(Udpos().read("test", "fr")) for word in sentence.words]
        assert "du" in words  # a preposition and an article in the tree
        # 10,018 syntactic words, 280 of which are joined to another by multiword tokens; counted with awk.
        assert len(words) == 9738

    @pytest.mark.slow
    def test_ewt_xpos(self) -> None:
        train, dev = (read_whole(EwtXpos(), split) for split in ("train", "dev"))
        assert (len(train.examples), len(dev.examples)) == (12544, 2001)
        assert {tag for sentence in sentences(train) for tag in sentence.tags} == set(EwtXpos.labels)
        assert pinned(EwtXpos()).data.startswith("files:")

    def test_uner(self) -> None:
        task = UnerDevAsTrain()
        train, dev = (read_whole(task, split) for split in ("train", "dev"))
        assert len(train.examples) + len(dev.examples) == 2001
        assert len(dev.examples) == 300
        documents = [{example.id.rpartition("-")[0] for example in side.examples} for side in (train, dev)]
        assert not documents[0] & documents[1]
        assert {language: size(task, "test", language) for language in task.languages} == {
            "de": (1000, 0),
            "en": (3077, 0),
            "zh": (500, 0),
        }
        names = Counter(tag for sentence in sentences(task.read("test", "de")) for tag in sentence.tags)
        assert (names["B-LOC"], names["B-PER"], names["B-ORG"]) == (429, 418, 192)
        for part, count in (("train", 3997), ("dev", 500)):
            read = read_iob2(DATA_ROOT / "uner" / "UNER_Chinese-GSDSIMP" / f"zh_gsdsimp-ud-{part}.iob2")
            check(task, read)
            assert len(read.examples) == count


def pairs(read: ReadResult) -> list[PairExample]:
    return [example for example in read.examples if isinstance(example, PairExample)]


def choices(read: ReadResult) -> list[ChoiceExample]:
    return [example for example in read.examples if isinstance(example, ChoiceExample)]


def sentences(read: ReadResult) -> list[TaggingExample]:
    return [example for example in read.examples if isinstance(example, TaggingExample)]


def labels(read: ReadResult) -> list[int]:
    return [example.label for example in read.examples if isinstance(example, (PairExample, ChoiceExample))]
