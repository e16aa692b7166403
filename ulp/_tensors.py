"""Torch tensors on the CPU as numpy arrays, and results as what the caller gave. Torch is not imported for it."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from ._gpu.arrays import on_gpu

_OR_MOVE = 'or move a compiled network to the GPU by its to("cuda")'


def is_tensor(x: object) -> bool:
    """Whether x is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def as_numpy(x: Any, name: str) -> Any:
    """A torch tensor as the array that shares its memory, of bfloat16 as float32; everything else as it is.

    TypeError for a tensor, or another library's array, that is not on the CPU.
    """
    if not is_tensor(x):
        if on_gpu(x):
            raise TypeError(f"{name} is in a GPU's memory: ulp.nn computes on the CPU; copy it there, {_OR_MOVE}")
        return x
    if x.device.type != "cpu":
        raise TypeError(f"{name} is a tensor on {x.device}: ulp.nn computes on the CPU; pass {name}.cpu(), {_OR_MOVE}")
    x = x.detach()
    return (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()


def as_tensor(array: Any) -> Any:
    """The tensor that shares the array's memory. Precondition: torch is imported."""
    return sys.modules["torch"].from_numpy(array)


def like(x: Any, result: Any) -> Any:
    """An array as a tensor where x is one, floats in x's type where that has 16 bits; else as it is."""
    half = result.dtype.kind == "f" and str(getattr(x, "dtype", "")).removeprefix("torch.") in ("float16", "bfloat16")
    if is_tensor(x):
        tensor = as_tensor(result)
        return tensor.to(x.dtype) if half else tensor
    if half and isinstance(x, np.ndarray):
        with np.errstate(over="ignore"):  # to infinity, as computing in float16 would
            return result.astype(x.dtype)
    return result
