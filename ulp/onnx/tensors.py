"""Tensors of a file as arrays: raw bytes, lists of numbers, and bytes in another file beside it."""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from .limits import MAX_DIMENSIONS, Limits
from .model import Array, OnnxError, Payloads

# Numbers of TensorProto.DataType, in a file for good: those that numpy has ...
_PLAIN = {
    **dict(enumerate(("<f4", "u1", "i1", "<u2", "<i2", "<i4", "<i8"), 1)),
    **dict(enumerate(("?", "<f2", "<f8", "<u4", "<u8"), 9)),
}
# ... those of 2 and 4 bits, lowest bits first (bits, signed), ...
NARROW: dict[int, tuple[int, bool]] = {21: (4, False), 22: (4, True), 25: (2, False), 26: (2, True)}
# ... and the one that is the upper half of a float32.
_BFLOAT16 = 16
FLOAT16 = 10
HALVES = (FLOAT16, _BFLOAT16)

# In which list of a TensorProto numbers lie where they are not raw, by their type.
_LISTS = {1: "float_data", 7: "int64_data", 11: "double_data", 12: "uint64_data", 13: "uint64_data"}


def known_type(kind: int) -> bool:
    """Whether arrays hold a TensorProto.DataType."""
    return kind in _PLAIN or kind in NARROW or kind in HALVES


def exact_type(kind: int) -> bool:
    """Whether arrays hold a TensorProto.DataType in its own type."""
    return kind in _PLAIN and kind != FLOAT16


def dtype_of(kind: int, what: str) -> np.dtype[Any]:
    """The type of arrays that hold a TensorProto.DataType; halves become float32."""
    if kind in HALVES:
        return np.dtype(np.float32)
    if kind in NARROW:
        return np.dtype(np.int8 if NARROW[kind][1] else np.uint8)
    if kind not in _PLAIN:
        raise OnnxError(f"{what} has the type number {kind}: ulp knows floats of 16, 32 and 64 bits, integers of 2 to 64 bits, and bool")
    native: np.dtype[Any] = np.dtype(_PLAIN[kind]).newbyteorder("=")
    return native


def read_tensor(proto: Any, what: str, folder: Path | None, limits: Limits, payloads: Payloads) -> Array:
    """A TensorProto as an array in the machine's byte order. what: its name in messages; folder: where external data may lie.

    payloads: raw data by its keys, see `split`.
    """
    kind, shape = proto.data_type, tuple(proto.dims)
    dtype = dtype_of(kind, what)
    if min(shape, default=0) < 0:
        raise OnnxError(f"{what} has the shape {list(shape)!s:.100}: expected sides of 0 or more")
    if len(shape) > MAX_DIMENSIONS:
        raise OnnxError(f"{what} has {len(shape)} dimensions: expected {MAX_DIMENSIONS} at most")
    if proto.HasField("segment"):
        raise OnnxError(f"{what} is one segment of a tensor, which is not supported")
    limits.check_size(shape, dtype.itemsize)
    count = math.prod(shape)
    stored = _raw(proto, what, folder, _nbytes(kind, count), payloads)
    limits.check_tensor(shape, dtype.itemsize)
    codes = _listed(proto, kind, count, what) if stored is None else np.frombuffer(stored, _stored(kind))
    return _decoded(codes, kind, count).reshape(shape)


