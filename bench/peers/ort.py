"""onnxruntime: MatMulInteger with int8 and with uint8 weights, float32 MatMul, and the weight-only MatMulNBits.

One node per session, one thread, no spinning; inputs and outputs are bound to fixed buffers, so that a run neither copies nor allocates.
"""

from __future__ import annotations

import functools
import importlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.subjects import operands

from .base import Peer, requantization_step, requantized

OPSET = 17
IR_VERSION = 9


@functools.cache
def _modules() -> tuple[Any, Any]:
    return importlib.import_module("onnx"), importlib.import_module("onnxruntime")


@dataclass(frozen=True)
class _State:
    """A bound session. `keep` holds the arrays that the binding only points into."""

    session: Any
    binding: Any
    output: Any
    keep: tuple[Any, ...]
    weights: npt.NDArray[Any]


def _bound(
    node: Any, a: npt.NDArray[Any], initializers: dict[str, npt.NDArray[Any]], out: npt.NDArray[Any], weights: npt.NDArray[Any]
) -> _State:
    """A session with the one `node`, its input "a" bound to `a` and its output "y" to a buffer like `out`."""
    onnx, _ = _modules()
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    graph = helper.make_graph(
        [node],
        "benchmark",
        [helper.make_tensor_value_info("a", helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)],
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(out.dtype), out.shape)],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    session = open_session(model.SerializeToString())
    return _State(session, *bind(session, "a", a, "y", out), weights)


def open_session(model: bytes | str, threads: int = 1) -> Any:
    """An InferenceSession on the CPU for a model or the path of one, with this many threads, which do not spin between calls."""
    ort: Any = importlib.import_module("onnxruntime")  # not onnx, whose memory must not count as the runtime's
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def operators(path: Path) -> list[str]:
    """The operators that are left of a model's nodes once the session has fused them."""
    onnx, ort = _modules()
    with tempfile.TemporaryDirectory() as directory:
        optimized = Path(directory) / "optimized.onnx"
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(optimized)
        options.log_severity_level = 3  # it warns that the file suits this machine only
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return [node.op_type for node in onnx.load(str(optimized)).graph.node]


def bind(session: Any, source: str, a: npt.NDArray[Any], target: str, out: npt.NDArray[Any]) -> tuple[Any, Any, tuple[Any, ...]]:
    """A binding of the input `source` to `a` and of the output `target` to a buffer like `out`; the output; what must be kept alive."""
    ort: Any = importlib.import_module("onnxruntime")
    binding = session.io_binding()
    bound, result = ort.OrtValue.ortvalue_from_numpy(a), ort.OrtValue.ortvalue_from_numpy(out)
    binding.bind_ortvalue_input(source, bound)
    binding.bind_ortvalue_output(target, result)
    return binding, result, (a, out, bound)


class _Ort(Peer):
    packages = ("onnxruntime", "onnx")

    def run(self, state: _State) -> object:
        # Without RunOptions: handing over even the default ones costs 60 microseconds per call.
        return state.session.run_with_iobinding(state.binding)

    def result(self, state: _State) -> npt.NDArray[Any]:
        self.run(state)
        return np.array(state.output.numpy(), copy=True)


class OrtU8S8(_Ort):
    """MatMulInteger with int8 weights."""

    name = "onnxruntime u8s8"
    kind = "int8"
    exact = False
    max_activation = 127
    output = "int32"

    def prepare(self, a: operands.U8, b: operands.S8) -> _State:
        onnx, _ = _modules()
        node = onnx.helper.make_node("MatMulInteger", ["a", "b"], ["y"])
        out = np.zeros((a.shape[0], b.shape[1]), dtype=np.int32)
        return _bound(node, np.ascontiguousarray(a), {"b": np.ascontiguousarray(b)}, out, b)


class OrtU8U8(_Ort):
    """MatMulInteger with uint8 weights."""

    name = "onnxruntime u8u8"
    kind = "int8"
    exact = True
    max_activation = 255
    output = "int32"
    note = "weights shifted to uint8 with zero point 128"

    def prepare(self, a: operands.U8, b: operands.S8) -> _State:
        onnx, _ = _modules()
        node = onnx.helper.make_node("MatMulInteger", ["a", "b", "a_zero", "b_zero"], ["y"])
        out = np.zeros((a.shape[0], b.shape[1]), dtype=np.int32)
        shifted = (b.astype(np.int16) + 128).astype(np.uint8)
        constants = {"b": shifted, "a_zero": np.array(0, np.uint8), "b_zero": np.array(128, np.uint8)}
        return _bound(node, np.ascontiguousarray(a), constants, out, b)


