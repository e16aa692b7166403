"""OpenVINO's CPU plugin on a quantized MatMul: u8 activations, s8 weights, requantized to u8 so that it multiplies in int8.

With a float output the plugin computes the same graph in float. The scales must not be 1, or the pattern that it recognises folds away.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.subjects import operands

from .base import Peer, requantization_step, requantized

SCALE = 0.5  # of either operand
ZERO = 128


@functools.cache
def _modules() -> tuple[Any, Any, Any]:
    ov = importlib.import_module("openvino")
    return ov, importlib.import_module("openvino.opset13"), ov.Core()


def compiled(model: Any, threads: int = 1) -> Any:
    """A model, or the path of one, compiled for the CPU with this many threads. Without the precision hint it may choose bfloat16."""
    _, _, core = _modules()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
    }
    return core.compile_model(model, "CPU", settings)


@dataclass(frozen=True)
class _State:
    request: Any
    keep: tuple[Any, ...]
    step: float


class OpenVino(Peer):
    """One compiled MatMul with constant weights, synchronous inference."""

    name = "OpenVINO"
    kind = "int8"
    exact = False
    max_activation = 127
    output = "uint8"
    packages = ("openvino",)

    def prepare(self, a: operands.U8, b: operands.S8) -> _State:
        ov, ops, _ = _modules()
        step = requantization_step(operands.reference(a, b))
        activations = np.ascontiguousarray(a)
        parameter = ops.parameter(list(a.shape), np.uint8)
        scale = np.float32(SCALE)
        left = ops.multiply(ops.convert(parameter, "f32"), ops.constant(scale))
        right = ops.multiply(ops.convert(ops.constant(np.ascontiguousarray(b.T)), "f32"), ops.constant(scale))
        product = ops.matmul(left, right, False, True)
        level = step * SCALE * SCALE
        low, high = np.float32(-ZERO * level), np.float32((255 - ZERO) * level)
        quantized = ops.convert(ops.fake_quantize(product, low, high, np.float32(0), np.float32(255), 256), "u8")
        request = compiled(ov.Model([quantized], [parameter], "benchmark")).create_infer_request()
        request.set_input_tensor(ov.Tensor(activations, shared_memory=True))
        return _State(request, (activations,), step)

    def run(self, state: _State) -> object:
        return state.request.infer()

    def result(self, state: _State) -> npt.NDArray[Any]:
        state.request.infer()
        return np.array(state.request.get_output_tensor().data, copy=True)

    def expected(self, state: _State, accumulators: operands.I64) -> npt.NDArray[Any]:
        return requantized(accumulators, state.step, ZERO)

    def step(self, state: _State) -> float:
        return state.step


def primitives(model: Any, *layer_types: str) -> list[str]:
    """The primitive that really runs for each layer of these types, as in "jit_avx2_I8"."""
    infos = [node.get_rt_info() for node in model.get_runtime_model().get_ordered_ops()]
    return [info["primitiveType"].astype(str) for info in infos if info["layerType"].astype(str) in layer_types]
