"""Early stopping: the weights of the best English dev score are kept, and training ends when it has not risen for a while."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from trainables.hyperparameters import EarlyStopping
from trainables.training.engine import full_state

Measure = Callable[[Any], float]  # of an engine: its score on the dev set, in percent, the same on all workers


class Watch:
    """Follows the dev score of one training. All workers of a group make the same calls.

    `scores` holds (steps done, score) of every evaluation, `best` (on the leading worker) the full state on the CPU
    that had the highest, the first of equal ones.
    """

    def __init__(self, rule: EarlyStopping, measure: Measure, steps: int, *, leads: bool) -> None:
        self._rule, self._measure, self._steps, self._leads = rule, measure, steps, leads
        self.scores: list[tuple[int, float]] = []
        self.best: Mapping[str, Tensor] = {}

    @property
    def best_step(self) -> int:
        """Steps after which the score was highest; 0 before the first evaluation."""
        return max(self.scores, key=lambda one: (one[1], -one[0]), default=(0, 0.0))[0]

    def wants(self, done: int) -> bool:
        """Whether the dev set is scored after so many steps: every so often, and at the end."""
        return done % self._rule.every == 0 or done == self._steps

    def look(self, engine: Any, done: int) -> None:
        """Score the dev set, and keep the weights if they are the best so far."""
        engine.eval()
        self.scores.append((done, self._measure(engine)))
        engine.train()
        if self.best_step == done:
            self.best = {}  # two full copies would not fit where one does
            self.best = full_state(engine, keep=self._leads)

    @property
    def over(self) -> bool:
        """Whether the last `patience` evaluations have all brought nothing."""
        since = sum(done > self.best_step for done, _ in self.scores)
        return since >= self._rule.patience

    def resume(self, scores: list[tuple[int, float]], best: Mapping[str, Tensor]) -> None:
        """Go on from what a checkpoint kept."""
        self.scores, self.best = scores, best
