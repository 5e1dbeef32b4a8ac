"""In-batch softmax over text pairs: the ranking loss of dual encoders and of pre-training (Feng et al. 2022, equation 1).

The margin is left out, and the scale is learned. Negatives come from a fixed group of pairs, so the loss does not depend on
how many workers share a batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

INITIAL_SCALE, MAX_SCALE = 20.0, 100.0


def new_log_scale() -> nn.Parameter:
    """The learned scale's logarithm, shape (1,)."""
    return nn.Parameter(torch.tensor([math.log(INITIAL_SCALE)]))


def ranking_loss(
    queries_GPD: Tensor, answers_GPD: Tensor, log_scale: Tensor, *, both_directions: bool = False
) -> Tensor:
    """Cross-entropy of each query's own answer among the answers of its group, summed over queries and groups.

    With `both_directions`, the loss of each answer's query among the queries of the group is added.
    """
    scale = log_scale.exp().clamp(max=MAX_SCALE)
    scores_GPP = scale * queries_GPD @ answers_GPD.transpose(1, 2)
    groups, pairs = queries_GPD.shape[:2]
    own_GP = torch.arange(pairs, device=scores_GPP.device).expand(groups, -1)
    loss = functional.cross_entropy(scores_GPP.transpose(1, 2), own_GP, reduction="sum")
    if both_directions:
        loss = loss + functional.cross_entropy(scores_GPP, own_GP, reduction="sum")
    return loss
