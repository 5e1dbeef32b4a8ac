"""Which errors mean that a device has no memory left: messages as PyTorch and NVIDIA's libraries write them."""

from __future__ import annotations

import pytest
import torch
from torch.distributed import DistBackendError

from trainables.out_of_memory import is_out_of_memory

NCCL = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:133, unhandled cuda error (run with NCCL_DEBUG=INFO "
    "for details), NCCL version 2.27.5\nncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\n"
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139.81 GiB"
        ),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        DistBackendError(NCCL + "Cuda failure 2 'out of memory'"),
        DistBackendError(NCCL + "Cuda failure 'out of memory'"),
        DistBackendError(NCCL + "Failed to CUDA calloc async 4 bytes"),
        MemoryError(),
    ],
)
def test_errors_for_memory(error: Exception) -> None:
    assert is_out_of_memory(error)


def test_the_allocator_on_cpus_is_recognised() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**58)
    assert is_out_of_memory(error.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (32x128 and 64x3)"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(handle)`"),
        DistBackendError(NCCL + "Cuda failure 700 'an illegal memory access was encountered'"),
        DistBackendError("NCCL communicator was aborted on rank 1."),
        ValueError("CUDA error: out of memory"),
    ],
)
def test_other_errors(error: Exception) -> None:
    assert not is_out_of_memory(error)
