"""Weights packed once and used many times: `pack` and `PackedMatrix`, with pickling and two file formats.

A saved matrix is the packed bytes in the order of csrc/pack/layout.h, which is the same on every CPU, and five numbers. Everything that
is read back is checked against the bytes that are there before anything of the declared size is allocated, and nothing in it is executed.
"""

from __future__ import annotations

import io
import os
import re
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, overload

import numpy as np
import numpy.typing as npt

from . import _core
from ._files import read_file, replace_file
from ._gpu.arrays import on_gpu
from ._gpu.packed import CudaPackedMatrix, pack_for_gpu
from ._matrix import Matrix
from ._validate import IntArray, bit_width, integer, out_of_range, weight_codes, weight_width
from .grouped import GroupedMatrix, pack_grouped

if TYPE_CHECKING:
    import zipfile

FORMAT = "ulp.PackedMatrix"
FORMAT_VERSION = 1

# The layout of the five numbers in a file and in a pickle.
_FIELDS = ("version", "k", "n", "bits", "signed")
_MAX_DIMENSION = 2**31 - 1
# A matrix with K = 0 has no bytes that could vouch for N, and its column sums are still allocated.
_MAX_EMPTY_N = 2**24


class PackedMatrix(Matrix):
    """A (K, N) matrix of 1- to 8-bit integers, stored at `bits` bits per value, padded to 32 in K and 8 in N. Immutable.

    Made by `ulp.pack` or `PackedMatrix.load`; pickling and copying work too. Two matrices are equal if shape, bits, sign and all values
    are; equal matrices have equal hashes.
    """

    __slots__ = ()

    _packed: _core.Packed

    def __init__(self, packed: _core.Packed) -> None:
        if not isinstance(packed, _core.Packed):
            raise TypeError("a PackedMatrix comes from ulp.pack(b, bits=...) or PackedMatrix.load(path)")
        super().__init__(packed)

    def unpack(self) -> IntArray:
        """The values as a new (K, N) array of `dtype`."""
        return _core.unpack(self._packed)

    def to(self, device: str) -> Any:
        """A `CudaPackedMatrix` of the same values for device="cuda" or "cuda:<number>"; for "cpu" the matrix itself.

        Raises TypeError, ValueError, RuntimeError where no GPU can be used, MemoryError.
        """
        return super().to(device)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedMatrix):
            return NotImplemented
        if self is other:
            return True
        same = self.shape == other.shape and self._bits == other._bits and self.signed == other.signed
        return same and np.array_equal(self._packed.data, other._packed.data)

    def __hash__(self) -> int:
        return hash((self.shape, self._bits, self.signed, zlib.crc32(self._packed.data.data)))

    def __reduce__(self) -> tuple[Any, ...]:
        # The bytes go as an array, which pickle protocol 5 can move out of band, without a copy.
        return _rebuild, (self._header(), self._packed.data)

    def _header(self) -> tuple[int, ...]:
        k, n = self.shape
        return FORMAT_VERSION, k, n, self._bits, int(self.signed)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the matrix to `path`: numpy's .npz, or .safetensors.

        A file of that name is replaced only when the new one is complete. Raises ValueError for another suffix, OSError.
        """
        target = Path(path)
        if _suffix(target) == ".npz":
            header = np.array(self._header(), dtype="<i8")
            replace_file(target, lambda file: np.savez(file, header=header, data=self._packed.data))
            return
        from . import _tensorfile

        metadata = {"format": FORMAT, **{name: str(number) for name, number in zip(_FIELDS, self._header(), strict=True)}}
        parts = _tensorfile.write({"data": self._packed.data}, metadata)
        replace_file(target, lambda file: file.writelines(parts))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PackedMatrix:
        """Read what `save` wrote. Safe on files from anyone: no code is run, no declared size is believed.

        Raises ValueError for whatever is no complete matrix of a known format version, OSError.
        """
        source = Path(path)
        suffix = _suffix(source)
        try:
            header, data = _read_npz(source) if suffix == ".npz" else _read_safetensors(source)
            return _rebuild(header, data)
        except ValueError as error:
            raise ValueError(f"{source} is not a saved ulp.PackedMatrix: {error}") from error


@overload
def pack(b: npt.ArrayLike, bits: int | str) -> PackedMatrix: ...
@overload
def pack(
    b: npt.ArrayLike,
    bits: int | str,
    *,
    scales: npt.ArrayLike,
    zero_points: npt.ArrayLike | None = ...,
    group_size: int | None = ...,
    codebook: npt.ArrayLike | str | None = ...,
    codebook_bits: int | None = ...,
) -> GroupedMatrix: ...
@overload
def pack(b: Any, bits: int | str, device: str | None = ...) -> Any: ...
def pack(
    b: Any,
    bits: int | str,
    device: str | None = None,
    *,
    scales: npt.ArrayLike | None = None,
    zero_points: npt.ArrayLike | None = None,
    group_size: int | None = None,
    codebook: npt.ArrayLike | str | None = None,
    codebook_bits: int | None = None,
) -> PackedMatrix | CudaPackedMatrix | GroupedMatrix:
    """Pack a (K, N) integer matrix for reuse as `b` of `ulp.gemm`, or with `scales` as a `GroupedMatrix`.

    b: uint8 (unsigned), int8 (signed; at 1 bit only -1 and +1), or any integer dtype: unsigned if all values are in 0..2^bits-1, else
        signed. An array in the memory of a GPU is packed there.
    bits: 1..8, or "W3A8", whose 3 counts.
    device: "cuda" or "cuda:<number>" packs for a GPU, and gives a `CudaPackedMatrix`. By default where b is.
    scales: floats (groups, N): the weights of a group of k of a column are (b - zero point) * scale. On the CPU only.
    zero_points: numbers (groups, N), (N,), (groups, 1) or one for all; fractions, too. Signed b have 0 by default, and so have unsigned.
    group_size: k of a group, the last of which may be shorter; by default K / groups.
    codebook: what a code of 2 to 4 bits stands for instead of itself: 2^bits numbers, or "nf4", "fp4" (bitsandbytes), "fp4_e2m1" (OCP)
        or "flint4".
    codebook_bits: 8 or 16, of the integers that stand for its entries (`GroupedMatrix.codebook_error`); 16 take twice as many products.
        By default as many as make them exact, and 8 where neither does.
    Raises ValueError for a value out of range (with index, value and interval) or a shape that is not 2-D, TypeError for other dtypes;
    for a GPU also RuntimeError where none can be used, MemoryError.
    """
    width = weight_width(bits, "bits")
    if scales is not None:
        if on_gpu(b) or device not in (None, "cpu"):
            raise ValueError("scales: weights in groups are multiplied on the CPU; leave device out, and pass b as an array there")
        return pack_grouped(b, width, scales, zero_points, group_size, codebook, codebook_bits)
    for name, value in (("zero_points", zero_points), ("group_size", group_size), ("codebook", codebook), ("codebook_bits", codebook_bits)):
        if value is not None:
            raise ValueError(f"{name} without scales: pass scales, (groups, N), which make b a matrix in groups")
    if device is not None or on_gpu(b):
        packed = pack_for_gpu(b, width, device)
        if packed is not None:
            return packed
    return PackedMatrix(pack_array(b, width))


def pack_array(b: object, bits: int) -> _core.Packed:
    """The native matrix of `b`. Precondition: bits is in 1..8."""
    codes = weight_codes(b, bits)
    try:
        return _core.pack(codes, bits)
    except _core.OutOfRange:
        raise out_of_range(codes, "b", bits) from None


def _from_host(values: IntArray, bits: int, _: int | None) -> PackedMatrix:
    return PackedMatrix(_core.pack(values, bits))


Matrix._makers["cpu"] = _from_host


def _rebuild(header: object, data: object) -> PackedMatrix:
    """A matrix from the fields of a file or a pickle, each of which may be anything."""
    if not isinstance(header, (tuple, list)) or len(header) != len(_FIELDS):
        raise ValueError(f"expected the {len(_FIELDS)} numbers {', '.join(_FIELDS)}")
    try:
        version = integer(header[0], "version", 0, 2**31)
        if version != FORMAT_VERSION:
            raise ValueError(f"format version {version}, but this ulp reads version {FORMAT_VERSION}")
        k = integer(header[1], "k", 0, _MAX_DIMENSION)
        n = integer(header[2], "n", 0, _MAX_DIMENSION)
        bits = bit_width(header[3], "bits")
        signed = integer(header[4], "signed", 0, 1)
    except TypeError as error:
        raise ValueError(str(error)) from None
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 1:
        raise ValueError("the data are not a one-dimensional array of bytes")
    expected = _core.packed_nbytes(k, n, bits)
    if data.size != expected:
        raise ValueError(f"{data.size} bytes of data where {k} x {n} values of {bits} bits take {expected}")
    if k == 0 and n > _MAX_EMPTY_N:
        raise ValueError(f"an empty matrix of {n} columns")
    return PackedMatrix(_core.from_data(np.ascontiguousarray(data), k, n, bits, bool(signed)))


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".safetensors"):
        raise ValueError(f"{path.name}: the suffix names the format, .npz or .safetensors")
    return suffix


def _read_npz(path: Path) -> tuple[list[int], IntArray]:
    """Header and data of an .npz file.

    numpy's own reader allocates what a member's header declares before it looks for the bytes; this one reads at most what the file has.
    """
    import zipfile

    # All of it at once: from here on an OSError would be the archive's fault, and there is none.
    content = io.BytesIO(read_file(path))
    try:
        with zipfile.ZipFile(content) as archive:
            if sorted(archive.namelist()) != ["data.npy", "header.npy"]:
                raise ValueError("expected the members header.npy and data.npy")
            header = _read_member(archive, "header.npy", np.dtype("<i8"))
            data = _read_member(archive, "data.npy", np.dtype(np.uint8))
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, OverflowError, zlib.error) as error:
        raise ValueError(f"damaged archive ({error})") from error
    return [int(number) for number in header], data


def _read_member(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any]) -> IntArray:
    """A one-dimensional array of the given dtype."""
    entry = archive.getinfo(name)
    if entry.compress_type != 0:  # zipfile.ZIP_STORED
        raise ValueError(f"{name} is compressed")
    with archive.open(entry) as file:
        # Stored, so what is read is no longer than the file itself, whatever the entry says.
        stream: BinaryIO = file  # type: ignore[assignment]  # typeshed types it as IO[bytes]
        count = _npy_length(stream, name, dtype)
        body = stream.read()
    if len(body) != count * dtype.itemsize:
        raise ValueError(f"{name} declares {count} elements of {dtype.itemsize} bytes but holds {len(body)} bytes")
    return np.frombuffer(body, dtype=dtype)


# What numpy writes before a one-dimensional array: magic, version 1.0, the length of the header, and the header itself.
_NPY_HEADER = re.compile(r"\{'descr': '([<|=>a-z0-9]+)', 'fortran_order': (?:False|True), 'shape': \((\d{1,18}),\), \} *\n", re.ASCII)


def _npy_length(stream: BinaryIO, name: str, dtype: np.dtype[Any]) -> int:
    start = stream.read(10)
    if len(start) != 10 or start[:8] != b"\x93NUMPY\x01\x00":
        raise ValueError(f"{name} is no numpy array")
    match = _NPY_HEADER.fullmatch(stream.read(int.from_bytes(start[8:], "little")).decode("latin-1"))
    if match is None or match[1] != dtype.str:
        raise ValueError(f"{name} is no one-dimensional array of dtype {dtype}")
    return int(match[2])


def _read_safetensors(path: Path) -> tuple[list[int], IntArray]:
    """Header and data of a .safetensors file."""
    from . import _tensorfile

    arrays, metadata = _tensorfile.read(read_file(path))
    if list(arrays) != ["data"] or metadata.get("format") != FORMAT:
        raise ValueError(f"expected one tensor, 'data', and the metadata format={FORMAT}")
    texts = [metadata.get(name, "") for name in _FIELDS]
    if not all(text.isascii() and text.isdigit() and len(text) <= 12 for text in texts):
        raise ValueError(f"the metadata lack a number among {', '.join(_FIELDS)}")
    return [int(text) for text in texts], arrays["data"]
