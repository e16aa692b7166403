"""Constants that are integers with scales: quantized weights and biases, and the weights of a layer made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ulp.nn import graph as ir
from ulp.nn.quantizer import Quantizer

from .model import Array

Doubles = npt.NDArray[np.float64]


class NotInteger(Exception):  # noqa: N818  # a reason, not a mistake
    """Why a node cannot run in integers."""


@dataclass(frozen=True, eq=False)
class QuantizedConstant:
    """(integers - zero) * scale. scale, zero: of as many dimensions as the integers, sides equal or 1; scale holds float32 numbers."""

    integers: Array
    scale: Doubles
    zero: npt.NDArray[np.int64]

    def values(self) -> npt.NDArray[np.float32]:
        """float32, as DequantizeLinear gives them."""
        steps = (self.integers.astype(np.int64) - self.zero).astype(np.float32)
        with np.errstate(over="ignore"):  # to infinity, as in the operator
            return np.asarray(steps * self.scale.astype(np.float32))

    def moved(self, move: Callable[[Array], Array]) -> QuantizedConstant | None:
        """Reshaped or transposed; None where scales differ and do not lie along one side any more."""
        integers = move(self.integers)
        if self.scale.size == self.zero.size == 1:
            ones = (1,) * integers.ndim
            return QuantizedConstant(integers, self.scale.reshape(ones), self.zero.reshape(ones))
        if integers.ndim != self.integers.ndim or sorted(integers.shape) != sorted(self.integers.shape):
            return None
        scale, zero = move(np.broadcast_to(self.scale, self.integers.shape)), move(np.broadcast_to(self.zero, self.integers.shape))
        return QuantizedConstant(integers, _squeezed(scale), _squeezed(zero))

    def per_output(self, axis: int) -> tuple[Doubles, npt.NDArray[np.int64]]:
        """(scale, zero), each (O,), O the side of `axis`. NotInteger where they differ along another side."""
        sides = [self.scale.shape[i] * self.zero.shape[i] for i in range(self.integers.ndim) if i != axis]
        if any(side != 1 for side in sides):
            raise NotInteger("the scale of its weights differs within an output channel")
        size = (self.integers.shape[axis],)
        return np.broadcast_to(self.scale.reshape(-1), size), np.broadcast_to(self.zero.reshape(-1), size)


def _squeezed(x: Array) -> Array:
    """Sides along which nothing differs, as 1."""
    for axis in range(x.ndim):
        first = x[(slice(None),) * axis + (slice(0, 1),)]
        if (x == first).all():
            x = first
    return x


def unpack_blocks(packed: Array, bits: int, count: int) -> npt.NDArray[np.uint8]:
    """uint8 (..., bytes) with several integers each, the lowest bits first -> uint8 (..., count)."""
    if bits == 8:
        return np.asarray(packed[..., :count])
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    parts = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return np.asarray(parts.reshape(*packed.shape[:-1], -1)[..., :count])


def nbits_weights(
    b: Array, scales: Array, zeros: Array | None, outputs: int, features: int, bits: int, block: int
) -> tuple[npt.NDArray[np.uint8], Array, Array]:
    """Of a MatMulNBits: its integers (N, K), and a scale and a zero point of each, (N, blocks). ValueError where sizes do not fit."""
    blocks = -(-features // block)
    if bits not in (2, 4, 8) or b.size != outputs * blocks * (block * bits // 8) or scales.size != outputs * blocks:
        raise ValueError(
            f"B of {b.size} bytes and {scales.size} scales do not fit N={outputs}, K={features}, {bits} bits, blocks of {block}"
        )
    integers = unpack_blocks(b.reshape(outputs, -1), bits, blocks * block)[:, :features]
    if zeros is None:
        points: Array = np.full((outputs, blocks), 2 ** (bits - 1), np.float32)
    elif zeros.dtype == np.uint8:
        row = -(-blocks * bits // 8)
        if zeros.size != outputs * row:
            raise ValueError(f"zero_points of {zeros.size} bytes: expected {outputs * row}")
        points = unpack_blocks(zeros.reshape(outputs, row), bits, blocks)
    else:
        points = zeros.reshape(outputs, blocks)
    return integers, scales.reshape(outputs, blocks), points


def along(axis: int, parameter: Array, ndim: int) -> Array:
    """A scale or zero point of one element or a vector along `axis`, with `ndim` dimensions."""
    if parameter.size == 1:
        return parameter.reshape((1,) * ndim)
    return parameter.reshape(tuple(-1 if i == axis % ndim else 1 for i in range(ndim)))


def layer_weights(q: QuantizedConstant, x: Quantizer, bias: QuantizedConstant | Array | None) -> ir.Weights:
    """The weights (O, ...) of a layer that reads codes of x. NotInteger where they are no 8-bit integers, or their zero points differ."""
    scale, zeros = q.per_output(0)
    shape = (-1,) + (1,) * (q.integers.ndim - 1)
    # Of millions of weights every array counts: none is made where there is nothing to subtract.
    centred = q.integers.astype(np.int32) - zeros.astype(np.int32).reshape(shape) if zeros.any() else q.integers
    zero = 0
    low, high = (int(centred.min()), int(centred.max())) if centred.size else (0, 0)
    if low < -128 or high > 127:
        if (zeros != zeros[0]).any() or low < -255 or high > 255:
            raise NotInteger("its weights, less their zero points, do not fit 8 bits")
        # uint8 with a zero point for all channels.
        zero = -128 - low if low < -128 else 127 - high
        centred = centred.astype(np.int32) + zero
        low, high = low + zero, high + zero
        if low < -128 or high > 127:
            raise NotInteger("its weights, less their zero points, do not fit 8 bits")
    integers = centred.astype(np.int8, copy=False)
    if low == -1 and high == 1 and zero == 0 and bool(integers.all()):
        bits = 1
    else:
        bits = max(2, (high if high > -low - 1 else -low - 1).bit_length() + 1)
    k = math.prod(integers.shape[2:]) * (integers.shape[1] + -integers.shape[1] % 4)
    if k * max(x.zero, x.levels - x.zero) * (2 ** (bits - 1) + abs(zero)) >= 2**31:
        raise NotInteger(f"{k} products of {x.bits} and {bits} bits could overflow int32")
    start, offset = _bias(bias, scale, x, len(integers), integers[:1].size)
    return ir.Weights(integers, bits, scale.astype(np.float64), offset, zero, start)


def _bias(bias: QuantizedConstant | Array | None, scale: Doubles, x: Quantizer, outputs: int, k: int) -> tuple[ir.Indices | None, Doubles]:
    """(integers that are added to the sums, floats that are added to the result)"""
    if bias is None:
        return None, np.zeros(outputs)
    count = bias.integers.size if isinstance(bias, QuantizedConstant) else bias.size
    if count not in (1, outputs):
        raise NotInteger(f"its bias has {count} values for {outputs} outputs")
    if isinstance(bias, QuantizedConstant):
        step, _ = bias.per_output(0) if bias.integers.ndim == 1 else (bias.scale.reshape(-1), None)
        integers = (bias.integers.astype(np.int64) - bias.zero).reshape(-1)
        fits = int(np.abs(integers).max(initial=0)) + k * 255 * 255 < 2**31
        if fits and np.allclose(step, scale * x.scale, rtol=1e-6, atol=0):
            return np.broadcast_to(integers, outputs).astype(np.int32), np.zeros(outputs)
        floats = integers * step
    else:
        floats = bias.astype(np.float64).reshape(-1)
    if not np.isfinite(floats).all():
        raise NotInteger("its bias is not finite")
    return None, np.broadcast_to(floats, outputs).astype(np.float64)
