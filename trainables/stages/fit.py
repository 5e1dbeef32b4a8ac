"""Training inside a stage: the loop with the workplace's share and device, losses kept, progress told."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from trainables.hyperparameters import Training
from trainables.models.encoder import checkpoint_activations, compile_layers, encoder_of, is_outline
from trainables.stages.base import Stage, Workplace
from trainables.training.batching import Batches
from trainables.training.checkpoints import Checkpoints
from trainables.training.early_stopping import Measure, Watch
from trainables.training.engine import engine_around, engine_settings, full_state
from trainables.training.loop import train
from trainables.training.partitioning import read_partitioned, whole_table
from trainables.training.trimming import Lookups, trim, unseen_decay

RECENT = 20  # steps that a final loss is averaged over


def fit(
    model: nn.Module,
    batches: Batches,
    training: Training,
    work: Workplace,
    stage: Stage | str,
    *,
    lookups: Lookups | None = None,
    measure: Measure | None = None,
    weights: Path | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train the model; on the leading worker its full state on the CPU, and the stage's metrics: first and final loss, and
    what was out of the ordinary. Every worker of a group calls it.

    With `lookups`, which say all that the batches and the dev set look up, the embedding table is trimmed as the workplace
    wants it. The state is the same, with the whole table; the model is not for further use. `stage` is what is trained, whose
    checkpoints are kept and gone on from; a label alone is for trainings that belong to none. `measure` scores the dev set
    for early stopping; the state is then that of the best score. `weights` is the folder of an encoder that the model has in
    outline: it is read part by part.

    Raises:
        Diverged: the loss of some step is NaN or infinite.
        OutOfMemory: the device does not hold a micro-batch.
        ValueError: early stopping is wanted, and there is nothing to measure.
    """
    trimmed = None
    if lookups is not None and (lookups.pays(model) if work.trim_vocabulary is None else work.trim_vocabulary):
        trimmed = trim(model, lookups)
    if is_outline(model):
        assert weights is not None
        settings = engine_settings(
            training, share=work.share, zero_stage=work.zero_stage, offload=work.offload, group=batches.group
        )
        read_partitioned(model, weights, settings, trimmed=trimmed, leads=work.leads, device=work.device)
    encoder = encoder_of(model)
    if work.unpad:
        from trainables.training.unpadding import unpad  # with transformers' modelling code

        unpad(encoder)
    if work.activation_checkpointing:
        checkpoint_activations(model)
    if work.compile:
        compile_layers(model)
    label = stage if isinstance(stage, str) else stage.label
    watch = None
    if training.early_stopping is not None:
        if measure is None:
            raise ValueError(f"{label}: early stopping needs a dev set, and there is none")
        watch = Watch(training.early_stopping, measure, training.steps, leads=work.leads)
    with engine_around(
        model, training, share=work.share, zero_stage=work.zero_stage, offload=work.offload, group=batches.group
    ) as engine:
        trained = train(
            engine,
            batches,
            training,
            share=work.share,
            device=work.device,
            observe=lambda step, loss: work.progress(label, step + 1, training.steps, loss),
            checkpoints=None if isinstance(stage, str) else _checkpoints(stage, work, trimmed=trimmed is not None),
            watch=watch,
        )
        state = full_state(engine, keep=work.leads) if watch is None else dict(watch.best)
    losses, steps = trained.losses, len(trained.losses)
    metrics: dict[str, Any] = {
        "first_loss": losses[0],
        "final_loss": sum(losses[-RECENT:]) / len(losses[-RECENT:]),
        "unpadded": work.unpad,
    }
    if trained.resumed.step:
        metrics["resumed_at"] = trained.resumed.step
    if trained.resumed.skipped:
        metrics["skipped_checkpoints"] = list(trained.resumed.skipped)
    if watch is not None:
        steps = watch.best_step
        metrics |= {"steps_done": len(losses), "best_step": watch.best_step, "dev_scores": watch.scores}
    if trimmed is not None and work.leads:
        if trimmed.table.is_meta and weights is not None:
            trimmed = dataclasses.replace(trimmed, table=whole_table(trimmed, weights))
        state = trimmed.restored(state, unseen_decay(training, steps))
    if lookups is not None:
        metrics["embedding_rows_trained"] = lookups.embedding.num_embeddings
    return state, metrics


def _checkpoints(stage: Stage, work: Workplace, *, trimmed: bool) -> Checkpoints:
    return Checkpoints(
        work.store.checkpoints(stage),
        work.checkpoint_every_s,
        leads=work.leads,
        workers=work.share.workers,
        zero_stage=work.zero_stage,
        trimmed=trimmed,
    )
