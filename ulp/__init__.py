"""Exact matrix multiplication of 1- to 8-bit integers.

>>> import numpy as np, ulp
>>> a = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)
>>> w = ulp.pack(np.array([[-1, 2], [0, 1], [3, -4]], dtype=np.int8), bits=3)
>>> ulp.gemm(a, w)
array([[  8,  -8],
       [ 14, -11]], dtype=int32)
"""

from __future__ import annotations

import os as _os
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from . import _threadpoolctl, _tune, config
from ._core import build_info as _build_info
from ._explain import Candidate, Explanation, Kernel, KernelTable, explain, kernels
from ._gemm import gemm
from ._gpu.explain import CudaExplanation
from ._gpu.packed import CudaPackedMatrix
from ._tune import tune
from .config import available_isas, get_isa, get_num_threads, set_isa, set_num_threads, show_config
from .packed import PackedMatrix, pack

if _TYPE_CHECKING:
    from . import nn, onnx
    from .onnx import load

__version__: str = _build_info()["version"]

__all__ = [
    "Candidate",
    "CudaExplanation",
    "CudaPackedMatrix",
    "Explanation",
    "Kernel",
    "KernelTable",
    "PackedMatrix",
    "__version__",
    "available_isas",
    "explain",
    "gemm",
    "get_isa",
    "get_num_threads",
    "kernels",
    "load",
    "nn",
    "onnx",
    "pack",
    "set_isa",
    "set_num_threads",
    "show_config",
    "tune",
]

config.configure(_os.environ)
_tune.load(_os.environ)
_threadpoolctl.register()


def __getattr__(name: str) -> _Any:
    # Who multiplies matrices only does not wait for the layers and for what reads models.
    if name in ("nn", "onnx"):
        import importlib

        return importlib.import_module(f".{name}", __name__)
    if name == "load":
        from .onnx import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
