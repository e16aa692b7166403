"""From floats to codes: the quantizer of a tensor of activations, the ranges it is made from, and the quantization of weights.

Activations are unsigned codes u of `bits` bits with one scale and one zero point per tensor:

    u = clamp(rint(x * (1 / scale)) + zero, 0, 2^bits - 1),     u represents (u - zero) * scale

in float32 throughout, 1 / scale rounded first, halves to even. Weights are two's complement (at one bit -1 and +1) with one scale per
channel or one for all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ulp._validate import bit_width, integer, interval

FloatArray = npt.NDArray[np.float32]
WeightMethod = Literal["mse", "minmax"]
WeightRange = Literal["full", "narrow"]

# A scale and its inverse are normal float32 numbers.
_SMALLEST_SCALE = 2.0**-126
_LARGEST_SCALE = 2.0**126
_ZERO = np.float32(0)
_ONE = np.float32(1)


def positive_scale(value: object, name: str) -> float:
    """`value` rounded to float32, as a float. ValueError unless it and its inverse are positive normal float32 numbers."""
    if isinstance(value, (str, bytes)):
        raise TypeError(f"{name}={value!r}: expected a number, not {type(value).__name__}")
    with np.errstate(over="ignore"):  # infinity is refused below
        scale = float(np.float32(value))  # type: ignore[arg-type]  # numpy's TypeError says what does not convert
    if not _SMALLEST_SCALE <= scale <= _LARGEST_SCALE:
        raise ValueError(f"{name}={value!r}: expected a positive float32 number from 2^-126 to 2^126")
    return scale


@dataclass(frozen=True, slots=True, eq=False)
class Steps:
    """Where codes step, in place of rint: the code of x in channel c is how many of bounds[c] it reaches.

    bounds: float64 (C, 2^bits - 1), ascending, infinite where nothing or everything reaches them; (1, ...): the same for all channels.
    inclusive: bool of that shape, whether a value equal to the bound reaches it.
    """

    bounds: npt.NDArray[np.float64]
    inclusive: npt.NDArray[np.bool_]

    def count(self, x: FloatArray) -> FloatArray:
        """The codes of x of any shape, or, where bounds differ by channel, (C, n) or (1, n)."""
        first = np.where(self.inclusive, self.bounds, np.nextafter(self.bounds, np.inf))
        wide = x.astype(np.float64)
        if len(first) == 1:
            return np.searchsorted(first[0], wide, side="right").astype(np.float32)
        if x.ndim != 2 or len(x) not in (1, len(first)):
            raise ValueError(f"x has shape {x.shape}: the bounds are those of {len(first)} channels")
        rows = np.broadcast_to(wide, (len(first), x.shape[1]))
        return np.stack([np.searchsorted(row, values, side="right") for row, values in zip(first, rows, strict=True)]).astype(np.float32)

    def part(self, channel: int, channels: int) -> Steps:
        """Those of some channels."""
        part = slice(channel, channel + channels)
        return self if len(self.bounds) == 1 else Steps(self.bounds[part], self.inclusive[part])

    def reached(self, x: float) -> npt.NDArray[np.bool_]:
        """Which of the bounds one value reaches."""
        return np.asarray((self.bounds < x) | ((self.bounds == x) & self.inclusive))


@dataclass(frozen=True, slots=True)
class Quantizer:
    """Codes of `bits` bits (1..8) with a float32 `scale` > 0 and the code `zero` (0..2^bits - 1) that represents 0.0.

    bipolar: for binary networks, 2 bits with the zero 1: x >= 0 becomes the code 2 (`scale`), any other x the code 0 (-scale); the code 1
        is used by padding only.
    ties_to_odd: x * (1 / scale) halfway between two integers is rounded to the odd one. So QONNX and Brevitas round where their zero point
        is odd: rint(x / scale + zero).
    steps: other bounds than those of rint, for sums of layers: other roundings, multi-thresholds, activation functions that rise.
    """

    bits: int
    scale: float
    zero: int = 0
    bipolar: bool = False
    ties_to_odd: bool = field(default=False, repr=False)
    steps: Steps | None = field(default=None, repr=False)
    _terms: tuple[np.float32, np.float32, np.float32, np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        set_field = object.__setattr__  # the dataclass is frozen
        set_field(self, "bits", bit_width(self.bits, "bits"))
        set_field(self, "scale", positive_scale(self.scale, "scale"))
        set_field(self, "zero", integer(self.zero, "zero", 0, 2**self.bits - 1, "a code"))
        if self.bipolar and (self.bits, self.zero) != (2, 1):
            raise ValueError(f"bits={self.bits}, zero={self.zero}: a bipolar quantizer has 2 bits and the zero 1")
        if self.steps is not None and self.steps.bounds.shape[1:] != (self.levels,):
            raise ValueError(f"steps with {self.steps.bounds.shape[1:]} bounds per channel: {self.bits} bits have {self.levels}")
        scale = np.float32(self.scale)
        set_field(self, "_terms", (np.float32(1) / scale, np.float32(self.zero), np.float32(self.levels), scale))

    @property
    def levels(self) -> int:
        """The largest code, 2^bits - 1."""
        return int(2**self.bits - 1)

    @property
    def of_sums(self) -> bool:
        """Whether codes are made by thresholds on sums of layers, and by nothing else."""
        return self.bipolar or self.steps is not None

    def by_rint(self) -> Quantizer:
        """The same codes for the same values, decided by rint."""
        return replace(self, bipolar=False, ties_to_odd=False, steps=None)

    def bounds(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """(bounds, inclusive), as `Steps` has them: the values from which on the codes 1, 2, ... are given."""
        if self.steps is not None:
            return self.steps.bounds, self.steps.inclusive
        if self.bipolar:  # 0.0 reaches codes 1 and 2, nothing reaches 3
            return np.array([[0.0, 0.0, np.inf]]), np.ones((1, 3), np.bool_)
        steps = np.arange(1, self.levels + 1) - self.zero  # rint(x / scale) must be at least this
        even = (steps % 2 == 0) != self.ties_to_odd  # then a tie rounds up to it
        return ((steps - 0.5) * np.float64(self.scale))[None], even[None]  # exact: 10 bits times 24

    def _steps(self, x: FloatArray) -> FloatArray:
        if self.bipolar:
            return np.asarray(np.where(x >= 0, np.float32(2), _ZERO))
        if self.steps is not None:
            return self.steps.count(x)
        inverse, zero, levels, _ = self._terms
        with np.errstate(over="ignore"):  # what leaves float32 is clamped
            steps: FloatArray = np.asarray(np.multiply(x, inverse))  # of a scalar, numpy makes no array
        # In place, and without np.clip: half the time of a small array.
        if self.ties_to_odd:
            np.add(steps, _ONE, out=steps)
            np.rint(steps, out=steps)
            np.subtract(steps, _ONE, out=steps)
        else:
            np.rint(steps, out=steps)
        np.add(steps, zero, out=steps)
        np.maximum(steps, _ZERO, out=steps)
        np.minimum(steps, levels, out=steps)
        return steps

    def codes(self, x: FloatArray) -> npt.NDArray[np.uint8]:
        """The codes of finite float32 values of any shape."""
        return self._steps(x).astype(np.uint8)

    def code(self, x: float) -> int:
        """The code of one value, which may be infinite."""
        if math.isinf(x):
            return self.levels if x > 0 else 0
        return int(self.codes(np.array([x], np.float32))[0])

    def values(self, codes: npt.NDArray[np.uint8]) -> FloatArray:
        """The float32 values that codes represent."""
        steps: FloatArray = (codes.astype(np.int16) - np.int16(self.zero)).astype(np.float32)
        return np.asarray(steps * np.float32(self.scale))

    def round_trip(self, x: FloatArray) -> FloatArray:
        """Finite float32 values rounded to the grid: values(codes(x))."""
        _, zero, _, scale = self._terms
        steps = self._steps(x)
        np.subtract(steps, zero, out=steps)
        np.multiply(steps, scale, out=steps)
        return steps

    def effective_clamp(self, low: float, high: float) -> tuple[float, float]:
        """The bounds of clamp(x, low, high) that change a code; the others become infinite.

        A ReLU in front of unsigned codes changes none: they begin at 0.
        """
        if self.steps is not None:
            finite = np.isfinite(self.steps.bounds)
            low_counts, high_counts = bool((self.steps.reached(low) & finite).any()), bool((~self.steps.reached(high) & finite).any())
            return (low if low_counts else -math.inf), (high if high_counts else math.inf)
        return (low if self.code(low) > 0 else -math.inf), (high if self.code(high) < self.levels else math.inf)


def from_range(low: float, high: float, bits: int, signed: bool | None, asymmetric: bool) -> Quantizer:
    """The quantizer that just covers low..high; 0.0 is always covered.

    signed: False: codes from 0.0 up; True (of 2 bits or more): zero = 2^(bits - 1), as in two's complement; None: signed if low < 0 and
        bits > 1.
    asymmetric: any zero point, as the range requires; `signed` is ignored.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    levels = 2**bits - 1
    if asymmetric:
        scale = _safe_scale((high - low) / levels)
        return Quantizer(bits, scale, min(levels, round(-low / scale)))
    if signed is None:
        signed = low < 0 and bits > 1
    if signed:
        zero = 2 ** (bits - 1)
        return Quantizer(bits, _safe_scale(max(-low / zero, high / (levels - zero))), zero)
    return Quantizer(bits, _safe_scale(high / levels))


