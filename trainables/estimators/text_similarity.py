"""TextEmb: the cosine of the mean vectors of both tasks' training texts.

Sources: Vu et al. 2020 (2005.00770), Poth et al. 2021 (2104.08247).

The base encoder reads the texts, so no intermediate training is needed. It knows nothing of labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainables.estimators.base import Estimate
from trainables.estimators.units import Undefined
from trainables.stages.base import Stage, Workplace
from trainables.stages.finetune import Tuned, root_of
from trainables.tasks.mixture import Mixture


@dataclass(frozen=True)
class TextSimilarity(Estimate):
    """From -1 to 1. A mixture's texts weigh as its tasks are sampled. None has no texts, and no estimate."""

    name = "text_similarity"
    reads_tuned = False
    reads_texts = True

    @property
    def parents(self) -> tuple[Stage, ...]:
        return (self.target_texts("text"), *self.intermediate_texts(root_of(self.encoder), "text"))

    def estimate(self, work: Workplace) -> float:
        members = self.intermediate_texts(root_of(self.encoder), "text")
        if not isinstance(self.encoder, Tuned):
            raise Undefined("no intermediate task has no texts")
        task = self.encoder.task
        weights = [min(member.table.count(work), task.cap) if isinstance(task, Mixture) else 1 for member in members]
        means = [member.read(work).vectors.mean(axis=0, dtype=np.float64) for member in members]
        target_D = self.target_texts("text").read(work).vectors.mean(axis=0, dtype=np.float64)
        return cosine(np.average(means, axis=0, weights=weights), target_D)


def cosine(first_D: npt.ArrayLike, second_D: npt.ArrayLike) -> float:
    """The cosine of two vectors; NaN if one is zero."""
    first, second = np.asarray(first_D, dtype=np.float64), np.asarray(second_D, dtype=np.float64)
    lengths = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / lengths if lengths else float("nan")
