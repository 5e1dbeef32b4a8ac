"""Cards: who says how a checkpoint reads texts, what of that is its identity, and what the imported encoder does."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import recipes
from tests.support.checkpoints import NO_TOKEN_TYPES, save_checkpoint, small_tokenizer
from trainables.benchmark.subjects.rebuild import rebuild
from trainables.data.source import DATA_ROOT_VARIABLE, DataError
from trainables.models.card import Card, gives_token_types
from trainables.models.catalogue import published
from trainables.models.encoder import load_encoder, pooling_of
from trainables.models.known_cards import KNOWN_CARDS
from trainables.models.published_encoder import PublishedEncoder, pinned_encoder
from trainables.models.task_model import ENCODER, load_task_model, new_task_model, save_task_model
from trainables.stages.base import Workplace, ensure
from trainables.stages.evaluate import Evaluate
from trainables.stages.import_encoder import ImportEncoder
from trainables.stages.tokenise import Tokenise
from trainables.store.fingerprint import canonical, fingerprint
from trainables.store.stage_store import StageStore
from trainables.tasks.micro.bitext import MicroBitext
from trainables.tasks.micro.entailment import MicroEntailment
from trainables.tasks.micro.tagging import MicroTagging

REPOSITORY = "someone/encoder"
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "include_prompt": True}
FIRST = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
BITEXT = MicroBitext(languages_=("en", "de"), **recipes.SMALL)
TAGGING = MicroTagging(languages_=("en", "de"), **recipes.SMALL)
ENTAILMENT = MicroEntailment(languages_=("en", "de"), **recipes.SMALL)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root, with the hub offline."""
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def _work(root: Path) -> Workplace:
    return Workplace(StageStore(root / "out"))


def _pinned(family: str = "bert", card: Card | None = None) -> PublishedEncoder:
    return pinned_encoder(PublishedEncoder("x", REPOSITORY, family, card=card or Card()))


def test_a_bert_with_another_tokenizer_and_pooling_is_read_as_it_was_trained(root: Path) -> None:
    """As multilingual E5 small is: BERT's architecture, XLM-R's tokenizer, the mean."""
    original = save_checkpoint(root, REPOSITORY, "bert", tokenizer_settings=NO_TOKEN_TYPES, pooling=MEAN)
    encoder = _pinned()
    assert encoder.card == Card(pooling="mean", second_segment=False)
    imported = ensure(ImportEncoder(encoder), _work(root))
    model = new_task_model(imported.folder, ENTAILMENT, seed=0).eval()
    tuned = root / "tuned"
    tuned.mkdir()
    save_task_model(model, {name: value.clone() for name, value in model.state_dict().items()}, tuned)
    ids = torch.tensor([small_tokenizer()("a b", "c")["input_ids"]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.no_grad():
        plain = original(**inputs, token_type_ids=torch.zeros_like(ids)).last_hidden_state
        for one in (model, load_task_model(tuned, ENTAILMENT)):
            assert pooling_of(one.encoder) == "mean"
            torch.testing.assert_close(one.encoder(**inputs).last_hidden_state, plain)
    # A recipe that marks the second text, as is right for mBERT, gets other states.
    marked = ensure(ImportEncoder(_pinned(card=Card(second_segment=True))), _work(root))
    with torch.no_grad():
        assert not torch.allclose(load_encoder(marked.folder / ENCODER)(**inputs).last_hidden_state, plain, atol=1e-3)


@pytest.mark.parametrize(
    ("given", "beside", "files", "expected"),
    [
        (None, None, None, "first"),  # the family's default
        (None, None, MEAN, "mean"),
        (None, None, {"pooling_mode": "mean"}, "mean"),  # sentence-transformers' newer form
        (None, None, FIRST, "first"),
        (None, "first", MEAN, "first"),
        (None, "mean", FIRST, "mean"),
        ("first", "mean", MEAN, "first"),
        ("mean", "first", FIRST, "mean"),
    ],
)
def test_a_recipe_is_asked_before_the_card_beside_the_weights_and_that_before_the_checkpoint(
    given: Any, beside: str | None, files: dict[str, Any] | None, expected: str, root: Path
) -> None:
    save_checkpoint(
        root, REPOSITORY, "xlm-roberta", pooling=files, card=None if beside is None else {"pooling": beside}
    )
    encoder = _pinned("xlm-roberta", Card(given))
    assert pinned_encoder(encoder) == encoder
    assert (encoder.card.pooling or encoder.architecture.pooling) == expected
    imported = ensure(ImportEncoder(encoder), _work(root))
    assert pooling_of(load_encoder(imported.folder / ENCODER)) == expected


def test_what_deviates_from_the_family_is_identity_and_what_the_encoder_has_seen_is_not(root: Path) -> None:
    save_checkpoint(root, REPOSITORY, "bert")
    plain = ImportEncoder(_pinned())
    assert "card" not in canonical(plain.encoder)
    described = Card(seen=("bitext",), labelled_languages=("en", "de"), licence="MIT", remark="read this")
    assert fingerprint(ImportEncoder(_pinned(card=described))) == fingerprint(plain)
    assert _pinned(card=described).card.seen == ("bitext",)
    changed = [
        Card(pooling="mean"),
        Card(second_segment=False),
        Card(query_prefix="query: "),
        Card(passage_prefix="passage: "),
        Card(tokenizer="XLMRobertaTokenizer"),
    ]
    stages = [ImportEncoder(_pinned(card=card)) for card in changed]
    stages += [ImportEncoder(dataclasses.replace(_pinned(), layers=layers)) for layers in (1, 2)]
    assert len({fingerprint(stage) for stage in [plain, *stages]}) == 8
    for stage in stages:
        assert rebuild(canonical(stage)) == stage
    # Files that say what is usual in the family change nothing either.
    save_checkpoint(root, "someone/usual", "bert", pooling=FIRST)
    assert pinned_encoder(PublishedEncoder("x", "someone/usual", "bert")).card == Card()


def test_known_checkpoints_need_no_files_and_say_what_they_have_seen() -> None:
    assert pinned_encoder(published("mbert")).card == Card()
    assert pinned_encoder(published("mbert")).marks_second_segment
    assert pinned_encoder(published("e5-base")).card == Card("mean", None, "query: ", "passage: ")
    small = pinned_encoder(published("e5-small"))
    assert small.card == Card("mean", False, "query: ", "passage: ")
    assert not small.marks_second_segment
    assert {"bitext", "retrieval"} <= {*(small.card.seen or ())}
    assert pinned_encoder(published("minilm")).card == Card(second_segment=False, tokenizer="XLMRobertaTokenizer")
    own = pinned_encoder(published("e5-small", card=Card(pooling="first", query_prefix="")))
    assert own.card == Card("first", False, "", "passage: ")
    assert own.card.seen == small.card.seen
    assert all(card.pooling is not None and card.licence is not None for card in KNOWN_CARDS.values())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ('{"tokenizer_class": "BertTokenizerFast"}', True),
        ('{"tokenizer_class": "XLMRobertaTokenizerFast"}', False),
        ('{"tokenizer_class": "PreTrainedTokenizerFast"}', None),  # of any tokenizer
        ('{"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": ["input_ids"]}', False),
        ('{"tokenizer_class": "OfAnotherLibrary"}', None),
        (None, None),
    ],
)
def test_whether_a_tokenizer_gives_token_types(settings: str | None, expected: bool | None, tmp_path: Path) -> None:
    if settings is not None:
        (tmp_path / "tokenizer_config.json").write_text(settings)
    assert gives_token_types(tmp_path) is expected


