"""Weights in groups and codebooks: `ulp.pack(..., scales=)`, `GroupedMatrix`, `nn.GroupedLinear`, and the step of plans."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import ulp
from ulp import _core, nn

F32 = np.float32


@pytest.fixture(params=ulp.available_isas())
def isa(request: Any) -> Iterator[str]:
    before = ulp.get_isa()
    ulp.set_isa(request.param)
    yield request.param
    ulp.set_isa(before)


def expected(a: Any, a_scale: Any, values: Any, zeros: Any, scales: Any, group: int, bias: Any = None) -> Any:
    """The formula of csrc/gemm/grouped.h: int64 sums, float32 as stated. values: integers (K, N); zeros, scales (groups, N)."""
    y = np.zeros((len(a), values.shape[1]), F32)
    for g in range(len(scales)):
        part = slice(g * group, (g + 1) * group)
        sums = a[:, part].astype(np.int64) @ values[part].astype(np.int64)
        less = a[:, part].sum(axis=1, dtype=np.int64)[:, None] * zeros[g].astype(np.float64)
        x = (sums - less).astype(F32).astype(np.float64)
        factor = scales[g] * a_scale[:, g : g + 1]
        y = (x * factor.astype(np.float64) + y).astype(F32)  # one rounding, but for ties of the double sum
    return y if bias is None else y + bias


@pytest.mark.parametrize("bits", range(1, 9))
def test_products_equal_the_formula(isa: str, bits: int) -> None:
    rng = np.random.default_rng(bits)
    sizes = ((1, 128, 64, 32), (3, 200, 40, 64), (9, 256, 9, 128), (13, 96, 33, 24), (6, 512, 32, 512), (2, 33, 1, 16), (1, 1100, 7, 1100))
    for rows, k, n, group in sizes:
        groups = -(-k // group)
        codes = rng.integers(0, 2**bits, (k, n), dtype=np.uint8)
        a = rng.integers(-128, 128, (rows, k)).astype(np.int8)
        scales = rng.standard_normal((groups, n)).astype(F32)
        bias = rng.standard_normal(n).astype(F32)
        a_scale = rng.random(rows).astype(F32)
        of_group = np.repeat(a_scale[:, None], groups, axis=1)
        fractions = rng.uniform(-3, 2**bits, (groups, n)).astype(F32)
        for zeros in (0, 2**bits // 2, rng.integers(0, 2**bits, (groups, n)), fractions):
            if group > 512 and np.ndim(zeros):
                continue  # computed as several groups: checked below
            matrix = ulp.pack(codes, bits, scales=scales, zero_points=zeros, group_size=group)
            want = expected(a, of_group, codes, np.broadcast_to(np.asarray(zeros), scales.shape), scales, group, bias)
            if group > 512:
                np.testing.assert_allclose(matrix.product(a, a_scale, bias=bias), want, rtol=1e-4, atol=1e-3)
            else:
                np.testing.assert_array_equal(matrix.product(a, a_scale, bias=bias), want)


@pytest.mark.parametrize("k", [521, 1031, 1100])
def test_one_group_of_any_length_is_stored_without_gaps(k: int) -> None:
    rng = np.random.default_rng(k)
    codes = rng.integers(0, 16, (k, 8), dtype=np.uint8)
    matrix = ulp.pack(codes, 4, scales=rng.random((1, 8)), zero_points=8)
    assert matrix.nbytes < 1.25 * k * 8 / 2
    np.testing.assert_array_equal(matrix.codes(), codes)
    a = rng.integers(-128, 128, (2, k)).astype(np.int8)
    np.testing.assert_allclose(matrix.product(a), a @ matrix.dequantize(), rtol=1e-4, atol=1e-2)
    again = pickle.loads(pickle.dumps(matrix))
    np.testing.assert_array_equal(again.product(a), matrix.product(a))


@pytest.mark.parametrize(("bits", "width"), [(2, 8), (3, 8), (4, 8), (3, 16), (4, 16)])
def test_codebooks_equal_the_formula(isa: str, bits: int, width: int) -> None:
    rng = np.random.default_rng(bits)
    limit = 127 if width == 8 else 32512
    for rows, k, n, group in ((1, 128, 64, 64), (5, 200, 40, 64), (10, 96, 17, 32)):
        entries = rng.integers(-limit, limit + 1, 2**bits).astype(F32)
        entries[0] = limit
        scales = rng.standard_normal((-(-k // group), n)).astype(F32)
        codes = rng.integers(0, 2**bits, (k, n), dtype=np.uint8)
        matrix: Any = ulp.pack(codes, bits, scales=scales, group_size=group, codebook=entries, codebook_bits=width)
        assert matrix.codebook_error == 0
        a = rng.integers(-128, 128, (rows, k)).astype(np.int8)
        unit = limit / np.abs(matrix.table).max()
        want = expected(a, np.ones((rows, len(scales)), F32), matrix.table[codes], np.zeros_like(scales), scales * F32(unit), group)
        np.testing.assert_array_equal(matrix.product(a), want)
        np.testing.assert_array_equal(matrix.codes(), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_the_largest_sums(isa: str, bits: int) -> None:
    """The bounds beside the accumulators, at their edge: all operands extreme, groups as long as they may be."""
    for k in (32, 512):
        for code in {0, 2**bits - 1}:
            codes = np.full((k, 40), code, np.uint8)
            matrix = ulp.pack(codes, bits, scales=np.ones((1, 40), F32), zero_points=2**bits - 1 - code)
            for value in (-128, 127):
                a = np.full((9, k), value, np.int8)
                np.testing.assert_array_equal(matrix.product(a), F32(value * k * (2 * code - 2**bits + 1)))
    if 2 <= bits <= 4:
        entries = np.resize([32512, -32512, 1], 2**bits).astype(F32)
        matrix = ulp.pack(np.zeros((512, 40), np.uint8), bits, scales=np.ones((1, 40), F32), codebook=entries, codebook_bits=16)
        np.testing.assert_array_equal(matrix.product(np.full((3, 512), -128, np.int8)), F32(-128 * 512 * 32512))


def test_threads_and_isas_agree() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 16, (1024, 300), dtype=np.uint8)
    matrix = ulp.pack(codes, 4, scales=rng.random((8, 300)).astype(F32), zero_points=rng.uniform(0, 15, (8, 300)))
    before, threads = ulp.get_isa(), ulp.get_num_threads()
    for rows in (1, 8, 150):
        x = rng.standard_normal((rows, 1024)).astype(F32)
        for act in ("row", "group"):
            results = []
            for name in ulp.available_isas():
                for count in (1, 3):
                    ulp.set_isa(name)
                    ulp.set_num_threads(count)
                    results.append(matrix.linear(x, act=act))
            ulp.set_isa(before)
            ulp.set_num_threads(threads)
            for result in results:
                np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("act", ["row", "group"])
def test_floats_are_quantized_as_stated(act: Any) -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(-8, 8, (160, 24)).astype(np.int8)
    scales = rng.random((5, 24)).astype(F32)
    matrix = ulp.pack(codes, 4, scales=scales)
    x = rng.standard_normal((2, 3, 160)).astype(F32)
    x[0, 0] = 0
    x[0, 1] *= F32(1e-38)
    rows = x.reshape(-1, 5, 32)
    top = np.abs(rows).max(axis=(1, 2) if act == "row" else 2, keepdims=True)
    scale = np.maximum(top / F32(127), np.finfo(F32).tiny)
    a = np.rint(rows / scale).astype(np.int64).reshape(-1, 160)
    a_scale = np.broadcast_to(scale[:, :, 0], (6, 5)).astype(F32)
    want = expected(a, a_scale, codes, np.zeros((5, 24)), scales, 32)
    got = matrix.linear(x, act=act)
    assert got.shape == (2, 3, 24)
    np.testing.assert_array_equal(got.reshape(6, 24), want)
    x[1, 2, 7] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        matrix.linear(x, act=act)


def test_named_codebooks() -> None:
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 16, (64, 9), dtype=np.uint8)
    for name, error in (("nf4", 0.5 / 127), ("fp4", 0.0), ("fp4_e2m1", 0.0), ("flint4", 0.0)):
        matrix: Any = ulp.pack(codes, 4, scales=np.ones((1, 9), F32), codebook=name)
        assert matrix.codebook_error <= error, name
        a = rng.integers(-127, 128, (4, 64)).astype(np.int8)
        want = a.astype(np.float64) @ matrix.dequantize()
        np.testing.assert_allclose(matrix.product(a), want, atol=matrix.codebook_error * 127 * 64 * np.abs(matrix.codebook).max() + 1e-3)
    fine = ulp.pack(codes, 4, scales=np.ones((1, 9), F32), codebook="nf4", codebook_bits=16)
    assert 0 < fine.codebook_error <= 0.5 / 32512


def test_pickles_copies_and_refusals() -> None:
    rng = np.random.default_rng(3)
    codes = rng.integers(0, 4, (50, 6), dtype=np.uint8)
    scales = rng.random((4, 6)).astype(F32)
    for options in ({"zero_points": 1.5}, {"codebook": [0.5, 1, 3, 300]}, {}):
        matrix = ulp.pack(codes, 2, scales=scales, group_size=16, **options)
        a = rng.integers(-9, 9, (2, 50)).astype(np.int8)
        for other in (pickle.loads(pickle.dumps(matrix)), copy.deepcopy(matrix)):
            np.testing.assert_array_equal(other.product(a), matrix.product(a))
            np.testing.assert_array_equal(other.dequantize(), matrix.dequantize())
    refused: list[tuple[dict[str, Any], str]] = [
        ({"scales": scales[:3]}, "group_size=16"),
        ({"scales": np.full((4, 6), np.nan)}, "NaN"),
        ({"scales": scales, "zero_points": np.zeros((3, 6))}, "zero_points has shape"),
        ({"scales": scales, "codebook": np.ones(3)}, "codebook has shape"),
        ({"scales": scales, "codebook": "nf5"}, "codebook='nf5'"),
        ({"scales": scales, "codebook": np.ones(4), "zero_points": 0}, "zero_points with codebook"),
        ({"scales": scales, "codebook_bits": 8}, "codebook_bits without codebook"),
        ({"zero_points": 0}, "zero_points without scales"),
        ({"scales": scales, "group_size": 0}, "group_size=0"),
        ({"scales": scales, "device": "cuda"}, "on the CPU"),
    ]
    for options, message in refused:
        with pytest.raises(ValueError, match=message):
            ulp.pack(codes, 2, **({"group_size": 16} if "scales" in options else {}) | options)
    long = np.zeros((2 * 1009, 6), np.uint8)
    with pytest.raises(ValueError, match=r"group_size=1009: .* no divisor from 16 to 512"):
        ulp.pack(long, 2, scales=scales[:2], group_size=1009)
    assert ulp.pack(long, 2, scales=scales[:1], group_size=2 * 1009).nbytes < 2 * long.size  # the only group is cut anywhere
    wrong = codes.copy()
    wrong[3, 2] = 4
    with pytest.raises(ValueError, match=r"b\[3, 2\] = 4"):
        ulp.pack(wrong, 2, scales=scales, group_size=16)
    with pytest.raises(AttributeError, match="immutable"):
        matrix.bits = 3
    for bad in (np.zeros((2, 49), np.int8), np.full((2, 50), 200, np.uint8)):
        with pytest.raises(ValueError, match="a h"):
            matrix.product(bad)
    with pytest.raises(TypeError, match="product"):
        matrix.linear(a)


@pytest.mark.parametrize("codebook", [None, "nf4"])
@pytest.mark.parametrize("act", ["row", "group"])
def test_a_layer_alone_compiled_and_saved(act: Any, codebook: Any, tmp_path: Any) -> None:
    rng = np.random.default_rng(4)
    layer = nn.GroupedLinear(96, 40, bits=4, group_size=32, codebook=codebook, act=act)
    weight = rng.standard_normal((40, 96)).astype(F32)
    layer.weight = weight
    layer.bias = rng.standard_normal(40).astype(F32)
    assert np.abs(layer.weight - weight).max() < 0.5
    x = rng.standard_normal((2, 7, 96)).astype(F32)
    np.testing.assert_allclose(layer(x), x @ layer.weight.T + layer.bias, atol=0.5)
    for sample in (x, x[:, 0]):
        compiled = nn.compile(layer, sample)
        np.testing.assert_array_equal(compiled(sample), layer(sample))
        compiled.save(tmp_path / "layer.ulp")
        np.testing.assert_array_equal(nn.load(tmp_path / "layer.ulp")(sample), layer(sample))
    other = nn.GroupedLinear(96, 40, bits=4, group_size=32, codebook=codebook, act=act)
    other.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(other(x), layer(x))
    network = nn.Sequential(layer, nn.ReLU(), nn.GroupedLinear.from_matrix(ulp.pack(np.ones((40, 8), np.uint8), 2, scales=np.ones((2, 8)))))
    np.testing.assert_array_equal(nn.compile(network, x)(x), network(x))


def test_kernels_of_all_isas_have_a_name(isa: str) -> None:
    assert _core.grouped_kernel().startswith("grouped_")


def test_other_matrices_are_refused_by_name() -> None:
    codes = np.zeros((32, 8), np.uint8)
    grouped = ulp.pack(codes, 4, scales=np.ones((1, 8), F32))
    with pytest.raises(TypeError, match="b is a GroupedMatrix"):
        ulp.gemm(codes[:2, :1].repeat(32, axis=1), grouped)
    with pytest.raises(TypeError, match="b is a GroupedMatrix"):
        ulp.gemm(codes[:2, :1].repeat(32, axis=1), grouped, bits=4)
    other: Any = ulp.pack(codes, 4)
    with pytest.raises(TypeError, match="matrix is a PackedMatrix: expected"):
        nn.GroupedLinear.from_matrix(other)
