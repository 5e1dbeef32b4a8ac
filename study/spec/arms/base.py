"""The interface of an arm: one intermediate choice of the search space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from trainables.heads import HEADS
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture

if TYPE_CHECKING:
    from study.spec.sizes import Size
    from study.spec.space import Choice
    from study.spec.study import Study
    from trainables.models.published_encoder import PublishedEncoder
    from trainables.stages.base import Root
    from trainables.stages.finetune import Tuned


class Arm(ABC):
    """An intermediate choice. Subclasses are frozen dataclasses of plain values, tasks and mixtures.

    Class attributes are fixed for the arm:

    - `uses_rate`: whether the intermediate learning rate applies. Where it does not, `Choice.lr_intermediate` is None;
    - `note`: one phrase for `plan` on what the arm does; "" for training on the members before the targets.
    """

    uses_rate: ClassVar[bool] = True
    note: ClassVar[str] = ""

    @property
    @abstractmethod
    def name(self) -> str:
        """The choice's name: in trials, tables, and folders."""

    @property
    @abstractmethod
    def members(self) -> tuple[Task, ...]:
        """The tasks whose training data the arm reads, with labels or masked."""

    @property
    @abstractmethod
    def tuned(self) -> tuple[Task | Mixture, ...]:
        """What the study's `intermediate_tuning` trains, in order, prerequisites included; `own_tuning` may name these."""

    @abstractmethod
    def encoder(self, study: Study, size: Size, choice: Choice, *, trained: bool = True) -> Root | Tuned:
        """The stage that the targets start from, and that targets without training are scored on.

        `trained=False` starts from random weights (`Study.encoder_stage`).
        """

    def target(self, study: Study, size: Size, choice: Choice, target: Task, *, trained: bool = True) -> Tuned:
        """The stage whose model is scored on a trained target: by default the arm's encoder, fine-tuned on the target."""
        return study.fine_tuned(
            self.encoder(study, size, choice, trained=trained),
            target,
            study.tuning,
            rate=choice.lr_target * size.rate_factor,
            epochs=choice.epochs,
            seed=choice.seed,
        )

    def published_at(self, size: Size) -> PublishedEncoder | None:
        """The checkpoint that the arm starts from at a size in place of the size's own; None for arms of the study."""
        return None

    def errors(self, study: Study) -> Iterator[str]:
        """What makes a study with this arm invalid, apart from names and data, which are checked for every arm."""
        yield from (
            f"space.intermediates: {task.name} is a target" for task in self.members if task.role != "intermediate"
        )

    @property
    def reads(self) -> frozenset[str]:
        """The corpora of the members' training sets, for contamination flags."""
        return frozenset().union(*(task.reads for task in self.members))

    @property
    def trained_languages(self) -> tuple[str, ...] | None:
        """Languages besides English in which the arm has labelled training data, so that gains there are not zero-shot.

        None: unknown, as others trained it and its card does not say.
        """
        languages = dict.fromkeys(language for task in self.members for language in task.training_languages)
        return tuple(language for language in languages if language != "en")

    @property
    def masks(self) -> bool:
        """Whether a member is masked language modelling."""
        return any(HEADS[task.head].masks for task in self.members)
