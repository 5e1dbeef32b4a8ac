"""The DeepSpeed engine around a model, on whatever device and number of workers it runs."""

from __future__ import annotations

import logging
import os
import sys
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from trainables.batching import Share
from trainables.training import Training

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is first imported
os.environ.setdefault("DS_DISABLE_LOGS", "1")

_ABSENT = "mlflow" not in sys.modules
if _ABSENT:  # DeepSpeed's autotuner, unused here, imports MLflow where it can: a second in every new worker
    sys.modules["mlflow"] = None  # type: ignore[assignment]
import deepspeed  # noqa: E402

if _ABSENT:
    del sys.modules["mlflow"]
from deepspeed.utils import logger as deepspeed_logger  # noqa: E402
from deepspeed.utils import safe_get_full_fp32_param  # noqa: E402

deepspeed_logger.setLevel(logging.ERROR)


@dataclass(frozen=True)
class Resources:
    """What a size gets to run on; never part of an identity.

    `workers` processes, each with `cpus` cores and `gpus` devices (0 or 1) of `accelerator_type`; `zero_stage` 0 to 3;
    `micro_batch` features a worker holds at once (the global batch is kept by accumulation).
    """

    workers: int = 1
    cpus: int = 1
    gpus: int = 0
    accelerator_type: str | None = None
    zero_stage: int = 0
    micro_batch: int = 64

    def __post_init__(self) -> None:
        if self.workers < 1 or self.cpus < 1 or self.gpus not in (0, 1) or self.micro_batch < 1:
            raise ValueError(f"impossible resources: {self}")
        if self.zero_stage not in (0, 1, 2, 3):
            raise ValueError(f"zero_stage {self.zero_stage}: DeepSpeed has stages 0 to 3")

    @property
    def inline(self) -> bool:
        """One CPU worker trains inside the trial's own process: a fresh Ray Train group costs 10 to 20 s there."""
        return self.workers == 1 and not self.gpus


def join_process_group() -> None:
    """A process group of one, where no launcher has made one; DeepSpeed wants it in any case."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    os.environ.setdefault("LOCAL_RANK", "0")
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_init_required=False, auto_mpi_discovery=False, verbose=False)


def build_engine(model: nn.Module, training: Training, *, share: Share, zero_stage: int, group: int = 1) -> Any:
    """A `DeepSpeedEngine`: AdamW without decay on biases and norms, clipping, mixed precision, ZeRO.

    The learning rate is set by the loop before each step, so that a schedule is a function of the step and not a state.
    """
    join_process_group()
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    plain = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    groups = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    accumulation = share.accumulation(training.batch_size, group)
    config = {
        "train_batch_size": training.batch_size,
        "train_micro_batch_size_per_gpu": training.batch_size // share.workers // accumulation,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": training.max_gradient_norm,
        "zero_optimization": {"stage": zero_stage},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        # fp32 weights and gradients in every ZeRO stage; only matrix products run in bf16.
        "torch_autocast": {"enabled": training.precision == "bf16_mixed", "dtype": "bfloat16"},
    }
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.learning_rate,
        betas=(0.9, 0.98),
        eps=1e-6,
        fused=True,  # one pass over the parameters: tensor by tensor, a fifth of a small model's step went here
    )
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine


def full_state(engine: Any) -> dict[str, torch.Tensor]:
    """Every parameter in full fp32 precision on the CPU, whatever the ZeRO stage. All workers must call it."""
    state: dict[str, torch.Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        whole = safe_get_full_fp32_param(parameter) if engine.zero_optimization_stage() else parameter
        state[name] = (parameter if whole is None else whole).detach().to("cpu", torch.float32, copy=True).contiguous()
    return state
