"""Single convolutions: uint8 NHWC activations in, uint8 NHWC out with ReLU, weights prepared ahead. The same interface for every library.

Steps are powers of two, so the exact answer is known; a peer may round ties differently, hence one level of `ROUNDING`. A larger error
is saturation. The FP32 peers get the same numbers as floats in the layout that suits them best, and apply the ReLU.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from bench.subjects import convolutions, operands
from bench.subjects.convolutions import Convolution
from bench.subjects.interface import Check, Library, compare, counted

from . import openvino, ort, xnnpack
from .torch_quantized import _torch

ROUNDING = 1  # levels of 255
SCALE = 0.5  # of activations and of weights in OpenVINO and QDQ, whose patterns fold away at 1


class ConvPeer(Library):
    """A library that runs one convolution. exact: claims exact results for activations over the full range."""

    exact: ClassVar[bool]

    def weight_bytes(self, layer: Convolution) -> int:
        """Bytes of the weights, without scales."""
        return layer.filters * layer.depth * (4 if self.kind == "fp32" else 1)

    @abstractmethod
    def prepare(self, layer: Convolution, a: operands.U8, w: operands.S8, step: float) -> Any:
        """State for activations (H, W, C) and weights (N, kernel, kernel, C / groups), requantized by `step`."""

    @abstractmethod
    def run(self, state: Any) -> object:
        """One layer in the calling thread. Nothing else may happen here."""

    @abstractmethod
    def result(self, state: Any) -> npt.NDArray[Any]:
        """Run once; uint8 (H', W', N), from a float peer rounded."""

    def precision(self, state: Any) -> str:
        """The kernel that really runs, as the library tells it; "" where it does not."""
        del state
        return ""


def check(peer: ConvPeer, layer: Convolution, a: operands.U8, w: operands.S8, state: Any = None) -> Check:
    """Compare one result with the exact layer, in levels; `state` saves preparing again."""
    sums = convolutions.accumulators(layer, a, w)
    step = convolutions.step(sums)
    if state is None:
        state = peer.prepare(layer, a, w, step)
    return compare(peer.result(state), convolutions.requantized(sums, step), step)


def _oihw(w: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(w.transpose(0, 3, 1, 2))


def _levels(values: npt.NDArray[Any], step: float) -> operands.U8:
    """Floats (1, N, H', W') as uint8 (H', W', N)."""
    out: operands.U8 = np.clip(np.rint(values[0].transpose(1, 2, 0) / step), 0, 255).astype(np.uint8)
    return out


@dataclass(frozen=True)
class _TorchState:
    activations: Any
    packed: Any
    function: Any
    step: float


class _TorchConv(ConvPeer):
    kind = "int8"
    packages = ("torch",)
    engine: str

    def why_unavailable(self) -> str | None:
        if reason := super().why_unavailable():
            return reason
        engines = _torch().backends.quantized.supported_engines
        return None if self.engine in engines else f"this build of torch has no engine {self.engine!r}, only {', '.join(engines)}"

    def prepare(self, layer: Convolution, a: operands.U8, w: operands.S8, step: float) -> _TorchState:
        torch = _torch()
        torch.backends.quantized.engine = self.engine  # read by prepacking only
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns at every quantized tensor that these are deprecated
            image = torch.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1)[None]))
            wrapped = torch._make_per_tensor_quantized_tensor(image, 1.0, 0).contiguous(memory_format=torch.channels_last)
            weights = torch._make_per_tensor_quantized_tensor(torch.from_numpy(_oihw(w)), 1.0, 0)
        prepack = torch.ops.quantized.conv2d_prepack
        packed = prepack(weights, None, [layer.stride] * 2, [layer.padding] * 2, [1, 1], layer.groups)
        return _TorchState(wrapped, packed, torch.ops.quantized.conv2d_relu.new, step)

    def run(self, state: _TorchState) -> object:
        return state.function(state.activations, state.packed, state.step, 0)

    def result(self, state: _TorchState) -> npt.NDArray[Any]:
        out: Any = self.run(state)
        return np.array(out.int_repr().permute(0, 2, 3, 1)[0].numpy(), copy=True)


class Qnnpack(_TorchConv):
    """torch's engine "qnnpack"."""

    name = "QNNPACK"
    engine = "qnnpack"
    exact = True
    note = "its x86 kernels stop at SSE2"


class Fbgemm(_TorchConv):
    """torch's engine "fbgemm"."""

    name = "FBGEMM"
    engine = "fbgemm"
    exact = False


