"""Whatever shape, strides, dtype and zero points an array comes with, the result is the reference's."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from reference import Array, assert_exact, interval, matmul, random_matrix

import ulp

LAYOUTS = (
    "C",
    "F",
    "rows reversed",
    "columns reversed",
    "every other",
    "slice of a slice",
    "transposed",
    "broadcast",
    "read-only",
    "unaligned",
)
INTEGER_DTYPES = (np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64, ">i4", "<u2")

dimensions = st.integers(0, 40)
widths = st.integers(1, 8)


def arranged(x: Array, layout: str) -> Array:
    """A view with the values of x that lies in memory as `layout` says."""
    view: Array
    match layout:
        case "F":
            return np.asfortranarray(x)
        case "rows reversed":
            view = np.ascontiguousarray(x[::-1])[::-1]
            return view
        case "columns reversed":
            view = np.ascontiguousarray(x[:, ::-1])[:, ::-1]
            return view
        case "every other":
            wide: Array = np.full((2 * x.shape[0], 3 * x.shape[1]), 99, dtype=x.dtype)
            view = wide[::2, ::3]
            view[...] = x
            return view
        case "slice of a slice":
            wide = np.full((x.shape[0] + 3, x.shape[1] + 5), 77, dtype=x.dtype)
            view = wide[1:-2, 2:-3]
            view[...] = x
            return view
        case "transposed":
            return np.asarray(np.ascontiguousarray(x.T).T)
        case "broadcast":
            return x if x.shape[0] == 0 else np.asarray(np.broadcast_to(x[0], x.shape))
        case "read-only":
            view = x.copy()
            view.flags.writeable = False
            return view
        case "unaligned":
            raw = np.zeros(x.nbytes + 1, dtype=np.uint8)
            view = raw[1:].view(x.dtype).reshape(x.shape)
            view[...] = x
            return view
        case _:
            return x


@st.composite
def operands(draw: st.DrawFn) -> tuple[Array, Array, tuple[int, int]]:
    """(a, b, bits): any shapes, layouts and dtypes that go together."""
    m, n, k = draw(dimensions), draw(dimensions), draw(st.integers(0, 140))
    bits = draw(widths), draw(widths)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    matrices = []
    for shape, width in (((m, k), bits[0]), ((k, n), bits[1])):
        x = random_matrix(rng, shape, width, draw(st.booleans()))
        if draw(st.booleans()):
            target = np.dtype(draw(st.sampled_from(INTEGER_DTYPES)))
            # A signed matrix stays signed: its values must survive.
            x = x.astype(target) if target.kind == "i" or x.dtype == np.uint8 else x
        matrices.append(arranged(x, draw(st.sampled_from(LAYOUTS))))
    return matrices[0], matrices[1], bits


def zero_points(n: int) -> st.SearchStrategy[int | Array]:
    column = st.lists(st.integers(-300, 300), min_size=n, max_size=n).map(lambda values: np.array(values, dtype=np.int64))
    return st.one_of(st.just(0), st.integers(-300, 300), column)


@given(st.data(), operands())
def test_shapes_layouts_dtypes_and_zero_points(data: st.DataObject, case: tuple[Array, Array, tuple[int, int]]) -> None:
    a, b, bits = case
    a_zero = data.draw(st.one_of(st.just(0), st.integers(-300, 300)))
    b_zero = data.draw(zero_points(b.shape[1]))
    copies = a.copy(), b.copy()
    expected = matmul(a, b, a_zero, b_zero)
    what = f"{a.shape} {a.dtype} {a.strides} x {b.shape} {b.dtype} {b.strides} bits={bits} zeros=({a_zero}, {b_zero})"
    assert_exact(ulp.gemm(a, b, bits=bits, a_zero=a_zero, b_zero=b_zero), expected, what)
    packed = ulp.pack(b, bits[1])
    assert_exact(packed.unpack(), b, f"unpack, {what}")
    assert_exact(ulp.gemm(a, packed, bits=bits, a_zero=a_zero, b_zero=b_zero), expected, f"packed, {what}")
    assert_exact(a, copies[0], "a afterwards")
    assert_exact(b, copies[1], "b afterwards")


@given(
    shape=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    k=st.integers(0, 50),
    n=st.integers(0, 20),
    bits=widths,
    seed=st.integers(0, 2**32),
    layout=st.sampled_from(["C", "F", "swapped", "reversed"]),
)
def test_batches(shape: list[int], k: int, n: int, bits: int, seed: int, layout: str) -> None:
    """Leading dimensions of a, none to three of them, behave as numpy.matmul's."""
    rng = np.random.default_rng(seed)
    a = random_matrix(rng, (*shape[1:], k), bits, False)
    b = random_matrix(rng, (k, n), bits, True)
    match layout:
        case "F":
            a = np.asfortranarray(a)
        case "swapped":
            a = np.swapaxes(np.ascontiguousarray(np.swapaxes(a, 0, -1)), 0, -1)
        case "reversed":
            a = a[::-1]
        case _:
            pass
    if a.ndim == 1:
        b = b[: a.shape[0]]
    c = ulp.gemm(a, b, bits=bits)
    assert_exact(c, a.astype(np.int64) @ b.astype(np.int64), f"{a.shape} x {b.shape}")


