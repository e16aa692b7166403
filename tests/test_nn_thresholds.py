"""Thresholds give the code that exact arithmetic gives, at ties too."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import nn_formulas as formulas
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nn_formulas import BACKENDS, images, plans_of
from reference import Array, assert_exact

from ulp import nn
from ulp.nn.thresholds import thresholds


def exact_code(acc: int, m: Any, b: Any, low: float, high: float, q: nn.Quantizer) -> int:
    v = Fraction(acc) * Fraction(float(m)) + Fraction(float(b))
    v = v if low == -math.inf else max(v, Fraction(low))
    v = v if high == math.inf else min(v, Fraction(high))
    return min(max(round(v / Fraction(q.scale)) + q.zero, 0), q.levels)  # round() of a Fraction rounds halves to even


def codes(acc: Array, table: Array, flip: Array) -> Array:
    """(K,) sums -> (N, K) codes, as a plan compares."""
    turned = np.where(flip[:, None], ~acc, acc)
    return np.asarray((table[:, None, :] <= turned[:, :, None]).sum(axis=2))


# Numbers of few bits, so that sums often lie exactly between two codes; and any numbers.
coarse = st.integers(-24, 24).map(lambda i: i / 8)
fine = st.floats(-8, 8, width=32)


@given(
    m=st.lists(st.one_of(coarse, fine), min_size=1, max_size=4),
    b=st.one_of(coarse, fine),
    scale=st.one_of(st.sampled_from([0.125, 0.25, 0.375, 1.0, 3.0]), st.floats(2.0**-8, 8, width=32)),
    bits=st.integers(1, 8),
    zero=st.integers(0, 255),
    clamp=st.sampled_from([(-math.inf, math.inf), (0.0, math.inf), (0.0, 6.0), (-1.0, 1.0), (0.5, 0.5)]),
    offset=st.one_of(st.just(0), st.integers(-(2**30), 2**30)),
)
def test_codes_are_those_of_exact_arithmetic(
    m: list[float], b: float, scale: float, bits: int, zero: int, clamp: tuple[float, float], offset: int
) -> None:
    q = nn.Quantizer(bits, scale, zero % 2**bits)
    factors, biases = np.array(m, np.float32), np.full(len(m), b, np.float32)
    if offset:
        # Far from zero, where float32 no longer tells one sum from the next.
        biases -= (factors * np.float32(offset)).astype(np.float32)
    table, flip = thresholds(factors, biases, *clamp, *q.bounds())
    assert table.dtype == np.int32
    assert table.shape == (len(m), q.levels)
    assert (np.diff(table.astype(np.int64), axis=1) >= 0).all()
    sums = np.arange(offset - 40, offset + 41)
    found = codes(sums, table, flip)
    for c in range(len(m)):
        expected = [exact_code(int(acc), factors[c], biases[c], *clamp, q) for acc in sums]
        assert_exact(found[c], np.array(expected), f"m = {factors[c]}, b = {biases[c]}")


@given(m=st.sampled_from([-1.0, 1.0]), bits=st.integers(1, 8), bias=st.sampled_from([0.0, 0.5, 1.0]), zero=st.integers(0, 255))
def test_every_sum_is_a_tie(m: float, bits: int, bias: float, zero: int) -> None:
    q = nn.Quantizer(bits, 2.0, zero % 2**bits)  # odd sums lie between two codes
    factors, biases = np.array([m], np.float32), np.array([bias], np.float32)
    table, flip = thresholds(factors, biases, -math.inf, math.inf, *q.bounds())
    sums = np.arange(-300, 300)
    expected = [exact_code(int(acc), m, bias, -math.inf, math.inf, q) for acc in sums]
    assert_exact(codes(sums, table, flip)[0], np.array(expected), str(q))


def test_scales_of_zero_and_steps_out_of_reach() -> None:
    q = nn.Quantizer(2, 1.0)
    factors = np.array([0.0, -0.0, 1e-30, -1e-30, 1e30], np.float32)
    biases = np.array([1.5, -3.0, 0.25, 2.75, 0.0], np.float32)
    table, flip = thresholds(factors, biases, -math.inf, math.inf, *q.bounds())
    sums = np.array([-(2**31) + 1, -1, 0, 1, 2**31 - 2])
    expected = [[exact_code(int(acc), f, b, -math.inf, math.inf, q) for acc in sums] for f, b in zip(factors, biases, strict=True)]
    assert_exact(codes(sums, table, flip), np.array(expected), "codes")


@st.composite
def exact_layers(draw: st.DrawFn) -> tuple[nn.Sequential, Array]:
    """A convolution whose sums often lie between two codes, what follows it, and an input."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    bits, act_bits, channels = draw(st.integers(2, 8)), draw(st.integers(1, 8)), draw(st.integers(1, 6))
    groups = draw(st.sampled_from([1, channels]))
    conv = nn.Conv2d.from_quantized(
        rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (channels, channels // groups, 3, 3)),
        rng.integers(1, 9, channels) / np.float32(8),
        rng.integers(-20, 21, channels) / np.float32(16),
        draw(st.sampled_from([0.25, 0.1])),
        draw(st.integers(0, 2**act_bits - 1)),
        bits=bits,
        act_bits=act_bits,
        groups=groups,
    )
    out_bits = draw(st.integers(1, 8))
    last = nn.Quantize(out_bits)
    last.quantizer = nn.Quantizer(out_bits, draw(st.sampled_from([0.5, 2.0, 0.3])), draw(st.integers(0, 2**out_bits - 1)))
    activation = draw(st.sampled_from([nn.Identity, nn.ReLU, nn.ReLU6]))()
    return nn.Sequential(conv, activation, last), images(rng, 2, channels, 5, 6)


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=exact_layers())
def test_compiled_networks(backend: str, case: tuple[nn.Sequential, Array]) -> None:
    network, x = case
    conv, activation, last = network
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(last, nn.Quantize)
    assert conv.quantizer is not None
    assert conv.bias is not None
    assert last.quantizer is not None
    sums_of = nn.Conv2d.from_quantized(
        conv.weight_int, 1.0, None, 1.0, conv.quantizer.zero, bits=conv.bits, act_bits=conv.act_bits, groups=conv.groups
    )
    sums = formulas.conv2d(x * (np.float32(1) / np.float32(conv.quantizer.scale)), sums_of)
    low, high = {"ReLU": (0.0, math.inf), "ReLU6": (0.0, 6.0)}.get(type(activation).__name__, (-math.inf, math.inf))
    m = np.float32(conv.quantizer.scale) * conv.weight_scale
    expected = np.empty(sums.shape, np.uint8)
    for index, acc in np.ndenumerate(sums):
        expected[index] = exact_code(int(acc), m[index[1]], conv.bias[index[1]], low, high, last.quantizer)
    with plans_of(backend):
        compiled = nn.compile(network, x, mode="threshold", codes_out=True)
        assert_exact(compiled(x), expected, f"{network}")


