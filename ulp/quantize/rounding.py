"""Rounding weights so that a layer's result, not the weights, changes least.

With x what a row w of weights multiplies in the float network, and q what it multiplies in the quantized one, both less their means, the
error of integers n at scale s is E (w x - s n q)^2. Its minimum over reals, w* = w E[x q^T] E[q q^T]^-1, takes up what layers before did
wrong; the integers near w* are found column by column, the error of each spread over those that come later, as in Optimal Brain Compression
(Frantar and Alistarh, NeurIPS 2022) and GPTQ (Frantar et al., ICLR 2023, algorithm 1); then single integers are changed as long as that
lowers the error, and scales are fitted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .moments import Moments
from .weights import limits, rounded, scales_by_error

Doubles = npt.NDArray[np.float64]

_BLOCK = 128
# A share of the mean of H's diagonal that is added to it, for directions of which the data say nothing.
_DAMPING = 0.1
# Operations that the improvement of a layer may take per pass, and how many passes.
_OPERATIONS, _PASSES = 2e10, 3


class Rounding:
    """Rows (g, R, K) of float weights and what they multiply; `at` rounds them to a width. What all widths need is computed once."""

    def __init__(self, rows: Doubles, moments: Moments) -> None:
        self.h = h = moments.second.copy()
        self.work = rows.size * h.shape[-1]
        diagonal = np.einsum("gkk->gk", h)
        diagonal += np.maximum(_DAMPING * diagonal.mean(1, keepdims=True), 1e-12)
        inverse = np.linalg.inv(h)
        inverse = (inverse + np.swapaxes(inverse, 1, 2)) / 2
        self.wanted = rows
        if moments.cross is not moments.second:
            self.wanted = rows + rows @ (moments.cross - moments.second) @ inverse
        # Columns with large second moments first.
        self.order = np.argsort(-np.einsum("gkk->gk", h), axis=1, kind="stable")
        sorted_inverse = np.take_along_axis(np.take_along_axis(inverse, self.order[:, :, None], 1), self.order[:, None], 2)
        self.upper = np.swapaxes(np.linalg.cholesky(sorted_inverse), 1, 2)

    def at(self, bits: int, passes: int = _PASSES) -> tuple[Doubles, Doubles]:
        """Integers (g, R, K) and scales (g, R, 1). passes: of the improvement."""
        h, wanted = self.h, self.wanted
        k = h.shape[-1]
        importance = np.broadcast_to(np.einsum("gkk->gk", h)[:, None], wanted.shape)
        scale = scales_by_error(wanted.reshape(-1, k), bits, importance.reshape(-1, k)).reshape(*wanted.shape[:2], 1)
        integers = self._by_columns(scale, bits)
        if self.work <= _OPERATIONS:
            for _ in range(passes):
                scale = _fitted(integers, scale, wanted, h)
                integers = _improved(integers, scale, wanted, h, bits)
            scale = _fitted(integers, scale, wanted, h)
        return integers, scale

    def _by_columns(self, scale: Doubles, bits: int) -> Doubles:
        """Integers (g, R, K): GPTQ."""
        order, upper = self.order, self.upper
        w = np.take_along_axis(self.wanted, order[:, None], 2)
        integers = np.empty_like(w)
        k = w.shape[2]
        for begin in range(0, k, _BLOCK):
            end = min(k, begin + _BLOCK)
            errors = np.empty((*w.shape[:2], end - begin))
            for i in range(begin, end):
                integers[:, :, i] = rounded(w[:, :, i, None], scale, bits)[..., 0]
                error = (w[:, :, i] - integers[:, :, i] * scale[..., 0]) / upper[:, i, i, None]
                w[:, :, i:end] -= error[..., None] * upper[:, None, i, i:end]
                errors[:, :, i - begin] = error
            w[:, :, end:] -= errors @ upper[:, begin:end, end:]
        result = np.empty_like(integers)
        np.put_along_axis(result, np.broadcast_to(order[:, None], w.shape), integers, 2)
        return result


def _fitted(integers: Doubles, scale: Doubles, wanted: Doubles, h: Doubles) -> Doubles:
    """The scales (g, R, 1) with the smallest error for these integers."""
    curved = integers @ h
    top, bottom = (wanted * curved).sum(2, keepdims=True), (integers * curved).sum(2, keepdims=True)
    with np.errstate(all="ignore"):
        fitted = top / bottom
    return np.where((bottom > 0) & (fitted > 0.25 * scale) & (fitted < 4 * scale), fitted, scale)


def _improved(integers: Doubles, scale: Doubles, wanted: Doubles, h: Doubles, bits: int) -> Doubles:
    """One pass of coordinate descent over the integers."""
    if bits == 1:
        return integers
    integers = integers.copy()
    low, high = limits(bits)
    slope = (wanted - integers * scale) @ h
    for i in range(h.shape[2]):
        old = integers[:, :, i]
        new = np.clip(np.rint(old + slope[:, :, i] / (h[:, i, i, None] * scale[..., 0])), low, high)
        changed = new - old
        if changed.any():
            slope -= (changed * scale[..., 0])[..., None] * h[:, None, i]
            integers[:, :, i] = new
    return integers
