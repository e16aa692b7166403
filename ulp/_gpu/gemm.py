"""`ulp.gemm` on a GPU.

What can be known on the host is checked there, in the words of the CPU, before anything starts. Values of arrays on the device are not
read, as that would wait for the device: shapes and dtypes are checked, and with `ULP_CUDA_CHECK=1` the values too.
"""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ulp import _core, config
from ulp._call import Call, Operands, make_target
from ulp._matrix import Matrix, move
from ulp._validate import as_array, bit_pair, check_range, interval, no_integers, operand, out_of_range

from . import native
from .arrays import Host, Library, View, is_contiguous, library_of, on_gpu, to_numpy
from .packed import BYTES, pack_for_gpu

if TYPE_CHECKING:
    from ulp._cuda import Activations, Weights

# Constant, because numpy takes two microseconds to make a name.
_NAMES = {np.dtype(name): name for name in ("int32", "float32", "uint8", "int8")}
_COLUMN_DTYPES = {"b_zero": ("int32",), "scale": ("float32",), "bias": ("int32", "float32")}


class _Lhs(NamedTuple):
    """a, of bytes: numpy's, or on a device."""

    library: Library
    codes: Any
    view: View | None
    """On the device; None for numpy's."""


class _Rows(NamedTuple):
    """A matrix as the kernels take it: columns adjacent, any distance from row to row."""

    pointer: int
    m: int
    columns: int
    stride: int
    """From row to row, in elements."""
    view: View
    """Keeps the memory alive."""


