"""What users may pass: bit widths, intervals, dtypes, zero points; and the words of the errors.

The native core takes uint8 and int8 arrays only. This module brings every other integer array to one of the two, and turns the core's bare
`OutOfRange` into a message with argument, index, value and interval.
"""

from __future__ import annotations

import operator
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[Any]

INT32_MIN = -(2**31)
INT32_MAX = 2**31 - 1

_WIDTHS = frozenset("12345678")
_UINT8 = np.dtype(np.uint8)
_INT8 = np.dtype(np.int8)
# The integers of ml_dtypes, whose names say the sign; numpy has none of them.
_NARROW = {"uint1": _UINT8, "uint2": _UINT8, "uint4": _UINT8, "int1": _INT8, "int2": _INT8, "int4": _INT8}


def interval(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest `bits`-bit value. Signed values of one bit are bipolar: -1 and +1, never 0."""
    if not signed:
        return 0, 2**bits - 1
    if bits == 1:
        return -1, 1
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def describe_interval(bits: int, signed: bool) -> str:
    """The interval in words: "0..7 (unsigned 3-bit)", "-1 or +1 (signed 1-bit)"."""
    low, high = interval(bits, signed)
    values = "-1 or +1" if signed and bits == 1 else f"{low}..{high}"
    return f"{values} ({'signed' if signed else 'unsigned'} {bits}-bit)"


def integer(value: object, name: str, low: int, high: int, what: str = "an integer") -> int:
    """`value` as an int in low..high. TypeError for anything that is no integer (bool included), ValueError outside."""
    if type(value) is int and low <= value <= high:
        return value
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}={value!r}: expected {what} from {low} to {high}, not a bool")
    try:
        number = operator.index(value)  # type: ignore[arg-type]  # the TypeError of a wrong type is what we want
    except TypeError:
        raise TypeError(f"{name}={value!r}: expected {what} from {low} to {high}, not {type(value).__name__}") from None
    if not low <= number <= high:
        raise ValueError(f"{name}={number}: expected {what} from {low} to {high}")
    return number


def bit_width(value: object, name: str) -> int:
    """A bit width, 1..8."""
    return integer(value, name, 1, 8, "a bit width")


def named_pair(value: str, name: str) -> tuple[int, int]:
    """ "W3A8", as tables write it, as (weights, activations) = (3, 8). TypeError for another text, ValueError for other widths."""
    weights, _, activations = value.upper().removeprefix("W").partition("A")
    if value[:1] not in ("W", "w") or not (weights.isascii() and weights.isdigit() and activations.isascii() and activations.isdigit()):
        raise TypeError(f"{name}={value!r}: expected a bit width from 1 to 8, not str; a text has two, as 'W3A8'")
    if weights not in _WIDTHS or activations not in _WIDTHS:
        raise ValueError(f"{name}={value!r}: expected widths from 1 to 8")
    return int(weights), int(activations)


def weight_width(value: object, name: str) -> int:
    """The width of weights, 1..8, or of "W3A8" its first."""
    return named_pair(value, name)[0] if isinstance(value, str) else bit_width(value, name)


def layer_widths(bits: Any, act_bits: Any) -> tuple[Any, Any]:
    """(bits, act_bits) as layers take them, where bits may be "W3A8". ValueError where act_bits says something else."""
    if not isinstance(bits, str):
        return bits, act_bits
    weights, activations = named_pair(bits, "bits")
    if act_bits is not None and act_bits != activations:
        raise ValueError(f"bits={bits!r} with act_bits={act_bits!r}: pass one of them, or the same width")
    return weights, activations


def bit_pair(bits: object, packed_bits: int | None = None) -> tuple[int, int]:
    """(a_bits, b_bits) from gemm's `bits`.

    bits: an int for both, a pair (a_bits, b_bits), or "W3A8", b's width first; None only where b is packed, whose width then counts for
        both.
    packed_bits: the width of a packed b, which `bits` may repeat but not contradict.
    """
    if bits is None:
        if packed_bits is None:
            raise TypeError(
                "bits is needed where b is an array: pass bits=3 for both, bits=(a_bits, b_bits), or a matrix from ulp.pack(b, bits=3)"
            )
        return packed_bits, packed_bits
    if isinstance(bits, str):
        pair = named_pair(bits, "bits")[::-1]
    elif isinstance(bits, (tuple, list)):
        if len(bits) != 2:
            raise ValueError(f"bits={bits!r}: expected one bit width or a pair (a_bits, b_bits)")
        pair = bit_width(bits[0], "bits[0]"), bit_width(bits[1], "bits[1]")
    else:
        both = bit_width(bits, "bits")
        pair = both, both
    if packed_bits is not None and pair[1] != packed_bits:
        raise ValueError(
            f"bits={bits!r} asks for {pair[1]}-bit b, but b is packed at {packed_bits} bits; pass bits=({pair[0]}, {packed_bits})"
        )
    return pair


def as_array(x: object, name: str) -> IntArray:
    """x as a plain ndarray (lists and CPU tensors included), or TypeError. Values and dtype are not looked at."""
    # numpy imports numpy.ma on first use, in 10 ms; no array can be masked before that.
    masked = sys.modules.get("numpy.ma")
    if masked is not None and isinstance(x, masked.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask a matrix product cannot honour; pass {name}.filled(value)")
    try:
        return np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} of type {type(x).__name__} does not convert to a numpy array: {error}") from None


def operand(array: IntArray, name: str, bits: int) -> IntArray:
    """The array as uint8 (unsigned) or int8 (signed) codes of any strides.

    uint8 and int8 pass as they are: the core checks their range while it reads them. bool is unsigned. Any other integer dtype says
    nothing about the sign, so the values decide: all in the unsigned interval, else all in the signed one, else ValueError.
    Raises TypeError for floats and everything else that holds no integers.
    """
    dtype = array.dtype
    if dtype in (_UINT8, _INT8):
        return array
    if dtype.kind == "V" and dtype.name in _NARROW:  # of ml_dtypes
        return array.astype(_NARROW[dtype.name])
    if dtype.kind == "b":
        return array.view(_UINT8)
    if dtype.kind not in "iu":
        raise no_integers(name, str(dtype), floats=dtype.kind == "f")
    if array.size == 0:
        return array.astype(_UINT8)
    signed = int(array.min()) < 0
    check_range(array, name, bits, signed)
    return array.astype(_INT8 if signed else _UINT8)


def no_integers(name: str, dtype: str, *, floats: bool) -> TypeError:
    """The TypeError for an operand that holds no integers."""
    if floats:
        return TypeError(
            f"{name} has dtype {dtype}: ulp multiplies integers, quantize first, "
            f"for example np.clip(np.rint({name} / scale), low, high).astype(np.int8)"
        )
    return TypeError(f"{name} has dtype {dtype}: expected uint8 (unsigned), int8 (signed) or another integer dtype")


def check_range(array: IntArray, name: str, bits: int, signed: bool) -> None:
    """ValueError for a value outside its interval."""
    low, high = interval(bits, signed)
    if array.size and (int(array.min()) < low or int(array.max()) > high or (signed and bits == 1 and bool((array == 0).any()))):
        raise out_of_range(array, name, bits)


def out_of_range(array: IntArray, name: str, bits: int) -> ValueError:
    """The ValueError for the first element, in C order, that lies outside the interval of the array's sign."""
    exact_sign = array.dtype in (_UINT8, _INT8)
    signed = array.dtype == _INT8 if exact_sign else bool(array.size) and int(array.min()) < 0
    low, high = interval(bits, signed)
    wrong = (array < low) | (array > high)
    if signed and bits == 1:
        wrong |= array == 0
    if not wrong.any():
        # Another thread has rewritten the array since the core read it.
        return ValueError(f"{name} held a value outside {describe_interval(bits, signed)} while it was read")
    index = np.unravel_index(int(np.argmax(wrong)), array.shape)
    where = ", ".join(str(int(i)) for i in index)
    value = int(array[index])
    taken = describe_interval(bits, signed)
    other = describe_interval(bits, not signed)
    if exact_sign:
        meaning = f"; {array.dtype} is read as {'signed' if signed else 'unsigned'}, {'uint8' if signed else 'int8'} would be {other}"
    elif signed:
        meaning = f"; it is read as signed because it holds negative values, else it would be {other}"
    else:
        meaning = f" and outside {other}"
    return ValueError(f"{name}[{where}] = {value} is outside {taken}{meaning}. Quantize {name} to {bits} bits or pass the bits it has")


def zero_points(value: object, name: str, n: int) -> int | npt.NDArray[np.int32]:
    """A zero point for all columns (int), or one per column: int32 (n,). Any int32 value: the core checks that sums stay in int32."""
    if type(value) is int or isinstance(value, np.integer):
        return integer(value, name, INT32_MIN, INT32_MAX, "a zero point")
    array = as_array(value, name)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {array.dtype}: zero points are integers")
    if array.ndim == 0:
        return integer(array.item(), name, INT32_MIN, INT32_MAX, "a zero point")
    if array.shape != (n,):
        raise ValueError(f"{name} has shape {array.shape}: expected a scalar or ({n},), one value per column of b")
    return as_int32(array, name)


def as_int32(array: IntArray, name: str) -> npt.NDArray[np.int32]:
    """An integer array of any dtype as int32, or ValueError."""
    if array.size and (int(array.min()) < INT32_MIN or int(array.max()) > INT32_MAX):
        raise ValueError(f"{name} holds values that do not fit int32")
    return array.astype(np.int32, copy=False)


def weight_codes(b: object, bits: int) -> IntArray:
    """`b` as a matrix of uint8 or int8, whose values have not all been checked. Precondition: bits is in 1..8."""
    array = as_array(b, "b")
    check_matrix(array.shape)
    return operand(array, "b", bits)


def check_matrix(shape: tuple[int, ...]) -> None:
    """ValueError unless b has two dimensions."""
    if len(shape) != 2:
        raise ValueError(f"b has shape {shape}: expected two dimensions, (K, N)")
