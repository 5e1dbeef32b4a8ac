"""Stage: import a published encoder into the store, in the form of the ladder's own encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from trainables.data.source import DataError
from trainables.heads.base import Prefixes
from trainables.models.encoder import count_parameters
from trainables.models.families import first_layers
from trainables.models.published_encoder import PublishedEncoder, checkpoint_folder, resolved_card
from trainables.models.task_model import ENCODER, save_encoder_files
from trainables.stages.base import Root, Stage, Workplace
from trainables.stages.vocabulary import TOKENIZER
from trainables.store.fingerprint import canonical

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class ImportEncoder(Root):
    """Reads only the encoder in fp32, without decoder, language-model head or pooling layer.

    How it pools is written into the configuration for later stages: as its card says, else its own configuration (encoders
    shipped with the package do), else its family. So is whether it marks segments, with the separator if it does.
    """

    encoder: PublishedEncoder

    def also_identified_by(self) -> dict[str, Any]:
        """How rows are read, where a change of that changed the results of later stages."""
        return {"second_segment": "marked"} if self.encoder.marks_second_segment else {}

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

    @property
    def prefixes(self) -> Prefixes:
        return Prefixes(self.encoder.card.query_prefix or "", self.encoder.card.passage_prefix or "")

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        if not work.leads:
            return {}
        source = checkpoint_folder(self.encoder)
        _check_card(self.encoder, source)
        tokenizer = _tokenizer(source, self.encoder.card.tokenizer)
        model = _encoder(source, self.encoder)
        rows = model.get_input_embeddings().num_embeddings
        if len(tokenizer) > rows:
            raise DataError(
                source, None, f"its tokenizer has {len(tokenizer)} tokens, and its embedding table has only {rows} rows"
            )
        family = self.encoder.architecture
        model.config.pooling = self.encoder.card.pooling or getattr(model.config, "pooling", family.pooling)
        if family.second_segment:
            model.config.second_segment = self.encoder.marks_second_segment
            model.config.sep_token_id = tokenizer.sep_token_id
        save_encoder_files(model, folder / ENCODER)
        tokenizer.save_pretrained(folder / TOKENIZER)
        count = count_parameters(model)
        return {"parameters": count.total, "parameters_body": count.body, "revision": self.encoder.revision}


def _check_card(encoder: PublishedEncoder, source: Path) -> None:
    """That the study was made knowing what the files say: another card would be another identity."""
    if (card := resolved_card(encoder, source)) != encoder.card:
        stated = {name: value for name, value in canonical(card).items() if name not in ("type", "version")}
        raise DataError(
            source,
            None,
            f"the files say {stated or 'nothing unusual'}, which the study was made without: pass {encoder.name} through "
            "pinned_encoder where the files or the hub can be read, or state it in the recipe's card",
        )


def _encoder(source: Path, encoder: PublishedEncoder) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    if config.model_type != encoder.family:
        raise DataError(
            source,
            None,
            f"model_type is {config.model_type!r}, and the recipe gives family {encoder.family!r} for {encoder.name}",
        )
    if encoder.layers is not None:
        try:
            first_layers(config, encoder.layers)
        except ValueError as error:
            raise DataError(source, None, str(error)) from error
    family = encoder.architecture
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # hides a page about unused weights of the decoder or head
    try:
        model, report = family.model_class.from_pretrained(
            source,
            config=config,
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


def _tokenizer(source: Path, class_name: str | None) -> PreTrainedTokenizerFast:
    """The checkpoint's tokenizer, of the class that its files name unless its card names another."""
    tokenizer_class = AutoTokenizer if class_name is None else getattr(transformers, class_name)
    try:
        tokenizer = tokenizer_class.from_pretrained(source, trust_remote_code=False, local_files_only=True)
    except (ImportError, ValueError, OSError) as error:
        raise DataError(
            source,
            None,
            f"its tokenizer cannot be read ({error}); without a tokenizer.json, install the package sentencepiece",
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast) or tokenizer.pad_token_id is None:
        raise DataError(source, None, f"{type(tokenizer).__name__} is not a fast tokenizer with a padding token")
    return tokenizer
