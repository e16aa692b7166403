"""`ulp.gemm` on a GPU.

What can be known on the host is checked there, in the words of the CPU, before anything starts. Arrays on the device are not looked at, as
that would wait for the device: their shapes and dtypes are checked, and with `ULP_CUDA_CHECK=1` their values too.
"""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ulp import _core, config
from ulp._gemm import Epilogue, check_depth, check_kernel, make_epilogue, make_target, result_dtype
from ulp._validate import INT32_MAX, as_array, bit_pair, check_range, integer, interval, no_integers, operand, out_of_range, zero_points
from ulp.packed import PackedMatrix

from . import native
from .arrays import Host, Library, View, is_contiguous, library_of, on_gpu, to_numpy
from .packed import BYTES, CudaPackedMatrix, move, pack_for_gpu

if TYPE_CHECKING:
    from ulp._cuda import Activations, Weights

# numpy takes two microseconds to say one.
_NAMES = {np.dtype(name): name for name in ("int32", "float32", "uint8", "int8")}
_COLUMN_DTYPES = {"b_zero": ("int32",), "scale": ("float32",), "bias": ("int32", "float32")}


class _Left(NamedTuple):
    """a as it was given, of bytes: numpy's, or on a device."""

    library: Library
    codes: Any
    shape: tuple[int, ...]
    signed: bool
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
    """What keeps the memory."""


def gemm(
    a: Any,
    b: Any,
    bits: object,
    a_zero: object,
    b_zero: Any,
    out: Any,
    kernel: str | None,
    scale: Any,
    bias: Any,
    out_bits: object,
    out_zero: object,
    out_signed: object,
    relu: object,
    device: int,
) -> Any:
    """`ulp.gemm` with its arguments, on a device that `common_device` has found. The result is of a's library, or numpy's."""
    if isinstance(a, (PackedMatrix, CudaPackedMatrix)):
        raise TypeError(f"a is a {type(a).__name__}: only b can be packed")
    a_bits, weights = _weights(b, bits, device)
    k, n = weights.k, weights.n
    left = _left(a, a_bits, device)
    library, shape, signed = left.library, left.shape, left.signed
    check_depth(shape, k, n)
    check_kernel(kernel)

    columns = {"b_zero": b_zero, "scale": scale, "bias": bias}
    there = {name: _column(name, value, device) for name, value in columns.items() if on_gpu(value)}
    known = {name: _on_host(name, there[name], weights) if name in there else value for name, value in columns.items()}
    zero_a = integer(a_zero, "a_zero", -(2**31), INT32_MAX, "a zero point")
    zero_b = zero_points(known["b_zero"], "b_zero", n)
    epilogue = make_epilogue(known["scale"], known["bias"], out_bits, out_zero, out_signed, relu, n)
    factors, shifts, _, width, is_signed, zero = epilogue or (None, None, False, 0, False, 0)
    _core.check_gemm(k, n, a_bits, signed, weights.bits, weights.signed, zero_a, zero_b, factors, shifts, width, is_signed, zero)
    result_shape = (n,) if len(shape) == 1 else (*shape[:-1], n)
    dtype = np.dtype(np.int32) if epilogue is None else result_dtype(epilogue)
    if out is not None:
        _check_out(out, library, device, result_shape, dtype)

    rows = _rows_of_left(left, a_bits, device)
    target = None if out is None or isinstance(library, Host) else _free_target(library.view(out), [rows.view, *there.values()])
    result = library.empty(result_shape, _NAMES[dtype]) if target is None else out
    written = target or _rows(library.view(result))
    assert written is not None  # C-contiguous
    if written.m and n:
        held = {name: _device_column(library, name, there.get(name), value, n) for name, value in _vectors(zero_b, epilogue).items()}
        _start(library, rows, signed, a_bits, weights, zero_a, zero_b, epilogue, held, written, kernel)
    if config.verbose:
        _report(rows, signed, a_bits, weights, b_zero_point="b_zero" in there or bool(np.any(zero_b)), kernel=kernel, dtype=dtype)
    return _hand_over(library, result, out, target)


def _left(a: Any, bits: int, device: int) -> _Left:
    """a, of a dtype that can be multiplied. TypeError."""
    if not on_gpu(a):
        given = as_array(a, "a")
        codes = operand(given, "a", bits)
        return _Left(Host(device), codes, given.shape, codes.dtype == np.int8, None)
    library = library_of(a)
    view = library.view(a)
    if view.dtype not in BYTES:
        raise _not_bytes(view.dtype)
    return _Left(library, a, view.shape, view.dtype == "int8", view)


def _rows_of_left(left: _Left, bits: int, device: int) -> _Rows:
    """a on the device, where the kernels can read it. ValueError for a value outside its interval, where values are looked at."""
    library, codes, view = left.library, left.codes, left.view
    if view is None:
        check_range(codes, "a", bits, left.signed)
        codes = library.upload(codes)
        view = library.view(codes)
    rows = _rows(view) or _rows(library.view(library.contiguous(codes)))
    assert rows is not None  # C-contiguous
    if config.cuda_check and left.view is not None:
        activations = _activations(rows, left.signed, bits)
        if native.load().check(activations, rows.columns, device, library.stream()) >= 0:
            raise out_of_range(to_numpy(library, codes), "a", bits)
    return rows


