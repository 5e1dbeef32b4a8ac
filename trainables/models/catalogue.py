"""The published encoders of the study, with their shapes for use without a network.

Commits are those that public code pins. Where a repository's main branch holds only a pickle, it is the commit of the hub's
conversion bot on top of it, which has the same weights as safetensors, if one is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from trainables.models.published_encoder import PublishedEncoder, local_folder


@dataclass(frozen=True)
class CatalogueEntry:
    """A published encoder, the shape in its `config.json`, and a remark that users should read before a run."""

    encoder: PublishedEncoder
    settings: Mapping[str, Any]
    remark: str | None = None


_PICKLED = (
    "its main branch holds only a pickle (pytorch_model.bin), which is refused: convert it, or name another commit"
)
_UNVERIFIED = "it is not verified that this commit holds safetensors"


def _mt5(name: str, revision: str, width: int, inner: int, layers: int, heads: int, remark: str) -> CatalogueEntry:
    """Shapes as in google-research/t5x, examples/t5/mt5/*.gin; the vocabulary is padded to a multiple of 128 there."""
    settings = {"vocab_size": 250_112, "d_model": width, "d_ff": inner, "d_kv": 64, "num_layers": layers}
    return CatalogueEntry(
        PublishedEncoder(f"mt5-{name}", f"google/mt5-{name}", "mt5", revision), {**settings, "num_heads": heads}, remark
    )


def _xlm_r(name: str, repository: str, revision: str, width: int, layers: int) -> CatalogueEntry:
    """Heads are 64 wide and the feed-forward is four times the width; 514 positions, two of them before the first token."""
    family = "xlm-roberta-xl" if name.endswith("xl") else "xlm-roberta"
    settings = {
        "vocab_size": 250_880 if name.endswith("xl") else 250_002,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 32 if name.endswith("xl") else width // 64,
        "intermediate_size": 4 * width,
        "max_position_embeddings": 514,
        "type_vocab_size": 1,
    }
    remark = _UNVERIFIED if name.endswith("xl") else None
    return CatalogueEntry(PublishedEncoder(f"xlm-r-{name}", repository, family, revision), settings, remark)


def _mmbert(name: str, revision: str, width: int) -> CatalogueEntry:
    """JHU-CLSP/mmBERT, configs/mmBERT-*.yaml."""
    settings = {"vocab_size": 256_000, "hidden_size": width, "num_hidden_layers": 22, "intermediate_size": 1152}
    published = PublishedEncoder(f"mmbert-{name}", f"jhu-clsp/mmBERT-{name}", "modernbert", revision)
    return CatalogueEntry(published, {**settings, "num_attention_heads": width // 64})


_ENTRIES = (
    _xlm_r("base", "FacebookAI/xlm-roberta-base", "e73636d4f797dec63c3081bb6ed5c7b0bb3f2089", 768, 12),
    _xlm_r("large", "FacebookAI/xlm-roberta-large", "c23d21b0620b635a76227c604d44e43a9f0ee389", 1024, 24),
    _xlm_r("xl", "facebook/xlm-roberta-xl", "aa5d120255845efeebc9b7f42822a1dd0f9ece9d", 2560, 36),
    _xlm_r("xxl", "facebook/xlm-roberta-xxl", "03e0fb540c3c9afd4bdda0072e7cb82d2eafd060", 4096, 48),
    _mt5("small", "73fb5dbe4756edadc8fbe8c769b0a109493acf7a", 512, 1024, 8, 6, _UNVERIFIED),
    _mt5("base", "2eb15465c5dd7f72a8f7984306ad05ebc3dd1e1f", 768, 2048, 12, 12, _PICKLED),
    _mt5("large", "50b7223e98fcd124b0cabb1ec81bc6324c7df107", 1024, 2816, 24, 16, _UNVERIFIED),
    _mt5("xl", "63fc6450d80515b48e026b69ef2fbbd426433e84", 2048, 5120, 24, 32, _UNVERIFIED),
    _mt5("xxl", "e07c395916dfbc315d4e5e48b4a54a1e8821b5c0", 4096, 10240, 24, 64, _UNVERIFIED),
    CatalogueEntry(
        PublishedEncoder(
            *("mbert", "google-bert/bert-base-multilingual-cased", "bert"),
            revision="3f076fdb1ab68d5b2880cb87a0886f315b8146f8",
        ),
        {"vocab_size": 119_547},  # the rest is BERT base, the class's defaults
    ),
    CatalogueEntry(
        PublishedEncoder(
            *("mdeberta-v3-base", "microsoft/mdeberta-v3-base", "deberta-v2"),
            revision="faf660b811036d7b6dfc53aacfe5281447d4e2c6",  # the conversion of a0484667b22365f84929a935b5e50a51f71f159d
        ),
        {
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
)
CATALOGUE: dict[str, CatalogueEntry] = {entry.encoder.name: entry for entry in _ENTRIES}


def published(name: str) -> PublishedEncoder:
    """The encoder of that name.

    Raises:
        ValueError: the catalogue has none.
    """
    if name not in CATALOGUE:
        raise ValueError(f"no published encoder {name!r}; use one of {', '.join(CATALOGUE)}")
    return CATALOGUE[name].encoder


def config_of(encoder: PublishedEncoder) -> PreTrainedConfig | None:
    """The architecture, from files under the data root or the catalogue; None where only the hub has it."""
    if (folder := local_folder(encoder)) is not None:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    entry = next((entry for entry in _ENTRIES if entry.encoder.repository == encoder.repository), None)
    return None if entry is None else AutoConfig.for_model(encoder.family, **entry.settings)
