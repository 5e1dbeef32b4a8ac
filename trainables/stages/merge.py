"""Stage: merge encoders that were trained from one encoder on different tasks. Nothing is trained."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from trainables.models.merging import write_merged
from trainables.models.task_model import ENCODER
from trainables.stages.base import Root, Stage, Workplace
from trainables.stages.finetune import Tuned, root_of
from trainables.stages.vocabulary import TOKENIZER


@dataclass(frozen=True)
class MergeEncoders(Root):
    """The base plus the weighted sum of what each training changed in it (`trainables.models.merging`).

    With n encoders, weights of 1/n give their average. The targets start from it as from any encoder: it has the base's
    configuration and tokenizer, and tokenised tables are shared with the base.

    Raises:
        ValueError: no encoder, one without a finite weight, or one that was not trained from the base.
    """

    needs_device: ClassVar[bool] = False

    base: Root
    encoders: tuple[Tuned, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.encoders or len(self.encoders) != len(self.weights):
            raise ValueError(
                f"merge of {len(self.encoders)} encoders with {len(self.weights)} weights: give one or more encoders, and a "
                "weight for each"
            )
        if not all(map(math.isfinite, self.weights)):
            raise ValueError(f"merge with weights {self.weights}: all must be finite")
        if strangers := [encoder.label for encoder in self.encoders if root_of(encoder) != self.base]:
            raise ValueError(f"merge: {', '.join(strangers)} was not trained from {self.base.label}")

    @property
    def label(self) -> str:
        return f"merge-{len(self.encoders)}-{self.short}"

    @property
    def short(self) -> str:
        return self.base.short

    @property
    def tokenizer(self) -> Stage:
        return self.base.tokenizer

    @property
    def parents(self) -> tuple[Stage, ...]:
        return (self.base, *self.encoders)

    def produce(self, work: Workplace, folder: Path) -> Mapping[str, Any]:
        if not work.leads:
            return {}
        base = work.store.local(self.base)
        count = write_merged(
            base / ENCODER,
            [work.store.local(encoder) / ENCODER for encoder in self.encoders],
            self.weights,
            folder / ENCODER,
            observe=lambda done, total: work.progress(self.label, done, total, None),
        )
        shutil.copytree(base / TOKENIZER, folder / TOKENIZER)
        return {"parameters": count}
