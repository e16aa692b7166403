"""QNNPACK, FBGEMM and oneDNN as torch's quantized linear layer runs them: quint8 in, packed qint8 weights, quint8 out.

The activations are wrapped into a quantized tensor ahead of time: a torch user has them in one already. The output is requantized to 8 bits
inside the kernel, which is less to write than int32, so the figures are kind to the peers. Its step is a power of two, so that the
expected output is known exactly. torch's engine "x86" is FBGEMM on cores without VNNI and oneDNN on others, so it is not a separate peer.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.subjects import operands

from .base import Peer, requantization_step, requantized

ZERO = 128


@functools.cache
def _torch() -> Any:
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)  # saves 2 microseconds per call, as in inference
    return torch


@dataclass(frozen=True)
class _State:
    activations: Any
    packed: Any
    linear: Any
    step: float


class _TorchQuantized(Peer):
    kind = "int8"
    output = "uint8"
    packages = ("torch",)
    engine: str

    def why_unavailable(self) -> str | None:
        if reason := super().why_unavailable():
            return reason
        engines = _torch().backends.quantized.supported_engines
        return None if self.engine in engines else f"this build of torch has no engine {self.engine!r}, only {', '.join(engines)}"

    def prepare(self, a: operands.U8, b: operands.S8) -> _State:
        torch = _torch()
        step = requantization_step(operands.reference(a, b))
        # The engine is a global that only prepacking reads; the packed weights remember theirs.
        torch.backends.quantized.engine = self.engine
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns at every quantized tensor that these are deprecated
            wrapped = torch._make_per_tensor_quantized_tensor(torch.from_numpy(np.ascontiguousarray(a)), 1.0, 0)
            transposed = torch._make_per_tensor_quantized_tensor(torch.from_numpy(np.ascontiguousarray(b.T)), 1.0, 0)
        packed = torch.ops.quantized.linear_prepack(transposed, None)
        return _State(wrapped, packed, torch.ops.quantized.linear.default, step)

    def run(self, state: _State) -> object:
        return state.linear(state.activations, state.packed, state.step, ZERO)

    def result(self, state: _State) -> npt.NDArray[Any]:
        out: npt.NDArray[Any] = state.linear(state.activations, state.packed, state.step, ZERO).int_repr().numpy()
        return out

    def expected(self, state: _State, accumulators: operands.I64) -> npt.NDArray[Any]:
        return requantized(accumulators, state.step, ZERO)

    def step(self, state: _State) -> float:
        return state.step


class Qnnpack(_TorchQuantized):
    """The engine "qnnpack"."""

    name = "QNNPACK"
    engine = "qnnpack"
    exact = True
    max_activation = 255
    note = "its x86 kernels stop at SSE2"


class Fbgemm(_TorchQuantized):
    """The engine "fbgemm"."""

    name = "FBGEMM"
    engine = "fbgemm"
    exact = False
    max_activation = 127


class OneDnn(_TorchQuantized):
    """The engine "onednn"."""

    name = "oneDNN"
    engine = "onednn"
    exact = False
    max_activation = 127