def test_threshold_mode_is_exact_where_float32_rounds() -> None:
    s = np.float32(0.6)
    rng = np.random.default_rng(0)
    x = np.ones((1, 1, 1, 1), np.float32)
    differ = 0
    for _ in range(300):
        m = np.float32(rng.integers(1, 2**20) / 2**18)
        w = int(rng.integers(1, 128))
        b = np.float32(0.5) * s - np.float32(w) * m  # the sum's value is as near to a tie as float32 gets
        conv = nn.Conv2d.from_quantized([[[[w]]]], m, [b], 1.0, bits=8)
        last = nn.Quantize(3)
        last.quantizer = nn.Quantizer(3, float(s))
        network = nn.Sequential(conv, last)
        code = {mode: int(nn.compile(network, x, mode=mode, codes_out=True)(x)[0, 0, 0, 0]) for mode in ("fp32", "threshold")}
        assert code["threshold"] == exact_code(w, m, b, -math.inf, math.inf, last.quantizer)
        differ += code["fp32"] != code["threshold"]
    assert differ > 0


def test_sums_with_a_shortcut_stay_in_float32() -> None:
    x = images(np.random.default_rng(0), 2, 4, 6, 6)

    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.next, self.add = nn.Conv2d(4, 4, 3, padding=1, bits=3), nn.Conv2d(4, 4, 1, bits=3), nn.Add()

        def forward(self, x: Any) -> Any:
            return self.next(self.add(self.conv(x), x))

    network = Residual().calibrate([x])
    assert_exact(nn.compile(network, x, mode="threshold")(x), network(x), "a sum of two")
