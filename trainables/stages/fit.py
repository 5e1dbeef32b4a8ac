"""Training inside a stage: prepares the model, runs the training loop, and returns the state and the stage's metrics."""

from __future__ import annotations

import contextlib
import dataclasses
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.hyperparameters import Training
from trainables.models.encoder import checkpoint_activations, compile_layers, encoder_of, is_on_meta
from trainables.models.packing import Numbering
from trainables.resources import Resources
from trainables.stages.base import Stage, Workplace
from trainables.training.attempts import Attempt, recorded_attempt
from trainables.training.batching import Batches, PackedBatches
from trainables.training.clipping import deepspeed_clips
from trainables.training.early_stopping import DevScore, EarlyStopper
from trainables.training.engine import Layout, engine_settings, full_state, managed_engine
from trainables.training.loop import Trained, train
from trainables.training.partitioning import read_partitioned, read_table
from trainables.training.resuming.checkpoints import Checkpoints, Claimed
from trainables.training.trimming import Lookups, Trimmed, trim, unseen_decay

RECENT = 20  # steps over which the final loss is averaged


def fit(
    model: nn.Module,
    batches: Batches,
    training: Training,
    work: Workplace,
    stage: Stage | str,
    *,
    lookups: Lookups | None = None,
    dev_score: DevScore | None = None,
    weights: Path | None = None,
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train the model, which must not be used afterwards. Every worker of a group calls it.

    Args:
        stage: what is trained; its checkpoints are written and resumed from. A label alone is for trainings outside a stage.
        lookups: every row that the batches and the dev set look up. The embedding table is then trimmed as the resources say;
            the returned state has the whole table and is the same.
        dev_score: scores the dev set for early stopping; the state is then that of the best score.
        weights: the folder of the encoder's weights where its parameters are on the meta device.

    Returns:
        The full state on the CPU (on the leading worker), and metrics: first and final loss, and anything unusual.

    Raises:
        Diverged: the loss of some step is NaN or infinite.
        OutOfMemory: a micro-batch does not fit on the device.
        ValueError: early stopping has no dev set.
    """
    label = stage if isinstance(stage, str) else stage.label
    trimmed = _trim(model, lookups, work.resources)
    resources = work.resources
    layout = Layout(
        *(work.share, resources.zero_stage, resources.offload),
        group=batches.group,
        rows=batches.rows,
        device=work.device,
    )
    if is_on_meta(model):
        assert weights is not None
        settings = engine_settings(training, layout)
        read_partitioned(model, weights, settings, trimmed=trimmed, leads=work.leads, device=work.device)
    adapt(model, work.resources, work.device)
    if resources.unpad:
        batches = PackedBatches(batches, Numbering.of(encoder_of(model)))
    stopper = _early_stopper(label, training, dev_score, leads=work.leads)
    with _recorded(stage, batches, training, work), managed_engine(model, training, layout) as engine:
        with _checkpoints(stage, work, trimmed=trimmed is not None) as checkpoints:
            trained = train(
                engine,
                batches,
                training,
                share=work.share,
                device=work.device,
                observe=lambda step, loss: work.progress(label, step + 1, training.steps, loss),
                checkpoints=checkpoints,
                stopper=stopper,
                # DeepSpeed waits for the device in every step there, so that late reads would save nothing.
                read_every=1 if deepspeed_clips(resources.zero_stage, resources.offload) else None,
            )
        state = full_state(engine, keep=work.leads) if stopper is None else dict(stopper.best)
    if trimmed is not None and work.leads:
        steps = len(trained.losses) if stopper is None else stopper.best_step
        trimmed = _with_table(trimmed, weights)
        state = trimmed.restored(state, unseen_decay(training, steps), rounded=training.precision == "bf16_master")
    metrics = {**_metrics(trained, stopper), "unpadded": work.resources.unpad}
    if lookups is not None:
        metrics["embedding_rows_trained"] = lookups.embedding.num_embeddings
    return state, metrics


def _recorded(
    stage: Stage | str, batches: Batches, training: Training, work: Workplace
) -> AbstractContextManager[None]:
    """Record, on the leading worker, what is trained with how many rows at once, in case a process is killed for memory."""
    if isinstance(stage, str) or not work.leads:
        return contextlib.nullcontext()
    rows = batches.micro_batch_rows(training.batch_size, work.share)
    return recorded_attempt(work.store.root, work.job, Attempt(stage.memory_key, rows, batches.group * batches.rows))


def _trim(model: nn.Module, lookups: Lookups | None, resources: Resources) -> Trimmed | None:
    """Trim the embedding table where the resources ask for it, or where it pays and they leave it open."""
    if lookups is None:
        return None
    wanted = lookups.pays(model) if resources.trim_vocabulary is None else resources.trim_vocabulary
    return trim(model, lookups) if wanted else None


def adapt(model: nn.Module, resources: Resources, device: torch.device) -> None:
    """Change how the model computes its passes, as the resources and the device say.

    On GPUs the projections of attention are merged. A CPU gains nothing from it (`projections`), and ZeRO 3 forbids it.
    """
    if device.type == "cuda" and resources.zero_stage < 3:
        from trainables.models.projections import merge_in_training  # imports transformers' modelling code

        merge_in_training(encoder_of(model))
    if resources.unpad:
        from trainables.models.unpadding import unpad_training  # imports transformers' modelling code

        unpad_training(encoder_of(model), device)
    if resources.activation_checkpointing:
        checkpoint_activations(model)
    if resources.compile:
        compile_layers(model)


def _early_stopper(label: str, training: Training, dev_score: DevScore | None, *, leads: bool) -> EarlyStopper | None:
    if training.early_stopping is None:
        return None
    if dev_score is None:
        raise ValueError(f"{label}: early stopping needs a dev set, and there is none")
    return EarlyStopper(training.early_stopping, dev_score, training.steps, leads=leads)


def _checkpoints(stage: Stage | str, work: Workplace, *, trimmed: bool) -> Checkpoints | AbstractContextManager[None]:
    if isinstance(stage, str):
        return contextlib.nullcontext()
    token = work.from_leader(lambda: work.store.token(stage))  # every worker puts its own files
    return Checkpoints(
        work.store.checkpoints(stage),
        work.resources.checkpoint_every_s,
        leads=work.leads,
        workers=work.share.workers,
        zero_stage=work.resources.zero_stage,
        trimmed=trimmed,
        deepspeed_clips=deepspeed_clips(work.resources.zero_stage, work.resources.offload),
        claim=Claimed(token, lambda: work.store.lost_claim(stage)),
    )


def _with_table(trimmed: Trimmed, weights: Path | None) -> Trimmed:
    """With all rows of the table, which are read from the encoder's files where only its outline was in memory."""
    if trimmed.table.is_meta and weights is not None:
        return dataclasses.replace(trimmed, table=read_table(trimmed, weights))
    return trimmed


def _metrics(trained: Trained, stopper: EarlyStopper | None) -> dict[str, Any]:
    losses = trained.losses
    metrics: dict[str, Any] = {"first_loss": losses[0], "final_loss": sum(losses[-RECENT:]) / len(losses[-RECENT:])}
    if trained.resumed.step:
        metrics |= {"resumed_at": trained.resumed.step, "steps_done": len(losses)}
    if trained.resumed.workers is not None:
        metrics["workers_before"] = trained.resumed.workers
    if trained.resumed.skipped:
        metrics["skipped_checkpoints"] = list(trained.resumed.skipped)
    if stopper is not None:
        metrics |= {"steps_done": len(losses), "best_step": stopper.best_step, "dev_scores": stopper.scores}
    return metrics
