"""Whole networks, float32 images in and class scores out: the same weights for every runtime, in one model file each, in its fastest form.

A peer writes what its users would ship (`build`) and loads it (`load`), so that a fresh process can measure how much memory that takes.
"""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.subjects.interface import NetworkRuntime, counted
from bench.subjects.models import CALIBRATION_IMAGES, F32, Model, to_onnx
from bench.subjects.networks import NETWORKS
from bench.subjects.torch_nn import TorchNN

from . import openvino, ort
from .torch_quantized import _torch


@dataclass(frozen=True)
class _TorchState:
    module: Any
    x: Any


def _torch_module(model: Model, *, relu6: bool = True) -> Any:
    """The network with the model's weights, in evaluation."""
    torch = _torch()
    module = NETWORKS[model.name](TorchNN(relu6=relu6))
    missing, unknown = module.load_state_dict({name: torch.from_numpy(value) for name, value in model.weights.items()}, strict=False)
    if unknown or any(not name.endswith("num_batches_tracked") for name in missing):
        raise RuntimeError(f"{model.name}: parameters {unknown} are unknown and {missing} are missing")
    return module.eval()


class _TorchNetwork(NetworkRuntime):
    packages = ("torch",)
    frozen = True

    def before(self, threads: int) -> None:
        torch = _torch()
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)

    def module(self, model: Model, example: Any) -> Any:
        """What is traced."""
        raise NotImplementedError

    def build(self, model: Model, directory: Path) -> Path:
        torch = _torch()
        path = directory / f"{model.name} {self.name}.pt"
        example = torch.from_numpy(model.images()).contiguous(memory_format=torch.channels_last)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # quantized tensors and TorchScript warn that they are deprecated
            traced = torch.jit.trace(self.module(model, example), example, check_trace=False)
            torch.jit.save(torch.jit.freeze(traced) if self.frozen else traced, str(path))
        return path

    def load(self, name: str, path: Path, x: F32, threads: int) -> _TorchState:
        del name
        torch = _torch()
        self.before(threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.load(str(path)).eval()
        example = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        with torch.inference_mode():
            for _ in range(3):  # the profiling executor rewrites the graph in its first runs
                module(example)
        return _TorchState(module, example)

    def precision(self, state: _TorchState) -> str:
        return counted(node.kind().removeprefix("quantized::") for node in state.module.graph.nodes() if "quantized::" in node.kind())

    def run(self, state: _TorchState) -> object:
        with _torch().inference_mode():
            return state.module(state.x)

    def result(self, state: _TorchState) -> F32:
        out: Any = self.run(state)
        return np.array(out.numpy(), copy=True)


class TorchFloat32(_TorchNetwork):
    """Batch norms folded, channels_last, frozen."""

    name = "torch fp32"
    kind = "fp32"
    note = "channels_last, batch norms folded, TorchScript frozen: oneDNN"

    def module(self, model: Model, example: Any) -> Any:
        del example
        optimization: Any = importlib.import_module("torch.fx.experimental.optimization")
        return optimization.fuse(_torch_module(model)).to(memory_format=_torch().channels_last)


class TorchOneDnnFloat32(TorchFloat32):
    """The same with `optimize_for_inference`."""

    name = "torch fp32 oneDNN layout"
    note = "optimize_for_inference: weights and activations in oneDNN's own layouts"

    def load(self, name: str, path: Path, x: F32, threads: int) -> _TorchState:
        torch = _torch()
        self.before(threads)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = torch.jit.optimize_for_inference(torch.jit.load(str(path)).eval())
        example = torch.from_numpy(x)
        with torch.inference_mode():
            for _ in range(3):
                module(example)
        return _TorchState(module, example)


class _TorchInt8(_TorchNetwork):
    """Static quantization by FX in the engine's own default configuration."""

    kind = "int8"
    engine: str

    def why_unavailable(self) -> str | None:
        if reason := super().why_unavailable():
            return reason
        engines = _torch().backends.quantized.supported_engines
        return None if self.engine in engines else f"this build of torch has no engine {self.engine!r}, only {', '.join(engines)}"

    def module(self, model: Model, example: Any) -> Any:
        torch = _torch()
        fx: Any = importlib.import_module("torch.ao.quantization.quantize_fx")
        quantization: Any = importlib.import_module("torch.ao.quantization")
        torch.backends.quantized.engine = self.engine
        mapping = quantization.get_default_qconfig_mapping(self.engine)
        more = {}
        if self.engine == "onednn":
            more["backend_config"] = quantization.backend_config.get_onednn_backend_config()
        prepared = fx.prepare_fx(_torch_module(model, relu6=False), mapping, example, **more)
        for image in model.images(CALIBRATION_IMAGES, seed=2):
            prepared(torch.from_numpy(image[None]))
        return fx.convert_fx(prepared, **more)

    def load(self, name: str, path: Path, x: F32, threads: int) -> _TorchState:
        _torch().backends.quantized.engine = self.engine  # the file keeps plain weights, packed as it is read
        return super().load(name, path, x, threads)


class Qnnpack(_TorchInt8):
    """torch's engine "qnnpack"."""

    name = "QNNPACK"
    engine = "qnnpack"
    note = "FX static quantization; its x86 kernels stop at SSE2 and run in one thread; ReLU for ReLU6"


class Fbgemm(_TorchInt8):
    """torch's engine "fbgemm", which "x86" is on cores without VNNI."""

    name = "FBGEMM"
    engine = "fbgemm"
    note = "FX static quantization, activations of 7 bits; ReLU for ReLU6"


class OneDnn(_TorchInt8):
    """torch's engine "onednn"."""

    name = "oneDNN"
    engine = "onednn"
    note = "FX static quantization; ReLU for ReLU6"


@dataclass(frozen=True)
class _OrtState:
    session: Any
    binding: Any
    output: Any
    keep: tuple[Any, ...]
    path: Path


class _OrtNetwork(NetworkRuntime):
    packages = ("onnxruntime", "onnx")

    def load(self, name: str, path: Path, x: F32, threads: int) -> _OrtState:
        del name
        session = ort.open_session(str(path), threads)
        out = np.zeros(session.get_outputs()[0].shape, np.float32)
        return _OrtState(session, *ort.bind(session, "x", x, "y", out), path)

    def precision(self, state: _OrtState) -> str:
        return counted(name for name in ort.operators(state.path) if name.startswith(("Q", "Conv", "FusedConv", "Gemm")))

    def run(self, state: _OrtState) -> object:
        return state.session.run_with_iobinding(state.binding)

    def result(self, state: _OrtState) -> F32:
        self.run(state)
        return np.array(state.output.numpy(), copy=True)


class OrtFloat32(_OrtNetwork):
    """The float model."""

    name = "onnxruntime fp32"
    kind = "fp32"

    def build(self, model: Model, directory: Path) -> Path:
        return float_onnx(model, directory)


class OrtQdq(_OrtNetwork):
    """Static quantization by onnxruntime's own tool."""

    name = "onnxruntime QDQ"
    kind = "int8"
    note = "quantize_static: per channel, weights of 7 bits (reduce_range), so that nothing saturates"

    def build(self, model: Model, directory: Path) -> Path:
        return quantized_onnx(model, directory)


@dataclass(frozen=True)
class _VinoState:
    compiled: Any
    request: Any
    keep: npt.NDArray[Any]


class _VinoNetwork(NetworkRuntime):
    def load(self, name: str, path: Path, x: F32, threads: int) -> _VinoState:
        del name
        ov, _, _ = openvino._modules()
        compiled = openvino.compiled(str(path), threads)
        request = compiled.create_infer_request()
        request.set_input_tensor(ov.Tensor(x, shared_memory=True))
        return _VinoState(compiled, request, x)

    def run(self, state: _VinoState) -> object:
        return state.request.infer()

    def result(self, state: _VinoState) -> F32:
        self.run(state)
        return np.array(state.request.get_output_tensor().data, copy=True)

    def precision(self, state: _VinoState) -> str:
        return counted(openvino.primitives(state.compiled, "Convolution", "FullyConnected"))


class OpenVinoFloat32(_VinoNetwork):
    """The float model."""

    name = "OpenVINO fp32"
    kind = "fp32"
    packages = ("openvino", "onnx")

    def build(self, model: Model, directory: Path) -> Path:
        return float_onnx(model, directory)


class OpenVino(_VinoNetwork):
    """The model that onnxruntime's tool quantized."""

    name = "OpenVINO"
    kind = "int8"
    packages = ("openvino", "onnxruntime", "onnx")
    note = "the QDQ model of onnxruntime's tool"

    def build(self, model: Model, directory: Path) -> Path:
        return quantized_onnx(model, directory)


def float_onnx(model: Model, directory: Path) -> Path:
    """The float model's file, written once per directory."""
    path: Path = directory / f"{model.name}.onnx"
    if not path.exists():
        path.write_bytes(to_onnx(model.graph, model.weights, model.batch).SerializeToString())
    return path


class _Images:
    """Calibration data in the form that onnxruntime's tool requires: the same images whatever the batch, filled up by repetition."""

    def __init__(self, model: Model) -> None:
        images = model.images(CALIBRATION_IMAGES, seed=2)
        size = max(1, model.batch)
        self.images = iter(np.resize(images, (-(-len(images) // size), size, *images.shape[1:])))

    def get_next(self) -> dict[str, F32] | None:
        """The next batch or None."""
        image = next(self.images, None)
        return None if image is None else {"x": image}


def quantized_onnx(model: Model, directory: Path) -> Path:
    """The QDQ model's file, written once a directory."""
    path = directory / f"{model.name} QDQ.onnx"
    if not path.exists():
        tool: Any = importlib.import_module("onnxruntime.quantization")
        prepared = path.with_suffix(".prepared.onnx")
        tool.quant_pre_process(str(float_onnx(model, directory)), str(prepared), skip_symbolic_shape=True)
        tool.quantize_static(
            str(prepared), str(path), _Images(model), quant_format=tool.QuantFormat.QDQ, per_channel=True,
            reduce_range=True, activation_type=tool.QuantType.QUInt8, weight_type=tool.QuantType.QInt8,
        )  # fmt: skip
        prepared.unlink()
    return path


ALL: tuple[type[NetworkRuntime], ...] = (
    Qnnpack, Fbgemm, OneDnn, OrtQdq, OpenVino, TorchFloat32, TorchOneDnnFloat32, OrtFloat32, OpenVinoFloat32,
)  # fmt: skip
