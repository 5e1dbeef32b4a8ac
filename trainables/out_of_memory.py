"""Recognises errors that say a device has no memory left, whoever allocated it."""

from __future__ import annotations

import re

import torch

# PyTorch's allocator raises `torch.OutOfMemoryError`. Memory that others allocate themselves fails with a RuntimeError:
# - the CUDA runtime (torch.AcceleratorError): "CUDA error: out of memory"
# - the CUDA driver, which maps the allocator's segments and loads compiled kernels: "CUDA driver error: out of memory",
#   "Triton Error [CUDA]: out of memory"
# - cuBLAS, cuBLASLt, cuDNN, cuSOLVER, cuSPARSE: "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
# - NCCL (DistBackendError): "unhandled cuda error", and in its last line "Cuda failure 2 'out of memory'", in older versions
#   without the number, or "Failed to CUDA calloc async 4 bytes"
# - PyTorch's allocator on CPUs: "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."
_MESSAGES = re.compile(
    r"CUDA (driver )?error: out of memory|Triton Error \[CUDA\]: out of memory"
    r"|(CUBLAS|CUDNN|CUSOLVER|CUSPARSE)_STATUS_ALLOC_FAILED"
    r"|Cuda failure (2 )?'out of memory'|Failed to CUDA (calloc|malloc)|DefaultCPUAllocator: (can't allocate|not enough) memory"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less work at once may avoid the error."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and _MESSAGES.search(str(error)) is not None
    )
