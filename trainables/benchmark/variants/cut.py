"""A cut vocabulary: the embedding table keeps only the rows that the served texts use.

A multilingual table has a row for each of some 250,000 tokens: 384 of the 470 MB of a 12 x 384 encoder. Texts of a few
languages use a fraction of them. A row that no text looks up changes no prediction, so the cut is exact on the texts that it is
made for: the scored sets (dev and test in all languages, candidates included) of every target that is served. A user's text may
have other tokens. They get the row of the unknown token, and predictions then may differ: to serve other texts, cut with a
sample of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Self

import torch

from trainables.benchmark.scenarios.queries import Query
from trainables.benchmark.variants.base import ServedTokens, Variant, VariantUnavailable
from trainables.benchmark.variants.eager import Fp32
from trainables.benchmark.variants.exported import OnnxInt8
from trainables.benchmark.variants.quantised import Int8
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel
from trainables.training.trimming import cut


class Cut(Variant):
    """Another variant of the model with a cut table; its numbers are those of that variant, bit for bit."""

    name = "cut"
    variant: ClassVar[Variant] = Fp32()

    def __init__(self, tokens: ServedTokens | None = None) -> None:
        self.tokens = tokens

    def for_texts(self, tokens: Callable[[], ServedTokens]) -> Self:
        return type(self)(tokens())

    def unavailable(self, device: torch.device) -> str | None:
        return self.variant.unavailable(device)

    def shares_weights(self, model: TaskModel, device: torch.device) -> bool:
        return False

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        if self.tokens is None:
            raise VariantUnavailable(self.name, "there are no texts whose tokens say which rows to keep")
        if self.tokens.unknown is None:
            raise VariantUnavailable(self.name, "the tokenizer has no unknown token, which tokens without a row become")
        try:
            small = cut(
                *(model, model.encoder.get_input_embeddings(), torch.tensor(self.tokens.ids)),
                unknown=self.tokens.unknown,
            )
        except ValueError as error:
            raise VariantUnavailable(self.name, str(error)) from error
        return self.variant.prepare(small.eval(), device)

    def context(self, queries: Sequence[Query]) -> dict[str, Any]:
        if self.tokens is None:
            return {}
        rows = {"embedding_rows": len(self.tokens.ids), "unknown_tokens": self.tokens.missing_in(queries)}
        return {**self.variant.context(queries), **rows}


class CutInt8(Cut):
    """Dynamic int8, which leaves the table in fp32: without the cut it is most of what remains."""

    name = "cut_int8"
    variant = Int8()
    depends_on_batch = Int8.depends_on_batch


class CutOnnxInt8(Cut):
    """Dynamic int8 in ONNX Runtime, of which the same holds."""

    name = "cut_onnx_int8"
    variant = OnnxInt8()
    depends_on_batch = OnnxInt8.depends_on_batch