class OneDnn(_TorchConv):
    """torch's engine "onednn"."""

    name = "oneDNN"
    engine = "onednn"
    exact = False


@dataclass(frozen=True)
class _OrtState:
    session: Any
    binding: Any
    output: Any
    keep: tuple[Any, ...]
    step: float


class _OrtConv(ConvPeer):
    packages = ("onnxruntime", "onnx")
    floats = False

    def nodes(self, layer: Convolution, w: operands.S8, step: float) -> tuple[list[Any], dict[str, npt.NDArray[Any]]]:
        """The nodes from "x" to "y" and their constants."""
        raise NotImplementedError

    def prepare(self, layer: Convolution, a: operands.U8, w: operands.S8, step: float) -> _OrtState:
        onnx, _ = ort._modules()
        helper = onnx.helper
        nodes, constants = self.nodes(layer, w, step)
        height, width = layer.out
        if self.floats:
            x, y = np.ascontiguousarray(a.transpose(2, 0, 1)[None], np.float32), np.zeros((1, layer.filters, height, width), np.float32)
        else:
            x, y = np.ascontiguousarray(a[None]), np.zeros((1, height, width, layer.filters), np.uint8)
        infos = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for n, v in (("x", x), ("y", y))]
        tensors = [onnx.numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()]
        graph = helper.make_graph(nodes, "layer", infos[:1], infos[1:], tensors)
        opsets = [helper.make_opsetid("", ort.OPSET), helper.make_opsetid("com.microsoft", 1)]
        session = ort.open_session(helper.make_model(graph, opset_imports=opsets, ir_version=ort.IR_VERSION).SerializeToString())
        return _OrtState(session, *ort.bind(session, "x", x, "y", y), step)

    def run(self, state: _OrtState) -> object:
        return state.session.run_with_iobinding(state.binding)

    def result(self, state: _OrtState) -> npt.NDArray[Any]:
        self.run(state)
        out = np.array(state.output.numpy(), copy=True)
        return _levels(out, state.step) if self.floats else out[0]


def _window(layer: Convolution) -> dict[str, Any]:
    return {
        "kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2, "pads": [layer.padding] * 4, "group": layer.groups,
    }  # fmt: skip


class _OrtQLinear(_OrtConv):
    kind = "int8"
    weight_zero: int

    def nodes(self, layer: Convolution, w: operands.S8, step: float) -> tuple[list[Any], dict[str, npt.NDArray[Any]]]:
        onnx, _ = ort._modules()
        dtype = np.uint8 if self.weight_zero else np.int8
        constants: dict[str, npt.NDArray[Any]] = {
            "sx": np.array(1, np.float32), "zx": np.array(0, np.uint8), "w": (_oihw(w).astype(np.int16) + self.weight_zero).astype(dtype),
            "sw": np.array(1, np.float32), "zw": np.array(self.weight_zero, dtype), "sy": np.array(step, np.float32),
            "zy": np.array(0, np.uint8),
        }  # fmt: skip
        inputs = ["x", "sx", "zx", "w", "sw", "zw", "sy", "zy"]
        node = onnx.helper.make_node("QLinearConv", inputs, ["y"], domain="com.microsoft", channels_last=1, **_window(layer))
        return [node], constants


class OrtU8S8(_OrtQLinear):
    """QLinearConv with int8 weights."""

    name = "onnxruntime u8s8"
    exact = False
    weight_zero = 0


class OrtU8U8(_OrtQLinear):
    """QLinearConv with uint8 weights."""

    name = "onnxruntime u8u8"
    exact = True
    weight_zero = 128
    note = "weights shifted to uint8 with zero point 128"


class OrtQdq(_OrtConv):
    """Dequantize, Conv, Relu, quantize, which the optimiser fuses into one QLinearConv."""

    name = "onnxruntime QDQ"
    kind = "int8"
    exact = False
    note = "NHWC by two Transpose nodes, which the optimiser takes out again"

    def nodes(self, layer: Convolution, w: operands.S8, step: float) -> tuple[list[Any], dict[str, npt.NDArray[Any]]]:
        onnx, _ = ort._modules()
        make = onnx.helper.make_node
        constants: dict[str, npt.NDArray[Any]] = {
            "s": np.array(SCALE, np.float32), "z": np.array(0, np.uint8), "w": _oihw(w), "zw": np.array(0, np.int8),
            "sy": np.array(step * SCALE * SCALE, np.float32),
        }  # fmt: skip
        nodes = [
            make("Transpose", ["x"], ["xt"], perm=[0, 3, 1, 2]),
            make("DequantizeLinear", ["xt", "s", "z"], ["xf"]),
            make("DequantizeLinear", ["w", "s", "zw"], ["wf"]),
            make("Conv", ["xf", "wf"], ["c"], **_window(layer)),
            make("Relu", ["c"], ["r"]),
            make("QuantizeLinear", ["r", "sy", "z"], ["q"]),
            make("Transpose", ["q"], ["y"], perm=[0, 2, 3, 1]),
        ]
        return nodes, constants


