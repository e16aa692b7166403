"""QONNX's operators: floats on the grid of a quantizer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ulp.onnx.model import OnnxError

from .registry import Array, Attribute, Call, integer, number, operator, string


def check_scale(scale: Array, name: str) -> None:
    """OnnxError unless all scales are finite and above 0: QONNX's."""
    wrong = ~(np.isfinite(scale) & (scale > 0))
    if wrong.any():
        raise OnnxError(f"{name} holds {scale[wrong][0]}: expected finite scales above 0")


def _away(rounded: Callable[[Array], Array]) -> Callable[[Array], Array]:
    return lambda x: np.sign(x) * rounded(np.abs(x))


def _dpu(x: Array) -> Array:
    """As AMD's DPU rounds: halves to even where positive, up where negative."""
    return np.where((x < 0) & (x - np.floor(x) == 0.5), np.ceil(x), np.rint(x))


_ROUNDING: dict[str, Callable[[Array], Array]] = {
    "ROUND": np.rint,
    "HALF_EVEN": np.rint,
    "CEIL": np.ceil,
    "FLOOR": np.floor,
    "UP": _away(np.ceil),
    "DOWN": np.trunc,
    "HALF_UP": _away(lambda x: np.floor(x + 0.5)),
    "HALF_DOWN": _away(lambda x: np.ceil(x - 0.5)),
    # Brevitas has these two besides QONNX's.
    "ROUND_TO_ZERO": np.trunc,
    "DPU": _dpu,
}


def rounding(mode: str) -> Callable[[Array], Array]:
    """QONNX's rounding modes, by name."""
    if mode.upper() not in _ROUNDING:
        raise OnnxError(f"rounding_mode={mode!r:.60}: expected one of {', '.join(_ROUNDING)}")
    return _ROUNDING[mode.upper()]


def clamp_bounds(bits: float, signed: bool, narrow: bool) -> tuple[float, float]:
    """The interval of codes. OnnxError for a width that codes do not have."""
    if not 1 <= bits <= 32:
        raise OnnxError(f"a bit width of {bits}: expected 1 to 32")
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0.0, 2**bits - 1)
    if narrow:
        low, high = (low + 1, high) if signed else (low, high - 1)
    return low, high


def _clamped(call: Call, steps: Array, bits: Array) -> Array:
    """Clamped (in place) to the interval of `bits`, signed and narrow, then rounded: the order of QONNX."""
    low, high = clamp_bounds(float(bits.reshape(())), call["signed"], call["narrow"])
    np.clip(steps, low, high, out=steps)
    function = rounding(call["rounding_mode"])
    return np.rint(steps, out=steps) if function is np.rint else function(steps)


def _parameters(x: Array, *parameters: Array) -> tuple[Array, ...]:
    """Parameters in x's type: some writers have them as integers or as float64."""
    return tuple(parameter.astype(x.dtype, copy=False) for parameter in parameters)


_QONNX: dict[str, Attribute] = {"signed": integer(1), "narrow": integer(1), "rounding_mode": Attribute("string", "ROUND")}


@operator("Quant", "x:float scale:parameter zero_point:parameter2 bit_width:parameter3", _QONNX)
def quant(call: Call, x: Array, scale: Array, zero: Array, bits: Array) -> Array:
    """(q - zero_point) * scale, q = round(clamp(x / scale + zero_point)) being an integer of bit_width bits; of one signed: -1 or +1."""
    steps = quant_steps(call, x, scale, zero, bits)
    return np.asarray(np.multiply(steps, scale.astype(x.dtype, copy=False), out=steps))


