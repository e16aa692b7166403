"""FloatQuant, by QONNX and Brevitas: floats rounded to a float type of a few bits."""

from __future__ import annotations

import math

import numpy as np

from ulp.onnx.model import OnnxError

from .qonnx import check_scale, rounding
from .registry import Array, Attribute, Call, integer, operator

_FLAGS = {
    "has_inf": integer(0),
    "has_nan": integer(0),
    "has_subnormal": integer(0),  # no part of the operator's arithmetic
    "signed": integer(1),
    "saturation": integer(1),
    "rounding_mode": Attribute("string", "ROUND"),
}


def _number(array: Array, name: str) -> float:
    """The one value of a parameter."""
    if array.size != 1:
        raise OnnxError(f"{name} of shape {list(array.shape)}: expected one number")
    return float(array.reshape(-1)[0])


def float_limit(exponent: float, mantissa: float, bias: float, max_val: float) -> float:
    """The largest number of the type. OnnxError for parameters that no type has."""
    bounds = {
        "exponent_bitwidth": (exponent, 1, 8),
        "mantissa_bitwidth": (mantissa, 0, 24),
        "exponent_bias": (bias, -256, 256),
        "max_val": (max_val, 0, math.inf),
    }
    for name, (value, low, high) in bounds.items():
        if not low <= value <= high:
            raise OnnxError(f"{name}={value:g}: expected one number from {low:g} to {high:g}")
    largest: float = (2 - 2**-mantissa) * 2.0 ** (2**exponent - 1 - bias)
    return min(max_val, largest)


@operator(
    "FloatQuant",
    "x:float scale:parameter exponent_bitwidth:parameter2 mantissa_bitwidth:parameter3 exponent_bias:parameter4? max_val:parameter5?",
    _FLAGS,
)
def float_quant(
    call: Call,
    x: Array,
    scale: Array,
    exponent_bits: Array,
    mantissa_bits: Array,
    exponent_bias: Array | None = None,
    max_val: Array | None = None,
) -> Array:
    """The nearest multiple of 2^(e - m) to x / scale, e its exponent (but not below that of the smallest normal number), times scale.

    What is beyond the largest number becomes that, or without saturation infinity, or if there is none, NaN.
    """
    scale = scale.astype(x.dtype, copy=False)
    check_scale(scale, "scale")
    if np.broadcast_shapes(x.shape, scale.shape) != x.shape:
        raise OnnxError(f"scale of shape {list(scale.shape)} does not broadcast to x of {list(x.shape)}")
    exponent, mantissa = _number(exponent_bits, "exponent_bitwidth"), _number(mantissa_bits, "mantissa_bitwidth")
    bias = 2 ** (exponent - 1) - 1 if exponent_bias is None else _number(exponent_bias, "exponent_bias")
    high = float_limit(exponent, mantissa, bias, math.inf if max_val is None else _number(max_val, "max_val"))
    scaled = x / scale
    steps = np.exp2(np.maximum(np.floor(np.log2(np.abs(scaled) + np.finfo(x.dtype).tiny)) - mantissa, 1 - bias - mantissa))
    rounded = steps * rounding(call["rounding_mode"])(scaled / steps)
    clipped = np.clip(rounded, -high, high)
    if not call["saturation"]:
        if not (call["has_inf"] or call["has_nan"]):
            raise OnnxError("saturation=0, but there is neither infinity nor NaN for what is too large: expected has_inf=1 or has_nan=1")
        beyond = np.abs(rounded) > high
        clipped = np.where(beyond, np.copysign(np.inf, rounded) if call["has_inf"] else np.nan, clipped)
    return np.asarray(clipped * scale, x.dtype)
