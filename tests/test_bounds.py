"""The extremes: constant matrices at the ends of their intervals, wherever some accumulator could overflow, and at int32's own edge.

The product of constant matrices is K * a * b, so no reference product is needed, and thousands of depths are cheap.
"""

from __future__ import annotations

import functools
import itertools
import re

import numpy as np
import pytest
from reference import ALL_PAIRS, SIGNS, Array, assert_exact, dtype, interval

import ulp

KERNELS = [kernel for kernel in ulp.kernels() if kernel.isa in ulp.available_isas()]
INT32_MAX = 2**31 - 1
DEEPEST = 1100
ROWS, COLUMNS = 4, 9


def spill_depths(a_bits: int, b_bits: int) -> list[int]:
    """Depths around every multiple of a local-accumulation length that an 8- or 16-bit accumulator of some technique has at this pair.

    A length is floor(limit / (terms * m)) steps of 1 to 256 products; m is taken for plain codes and for codes centred on either side.
    """
    full_a, full_b = 2**a_bits - 1, 2**b_bits - 1
    half_a, half_b = 2 ** (a_bits - 1), 2 ** (b_bits - 1)
    depths: set[int] = set()
    for m in {full_a * full_b, full_a * half_b, half_a * full_b, half_a * half_b}:
        for limit, terms in itertools.product((255, 127, 32767, 65535, (1 << (16 - max(a_bits, b_bits))) - 1), (1, 2, 4)):
            length = limit // (terms * m)
            for step in (1, 2, 4, 8, 16, 32):
                depths.update(length * step + d for d in (-1, 0, 1, step))
                depths.update((length + 1) * step + d for d in (0, 1))
    few = {1, 2, 31, 32, 33, 255, 256, 257, 511, 513, 1023, 1025}
    return sorted(depth for depth in depths | few if 0 < depth <= DEEPEST)


def ends(bits: int, signed: bool, count: int) -> Array:
    """Low, high, high, high, low, ... of the interval: neighbours that share a lane are both at the largest somewhere."""
    low, high = interval(bits, signed)
    return np.resize(np.array([low, high, high, high]), count)


@functools.cache
def packed_ends(depth: int, bits: int, signed: bool) -> ulp.PackedMatrix:
    """(depth, COLUMNS) of constant columns, packed once for all kernels."""
    row = ends(bits, signed, COLUMNS).astype(dtype(signed))
    return ulp.pack(np.broadcast_to(row, (depth, COLUMNS)), bits)


@pytest.mark.parametrize("a_bits", range(1, 9))
@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_extremes_at_local_accumulation_edges(kernel: ulp.Kernel, a_bits: int) -> None:
    """Every depth with both ends of a times both ends of b, for two of the four combinations of signs, which change with the depth.

    Accumulators see codes, not signs: the largest codes meet at every depth.
    """
    for pair in (pair for pair in ALL_PAIRS if pair[0] == a_bits and pair in kernel.pairs):
        rows, products = {}, {}
        for signs in SIGNS:
            ends_a, ends_b = ends(pair[0], signs[0], ROWS), ends(pair[1], signs[1], COLUMNS)
            rows[signs] = np.repeat(ends_a.astype(dtype(signs[0]))[:, None], DEEPEST, axis=1)
            products[signs] = np.outer(ends_a, ends_b).astype(np.int32)
        for number, depth in enumerate(spill_depths(*pair)):
            for signs in (SIGNS[number % 4], SIGNS[3 - number % 4]):
                c = ulp.gemm(rows[signs][:, :depth], packed_ends(depth, pair[1], signs[1]), bits=pair, kernel=kernel.name)
                expected = depth * products[signs]
                if c.tobytes() != expected.tobytes():  # quicker than assert_exact, which says where
                    assert_exact(c, expected, f"{kernel} K={depth} bits={pair} signed={signs}")
                    raise AssertionError(f"{c.dtype} and {expected.dtype}")


WIDE_PAIRS = [(8, 8), (7, 8), (8, 7), (7, 7), (6, 8), (8, 6)]