def _safe_scale(scale: float) -> float:
    # A tensor of zeros has no scale; any scale is right.
    return float(np.float32(scale)) if scale >= _SMALLEST_SCALE else 1.0


@dataclass(frozen=True, slots=True)
class WeightOptions:
    """How floats become weights of `bits` bits.

    per_channel: one scale per output channel, or one for all.
    method: "mse" finds the scale with the smallest squared error; "minmax" covers the largest weight.
    range: "full" uses -2^(bits-1) .. 2^(bits-1) - 1, "narrow" leaves the lowest value out, so that the interval is symmetric.
    One bit is -1 or +1 times mean |w| (Rastegari et al., XNOR-Net, 2016, section 3.1), whatever method and range say.
    """

    bits: int
    per_channel: bool = True
    method: WeightMethod = "mse"
    range: WeightRange = "full"

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", bit_width(self.bits, "bits"))
        if self.method not in ("mse", "minmax"):
            raise ValueError(f"weight_method={self.method!r}: expected 'mse' or 'minmax'")
        if self.range not in ("full", "narrow"):
            raise ValueError(f"weight_range={self.range!r}: expected 'full' or 'narrow'")

    @property
    def interval(self) -> tuple[int, int]:
        """Smallest and largest weight."""
        low, high = interval(self.bits, signed=True)
        return (-high if self.range == "narrow" and self.bits > 1 else low), high


