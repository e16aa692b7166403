"""Operators that work element by element: arithmetic, comparison, activation functions, casts."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp.onnx.model import OnnxError

from .registry import Array, Call, integer, number, operator, string

_Unary = Callable[[Array], Array]
_Binary = Callable[[Array, Array], Array]


def _allow_broadcast(call: Call, *arrays: Array) -> None:
    """OnnxError where shapes do not broadcast, or to more than a tensor may hold."""
    call.allow(np.broadcast_shapes(*(array.shape for array in arrays)), max((array.dtype for array in arrays), key=lambda t: t.itemsize))


def _unary(name: str, word: str, function: _Unary) -> None:
    @operator(name, f"X:{word}")
    def apply(_: Call, x: Array) -> Array:
        return function(x).astype(x.dtype, copy=False)


def _binary(name: str, word: str, function: _Binary) -> None:
    @operator(name, f"A:{word} B:{word}")
    def apply(call: Call, a: Array, b: Array) -> Array:
        _allow_broadcast(call, a, b)
        return function(a, b)


def _variadic(name: str, word: str, function: _Binary) -> None:
    @operator(name, f"data:{word}*")
    def apply(call: Call, *arrays: Array) -> Array:
        _allow_broadcast(call, *arrays)
        return reduce(function, arrays)


def _divide(a: Array, b: Array) -> Array:
    """Integers towards zero, as C does."""
    if a.dtype.kind == "f":
        return np.divide(a, b)
    quotient = np.floor_divide(a, b)
    inexact = (quotient * b != a) & ((a < 0) != (b < 0)) & (b != 0)
    return np.asarray((quotient + inexact).astype(a.dtype))


_erf = np.frompyfunc(math.erf, 1, 1)

# So many elements become objects of Python at a time.
_OBJECTS = 2**16


def erf(x: Array) -> Array:
    """The error function."""
    flat = x.reshape(-1)
    result = np.empty(flat.shape, x.dtype)
    for i in range(0, flat.size, _OBJECTS):
        result[i : i + _OBJECTS] = _erf(flat[i : i + _OBJECTS])
    return result.reshape(x.shape)


def _sigmoid(x: Array) -> Array:
    # exp of a number of 0 or less cannot overflow.
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, small) / (1 + small))


def softplus(x: Array) -> Array:
    """log(1 + exp(x)), without overflow."""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


for _name, _word, _function in (
    ("Abs", "number", np.abs),
    ("Neg", "signed", np.negative),
    ("Reciprocal", "float", np.reciprocal),
    ("Exp", "float", np.exp),
    ("Log", "float", np.log),
    ("Sqrt", "float", np.sqrt),
    ("Floor", "float", np.floor),
    ("Ceil", "float", np.ceil),
    ("Tanh", "float", np.tanh),
    ("Erf", "number", erf),
    ("Relu", "signed", lambda x: np.maximum(x, x.dtype.type(0))),
    ("Sigmoid", "float", _sigmoid),
    ("Softplus", "float", softplus),
    ("Softsign", "float", lambda x: x / (1 + np.abs(x))),
    ("HardSwish", "float", lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    ("Mish", "float", lambda x: x * np.tanh(softplus(x))),
):
    _unary(_name, _word, _function)

for _name, _word, _operation in (
    ("Add", "number", np.add),
    ("Sub", "number", np.subtract),
    ("Mul", "number", np.multiply),
    ("Div", "number", _divide),
    ("Equal", "any", np.equal),
    ("Greater", "number", np.greater),
    ("Less", "number", np.less),
):
    _binary(_name, _word, _operation)

_variadic("Max", "number", np.maximum)
_variadic("Min", "number", np.minimum)
_variadic("Sum", "float", np.add)


@operator("Pow", "X:number Y:number2")
def power(call: Call, x: Array, y: Array) -> Array:
    """The exponent may have another type; the result has the base's."""
    _allow_broadcast(call, x, y)
    if x.dtype.kind != "f" and y.dtype.kind != "f":
        # A negative power of an integer is a fraction, which integers truncate.
        return np.power(x, np.maximum(y, 0), dtype=np.int64, casting="unsafe").astype(x.dtype) * (y >= 0)
    return np.power(x, y, dtype=np.result_type(x, y)).astype(x.dtype)


@operator("PRelu", "X:signed slope:signed")
def prelu(call: Call, x: Array, slope: Array) -> Array:
    """The slope broadcasts to X, never the other way."""
    if np.broadcast_shapes(x.shape, slope.shape) != x.shape:
        raise OnnxError(f"a slope of shape {list(slope.shape)} does not broadcast to X of {list(x.shape)}")
    call.allow(x.shape, x.dtype)
    return np.where(x < 0, x * slope, x)


@operator("LeakyRelu", "X:float", alpha=number(0.01))
def leaky_relu(call: Call, x: Array) -> Array:
    """X where positive, else alpha * X."""
    return np.where(x < 0, x * x.dtype.type(call["alpha"]), x)


def _exponential(x: Array, scale: float, negative: float) -> Array:
    """scale * X where positive, else scale * negative * (exp(X) - 1)."""
    return np.where(x > 0, x * scale, np.expm1(np.minimum(x, 0)) * (scale * negative)).astype(x.dtype)


@operator("Elu", "X:float", alpha=number(1.0))
def elu(call: Call, x: Array) -> Array:
    """X where positive, else alpha * (exp(X) - 1)."""
    return _exponential(x, 1.0, call["alpha"])


