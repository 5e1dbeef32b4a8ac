"""The published encoders of the study, with their shapes for use without a network, and any other by its repository.

Commits are those that public code pins. Where a repository's main branch holds only a pickle, it is the commit of the hub's
conversion bot on top of it, which has the same weights as safetensors, if one is known. Cards are in `known_cards`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from trainables.models.card import Card
from trainables.models.families import FAMILIES, first_layers
from trainables.models.published_encoder import PublishedEncoder, config_file, local_folder


@dataclass(frozen=True)
class CatalogueEntry:
    """A published encoder, and the shape in its `config.json`."""

    encoder: PublishedEncoder
    settings: Mapping[str, Any]


def _entry(name: str, repository: str, family: str, *, revision: str, settings: Mapping[str, Any]) -> CatalogueEntry:
    return CatalogueEntry(PublishedEncoder(name, repository, family, revision), settings)


# Width, inner width, layers and heads of mT5's encoders, as in google-research/t5x, examples/t5/mt5/*.gin. mT0 is trained from
# mT5, and the sizes of its files agree; its `config.json` was not read.
_MT5_SHAPES = {
    "small": (512, 1024, 8, 6),
    "base": (768, 2048, 12, 12),
    "large": (1024, 2816, 24, 16),
    "xl": (2048, 5120, 24, 32),
    "xxl": (4096, 10240, 24, 64),
}


def _mt5(name: str, revision: str, *, of: str = "google/mt5", shape: str | None = None) -> CatalogueEntry:
    """The vocabulary is padded to a multiple of 128. `shape` names the size where `name` says more."""
    width, inner, layers, heads = _MT5_SHAPES[shape or name]
    settings = {"vocab_size": 250_112, "d_model": width, "d_ff": inner, "d_kv": 64, "num_layers": layers}
    settings["num_heads"] = heads
    return _entry(f"{of.rpartition('/')[2]}-{name}", f"{of}-{name}", "mt5", revision=revision, settings=settings)


def _mt0(name: str, revision: str, *, shape: str | None = None) -> CatalogueEntry:
    """mT5 trained further on many tasks at once (Muennighoff et al. 2022, 2211.01786)."""
    return _mt5(name, revision, of="bigscience/mt0", shape=shape)


def _xlm_r(name: str, repository: str, revision: str, width: int, layers: int) -> CatalogueEntry:
    """Heads are 64 wide and the feed-forward is four times the width; 514 positions, two of them before the first token."""
    extra_large = name.endswith("xl")
    settings = {
        "vocab_size": 250_880 if extra_large else 250_002,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 32 if extra_large else width // 64,
        "intermediate_size": 4 * width,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
    }
    family = "xlm-roberta-xl" if extra_large else "xlm-roberta"
    return _entry(f"xlm-r-{name}", repository, family, revision=revision, settings=settings)


def _bert_of_xlm_r(name: str, repository: str, revision: str) -> CatalogueEntry:
    """Multilingual MiniLM and what was trained from it: BERT's architecture with XLM-R's vocabulary; 21M body parameters."""
    settings = {"vocab_size": 250_037, "hidden_size": 384, "num_hidden_layers": 12}
    settings |= {"num_attention_heads": 12, "intermediate_size": 1536}
    return _entry(name, repository, "bert", revision=revision, settings=settings)


def _mmbert(name: str, revision: str, width: int) -> CatalogueEntry:
    """JHU-CLSP/mmBERT, configs/mmBERT-*.yaml."""
    settings = {"vocab_size": 256_000, "hidden_size": width, "num_hidden_layers": 22, "intermediate_size": 1152}
    settings["num_attention_heads"] = width // 64
    return _entry(f"mmbert-{name}", f"jhu-clsp/mmBERT-{name}", "modernbert", revision=revision, settings=settings)


def _e5_base() -> CatalogueEntry:
    """XLM-R base, trained on; the commit is that of mteb's model metadata."""
    base = _xlm_r("base", "FacebookAI/xlm-roberta-base", "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089", 768, 12)
    return _entry(
        *("e5-base", "intfloat/multilingual-e5-base", "xlm-roberta"),
        revision="d13f1b27baf31030b7fd040960d60d909913633f",
        settings=base.settings,
    )


