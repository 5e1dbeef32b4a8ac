"""The trials of a study as far as they are known: those that started, and a prediction of those to come."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from study.spec import Choice, Size, Study


@dataclass
class Trials:
    """The trials of a size's search, or its repeats: those that started, and predictions of those to come."""

    predicted: list[Choice]
    started: list[Choice] = field(default_factory=list)
    ended: set[Choice] = field(default_factory=set)
    closed: bool = False

    @property
    def choices(self) -> list[Choice]:
        """As many as were predicted: what started, then predictions."""
        to_come = [choice for choice in self.predicted if choice not in self.started]
        return self.started + to_come[: max(0, len(self.predicted) - len(self.started))]

    @property
    def left(self) -> list[Choice]:
        return [choice for choice in self.choices if choice not in self.ended]

    def start(self, choice: Choice) -> None:
        if choice not in self.started:
            self.started.append(choice)

    def end(self, choice: Choice) -> None:
        self.start(choice)
        self.ended.add(choice)

    def close(self) -> None:
        """Nothing else will start."""
        self.predicted, self.ended, self.closed = list(self.started), set(self.started), True


def predicted_search(study: Study, size: Size) -> list[Choice]:
    """The choices that a search will try: its default cells, then random ones in the place of Optuna's."""
    space, rng = study.space_of(size), random.Random(study.seed)
    choices = space.defaults()
    grid = space.grid()
    others = [choice for choice in grid or () if choice not in choices]
    sampled = study.budget(size) - len(choices)
    return choices + (rng.sample(others, sampled) if grid else [space.sample(rng) for _ in range(sampled)])


def predicted_repeats(study: Study, size: Size) -> list[Choice]:
    """Repeats of as many default cells as there will be winners, the one without an intermediate task included."""
    if study.repeats is None:
        return []
    winners = study.space_of(size).defaults()[: study.repeats.top + 1]
    return [repeat for choice in winners for repeat in study.repeats_of(choice)]