def test_prefixes_are_read_where_sentence_vectors_are_compared_and_nowhere_else(root: Path) -> None:
    save_checkpoint(root, REPOSITORY, "xlm-roberta")
    plain, prefixed = (
        ImportEncoder(_pinned("xlm-roberta", card))
        for card in (None, Card(query_prefix="query: ", passage_prefix="y: "))
    )
    work = _work(root)
    begin = tuple(small_tokenizer()("query: ")["input_ids"][:-1])

    def rows(stage: ImportEncoder, task: Any) -> list[tuple[tuple[int, ...], ...]]:
        tokenised = Tokenise(stage, task, "scored", 64)
        ensure(tokenised, work)
        return [feature.rows for feature in tokenised.table(work)]

    for (source, target), both in zip(rows(plain, BITEXT), rows(prefixed, BITEXT), strict=True):
        assert both == ((*begin, *source[1:]), (*begin, *target[1:]))
    for task in (TAGGING, ENTAILMENT):
        assert rows(plain, task) == rows(prefixed, task)
    before, after = (
        ensure(Evaluate(stage, BITEXT, max_length=32), work).metrics["protocol"] for stage in (plain, prefixed)
    )
    assert after == f"texts begin with 'query: ', {before}"


def test_a_study_that_was_made_without_knowing_the_card_is_refused_at_import(root: Path) -> None:
    """As a checkpoint of the hub, whose files could not be read where the study was made."""
    save_checkpoint(root, REPOSITORY, "bert", pooling=MEAN)
    unknown = dataclasses.replace(_pinned(), card=Card())
    with pytest.raises(
        DataError, match=r"the files say \{'pooling': 'mean'\}, which the study was made without: .*card"
    ):
        ensure(ImportEncoder(unknown), _work(root))


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"poolling": "mean"}, r"card\.json: no attribute poolling; a card has pooling, second_segment, "),
        ({"pooling": "max"}, r"card\.json: card: pooling 'max'; use one of first, mean"),
        ({"seen": "bitext"}, r"card\.json: card: seen 'bitext' is not a tuple"),
        ({"tokenizer": "NoSuchTokenizer"}, r"transformers has no tokenizer class 'NoSuchTokenizer'"),
    ],
)
def test_a_wrong_card_is_refused_by_name(card: dict[str, Any], message: str, root: Path) -> None:
    save_checkpoint(root, REPOSITORY, "bert", card=card)
    with pytest.raises(DataError, match=message):
        _pinned()


def test_pooling_that_no_head_does_is_refused_unless_the_recipe_states_another(root: Path) -> None:
    save_checkpoint(root, REPOSITORY, "bert", pooling={"pooling_mode_max_tokens": True})
    with pytest.raises(
        DataError, match=r"1_Pooling/config\.json: it pools by max_tokens, which no head does; state pooling"
    ):
        _pinned()
    assert _pinned(card=Card("first")).card.pooling == "first"
    with pytest.raises(ValueError, match="marks a second segment, which xlm-roberta does not have"):
        PublishedEncoder("x", REPOSITORY, "xlm-roberta", card=Card(second_segment=True))
