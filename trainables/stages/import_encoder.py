"""Stage: a published encoder brought into the store, in the form in which the ladder's own rungs lie there."""

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
from trainables.models.published_encoder import Published, checkpoint_folder
from trainables.models.task_model import ENCODER
from trainables.stages.base import Root, Stage, Workplace
from trainables.stages.vocabulary import TOKENIZER

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ImportEncoder(Root):
    """Reads the encoder alone, without decoder, language-model head or pooling layer, in fp32.

    The family's pooling, and the separator where it has a meaning for the encoder, are written into its configuration for all
    later stages.
    """

    encoder: Published

    def also_identified_by(self) -> dict[str, Any]:
        """How rows are read, where that has changed what later stages make of the same weights."""
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
            raise DataError(source, None, f"its tokenizer has {len(tokenizer)} pieces, its embedding table {rows} rows")
        family = FAMILIES[self.encoder.family]
        model.config.pooling = family.pooling
        if family.second_segment:
            model.config.sep_token_id = tokenizer.sep_token_id
        model.save_pretrained(folder / ENCODER)
        tokenizer.save_pretrained(folder / TOKENIZER)
        count = count_parameters(model)
        return {"parameters": count.total, "parameters_body": count.body, "revision": self.encoder.revision}


def _encoder(source: Path, encoder: Published) -> PreTrainedModel:
    found = AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
    if found != encoder.family:
        raise DataError(source, None, f"model_type is {found!r}, and {encoder.name} was said to be {encoder.family!r}")
    family = FAMILIES[encoder.family]
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # or a page about the decoder or the head that is left over
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
    # What is missing it fills with random numbers.
    if lacking := sorted({*report["missing_keys"], *(str(key) for key in report["mismatched_keys"])}):
        raise DataError(source, None, f"its weights lack {', '.join(lacking[:5])} ({len(lacking)} in all)")
    loaded: PreTrainedModel = model
    return loaded


def _tokenizer(source: Path) -> PreTrainedTokenizerFast:
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, local_files_only=True)
    except (ImportError, ValueError, OSError) as error:
        raise DataError(
            source,
            None,
            f"its tokenizer cannot be read ({error}); without a tokenizer.json it takes the package sentencepiece",
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.pad_token_id is None:
        raise DataError(source, None, f"{type(tokenizer).__name__} is no fast tokenizer with a padding token")
    return tokenizer
