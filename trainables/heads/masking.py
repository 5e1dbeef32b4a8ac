"""BERT's masking rule, for pre-training and for masked language modelling as a task (Devlin et al. 2019, section 3.1)."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from trainables.heads.base import IGNORED, Feature

MASKED_SHARE = 0.15


@dataclass(frozen=True)
class Masking:
    """The rule over a tokenizer's ids: `special` ids are never masked; `ordinary` are all others."""

    mask_id: int
    special: frozenset[int]
    ordinary: tuple[int, ...]

    @staticmethod
    def of(tokenizer: PreTrainedTokenizerFast) -> Masking:
        """The rule for a tokenizer.

        Raises:
            ValueError: it has no mask token.
        """
        if tokenizer.mask_token_id is None:
            raise ValueError(f"{type(tokenizer).__name__} has no mask token: its encoder was not pre-trained with one")
        special = frozenset(tokenizer.all_special_ids)
        ordinary = tuple(token for token in range(len(tokenizer)) if token not in special)
        return Masking(tokenizer.mask_token_id, special, ordinary)

    def mask(self, row: Sequence[int], rng: random.Random) -> tuple[list[int], list[int]]:
        """The masked row, and the target at each position (`IGNORED` where nothing is to be predicted).

        Of the chosen tokens 80% become the mask token, 10% a random token, and 10% stay.
        """
        inputs, targets = list(row), [IGNORED] * len(row)
        for position, token in enumerate(row):
            if token in self.special or rng.random() >= MASKED_SHARE:
                continue
            targets[position] = token
            draw = rng.random()
            if draw < 0.8:
                inputs[position] = self.mask_id
            elif draw < 0.9:
                inputs[position] = rng.choice(self.ordinary)
        return inputs, targets

    def masked(self, feature: Feature, rng: random.Random) -> Feature:
        """A one-row feature with masks: its target is as long as the row, its weight the number of chosen tokens."""
        (row,) = feature.rows
        inputs, target = self.mask(row, rng)
        chosen = sum(token != IGNORED for token in target)
        return dataclasses.replace(feature, rows=(tuple(inputs),), target=tuple(target), weight=float(chosen))
