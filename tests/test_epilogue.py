"""Scaled and requantized results: bit-equal to float32 arithmetic in numpy, and to onnxruntime's QLinearMatMul."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
from reference import Array, assert_exact, interval, matmul, random_matrix, requantize

import ulp
from ulp import _gemm

KERNELS = [kernel for kernel in ulp.kernels() if kernel.isa in ulp.available_isas()]
SHAPES = [(1, 1, 1), (3, 9, 17), (5, 33, 64), (16, 40, 100), (2, 7, 0), (0, 4, 8), (70, 65, 130)]


def problem(shape: tuple[int, int, int], pair: tuple[int, int], seed: int = 0) -> tuple[Array, ulp.PackedMatrix, Array]:
    """a, packed b, and the exact sums."""
    m, n, k = shape
    rng = np.random.default_rng([seed, *shape, *pair])
    a = random_matrix(rng, (m, k), pair[0], False)
    b = random_matrix(rng, (k, n), pair[1], True)
    return a, ulp.pack(b, pair[1]), matmul(a, b)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize(
    ("out_bits", "out_signed"), [(bits, signed) for bits in range(1, 9) for signed in (False, True) if bits > 1 or not signed]
)
def test_requantized(out_bits: int, out_signed: bool, relu: bool) -> None:
    low, high = interval(out_bits, out_signed)
    for number, (shape, zero) in enumerate(itertools.product(SHAPES, {low, (low + high) // 2, high})):
        a, w, sums = problem(shape, (3, 3))
        rng = np.random.default_rng(number)
        bias = rng.integers(-200, 200, size=shape[1]).astype(np.int32) if number % 2 else None
        spread = max(1.0, float(np.abs(sums).max(initial=1)) / max(high, 1))
        scale: Any = np.float32(1 / spread) if number % 3 else rng.uniform(0.2, 3, size=shape[1]).astype(np.float32) / np.float32(spread)
        c = ulp.gemm(a, w, scale=scale, bias=bias, out_bits=out_bits, out_signed=out_signed, out_zero=zero, relu=relu)
        expected = requantize(sums, scale, bias, out_bits, out_signed, zero, relu)
        assert c.dtype == expected.dtype
        assert_exact(c, expected, f"{shape} bits={out_bits} signed={out_signed} zero={zero} relu={relu}")


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_every_kernel(kernel: ulp.Kernel) -> None:
    for pair in sorted(kernel.pairs):
        a, w, sums = problem((7, 45, 70), pair, seed=3)
        bias = np.arange(-22, 23, dtype=np.int32)
        scale = np.linspace(0.001, 0.1, 45, dtype=np.float32)
        c = ulp.gemm(a, w, bits=pair, kernel=kernel.name, scale=scale, bias=bias, out_bits=8, out_zero=7)
        assert_exact(c, requantize(sums, scale, bias, 8, False, 7, False), f"{kernel} {pair}")
        real = ulp.gemm(a, w, bits=pair, kernel=kernel.name, scale=scale, bias=bias, relu=True)
        assert_exact(real, np.maximum((sums + bias).astype(np.float32) * scale, np.float32(0)), f"{kernel} {pair} float")


def test_ties_round_to_even() -> None:
    """Sums 0..15 times one half: 0.5 -> 0, 1.5 -> 2, 2.5 -> 2."""
    a = np.arange(16, dtype=np.uint8)[:, None]
    one = np.ones((1, 1), dtype=np.uint8)
    c = ulp.gemm(a, one, bits=(4, 1), scale=0.5, out_bits=8)
    assert c[:, 0].tolist() == [0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 8]
    c = ulp.gemm(a, -one.astype(np.int8), bits=(4, 1), scale=0.5, out_bits=8, out_signed=True, out_zero=1)
    assert c[:, 0].tolist() == [1 - x for x in (0, 0, 1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6, 7, 8)]


def test_float_result_rounds_twice() -> None:
    """float(sum) * scale, rounded, + bias, rounded: never fused into one rounding, whatever the ISA offers."""
    rng = np.random.default_rng(5)
    a, w, sums = problem((9, 64, 900), (8, 8))
    scale = rng.uniform(1e-5, 1, size=64).astype(np.float32)
    bias = rng.normal(size=64).astype(np.float32) * 1000
    for isa in ulp.available_isas():
        ulp.set_isa(isa)
        c = ulp.gemm(a, w, scale=scale, bias=bias)
        assert c.dtype == np.float32
        assert_exact(c, sums.astype(np.float32) * scale + bias, isa)


def test_sums_beyond_the_exact_floats_round_as_numpy_does() -> None:
    """float32 holds integers up to 2^24 exactly; larger sums are rounded once, half to even."""
    a = np.full((1, 30_000), 255, dtype=np.uint8)
    a[0, :3] = (1, 2, 4)
    w = ulp.pack(np.full((30_000, 8), 127, dtype=np.int8) - np.arange(8, dtype=np.int8), 8)
    sums = ulp.gemm(a, w)
    assert int(sums.max()) > 2**24
    assert_exact(ulp.gemm(a, w, scale=1.0), sums.astype(np.float32), "scale 1")


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e-38, 3e38, -3e38])
def test_extreme_scales_saturate(scale: float) -> None:
    a, w, sums = problem((4, 9, 33), (4, 4))
    with np.errstate(over="ignore"):
        expected = requantize(sums, scale, None, 8, True, -3, False)
    assert_exact(ulp.gemm(a, w, scale=scale, out_bits=8, out_signed=True, out_zero=-3), expected, str(scale))


def test_accepted_forms_of_scale_and_bias() -> None:
    a, w, sums = problem((4, 6, 33), (4, 4))
    expected = sums.astype(np.float32) * np.float32(0.25)
    forms: list[Any] = [
        0.25,
        np.float64(0.25),
        np.array(0.25),
        np.full(6, 0.25),
        [0.25] * 6,
        np.full(12, 0.25)[::2],
        np.full(1, 0.25, np.float16),
    ]
    for scale in forms:
        assert_exact(ulp.gemm(a, w, scale=scale), expected, repr(scale))
    for bias in ([1] * 6, np.ones(6, dtype=np.int64), np.ones(6), np.ones(12, dtype=np.int16)[::-2]):
        with_bias = ulp.gemm(a, w, scale=1, bias=bias)
        assert_exact(with_bias, (sums + 1).astype(np.float32), repr(bias))


def test_zero_points_and_batches_with_an_epilogue() -> None:
    rng = np.random.default_rng(8)
    a = random_matrix(rng, (3, 5, 40), 5, False)
    b = random_matrix(rng, (40, 12), 3, False)
    b_zero = np.arange(12)
    sums = matmul(a.reshape(15, 40), b, 9, b_zero)
    c = ulp.gemm(a, b, bits=(5, 3), a_zero=9, b_zero=b_zero, scale=0.01, out_bits=8, out_zero=100)
    assert_exact(c, requantize(sums, 0.01, None, 8, False, 100, False).reshape(3, 5, 12), "batch")


PLAIN: dict[str, dict[str, Any]] = {
    "float": {"scale": 0.02, "out_bits": 4, "relu": True},
    "numpy float32": {"scale": np.float32(0.02), "out_bits": 4},
    "numpy float64": {"scale": np.float64(0.02), "out_bits": 8, "out_zero": 128},
    "array of no dimension": {"scale": np.array(0.02, np.float32), "bias": np.arange(6, dtype=np.int32), "out_bits": 3},
    "one per column": {"scale": np.linspace(0.01, 0.1, 6, dtype=np.float32), "bias": np.arange(-9, 3, 2, dtype=np.int32), "out_bits": 4},
    "signed": {"scale": 0.1, "bias": np.full(6, -50, np.int32), "out_bits": 5, "out_signed": True, "out_zero": -3, "relu": True},
    "zero points": {"scale": 0.01, "out_bits": 8, "out_zero": 40, "a_zero": 3, "b_zero": -2},
    "float32": {"scale": np.linspace(0.01, 0.1, 6, dtype=np.float32), "relu": True},
    "float32, bias": {"scale": 0.3, "bias": np.arange(-9, 3, 2, dtype=np.int32)},
    "float32, float bias": {"scale": np.linspace(-0.1, 0.1, 6, dtype=np.float32), "bias": np.linspace(-2, 2, 6, dtype=np.float32)},
    "strided": {"scale": np.linspace(0.01, 0.1, 12, dtype=np.float32)[::-2], "bias": np.arange(12, dtype=np.int32)[::2], "out_bits": 6},
    "unaligned": {"scale": np.frombuffer(b"0" + np.linspace(0.01, 0.1, 6, dtype=np.float32).tobytes(), np.float32, offset=1)},
}


@pytest.mark.parametrize("arguments", PLAIN.values(), ids=PLAIN.keys())
@pytest.mark.parametrize("rows", [None, 1, 5])
def test_plain_arguments_take_the_quick_path_to_the_same_result(
    arguments: dict[str, Any], rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, w, _ = problem((rows or 1, 6, 40), (4, 4))
    if rows is None:
        a = a[0]
    # Codes of another dtype, a list of weights' factors, a list of biases: nothing that is plain.
    forms = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in arguments.items()}
    expected = ulp.gemm(a.astype(np.int64), w, **forms)
    monkeypatch.delattr(_gemm, "make_call")
    c = ulp.gemm(a, w, **arguments)
    assert c.dtype == expected.dtype
    assert_exact(c, expected, str(arguments))
    if rows is not None:
        out = np.empty_like(expected)
        assert ulp.gemm(a, w, bits=(4, 4), out=out, **arguments) is out
        assert_exact(out, expected, "out")


def test_out_may_be_scale_bias_or_a() -> None:
    a, w, sums = problem((1, 6, 6), (4, 4))
    scale = np.linspace(0.1, 0.6, 6, dtype=np.float32)
    bias = np.linspace(-1, 1, 6, dtype=np.float32)
    for number in range(2):
        row, own_scale, own_bias = sums.astype(np.float32) * scale + bias, scale.copy(), bias.copy()
        out = (own_scale, own_bias)[number].reshape(1, 6)
        assert ulp.gemm(a, w, scale=own_scale, bias=own_bias, out=out) is out
        assert_exact(out, row, ("scale", "bias")[number])
    expected = requantize(sums, scale, None, 4, False, 0, False)
    assert ulp.gemm(a, w, scale=scale, out_bits=4, out=a) is a
    assert_exact(a, expected, "a")


def test_out_may_be_zero_points_or_a_view_of_the_bias() -> None:
    a, w, sums = problem((1, 6, 40), (4, 4))
    zeros = np.arange(6, dtype=np.int32)
    expected = sums - int(a.sum()) * np.arange(6)
    out = zeros[None]
    assert ulp.gemm(a, w, b_zero=zeros, out=out) is out
    assert_exact(out, expected, "b_zero")
    # Rows of out between rows that are not its own; the second of them, backwards, is the bias.
    two, w, sums = problem((2, 6, 40), (4, 4))
    room = np.zeros((4, 8), dtype=np.float32)
    room[2, :6] = bias = np.linspace(-1, 1, 6, dtype=np.float32)
    rows = room[::2, :6]
    assert ulp.gemm(two, w, scale=0.5, bias=room[2, 5::-1], out=rows) is rows
    assert_exact(rows, sums.astype(np.float32) * np.float32(0.5) + bias[::-1], "bias")
    assert not room[1::2].any()
    assert not room[:, 6:].any()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "infinite": ({"scale": -np.inf}, r"scale = -inf is not finite in float32"),
    "nan": ({"scale": np.float32("nan")}, r"scale = nan is not finite"),
    "past float32": ({"scale": 1e39}, r"scale = 1e\+39 is not finite in float32"),
    "nan among others": (
        {"scale": np.array([1, 1, np.nan, 1, 1, 1], np.float32)},
        r"scale holds nan at \[2\], which is not finite in float32: expected values from -3\.4e38 to 3\.4e38",
    ),
    "scales": ({"scale": np.ones(5, np.float32)}, r"scale has shape \(5,\): expected a scalar or \(6,\), one value per column of b"),
    "matrix of scales": ({"scale": np.ones((1, 6), np.float32)}, r"scale has shape \(1, 6\): expected a scalar or \(6,\)"),
    "biases": ({"scale": 1.0, "bias": np.ones(1, np.int32)}, r"bias has shape \(1,\): expected \(6,\), one value per column of b"),
    "float biases": ({"scale": 1.0, "bias": np.ones(7, np.float32)}, r"bias has shape \(7,\): expected \(6,\)"),
    "matrix of biases": ({"scale": 1.0, "bias": np.ones((1, 6), np.int32)}, r"bias has shape \(1, 6\): expected \(6,\)"),
    "zero point": ({"scale": 1.0, "out_bits": 4, "out_zero": 16}, "out_zero=16: expected a zero point of the result from 0 to 15"),
    "signed zero point": ({"scale": 1.0, "out_bits": 4, "out_signed": True, "out_zero": 8}, "out_zero=8: expected .* from -8 to 7"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG.keys())
def test_wrong_values_are_named_on_both_paths(arguments: dict[str, Any], message: str) -> None:
    a, w, _ = problem((2, 6, 40), (4, 4))
    for codes in (a, a.astype(np.int64), a[0]):
        with pytest.raises(ValueError, match=message):
            ulp.gemm(codes, w, **arguments)


def test_bias_that_could_leave_int32_is_refused() -> None:
    a = np.full((1, 100), 255, dtype=np.uint8)
    w = ulp.pack(np.full((100, 2), 255, dtype=np.uint8), 8)
    max_bias = 2**31 - 1 - 100 * 255 * 255
    for form in (list, partial(np.array, dtype=np.int32)):
        assert ulp.gemm(a, w, scale=1.0, bias=form([max_bias, -max_bias]))[0, 0] == np.float32(2**31 - 1)
        for value in (max_bias + 1, -max_bias - 1, -(2**31)):
            message = rf"bias holds {value} at \[1\], and with sums of up to 6502500 .* K = 100 it must lie in -{max_bias}\.\.{max_bias}$"
            with pytest.raises(ValueError, match=message):
                ulp.gemm(a, w, scale=1.0, bias=form([0, value]), out_bits=8)


@pytest.mark.parametrize("b_zero", [-1000, [0, -1000]], ids=str)
def test_zero_points_narrow_the_room_for_bias(b_zero: Any) -> None:
    """One column with a large zero point decides for all."""
    a = np.full((1, 100), 255, dtype=np.uint8)
    w = ulp.pack(np.full((100, 2), 127, dtype=np.int8), 8)
    max_bias = 2**31 - 1 - 100 * (255 + 500) * (127 + 1000)
    c = ulp.gemm(a, w, a_zero=-500, b_zero=b_zero, scale=1.0, bias=np.array([0, max_bias], np.int32))
    assert c[0, 1] == np.float32(2**31 - 1)
    with pytest.raises(ValueError, match=rf"\.\.{max_bias}$"):
        ulp.gemm(a, w, a_zero=-500, b_zero=b_zero, scale=1.0, bias=np.array([0, max_bias + 1], np.int32))


@pytest.mark.parametrize("shape", [(0, 2), (3, 0), (0, 0)], ids=str)
def test_empty_out(shape: tuple[int, int]) -> None:
    """numpy calls it contiguous whatever its strides are."""
    m, n = shape
    a, w = np.zeros((m, 4), np.uint8), ulp.pack(np.zeros((4, n), np.uint8), 4)
    room = np.zeros((6, 6, 3), dtype=np.float32)
    out = room[:m, :n, 1]
    assert out.flags.carray
    assert ulp.gemm(a, w, scale=1.0, out=out) is out
    sums = room.view(np.int32)[:m, :n, 1]
    assert ulp.gemm(a, w, out=sums) is sums


def test_no_columns_and_no_depth_with_an_epilogue() -> None:
    nothing = np.empty(0, np.float32)
    assert ulp.gemm(np.zeros((2, 4), np.uint8), ulp.pack(np.zeros((4, 0), np.uint8), 4), scale=nothing, bias=nothing).shape == (2, 0)
    w = ulp.pack(np.zeros((0, 2), np.uint8), 4)
    c = ulp.gemm(np.zeros((1, 0), np.uint8), w, scale=1.0, bias=np.array([2**31 - 1, -(2**31) + 1], np.int32))
    assert c.tolist() == [[2.0**31, -(2.0**31)]]


def onnx_model(zero_dtype: Any, scales: Array, zeros: Array, out_zero: int, out_scale: float, a_scale: float, a_zero: int) -> bytes:
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper, types = onnx.helper, onnx.numpy_helper, onnx.TensorProto
    constants = {
        "a_scale": np.float32(a_scale),
        "a_zero": np.uint8(a_zero),
        "b_scale": scales,
        "b_zero": zeros,
        "y_scale": np.float32(out_scale),
        "y_zero": np.uint8(out_zero),
    }
    weight_type = types.UINT8 if zero_dtype == np.uint8 else types.INT8
    graph = helper.make_graph(
        [helper.make_node("QLinearMatMul", ["a", "a_scale", "a_zero", "b", "b_scale", "b_zero", "y_scale", "y_zero"], ["y"])],
        "requantise",
        [helper.make_tensor_value_info("a", types.UINT8, [None, None]), helper.make_tensor_value_info("b", weight_type, [None, None])],
        [helper.make_tensor_value_info("y", types.UINT8, [None, None])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("b_signed", [False, True])
@pytest.mark.parametrize("per_column", [False, True])
def test_bit_equal_to_onnxruntime(b_signed: bool, per_column: bool) -> None:
    """Activations of 6 and weights of 5 bits, so that onnxruntime's 16-bit intermediate sums cannot saturate."""
    onnxruntime = pytest.importorskip("onnxruntime")
    rng = np.random.default_rng(1)
    for m, n, k in [(1, 1, 1), (7, 33, 65), (64, 48, 200), (5, 16, 1000)]:
        a = random_matrix(rng, (m, k), 6, False)
        b = random_matrix(rng, (k, n), 5, b_signed)
        a_zero, out_zero = 31, 117
        count = n if per_column else 1
        b_scale = rng.uniform(0.01, 0.2, size=count).astype(np.float32)
        a_scale = np.float32(0.037)
        b_zero = np.full(count, 0 if b_signed else 15, dtype=b.dtype)
        sums = matmul(a, b, a_zero, int(b_zero[0]))
        # Many ties: a power of two as the scale of y where the others are one.
        for out_scale, scales, scale_a in (
            (np.float32(np.abs(sums).max(initial=1) * 1e-4 + 0.01), b_scale, a_scale),
            (np.float32(8), np.ones_like(b_scale), np.float32(1)),
        ):
            shaped = (scales, b_zero) if per_column else (scales[0], b_zero[0])
            model = onnx_model(b.dtype, shaped[0], shaped[1], out_zero, float(out_scale), float(scale_a), a_zero)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            expected = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {"a": a, "b": b})[0]
            multiplier = (scale_a * shaped[0]) / out_scale
            c = ulp.gemm(a, b, bits=(6, 5), a_zero=a_zero, b_zero=int(b_zero[0]), scale=multiplier, out_bits=8, out_zero=out_zero)
            assert_exact(c, expected, f"{m}x{n}x{k} signed={b_signed} per column={per_column}")
