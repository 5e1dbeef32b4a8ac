"""Cards: what a checkpoint is besides its architecture, as a recipe, a file beside the weights or the checkpoint says."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import transformers

from trainables.data.source import DataError
from trainables.fields import added_field, descriptive_field
from trainables.heads.base import Pooling

CARD_FILE = "card.json"
MODULES, TOKENIZER_SETTINGS = "modules.json", "tokenizer_config.json"
# Besides the files that are loaded: what describes a checkpoint. `1_Pooling` is sentence-transformers' folder.
DESCRIPTIONS = (CARD_FILE, MODULES, "*_Pooling/config.json")
_NAMES = ("seen", "labelled_languages")  # attributes that are tuples of names
_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")  # tokenizer classes that say nothing of token types
_POOLING_MODES = {"cls": "first", "cls_token": "first", "mean": "mean", "mean_tokens": "mean"}


@dataclass(frozen=True)
class Card:
    """How a checkpoint reads texts, and what it has seen. None: not stated here.

    The first five change results and are part of the encoder's identity where they are stated:

    - `pooling`: what heads over whole rows read;
    - `second_segment`: whether the second text of a pair is marked, as in BERT's pre-training;
    - `query_prefix` and `passage_prefix`: what texts began with in its contrastive training. Only heads that compare sentence
      vectors add them; a head that is trained on the task's own rows would only get longer rows from them;
    - `tokenizer`: the class of its tokenizer in transformers, where the checkpoint's files name another one or none.

    The others change none and can be added later:

    - `seen`: what it was trained on besides plain text: "bitext", "retrieval", or corpora by their names in `Task.reads` and
      `Task.scores_on`. Scores on such tasks are marked (`trainables.tasks.contamination`);
    - `labelled_languages`: the languages of the labelled data that it was trained on, English included, by their codes here.
      Where a checkpoint is an intermediate choice, scores in these languages are not zero-shot; not stated is unknown;
    - `licence`, and a `remark` that users should read before a run.
    """

    pooling: Pooling | None = added_field(None)
    second_segment: bool | None = added_field(None)
    query_prefix: str | None = added_field(None)
    passage_prefix: str | None = added_field(None)
    tokenizer: str | None = added_field(None)
    seen: tuple[str, ...] | None = descriptive_field(None)
    labelled_languages: tuple[str, ...] | None = descriptive_field(None)
    licence: str | None = descriptive_field(None)
    remark: str | None = descriptive_field(None)

    def __post_init__(self) -> None:
        kinds: dict[str, type] = {"second_segment": bool, **dict.fromkeys(_NAMES, tuple)}
        for field in dataclasses.fields(self):
            value, kind = getattr(self, field.name), kinds.get(field.name, str)
            if value is not None and not isinstance(value, kind):
                raise ValueError(f"card: {field.name} {value!r} is not a {kind.__name__}")
        if self.pooling not in (None, *get_args(Pooling)):
            raise ValueError(f"card: pooling {self.pooling!r}; use one of {', '.join(get_args(Pooling))}")
        for field_name in _NAMES:
            names = getattr(self, field_name)
            if names is not None and not all(isinstance(name, str) for name in names):
                raise ValueError(f"card: {field_name} {names!r} is not a tuple of names")
        if self.tokenizer is not None and not hasattr(transformers, self.tokenizer):
            raise ValueError(f"card: transformers has no tokenizer class {self.tokenizer!r}")


def first_stated(*cards: Card) -> Card:
    """Each attribute from the first card that states it."""
    return Card(
        **{
            field.name: next((value for card in cards if (value := getattr(card, field.name)) is not None), None)
            for field in dataclasses.fields(Card)
        }
    )


def deviations(card: Card, usual: Card) -> Card:
    """The card without those of its attributes that are part of an identity and as usual: they would only change it."""
    unchanged = {
        field.name: None
        for field in dataclasses.fields(Card)
        if field.compare and getattr(card, field.name) == getattr(usual, field.name)
    }
    return dataclasses.replace(card, **unchanged)


def read_card(folder: Path) -> Card:
    """The card in `card.json` beside the weights; an empty one without the file.

    Raises:
        DataError: the file is not a JSON object of a card's attributes.
    """
    if not (path := folder / CARD_FILE).is_file():
        return Card()
    values, names = _json_object(path), [field.name for field in dataclasses.fields(Card)]
    if unknown := sorted(values.keys() - set(names)):
        raise DataError(path, None, f"no attribute {', '.join(unknown)}; a card has {', '.join(names)}")
    values |= {name: tuple(values[name]) for name in _NAMES if isinstance(values.get(name), list)}
    try:
        return Card(**values)
    except ValueError as error:
        raise DataError(path, None, str(error)) from error


def pooling_of_checkpoint(folder: Path) -> Pooling | None:
    """How sentence-transformers' files pool; newer releases write `pooling_mode`, older ones a flag for each mode.

    Raises:
        DataError: as no head here does.
    """
    if not (modules := folder / MODULES).is_file():
        return None
    paths = [module["path"] for module in _json(modules) if str(module.get("type", "")).endswith("Pooling")]
    if not paths or not (path := folder / paths[0] / "config.json").is_file():
        return None
    settings = _json_object(path)
    mode = settings.get("pooling_mode")
    modes = [mode] if mode else [name.removeprefix("pooling_mode_") for name, on in settings.items() if on is True]
    modes = [name for name in modes if name != "include_prompt"]
    pooling = _POOLING_MODES.get(modes[0]) if len(modes) == 1 else None
    if pooling is None:
        raise DataError(
            path,
            None,
            f"it pools by {' and '.join(map(str, modes)) or 'nothing'}, which no head does; "
            "state pooling in the recipe's card, or in card.json",
        )
    return pooling  # type: ignore[return-value]


def gives_token_types(folder: Path) -> bool | None:
    """Whether its tokenizer marks the texts of a pair; None where the files do not say."""
    if not (path := folder / TOKENIZER_SETTINGS).is_file():
        return None
    settings = _json_object(path)
    inputs = settings.get("model_input_names")
    if inputs is None and (name := settings.get("tokenizer_class")) not in (None, *_GENERIC):
        inputs = getattr(getattr(transformers, str(name), None), "model_input_names", None)
    return None if inputs is None else "token_type_ids" in inputs


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(path, None, f"not JSON: {error}") from error


def _json_object(path: Path) -> dict[str, Any]:
    values = _json(path)
    if not isinstance(values, Mapping):
        raise DataError(path, None, "not a JSON object")
    return dict(values)
