"""Single-precision products: numpy (its bundled OpenBLAS) and torch (MKL). Both operands are float32 ahead of time."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.subjects import operands

from .base import Peer
from .torch_quantized import _torch


@dataclass(frozen=True)
class _State:
    a: Any
    b: Any
    out: Any
    function: Any


class _Float32(Peer):
    kind = "fp32"
    bits_per_weight = 32
    exact = False
    max_activation = 127
    output = "float32"
    note = "exact while sums stay below 2^24"

    def run(self, state: _State) -> object:
        return state.function(state.a, state.b, out=state.out)


class NumpyFloat32(_Float32):
    """numpy.matmul."""

    name = "numpy fp32"
    packages = ("numpy",)

    def prepare(self, a: operands.U8, b: operands.S8) -> _State:
        return _State(a.astype(np.float32), b.astype(np.float32), np.zeros((a.shape[0], b.shape[1]), dtype=np.float32), np.matmul)

    def result(self, state: _State) -> npt.NDArray[Any]:
        self.run(state)
        return np.array(state.out, copy=True)

    def version(self) -> str:
        """numpy's version and the BLAS that it calls."""
        config: Any = importlib.import_module("numpy").show_config(mode="dicts")
        blas = config.get("Build Dependencies", {}).get("blas", {})
        return f"{np.__version__} ({blas.get('name', 'unknown BLAS')} {blas.get('version', '')})"


class TorchFloat32(_Float32):
    """torch.mm."""

    name = "torch fp32"
    packages = ("torch",)

    def prepare(self, a: operands.U8, b: operands.S8) -> _State:
        torch = _torch()
        left, right = torch.from_numpy(a.astype(np.float32)), torch.from_numpy(b.astype(np.float32))
        return _State(left, right, torch.zeros((a.shape[0], b.shape[1]), dtype=torch.float32), torch.mm)

    def result(self, state: _State) -> npt.NDArray[Any]:
        self.run(state)
        return np.array(state.out.numpy(), copy=True)
