"""Early stopping: keep the weights of the best English dev score, and end the training when it stops rising."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from trainables.hyperparameters import EarlyStopping
from trainables.training.engine import full_state

DevScore = Callable[[Any], float]  # of an engine: its score on the dev set, in percent, the same on all workers


class EarlyStopper:
    """Follows the dev score of one training. All workers of a group make the same calls.

    `scores` holds (steps done, score) of every evaluation. `best`, on the leading worker, is the full state on the CPU with the
    highest score, the first of equal ones.
    """

    def __init__(self, rule: EarlyStopping, dev_score: DevScore, steps: int, *, leads: bool) -> None:
        self._rule, self._dev_score, self._steps, self._leads = rule, dev_score, steps, leads
        self.scores: list[tuple[int, float]] = []
        self.best: Mapping[str, Tensor] = {}

    @property
    def best_step(self) -> int:
        """Steps after which the score was highest; 0 before the first evaluation."""
        return max(self.scores, key=lambda scored: (scored[1], -scored[0]), default=(0, 0.0))[0]

    def due(self, done: int) -> bool:
        """Whether the dev set is scored after this many steps: at the rule's interval and at the end."""
        return done % self._rule.every == 0 or done == self._steps

    def evaluate(self, engine: Any, done: int) -> None:
        """Score the dev set, and keep the weights if they are the best so far."""
        engine.eval()
        self.scores.append((done, self._dev_score(engine)))
        engine.train()
        if self.best_step == done:
            self.best = {}  # frees the old copy first: two may not fit
            self.best = full_state(engine, keep=self._leads)

    @property
    def should_stop(self) -> bool:
        """Whether none of the last `patience` evaluations raised the score."""
        since = sum(done > self.best_step for done, _ in self.scores)
        return since >= self._rule.patience

    def resume(self, scores: list[tuple[int, float]], best: Mapping[str, Tensor]) -> None:
        """Continue from the state of a checkpoint."""
        self.scores, self.best = scores, best
