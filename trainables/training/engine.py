"""The DeepSpeed engine around a model, on whatever device and number of workers it runs."""

from __future__ import annotations

import contextlib
import gc
import inspect
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional
from torch.utils import cpp_extension

from trainables.hyperparameters import Training
from trainables.training.batching import Share

if TYPE_CHECKING:
    from trainables.resources import Offload

STALE_LOCK_S = 300.0
_OPERATOR = "deepspeed_shm_comm"  # of DeepSpeed's communication on CPUs, compiled where it is first used


@cache
def deepspeed_here() -> ModuleType:
    """DeepSpeed, imported where an engine is first built: two seconds and 100 MB that reading a recipe does without.

    Its autotuner, unused here, imports MLflow where it can, a second in every new worker: it is hidden meanwhile.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # read when deepspeed is first imported
    os.environ.setdefault("DS_DISABLE_LOGS", "1")
    absent = "mlflow" not in sys.modules
    if absent:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        import deepspeed
        from deepspeed.utils import logger
    finally:
        if absent:
            del sys.modules["mlflow"]
    logger.setLevel(logging.ERROR)
    module: ModuleType = deepspeed
    return module


def join_process_group() -> None:
    """A process group of one, where no launcher has made one; DeepSpeed wants it in any case."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    os.environ.setdefault("LOCAL_RANK", "0")
    deepspeed = deepspeed_here()
    if not deepspeed.comm.is_initialized():
        outwait(Path(cpp_extension._get_build_directory(_OPERATOR, False)) / "lock")
        deepspeed.init_distributed(dist_init_required=False, auto_mpi_discovery=False, verbose=False)


def outwait(
    lock: Path,
    *,
    stale_s: float = STALE_LOCK_S,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> bool:
    """Wait for whoever compiles an operator under this lock; one that never ends loses it. Whether that was so.

    PyTorch's lock is a file that is there, and PyTorch would wait for ever for a process that was killed. What is older than
    any compilation of DeepSpeed's communication operator (half a minute) takes is nobody's: by its time stamp, or, as that may
    be of a clock ahead of `clock`, by how long the same file was seen here.
    """
    seen, seen_at = None, 0.0
    while lock.exists():
        with contextlib.suppress(FileNotFoundError):  # its owner has just finished
            found = lock.stat()
            if (found.st_ino, found.st_mtime_ns) != seen:  # another owner's
                seen, seen_at = (found.st_ino, found.st_mtime_ns), monotonic()
            if max(clock() - found.st_mtime, monotonic() - seen_at) > stale_s:
                lock.unlink()
                return True
        sleep(0.2)
    return False


def build_engine(
    model: nn.Module,
    training: Training,
    *,
    share: Share,
    zero_stage: int,
    offload: Offload = "none",
    group: int = 1,
) -> Any:
    """A `DeepSpeedEngine`: AdamW without decay on biases and norms, clipping, mixed precision, ZeRO.

    The learning rate is set by the loop before each step, so that a schedule is a function of the step and not a state.
    """
    join_process_group()
    decayed = [parameter for parameter in model.parameters() if _dimensions(parameter) > 1]
    plain = [parameter for parameter in model.parameters() if _dimensions(parameter) <= 1]
    groups = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    config = engine_settings(training, share=share, zero_stage=zero_stage, offload=offload, group=group)
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.learning_rate,
        betas=(0.9, 0.98),
        eps=1e-6,
        fused=True,  # one pass over the parameters: tensor by tensor, a fifth of a small model's step went here
    )
    engine, *_ = deepspeed_here().initialize(model=model, optimizer=optimizer, config=config)
    if share.workers == 1 and zero_stage == 0:
        # Nobody to share gradients with, yet it copied all of them into one tensor and back: a fifth of a step where the
        # embedding table is most of the model.
        engine.enable_backward_allreduce = False
    return engine


@contextlib.contextmanager
def engine_around(
    model: nn.Module,
    training: Training,
    *,
    share: Share,
    zero_stage: int,
    offload: Offload = "none",
    group: int = 1,
) -> Iterator[Any]:
    """`build_engine`, and `release` at the end, also where that is an error: what is wanted of the weights is read inside."""
    engine = build_engine(model, training, share=share, zero_stage=zero_stage, offload=offload, group=group)
    try:
        yield engine
    finally:
        release(engine)