_ENTRIES = (
    _xlm_r("base", "FacebookAI/xlm-roberta-base", "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089", 768, 12),
    _xlm_r("large", "FacebookAI/xlm-roberta-large", "c23d21b0620b635a76227c604d44e43a9f0ee389", 1024, 24),
    _xlm_r("xl", "facebook/xlm-roberta-xl", "aa5d120255845efeebc9b7f42822a1dd0f9ece9d", 2560, 36),
    _xlm_r("xxl", "facebook/xlm-roberta-xxl", "03e0fb540c3c9afd4bdda0072e7cb82d2eafd060", 4096, 48),
    _mt5("small", "73fb5dbe4756edadc8fbe8c769b0a109493acf7a"),
    _mt5("base", "2eb15465c5dd7f72a8f7984306ad05ebc3dd1e1f"),
    _mt5("large", "50b7223e98fcd124b0cabb1ec81bc6324c7df107"),
    _mt5("xl", "63fc6450d80515b48e026b69ef2fbbd426433e84"),
    _mt5("xxl", "e07c395916dfbc315d4e5e48b4a54a1e8821b5c0"),
    # The hub's pages of these commits list safetensors, but for small, whose page was not found, xl and xxl-p3.
    _mt0("small", "c6fd5256715761d0b8ba4c7c598d1e5c0fbec399"),
    _mt0("base", "0c500042c1f80b6b6ec208cf73d9ee43f1dac245"),
    _mt0("large", "edda1ff35548a4b8d5175d3d24693156d8ec7972"),
    _mt0("xl", "0327a9899ef1e87653094916a86c944edc3952c5"),
    _mt0(
        "xxl", "38ba9d4d88b347545e741b3a11a0cace710823e6"
    ),  # the conversion bot's, on top of b5461b4 of the main branch
    _mt0("xxl-p3", "0752492cd9bac1600460f0027f863376a3e4157b", shape="xxl"),
    _entry(
        *("mbert", "google-bert/bert-base-multilingual-cased", "bert"),
        revision="3f076fdb1ab68d5b2880cb87a0886f315b8146f8",
        settings={"vocab_size": 119_547},  # the rest is BERT base, the class's defaults
    ),
    _entry(
        *("distil-mbert", "distilbert/distilbert-base-multilingual-cased", "distilbert"),
        revision="45c032ab32cc946ad88a166f7cb282f58c753c2e",
        settings={"vocab_size": 119_547},  # six layers, the class's defaults
    ),
    _entry(
        *("mdeberta-v3-base", "microsoft/mdeberta-v3-base", "deberta-v2"),
        revision="faf660b811036d7b6dfc53aacfe5281447d4e2c6",  # the conversion of a0484667b22365f84929a935b5e50a51f71f159d
        settings={
            "vocab_size": 251_000,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "relative_attention": True,
            "position_buckets": 256,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "type_vocab_size": 0,
        },
    ),
    _mmbert("small", "461475a70b192efcbb760df5541d3825b07c4d5b", 384),  # of abc32620dd4f6ab06f5fbe905dc25f310618e09f
    _mmbert("base", "ca5b84ba39fb0531402e727a3d9a50626d9f522c", 768),  # of c5955035435e2bf121cde7f3c8863ef52ff35d82
    # The commit of the model card as a mirror of the hub serves it; its weights are a pickle.
    _bert_of_xlm_r("minilm", "microsoft/Multilingual-MiniLM-L12-H384", "d71b3dab802f265324697876f4be37dd61ec3160"),
    _bert_of_xlm_r("e5-small", "intfloat/multilingual-e5-small", "614241f622f53c4eeff9890bdc4f31cfecc418b3"),
    _e5_base(),
)
CATALOGUE: dict[str, CatalogueEntry] = {entry.encoder.name: entry for entry in _ENTRIES}


def published(
    name: str, *, layers: int | None = None, card: Card | None = None, revision: str | None = None
) -> PublishedEncoder:
    """An encoder of the catalogue by its name there, or any other by its repository, "org/name"; to be pinned.

    The family of the latter is read from its configuration, in the data root or on the hub.

    Args:
        name: of the catalogue, or a repository.
        layers: keep the first so many layers, and add `-<layers>l` to the encoder's name; None keeps all.
        card: what the recipe states of the checkpoint.
        revision: another commit than the catalogue's or the hub's newest.

    Raises:
        ValueError: the catalogue has no such name, the architecture is not supported, or it has fewer layers.
        DataError: the repository's configuration cannot be read.
    """
    known = {**CATALOGUE, **{entry.encoder.repository: entry for entry in _ENTRIES}}
    if name in known:
        encoder = known[name].encoder
    elif "/" in name:
        encoder = _by_repository(name, revision)
    else:
        raise ValueError(f"no published encoder {name!r}; use one of {', '.join(CATALOGUE)}, or a repository, org/name")
    encoder = dataclasses.replace(encoder, revision=revision or encoder.revision, card=card or Card())
    if layers is not None:
        encoder = dataclasses.replace(encoder, name=f"{encoder.name}-{layers}l", layers=layers)
        if (error := layers_error(encoder)) is not None:
            raise ValueError(error)
    return encoder


def _by_repository(repository: str, revision: str | None) -> PublishedEncoder:
    """An encoder outside the catalogue, with the family that its configuration names."""
    name = re.sub(r"[^a-z0-9._-]", "-", repository.rpartition("/")[2].lower())
    path = config_file(repository, revision)
    family = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"{repository}: architecture {family!r} is not supported; supported are {', '.join(FAMILIES)}")
    return PublishedEncoder(name, repository, family, revision)


def config_of(encoder: PublishedEncoder) -> PreTrainedConfig | None:
    """The architecture, from files under the data root or the catalogue; None where only the hub has it.

    Raises:
        ValueError: more layers are kept than the checkpoint has.
    """
    config = _whole_config(encoder)
    if config is not None and encoder.layers is not None:
        first_layers(config, encoder.layers)
    return config


def _whole_config(encoder: PublishedEncoder) -> PreTrainedConfig | None:
    if (folder := local_folder(encoder.repository)) is not None:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    entry = next((entry for entry in _ENTRIES if entry.encoder.repository == encoder.repository), None)
    return None if entry is None else AutoConfig.for_model(encoder.family, **entry.settings)


def layers_error(encoder: PublishedEncoder) -> str | None:
    """Why its first `layers` layers cannot be kept, where the checkpoint's number of layers is known."""
    if encoder.layers is None:
        return None
    try:
        config_of(encoder)
    except ValueError as error:
        return f"{encoder.name}: {error}"
    return None


def description(encoder: PublishedEncoder) -> str:
    """The checkpoint in words: its repository, and how many of its layers are kept."""
    if encoder.layers is None:
        return encoder.repository
    config = _whole_config(encoder)
    of = "" if config is None else f" of {config.num_hidden_layers}"
    return f"{encoder.repository}, first {encoder.layers}{of} layers"
