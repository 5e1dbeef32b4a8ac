"""What a size needs, before anything starts: parameters, memory of a worker, floating-point operations, GPU-hours.

Memory is DeepSpeed's own estimate of model states (weights, gradients, optimizer) plus the activations of Korthikanti et al.
2022 (arXiv 2205.05198). Operations are counted as in the same paper's section on model FLOPs: 6 for each parameter of the body
and token, and those of attention. Both say whether a plan is sensible; neither replaces a measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs
from transformers import PreTrainedConfig, PreTrainedModel

from study.spec import Rung, Size, Study
from trainables.benchmark.variants import variant_named
from trainables.catalogue import config_of
from trainables.encoder import ParameterCount, count_parameters
from trainables.engine import Offload, Resources
from trainables.families import FAMILIES
from trainables.kinds.masking import MASKED_SHARE
from trainables.published import Published
from trainables.training import Training

GB = 1e9
PAD_ID = 1  # of the study's own vocabularies
GPUS_A_NODE = 8
MFU = 0.4  # share of the device's peak that the body's operations reach; measured shares vary with size and length
SCORE_BYTES = 10  # of each piece for a masked token: 2 in bf16, 4 in fp32 for the softmax, which takes 4 itself
HEADROOM = 0.1  # of a device's memory: kernels, communication buffers, and what fp32 weights need more than 16-bit ones


@dataclass(frozen=True)
class Accelerator:
    """Memory in GB and peak of dense 16-bit matrix products in TFLOP/s, from the maker's data sheet."""

    memory_gb: float
    peak_tflops: float


