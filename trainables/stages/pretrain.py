"""Stage: pre-train one size of the ladder by masked language modelling and translation ranking.

The ranking loss is LaBSE's in-batch softmax over sentence pairs in both directions (`heads.ranking`). Both losses use the
same masked forward pass. A share of the steps may be translation language modelling instead (Conneau and Lample 2019, section
3.3): both sentences of a pair in one row, so that a masked token can be read off its translation. Ranking aligns whole
sentences; only this aligns their words, which tagging and span extraction need to carry over.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast

from trainables.fields import added_field
from trainables.heads.base import IGNORED, mean_pool, pad_rows, padded_length, supervised
from trainables.heads.masking import Masking
from trainables.heads.ranking import new_log_scale, ranking_loss
from trainables.hyperparameters import Training
from trainables.models.encoder import Shape, count_parameters, hidden_states, load_tokenizer
from trainables.models.task_model import save_encoder
from trainables.stages.base import Root, Stage, Workplace
from trainables.stages.fit import fit
from trainables.stages.vocabulary import TOKENIZER, Vocabulary
from trainables.training.batching import Share

if TYPE_CHECKING:
    from transformers import PreTrainedModel

POOL = 8  # a group is drawn from this many times its size of sentences of similar length, which limits padding


@dataclass(frozen=True)
class Pretrain(Root):
    """`training.batch_size` counts groups of `group_pairs` sentence pairs, which are ranked against each other.

    `translation_share` is the share of the steps that are translation language modelling.
    """

    vocabulary: Vocabulary
    shape: Shape
    training: Training
    group_pairs: int = 32
    trained: bool = True
    translation_share: float = added_field(0.0)

    def __post_init__(self) -> None:
        if not 0 <= self.translation_share <= 1:
            raise ValueError(f"translation_share {self.translation_share}: a share of the steps, from 0 to 1")

    @property
    def label(self) -> str:
        return f"{'pretrain' if self.trained else 'untrained'}-{self.shape}"

    @property
    def memory_key(self) -> str:
        return f"{self.label}-{self.group_pairs}x{self.training.max_length}-{self.training.precision}"

    @property
    def short(self) -> str:
        return str(self.shape)

    @property
    def tokenizer(self) -> Stage:
        return self.vocabulary

    @property
    def parents(self) -> tuple[Stage, ...]:
        return (self.vocabulary,)

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        source = work.store.local(self.vocabulary) / TOKENIZER
        tokenizer = load_tokenizer(source)
        encoder = self.shape.build(tokenizer, self.training.seed, device=work.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training.seed)
            model = PretrainModel(encoder, tokenizer.pad_token_id, self.group_pairs)
        parameters = count_parameters(model.encoder)
        losses: dict[str, Any] = {}
        if self.trained:
            sentences = _tokenised(self.vocabulary.corpus.parallel(), tokenizer, self.training.max_length)
            batches = GroupBatches(
                sentences,
                groups=self.training.batch_size,
                pairs=self.group_pairs,
                seed=self.training.seed,
                masking=Masking.of(tokenizer),
                pad_id=tokenizer.pad_token_id,
                translation_share=self.translation_share,
            )
            state, losses = fit(model, batches, self.training, work, self)
        else:
            state = dict(model.named_parameters())
        if work.leads:
            save_encoder(
                model.encoder, {name: value for name, value in state.items() if name.startswith("encoder.")}, folder
            )
            tokenizer.save_pretrained(folder / TOKENIZER)
        return {
            "parameters": parameters.total,
            "parameters_body": parameters.body,
            **losses,
        }


def _tokenised(
    sentences: Sequence[Mapping[str, str]], tokenizer: PreTrainedTokenizerFast, max_length: int
) -> list[dict[str, tuple[int, ...]]]:
    """Token ids by language for each sentence."""
    texts = [text for by_language in sentences for text in by_language.values()]
    rows = iter(tokenizer(texts, truncation=True, max_length=max_length)["input_ids"])
    return [{language: tuple(next(rows)) for language in by_language} for by_language in sentences]


class PretrainModel(nn.Module):
    """`forward` returns the sum over groups of (mean masked-token cross-entropy + mean ranking cross-entropy).

    Rows with `translated_labels` hold both sentences of a pair and have no ranking loss.
    """

    def __init__(self, encoder: PreTrainedModel, pad_id: int, group_pairs: int) -> None:
        super().__init__()
        width = encoder.config.hidden_size
        self.encoder, self.pad_id, self.group_pairs = encoder, pad_id, group_pairs
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.bias = nn.Parameter(torch.zeros(encoder.config.vocab_size))
        self.log_scale = new_log_scale()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
        translated_labels: Tensor | None = None,
        *,
        masked: Tensor,
        **segments: Any,
    ) -> Tensor:
        hidden_NLD = hidden_states(self.encoder, input_ids, attention_mask, segments)
        if labels is None:
            assert translated_labels is not None
            return self._masked(hidden_NLD, translated_labels, masked, hidden_NLD.shape[0] // self.group_pairs)
        groups = hidden_NLD.shape[0] // (2 * self.group_pairs)
        loss = self._masked(hidden_NLD, labels, masked, groups)
        return loss + self._ranking(mean_pool(hidden_NLD, attention_mask), groups)

    def _masked(self, hidden_NLD: Tensor, labels_NL: Tensor, masked_M: Tensor, groups: int) -> Tensor:
        hidden_MD = self.norm(functional.gelu(self.dense(hidden_NLD.flatten(0, 1)[masked_M])))
        scores_MV = functional.linear(hidden_MD, self.encoder.get_input_embeddings().weight, self.bias)
        losses_M = functional.cross_entropy(scores_MV.float(), labels_NL.flatten()[masked_M], reduction="none")
        masked_G = (labels_NL != IGNORED).view(groups, -1).sum(1)
        group_M = masked_M // (labels_NL.numel() // groups)
        return (losses_M / masked_G.clamp(min=1)[group_M]).sum()

    def _ranking(self, vectors_ND: Tensor, groups: int) -> Tensor:
        unit = functional.normalize(vectors_ND.float(), dim=-1).view(groups, 2, self.group_pairs, -1)
        loss = ranking_loss(unit[:, 0], unit[:, 1], self.log_scale, both_directions=True)
        return loss / (2 * self.group_pairs)


@dataclass(frozen=True)
class GroupBatches:
    """Groups of sentence pairs with masks, each a function of the seed, the step and its index in the batch."""

    sentences: Sequence[Mapping[str, tuple[int, ...]]]
    groups: int
    pairs: int
    seed: int
    masking: Masking
    pad_id: int
    translation_share: float = 0.0
    _by_length: list[int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        order = sorted(range(len(self.sentences)), key=lambda index: len(self.sentences[index]["en"]))
        object.__setattr__(self, "_by_length", order)
        if len(order) < self.pairs * POOL:
            raise ValueError(
                f"{len(order)} sentences are too few for groups of {self.pairs} pairs: give at least {self.pairs * POOL}"
            )

    @property
    def group(self) -> int:
        return 1  # an entry of the batch is a whole group of pairs

    @property
    def rows(self) -> int:
        return 2 * self.pairs

    def micro_batch_rows(self, batch_size: int, share: Share) -> int:
        return share.micro_batch_rows(batch_size, rows=self.rows)

    def weight(self, step: int) -> float:
        return float(self.groups)

    def micro_batches(self, step: int, share: Share) -> list[dict[str, Tensor]]:
        return [self._collate(step, groups) for groups in share.cut(range(self.groups), rows=self.rows)]

    def _is_translated(self, step: int) -> bool:
        """Whether a step is translation language modelling: the share's steps, spread evenly."""
        return int((step + 1) * self.translation_share) > int(step * self.translation_share)

    def _collate(self, step: int, groups: Sequence[int]) -> dict[str, Tensor]:
        rows: list[tuple[int, ...]] = []
        masked: list[list[int]] = []
        labels: list[list[int]] = []
        translated = self._is_translated(step)
        for group in groups:
            rng = random.Random(f"{self.seed}|{step}|{group}")
            pairs = self._rows(rng)
            for row in _joined(pairs) if translated else pairs:
                rows.append(row)
                inputs, targets = self.masking.mask(row, rng)
                masked.append(inputs)
                labels.append(targets)
        longest = padded_length(rows)
        input_ids, labels_NL = pad_rows(masked, self.pad_id, longest), pad_rows(labels, IGNORED, longest)
        return {
            "input_ids": input_ids,
            "attention_mask": (input_ids != self.pad_id).long(),
            "translated_labels" if translated else "labels": labels_NL,
            "masked": supervised(labels_NL),
        }

    def _rows(self, rng: random.Random) -> list[tuple[int, ...]]:
        """The first sides of all pairs, then the second sides.

        Half of the pairs drawn without English get it as their second side.
        """
        start = rng.randrange(len(self._by_length) - self.pairs * POOL + 1)
        chosen = rng.sample(self._by_length[start : start + self.pairs * POOL], self.pairs)
        firsts, seconds = [], []
        for index in chosen:
            texts = self.sentences[index]
            first, second = rng.sample(sorted(texts), 2)
            if rng.random() < 0.5 and "en" not in (first, second):
                second = "en"
            firsts.append(texts[first])
            seconds.append(texts[second])
        return firsts + seconds


def _joined(rows: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Each pair as one row, in the tokenizer's pair format: `<s> first </s></s> second </s>`."""
    half = len(rows) // 2
    return [(*first, first[-1], *second[1:]) for first, second in zip(rows[:half], rows[half:], strict=True)]
