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

from .moments import Moments, in_blocks, out_of_blocks
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
        self.groups, _, self.columns = rows.shape
        self.wanted = in_blocks(rows).copy()
        self.h = h = moments.second.copy()
        self.work = rows.size * h.shape[-1]
        self.order = np.empty(h.shape[:2], np.intp)
        self.upper = np.empty_like(h)
        sizes = self._sizes(np.einsum("gkk->gk", h).mean(1))
        for i, size in enumerate(sizes):
            if not self._factored(i, moments, size):
                # Nothing varies: the weights count alike, and those nearest to the float ones are best.
                h[i], self.upper[i], self.order[i] = np.eye(h.shape[1]), np.eye(h.shape[1]), np.arange(h.shape[1])

    def _sizes(self, means: Doubles) -> Doubles:
        """By block, the mean of the second moments of its group: the blocks of a group keep their share."""
        blocks = len(means) // self.groups
        return np.repeat(means.reshape(self.groups, blocks).mean(1), blocks)

    def _factored(self, i: int, moments: Moments, size: float) -> bool:
        """Whether block i has second moments by which to round; then what that takes is there. size: the mean of their diagonal."""
        if not (np.isfinite(size) and size > 0 and np.isfinite(moments.second[i]).all()):
            return False
        h, k = self.h[i], self.h.shape[1]
        h /= size
        h[np.diag_indices(k)] += _DAMPING
        try:
            inverse = np.linalg.inv(h)
            inverse = (inverse + inverse.T) / 2
            wanted = self.wanted[i]
            if moments.cross is not moments.second:
                wanted = wanted + (wanted @ (moments.cross[i] - moments.second[i]) / size) @ inverse
            order = np.argsort(-h.diagonal(), kind="stable")  # columns with large second moments first
            self.upper[i] = np.linalg.cholesky(inverse[np.ix_(order, order)]).T
        except np.linalg.LinAlgError:
            return False
        if not np.isfinite(wanted).all():
            return False
        self.wanted[i], self.order[i] = wanted, order
        return True

    def at(self, bits: int, passes: int = _PASSES) -> tuple[Doubles, Doubles]:
        """Integers (g, R, K) and scales (g, R, 1). passes: of the improvement."""
        h, groups, k = self.h, self.groups, self.columns
        wanted = out_of_blocks(self.wanted, groups, k)
        importance = np.broadcast_to(out_of_blocks(np.einsum("gkk->gk", h)[:, None], groups, k), wanted.shape)
        found = scales_by_error(wanted.reshape(-1, k), bits, importance.reshape(-1, k)).reshape(groups, -1, 1)
        scale = np.repeat(found, len(h) // groups, 0)  # the same for the blocks of a row
        integers = self._by_columns(scale, bits)
        if self.work <= _OPERATIONS:
            for _ in range(passes):
                scale = self._fitted(integers, scale)
                integers = _improved(integers, scale, self.wanted, h, bits)
            scale = self._fitted(integers, scale)
        return out_of_blocks(integers, groups, k), scale[:: len(h) // groups]

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
        return np.asarray(in_blocks(out_of_blocks(result, self.groups, self.columns)))  # 0 in columns that fill a block up

    def _fitted(self, integers: Doubles, scale: Doubles) -> Doubles:
        """The scales (g B, R, 1) with the smallest error for these integers, the same for the blocks of a row."""
        curved, blocks = integers @ self.h, len(self.h) // self.groups
        top, bottom = (
            np.repeat((x * curved).sum(2, keepdims=True).reshape(self.groups, blocks, -1, 1).sum(1), blocks, 0)
            for x in (self.wanted, integers)
        )
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
    for begin in range(0, h.shape[2], _BLOCK):
        # Slopes of a block's columns fit a cache; those of the others are needed behind it only.
        block = slice(begin, min(begin + _BLOCK, h.shape[2]))
        before, inner = integers[:, :, block].copy(), np.ascontiguousarray(h[:, block, block])
        own = np.ascontiguousarray(slope[:, :, block])
        for i in range(inner.shape[2]):
            old = integers[:, :, begin + i]
            new = np.minimum(np.maximum(np.rint(old + own[:, :, i] / (inner[:, i, i, None] * scale[..., 0])), low), high)
            changed = new - old
            if changed.any():
                own -= (changed * scale[..., 0])[..., None] * inner[:, None, i]
                integers[:, :, begin + i] = new
        slope -= ((integers[:, :, block] - before) * scale) @ h[:, block]
    return integers
