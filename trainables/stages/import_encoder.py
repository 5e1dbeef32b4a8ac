"""Stage: import a published encoder into the store, in the form of the ladder's own encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from trainables.data.source import DataError
from trainables.models.encoder import count_parameters
from trainables.models.families import FAMILIES
from trainables.models.published_encoder import PublishedEncoder, checkpoint_folder
from trainables.models.task_model import ENCODER
from trainables.stages.base import Root, Stage, Workplace
from trainables.stages.vocabulary import TOKENIZER

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ImportEncoder(Root):
    """Reads only the encoder in fp32, without decoder, language-model head or pooling layer.

    Its pooling is written into the configuration for later stages: the one its own configuration names, as encoders shipped
    with the package do, else the family's. So is the separator if the encoder marks segments.
    """

    encoder: PublishedEncoder

    def also_identified_by(self) -> dict[str, Any]:
        """How rows are read, where a change of that changed the results of later stages."""
        return {"second_segment": "marked"} if FAMILIES[self.encoder.family].second_segment else {}

    @property
    def label(self) -> str:
        return f"import-{self.encoder.name}"

    @property
    def short(self) -> str:
        return self.encoder.name

    @property
    def parents(self) -> tuple[Stage, ...]:
        return ()

    @property
    def tokenizer(self) -> Stage:
        return self

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        if not work.leads:
            return {}
        source = checkpoint_folder(self.encoder)
        tokenizer = _tokenizer(source)
        model = _encoder(source, self.encoder)
        rows = model.get_input_embeddings().num_embeddings
        if len(tokenizer) > rows:
            raise DataError(
                source, None, f"its tokenizer has {len(tokenizer)} tokens, and its embedding table has only {rows} rows"
            )
        family = FAMILIES[self.encoder.family]
        model.config.pooling = getattr(model.config, "pooling", family.pooling)
        if family.second_segment:
            model.config.sep_token_id = tokenizer.sep_token_id
        model.save_pretrained(folder / ENCODER)
        tokenizer.save_pretrained(folder / TOKENIZER)
        count = count_parameters(model)
        return {"parameters": count.total, "parameters_body": count.body, "revision": self.encoder.revision}


def _encoder(source: Path, encoder: PublishedEncoder) -> PreTrainedModel:
    model_type = AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
    if model_type != encoder.family:
        raise DataError(
            source,
            None,
            f"model_type is {model_type!r}, and the recipe gives family {encoder.family!r} for {encoder.name}",
        )
    family = FAMILIES[encoder.family]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # hides a page about unused weights of the decoder or head
    try:
        model, report = family.model_class.from_pretrained(
            source,
            use_safetensors=True,
            local_files_only=True,
            dtype=torch.float32,
            output_loading_info=True,
            **family.options,
        )
    finally:
        logging.set_verbosity(verbosity)
    # `from_pretrained` fills missing weights with random numbers.
    if missing := sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])}):
        raise DataError(source, None, f"its weights lack {', '.join(missing[:5])} ({len(missing)} in all)")
    loaded: PreTrainedModel = model
    return loaded


def _tokenizer(source: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=True)
    except (ImportError, ValueError, OSError) as error:
        raise DataError(
            source,
            None,
            f"its tokenizer cannot be read ({error}); without a tokenizer.json, install the package sentencepiece",
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.pad_token_id is None:
        raise DataError(source, None, f"{type(tokenizer).__name__} is not a fast tokenizer with a padding token")
    return tokenizer
