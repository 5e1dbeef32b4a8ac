"""Host memory of a worker that trains and scores on CPUs, estimated before anything starts.

It decides how many trials run at once. Passages are taken to fill rows up to the maximum length, and sentences half of them.
Constants were measured with `torch` 2.13 on x86-64 under glibc, with the allocator settings of `study.cluster.connection`.
"""

from __future__ import annotations

import dataclasses

from study.planning.architecture import Architecture, UnknownArchitecture, architecture_of
from study.planning.memory import buffers_gb, model_states, scores_bytes, tokens_at_once
from study.planning.stages import Load, all_loads, scoring_rows
from study.spec import Size, Study
from trainables.evaluation import TOKENS_A_BATCH
from trainables.models.encoder import ParameterCount
from trainables.resources import GB, Resources

# A worker of the quickstart with Ray, torch, transformers and DeepSpeed imported holds 0.55 GB; with its tokenised tables,
# examples and predictions in memory, 0.83 GB between two stages.
PROCESS_GB = 0.9
# Bytes from a forward to a backward pass, with what the allocator keeps of freed memory: for each layer and token, so many for
# each unit of width, and for each head and token attended to (PyTorch keeps attention scores on CPUs where dropout is on).
# Measured, in GB over the states, with heads of 64 units: 6 x 384 units and 32 rows of 128 tokens 1.4 (estimated 1.4), 12
# layers 2.6 (2.7); 4 x 256 and 16 rows of 512 tokens 2.3 (2.3). bf16 takes little less than fp32, as autocast keeps copies:
# 6 x 384 and 64 rows of 128 tokens 2.2 (2.7).
PASS_BYTES, ATTENTION_BYTES = 100, 22
# Sentences do not fill rows: the quickstart's 4x192 took 1.1 GB, where rows of the maximum length would make it 2.7.
SENTENCES_FILL = 0.5
# With checkpointing, a layer keeps its input in fp32.
KEPT_BYTES = 4


def worker_gb(study: Study, size: Size) -> float | None:
    """GB of host memory at the peak of one worker of a size; None for a worker on a GPU, or an unknown encoder."""
    if size.resources.gpus:
        return None
    try:
        architecture = architecture_of(study, size)
    except UnknownArchitecture:
        return None
    length, layers_kept = scoring_rows(study, size)
    training = (training_gb(architecture, size.resources, load) for load in all_loads(study, size))
    return PROCESS_GB + max(*training, scoring_gb(architecture, length, layers_kept=layers_kept))


def training_gb(architecture: Architecture, resources: Resources, load: Load) -> float:
    """GB that training on such batches takes.

    The engine's states and activations, and the state that is written at the end. Where the embedding table is trimmed, half of
    it is counted as trained, since it is trimmed where fewer than half of its rows occur; the whole table is held besides.
    """
    trained, whole = architecture, 0
    if not load.masked and resources.trim_vocabulary is not False:
        trained, whole = _half_trimmed(architecture), 4 * architecture.count.total
    share = 1 if load.fills_rows else SENTENCES_FILL
    tokens = tokens_at_once(resources, load, fill=share)
    layer = _layer_bytes(architecture, tokens, int(share * load.training.max_length))
    kept = KEPT_BYTES * tokens * architecture.width if resources.activation_checkpointing else layer
    passing = architecture.layers * kept + (layer if resources.activation_checkpointing else 0)
    in_memory = dataclasses.replace(resources, offload="none")  # a CPU has no other memory to move states to
    states = model_states(trained, in_memory, load.training.precision).device_gb
    written = 4 * trained.count.total
    scores = scores_bytes(architecture, load, tokens)
    return states + buffers_gb(trained, resources, load) + (whole + written + passing + scores) / GB


def scoring_gb(architecture: Architecture, length: int, *, layers_kept: bool) -> float:
    """GB of the weights, and of one layer of a batch; `layers_kept` adds the output of every layer."""
    tokens = max(TOKENS_A_BATCH, length)
    outputs = 4 * tokens * architecture.width * architecture.layers if layers_kept else 0
    return (4 * architecture.count.total + _layer_bytes(architecture, tokens, length) + outputs) / GB


def _layer_bytes(architecture: Architecture, tokens: int, length: int) -> int:
    return tokens * (PASS_BYTES * architecture.width + ATTENTION_BYTES * architecture.heads * length)


def _half_trimmed(architecture: Architecture) -> Architecture:
    """With half of the rows of the embedding table."""
    count = architecture.count
    total = count.total - architecture.vocabulary * architecture.width // 2
    return dataclasses.replace(architecture, count=ParameterCount(total, count.body))
