"""Memory that training, scoring and serving an encoder take, estimated before anything starts.

Model states (weights, gradients, optimizer) are DeepSpeed's own estimate, corrected to this engine's fp32 weights; activations
follow Korthikanti et al. 2022 (arXiv 2205.05198). They tell whether a plan is sensible, and replace no measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from study.cluster.accelerators import ACCELERATORS, declared_accelerator
from study.planning.architecture import Architecture
from study.planning.stages import Load, all_loads, scoring_rows
from study.spec import Size, Study
from trainables.benchmark.variants import Variant, variant_named
from trainables.evaluation import TOKENS_A_BATCH
from trainables.heads.masking import MASKED_SHARE
from trainables.hyperparameters import Precision
from trainables.resources import GB, Resources
from trainables.training.batching import Share
from trainables.training.engine import import_deepspeed

GPUS_A_NODE = 8
SCORE_BYTES = 10  # a vocabulary entry of a masked token: 2 for the score in bf16, 4 in fp32, 4 for its softmax
# Elements: DeepSpeed's defaults of `reduce_bucket_size` and `stage3_max_live_parameters`.
BUCKET, LIVE = 500_000_000, 10**9


@dataclass(frozen=True)
class Memory:
    """GB on each worker's device, and in the host memory of its node."""

    device_gb: float
    host_gb: float