class OrtQLinear(_Ort):
    """QLinearMatMul with int8 weights: requantized to uint8 in the same operator."""

    name = "onnxruntime QLinear"
    kind = "int8"
    exact = False
    max_activation = 127
    output = "uint8"

    def prepare(self, a: operands.U8, b: operands.S8) -> _State:
        onnx, _ = _modules()
        step = requantization_step(operands.reference(a, b))
        node = onnx.helper.make_node("QLinearMatMul", ["a", "sa", "za", "b", "sb", "zb", "sy", "zy"], ["y"])
        out = np.zeros((a.shape[0], b.shape[1]), dtype=np.uint8)
        one = np.array(1, np.float32)
        constants: dict[str, npt.NDArray[Any]] = {
            "b": np.ascontiguousarray(b), "sa": one, "sb": one, "sy": np.array(step, np.float32), "za": np.array(0, np.uint8),
            "zb": np.array(0, np.int8), "zy": np.array(operands.ZERO, np.uint8),
        }  # fmt: skip
        return _bound(node, np.ascontiguousarray(a), constants, out, b)

    def expected(self, state: _State, accumulators: operands.I64) -> npt.NDArray[Any]:
        return requantized(accumulators, self.step(state, accumulators))

    def step(self, state: _State, accumulators: operands.I64 | None = None) -> float:
        sums = operands.reference(state.keep[0], state.weights) if accumulators is None else accumulators
        return requantization_step(sums)


class OrtFloat32(_Ort):
    """MatMul."""

    name = "onnxruntime fp32"
    kind = "fp32"
    bits_per_weight = 32
    exact = False
    max_activation = 127
    output = "float32"
    note = "exact while sums stay below 2^24"

    def prepare(self, a: operands.U8, b: operands.S8) -> _State:
        onnx, _ = _modules()
        node = onnx.helper.make_node("MatMul", ["a", "b"], ["y"])
        out = np.zeros((a.shape[0], b.shape[1]), dtype=np.float32)
        return _bound(node, a.astype(np.float32), {"b": b.astype(np.float32)}, out, b)


class _OrtNBits(_Ort):
    """Weights of a few bits stored packed; float32 activations, which the kernel quantizes to int8 itself: not the same product."""

    kind = "info"
    exact = False
    max_activation = 127
    output = "float32"
    note = "weight-only format: quantizes float activations itself, never exact"
    block_size = 128

    def prepare(self, a: operands.U8, b: operands.S8) -> _State:
        onnx, _ = _modules()
        bits, block = self.bits_per_weight, self.block_size
        k, n = b.shape
        if k % block:
            raise ValueError(f"k is {k}; the packed blocks take multiples of {block}")
        top = b.astype(np.int16) >> (8 - bits)  # keep the high bits: the weights of a b-bit model, whatever b was drawn for
        codes = (top + (1 << (bits - 1))).astype(np.uint8).T.reshape(n, k * bits // 8, 8 // bits)
        shifts = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
        packed = np.bitwise_or.reduce(codes << shifts, axis=2).reshape(n, k // block, block * bits // 8)
        scales = np.ones(n * k // block, dtype=np.float32)
        node = onnx.helper.make_node(
            "MatMulNBits", ["a", "b", "s"], ["y"], domain="com.microsoft", K=k, N=n, bits=bits, block_size=block, accuracy_level=4
        )
        out = np.zeros((a.shape[0], n), dtype=np.float32)
        return _bound(node, a.astype(np.float32), {"b": packed, "s": scales}, out, top)

    def expected(self, state: _State, accumulators: operands.I64) -> npt.NDArray[Any]:
        return operands.reference(state.keep[0], state.weights)


class OrtW4(_OrtNBits):
    """MatMulNBits with 4-bit weights."""

    name = "onnxruntime MatMulNBits W4A8"
    bits_per_weight = 4


class OrtW2(_OrtNBits):
    """MatMulNBits with 2-bit weights."""

    name = "onnxruntime MatMulNBits W2A8"
    bits_per_weight = 2