def quant_steps(call: Call, x: Array, scale: Array, zero: Array, bits: Array) -> Array:
    """q - zero_point of a `Quant`, in x's type."""
    scale, zero = _parameters(x, scale, zero)
    check_scale(scale, "scale")
    if np.broadcast_shapes(x.shape, scale.shape, zero.shape) != x.shape:
        raise OnnxError(f"scale of shape {list(scale.shape)} and zero_point of {list(zero.shape)} do not broadcast to x of {list(x.shape)}")
    steps = np.asarray(x / scale)
    if zero.any():
        steps += zero
    if call["signed"] and float(bits.reshape(())) == 1:
        codes = np.where(steps >= 0, x.dtype.type(1), x.dtype.type(-1))
    else:
        codes = _clamped(call, steps, bits)
    return np.asarray(codes - zero if zero.any() else codes)


@operator("BipolarQuant", "x:float scale:parameter")
def bipolar_quant(_: Call, x: Array, scale: Array) -> Array:
    """scale where x >= 0, else -scale."""
    (scale,) = _parameters(x, scale)
    check_scale(scale, "scale")
    if np.broadcast_shapes(x.shape, scale.shape) != x.shape:
        raise OnnxError(f"scale of shape {list(scale.shape)} does not broadcast to x of {list(x.shape)}")
    return np.where(x >= 0, scale, -scale)


@operator(
    "MultiThreshold",
    "x:float thresholds:float2",
    out_dtype=Attribute("string", ""),
    out_scale=number(1.0),
    out_bias=number(0.0),
    data_layout=string("", "NCHW", "NHWC", "NC", "NCW", "NWC"),
)
def multi_threshold(call: Call, x: Array, thresholds: Array) -> Array:
    """How many thresholds of its channel each x reaches, times out_scale, plus out_bias. thresholds: (channels, steps) or (1, steps)."""
    axis = x.ndim - 1 if (call["data_layout"] or ("NWC" if x.ndim == 3 else "")) in ("NHWC", "NWC") else 1
    channels = x.shape[axis] if x.ndim > axis else 1
    if thresholds.ndim != 2 or len(thresholds) not in (1, channels):
        raise OnnxError(f"thresholds of shape {list(thresholds.shape)}: expected [{channels}, steps] or [1, steps]")
    ordered = np.sort(thresholds, axis=1)  # what is NaN comes last, and nothing reaches it
    counts = np.empty(x.shape, np.float32)
    rows = [(x, counts)] if len(ordered) == 1 else list(zip(np.moveaxis(x, axis, 0), np.moveaxis(counts, axis, 0), strict=True))
    for row, (values, found) in zip(ordered, rows, strict=True):
        found[...] = np.where(np.isnan(values), 0, np.searchsorted(row, values, side="right"))
    return np.asarray(counts * np.float32(call["out_scale"]) + np.float32(call["out_bias"])).astype(x.dtype, copy=False)


@operator(
    "Trunc",
    "x:float scale:parameter zero_point:parameter2 in_bit_width:parameter3 out_scale_or_width:parameter4 out_bit_width:parameter5?",
    signed=integer(1),
    narrow=integer(0),
    rounding_mode=Attribute("string", "FLOOR"),
)
def trunc(call: Call, x: Array, scale: Array, zero: Array, in_bits: Array, fifth: Array, out_bits: Array | None = None) -> Array:
    """Drop the low bits of what x / scale counts.

    With five inputs (QONNX's first definition) the fifth is the width that remains, and the result keeps the scale; with six (the second)
    it is the result's scale, a power of two times the first, and codes are clamped to the width.
    """
    scale, zero, fifth = _parameters(x, scale, zero, fifth)
    check_scale(scale, "scale")
    steps = np.rint(x / scale + zero)
    if out_bits is None:
        dropped = float(in_bits.reshape(())) - float(fifth.reshape(()))
        if not 0 <= dropped <= 32:
            raise OnnxError(f"{dropped} bits are dropped: expected 0 to 32")
        return ((rounding(call["rounding_mode"])(steps / x.dtype.type(2**dropped)) - zero) * scale).astype(x.dtype, copy=False)
    check_scale(fifth, "out_scale")
    ratio = np.exp2(np.rint(np.log2(fifth / scale)))
    return ((_clamped(call, steps / ratio, out_bits) - zero / ratio) * fifth).astype(x.dtype, copy=False)