def model_states(architecture: Architecture, resources: Resources, precision: Precision = "fp32") -> Memory:
    """Weights, gradients and optimizer states of a worker: DeepSpeed's estimate, corrected to this engine's weights.

    DeepSpeed has one function for stage 2 and one for stage 3; both assume 2-byte weights with gradients of 2 and 4 bytes.
    This engine's weights are fp32 but in `bf16_master`. With P parameters on N workers, at most L of them in one module, a
    worker holds these bytes (counted in tensors by `tests/study/planning/test_engine_bytes.py`):

    - stage 0: 16 P for weights, gradients and moments. DeepSpeed's 20 P include a second copy of the weights.
    - stage 1: 8 P + 12 P / N. Weights and gradients are whole; the optimizer's copy of the weights and the moments are
      partitioned.
    - stage 2: 4 P + 16 P / N. Gradients are partitioned too. DeepSpeed has 2 P + 18 P / N.
    - stage 3: 20 P / N. Weights are partitioned too. In a pass it also holds gathered weights, up to the larger of L and
      `LIVE`, and the gradient of L. DeepSpeed has 18 P / N + 4 L.

    With an offload the device keeps the weights (stage 1: and the gradients between the micro-batches of a step). In stage 3
    it keeps gathered weights, and its partition unless the parameters are offloaded. Host memory is DeepSpeed's estimate,
    which adds half to its sum. In stage 3 a group never loads the whole encoder (`partitioning`), but a single worker does.

    `bf16_master` has weights of 2 bytes; gradients, the optimizer's copy of the weights and moments have 4. A worker then holds
    6 P + 12 P / N in stages 0 and 1, which are the same, 2 P + 16 P / N in stage 2, and 18 P / N in stage 3.
    """
    import_deepspeed()
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    total, workers, largest = architecture.count.total, resources.workers, architecture.largest
    master = precision == "bf16_master"
    node = min(workers, GPUS_A_NODE)
    nodes = math.ceil(workers / node)
    offload = resources.offload != "none"
    if resources.zero_stage == 3:
        host, device, _ = estimate_zero3_model_states_mem_needs(
            *(total, largest),
            num_gpus_per_node=node,
            num_nodes=nodes,
            cpu_offload=offload,
            cpu_offload_params=resources.offload == "parameters",
            zero_init=workers > 1,
        )
        device += 0 if master or resources.offload == "parameters" else 2 * total // workers
        device += (2 if master else 4) * max(largest, min(total, LIVE))  # DeepSpeed's 4 L are then the gradient's
    elif resources.zero_stage == 0 and not master:
        host, device = estimate_zero2_model_states_mem_needs(total, cpu_offload=False)
        host *= node
        device -= 4 * total
    else:
        host, device = estimate_zero2_model_states_mem_needs(
            total, num_gpus_per_node=node, num_nodes=nodes, cpu_offload=offload
        )
        if not master:
            device += 2 * total
        device -= 0 if offload else 2 * total // workers
        if resources.zero_stage < 2:
            device += 4 * total - (0 if offload else 4 * total // workers)
    return Memory(device / GB, host / GB)


def buffers_gb(architecture: Architecture, resources: Resources, load: Load) -> float:
    """GB that the engine holds besides model states while it trains.

    From stage 1 on, DeepSpeed reduces gradients through a buffer of `BUCKET` elements, whatever the model's size; a CPU has no
    pages for the elements that no gradient is written to. bf16 adds a second buffer for gradients sent as bf16, whose elements
    also take 4 bytes in stages 1 and 2. With `bf16_mixed` the weights of matrix products are copied, 2 bytes each, and kept for
    the backward pass; stage 3 frees its copies with the gathered weights. With `bf16_master` stages 2 and 3 collect gradients
    in bf16 and reduce a copy in fp32, and stages 0 and 1 have no buffer.
    """
    stage, mixed = resources.zero_stage, load.training.precision != "fp32"
    bucket = BUCKET if resources.gpus else min(BUCKET, architecture.count.total)
    if load.training.precision == "bf16_master":
        return 0.0 if stage < 2 else (2 * bucket + 4 * min(BUCKET, architecture.count.total)) / GB
    buckets = 0 if stage == 0 else 4 * bucket
    buckets += (2 if stage == 3 else 4) * bucket if stage and mixed else 0
    copied = architecture.count.body + (architecture.vocabulary * architecture.width if load.masked else 0)
    return (buckets + (2 * copied if mixed and stage < 3 else 0)) / GB


def activations_gb(architecture: Architecture, resources: Resources, load: Load) -> float:
    """GB of activations of a micro-batch of the longest rows.

    Each layer and token takes 34 bytes per unit of width, and without fused attention 5 per head and token attended to
    (Korthikanti et al., equation 1). With checkpointing it takes 2 per unit of width, plus one whole layer. Masking adds the
    scores over the whole vocabulary, with their softmax, of 15% of the tokens.
    """
    training = load.training
    tokens = tokens_at_once(resources, load)
    layer = _layer_bytes(architecture, tokens, training.max_length)
    kept = tokens * 2 * architecture.width if resources.activation_checkpointing else layer
    wider = 2 if training.precision == "fp32" else 1
    scores = scores_bytes(architecture, load, tokens)
    return (wider * (architecture.layers * kept + (layer if resources.activation_checkpointing else 0)) + scores) / GB


def tokens_at_once(resources: Resources, load: Load, *, fill: float = 1.0) -> int:
    """Tokens of a worker's fullest micro-batch, if the longest rows fill this share of the maximum length.

    A budget of tokens can be used up by rows of any length, and is exceeded only by a group that stays together.
    """
    batch_size, length = load.training.batch_size, fill * load.training.max_length
    budget, together = resources.micro_batch_tokens, load.group * load.rows
    if budget is None or not load.by_tokens:
        share = Share(0, resources.workers, resources.micro_batch)
        return int(length * share.micro_batch_rows(batch_size, group=load.group, rows=load.rows))
    rows = min(batch_size // resources.workers * load.rows, max(resources.micro_batch, together))
    return int(min(length * rows, max(budget, length * together)))


def scores_bytes(architecture: Architecture, load: Load, tokens: int) -> float:
    """Bytes of the scores over the vocabulary of the masked ones among so many tokens."""
    return MASKED_SHARE * tokens * architecture.vocabulary * SCORE_BYTES if load.masked else 0.0


def training_gb(architecture: Architecture, resources: Resources, load: Load) -> float:
    """Peak GB of a worker's device while it trains.

    In the optimizer's step activations and buffers are gone, but stages 1 and 2 hold a second copy of the worker's gradients
    (`bf16_master`: stages 0 and 1, of all gradients, while several workers add theirs). Stage 3 frees its gathered weights, and
    so never exceeds what a pass takes.
    """
    precision = load.training.precision
    states = model_states(architecture, resources, precision).device_gb
    stepping = 0 if resources.zero_stage not in (1, 2) or resources.offload != "none" else 4 / resources.workers
    if precision == "bf16_master":
        stepping = 4 if resources.zero_stage < 2 and resources.workers > 1 else 0
    in_a_pass = buffers_gb(architecture, resources, load) + activations_gb(architecture, resources, load)
    return states + max(in_a_pass, stepping * architecture.count.total / GB)


def scoring_memory(
    architecture: Architecture, resources: Resources, length: int, *, layers_kept: bool = False
) -> Memory:
    """Memory of scoring: each worker loads the whole encoder in fp32, through host memory, however it was trained.

    A batch of `TOKENS_A_BATCH` tokens in rows of `length` adds one layer's activations. `layers_kept` adds the output of every
    layer, for sentence vectors from a hidden layer.
    """
    weights = 4 * architecture.count.total
    tokens = max(TOKENS_A_BATCH, length)
    outputs = 4 * tokens * architecture.width * architecture.layers if layers_kept else 0
    batch = 2 * _layer_bytes(architecture, tokens, length) + outputs
    return Memory((weights + batch) / GB, min(resources.workers, GPUS_A_NODE) * weights / GB)


def training_fits(architecture: Architecture, resources: Resources, loads: Iterable[Load]) -> bool | None:
    """Whether training on any of these batches fits the declared device, or the share of it; None without a known device."""
    device = declared_accelerator(resources)
    if device is None:
        return None
    needed_gb = max(training_gb(architecture, resources, load) for load in loads)
    return device.holds(needed_gb, share=resources.gpus)


def scoring_fits(
    architecture: Architecture, resources: Resources, length: int, *, layers_kept: bool = False
) -> bool | None:
    """Whether scoring fits the declared device, or the share of it; None without a known device."""
    device = declared_accelerator(resources)
    if device is None:
        return None
    needed_gb = scoring_memory(architecture, resources, length, layers_kept=layers_kept).device_gb
    return device.holds(needed_gb, share=resources.gpus)


def memory_verdict(study: Study, size: Size, architecture: Architecture) -> str:
    """Whether everything that the size's default cells train, and their scoring, fits the declared device."""
    if not size.resources.gpus:
        return "no GPU declared"
    length, layers_kept = scoring_rows(study, size)
    trains = training_fits(architecture, size.resources, all_loads(study, size))
    scores = scoring_fits(architecture, size.resources, length, layers_kept=layers_kept)
    if trains is None or scores is None:
        return "unknown card"
    return "NO" if not trains else "yes" if scores else "NO (scoring)"


def _layer_bytes(architecture: Architecture, tokens: int, length: int) -> int:
    """Activations of one layer with values of 2 bytes. A fused kernel keeps only scores that it is given."""
    kept = 5 if not architecture.fused_attention else 2 if architecture.attention_bias else 0
    return tokens * (34 * architecture.width + kept * architecture.heads * length)


def serving_gb(architecture: Architecture, variant: str | Variant) -> float:
    """GB of an encoder's weights as a serving variant holds them on its device."""
    return architecture.count.total * variant_named(variant).dtype.itemsize / GB


def serving_fits(architecture: Architecture, variant: str | Variant, accelerator_type: str) -> bool | None:
    """Whether the weights fit that device, with the headroom left for activations; None for an unknown device."""
    device = ACCELERATORS.get(accelerator_type)
    return None if device is None else device.holds(serving_gb(architecture, variant))
