"""Float models in ONNX, and what onnxruntime's quantizer makes of them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import quantization
from reference import Array


class Writer:
    """A float model of one input x (N, C, H, W), written layer by layer with random weights."""

    def __init__(self, shape: tuple[int, ...], seed: int = 0, opset: int = 21) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = shape
        self.opset = opset
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, array: Array) -> str:
        """An initialiser."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def add(self, op_type: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """A node; the name of its result."""
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=f"{op_type}_{len(self.nodes)}", domain=domain, **attributes))
        return name

    def weights(self, *shape: int) -> str:
        """Normal weights that keep the size of activations."""
        return self.constant((self.rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32))

    def conv(self, x: str, inputs: int, outputs: int, kernel: int = 3, *, group: int = 1, stride: int = 1) -> str:
        """Conv with bias that keeps the size of images, if stride is 1."""
        w = self.weights(outputs, inputs // group, kernel, kernel)
        bias = self.constant((self.rng.standard_normal(outputs) / 4).astype(np.float32))
        return self.add("Conv", x, w, bias, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4, group=group, strides=[stride] * 2)

    def model(self, output: str, *, inputs: Any = None, outputs: Any = None) -> Any:
        """The ModelProto; by default from float x to float `output`, any batch."""
        inputs = inputs or [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.shape])]
        outputs = outputs or [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "g", inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("onnx.brevitas", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def small_network(seed: int = 0) -> Any:
    """Convolutions (plain, strided, depthwise, grouped), a residual sum, both poolings, concatenation and a linear layer."""
    w = Writer((3, 16, 16), seed)
    a = w.add("Relu", w.conv("x", 3, 16))
    b = w.add("Relu", w.conv(a, 16, 16))
    c = w.add("Relu", w.add("Add", w.conv(b, 16, 16), a))
    d = w.add("MaxPool", c, kernel_shape=[2, 2], strides=[2, 2])
    e = w.add("Relu", w.conv(d, 16, 16, group=16))
    f = w.add("Relu", w.conv(e, 16, 24, 1))
    g = w.add("Relu", w.conv(d, 16, 8, group=4))
    h = w.add("Relu", w.conv(w.add("Concat", f, g, axis=1), 32, 32, stride=2))
    flat = w.add("Flatten", w.add("GlobalAveragePool", h))
    return w.model(w.add("Gemm", flat, w.weights(10, 32), w.constant(w.rng.standard_normal(10).astype(np.float32)), transB=1))


def chain(seed: int = 0) -> Any:
    """Convolutions, largest values and a linear layer: what onnxruntime computes exactly but for one rounding a layer."""
    w = Writer((3, 12, 12), seed)
    a = w.add("Relu", w.conv("x", 3, 16))
    b = w.add("Relu", w.conv(a, 16, 24, stride=2))
    c = w.add("MaxPool", w.conv(b, 24, 24), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    d = w.conv(w.add("Relu", w.conv(c, 24, 24, group=24)), 24, 32, 1)
    flat = w.add("Flatten", d)
    return w.model(w.add("Gemm", flat, w.weights(10, 32 * 9), w.constant(w.rng.standard_normal(10).astype(np.float32)), transB=1))


def precise_session(model: bytes | str) -> Any:
    """onnxruntime's session on one thread, without the kernels that saturate on CPUs without VNNI, where it has others."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception:  # it has no such kernels for int8 activations, whose own do not saturate, and not for all of its fused operators
        options.add_session_config_entry("session.x64quantprecision", "0")
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


class _Batches(quantization.CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, x: Array) -> None:
        self.batches = iter([{"x": x}])

    def get_next(self) -> dict[str, Array] | None:
        return next(self.batches, None)


def quantized(model: Any, x: Array, **options: Any) -> Any:
    """What onnxruntime's static quantization makes of a float model, calibrated with x."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantization.quantize_static(source, target, _Batches(x), **options)
        return onnx.load(target)