class OrtFloat32(_OrtConv):
    """Conv and Relu in float32, NCHW."""

    name = "onnxruntime fp32"
    kind = "fp32"
    exact = False
    floats = True

    def nodes(self, layer: Convolution, w: operands.S8, step: float) -> tuple[list[Any], dict[str, npt.NDArray[Any]]]:
        del step
        onnx, _ = ort._modules()
        nodes = [onnx.helper.make_node("Conv", ["x", "w"], ["c"], **_window(layer)), onnx.helper.make_node("Relu", ["c"], ["y"])]
        return nodes, {"w": _oihw(w).astype(np.float32)}


@dataclass(frozen=True)
class _VinoState:
    compiled: Any
    request: Any
    keep: npt.NDArray[Any]
    step: float


class _VinoConv(ConvPeer):
    packages = ("openvino",)

    def _convolution(self, layer: Convolution, x: Any, weights: Any) -> Any:
        _, ops, _ = openvino._modules()
        window: tuple[Any, ...] = ([layer.stride] * 2, [layer.padding] * 2, [layer.padding] * 2, [1, 1])
        return ops.convolution(x, weights, *window) if layer.groups == 1 else ops.group_convolution(x, weights, *window)

    @staticmethod
    def _filters(layer: Convolution, w: operands.S8) -> npt.NDArray[Any]:
        oihw = _oihw(w)
        return oihw if layer.groups == 1 else oihw.reshape(layer.groups, layer.filters // layer.groups, *oihw.shape[1:])

    def _state(self, result: Any, parameter: Any, x: npt.NDArray[Any], step: float) -> _VinoState:
        ov, _, _ = openvino._modules()
        compiled = openvino.compiled(ov.Model([result], [parameter], "layer"))
        request = compiled.create_infer_request()
        request.set_input_tensor(ov.Tensor(x, shared_memory=True))
        return _VinoState(compiled, request, x, step)

    def run(self, state: _VinoState) -> object:
        return state.request.infer()

    def precision(self, state: _VinoState) -> str:
        return counted(openvino.primitives(state.compiled, "Convolution"))


class OpenVino(_VinoConv):
    """A quantized Convolution."""

    name = "OpenVINO"
    kind = "int8"
    exact = False

    def prepare(self, layer: Convolution, a: operands.U8, w: operands.S8, step: float) -> _VinoState:
        _, ops, _ = openvino._modules()
        zero, top = np.float32(0), np.float32(255)
        parameter = ops.parameter([1, *a.shape], np.uint8)
        image = ops.convert(ops.transpose(parameter, np.array([0, 3, 1, 2])), "f32")
        # Plain scaled integers, which suffice in front of a MatMul, send a Convolution behind a Transpose to float.
        x = ops.fake_quantize(image, zero, top, zero, np.float32(255 * SCALE), 256)
        weights = self._filters(layer, w)
        scales = ops.constant(np.full((*weights.shape[: weights.ndim - 3], 1, 1, 1), SCALE, np.float32))
        weights = ops.multiply(ops.convert(ops.constant(weights), "f32"), scales)
        product = ops.relu(self._convolution(layer, x, weights))
        high = np.float32(255 * step * SCALE * SCALE)
        levels = ops.fake_quantize(product, zero, high, zero, top, 256)
        result = ops.transpose(ops.convert(levels, "u8"), np.array([0, 2, 3, 1]))
        return self._state(result, parameter, np.ascontiguousarray(a[None]), step)

    def result(self, state: _VinoState) -> npt.NDArray[Any]:
        self.run(state)
        return np.array(state.request.get_output_tensor().data[0], copy=True)


class OpenVinoFloat32(_VinoConv):
    """Convolution and ReLU in float32, NCHW."""

    name = "OpenVINO fp32"
    kind = "fp32"
    exact = False

    def prepare(self, layer: Convolution, a: operands.U8, w: operands.S8, step: float) -> _VinoState:
        _, ops, _ = openvino._modules()
        x = np.ascontiguousarray(a.transpose(2, 0, 1)[None], np.float32)
        parameter = ops.parameter(list(x.shape), np.float32)
        weights = ops.constant(self._filters(layer, w).astype(np.float32))
        return self._state(ops.relu(self._convolution(layer, parameter, weights)), parameter, x, step)

    def result(self, state: _VinoState) -> npt.NDArray[Any]:
        self.run(state)
        return _levels(np.array(state.request.get_output_tensor().data, copy=True), state.step)


class TorchFloat32(ConvPeer):
    """torch's conv2d and relu, channels_last: oneDNN on the weights as they are, faster here than frozen with oneDNN's own layout."""

    name = "torch fp32"
    kind = "fp32"
    packages = ("torch",)
    exact = False

    def prepare(self, layer: Convolution, a: operands.U8, w: operands.S8, step: float) -> _TorchState:
        torch = _torch()
        conv = torch.nn.Conv2d(layer.channels, layer.filters, layer.kernel, layer.stride, layer.padding, groups=layer.groups, bias=False)
        conv.weight.data = torch.from_numpy(_oihw(w).astype(np.float32))
        conv.requires_grad_(False)
        image = torch.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1)[None], np.float32))
        module = torch.nn.Sequential(conv, torch.nn.ReLU(inplace=True)).eval().to(memory_format=torch.channels_last)
        return _TorchState(image.contiguous(memory_format=torch.channels_last), None, module, step)

    def run(self, state: _TorchState) -> object:
        return state.function(state.activations)

    def result(self, state: _TorchState) -> npt.NDArray[Any]:
        out: Any = self.run(state)
        return _levels(out.numpy(), state.step)