class Gpu:
    """Where one call runs: the device that `common_device` has found. `operands`, then `columns`, then `run`."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._there: dict[str, View] = {}
        """Those of b_zero, scale and bias that are on the device already."""

    def operands(self, a: Any, b: Any, bits: object) -> Operands:
        """a as it is, of a dtype that can be multiplied; b packed on the device. TypeError, ValueError."""
        if isinstance(a, Matrix):
            raise TypeError(f"a is a {type(a).__name__}: only b can be packed")
        if isinstance(b, Matrix):
            a_bits, _ = bit_pair(bits, b.bits)
            packed: Matrix | None = move(b, f"cuda:{self._index}")
        else:
            a_bits, b_bits = bit_pair(bits)
            packed = pack_for_gpu(b, b_bits, f"cuda:{self._index}")
        assert packed is not None
        if not on_gpu(a):
            codes = operand(as_array(a, "a"), "a", a_bits)
            return Operands(_Lhs(Host(self._index), codes, None), codes.shape, codes.dtype == np.int8, a_bits, packed._packed, 0.0)
        library = library_of(a)
        view = library.view(a)
        if view.dtype not in BYTES:
            raise _not_bytes(view.dtype)
        return Operands(_Lhs(library, a, view), view.shape, view.dtype == "int8", a_bits, packed._packed, 0.0)

    def columns(self, weights: Weights, b_zero: Any, scale: Any, bias: Any) -> tuple[Any, Any, Any]:
        """b_zero, scale and bias as they can be checked on the host: those on the device are kept, and replaced by values that pass."""
        given = {"b_zero": b_zero, "scale": scale, "bias": bias}
        self._there = {name: _column(name, value, self._index) for name, value in given.items() if on_gpu(value)}
        given |= {name: _on_host(name, view, weights) for name, view in self._there.items()}
        return given["b_zero"], given["scale"], given["bias"]

    def run(self, call: Call, out: Any) -> Any:
        """The product, of a's library, or numpy's: `out`, or a new array. ValueError for values, where they are read."""
        lhs, _, signed, a_bits, weights, _ = call.operands
        library = lhs.library
        _core.check_gemm(
            k=weights.k,
            n=weights.n,
            a_bits=a_bits,
            a_signed=signed,
            b_bits=weights.bits,
            b_signed=weights.signed,
            a_zero=call.a_zero,
            b_zero=call.b_zero,
            epilogue=call.epilogue,
        )
        if out is not None:
            _check_out(out, library, self._index, call.shape, call.dtype)
        rows = self._rows_of_lhs(lhs, signed, a_bits)
        target = None if out is None or isinstance(library, Host) else _free_target(library.view(out), [rows.view, *self._there.values()])
        result = library.empty(call.shape, _NAMES[call.dtype]) if target is None else out
        written = target or _rows(library.view(result))
        assert written is not None  # C-contiguous
        if written.m and weights.n:
            self._start(call, rows, written)
        if config.verbose:
            self._report(call, rows)
        return _hand_over(library, result, out, target)

    def _rows_of_lhs(self, lhs: _Lhs, signed: bool, bits: int) -> _Rows:
        """a on the device, where the kernels can read it. ValueError for a value outside its interval, where values are read."""
        library, codes, view = lhs
        if view is None:
            check_range(codes, "a", bits, signed)
            codes = library.upload(codes)
            view = library.view(codes)
        rows = _rows(view) or _rows(library.view(library.contiguous(codes)))
        assert rows is not None  # C-contiguous
        if config.cuda_check and lhs.view is not None:
            activations = _activations(rows, signed, bits)
            if native.load().check(activations, rows.columns, self._index, library.stream()) >= 0:
                raise out_of_range(to_numpy(library, codes), "a", bits)
        return rows

    def _start(self, call: Call, rows: _Rows, written: _Rows) -> None:
        """Put the product on the stream."""
        module = native.load()
        lhs, _, signed, a_bits, weights, _ = call.operands
        library: Library = lhs.library
        values: dict[str, Any] = {"b_zero": call.b_zero}
        if call.epilogue is not None:
            values |= {"scale": call.epilogue["scale"], "bias": call.epilogue["bias"]}
        views = {name: _device_column(library, name, self._there.get(name), value, weights.n) for name, value in values.items()}
        b_zeros = views["b_zero"]
        b_zero = 0 if b_zeros is not None else int(call.b_zero)
        a = _activations(rows, signed, a_bits, call.a_zero)
        size = module.workspace(a, weights, b_zero_point=b_zeros is not None or b_zero != 0, kernel=call.kernel)
        # The owner goes when this function ends, while the kernels may not have begun: allocators reuse memory in the order of the stream.
        address, _owner = library.workspace(size) if size else (0, None)
        module.gemm(
            a,
            weights,
            _cuda_epilogue(call, views),
            b_zero=b_zero,
            b_zeros=0 if b_zeros is None else b_zeros.pointer,
            out=written.pointer,
            out_stride=written.stride,
            workspace=address,
            workspace_bytes=size,
            stream=library.stream(),
            kernel=call.kernel,
        )

    def _report(self, call: Call, rows: _Rows) -> None:
        """One line on stderr. No time: nobody waits for the device."""
        _, _, signed, a_bits, weights, _ = call.operands
        machine = native.devices()[weights.device]
        m, n, k = rows.m, weights.n, weights.k
        choice = native.load().pick(
            m,
            n,
            k,
            a_bits,
            signed,
            weights.bits,
            machine["arch"],
            machine["sms"],
            rows.pointer % 16 == 0 and rows.stride % 16 == 0,
            call.kernel,
            b_signed=weights.signed,
            b_zero_point="b_zero" in self._there or bool(np.any(call.b_zero)),
        )
        signs = "s" if signed else "u", "s" if weights.signed else "u"
        sys.stderr.write(
            f"ulp: {choice['kernel']} MxNxK={m}x{n}x{k} a={signs[0]}{a_bits} b={signs[1]}{weights.bits} -> {call.dtype} "
            f"on cuda:{weights.device}\n"
        )


def _cuda_epilogue(call: Call, views: dict[str, View | None]) -> Any:
    """The epilogue as the kernels take it, its columns on the device."""
    module = native.load()
    given = call.epilogue
    if given is None:
        return module.Epilogue()
    scales, bias = views["scale"], views["bias"]
    return module.Epilogue(
        kind="quantized" if "out_bits" in given else "float32",
        scale=1.0 if scales is not None else float(np.asarray(given["scale"]).reshape(())),
        scales=0 if scales is None else scales.pointer,
        relu=given["relu"],
        out_bits=given.get("out_bits", 8),
        out_signed=given.get("out_signed", False),
        out_zero=given.get("out_zero", 0),
        **{} if bias is None else {"float_bias" if bias.dtype == "float32" else "bias": bias.pointer},
    )


def _not_bytes(dtype: str) -> TypeError:
    if dtype.startswith(("int", "uint")):
        return TypeError(f"a has dtype {dtype}: on a GPU expected uint8 or int8, as looking for the sign in the values would wait for them")
    return no_integers("a", dtype, floats="float" in dtype)


def _rows(view: View) -> _Rows | None:
    """An array as rows, leading dimensions folded; None where only a copy could be read so."""
    if len(view.shape) == 0:
        return None
    columns = view.shape[-1]
    m = math.prod(view.shape[:-1])
    if m == 0 or columns == 0:
        return _Rows(view.pointer, m, columns, _padded(columns), view)
    if columns > 1 and view.strides[-1] != 1:
        return None
    outer = [(length, stride) for length, stride in zip(view.shape[:-1], view.strides[:-1], strict=True) if length > 1]
    if any(stride != inner * length for (_, stride), (length, inner) in pairwise(outer)):
        return None
    # With one row any stride will do: here one that suits the copy engine.
    stride = outer[-1][1] if outer else _padded(columns)
    return _Rows(view.pointer, m, columns, stride, view) if stride >= columns else None


def _padded(length: int) -> int:
    return -(-length // 16) * 16


def _column(name: str, value: Any, device: int) -> View:
    """Where an array of one value per column lies, of the right dtype, on the right device, without gaps."""
    library = library_of(value)
    view = library.view(value)
    wanted = _COLUMN_DTYPES[name]
    if view.dtype not in wanted:
        raise TypeError(f"{name} has dtype {view.dtype}: on a GPU expected {' or '.join(wanted)}")
    if view.device != device:
        raise ValueError(f"{name} is on cuda:{view.device}, not on cuda:{device}: move it there first")
    return view if is_contiguous(view.shape, view.strides) else library.view(library.contiguous(value))


def _on_host(name: str, view: View, weights: Weights) -> np.ndarray[Any, Any]:
    """Stands for an array on the device in the checks: its values if they may be waited for, else some that pass."""
    if config.cuda_check:
        values = to_numpy(library_of(view.array), view.array)
        if name == "b_zero" and values.size:
            low, high = interval(weights.bits, weights.signed)
            if int(values.min()) < low or int(values.max()) > high:
                raise ValueError(f"b_zero holds values outside {low}..{high}: on a GPU zero points lie in the interval of b")
        return values
    # Zero points lie in b's interval, so |b - b_zero| is at most its width: what its lower end gives.
    fill = {"b_zero": interval(weights.bits, weights.signed)[0], "scale": 1, "bias": 0}[name]
    return np.full(view.shape, fill, dtype=view.dtype)


def _device_column(library: Library, name: str, there: View | None, value: Any, n: int) -> View | None:
    """The n values on the device; None where one number, or nothing, serves all columns."""
    if there is not None:
        if math.prod(there.shape) == n and len(there.shape) == 1:
            return there
        own = library_of(there.array)
        return own.view(own.broadcast(there.array, n))
    if not isinstance(value, np.ndarray) or (name == "scale" and value.size == 1):
        return None
    return library.view(library.upload(value))


def _check_out(out: Any, library: Library, device: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if isinstance(library, Host):
        make_target(out, shape, dtype)
        return
    if not on_gpu(out) or type(library_of(out)) is not type(library):
        raise TypeError(
            f"out of type {type(out).__name__}: expected an array of a's library on cuda:{device}, of shape {shape} and dtype {dtype}"
        )
    view = library.view(out)
    if view.dtype != _NAMES[dtype]:
        raise TypeError(f"out has dtype {view.dtype}: this call gives {dtype}")
    if view.shape != shape:
        raise ValueError(f"out has shape {view.shape}: this call gives {shape}")
    if view.device != device:
        raise ValueError(f"out is on cuda:{view.device}, not on cuda:{device}")


def _free_target(out: View, read: list[View]) -> _Rows | None:
    """`out` as rows; None where a kernel cannot write to it, or would overwrite what it still reads."""
    extent = _extent(out)
    if any(begin < extent[1] and extent[0] < end for begin, end in map(_extent, read)):
        return None
    return _rows(out)


def _extent(view: View) -> tuple[int, int]:
    """The bytes from the first to before the last element."""
    if math.prod(view.shape) == 0:
        return view.pointer, view.pointer
    size = np.dtype(view.dtype).itemsize
    spans = [(length - 1) * stride * size for length, stride in zip(view.shape, view.strides, strict=True)]
    return view.pointer + sum(min(span, 0) for span in spans), view.pointer + sum(max(span, 0) for span in spans) + size


def _activations(rows: _Rows, signed: bool, bits: int, zero: int = 0) -> Activations:
    activations: Activations = native.load().Activations(
        pointer=rows.pointer, m=rows.m, row_stride=rows.stride, bits=bits, signed=signed, zero=zero
    )
    return activations


def _hand_over(library: Library, result: Any, out: Any, target: _Rows | None) -> Any:
    """The result where the caller expects it: in `out`, on the host, or new on the device."""
    if isinstance(library, Host):
        array = to_numpy(library, result)
        if out is None:
            return array
        out[...] = array
        return out
    if out is None:
        return result
    if target is None:
        library.assign(out, result)
    return out