def _nbytes(kind: int, count: int) -> int:
    """Bytes that `count` elements take where they are raw."""
    if kind in NARROW:
        return -(-count * NARROW[kind][0] // 8)
    return count * (2 if kind == _BFLOAT16 else np.dtype(_PLAIN[kind]).itemsize)


def _stored(kind: int) -> str:
    """As what type elements are stored: bits where it is not numpy's own."""
    return {9: "u1", _BFLOAT16: "<u2"}.get(kind, "u1" if kind in NARROW else _PLAIN.get(kind, "u1"))


def _raw(proto: Any, what: str, folder: Path | None, nbytes: int, payloads: Payloads) -> bytes | memoryview | None:
    """The bytes of a tensor, from here or another file; None where it is a list of numbers."""
    raw = None
    if proto.HasField("raw_data"):
        raw = payloads.get(proto.raw_data, proto.raw_data)
    if proto.data_location == proto.EXTERNAL:
        if raw is not None:
            raise OnnxError(f"{what} has data of its own, and external data")
        return _external({entry.key: entry.value for entry in proto.external_data}, what, folder, nbytes)
    if raw is not None and len(raw) != nbytes:
        raise OnnxError(f"{what} has {len(raw)} bytes of data: its type and shape {list(proto.dims)!s:.100} take {nbytes}")
    return raw


def _listed(proto: Any, kind: int, count: int, what: str) -> Array:
    """The elements of a tensor that is a list of numbers, as they would be stored raw."""
    name = _LISTS.get(kind, "int32_data")
    numbers = getattr(proto, name)
    expected = _nbytes(kind, count) if kind in NARROW else count
    if len(numbers) != expected:
        raise OnnxError(f"{what} has {len(numbers)} elements in {name}: its shape {list(proto.dims)!s:.100} takes {expected}")
    stored = np.dtype("<u2" if kind == 10 else _stored(kind))  # float16 comes as its bits
    array: Array = np.array(numbers, np.float64 if kind in (1, 11) else np.uint64 if name == "uint64_data" else np.int64)
    if kind not in (1, 11):
        low, high = np.iinfo(stored).min, np.iinfo(stored).max
        if kind in NARROW and count:  # a byte with its uppermost bit set may have been written as a negative number
            array = array & 0xFF
        if array.size and not (low <= int(array.min()) and int(array.max()) <= high):
            raise OnnxError(f"{what} holds {array.min()} to {array.max()} in {name}: its type allows {low} to {high}")
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array.astype(stored).view("<f2" if kind == 10 else stored))


def _decoded(codes: Array, kind: int, count: int) -> Array:
    """Stored elements as `dtype_of` has them."""
    if kind in NARROW:
        bits, signed = NARROW[kind]
        parts = (codes[:, None] >> np.arange(0, 8, bits, dtype=np.uint8)) & np.uint8(2**bits - 1)
        values = parts.reshape(-1)[:count]
        sign = np.int8(2 ** (bits - 1))
        return np.asarray((values.astype(np.int8) ^ sign) - sign if signed else values)
    if kind == _BFLOAT16:
        return np.asarray((codes.astype(np.uint32) << np.uint32(16)).view(np.float32))
    if kind == 10:
        return codes.astype(np.float32)
    if kind == 9:
        return np.asarray(codes != 0)
    return codes.astype(codes.dtype.newbyteorder("="), copy=False)


def _external(entries: dict[str, str], what: str, folder: Path | None, nbytes: int) -> bytes:
    """Bytes of a file in the model's folder or below it. Links are followed, and must not lead out of it."""
    if folder is None:
        raise OnnxError(f"{what} lies in another file: load the model by its path, so that the folder is known")
    location = entries.get("location", "")
    parts = PurePosixPath(location).parts
    outside = PurePosixPath(location).is_absolute() or PureWindowsPath(location).anchor or "\\" in location or ".." in parts
    if outside or not parts or not location.isprintable():
        raise OnnxError(
            f"{what} has external data in {location!r:.200}: expected a file in the model's folder, by a relative path without .."
        )
    offset, length = _entry(entries, "offset", 0, what), _entry(entries, "length", nbytes, what)
    if length != nbytes:
        raise OnnxError(f"{what} has {length} bytes of external data: its type and shape take {nbytes}")
    try:
        path = (folder / location).resolve(strict=True)
        if not path.is_relative_to(folder.resolve(strict=True)):
            raise OnnxError(f"{what} has external data in {location!r:.200}, which is a link out of the model's folder")
        # The resolved path has no links, and must not get one; a pipe must not keep us waiting.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or offset + nbytes > status.st_size:
                raise OnnxError(f"{what}: {location!r:.200} has no bytes {offset} to {offset + nbytes}")
            file.seek(offset)
            data = file.read(nbytes)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, OnnxError):
            raise
        raise OnnxError(f"{what}: its external data {location!r:.200} cannot be read: {error}") from error
    if len(data) != nbytes:
        raise OnnxError(f"{what}: {location!r:.200} ended while it was read")
    return data


def _entry(entries: dict[str, str], key: str, default: int, what: str) -> int:
    text = entries.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise OnnxError(f"{what} has external data with {key}={text!r:.60}: expected a number of bytes")
    return int(text)