def _weights(b: Any, bits: object, device: int) -> tuple[int, Weights]:
    """a's bits, and b packed on the device. Precondition: a CudaPackedMatrix is there already."""
    if isinstance(b, CudaPackedMatrix):
        return bit_pair(bits, b.bits)[0], b._weights
    if isinstance(b, PackedMatrix):
        a_bits, _ = bit_pair(bits, b.bits)
        packed: object = move(b, f"cuda:{device}")
    else:
        a_bits, b_bits = bit_pair(bits)
        packed = pack_for_gpu(b, b_bits, f"cuda:{device}")
    assert isinstance(packed, CudaPackedMatrix)
    return a_bits, packed._weights


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
    # One row may be taken as far from the next as suits the copy engine.
    stride = outer[-1][1] if outer else _padded(columns)
    return _Rows(view.pointer, m, columns, stride, view) if stride >= columns else None


def _padded(length: int) -> int:
    return -(-length // 16) * 16


def _column(name: str, value: Any, device: int) -> View:
    """Where an array of one value a column lies, of the right dtype, on the right device, without gaps."""
    library = library_of(value)
    view = library.view(value)
    wanted = _COLUMN_DTYPES[name]
    if view.dtype not in wanted:
        raise TypeError(f"{name} has dtype {view.dtype}: on a GPU expected {' or '.join(wanted)}")
    if view.device != device:
        raise ValueError(f"{name} is on cuda:{view.device}, not on cuda:{device}: move it there first")
    return view if is_contiguous(view.shape, view.strides) else library.view(library.contiguous(value))


def _on_host(name: str, view: View, weights: Weights) -> np.ndarray[Any, Any]:
    """What is checked in the place of an array on the device: its values if they may be waited for, else some that pass."""
    if config.cuda_check:
        values = to_numpy(library_of(view.array), view.array)
        if name == "b_zero" and values.size:
            low, high = interval(weights.bits, weights.signed)
            if int(values.min()) < low or int(values.max()) > high:
                raise ValueError(f"b_zero holds values outside {low}..{high}: on a GPU zero points lie in the interval of b")
        return values
    # Zero points lie in b's interval: then |b - b_zero| goes no further than from one end of it to the other.
    fill = {"b_zero": interval(weights.bits, weights.signed)[0], "scale": 1, "bias": 0}[name]
    return np.full(view.shape, fill, dtype=view.dtype)


def _vectors(zero_b: Any, epilogue: Epilogue | None) -> dict[str, Any]:
    factors, shifts = (None, None) if epilogue is None else epilogue[:2]
    return {"b_zero": zero_b, "scale": factors, "bias": shifts}


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
        make_target(out, (math.prod(shape[:-1]), shape[-1]), shape, dtype)
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
    """`out` as rows, unless a kernel cannot write so, or would write over what it still reads."""
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


def _start(
    library: Library,
    rows: _Rows,
    signed: bool,
    a_bits: int,
    weights: Weights,
    zero_a: int,
    zero_b: Any,
    epilogue: Epilogue | None,
    columns: dict[str, View | None],
    written: _Rows,
    kernel: str | None,
) -> None:
    """Put the product on the stream."""
    module = native.load()
    pointers = {name: 0 if view is None else view.pointer for name, view in columns.items()}
    a = _activations(rows, signed, a_bits, zero_a)
    size = module.workspace(a, weights, b_zero_point=bool(pointers["b_zero"] or zero_b), kernel=kernel)
    # The owner goes when this function ends, while the kernels may not have begun: allocators hand memory on in the order of the stream.
    address, _owner = library.workspace(size) if size else (0, None)
    end = module.Epilogue()
    if epilogue is not None:
        factors, _, relu, width, is_signed, zero = epilogue
        bias = columns["bias"]
        end = module.Epilogue(
            kind="quantized" if width else "float32",
            scale=1.0 if pointers["scale"] else float(np.asarray(factors).reshape(())),
            scales=pointers["scale"],
            relu=relu,
            out_bits=width or 8,
            out_signed=is_signed,
            out_zero=zero,
            **{"float_bias" if bias is not None and bias.dtype == "float32" else "bias": pointers["bias"]},
        )
    module.gemm(
        a,
        weights,
        end,
        b_zero=0 if pointers["b_zero"] else int(zero_b),
        b_zeros=pointers["b_zero"],
        out=written.pointer,
        out_stride=written.stride,
        workspace=address,
        workspace_bytes=size,
        stream=library.stream(),
        kernel=kernel,
    )


def _activations(rows: _Rows, signed: bool, bits: int, zero: int = 0) -> Activations:
    activations: Activations = native.load().Activations(
        pointer=rows.pointer, m=rows.m, row_stride=rows.stride, bits=bits, signed=signed, zero=zero
    )
    return activations


def _is_aligned(rows: _Rows) -> bool:
    return rows.pointer % 16 == 0 and rows.stride % 16 == 0


def _hand_over(library: Library, result: Any, out: Any, target: _Rows | None) -> Any:
    """The result as the caller wants it."""
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


def _report(
    rows: _Rows, signed: bool, a_bits: int, weights: Weights, *, b_zero_point: bool, kernel: str | None, dtype: np.dtype[Any]
) -> None:
    """One line on stderr. No time: nobody waits for the device."""
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
        _is_aligned(rows),
        kernel,
        b_signed=weights.signed,
        b_zero_point=b_zero_point,
    )
    signs = "s" if signed else "u", "s" if weights.signed else "u"
    sys.stderr.write(
        f"ulp: {choice['kernel']} MxNxK={m}x{n}x{k} a={signs[0]}{a_bits} b={signs[1]}{weights.bits} -> {dtype} on cuda:{weights.device}\n"
    )
