"""Integers of few bits one after another, for files: no padding but the last byte's, and the same on every machine."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt


def size(count: int, bits: int) -> int:
    """Bytes that `count` integers of `bits` bits take."""
    return -(-count * bits // 8)


def write(integers: npt.NDArray[np.int8], bits: int) -> npt.NDArray[np.uint8]:
    """Weights of `bits` bits (two's complement; at one bit -1 and +1) as bytes, lowest bit first."""
    if bits == 1:
        return np.packbits(integers.reshape(-1) > 0, bitorder="little")
    bytes_ = np.ascontiguousarray(integers).view(np.uint8).reshape(-1, 1)
    return np.packbits(np.unpackbits(bytes_, axis=1, count=bits, bitorder="little"), bitorder="little")


def read(data: npt.NDArray[np.uint8], bits: int, shape: tuple[int, ...]) -> npt.NDArray[np.int8]:
    """What `write` was given: int8 of `shape`. ValueError unless there are as many bytes as it takes."""
    count = math.prod(shape)
    if data.shape != (size(count, bits),):
        raise ValueError(f"{data.size} bytes for {count} integers of {bits} bits, expected {size(count, bits)}")
    planes = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    codes = np.packbits(planes, axis=1, bitorder="little").reshape(shape).astype(np.int16)
    if bits == 1:
        return (2 * codes - 1).astype(np.int8)
    return (codes - ((codes >> (bits - 1)) << bits)).astype(np.int8)