def release(engine: Any) -> None:
    """Give back the memory of an engine and of its model, which are not for further use: parameters are empty then.

    Left to itself a process keeps every engine of ZeRO 1 to 3 for good, 16 bytes a parameter and the buckets. PyTorch's
    gradient accumulators hold hooks that hold the optimizer, which no collector sees; `destroy` removes them. Under ZeRO 3
    DeepSpeed has models in two places that all engines share and nobody empties: the keys of a cache, and a stack that a
    forward pass which ends in an error leaves full. Tensors are let go of by hand, for callers still hold the model, or an
    error its frames. Stage 3 also puts a linear layer of its own in the place of PyTorch's, for the whole process; it rounds
    otherwise, so that what came next depended on what had been there before.
    """
    from deepspeed.runtime.zero import parameter_offload, partition_parameters, partitioned_param_coordinator

    engine.destroy()
    coordinator = partitioned_param_coordinator.PartitionedParameterCoordinator
    cached = inspect.getclosurevars(vars(coordinator)["_PartitionedParameterCoordinator__params_to_release"])
    cached.nonlocals["func"].cache_clear()  # inside the wrapper of DeepSpeed's profiling
    parameter_offload.FWD_MODULE_STACK.clear()
    replaced = vars(partition_parameters.InsertPostInitMethodToModuleSubClasses)
    functional.linear = replaced.get("linear_bk", functional.linear)
    for optimizer in (engine.optimizer, engine.basic_optimizer):
        vars(optimizer).clear()
    for parameter in engine.module.parameters():
        parameter.grad, parameter.data = None, torch.empty(0, device=parameter.device)
        vars(parameter).clear()  # under ZeRO 3 this worker's part
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def engine_settings(
    training: Training, *, share: Share, zero_stage: int, offload: Offload = "none", group: int = 1
) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    accumulation = share.accumulation(training.batch_size, group)
    return {
        "train_batch_size": training.batch_size,
        "train_micro_batch_size_per_gpu": training.batch_size // share.workers // accumulation,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": training.max_gradient_norm,
        "zero_optimization": {"stage": zero_stage, **_offloaded(offload)},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # PyTorch's fused AdamW steps on the CPU too
        "steps_per_print": 10**9,
        # fp32 weights and gradients in every ZeRO stage; only matrix products run in bf16.
        "torch_autocast": {"enabled": training.precision == "bf16_mixed", "dtype": "bfloat16"},
    }


def partition(parameter: nn.Parameter, settings: Mapping[str, Any]) -> None:
    """Leave each worker its part of a parameter as the leader has it, before a ZeRO 3 engine is built. In place.

    All workers call it, for the same parameters in the same order.
    """
    join_process_group()
    deepspeed_here().zero.Init(module=nn.ParameterList([parameter]), config_dict_or_path=dict(settings))


def _dimensions(parameter: nn.Parameter) -> int:
    """Also of a parameter of which this worker has a part: what it holds then is a flat nothing."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def _offloaded(offload: Offload) -> dict[str, Any]:
    """DeepSpeed's settings for what lies in host memory; pinned where a device copies from it."""
    host = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    parts: dict[Offload, tuple[str, ...]] = {
        "none": (),
        "optimizer": ("offload_optimizer",),
        "parameters": ("offload_optimizer", "offload_param"),
    }
    return dict.fromkeys(parts[offload], host)


def full_state(engine: Any, *, keep: bool = True) -> dict[str, torch.Tensor]:
    """Every parameter in full fp32 precision on the CPU, whatever the ZeRO stage. All workers must call it; those that do not
    keep it get nothing."""
    from deepspeed.utils import safe_get_full_fp32_param

    state: dict[str, torch.Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        whole = safe_get_full_fp32_param(parameter) if engine.zero_optimization_stage() else parameter
        if keep:
            state[name] = (
                (parameter if whole is None else whole).detach().to("cpu", torch.float32, copy=True).contiguous()
            )
    return state
