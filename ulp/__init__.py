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
from importlib import import_module as _import_module
from importlib.util import find_spec as _find_spec
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
from .grouped import GroupedMatrix
from .packed import PackedMatrix, pack

if _TYPE_CHECKING:
    from . import nn, onnx, quantize, torch  # noqa: F401  # not in __all__: a star import would need torch
    from ._bridge.compile import compile  # noqa: A004  # named as torch's
    from ._bridge.export import export
    from ._grouped_files import GroupedLayer, load_grouped
    from .onnx import load

__version__: str = _build_info()["version"]

__all__ = [
    "Candidate",
    "CudaExplanation",
    "CudaPackedMatrix",
    "Explanation",
    "GroupedLayer",
    "GroupedMatrix",
    "Kernel",
    "KernelTable",
    "PackedMatrix",
    "__version__",
    "available_isas",
    "compile",
    "explain",
    "export",
    "gemm",
    "get_isa",
    "get_num_threads",
    "kernels",
    "load",
    "load_grouped",
    "nn",
    "onnx",
    "pack",
    "quantize",
    "set_isa",
    "set_num_threads",
    "show_config",
    "tune",
]

config.configure(_os.environ)
_tune.load(_os.environ)
_threadpoolctl.register()


# Imported when they are first used: they are not needed for matrix products.
_LAZY = ("GroupedLayer", "compile", "export", "load", "load_grouped", "nn", "onnx", "quantize", "torch")


def __getattr__(name: str) -> _Any:
    if name == "load":
        from .onnx import load

        return load
    if name == "compile":
        from ._bridge.compile import compile  # noqa: A004

        return compile
    if name == "export":
        from ._bridge.export import export

        return export
    if name in ("GroupedLayer", "load_grouped"):
        return getattr(_import_module("._grouped_files", __name__), name)
    if name in _LAZY:
        return _import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    # Tools that look at every name would run into the ImportError of ulp.torch where torch is missing.
    missing = () if _find_spec("torch") else ("torch",)
    return sorted({*globals(), *_LAZY} - {*missing, "annotations"})
