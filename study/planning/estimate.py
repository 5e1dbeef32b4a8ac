"""What a size needs, before anything starts: parameters, memory of a worker, floating-point operations, GPU-hours.

Memory is DeepSpeed's own estimate of model states (weights, gradients, optimizer), corrected to this engine's fp32 weights,
plus the activations of Korthikanti et al. 2022 (arXiv 2205.05198). Operations are counted as in the same paper's section on
model FLOPs: 6 for each parameter of the body and token, and those of attention. Both say whether a plan is sensible; neither
replaces a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedConfig

from study.spec import LadderEncoder, Size, Study
from trainables.benchmark.variants import variant_named
from trainables.evaluation import TOKENS_A_BATCH
from trainables.heads.masking import MASKED_SHARE
from trainables.hyperparameters import Precision, Training
from trainables.models.catalogue import config_of
from trainables.models.encoder import ParameterCount, count_parameters
from trainables.models.families import FAMILIES
from trainables.models.published_encoder import Published
from trainables.resources import Offload, Resources
from trainables.training.batching import Share
from trainables.training.engine import deepspeed_here

if TYPE_CHECKING:
    from transformers import PreTrainedModel

GB = 1e9
PAD_ID = 1  # of the study's own vocabularies
GPUS_A_NODE = 8
MFU = 0.4  # share of the device's peak that the body's operations reach; measured shares vary with size and length
SCORE_BYTES = 10  # of each piece for a masked token: 2 in bf16, 4 in fp32 for the softmax, which takes 4 itself
HEADROOM = 0.1  # of a device's memory: the context of CUDA, fragments between allocations, what kernels and NCCL hold
# Elements: DeepSpeed's defaults of `reduce_bucket_size` and `stage3_max_live_parameters`.
BUCKET, LIVE = 500_000_000, 10**9


@dataclass(frozen=True)
class Accelerator:
    """Memory in GB, and peaks of dense matrix products in TFLOP/s, from the maker's data sheet: fp32 without tensor cores, as
    PyTorch computes it unless told to round to TF32, and bf16 on tensor cores, None where they have no bf16."""

    memory_gb: float
    fp32_tflops: float
    bf16_tflops: float | None

    def peak_tflops(self, precision: Precision) -> float:
        """What training in that precision is held against: bf16 without tensor cores for it is no faster than fp32."""
        return self.fp32_tflops if precision == "fp32" else self.bf16_tflops or self.fp32_tflops


# By Ray's names (`ray.util.accelerators`); where a name covers several cards, the least memory (A100, V100) and the peaks of
# the SXM form (V100, H100). A10G is Amazon's variant of A10, with 35 TFLOP/s in fp32 and 70 in bf16, not 31.2 and 125.
ACCELERATORS = {
    "T4": Accelerator(16, 8.1, None),
    "V100": Accelerator(16, 15.7, None),
    "A10G": Accelerator(24, 35, 70),
    "L4": Accelerator(24, 30.3, 121),
    "L40S": Accelerator(48, 91.6, 362),
    "A100": Accelerator(40, 19.5, 312),
    "A100-40G": Accelerator(40, 19.5, 312),
    "A100-80G": Accelerator(80, 19.5, 312),
    "H100": Accelerator(80, 67, 989),
    "H200": Accelerator(141, 67, 989),
}


@dataclass(frozen=True)
class Architecture:
    """What the estimates read of an encoder. `largest` is the most parameters that one module holds itself."""

    count: ParameterCount
    largest: int
    layers: int
    width: int
    attention_width: int
    heads: int
    fused_attention: bool
    vocabulary: int


@dataclass(frozen=True)
class Load:
    """One kind of batch that a stage trains on: `rows` of a feature, features of a `group` on one worker, and whether masked
    pieces are scored over the whole vocabulary."""

    training: Training
    rows: int = 1
    group: int = 1
    masked: bool = False


@dataclass(frozen=True)
class Memory:
    """GB on a worker's device, and in the host memory of its node."""

    device_gb: float
    host_gb: float


class UnknownArchitecture(ValueError):
    """An encoder outside the catalogue whose files are not at hand."""


def architecture(study: Study, size: Size) -> Architecture:
    """The size's encoder, from its configuration alone.

    Raises:
        UnknownArchitecture: a published encoder that the catalogue lacks, and the data root too.
    """
    return _architecture(size.encoder, study.vocabulary_size)


def parameters(study: Study, size: Size) -> ParameterCount:
    """Counts of the size's encoder.

    Raises:
        UnknownArchitecture: as in `architecture`.
    """
    return architecture(study, size).count