@pytest.mark.parametrize("pair", WIDE_PAIRS, ids=str)
@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if set(WIDE_PAIRS) & kernel.pairs], ids=str)
def test_weights_at_the_edge_of_a_lane(kernel: ulp.Kernel, pair: tuple[int, int]) -> None:
    """Weights whose positive or negative ones sum up to what a 16-bit lane takes of the largest codes, and one more or less, in all the
    places of one or two steps of four k; 65 rows and 41 columns, some columns without any, K with and without a tail."""
    if pair not in kernel.pairs:
        return
    low, high = interval(pair[1], True)
    most = 32767 // (2 ** pair[0] - 1)
    lanes = []
    for total in (most - 1, most, most + 1, 4 * high):
        for count in (2, 3, 4):
            part = min(total // count, high)
            lanes += [[min(total - part * (count - 1), high)] + [part] * (count - 1) + [0] * (4 - count)]
            lanes += [[max(-total + part * (count - 1), low)] + [-part] * (count - 1) + [0] * (4 - count)]
    lanes += [[high, high, low, low], [low, high, low, high], [low] * 4, [low, 0, 0, -1]]
    rng = np.random.default_rng(0)
    for steps, depth in itertools.product((1, 2), (8 * len(lanes), 8 * len(lanes) - 3)):
        b = np.zeros((len(lanes), 8, 41), np.int8)
        places = [0, 1, 4, 5] if steps == 2 else [2, 3, 6, 7]
        for column in range(39):
            for lane, values in enumerate(lanes):
                b[lane, places, column] = rng.permutation(values) if column else values
        weights = b.reshape(-1, 41)[:depth]
        a = np.full((65, depth), 2 ** pair[0] - 1, np.uint8)
        a[::3] = rng.integers(0, 2 ** pair[0], (22, depth))
        c = ulp.gemm(a, ulp.pack(weights, pair[1]), bits=pair, kernel=kernel.name)
        assert_exact(c, a.astype(np.int64) @ weights.astype(np.int64), f"{kernel} bits={pair} K={depth}")


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_extremes_far_past_any_accumulator(kernel: ulp.Kernel) -> None:
    """A K of 70,003 overflows every 16-bit accumulator that is not spilled, at the pairs whose lengths are longest and shortest."""
    depth, n = 70_003, 8
    for pair, signs in itertools.product({min(kernel.pairs), max(kernel.pairs), (1, 1), (2, 2), (1, 8), (8, 1)} & kernel.pairs, SIGNS):
        ends_a, ends_b = interval(pair[0], signs[0]), interval(pair[1], signs[1])
        for value_a, value_b in itertools.product(ends_a, ends_b):
            if depth * max(map(abs, ends_a)) * max(map(abs, ends_b)) > INT32_MAX:
                continue
            a = np.full((1, depth), value_a, dtype=dtype(signs[0]))
            b = np.full((depth, n), value_b, dtype=dtype(signs[1]))
            c = ulp.gemm(a, b, bits=pair, kernel=kernel.name)
            assert_exact(c, np.full((1, n), depth * value_a * value_b, dtype=np.int64), f"{kernel} bits={pair} signed={signs}")


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if (8, 8) in kernel.pairs], ids=str)
@pytest.mark.parametrize("signs", SIGNS, ids=str)
def test_int32_edge_of_w8a8(kernel: ulp.Kernel, signs: tuple[bool, bool]) -> None:
    ends = [max(interval(8, signed), key=abs) for signed in signs]
    depth = INT32_MAX // (abs(ends[0]) * abs(ends[1]))
    a = np.full((2, depth + 1), ends[0], dtype=dtype(signs[0]))
    b = np.full((depth + 1, 3), ends[1], dtype=dtype(signs[1]))
    c = ulp.gemm(a[:, :depth], b[:depth], bits=8, kernel=kernel.name)
    assert_exact(c, np.full((2, 3), depth * ends[0] * ends[1], dtype=np.int64), f"{kernel} K={depth}")
    with pytest.raises(ValueError, match=rf"\b{depth}\b"):
        ulp.gemm(a, b, bits=8, kernel=kernel.name)


@pytest.mark.parametrize("kernel", KERNELS, ids=str)
def test_int32_edge_with_zero_points(kernel: ulp.Kernel) -> None:
    """Large zero points bring the edge down to K of about a thousand, for every pair and sign."""
    a_zero, b_zero = -12_000, -150
    for pair, signs in itertools.product(sorted(kernel.pairs), SIGNS):
        high_a, high_b = interval(pair[0], signs[0])[1], interval(pair[1], signs[1])[1]
        depth = INT32_MAX // ((high_a - a_zero) * (high_b - b_zero))
        a = np.full((1, depth + 1), high_a, dtype=dtype(signs[0]))
        b = np.full((depth + 1, 2), high_b, dtype=dtype(signs[1]))
        c = ulp.gemm(a[:, :depth], b[:depth], bits=pair, kernel=kernel.name, a_zero=a_zero, b_zero=b_zero)
        expected = depth * (high_a - a_zero) * (high_b - b_zero)
        assert expected <= INT32_MAX
        assert_exact(c, np.full((1, 2), expected, dtype=np.int64), f"{kernel} K={depth} bits={pair} signed={signs}")
        with pytest.raises(ValueError, match=rf"\b{depth}\b"):
            ulp.gemm(a, b, bits=pair, kernel=kernel.name, a_zero=a_zero, b_zero=b_zero)


def test_int32_edge_of_a_per_column_zero_point() -> None:
    """One extreme column decides."""
    b_zero = np.array([0, -100_000, 0])
    depth = INT32_MAX // (15 * (15 + 100_000))
    a = np.full((1, depth + 1), 15, dtype=np.uint8)
    b = np.full((depth + 1, 3), 15, dtype=np.uint8)
    c = ulp.gemm(a[:, :depth], b[:depth], bits=4, b_zero=b_zero)
    assert c[0].tolist() == [depth * 225, depth * 15 * 100_015, depth * 225]
    with pytest.raises(ValueError, match=rf"\b{depth}\b"):
        ulp.gemm(a, b, bits=4, b_zero=b_zero)


def test_refusal_says_what_to_do() -> None:
    a = np.zeros((1, 40_000), dtype=np.uint8)
    with pytest.raises(ValueError, match=re.compile(r"K.*33025", re.DOTALL)):
        ulp.gemm(a, a.T, bits=8)


def test_zero_points_at_the_ends_of_int32() -> None:
    """A single product can already be too large: the largest K is then 0, never a wrapped number."""
    one = np.ones((1, 1), dtype=np.uint8)
    empty = np.ones((1, 0), dtype=np.uint8)
    for zero in (2**31 - 1, -(2**31)):
        with pytest.raises(ValueError, match="int32"):
            ulp.gemm(one, one, bits=8, a_zero=zero, b_zero=zero)
        assert ulp.gemm(empty, empty.T, bits=8, a_zero=zero, b_zero=zero).tolist() == [[0]]
    assert ulp.gemm(one, one, bits=1, a_zero=-(2**31) + 2).tolist() == [[2**31 - 1]]
