"""Layers that others have quantized in groups, from safetensors files: GPTQ, AWQ and bitsandbytes.

A layer is a few arrays whose names share a beginning. Files are hostile until checked: nothing in them is executed, and sizes are those of
the arrays that are there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from . import _tensorfile
from ._codebook import FP4, NF4
from ._files import read_file
from .grouped import GroupedMatrix
from .packed import pack

Arrays = Mapping[str, npt.NDArray[Any]]

# Where AWQ puts the eight columns of a word: nibble j holds column _AWQ_ORDER[j].
_AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
_STATE = ".quant_state.bitsandbytes__"
_CODEBOOKS = {"nf4": NF4, "fp4": FP4}


class GroupedLayer(NamedTuple):
    """A linear layer of a file: `matrix` (in_features, out_features), `bias` float32 (out_features,) or None, and whose format it is.

    order: int64 (in_features,), the input that each row of `matrix` multiplies, of GPTQ's act-order: matrix.linear(x[..., order]); None: as
    they come. `nn.GroupedLinear.from_matrix` takes all of it.
    """

    matrix: GroupedMatrix
    bias: npt.NDArray[np.float32] | None
    source: Literal["gptq", "awq", "bitsandbytes"]
    order: npt.NDArray[np.int64] | None = None


def load_grouped(path: str | os.PathLike[str], *, zeros: Literal["gptq", "gptq_v2"] = "gptq") -> dict[str, GroupedLayer]:
    """The layers of a .safetensors file whose weights are in groups, by name; other arrays of the file are left out.

    Taken are GPTQ (qweight, qzeros, scales, g_idx, in act-order too; 2, 3, 4 and 8 bits), AWQ (qweight, qzeros, scales; 4 bits), and
    bitsandbytes (NF4 and FP4 with their absmax, nested too, in blocks that do not cross rows).
    zeros: of GPTQ: "gptq" files hold zero points less 1, "gptq_v2" files hold them as they are (checkpoint_format in their config).
    Safe on files from anyone: no code is run, and no declared size is believed.
    Raises ValueError for what is no safetensors file and for a layer that does not fit, by name; OSError.
    """
    if zeros not in ("gptq", "gptq_v2"):
        raise ValueError(f"zeros={zeros!r}: expected 'gptq' or 'gptq_v2'")
    try:
        arrays, _ = _tensorfile.read(read_file(Path(path)), bits=True)
    except ValueError as error:
        raise ValueError(f"{path} is no safetensors file that can be read: {error}") from error
    layers: dict[str, GroupedLayer] = {}
    for key in arrays:
        name, _, last = key.rpartition(".")
        dot = name + "." if name else ""
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # what leaves float32 is refused, without warnings
                if last == "qweight":
                    layers[name] = _packed_words(arrays, dot, 0 if zeros == "gptq_v2" else 1)
                elif _STATE in key:
                    name = key[: key.index(_STATE)].removesuffix("weight").removesuffix(".")
                    layers[name] = _bitsandbytes(arrays, key)
        except ValueError as error:
            raise ValueError(f"{path}: layer {name!r}: {error}") from error
    return layers


def _packed_words(arrays: Arrays, dot: str, less: int) -> GroupedLayer:
    """A layer of GPTQ or AWQ: integers in words of 32 bits."""
    words, zeros, scales = (_array(arrays, dot + name) for name in ("qweight", "qzeros", "scales"))
    if words.dtype != np.int32 or zeros.dtype != np.int32 or words.ndim != 2 or zeros.ndim != 2 or scales.ndim != 2:
        raise ValueError("qweight and qzeros are int32 matrices, and scales a matrix of floats")
    groups, n = scales.shape
    if groups == 0 or n == 0 or words.size == 0 or len(zeros) != groups:
        raise ValueError(f"scales of shape {scales.shape} do not fit qzeros of shape {zeros.shape}")
    if words.shape[1] == n:
        bits, rest = divmod(zeros.shape[1] * 32, n)
        if rest or bits not in (2, 3, 4, 8) or len(words) * 32 % bits:
            raise ValueError(
                f"qweight {words.shape}, qzeros {zeros.shape} and scales {scales.shape} are of no GPTQ layer of 2, 3, 4 or 8 bits"
            )
        codes = _bits_along(words.T, bits).T
        points = (_bits_along(zeros, bits).astype(np.int16) + less) & (2**bits - 1)
        size, order = _groups_of(arrays.get(dot + "g_idx"), len(codes), groups)
        codes = codes if order is None else codes[order]
        source: Literal["gptq", "awq"] = "gptq"
    elif words.shape[1] * 8 == n == zeros.shape[1] * 8:
        bits, source, order = 4, "awq", None
        codes, points = (_nibbles(each) for each in (words, zeros))
        size, rest = divmod(len(codes), groups)
        if rest:
            raise ValueError(f"{groups} groups do not divide K = {len(codes)}")
    else:
        raise ValueError(f"qweight of shape {words.shape} fits neither GPTQ nor AWQ with scales of shape {scales.shape}")
    matrix = pack(np.ascontiguousarray(codes), bits, scales=_floats(scales), zero_points=_one(points, bits), group_size=size)
    return GroupedLayer(matrix, _bias(arrays, dot, n), source, order)


def _one(points: npt.NDArray[Any], bits: int) -> Any:
    """One zero point where all are the same."""
    first = int(points.flat[0])
    return first if (points == first).all() and 0 <= first < 2**bits else points


def _bits_along(words: npt.NDArray[Any], bits: int) -> npt.NDArray[np.uint8]:
    """Integers that lie in the words of each row one behind the other, the lowest bits first: uint8 (rows, words * 32 / bits)."""
    raw = np.ascontiguousarray(words).astype("<i4", copy=False).view(np.uint8).reshape(len(words), -1)
    if bits == 8:
        return np.asarray(raw)
    flat = np.unpackbits(raw, axis=1, bitorder="little").reshape(len(words), -1, bits)
    made = np.zeros(flat.shape[:2], np.uint8)
    for i in range(bits):
        made |= flat[:, :, i] << np.uint8(i)
    return made


def _nibbles(words: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    parts = _bits_along(words, 4).reshape(len(words), -1, 8)
    made = np.empty_like(parts)
    made[:, :, list(_AWQ_ORDER)] = parts
    return made.reshape(len(words), -1)


def _groups_of(given: npt.NDArray[Any] | None, k: int, groups: int) -> tuple[int, npt.NDArray[np.int64] | None]:
    """k of a group, of a GPTQ layer whose g_idx says the group of each k, and the order of k in which groups lie side by side."""
    size = -(-k // groups)
    if given is None or given.size == 0:
        return size, None
    if given.shape != (k,) or given.dtype.kind not in "iu":
        raise ValueError(f"g_idx has shape {given.shape} and dtype {given.dtype}: expected ({k},) integers")
    sides = np.arange(k) // size
    if np.array_equal(given, sides):
        return size, None
    order = np.argsort(given, kind="stable")
    if not np.array_equal(given[order], sides):
        raise ValueError(f"g_idx does not name {groups} groups of {size} k each")
    return size, order.astype(np.int64)


def _bitsandbytes(arrays: Arrays, key: str) -> GroupedLayer:
    """A 4-bit layer of bitsandbytes, whose state is a JSON text."""
    name = key[: key.index(_STATE)]
    kind = key[key.index(_STATE) + len(_STATE) :]
    if kind not in _CODEBOOKS:
        raise ValueError(f"quantized as {kind!r}: expected nf4 or fp4")
    state = _tensorfile.parse_json(_array(arrays, key).astype(np.uint8).tobytes(), "its quant_state")
    if not isinstance(state, dict):
        raise ValueError("its quant_state is no JSON object")
    shape, block = state.get("shape"), state.get("blocksize")
    sides = isinstance(shape, list) and len(shape) == 2 and all(type(side) is int and 0 < side < 2**31 for side in shape)
    if not isinstance(shape, list) or not sides or type(block) is not int or not 0 < block < 2**20:
        raise ValueError(f"its quant_state names shape {shape!r} and blocksize {block!r}")
    outputs, inputs = shape
    stored = _array(arrays, name)
    if stored.dtype != np.uint8 or stored.size * 2 != outputs * inputs:
        raise ValueError(f"{stored.size} bytes of {stored.dtype} do not hold {outputs} x {inputs} codes of 4 bits")
    if inputs % block:
        raise ValueError(f"blocks of {block} cross the rows of {inputs} inputs: such weights are not supported")
    codes = np.stack([stored.reshape(-1) >> 4, stored.reshape(-1) & 15], axis=1).reshape(outputs, inputs)
    scales = _absmax(arrays, name, state)
    if scales.size != outputs * inputs // block:
        raise ValueError(f"absmax has {scales.size} values: expected {outputs * inputs // block}")
    table = arrays.get(name + ".quant_map")
    entries = _CODEBOOKS[kind] if table is None else _floats(table).reshape(-1)
    if entries.shape != (16,):
        raise ValueError(f"quant_map has shape {entries.shape}: expected (16,)")
    made = pack(
        np.ascontiguousarray(codes.T),
        4,
        scales=np.ascontiguousarray(scales.reshape(outputs, -1).T),
        group_size=block,
        codebook=entries,
    )
    return GroupedLayer(made, _bias(arrays, name.removesuffix("weight"), outputs), "bitsandbytes")


def _absmax(arrays: Arrays, name: str, state: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """The scale of each block; nested: one of 256 numbers times a scale of nested_blocksize blocks, plus an offset."""
    absmax = _array(arrays, name + ".absmax").reshape(-1)
    if name + ".nested_absmax" not in arrays:
        return _floats(absmax)
    outer, table = (_floats(_array(arrays, f"{name}.nested_{part}")).reshape(-1) for part in ("absmax", "quant_map"))
    block, offset = state.get("nested_blocksize"), state.get("nested_offset")
    # Compared before it becomes a float, which JSON's integers can be too large for.
    finite = isinstance(offset, (int, float)) and not isinstance(offset, bool) and abs(offset) < 2**128
    if type(block) is not int or not 0 < block < 2**24 or not finite:
        raise ValueError(f"its quant_state names nested_blocksize {block!r} and nested_offset {offset!r}")
    if absmax.dtype != np.uint8 or table.size != 256 or outer.size != -(-absmax.size // block):
        raise ValueError(f"nested absmax of {absmax.size} {absmax.dtype}, {outer.size} scales and a table of {table.size} do not fit")
    each = np.repeat(outer, block)[: absmax.size]
    return np.asarray(table[absmax] * each + np.float32(offset), np.float32)


def _array(arrays: Arrays, name: str) -> npt.NDArray[Any]:
    if name not in arrays:
        raise ValueError(f"{name} is missing")
    return arrays[name]


def _floats(array: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """float32, from any float of the format, bfloat16 too."""
    if array.dtype.names == ("BF16",):
        return np.asarray((array["BF16"].astype(np.uint32) << 16).view(np.float32))
    if array.dtype.kind != "f":
        raise ValueError(f"floats of dtype {array.dtype.names or array.dtype} are not supported")
    return array.astype(np.float32)


def _bias(arrays: Arrays, dot: str, n: int) -> npt.NDArray[np.float32] | None:
    given = arrays.get(dot + "bias")
    if given is None:
        return None
    bias = _floats(given).reshape(-1)
    if bias.shape != (n,) or not np.isfinite(bias).all():
        raise ValueError(f"bias has shape {given.shape}, or is not finite: expected ({n},)")
    return bias
