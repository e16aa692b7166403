"""The builds of the GPU bindings that tests can run: the numpy double, the emulated one that `ULP_CUDA_EMULATED` names, a real GPU's."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import cuda_double

from ulp._gpu import native

NO_EMULATOR = (
    "ULP_CUDA_EMULATED does not name the emulated module: cmake -DULP_CUDA_EMULATOR=ON builds tools/cuda_emulator/_cuda_emulated*.so"
)


def builds() -> list[str]:
    """The available ones of "double" and "emulated"."""
    return ["double", "emulated"] if os.environ.get("ULP_CUDA_EMULATED") else ["double"]


def load(build: str) -> Any:
    """One of `builds()`."""
    return cuda_double if build == "double" else load_emulated()


def load_emulated() -> Any:
    """The module that runs the kernels on the CPU, or None if `ULP_CUDA_EMULATED` is not set."""
    path = os.environ.get("ULP_CUDA_EMULATED", "")
    if not path or "_cuda_emulated" in sys.modules:
        return sys.modules.get("_cuda_emulated")
    spec = importlib.util.spec_from_file_location("_cuda_emulated", Path(path).resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def why_no_gpu() -> str:
    """Why tests cannot run on a real GPU; "" if they can."""
    try:
        native.devices()
    except RuntimeError as error:
        return str(error)
    return ""