class Xnnpack(xnnpack.LiteRt, ConvPeer):
    """CONV_2D or DEPTHWISE_CONV_2D with RELU; a PAD in front of strides, whose SAME would pad the other side."""

    name = "XNNPACK"
    kind = "int8"
    exact = True
    note = "LiteRT, int8 in and out"

    def prepare(self, layer: Convolution, a: operands.U8, w: operands.S8, step: float) -> xnnpack.State:
        schema = xnnpack.schema_module()
        model = xnnpack.Model()
        same = layer.stride == 1
        source = x = model.tensor((1, *a.shape), "INT8", [1.0], xnnpack.ZERO)
        if not same and layer.padding:
            edges = np.array([[0, 0], [layer.padding] * 2, [layer.padding] * 2, [0, 0]], np.int32)
            sides = model.tensor(edges.shape, "INT32", [], 0, edges)
            x = model.tensor((1, *(side + 2 * layer.padding for side in a.shape[:2]), a.shape[2]), "INT8", [1.0], xnnpack.ZERO)
            model.operator("PAD", [source, sides], x, 2, schema.PadOptionsT(), "PadOptions")
        taps = w[..., 0].transpose(1, 2, 0)[None] if layer.depthwise else w
        weights = model.tensor(taps.shape, "INT8", [1.0] * layer.filters, 0, taps, 3 if layer.depthwise else 0)
        bias = model.tensor((layer.filters,), "INT32", [1.0] * layer.filters, 0, np.zeros(layer.filters, np.int32))
        y = model.tensor((1, *layer.out, layer.filters), "INT8", [step], xnnpack.ZERO)
        kind = "DepthwiseConv2DOptions" if layer.depthwise else "Conv2DOptions"
        options = getattr(schema, kind + "T")(
            padding=schema.Padding.SAME if same else schema.Padding.VALID, strideW=layer.stride, strideH=layer.stride,
            fusedActivationFunction=schema.ActivationFunctionType.RELU,
        )  # fmt: skip
        if layer.depthwise:
            options.depthMultiplier = 1
        model.operator("DEPTHWISE_CONV_2D" if layer.depthwise else "CONV_2D", [x, weights, bias], y, 3, options, kind)
        return xnnpack.opened(model.bytes(source, y), xnnpack.signed(a)[None], step)

    def run(self, state: xnnpack.State) -> object:
        return state.invoke()

    def result(self, state: xnnpack.State) -> npt.NDArray[Any]:
        state.invoke()
        codes: operands.U8 = (state.output()[0].astype(np.int16) + 128).astype(np.uint8)
        return codes


ALL: tuple[type[ConvPeer], ...] = (
    Qnnpack, Fbgemm, OneDnn, OrtU8S8, OrtU8U8, OrtQdq, OpenVino, Xnnpack, TorchFloat32, OrtFloat32, OpenVinoFloat32,
)  # fmt: skip
