"""The model exported to another runtime: ONNX Runtime or OpenVINO, which are optional extras."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainables.benchmark.probes.hardware import int8_saturates
from trainables.benchmark.scenarios.queries import Query
from trainables.benchmark.variants.base import Variant, VariantUnavailable
from trainables.benchmark.variants.eager import no_bf16
from trainables.evaluation import Forward
from trainables.models.task_model import TaskModel

NAMES = ("input_ids", "attention_mask")
ROWS, LENGTH = 2, 16  # of the traced example; the exporter treats a dimension of 1 as fixed


class OnnxRuntime(Variant):
    """Fp32 in ONNX Runtime, with its default graph optimisations (all of them)."""

    name = "onnx"

    def unavailable(self, device: torch.device) -> str | None:
        if reason := _missing("onnx", "onnxruntime", "onnx", "onnxscript"):
            return reason
        import onnxruntime

        provider = _provider(device)
        return None if provider in onnxruntime.get_available_providers() else f"this ONNX Runtime has no {provider}"

    def shares_weights(self, model: TaskModel, device: torch.device) -> bool:
        return False

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        with tempfile.TemporaryDirectory(prefix="onnx-") as folder:
            path = self.graph(model, Path(folder))
            session = onnxruntime.InferenceSession(str(path), options, providers=[_provider(device)])

        def forward(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
            inputs = dict(zip(NAMES, (ids_NL.cpu().numpy(), mask_NL.cpu().numpy()), strict=True))
            return torch.from_numpy(session.run(None, inputs)[0])

        return forward

    def graph(self, model: TaskModel, folder: Path) -> Path:
        """Export the model; returns the file to run."""
        path = folder / "model.onnx"
        dynamic = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
        with _exporting(self.name):
            torch.onnx.export(
                _Logits(model),
                _example(),
                str(path),
                input_names=list(NAMES),
                output_names=["logits"],
                dynamic_shapes=(dynamic, dynamic),
                dynamo=True,
                external_data=True,  # a protobuf file is limited to 2 GB
                verbose=False,
            )
        return path


class OnnxInt8(OnnxRuntime):
    """ONNX Runtime with dynamic int8 quantisation of matrix products, per channel.

    Where products of 8 bits are added in 16 bits (`int8_saturates`), weights have 7 bits, as ONNX Runtime's documentation
    advises: sums of two products would be cut off, and logits change by a tenth or more.
    """

    name = "onnx_int8"
    depends_on_batch = True  # activations are quantised over the range of the whole batch

    def unavailable(self, device: torch.device) -> str | None:
        return "dynamic int8 has kernels for CPUs only" if device.type != "cpu" else super().unavailable(device)

    def graph(self, model: TaskModel, folder: Path) -> Path:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        path, quantised = super().graph(model, folder), folder / "model.int8.onnx"
        with _exporting(self.name):
            quantize_dynamic(
                path,
                quantised,
                op_types_to_quantize=["MatMul", "Gemm"],
                per_channel=True,
                weight_type=QuantType.QInt8,
                reduce_range=int8_saturates(),
                use_external_data_format=True,
            )
        return quantised

    def context(self, queries: Sequence[Query]) -> dict[str, Any]:
        return {"weight_bits": 7 if int8_saturates() else 8}


class OpenVino(Variant):
    """Fp32 in OpenVINO, tuned for latency."""

    name = "openvino"
    precision = "f32"

    def unavailable(self, device: torch.device) -> str | None:
        """As `Variant`. It loads OpenVINO's CPU plugin, which counts the cores of the process once, for good.

        A timing restricts the process to its own cores. If the plugin were first loaded there, scoring would compute on them
        alone: one thread instead of two on two cores.
        """
        if reason := _missing("openvino", "openvino"):
            return reason
        if device.type != "cpu":
            return "OpenVINO runs on CPUs and Intel's devices"
        import openvino

        return None if "CPU" in openvino.Core().available_devices else "this OpenVINO has no plugin for CPUs"

    def shares_weights(self, model: TaskModel, device: torch.device) -> bool:
        return False

    def prepare(self, model: TaskModel, device: torch.device) -> Forward:
        import openvino

        dynamic = openvino.PartialShape([-1, -1])
        with _exporting(self.name):
            converted = openvino.convert_model(_Logits(model), example_input=_example(), input=[dynamic, dynamic])
        settings = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        request = openvino.Core().compile_model(converted, "CPU", settings).create_infer_request()

        def forward(ids_NL: Tensor, mask_NL: Tensor) -> Tensor:
            outputs = request.infer([ids_NL.numpy(), mask_NL.numpy()], share_inputs=True)
            return torch.from_numpy(outputs[0].copy())  # the next call overwrites it

        return forward


class OpenVinoBf16(OpenVino):
    """OpenVINO with bf16 arithmetic; inputs, outputs and operations that it considers sensitive stay in fp32."""

    name = "openvino_bf16"
    precision = "bf16"

    def unavailable(self, device: torch.device) -> str | None:
        return super().unavailable(device) or no_bf16(device)


class _Logits(nn.Module):
    """`TaskModel.logits` as a module's `forward`, which exporters expect, over an fp32 copy on the host."""

    def __init__(self, model: TaskModel) -> None:
        super().__init__()
        self.model = copy.deepcopy(model).float().cpu().eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.logits(input_ids, attention_mask)


def _example() -> tuple[Tensor, Tensor]:
    """Rows of different lengths, so that the exporter cannot drop the mask."""
    mask_NL = torch.ones(ROWS, LENGTH, dtype=torch.long)
    mask_NL[1, LENGTH // 2 :] = 0
    return torch.full((ROWS, LENGTH), 5), mask_NL


def _missing(extra: str, *modules: str) -> str | None:
    lacking = [module for module in modules if importlib.util.find_spec(module) is None]
    return f"{' and '.join(lacking)} not installed; pip install 'xstilts[{extra}]'" if lacking else None


def _provider(device: torch.device) -> str:
    return "CPUExecutionProvider" if device.type == "cpu" else "CUDAExecutionProvider"


@contextlib.contextmanager
def _exporting(name: str) -> Iterator[None]:
    """Silences the exporter; an export that fails makes the variant unavailable for this model.

    Raises:
        VariantUnavailable: the export failed.
    """
    output: Any = io.StringIO()
    logging.disable(logging.WARNING)
    try:
        with torch.no_grad(), warnings.catch_warnings(), contextlib.redirect_stdout(output):
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise VariantUnavailable(
            name, f"the export failed: {type(error).__name__}: {reason[0] if reason else ''}"
        ) from error
    finally:
        logging.disable(logging.NOTSET)
