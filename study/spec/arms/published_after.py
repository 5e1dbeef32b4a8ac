"""Published arms: a size's checkpoint as others trained it further, at no training cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from study.spec.arms.base import Arm
from trainables.models.catalogue import config_of, layers_error
from trainables.models.published_encoder import PublishedEncoder
from trainables.stages.import_encoder import ImportEncoder
from trainables.tasks.base import Task
from trainables.tasks.mixture import Mixture

if TYPE_CHECKING:
    from study.spec.sizes import Size
    from study.spec.space import Choice
    from study.spec.study import Study
    from trainables.stages.base import Root
    from trainables.stages.finetune import Tuned

_SHAPE = {"num_hidden_layers": "layers", "hidden_size": "width", "num_attention_heads": "attention heads"}


@dataclass(frozen=True)
class PublishedAfter(Arm):
    """Checkpoints that others trained from the sizes' own, by size: mT0 after mT5, an MNLI model after XLM-R.

    Each has the architecture and the tokenizer of its size, so that only the weights differ. What it was trained on says its
    card: a gain on a target that it has seen (`Card.seen`) has the contamination flag "seen", and one in a language of its
    labelled data (`Card.labelled_languages`) is not zero-shot.

    It is imported as an encoder of its own: texts are tokenised again for it, and no stage is shared with the size's encoder.
    """

    uses_rate: ClassVar[bool] = False
    note: ClassVar[str] = "the size's checkpoint as others trained it further"

    title: str
    encoders: tuple[tuple[str, PublishedEncoder], ...]

    @property
    def name(self) -> str:
        return self.title

    @property
    def members(self) -> tuple[Task, ...]:
        return ()

    @property
    def tuned(self) -> tuple[Task | Mixture, ...]:
        return ()

    @property
    def trained_languages(self) -> tuple[str, ...] | None:
        """Over the checkpoints of all sizes: a table names an arm, not a size's checkpoint."""
        stated = [encoder.card.labelled_languages for _, encoder in self.encoders]
        if not stated or any(languages is None for languages in stated):
            return None
        names = dict.fromkeys(name for languages in stated if languages is not None for name in languages)
        return tuple(name for name in names if name != "en")

    def published_at(self, size: Size) -> PublishedEncoder | None:
        return dict(self.encoders).get(size.name)

    def encoder(self, study: Study, size: Size, choice: Choice, *, trained: bool = True) -> Root | Tuned:
        encoder = self.published_at(size)
        if encoder is None:
            raise ValueError(f"{self.name}: no checkpoint for size {size.name}")
        return ImportEncoder(encoder) if trained else study.encoder_stage(size, trained=False)

    def errors(self, study: Study) -> Iterator[str]:
        # Checkpoints of sizes that the study lacks are no mistake: `--sizes` leaves sizes out.
        counts = Counter(size for size, _ in self.encoders)
        yield from (f"{self.name}: two checkpoints for size {size}" for size, count in counts.items() if count > 1)
        for size in study.sizes:
            if not size.tries(self.name):
                continue
            if (encoder := self.published_at(size)) is None:
                yield (
                    f"sizes[{size.name}]: {self.name} has no checkpoint for this size; name one, or list the size's "
                    f"intermediates without {self.name}"
                )
            elif (problem := _not_trained_from(encoder, size)) is not None:
                yield f"sizes[{size.name}]: {self.name}: {problem}"


def _not_trained_from(encoder: PublishedEncoder, size: Size) -> str | None:
    """Why a checkpoint cannot be the size's own after more training, as far as is known before it is read."""
    own = size.encoder
    if not isinstance(own, PublishedEncoder):
        return "the size's encoder is pre-trained by the study, and nobody else can have trained it further"
    if (encoder.repository, encoder.revision, encoder.layers) == (own.repository, own.revision, own.layers):
        return f"{encoder.repository} is the size's own encoder"
    if (error := layers_error(encoder)) is not None:
        return error
    if layers_error(own) is not None:
        return None  # reported for the size
    differences = [
        f"{what} {theirs} instead of {ours}"
        for what, theirs, ours in _shapes(encoder, own)
        if theirs != ours and theirs is not None and ours is not None
    ]
    if differences:
        return f"{encoder.repository} was not trained from {own.repository}: {', '.join(differences)}"
    return None


def _shapes(encoder: PublishedEncoder, own: PublishedEncoder) -> Iterator[tuple[str, Any, Any]]:
    """What both must have in common, by name: of the checkpoint and of the size's encoder; None where it is not known."""
    yield "family", encoder.family, own.family
    configs = config_of(encoder), config_of(own)
    for attribute, what in _SHAPE.items():
        theirs, ours = (None if config is None else getattr(config, attribute, None) for config in configs)
        yield what, theirs, ours
