"""The DeepSpeed engine that trains a model, on any device and number of workers."""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional

from trainables.hyperparameters import Precision, Training
from trainables.resources import Offload
from trainables.training.batching import Share
from trainables.training.clipping import deepspeed_clips, take_steps_without_norm
from trainables.training.operators import load_operator

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Layout:
    """How an engine spreads a training over workers and memory.

    `group` is the number of batch entries that stay together on one worker, `rows` the most rows that an entry has; `device` is
    this worker's.
    """

    share: Share
    zero_stage: int = 0
    offload: Offload = "none"
    group: int = 1
    rows: int = 1
    device: torch.device = CPU


def import_deepspeed(device: torch.device = CPU) -> ModuleType:
    """DeepSpeed for this kind of device, imported at first use: reading a recipe saves two seconds and 100 MB.

    DeepSpeed selects one kind of device for a whole process, by what PyTorch can see unless it is told.

    Raises:
        RuntimeError: this process already uses DeepSpeed on another kind of device.
    """
    if "deepspeed" not in sys.modules:
        os.environ["DS_ACCELERATOR"] = device.type  # read when DeepSpeed is first imported
        os.environ.setdefault("DS_DISABLE_LOGS", "1")
        with _without_mlflow():
            import deepspeed
    import deepspeed
    from deepspeed.utils import logger

    logger.setLevel(logging.ERROR)
    selected = deepspeed.get_accelerator().device_name()
    if selected != device.type:
        raise RuntimeError(
            f"DeepSpeed runs on {selected} in this process, and the training on {device.type}: start it in another process"
        )
    module: ModuleType = deepspeed
    return module


@contextlib.contextmanager
def _without_mlflow() -> Iterator[None]:
    """Hide MLflow from DeepSpeed's autotuner, unused here, which imports it where it can: a second in every new worker."""
    hidden = "mlflow" not in sys.modules
    if hidden:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["mlflow"]


