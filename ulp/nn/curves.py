"""Activation functions that rise, between sums and their codes: the sums from which on f(x) has a code, instead of a table of f."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from .quantizer import Quantizer, Steps

Function: TypeAlias = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""Of x (C or 1, n): float64, the same shape or with the channels of its parameters; never falling"""

# Finite float32 numbers as integers in the same order: 0 is 0.0.
_LAST_KEY = 0x7F7FFFFF


def _floats(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    values = np.abs(keys).astype(np.uint32).view(np.float32).astype(np.float64)
    return np.asarray(np.where(keys < 0, -values, values))


def through(quantizer: Quantizer, function: Function, low: float, high: float) -> Quantizer:
    """The quantizer of x that gives the codes of clamp(float32(function(x)), low, high), x being float32."""
    bounds, inclusive = quantizer.bounds()
    shape = np.broadcast_shapes(bounds.shape, function(np.zeros((1, 1))).shape)
    bounds, inclusive = np.broadcast_to(bounds, shape), np.broadcast_to(inclusive, shape)

    def reached(keys: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        with np.errstate(all="ignore"):
            y = np.clip(function(_floats(keys)).astype(np.float32).astype(np.float64), low, high)
        return np.asarray((bounds < y) | ((bounds == y) & inclusive))

    never, first = np.full(shape, -_LAST_KEY, np.int64), np.full(shape, _LAST_KEY, np.int64)
    always, unreached = reached(never), ~reached(first)
    while (first - never > 1).any():
        middle = (never + first) // 2
        there = reached(middle)
        first, never = np.where(there, middle, first), np.where(there, never, middle)
    found = np.where(always, -np.inf, np.where(unreached, np.inf, _floats(first)))
    return replace(quantizer, bipolar=False, ties_to_odd=False, steps=Steps(found, np.ones(shape, np.bool_)))
