"""Dual encoder: queries and answers in one space by one encoder; in-batch softmax, exact search over all languages.

Roy et al. 2020 (LAReQA): an answer is its sentence with the passage it stands in; Botha et al. 2020 (Mewsli): an entity is
its description. The scale of the softmax is learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.data.examples import RetrievalPair, RetrievalText
from trainables.heads.base import Feature, Head, HeadModule, Outputs, Pooling, by_example
from trainables.heads.bitext import EmbeddingHead, search
from trainables.tasks.base import Task

RANKED = 20  # candidates kept for each query


class DualEncoderHead(EmbeddingHead):
    """A row's vector; rows of a pair stand together, and `group` pairs are each other's negatives.

    A fixed number of them, so that the loss does not depend on how many workers share a batch.
    """

    def __init__(self, group: int) -> None:
        super().__init__()
        self.group = group
        self.log_scale = nn.Parameter(torch.tensor([math.log(20.0)]))

    def loss(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        pairs_GP2D = logits.view(-1, self.group, 2, logits.shape[-1])
        scores_GPP = self.log_scale.exp().clamp(max=100.0) * pairs_GP2D[:, :, 0] @ pairs_GP2D[:, :, 1].transpose(1, 2)
        right_GP = torch.arange(self.group, device=logits.device).expand(len(pairs_GP2D), -1)
        return functional.cross_entropy(scores_GPP.transpose(1, 2), right_GP, reduction="sum")


class DualEncoder(Head[RetrievalPair | RetrievalText]):
    """A pair's rows are query and answer; a text of a retrieval set has one row."""

    name = "dual_encoder"

    def features(
        self,
        examples: Sequence[RetrievalPair | RetrievalText],
        *,
        task: Task,
        tokenizer: PreTrainedTokenizerFast,
        max_length: int,
    ) -> list[Feature]:
        queries = [text for example in examples if (text := _query(example)) is not None]
        answers = [pair for example in examples if (pair := _answer(example)) is not None]
        query_rows = iter(_rows(tokenizer, queries, min(task.query_length or max_length, max_length)))
        answer_rows = iter(_rows(tokenizer, answers, min(task.answer_length or max_length, max_length)))
        found = []
        for index, example in enumerate(examples):
            rows = [next(query_rows)] if _query(example) is not None else []
            rows += [next(answer_rows)] if _answer(example) is not None else []
            found.append(Feature(index, tuple(rows), ()))
        return found

    def rows(self, task: Task) -> int:
        return 2  # the query and what answers it

    def module(self, hidden_size: int, task: Task, pooling: Pooling = "mean") -> HeadModule:
        return DualEncoderHead(task.group)

    def targets(self, features: Sequence[Feature], padded_length: int) -> dict[str, Tensor]:
        return {}

    def decode(self, outputs: Outputs[RetrievalPair | RetrievalText], task: Task) -> list[Any]:
        return self.decode_all([outputs], task)[0]

    def decode_all(self, sets: Sequence[Outputs[RetrievalPair | RetrievalText]], task: Task) -> list[list[Any]]:
        """The best candidates of each query, over the candidates of all sets of its split; nothing for a candidate."""
        found: dict[int, list[Any]] = {}
        for split in {outputs.split for outputs in sets}:
            here = [number for number, outputs in enumerate(sets) if outputs.split == split]
            found |= dict(zip(here, _ranked([sets[number] for number in here]), strict=True))
        return [found[number] for number in range(len(sets))]

    def reference(self, example: RetrievalPair | RetrievalText, task: Task) -> tuple[str, ...] | None:
        return (_key(example),) if isinstance(example, RetrievalPair) else example.gold

    def protocol(self, task: Task) -> str:
        return f"mean over tokens, L2-normalised, {RANKED} nearest by cosine over the candidates of all languages"


def _query(example: RetrievalPair | RetrievalText) -> tuple[str, str | None] | None:
    if isinstance(example, RetrievalPair):
        return example.query, None
    return (example.text, example.context) if example.gold is not None else None


def _answer(example: RetrievalPair | RetrievalText) -> tuple[str, str | None] | None:
    if isinstance(example, RetrievalPair):
        return example.answer, example.context
    return (example.text, example.context) if example.gold is None else None


def _key(example: RetrievalPair | RetrievalText) -> str:
    """What names a candidate: its id, or for training pairs, where several questions share an answer, its text."""
    return f"{example.answer}\n{example.context}" if isinstance(example, RetrievalPair) else example.id


def _rows(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[tuple[str, str | None]], max_length: int
) -> list[tuple[int, ...]]:
    if not texts:
        return []
    firsts = [text for text, _ in texts]
    contexts = None if texts[0][1] is None else [context or "" for _, context in texts]
    cut: bool | str = True if contexts is None else "longest_first"
    return [tuple(ids) for ids in tokenizer(firsts, contexts, truncation=cut, max_length=max_length)["input_ids"]]


def _ranked(sets: Sequence[Outputs[RetrievalPair | RetrievalText]]) -> list[list[Any]]:
    keys: dict[str, np.ndarray] = {}
    queries: list[np.ndarray] = []
    for outputs in sets:
        for example, values in zip(outputs.examples, by_example(outputs), strict=True):
            if _answer(example) is not None:
                keys.setdefault(_key(example), values[-1])
            if _query(example) is not None:
                queries.append(values[0])
    names = list(keys)
    nearest_QN = iter(search(np.stack(queries), np.stack(list(keys.values())), RANKED)) if queries else iter(())
    return [
        [
            tuple(names[int(column)] for column in next(nearest_QN)) if _query(example) is not None else None
            for example in outputs.examples
        ]
        for outputs in sets
    ]
