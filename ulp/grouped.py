"""`GroupedMatrix`: weights whose groups along K have scales and zero points of their own, and codebooks; made by `ulp.pack(..., scales=)`.

The product is csrc/gemm/grouped.h: integer sums per group, exact; then float32 operations in a fixed order, so that results are the same
bits on every instruction set and for every number of threads.
"""

from __future__ import annotations

from typing import Any, Literal, NoReturn

import numpy as np
import numpy.typing as npt

from . import _core
from ._codebook import entries_of, integers_of
from ._tensors import as_numpy, like
from ._validate import as_array, integer, no_integers, out_of_range, weight_codes

FloatArray = npt.NDArray[np.float32]

MAX_GROUP = 512
"""The longest group whose sums float32 holds exactly; a longer one is computed as several of the same scale."""


class GroupedMatrix:
    """A (K, N) matrix of 1- to 8-bit codes with a scale, and a zero point, for each group of `group_size` k of a column. Immutable.

    Its value at (k, n) is (code - zero_points[g, n]) * scales[g, n], g = k // group_size, or with a codebook
    codebook[code] * scales[g, n]. Made by `ulp.pack(codes, bits, scales=...)`.
    """

    __slots__ = ("_codebook", "_fields", "_native", "_packed", "_shape", "_zero", "bits", "group_size", "scales", "table", "zero_points")

    bits: int
    """Bits of a code, 1..8."""
    group_size: int
    """k of a group; the last one may have fewer."""
    scales: FloatArray
    """(groups, N), read-only."""
    zero_points: FloatArray | int
    """(groups, N), read-only, or one integer for all."""
    table: npt.NDArray[np.int32] | None
    """The integers that stand for the codebook's entries, or None."""

    def __init__(self, *parts: Any) -> None:
        if len(parts) != 8:
            raise TypeError("a GroupedMatrix comes from ulp.pack(codes, bits, scales=...)")
        packed, shape, group, scales, zero, zeros, codebook, table = parts
        unit = 1.0
        integers: npt.NDArray[np.int32] | None = None
        if codebook is not None:
            integers, unit = table
        # What the kernel's groups are: one longer than MAX_GROUP is several.
        groups = np.arange(-(-shape[0] // group.computed)) * group.computed // group.given
        fields: dict[str, Any] = {
            "weights": packed,
            "group": group.computed,
            "scales": _rows(scales * np.float32(unit) if unit != 1 else scales, groups),
            "zeros": None if zeros is None else _rows(zeros, groups),
            "zero": zero,
            "table": integers,
        }
        native = _core.Grouped(k=shape[0], **fields)
        values = {
            "bits": packed.bits,
            "group_size": group.given,
            "scales": scales,
            "zero_points": zero if zeros is None else zeros,
            "table": integers,
            "_codebook": codebook,
            "_fields": fields,
            "_native": native,
            "_packed": packed,
            "_shape": shape,
            "_zero": zero,
        }
        for array in (scales, zeros, integers, codebook):
            if array is not None:
                array.flags.writeable = False
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"a GroupedMatrix is immutable: cannot set {name!r}")

    @property
    def shape(self) -> tuple[int, int]:
        """(K, N)."""
        return self._shape  # type: ignore[no-any-return,attr-defined]  # a slot

    @property
    def codebook(self) -> FloatArray | None:
        """What codes stand for before they are scaled, float32 (2^bits,), or None: themselves."""
        return self._codebook  # type: ignore[no-any-return,attr-defined]

    @property
    def nbytes(self) -> int:
        """Bytes that a product reads: codes, scales and zero points."""
        return int(self._native.nbytes)  # type: ignore[attr-defined]

    def plan_fields(self) -> dict[str, Any]:
        """Fields of `_core.Plan.grouped_linear`."""
        return dict(self._fields)  # type: ignore[attr-defined]

    def codes(self) -> npt.NDArray[np.uint8]:
        """The codes, a new uint8 array (K, N)."""
        k, n = self.shape
        computed = _computed(self.group_size, k)
        padded = _core.unpack(self._packed).reshape(-1, -(-computed // 32) * 32, n)  # type: ignore[attr-defined]
        return np.ascontiguousarray(padded[:, :computed].reshape(-1, n)[:k])

    def dequantize(self) -> FloatArray:
        """The values in float32, (K, N), of the codebook as it was given."""
        group = np.arange(self.shape[0]) // self.group_size
        codes = self.codes()
        if self.codebook is not None:
            return np.asarray(self.codebook[codes] * self.scales[group])
        zero = self.zero_points if isinstance(self.zero_points, int) else self.zero_points[group]
        return np.asarray((codes.astype(np.float32) - np.float32(zero)) * self.scales[group], np.float32)

    @property
    def codebook_error(self) -> float:
        """How far an entry is from the integers that stand for it, at most, as a share of the largest entry; 0 where they are exact."""
        if self.codebook is None or self.table is None:
            return 0.0
        largest = float(np.abs(self.codebook).max())
        top = int(np.abs(self.table).max())
        if largest == 0 or top == 0:
            return 0.0
        error = float(np.abs(self.table / top - self.codebook.astype(np.float64) / largest).max())
        return 0.0 if error <= 2.0**-23 else error

    def linear(self, x: Any, bias: npt.ArrayLike | None = None, *, act: Literal["row", "group"] = "row") -> Any:
        """x @ matrix + bias, x quantized in the call to signed 8-bit integers; (..., N), float32 or of x's 16 bits.

        x: floats (..., K), also a torch tensor, which gives one. A row, or with act="group" each group of a row, gets the scale
        max |x| / 127 in float32, and the integers rint(x / scale).
        bias: floats (N,), added last.
        Raises TypeError, ValueError for another shape, a NaN or an infinity.
        """
        if act not in ("row", "group"):
            raise ValueError(f"act={act!r}: expected 'row' or 'group'")
        if act == "group" and self.group_size > MAX_GROUP:
            raise ValueError(f"act='group' with groups of {self.group_size}: expected groups of at most {MAX_GROUP}")
        array = np.asarray(as_numpy(x, "x"))
        if array.dtype.kind != "f":
            raise TypeError(f"x has dtype {array.dtype}: expected floats; integers go to product(a, scale)")
        with np.errstate(over="ignore"):  # infinity is refused below
            rows = self._rows(array, "x").astype(np.float32, copy=False)
        made = self._native.linear(np.ascontiguousarray(rows), bias=self._bias(bias), per_group=act == "group")  # type: ignore[attr-defined]
        return like(x, made.reshape(*array.shape[:-1], self.shape[1]))

    def product(self, a: npt.ArrayLike, scale: npt.ArrayLike = 1.0, *, bias: npt.ArrayLike | None = None) -> FloatArray:
        """(a * scale) @ matrix + bias for given integers a; float32 (..., N).

        a: int8 (..., K), or uint8 of at most 7 bits, 0..127. scale: a float, or one for each row, (...,).
        Raises TypeError, ValueError.
        """
        array = as_array(a, "a")
        if array.dtype not in (np.dtype(np.int8), np.dtype(np.uint8)):
            raise no_integers("a", str(array.dtype), floats=array.dtype.kind == "f")
        signed = array.dtype == np.int8
        if not signed and array.size and int(array.max()) > 127:
            raise ValueError(f"a holds {int(array.max())}: uint8 takes 0..127, pass int8 (subtract a zero point of 128 first)")
        rows = np.ascontiguousarray(self._rows(array, "a"))
        codes = rows.view(np.uint8) ^ np.uint8(128) if signed else rows
        given = as_array(scale, "scale")
        if given.shape not in ((), array.shape[:-1]):
            raise ValueError(f"scale has shape {given.shape}: expected a number, or {array.shape[:-1]}, one for each row of a")
        scales = _floats(given, "scale", given.shape)
        each = np.ascontiguousarray(np.broadcast_to(scales, array.shape[:-1]).reshape(-1))
        made = self._native.product(codes, centre=128 if signed else 0, scales=each, bias=self._bias(bias))  # type: ignore[attr-defined]
        return np.asarray(made.reshape(*array.shape[:-1], self.shape[1]))

    def _rows(self, array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
        k = self.shape[0]
        if array.ndim == 0 or array.shape[-1] != k:
            raise ValueError(f"{name} has shape {array.shape}: expected (..., {k}), K = {k} of the matrix last")
        return array.reshape(-1, k)

    def _bias(self, bias: object) -> FloatArray | None:
        return None if bias is None else _floats(bias, "bias", self.shape[1:])

    def __reduce__(self) -> tuple[Any, ...]:
        zeros = self.zero_points
        return _rebuild, (self.codes(), self.bits, self.group_size, self.scales, zeros, self.codebook, self.table)

    def __repr__(self) -> str:
        k, n = self.shape
        zeros = "" if isinstance(self.zero_points, int) else ", zero points"
        codebook = "" if self.codebook is None else ", codebook"
        return f"GroupedMatrix(shape=({k}, {n}), bits={self.bits}, group_size={self.group_size}{zeros}{codebook}, nbytes={self.nbytes})"


class _Group:
    """k of a group: as given, and as the kernel sums them."""

    def __init__(self, given: int, k: int) -> None:
        self.given, self.computed = given, _computed(given, k)


def _computed(group: int, k: int) -> int:
    """k of a group as the kernel sums them, at most MAX_GROUP: equal parts of a given one; of the only one the last part may be shorter."""
    parts = -(-group // MAX_GROUP)
    if group >= k and parts > 1:
        return -(-group // (32 * parts)) * 32
    return next(group // parts for parts in range(parts, group + 1) if group % parts == 0)


def pack_grouped(
    b: object, bits: int, scales: object, zero_points: object, group_size: object, codebook: object, codebook_bits: object
) -> GroupedMatrix:
    """The arguments of `ulp.pack` with `scales`. Precondition: bits is in 1..8."""
    codes = weight_codes(b, bits)
    signed = codes.dtype == np.int8
    k, n = codes.shape
    if k == 0 or n == 0:
        raise ValueError(f"b has shape {codes.shape}: a matrix in groups has elements")
    of_group = as_array(scales, "scales")
    if of_group.ndim != 2 or of_group.shape[1] != n or len(of_group) == 0:
        raise ValueError(f"scales has shape {of_group.shape}: expected (groups, {n})")
    size = -(-k // len(of_group)) if group_size is None else integer(group_size, "group_size", 1, 2**24)
    size = min(size, k)
    groups = -(-k // size)
    if len(of_group) != groups:
        what = f"group_size={size}" if group_size is not None else f"{len(of_group)} groups do not divide K = {k}: pass group_size, which"
        raise ValueError(f"scales has shape {of_group.shape}: {what} takes ({groups}, {n})")
    factors = _floats(scales, "scales", (groups, n))
    # Codes of signed weights are the values plus the middle, and so are their zero points.
    middle = 2 ** (bits - 1) if signed else 0
    if signed and bits == 1:
        raise ValueError("b is int8 of 1 bit, -1 and +1: pass (b > 0) with zero_points=0.5 and scales * 2, or 2 bits")
    entries, table = (None, None) if codebook is None else _table(codebook, bits, signed, zero_points, codebook_bits)
    if codebook is None and codebook_bits is not None:
        raise ValueError("codebook_bits without codebook")
    zero, zeros = (0, None) if codebook is not None else _zeros(zero_points, bits, middle, (groups, n))
    raw = codes.view(np.uint8) ^ np.uint8(middle) if signed else codes
    if signed and bits < 8:
        _check(codes, bits)
        raw = (codes.astype(np.int16) + middle).astype(np.uint8)
    sizes = _Group(size, k)
    if size > MAX_GROUP and size < k and sizes.computed % 32 and -(-sizes.computed // 32) * 32 > 2 * sizes.computed:
        raise ValueError(
            f"group_size={size}: groups longer than {MAX_GROUP} are stored in equal parts of multiples of 32, and {size} has no divisor "
            f"from 16 to {MAX_GROUP}; repeat the scales of smaller groups, or pad the groups"
        )
    packed = _pack(_padded(np.asarray(raw), sizes.computed), bits, codes)
    return GroupedMatrix(packed, (k, n), sizes, factors, zero, zeros, entries, table)


def _table(
    codebook: object, bits: int, signed: bool, zero_points: object, codebook_bits: object
) -> tuple[FloatArray, tuple[npt.NDArray[np.int32], float]]:
    """The entries, and the integers that stand for them with their unit."""
    if zero_points is not None:
        raise ValueError("zero_points with codebook: entries of a codebook have their own zero")
    if signed:
        raise ValueError("b is int8: codes of a codebook are unsigned, uint8")
    if bits == 1 or bits > 4:
        raise ValueError(f"codebook with bits={bits}: expected codes of 2 to 4 bits")
    width = None if codebook_bits is None else integer(codebook_bits, "codebook_bits", 8, 16)
    if width not in (None, 8, 16):
        raise ValueError(f"codebook_bits={width}: expected 8, 16 or None")
    entries = entries_of(codebook, bits)
    return entries, integers_of(entries, width)


def _zeros(zero_points: object, bits: int, middle: int, shape: tuple[int, int]) -> tuple[int, FloatArray | None]:
    """One integer for all, or a value for each group; in terms of codes."""
    if zero_points is None:
        return middle, None
    array = as_array(zero_points, "zero_points")
    if array.dtype.kind not in "iuf":
        raise TypeError(f"zero_points has dtype {array.dtype}: expected numbers")
    if array.shape == () and float(array).is_integer() and 0 <= int(array) + middle < 2**bits:
        return int(array) + middle, None
    given = np.broadcast_to(array, shape) if array.shape in ((), shape[1:], (shape[0], 1)) else array
    return 0, _floats(given, "zero_points", shape) + np.float32(middle)


def _check(codes: npt.NDArray[Any], bits: int) -> None:
    from ._validate import check_range

    check_range(codes, "b", bits, True)


def _pack(padded: npt.NDArray[np.uint8], bits: int, codes: npt.NDArray[Any]) -> _core.Packed:
    try:
        return _core.pack(padded, bits)
    except _core.OutOfRange:
        raise out_of_range(codes, "b", bits) from None


def _padded(codes: npt.NDArray[np.uint8], group: int) -> npt.NDArray[np.uint8]:
    """Groups that begin at a multiple of 32 each."""
    k, n = codes.shape
    if group % 32 == 0 and k % group == 0:
        return codes
    groups = -(-k // group)
    padded = np.zeros((groups, -(-group // 32) * 32, n), np.uint8)
    whole = k // group
    padded[:whole, :group] = codes[: whole * group].reshape(whole, group, n)
    if whole < groups:
        padded[whole, : k - whole * group] = codes[whole * group :]
    return padded.reshape(-1, n)


def _rows(values: FloatArray, groups: npt.NDArray[np.int64]) -> FloatArray:
    return np.ascontiguousarray(values if len(groups) == len(values) else values[groups], np.float32)


def _floats(value: object, name: str, shape: tuple[int, ...]) -> FloatArray:
    array = as_array(value, name)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{name} has dtype {array.dtype}: expected floats")
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}: expected {shape}")
    with np.errstate(over="ignore"):  # infinity is refused below
        made = np.array(array, np.float32)
    if not np.isfinite(made).all():
        raise ValueError(f"{name} holds a NaN or an infinity, or what is one in float32")
    return made


def _rebuild(codes: object, bits: int, group: int, scales: object, zeros: object, codebook: object, table: object) -> GroupedMatrix:
    """From a pickle. The table is made again: 16 bits where it was."""
    wide = table is not None and int(np.abs(table).max()) > 127  # type: ignore[call-overload]  # an array
    width = (16 if wide else 8) if codebook is not None else None
    return pack_grouped(codes, bits, scales, None if codebook is not None else zeros, group, codebook, width)