def join_process_group(device: torch.device = CPU) -> None:
    """Form a process group of one where no launcher has formed one: DeepSpeed always needs a group."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    os.environ.setdefault("LOCAL_RANK", "0")
    deepspeed = import_deepspeed(device)
    if not deepspeed.comm.is_initialized():
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that its operator was built
            load_operator("ShareMemCommBuilder")  # which joining would compile
            deepspeed.init_distributed(dist_init_required=False, auto_mpi_discovery=False, verbose=False)


def build_engine(model: nn.Module, training: Training, layout: Layout) -> Any:
    """A `DeepSpeedEngine`: AdamW without decay on biases and norms, clipping, mixed precision, ZeRO.

    The loop sets the learning rate before each step: a schedule is a function of the step and has no state.
    """
    join_process_group(layout.device)
    decayed = [parameter for parameter in model.parameters() if _dimensions(parameter) > 1]
    plain = [parameter for parameter in model.parameters() if _dimensions(parameter) <= 1]
    groups = [
        {"params": decayed, "weight_decay": training.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=training.learning_rate,
        betas=(0.9, 0.98),
        eps=1e-6,
        fused=True,  # one pass over the parameters: tensor by tensor, this took a fifth of a small model's step
    )
    with contextlib.redirect_stdout(io.StringIO()):  # its optimizer for bf16 prints the memory in use
        engine, *_ = import_deepspeed(layout.device).initialize(
            model=model, optimizer=optimizer, config=engine_settings(training, layout)
        )
    if layout.share.workers == 1 and layout.zero_stage <= (1 if training.precision == "bf16_master" else 0):
        # With a single worker it would still copy all gradients into one tensor and back: a fifth of a step where the
        # embedding table is most of the model.
        engine.enable_backward_allreduce = False
    take_steps_without_norm(engine)
    return engine


@contextlib.contextmanager
def managed_engine(model: nn.Module, training: Training, layout: Layout) -> Iterator[Any]:
    """`build_engine`, with `release` at the end or on an error: read the weights inside the block."""
    engine = build_engine(model, training, layout)
    try:
        yield engine
    finally:
        release(engine)


def release(engine: Any) -> None:
    """Free the memory of an engine and of its model, whose parameters are empty afterwards.

    Otherwise a process keeps every engine of ZeRO 1 to 3: 16 bytes a parameter, and the buckets. PyTorch's gradient
    accumulators hold hooks that reference the optimizer, invisible to the collector; `destroy` removes them. Under ZeRO 3 two
    global objects of DeepSpeed keep references to models: the keys of a cache, and a stack that a failed forward pass leaves
    full. Tensors are freed explicitly because callers still reference the model, or an error's frames do. ZeRO 3 also replaces
    PyTorch's linear function for the whole process by its own, which rounds differently: later trainings would depend on
    earlier ones.
    """
    from deepspeed.runtime.zero import parameter_offload, partition_parameters, partitioned_param_coordinator

    device = engine.device
    engine.destroy()
    coordinator = partitioned_param_coordinator.PartitionedParameterCoordinator
    cached = inspect.getclosurevars(vars(coordinator)["_PartitionedParameterCoordinator__params_to_release"])
    cached.nonlocals["func"].cache_clear()  # wrapped by DeepSpeed's profiling
    parameter_offload.FWD_MODULE_STACK.clear()
    replaced = vars(partition_parameters.InsertPostInitMethodToModuleSubClasses)
    functional.linear = replaced.get("linear_bk", functional.linear)
    for optimizer in (engine.optimizer, engine.basic_optimizer):
        vars(optimizer).clear()
    for parameter in engine.module.parameters():
        parameter.grad, parameter.data = None, torch.empty(0, device=parameter.device)
        vars(parameter).clear()  # under ZeRO 3, this worker's partition
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def engine_settings(training: Training, layout: Layout) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    accumulation = layout.share.accumulation(training.batch_size, group=layout.group, rows=layout.rows)
    # DeepSpeed keeps an fp32 copy of bf16 weights from stage 1 on.
    stage = max(layout.zero_stage, 1 if training.precision == "bf16_master" else 0)
    clips = deepspeed_clips(stage, layout.offload)
    zero: dict[str, Any] = {"stage": stage, **_offload_settings(layout)}
    if not clips and _norm_is_optional(stage, training.precision):
        zero["compute_grad_norm"] = False
    return {
        "train_batch_size": training.batch_size,
        "train_micro_batch_size_per_gpu": training.batch_size // layout.share.workers // accumulation,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": training.max_gradient_norm if clips else 0.0,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # PyTorch's fused AdamW also runs on CPUs
        "steps_per_print": 10**9,
        # On by default, with two synchronisations of the device a micro-batch.
        "timers": {"throughput": {"enabled": False}},
        **_precision_settings(training.precision),
    }


def _precision_settings(precision: Precision) -> dict[str, Any]:
    """DeepSpeed's settings for a precision.

    With `bf16_mixed`, weights are fp32 and matrix products bf16. From stage 1 on DeepSpeed reduces the gradients of linear
    layers in bf16 between workers, and stage 3 gathers their weights in bf16. With `bf16_master`, gradients are computed in
    bf16, and accumulated and reduced in fp32.
    """
    if precision == "bf16_master":
        return {
            # Each gradient is added to its fp32 sum at once, so that no second set of gradients is kept. A step with NaN
            # must not be skipped silently: the next loss shows it.
            "bf16": {"enabled": True, "immediate_grad_update": True, "check_grad_overflow": False},
            "data_types": {"grad_accum_dtype": "fp32"},
            "communication_data_type": "fp32",
        }
    return {"torch_autocast": {"enabled": precision == "bf16_mixed", "dtype": "bfloat16"}}


def _norm_is_optional(stage: int, precision: Precision) -> bool:
    """Whether DeepSpeed can be told to compute no norm: not in stage 3, nor in its optimizer for bf16 in stage 1."""
    return stage == 2 or (stage == 1 and precision != "bf16_master")


def partition(parameter: nn.Parameter, settings: Mapping[str, Any], *, device: torch.device) -> None:
    """Replace the leader's parameter by each worker's partition of it, in place, before a ZeRO 3 engine is built.

    All workers call it, for the same parameters in the same order.
    """
    join_process_group(device)
    import_deepspeed(device).zero.Init(module=nn.ParameterList([parameter]), config_dict_or_path=dict(settings))


def _dimensions(parameter: nn.Parameter) -> int:
    """A parameter's number of dimensions. Under ZeRO 3 the local tensor is an empty placeholder; `ds_shape` has the shape."""
    return len(getattr(parameter, "ds_shape", parameter.shape))


def _offload_settings(layout: Layout) -> dict[str, Any]:
    """DeepSpeed's settings for state in host memory, which is pinned where a GPU copies from it."""
    host = {"device": "cpu", "pin_memory": layout.device.type == "cuda"}
    parts: dict[Offload, tuple[str, ...]] = {
        "none": (),
        "optimizer": ("offload_optimizer",),
        "parameters": ("offload_optimizer", "offload_param"),
    }
    return dict.fromkeys(parts[layout.offload], host)


def full_state(engine: Any, *, keep: bool = True) -> dict[str, torch.Tensor]:
    """Every parameter in fp32 on the CPU, whatever the ZeRO stage; empty without `keep`. All workers must call it."""
    from deepspeed.utils import safe_get_full_fp32_param

    state: dict[str, torch.Tensor] = {}
    for name, parameter in engine.module.named_parameters():
        whole = safe_get_full_fp32_param(parameter) if engine.zero_optimization_stage() else parameter
        if keep:
            state[name] = (
                (parameter if whole is None else whole).detach().to("cpu", torch.float32, copy=True).contiguous()
            )
    return state
