"""ANLI+: Adversarial NLI (Nie et al. 2020), all three rounds, with SNLI and MultiNLI, as in Phang et al. 2020."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from trainables.data import revisions
from trainables.data.examples import ReadResult
from trainables.data.formats.pairs import NLI_HUB, NLI_LABELS, PairForm, nli_json
from trainables.data.source import Files, Hub, Source
from trainables.tasks.base import HeadName, Role, Split
from trainables.tasks.english.mnli import GLUE_REVISION
from trainables.tasks.published_task import PublishedTask
from trainables.tasks.splits import check_split

ROUNDS = ("R1", "R2", "R3")
ANLI_JSON = PairForm("context", "hypothesis", "label", ("e", "n", "c"))


@dataclass(frozen=True)
class AnliPlus(PublishedTask):
    """Trained on the three corpora together; the dev set is ANLI's: 3,200 examples of its three rounds."""

    name: ClassVar[str] = "anli_plus"
    head: ClassVar[HeadName] = "pair_classification"
    role: ClassVar[Role] = "intermediate"
    metric: ClassVar[str] = "accuracy"
    labels: ClassVar[tuple[str, ...]] = NLI_LABELS
    source: ClassVar[str] = "ANLI 1.0 R1 to R3, SNLI 1.0, MultiNLI 1.0"
    reads: ClassVar[frozenset[str]] = frozenset({"anli", "snli", "mnli"})

    def source_of(self, split: Split, language: str) -> Source:
        check_split(self, split, language)
        rounds = tuple(f"anli/{name}/{split}.jsonl" for name in ROUNDS)
        revision = "8e4813d81f46d313dac7892e1c28076917cfcdf9"
        parts = "+".join(f"{split}_{name.lower()}" for name in ROUNDS)
        anli = Hub("facebook/anli", "plain_text", parts, revision, replace(NLI_HUB, prefix="anli-"))
        if split == "dev":
            return Source(Files(rounds, read_rounds), anli)
        files = Files((*rounds, "snli/snli_1.0_train.jsonl", "mnli/multinli_1.0_train.jsonl"), read_mixture)
        return Source(
            files,
            anli,
            more=(
                Hub("stanfordnlp/snli", "plain_text", "train", revisions.SNLI, replace(NLI_HUB, prefix="snli-")),
                Hub("nyu-mll/glue", "mnli", "train", GLUE_REVISION, replace(NLI_HUB, prefix="mnli-")),
            ),
        )

    def chance(self) -> float:
        return 100.0 / len(self.labels)


def read_rounds(*paths: Path) -> ReadResult:
    """ANLI's files, one for each round, in the order of ROUNDS."""
    forms = [replace(ANLI_JSON, prefix=f"anli-{name.lower()}-") for name in ROUNDS]
    return sum((form.json_lines(path) for form, path in zip(forms, paths, strict=True)), ReadResult(()))


def read_mixture(*paths: Path) -> ReadResult:
    *rounds, snli, mnli = paths
    return read_rounds(*rounds) + nli_json("snli-").json_lines(snli) + nli_json("mnli-").json_lines(mnli)
