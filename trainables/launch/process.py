"""The process a job runs in: which devices it sees, its threads, and its garbage collector."""

from __future__ import annotations

import gc
import os

from trainables.resources import GPU_HEADROOM, Resources

# Hides the GPUs of a node. CUDA and HIP read their variable once, when a process first initialises them; DeepSpeed reads its
# own when it is first imported.
NO_GPU = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}

ALLOCATOR = "PYTORCH_ALLOC_CONF"  # its older name is PYTORCH_CUDA_ALLOC_CONF


def gpu_memory() -> dict[str, str]:
    """Environment of workers on GPUs: PyTorch's allocator grows its segments, unless this process has settings of its own.

    Micro-batches of many lengths otherwise leave memory free in pieces too small to use. PyTorch reads the variable once, when
    a process first allocates on a GPU.
    """
    own = {name: os.environ[name] for name in (ALLOCATOR, "PYTORCH_CUDA_ALLOC_CONF") if name in os.environ}
    return own or {ALLOCATOR: "expandable_segments:True"}


def hide_gpus() -> None:
    """Let this process and its children see no GPU.

    From version 2.56 on Ray leaves GPUs visible to workers that requested none. DeepSpeed would then select a GPU, move the
    model there, and receive its inputs on the CPU. A process that has already initialised CUDA keeps its GPUs, so stages choose
    their device by `Resources.gpus` and not by what PyTorch can see.
    """
    os.environ.update(NO_GPU)


def prepare_process(resources: Resources) -> None:
    """Set devices, threads and the collector before the first stage.

    On a share of a GPU PyTorch allocates no more than that share: a trial that outgrows it runs out of memory itself, which
    its launcher mends with smaller micro-batches, and not the trials beside it.

    Every training ends with a collection (`engine.release`). Scanning the objects that imports leave behind took 0.3 s each
    time; freezing them takes them out of later collections.
    """
    if not resources.gpus:
        hide_gpus()
    import torch  # after the environment is set

    torch.set_num_threads(resources.cpus)
    if 0 < resources.gpus < 1:  # Ray shows such a worker one GPU
        torch.cuda.set_per_process_memory_fraction((1 - GPU_HEADROOM) * resources.gpus)
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()