@operator("Celu", "X:float", since=12, alpha=number(1.0))
def celu(call: Call, x: Array) -> Array:
    """X where positive, else alpha * (exp(X / alpha) - 1)."""
    alpha = x.dtype.type(call["alpha"])
    return (np.maximum(x, 0) + _exponential(np.minimum(x, 0) / alpha, 1.0, call["alpha"])).astype(x.dtype)


@operator("Selu", "X:float", alpha=number(1.67326319217681884765625), gamma=number(1.05070102214813232421875))
def selu(call: Call, x: Array) -> Array:
    """gamma * Elu(X)."""
    return _exponential(x, call["gamma"], call["alpha"])


@operator("HardSigmoid", "X:float", alpha=number(0.2), beta=number(0.5))
def hard_sigmoid(call: Call, x: Array) -> Array:
    """clip(alpha * X + beta, 0, 1)."""
    return np.asarray(np.clip(x * x.dtype.type(call["alpha"]) + x.dtype.type(call["beta"]), 0, 1)).astype(x.dtype, copy=False)


@operator("Gelu", "X:float", since=20, approximate=string("none", "tanh"))
def gelu(call: Call, x: Array) -> Array:
    """X times the normal distribution function at X, or its approximation by tanh."""
    by_tanh = call["approximate"] == "tanh"
    inner = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)) if by_tanh else erf(x / math.sqrt(2))
    return np.asarray((0.5 * x * (1 + inner)).astype(x.dtype))


@operator("Clip", "X:float", min=number(), max=number())
def clip_by_attributes(call: Call, x: Array) -> Array:
    """Until opset 10 the bounds are attributes."""
    low, high = (None if bound is None else np.asarray(bound, x.dtype) for bound in (call["min"], call["max"]))
    return _clip(x, low, high)


@operator("Clip", "X:number min:number? max:number?", since=11)
def clip(_: Call, x: Array, low: Array | None = None, high: Array | None = None) -> Array:
    """min(max(X, min), max); max wins where min is larger."""
    for name, bound in (("min", low), ("max", high)):
        if bound is not None and bound.size != 1:
            raise OnnxError(f"{name} has shape {list(bound.shape)}: expected a scalar")
    return _clip(x, low, high)


def _clip(x: Array, low: Array | None, high: Array | None) -> Array:
    if low is not None and high is not None and x.dtype.kind in "iu":  # in one pass; of floats it might give the other of two zeros
        return np.clip(x, low.reshape(()), high.reshape(()))
    if low is not None:
        x = np.maximum(x, low.reshape(()))
    if high is not None:
        x = np.minimum(x, high.reshape(()))
    return x


@operator("Where", "condition:bool X:any Y:any", since=9)
def where(call: Call, condition: Array, x: Array, y: Array) -> Array:
    """X where the condition holds, else Y."""
    _allow_broadcast(call, condition, x, y)
    return np.where(condition, x, y)


@operator("Dropout", "X:float", outputs=2, ratio=number(0.5))
def dropout_by_attribute(call: Call, x: Array) -> Array | tuple[Array, Array]:
    """At inference nothing is dropped."""
    return _kept(call, x)


def _kept(call: Call, x: Array) -> Array | tuple[Array, Array]:
    """X, and for a second output the mask, true everywhere."""
    return x if call.outputs == 1 else (x, np.ones(x.shape, bool))


@operator("Dropout", "X:float ratio:float2? training_mode:bool?", since=12, outputs=2, seed=integer())
def dropout(call: Call, x: Array, ratio: Array | None = None, training: Array | None = None) -> Array | tuple[Array, Array]:
    """At inference nothing is dropped."""
    if training is not None and training.any() and (ratio is None or ratio.any()):
        raise OnnxError("training_mode is on: ulp runs inference only; export the model in eval mode")
    return _kept(call, x)


_FLOAT16, _BFLOAT16 = 10, 16
_CAST_TYPES: dict[int, npt.DTypeLike] = {
    1: np.float32,
    2: np.uint8,
    3: np.int8,
    4: np.uint16,
    5: np.int16,
    6: np.int32,
    7: np.int64,
    9: np.bool_,
    10: np.float16,
    11: np.float64,
    12: np.uint32,
    13: np.uint64,
}


def cast_type(number: int) -> np.dtype[Any]:
    """The dtype of a TensorProto.DataType that arrays can have."""
    if number not in _CAST_TYPES:
        known = ", ".join(f"{n} ({np.dtype(t)})" for n, t in _CAST_TYPES.items())
        raise OnnxError(f"to={number}: no type that ulp computes in; it has {known}")
    return np.dtype(_CAST_TYPES[number])


@operator("Cast", "X:any", to=integer(required=True), saturate=integer(1), round_mode=string("up"), through=integer(0))
def cast(call: Call, x: Array) -> Array:
    """To another type, as C does; saturate and round_mode only matter to types of 8 bits and less that are not cast to here.

    through: the number of a type of half width that values are rounded to on the way. The reader sets it: halves are computed in float32.
    """
    dtype = cast_type(call["to"])
    call.allow(x.shape, dtype)
    if call["through"] == _FLOAT16:
        x = x.astype(np.float16)  # to infinity from 65520 on
    elif call["through"] == _BFLOAT16:
        x = _as_bfloat16(x.astype(np.float32))
    return x.astype(dtype)


def _as_bfloat16(x: npt.NDArray[np.float32]) -> Array:
    """Rounded to the upper half of float32's bits, halves to even."""
    bits = x.view(np.uint32)
    rounded = (bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, rounded.view(np.float32))