@given(
    m=st.integers(0, 12),
    n=st.integers(0, 40),
    k=st.integers(0, 40),
    seed=st.integers(0, 2**32),
    layout=st.sampled_from([layout for layout in LAYOUTS if layout not in ("broadcast", "read-only")]),
    scaled=st.booleans(),
)
def test_out(m: int, n: int, k: int, seed: int, layout: str, scaled: bool) -> None:
    """Any writable array of the right shape takes the result, and nothing around it is touched."""
    rng = np.random.default_rng(seed)
    a = random_matrix(rng, (m, k), 4, False)
    w = ulp.pack(random_matrix(rng, (k, n), 4, True), 4)
    epilogue: dict[str, Any] = {"scale": 0.125, "out_bits": 8, "out_signed": True} if scaled else {}
    out = arranged(np.zeros((m, n), dtype=np.int8 if scaled else np.int32), layout)
    memory = memory_of(out)
    before = memory.copy()
    result = ulp.gemm(a, w, out=out, **epilogue)
    assert result is out
    assert_exact(out, ulp.gemm(a, w, **epilogue), layout)
    out[...] = 0
    # With the result taken out again, every byte is as it was.
    assert np.array_equal(memory, before)


def memory_of(view: Array) -> Array:
    """All bytes of the array that owns a view's memory, in their order there."""
    owner = view
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return owner.ravel(order="K").view(np.uint8)


@given(bits=widths, signed=st.booleans(), seed=st.integers(0, 2**32), data=st.data())
def test_any_integer_dtype_is_judged_by_its_values(bits: int, signed: bool, seed: int, data: st.DataObject) -> None:
    """Values just inside either interval pass, one step outside both is an error that names the element."""
    low, high = interval(bits, signed)
    x = random_matrix(np.random.default_rng(seed), (3, 5), bits, signed).astype(np.int64)
    row, column = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 4))
    x[row, column] = data.draw(st.sampled_from((low, high)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_exact(ulp.pack(x, bits).unpack(), x, f"bits={bits} signed={signed}")
    x[row, column] = data.draw(st.sampled_from((2**bits, -(2 ** (bits - 1)) - 1 if bits > 1 else -2, 2**40, -(2**62))))
    try:
        ulp.pack(x, bits)
    except ValueError as error:
        message = str(error)
        first = min(zip(*np.nonzero(outside(x, bits)), strict=True))
        assert f"b[{first[0]}, {first[1]}] = {x[first]}" in message
    else:
        raise AssertionError(f"{x} passed as {bits}-bit values")


def outside(x: Array, bits: int) -> Array:
    """Elements outside the interval of the sign that x has."""
    low, high = interval(bits, bool(x.min() < 0))
    wrong = (x < low) | (x > high)
    return wrong | (x == 0) if bits == 1 and x.min() < 0 else wrong
