"""The seconds that a trial's trainings took, as their stages recorded them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from trainables.stages.base import Root, Stage
from trainables.stages.evaluate import Evaluate
from trainables.stages.finetune import Tuned
from trainables.stages.merge import MergeEncoders
from trainables.store.fingerprint import fingerprint
from trainables.store.manifests import seconds_of
from trainables.store.opening import open_store


def training_seconds(chain: Sequence[Evaluate], base: Root | Tuned, output: Path) -> dict[str, float]:
    """`train_s/encoder` and `train_s/targets`: what a trial's trainings take where none is shared; empty if one is missing.

    The first is of everything between the size's encoder and the stage that the targets start from: intermediate trainings,
    merges. The second is of all other trainings. Each stage counts once, as long as it took when it was produced.
    """
    store = open_store(output)
    trained = {fingerprint(stage): stage for leaf in chain for stage in _trained(leaf)}
    of_encoder = {fingerprint(stage) for stage in _trained(base)}
    seconds = {"train_s/encoder": 0.0, "train_s/targets": 0.0}
    for key, stage in trained.items():
        if (finished := store.find(stage)) is None:
            return {}
        seconds[f"train_s/{'encoder' if key in of_encoder else 'targets'}"] += seconds_of(finished.manifest)
    return seconds


def _trained(stage: Stage) -> Iterator[Stage]:
    """The trainings and merges among a stage and its ancestors; one that several paths reach comes several times."""
    if isinstance(stage, Tuned | MergeEncoders):
        yield stage
    for parent in stage.parents:
        yield from _trained(parent)