def model_states(architecture: Architecture, resources: Resources) -> Memory:
    """What a worker holds of weights, gradients and optimizer: DeepSpeed's estimate, corrected to weights of 4 bytes.

    DeepSpeed has a function for stage 2 and one for stage 3, both for weights of 2 bytes with a gradient of 2 and one of 4.
    This engine's weights are fp32, and only matrix products run in bf16. Of P parameters, the largest L in one module, shared
    by N workers, it holds in bytes (counted in tensors under each stage, `tests/study/planning/test_estimate_bytes.py`):

    - stage 0: 16 P. Weights, gradients, moments; no second copy of the weights, which DeepSpeed's 20 P have.
    - stage 1: 8 P + 12 P / N. Weights and gradients whole; shared out the optimizer's own copy of the weights, and moments.
    - stage 2: 4 P + 16 P / N, gradients shared out too; DeepSpeed has 2 P + 18 P / N.
    - stage 3: 20 P / N, weights shared out too, and in a pass what was gathered and not let go of yet: weights up to the
      larger of L and `LIVE`, and the gradient of L. DeepSpeed has 18 P / N + 4 L.

    With an offload the device keeps the weights (stage 1: gradients, between the micro-batches of a step), stage 3 those
    that are gathered, and if parameters stay its part of them. Host memory is DeepSpeed's, which puts half on top of its sum.
    In stage 3 a group never reads the whole encoder (`partitioning`), one worker alone does.
    """
    deepspeed_here()
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    total, workers, largest = architecture.count.total, resources.workers, architecture.largest
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
        device += 0 if resources.offload == "parameters" else 2 * total // workers
        device += 4 * max(largest, min(total, LIVE))  # DeepSpeed's 4 L are then the gradient's
    elif resources.zero_stage == 0:
        host, device = estimate_zero2_model_states_mem_needs(total, cpu_offload=False)
        host *= node
        device -= 4 * total
    else:
        host, device = estimate_zero2_model_states_mem_needs(
            total, num_gpus_per_node=node, num_nodes=nodes, cpu_offload=offload
        )
        device += 2 * total - (0 if offload else 2 * total // workers)
        if resources.zero_stage == 1:
            device += 4 * total - (0 if offload else 4 * total // workers)
    return Memory(device / GB, host / GB)


def buffers_gb(architecture: Architecture, resources: Resources, load: Load) -> float:
    """GB of what the engine holds beside model states while it trains.

    From stage 1 on DeepSpeed reduces gradients through a buffer of `BUCKET` elements, made whole for a model of any size; with
    bf16 there is a second one for those sent as bf16, of 4 bytes too in stages 1 and 2. In bf16 the weights of matrix products
    are copied, 2 bytes each, and kept for the backward pass; stage 3 lets go of its copies with what it gathered.
    """
    stage, mixed = resources.zero_stage, load.training.precision == "bf16_mixed"
    buckets = 0 if stage == 0 else 4 * BUCKET
    buckets += (2 if stage == 3 else 4) * BUCKET if stage and mixed else 0
    copied = architecture.count.body + (architecture.vocabulary * architecture.width if load.masked else 0)
    return (buckets + (2 * copied if mixed and stage < 3 else 0)) / GB


def activations_gb(architecture: Architecture, resources: Resources, load: Load) -> float:
    """GB of activations of a micro-batch of the longest rows.

    For each layer and token 34 bytes a unit of width, and without fused attention 5 for each head and token attended to
    (Korthikanti et al., equation 1). With checkpointing 2 a unit of width, and one layer whole. Where pieces are masked, and
    the scores of the whole vocabulary for 15% of the tokens, with their softmax.
    """
    training = load.training
    micro_batches = Share(0, resources.workers, resources.micro_batch).accumulation(training.batch_size, load.group)
    features = training.batch_size // resources.workers // micro_batches
    tokens = features * load.rows * training.max_length
    layer = _layer_bytes(architecture, tokens, training.max_length)
    kept = tokens * 2 * architecture.width if resources.activation_checkpointing else layer
    wider = 1 if training.precision == "bf16_mixed" else 2
    scores = MASKED_SHARE * tokens * architecture.vocabulary * SCORE_BYTES if load.masked else 0
    return (wider * (architecture.layers * kept + (layer if resources.activation_checkpointing else 0)) + scores) / GB


def training_gb(architecture: Architecture, resources: Resources, load: Load) -> float:
    """GB that a worker's device holds at most while it trains.

    In the optimizer's step, when activations and buffers are gone, stages 1 and 2 have a second copy of the worker's part of
    the gradients; stage 3, which lets go of gathered weights, no more than in a pass.
    """
    states = model_states(architecture, resources).device_gb
    stepping = 0 if resources.zero_stage not in (1, 2) or resources.offload != "none" else 4 / resources.workers
    in_a_pass = buffers_gb(architecture, resources, load) + activations_gb(architecture, resources, load)
    return states + max(in_a_pass, stepping * architecture.count.total / GB)


def scoring(architecture: Architecture, resources: Resources, length: int, *, layers_kept: bool = False) -> Memory:
    """What scoring takes of each worker's device, and of its node: the whole encoder in fp32, whatever was trained how.

    Every worker loads it into host memory first. Beside it a batch of `TOKENS_A_BATCH` tokens in rows of `length`, of which
    one layer's activations are there at a time, and with `layers_kept` the output of every layer (sentence vectors of one in
    the middle).
    """
    weights = 4 * architecture.count.total
    tokens = max(TOKENS_A_BATCH, length)
    outputs = 4 * tokens * architecture.width * architecture.layers if layers_kept else 0
    batch = 2 * _layer_bytes(architecture, tokens, length) + outputs
    return Memory((weights + batch) / GB, min(resources.workers, GPUS_A_NODE) * weights / GB)


def fits(architecture: Architecture, resources: Resources, loads: Iterable[Load]) -> bool | None:
    """Whether training on any of these batches fits the declared device, a tenth left free; None if it is not known."""
    return _held(resources, max(training_gb(architecture, resources, load) for load in loads))


def scores(architecture: Architecture, resources: Resources, length: int, *, layers_kept: bool = False) -> bool | None:
    """Whether scoring fits the declared device, a tenth left free; None if it is not known."""
    return _held(resources, scoring(architecture, resources, length, layers_kept=layers_kept).device_gb)


def _held(resources: Resources, needed_gb: float) -> bool | None:
    device = ACCELERATORS.get(resources.accelerator_type or "")
    if not resources.gpus or device is None:
        return None
    return needed_gb <= (1 - HEADROOM) * device.memory_gb


def _layer_bytes(architecture: Architecture, tokens: int, length: int) -> int:
    """Activations of one layer with values of 2 bytes."""
    attention = 0 if architecture.fused_attention else 5 * architecture.heads * length
    return tokens * (34 * architecture.width + attention)


def weights_gb(architecture: Architecture, variant: str) -> float:
    """GB of an encoder's weights as a serving variant holds them on its device."""
    return architecture.count.total * variant_named(variant).dtype.itemsize / GB


def serves(architecture: Architecture, variant: str, accelerator_type: str) -> bool | None:
    """Whether the weights fit the card, a tenth left free for activations; None if it is not known."""
    device = ACCELERATORS.get(accelerator_type)
    return None if device is None else weights_gb(architecture, variant) <= (1 - HEADROOM) * device.memory_gb


def tokens_of(load: Load) -> int:
    """Tokens of a stage if every row had the longest length: an upper bound."""
    return load.training.steps * load.training.batch_size * load.rows * load.training.max_length


def stage_flops(architecture: Architecture, load: Load) -> float:
    """Floating-point operations of training on such batches, forward (a third) and backward.

    For each token 6 for every parameter of the body and 12 x layers x attention width x row length (queries with keys,
    weights with values). Where pieces are masked, the output layer reads the token table for 15% of the tokens.
    """
    length = load.training.max_length
    a_token = 6.0 * architecture.count.body + 12.0 * architecture.layers * architecture.attention_width * length
    if load.masked:
        a_token += 6.0 * MASKED_SHARE * architecture.vocabulary * architecture.width
    return a_token * tokens_of(load)


def gpu_hours(flops: float, resources: Resources, precision: Precision) -> float | None:
    """Hours of one device at the assumed share of its peak in that precision, None if there is none or it is not known; with
    checkpointing the forward pass is computed twice."""
    device = ACCELERATORS.get(resources.accelerator_type or "")
    if not resources.gpus or device is None:
        return None
    computed = flops * (4 / 3 if resources.activation_checkpointing else 1)
    return computed / (device.peak_tflops(precision) * 1e12 * MFU) / 3600


def settings() -> list[tuple[int, Offload]]:
    """ZeRO stages and offloads that a plan compares."""
    return [(0, "none"), (1, "none"), (2, "none"), (3, "none"), (2, "optimizer"), (3, "optimizer"), (3, "parameters")]


def _config(encoder: LadderEncoder | Published, vocabulary_size: int | None) -> PreTrainedConfig:
    if isinstance(encoder, LadderEncoder):
        assert vocabulary_size is not None  # a study with rungs has one
        return encoder.shape.config(vocabulary_size, PAD_ID)
    config = config_of(encoder)
    if config is None:
        raise UnknownArchitecture(
            f"{encoder.repository} is not in the catalogue: its size is known once its files are under --data-root"
        )
    return config


@lru_cache(maxsize=64)
def _architecture(of: LadderEncoder | Published, vocabulary_size: int | None) -> Architecture:
    config = _config(of, vocabulary_size)
    known = FAMILIES[config.model_type]
    with torch.device("meta"):
        encoder: PreTrainedModel = known.model_class(config, **known.options)
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Architecture(
        count=count_parameters(encoder),
        largest=max(sum(own.numel() for own in module.parameters(recurse=False)) for module in encoder.modules()),
        layers=config.num_hidden_layers,
        width=config.hidden_size,
        attention_width=config.num_attention_heads * head_width,
        heads=config.num_attention_heads,
        fused_attention=known.fused_attention,
        vocabulary=config.vocab_size,
    )
