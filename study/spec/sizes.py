"""Sizes of a study: each an encoder with the resources it trains on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from trainables.fields import added_field
from trainables.hyperparameters import Training
from trainables.models.encoder import Shape
from trainables.models.families import FAMILIES, Family
from trainables.models.published_encoder import PublishedEncoder
from trainables.resources import Resources

LADDER_FAMILY = "xlm-roberta"


@dataclass(frozen=True)
class LadderEncoder:
    """An encoder of the study's own ladder: its shape, and how it is pre-trained on the study's corpus and vocabulary."""

    IDENTITY_NAME: ClassVar[str] = "Rung"  # its former name, which `study.json` and fingerprints keep

    shape: Shape
    pretraining: Training


@dataclass(frozen=True)
class Size:
    """One point of the scaling axis: an encoder and its resources.

    `trials` is this size's own budget; None takes the study's. `rate_factor` multiplies every learning rate of a trial, for
    architectures that need rates of another magnitude than the rest of the study. `intermediates` names the study's
    intermediate tasks that this size tries, beside none; None tries all. The others then have no gain at this size.
    """

    name: str
    encoder: LadderEncoder | PublishedEncoder
    resources: Resources
    trials: int | None = None
    rate_factor: float = 1.0
    intermediates: tuple[str, ...] | None = added_field(None)

    @property
    def family(self) -> Family:
        """The architecture's family."""
        return FAMILIES[self.encoder.family if isinstance(self.encoder, PublishedEncoder) else LADDER_FAMILY]

    def tries(self, intermediate: str) -> bool:
        """Whether the size's trials try an intermediate choice of the study."""
        return self.intermediates is None or intermediate in self.intermediates

    def trying(self, intermediates: tuple[str, ...]) -> Size:
        """The same size with no intermediate choices but those of its own that are named."""
        return dataclasses.replace(self, intermediates=tuple(name for name in intermediates if self.tries(name)))

    def with_seed(self, seed: int) -> Size:
        """The same size pre-trained with another seed; a published encoder has none."""
        if isinstance(self.encoder, PublishedEncoder):
            return self
        pretraining = dataclasses.replace(self.encoder.pretraining, seed=seed)
        return dataclasses.replace(self, encoder=dataclasses.replace(self.encoder, pretraining=pretraining))