# By Ray's names (`ray.util.accelerators`); where a name covers several cards (A100, V100), the one with least memory.
ACCELERATORS = {
    "T4": Accelerator(16, 65),
    "V100": Accelerator(16, 125),
    "A10G": Accelerator(24, 70),
    "L4": Accelerator(24, 121),
    "L40S": Accelerator(48, 362),
    "A100": Accelerator(40, 312),
    "A100-40G": Accelerator(40, 312),
    "A100-80G": Accelerator(80, 312),
    "H100": Accelerator(80, 989),
    "H200": Accelerator(141, 989),
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
    """DeepSpeed's estimate for what a worker holds of weights, gradients and optimizer, without activations.

    Stages 2 and 3 are its functions, `zero_init` off, since an encoder is read before it is partitioned. It has none for the
    others: stage 0 is stage 2 with one worker, and stage 1 keeps gradients whole (6 of the 18 bytes that stage 2 shares out).
    Where they count weights of 2 bytes, 2 more are added: this engine's are fp32, and only matrix products run in bf16.
    """
    total, workers = architecture.count.total, resources.workers
    node = min(workers, GPUS_A_NODE)
    nodes = math.ceil(workers / node)
    offload = resources.offload != "none"
    if resources.zero_stage == 3:
        host, device, _ = estimate_zero3_model_states_mem_needs(
            *(total, architecture.largest),
            num_gpus_per_node=node,
            num_nodes=nodes,
            cpu_offload=offload,
            cpu_offload_params=resources.offload == "parameters",
            zero_init=False,
        )
        device += 4 * architecture.largest  # its weights and their gradients
        device += 0 if resources.offload == "parameters" else 2 * total // workers
    elif resources.zero_stage == 0:
        host, device = estimate_zero2_model_states_mem_needs(total, cpu_offload=False)
        host *= node
    else:
        host, device = estimate_zero2_model_states_mem_needs(
            total, num_gpus_per_node=node, num_nodes=nodes, cpu_offload=offload
        )
        device += 2 * total if offload else 0
        if resources.zero_stage == 1:
            device += 6 * total - (0 if offload else 6 * total // workers)
    return Memory(device / GB, host / GB)


def activations_gb(
    architecture: Architecture, resources: Resources, training: Training, *, masked: bool = False
) -> float:
    """GB of activations of a micro-batch of the longest rows.

    For each layer and token 34 bytes a unit of width, and without fused attention 5 for each head and token attended to
    (Korthikanti et al., equation 1). With checkpointing 2 a unit of width, and one layer whole. `masked`: and the scores of
    the whole vocabulary for 15% of the tokens, with their softmax.
    """
    tokens = min(resources.micro_batch, training.batch_size // resources.workers) * training.max_length
    attention = 0 if architecture.fused_attention else 5 * architecture.heads * training.max_length
    layer = tokens * (34 * architecture.width + attention)
    kept = tokens * 2 * architecture.width if resources.activation_checkpointing else layer
    wider = 1 if training.precision == "bf16_mixed" else 2
    scores = MASKED_SHARE * tokens * architecture.vocabulary * SCORE_BYTES if masked else 0
    return (wider * (architecture.layers * kept + (layer if resources.activation_checkpointing else 0)) + scores) / GB


def fits(architecture: Architecture, resources: Resources, training: Training, *, masked: bool = False) -> bool | None:
    """Whether model states and activations fit the declared device, a tenth left free; None if it is not known."""
    device = ACCELERATORS.get(resources.accelerator_type or "")
    if not resources.gpus or device is None:
        return None
    activations = activations_gb(architecture, resources, training, masked=masked)
    needed = model_states(architecture, resources).device_gb + activations
    return needed <= (1 - HEADROOM) * device.memory_gb


def weights_gb(architecture: Architecture, variant: str) -> float:
    """GB of an encoder's weights as a serving variant holds them on its device."""
    return architecture.count.total * variant_named(variant).dtype.itemsize / GB


def serves(architecture: Architecture, variant: str, accelerator_type: str) -> bool | None:
    """Whether the weights fit the card, a tenth left free for activations; None if it is not known."""
    device = ACCELERATORS.get(accelerator_type)
    return None if device is None else weights_gb(architecture, variant) <= (1 - HEADROOM) * device.memory_gb


def tokens_of(training: Training) -> int:
    """Tokens of a stage if every feature were one row of the longest length: an upper bound but for tasks of several rows."""
    return training.steps * training.batch_size * training.max_length


def stage_flops(architecture: Architecture, training: Training, *, rows: int = 1, masked: bool = False) -> float:
    """Floating-point operations of a training stage, forward (a third) and backward.

    For each token 6 for every parameter of the body and 12 x layers x attention width x row length (queries with keys,
    weights with values). `masked`: the output layer reads the token table for 15% of the tokens.
    """
    a_token = (
        6.0 * architecture.count.body + 12.0 * architecture.layers * architecture.attention_width * training.max_length
    )
    if masked:
        a_token += 6.0 * MASKED_SHARE * architecture.vocabulary * architecture.width
    return a_token * rows * tokens_of(training)


def gpu_hours(flops: float, resources: Resources) -> float | None:
    """Hours of one device at the assumed share of its peak; with checkpointing the forward pass is computed twice."""
    device = ACCELERATORS.get(resources.accelerator_type or "")
    if not resources.gpus or device is None:
        return None
    computed = flops * (4 / 3 if resources.activation_checkpointing else 1)
    return computed / (device.peak_tflops * 1e12 * MFU) / 3600


def settings() -> list[tuple[int, Offload]]:
    """ZeRO stages and offloads that a plan compares."""
    return [(0, "none"), (1, "none"), (2, "none"), (3, "none"), (2, "optimizer"), (3, "optimizer"), (3, "parameters")]


def _config(encoder: Rung | Published, vocabulary_size: int | None) -> PreTrainedConfig:
    if isinstance(encoder, Rung):
        assert vocabulary_size is not None  # a study with rungs has one
        return encoder.shape.config(vocabulary_size, PAD_ID)
    config = config_of(encoder)
    if config is None:
        raise UnknownArchitecture(
            f"{encoder.repository} is not in the catalogue: its size is known once its files are under --data-root"
        )
    return config


@lru_cache(maxsize=64)
def _architecture(of: Rung | Published, vocabulary_size: int | None) -> Architecture:
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