def quantize_weight(weight: FloatArray, options: WeightOptions) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Integers of weight's shape (O, ...) and float32 scales (O,), so that integer * scale is near the finite weight."""
    channels = weight.shape[0]
    rows = weight.reshape(channels, -1) if options.per_channel else weight.reshape(1, -1)
    if rows.shape[1] == 0:
        return np.zeros(weight.shape, np.int8), np.ones(channels, np.float32)
    integers = np.empty(rows.shape, np.int8)
    scales = np.empty(len(rows), np.float32)
    block = max(1, 2**18 // rows.shape[1])  # so many rows that their copies stay in the cache
    for i in range(0, len(rows), block):
        part = rows[i : i + block]
        scales[i : i + block] = _scales(part, options)
        integers[i : i + block] = to_integers(part, scales[i : i + block], options)
    if not options.per_channel:
        scales = np.repeat(scales, channels)
    return integers.reshape(weight.shape), scales


def to_integers(rows: FloatArray, scales: FloatArray, options: WeightOptions) -> npt.NDArray[np.int8]:
    """(O, K) floats at scales (O,) -> the nearest integers."""
    if options.bits == 1:
        return np.asarray(np.where(rows >= 0, np.int8(1), np.int8(-1)))
    low, high = options.interval
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        steps = np.rint(rows / scales[:, None])
    # A channel with a scale of zero is zero.
    if not scales.all():
        steps = np.nan_to_num(steps, posinf=0.0, neginf=0.0)
    return np.asarray(np.clip(steps, low, high).astype(np.int8))


def _scales(rows: FloatArray, options: WeightOptions) -> FloatArray:
    if options.bits == 1:
        return np.asarray(np.abs(rows).mean(axis=1, dtype=np.float64).astype(np.float32))
    low, high = options.interval
    reach = np.maximum(rows.max(axis=1) / high, rows.min(axis=1) / low).astype(np.float64)
    reach = np.asarray(np.where(reach >= _SMALLEST_SCALE, reach, 1.0))
    if options.method == "minmax":
        return np.asarray(reach.astype(np.float32))
    return _by_squared_error(rows, reach, low, high)


def _by_squared_error(rows: FloatArray, reach: npt.NDArray[np.float64], low: int, high: int) -> FloatArray:
    """The scale of each row with the smallest sum of (w - scale * integer)^2.

    A grid search over shares of `reach` gives the start. Then two steps alternate, neither of which raises the error: the best scale for
    fixed integers, <w, q> / <q, q>, and the best integers for a fixed scale.
    """
    rows = (rows / reach[:, None]).astype(np.float32)  # no square leaves float32
    best = np.ones(len(rows))
    min_error = np.full(len(rows), np.inf)

    def attempt(scales: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        q = np.clip(np.rint(rows / scales[:, None].astype(np.float32)), low, high)
        error = np.square(rows - q * scales[:, None].astype(np.float32)).sum(axis=1, dtype=np.float64)
        better = error < min_error
        min_error[better] = error[better]
        best[better] = scales[better]
        across = (rows * q).sum(axis=1, dtype=np.float64)
        square = np.square(q).sum(axis=1, dtype=np.float64)
        return np.where((square > 0) & (across > 0), across / np.maximum(square, 1), scales)

    # At 8 bits the best scale is close to the largest weight's, at 2 bits often at less than half of it.
    smallest = 0.25 if high < 8 else 0.6
    for share in np.linspace(smallest, 1.0, 16):
        attempt(np.full(len(rows), share))
    for _ in range(3):
        attempt(attempt(best))
    return np.asarray((best * reach).astype(np.float32))


def as_float32(x: Any, name: str) -> FloatArray:
    """A contiguous float32 copy of real numbers, an array or a tensor on any device.

    TypeError for complex numbers, text and other objects, ValueError where a value is not finite.
    """
    if hasattr(x, "detach"):
        if x.is_complex():
            raise TypeError(f"{name} has dtype {x.dtype}: expected real numbers")
        x = x.detach().cpu().float().numpy()
    given = np.asarray(x)
    if given.dtype.kind in "cSUMm":
        raise TypeError(f"{name} has dtype {given.dtype}: expected real numbers")
    with np.errstate(over="ignore"):  # infinity is refused below
        array = np.array(given, dtype=np.float32, order="C")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds a NaN or an infinity")
    return array
