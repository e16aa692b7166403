"""Arrays in one flat file of the safetensors format (https://huggingface.co/docs/safetensors), which any of its readers opens.

    8 bytes          N, the length of the header, little-endian
    N bytes          JSON: {"__metadata__": {text: text}, name: {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, ...}
    the rest         the arrays, little-endian, in C order, one behind another without gaps

The header is padded with spaces so that the arrays begin at a multiple of 64 bytes, and wider elements come first, so each array lies where
its elements may be read from a mapped file. Nothing in a file is executed, and nothing is believed before it is checked.

The metadata of the files written here hold a checksum, "crc32", of all that means something: the other metadata, and the names, dtypes,
shapes and bytes of the arrays. So another program may write the arrays anew in its own order, metadata and all. Files without it are older
ones, or written by others.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

_SIZES = {"F": (16, 32, 64), "I": (8, 16, 32, 64), "U": (8, 16, 32, 64)}
_DTYPES = {"BOOL": "|b1"} | {f"{kind}{size}": f"<{kind.lower()}{size // 8}" for kind, sizes in _SIZES.items() for size in sizes}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
# What numpy has no numbers for, as their bits in a field of that name.
_BITS = {name: np.dtype([(name, dtype)]) for name, dtype in (("BF16", "<u2"), ("F8_E4M3", "|u1"), ("F8_E5M2", "|u1"))}
_ALIGNMENT = 64
_MAX_DIMENSIONS = 8
_CHECKSUM = "crc32"
# Far more than the arrays of a network need; a longer header is an attempt to keep the parser busy.
MAX_HEADER_BYTES = 16 * 2**20


def write(arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> list[bytes | memoryview]:
    """The parts of the file, to be written one after another.

    arrays: floats of 16 to 64 bits, integers of 8 to 64 bits, or bool, of up to 8 dimensions; others are a TypeError.
    """
    for name, array in arrays.items():
        if array.dtype not in _NAMES or array.ndim > _MAX_DIMENSIONS:
            raise TypeError(f"array {name!r}, {array.dtype} of shape {array.shape}, cannot be saved")
    ordered = sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0]))
    header: dict[str, Any] = {"__metadata__": {**metadata, _CHECKSUM: _checksum(arrays, metadata)}}
    parts: list[bytes | memoryview] = []
    end = 0
    for name, array in ordered:
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
        # A memoryview of no elements cannot be cast.
        parts.append(np.ascontiguousarray(array).data.cast("B") if array.size else b"")
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGNMENT)
    return [len(text).to_bytes(8, "little"), text, *parts]


def read(data: bytes | memoryview, bits: bool = False) -> tuple[dict[str, npt.NDArray[Any]], dict[str, str]]:
    """(arrays, metadata) of a file's bytes, without the checksum; the arrays are read-only views of them.

    bits: take BF16, F8_E4M3 and F8_E5M2 as well, each as a structured array of one field of that name, which holds the bits.

    ValueError, saying what is wrong, for whatever is not such a file.
    """
    view = memoryview(data).toreadonly()
    if len(view) < 8:
        _refuse(f"it has {len(view)} bytes; the length of the header alone takes 8")
    size = int.from_bytes(view[:8], "little")
    if size > MAX_HEADER_BYTES:
        _refuse(f"its header is said to have {size} bytes; more than {MAX_HEADER_BYTES} are not read")
    if size > len(view) - 8:
        _refuse(f"its header is said to have {size} bytes, but only {len(view) - 8} follow")
    header = parse_json(bytes(view[8 : 8 + size]), "the header")
    if not isinstance(header, dict):
        _refuse("the header is no JSON object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse("__metadata__ maps texts to texts")
    body = view[8 + size :]
    arrays = {}
    ends = [(0, 0)]
    for name, entry in header.items():
        begin, end, arrays[name] = _array(name, entry, body, _BITS if bits else {})
        ends.append((begin, end))
    ends.sort()
    for (_, last), (begin, _) in itertools.pairwise(ends):
        if begin != last:
            _refuse(f"its arrays overlap or leave a gap at byte {min(begin, last)} of the data")
    if ends[-1][1] != len(body):
        _refuse(f"{len(body)} bytes of data follow the header, but the arrays take {ends[-1][1]}")
    known = metadata.pop(_CHECKSUM, None)
    if known is not None and known != _checksum(arrays, metadata):
        _refuse(f"it is damaged: its contents do not have the checksum {known!r:.20} that it names")
    return arrays, metadata


def _checksum(arrays: Mapping[str, npt.NDArray[Any]], metadata: Mapping[str, str]) -> str:
    """8 hexadecimal digits: what the module's text says, as JSON with sorted keys, then the bytes of the arrays in the order of names."""
    ordered = sorted(arrays.items())
    described = [sorted(metadata.items()), [[name, _name_of(array), list(array.shape)] for name, array in ordered]]
    crc = zlib.crc32(json.dumps(described, separators=(",", ":")).encode())
    for _, array in ordered:
        if array.size:
            crc = zlib.crc32(np.ascontiguousarray(array).data.cast("B"), crc)
    return f"{crc:08x}"


def _name_of(array: npt.NDArray[Any]) -> str:
    return array.dtype.names[0] if array.dtype.names else _NAMES[array.dtype]


def parse_json(text: bytes | str, what: str) -> Any:
    """JSON without repeated keys, NaN and infinities; ValueError otherwise, naming `what` it is."""
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError(f"{what} is nested too deeply") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are some
        raise ValueError(f"{what} is not valid JSON: {error}") from None


def _array(name: str, entry: object, body: memoryview, more: Mapping[str, np.dtype[Any]]) -> tuple[int, int, npt.NDArray[Any]]:
    """(begin, end, view) of one array."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(f"array {name!r} needs dtype, shape and data_offsets, and nothing else")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or (dtype not in _DTYPES and dtype not in more):
        _refuse(f"array {name!r} has dtype {dtype!r}; expected one of {', '.join(_DTYPES)}")
    if not _counts(shape) or len(shape) > _MAX_DIMENSIONS:
        _refuse(f"array {name!r} has shape {shape!r}; expected a list of up to {_MAX_DIMENSIONS} sizes")
    if not _counts(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= len(body):
        _refuse(f"array {name!r} has data_offsets {offsets!r}; expected [begin, end] within the {len(body)} bytes of data: is it cut off?")
    begin, end = offsets
    kind = more[dtype] if dtype in more else np.dtype(_DTYPES[dtype])
    if math.prod(shape) * kind.itemsize != end - begin:
        _refuse(f"array {name!r}, {dtype} of shape {shape}, does not take the {end - begin} bytes that it is said to have")
    if dtype == "BOOL" and begin < end and int(np.frombuffer(body[begin:end], np.uint8).max()) > 1:
        _refuse(f"array {name!r} holds bytes that are no booleans")
    return begin, end, np.frombuffer(body[begin:end], kind).reshape(shape)


def _counts(values: object) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**48 for value in values)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is repeated")
    return made


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _refuse(why: str) -> NoReturn:
    raise ValueError(why)
