"""MultiNLI: does the premise entail the hypothesis? (Williams et al. 2018)"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainables.data import revisions
from trainables.data.formats.pairs import NLI_HUB, NLI_LABELS, nli_json
from trainables.data.source import Files, Hub, Source
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import check_split

GLUE_REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"
TRANSLATIONS = tuple("ar bg de el es fr hi ru sw th tr ur vi zh".split())  # the languages of XNLI besides English


@dataclass(frozen=True)
class Mnli(PublishedTask):
    """The dev set is the matched one. Before XNLI, it is more of the same data and not transfer."""

    name: ClassVar[str] = "mnli"
    head: ClassVar[HeadName] = "pair_classification"
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "accuracy"
    labels: ClassVar[tuple[str, ...]] = NLI_LABELS
    source: ClassVar[str] = "MultiNLI 1.0; on the hub in nyu-mll/glue"
    reads: ClassVar[frozenset[str]] = frozenset({"mnli"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        file, hub = ("train", "train") if split == "train" else ("dev_matched", "validation_matched")
        return Source(
            Files((f"mnli/multinli_1.0_{file}.jsonl",), nli_json().json_lines),
            Hub("nyu-mll/glue", "mnli", hub, GLUE_REVISION, NLI_HUB),
        )

    def translation(self, language: str) -> Hub | None:
        """XNLI's machine translation of the training set (Conneau et al. 2018), 392,702 rows in each language."""
        if language not in TRANSLATIONS:
            return None
        return Hub("facebook/xnli", language, "train", revisions.XNLI, NLI_HUB)

    def chance(self) -> float:
        return 100.0 / len(self.labels)
