"""A stand-in for the module `ulp._cuda`: the same functions (ulp/_cuda.pyi) in numpy, with host memory as device memory.

It keeps the tests of the Python side running everywhere. What the kernels compute is tested with the kernels themselves.
"""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

KERNELS = ["wgmma_128x64", "mma_s8_64x64", "mma_s4_64x64"]
MEMORY = 2**30


class OutOfRange(ValueError):  # noqa: N818  # as in the native module
    pass


calls: list[dict[str, Any]] = []
"""The arguments of every `gemm`."""


class Weights:
    def __init__(self, values: npt.NDArray[Any], bits: int, device: int) -> None:
        (self.k, self.n), self.bits, self.device = values.shape, bits, device
        self.values = np.array(values)
        self.signed = values.dtype == np.int8
        self.nbytes = -(-self.k // 128) * 128 * -(-self.n // 16) * 16 * bits // 8

    @staticmethod
    def from_host(b: npt.NDArray[Any], bits: int, device: int) -> Weights:
        if _outside(b, bits) >= 0:
            raise OutOfRange(-1)
        return Weights(b, bits, device)

    @staticmethod
    def from_device(
        pointer: int,
        k: int,
        n: int,
        stride_k: int,
        stride_n: int,
        signed: bool,
        bits: int,
        device: int,
        stream: int,  # noqa: ARG004  # of the native signature
    ) -> Weights:
        assert stride_k >= 0
        assert stride_n >= 0
        b = _at(pointer, (k, n), (stride_k, stride_n), np.int8 if signed else np.uint8)
        if (index := _outside(b, bits)) >= 0:
            raise OutOfRange(index)
        return Weights(b, bits, device)

    def unpack(self) -> npt.NDArray[Any]:
        return np.array(self.values)


class Buffer:
    def __init__(self, nbytes: int, device: int) -> None:
        if nbytes > MEMORY:
            raise MemoryError(f"allocating {nbytes} bytes on the device: out of memory")
        self.bytes = np.full(nbytes + 256, 0xA5, dtype=np.uint8)
        self.nbytes, self.device = nbytes, device
        self.pointer = -(-self.bytes.ctypes.data // 256) * 256

    @staticmethod
    def from_numpy(array: npt.NDArray[Any], device: int) -> Buffer:
        buffer = Buffer(array.nbytes, device)
        _at(buffer.pointer, array.shape, None, array.dtype)[...] = array
        return buffer


@dataclass(frozen=True, kw_only=True)
class Activations:
    pointer: int
    m: int
    row_stride: int
    bits: int
    signed: bool
    zero: int = 0

    def values(self, k: int) -> npt.NDArray[Any]:
        return _at(self.pointer, (self.m, k), (self.row_stride, 1), np.int8 if self.signed else np.uint8)


@dataclass(frozen=True, kw_only=True)
class Epilogue:
    kind: str = "int32"
    scale: float = 1.0
    scales: int = 0
    bias: int = 0
    float_bias: int = 0
    relu: bool = False
    out_bits: int = 8
    out_signed: bool = False
    out_zero: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        if self.kind == "quantized":
            return np.dtype(np.int8 if self.out_signed else np.uint8)
        return np.dtype(self.kind)

    def finish(self, sums: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        if self.kind == "int32":
            return sums
        n = (sums.shape[1],)
        if self.bias:
            sums = sums + _at(self.bias, n, None, np.int32)
        y = sums.astype(np.float32) * (_at(self.scales, n, None, np.float32) if self.scales else np.float32(self.scale))
        if self.kind == "float32":
            if self.float_bias:
                y = y + _at(self.float_bias, n, None, np.float32)
            floats: npt.NDArray[Any] = np.maximum(y, 0) if self.relu else y
            return floats
        bits, zero = self.out_bits, self.out_zero
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if self.out_signed else (0, 2**bits - 1)
        codes: npt.NDArray[Any] = np.rint(np.clip(y, (max(low, zero) if self.relu else low) - zero, high - zero)) + zero
        return codes


def build_info() -> dict[str, str]:
    return {"cuda": "13.0", "architectures": "90a", "kernels": ", ".join(KERNELS)}


def devices() -> list[dict[str, Any]]:
    return [{"name": f"Double {i}", "arch": 90, "sms": 132, "memory": MEMORY} for i in range(2)]


def current_device() -> int:
    return 0


def kernels() -> list[str]:
    return list(KERNELS)


def pick(
    m: int,
    n: int,
    k: int,
    a_bits: int,
    a_signed: bool,
    b_bits: int,
    arch: int,
    sms: int,
    aligned: bool,
    kernel: str | None = None,
    *,
    b_signed: bool = True,
    b_zero_point: bool = False,
) -> dict[str, Any]:
    if kernel is not None and kernel not in KERNELS:
        raise ValueError(f"kernel={kernel!r} is not a kernel for CUDA: known are {', '.join(KERNELS)}")
    if kernel == "mma_s4_64x64":
        raise ValueError(f"kernel={kernel!r} cannot run on sm_{arch}: sm_90 and later have no 4-bit tensor cores")
    name = kernel or KERNELS[0 if aligned else 1]
    size = -(-m * 4 // 256) * 256 if b_zero_point or not b_signed else 0
    return {
        "kernel": name,
        "tile": (64, 128, 128),
        "grid": (1, 1, 1),
        "splits": 1,
        "shared_bytes": 65536,
        "workspace_bytes": size,
        "clocks": 1000.0,
        "text": f"{name} for M={m} N={n} K={k} on sm_{arch}",
    }


def check(a: Activations, k: int, device: int, stream: int) -> int:
    return _outside(a.values(k), a.bits)


def workspace(a: Activations, weights: Weights, *, b_zero_point: bool = False, kernel: str | None = None) -> int:
    choice = pick(
        a.m,
        weights.n,
        weights.k,
        a.bits,
        a.signed,
        weights.bits,
        90,
        132,
        a.pointer % 16 == 0 and a.row_stride % 16 == 0,
        kernel,
        b_signed=weights.signed,
        b_zero_point=b_zero_point,
    )
    return int(choice["workspace_bytes"])


def gemm(
    a: Activations,
    weights: Weights,
    epilogue: Epilogue,
    *,
    b_zero: int = 0,
    b_zeros: int = 0,
    out: int,
    out_stride: int,
    workspace: int = 0,
    workspace_bytes: int = 0,
    stream: int = 0,
    kernel: str | None = None,
) -> None:
    calls.append(dict(locals()))
    m, n, k = a.m, weights.n, weights.k
    assert m <= 1 or a.row_stride >= k
    assert m <= 1 or out_stride >= n
    assert workspace % 256 == 0
    assert workspace_bytes >= globals()["workspace"](a, weights, b_zero_point=bool(b_zero or b_zeros), kernel=kernel)
    if workspace_bytes:
        _at(workspace, (workspace_bytes,), None, np.uint8)[...] = 0x5A
    zeros = _at(b_zeros, (n,), None, np.int32) if b_zeros else np.full(n, b_zero)
    sums = (a.values(k).astype(np.int64) - a.zero) @ (weights.values.astype(np.int64) - zeros)
    _at(out, (m, n), (out_stride * epilogue.dtype.itemsize, epilogue.dtype.itemsize), epilogue.dtype)[...] = epilogue.finish(sums)


def to_numpy(pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any], device: int, stream: int) -> npt.NDArray[Any]:
    return np.array(_at(pointer, shape, None, dtype))


def _outside(array: npt.NDArray[Any], bits: int) -> int:
    """The index of the first value outside its interval, in C order, or -1."""
    signed = array.dtype == np.int8
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    wrong = (np.abs(array) != 1) if signed and bits == 1 else (array < low) | (array > high)
    return int(np.argmax(wrong)) if wrong.any() else -1


def _at(pointer: int, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: Any) -> npt.NDArray[Any]:
    """The array that lies at an address; strides in bytes."""
    kind = np.dtype(dtype)
    if math.prod(shape) == 0:
        return np.empty(shape, kind)
    steps = strides or tuple(kind.itemsize * math.prod(shape[i + 1 :]) for i in range(len(shape)))
    size = sum((length - 1) * step for length, step in zip(shape, steps, strict=True)) + kind.itemsize
    memory = np.frombuffer((ctypes.c_uint8 * size).from_address(pointer), dtype=np.uint8)
    first: npt.NDArray[Any] = memory[: kind.itemsize].view(kind)
    lying: npt.NDArray[Any] = np.lib.stride_tricks.as_strided(first, shape, steps)
    return lying
