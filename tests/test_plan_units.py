"""What ONNX's integer operators need of a plan, against the reference plan.

Biases in sums, units of results, input by division, pooling by the minimum.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference import Array
from test_plan import F32, Describe, assert_same, expected, finish, native, padded_rows, scaled

import ulp


def both_sides(describe: Describe, x: Array) -> None:
    """The plan gives the reference's bits, on every ISA."""
    isa = ulp.get_isa()
    want = expected(describe, x)
    try:
        for name in ulp.available_isas():
            ulp.set_isa(name)
            assert_same(native(describe).run(x), want, name)
    finally:
        ulp.set_isa(isa)


def start_and_unit(seed: int) -> Describe:
    """Convolutions of every kind, a shortcut, a mean and a linear layer, with biases in the sums and in units of the results."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([5, 16, 33]))
    scales = [float(F32(s)) for s in rng.uniform(0.01, 0.9, 5)]
    weights = [padded_rows(rng.integers(-4, 4, (3, 3, c, n)).astype(np.int8), 3) for c in (6, n)]
    taps = rng.integers(-4, 4, (3, 3, n)).astype(np.int8)
    linear = padded_rows(rng.integers(-4, 4, (1, 1, n, 7)).astype(np.int8), 3)
    starts = [rng.integers(-3000, 3000, n).astype(np.int32) for _ in range(3)]
    parameters = [{key: value for key, value in scaled(rng, n, []).items() if key in ("scale", "bias")} for _ in range(3)]
    last = {key: value for key, value in scaled(rng, 7, []).items() if key in ("scale", "bias")}

    def describe(plan: Any) -> None:
        source = plan.codes(8, 9, 6, 4, 3, scales[0])
        a, b, c = (plan.codes(8, 9, n, bits, zero, s) for bits, zero, s in zip((4, 8, 5), (0, 120, 7), scales[1:4], strict=True))
        mean, result = plan.codes(1, 1, n, 8, 9, scales[4]), plan.floats(1, 1, 7)
        plan.input_floats(channels=6, height=8, width=9, targets=[source], divide=True)
        window: dict[str, Any] = {"stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1)}
        conv: dict[str, Any] = {"source_channel": 0, "kernel": (3, 3), "weight_zero": 0, "method": None, **window}
        entries = finish(n, [(a, 0)], **parameters[0], start=starts[0], unit=scales[1])
        plan.conv(source=source, weights=weights[0], finish=entries, **conv)
        entries = finish(n, [(b, 0)], **parameters[1], start=starts[1], unit=scales[2], residual=(a, 0))
        plan.conv(source=a, weights=weights[1], finish=entries, **conv)
        entries = finish(n, [(c, 0)], **parameters[2], start=starts[2], unit=scales[3], low=-2.0, high=9.0)
        plan.depthwise(source=b, weights=taps, finish=entries, **window)
        rows, columns, divisor = np.array([[0, 8]], np.int32), np.array([[0, 9]], np.int32), np.full((1, 1), 72, F32)
        entries = finish(n, [(mean, 0)], False, unit=scales[4])
        plan.window_mean(source=c, rows=rows, columns=columns, divisor=divisor, finish=entries)
        plan.linear(
            source=mean,
            weights=linear,
            weight_zero=0,
            finish=finish(7, [(result, 0)], **last, start=np.arange(7, dtype=np.int32)),
            kernel=None,
        )
        again = plan.codes(8, 9, n, 6, 30, scales[0])
        plan.rescale(source=b, finish=finish(n, [(again, 0)], False, unit=scales[0], residual=(c, 0)))
        for tensor in (a, b, c, mean, again, result):
            plan.output(tensor=tensor, nhwc=False)

    return describe


@pytest.mark.parametrize("seed", range(4))
def test_biases_in_sums_and_units_of_results(seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((3, 6, 8, 9)).astype(F32)
    both_sides(start_and_unit(seed), x)


def tables_behind(seed: int) -> tuple[Describe, Array]:
    """(plan, its input): steps of all kinds whose results go through tables, alone and together with another image's codes."""
    rng = np.random.default_rng(seed)
    n = int(rng.choice([5, 8, 24, 33, 64, 530]))
    size = int(rng.integers(2, 7)), int(rng.integers(3, 40 if n < 530 else 8))  # the reference multiplies int64 in numpy
    weights = [padded_rows(rng.integers(-4, 4, (3, 3, c, n)).astype(np.int8), 3) for c in (6, n)]
    taps = rng.integers(-4, 4, (3, 3, n)).astype(np.int8)
    linear = padded_rows(rng.integers(-4, 4, (1, 1, n, 70)).astype(np.int8), 3)

    def describe(plan: Any) -> None:
        rng = np.random.default_rng(seed + 1)
        quantizers: dict[int, tuple[int, int, float]] = {}

        def codes(size: tuple[int, int], channels: int, bits: int | None = None) -> int:
            bits = bits or int(rng.integers(1, 9))
            q = bits, int(rng.integers(0, 2**bits)), float(F32(rng.uniform(0.05, 0.9)))
            tensor = plan.codes(*size, channels, *q)
            quantizers[tensor] = q
            return int(tensor)

        def behind(target: int, other: tuple[int, int] | None) -> dict[str, Any]:
            other_bits = 0 if other is None else quantizers[other[0]][0]
            bits = int(rng.integers(1, 9 - other_bits))
            table = rng.integers(0, 2 ** quantizers[target][0], 2 ** (bits + other_bits)).astype(np.uint8)
            scale = float(F32(rng.uniform(0.05, 0.9)))
            return {"bits": bits, "zero": int(rng.integers(0, 2**bits)), "scale": scale, "other": other, "table": table}

        source = codes(size, 6, 4)
        plan.input_floats(channels=6, height=size[0], width=size[1], targets=[source])
        window: dict[str, Any] = {"stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1)}
        conv: dict[str, Any] = {"source_channel": 0, "kernel": (3, 3), "weight_zero": 0, "method": None, **window}
        wide, b, floats = codes(size, 2 * n, 4), codes(size, n), plan.floats(*size, n)
        entries = scaled(rng, n, [(wide, n), (b, 0), (floats, 0)], after=[behind(wide, None), None, None])
        plan.conv(source=source, weights=weights[0], finish=entries, **conv)
        entries = scaled(rng, n, [(wide, 0)], after=[behind(wide, None)], low=-1.0, high=2.0, unit=0.25)
        plan.depthwise(source=b, weights=taps, finish=entries, **window)
        c, d = codes(size, n), codes(size, n)
        entries = scaled(rng, n, [(c, 0), (d, 0)], after=[behind(c, (wide, n)), behind(d, (wide, 0))], residual=(b, 0))
        plan.conv(source=b, weights=weights[1], finish=entries, **conv)
        thresholds = np.sort(rng.integers(-99, 99, (n, 7)), axis=1).astype(np.int32), rng.integers(0, 2, n).astype(bool)
        e = codes(size, n)
        then = behind(e, (wide, n)) | {"bits": 3, "zero": 0}
        then["table"] = np.resize(then["table"], 128)
        plan.conv(source=b, weights=weights[1], finish=scaled(rng, n, [(e, 0)], after=[then], thresholds=[thresholds]), **conv)
        f, mean, other_mean, last = codes(size, n), codes((1, 1), n, 3), codes((1, 1), n), codes((1, 1), 70)
        plan.rescale(source=e, finish=finish(n, [(f, 0)], False, after=[behind(f, (wide, 0))]))
        rows, columns = np.array([[0, size[0]]], np.int32), np.array([[0, size[1]]], np.int32)
        means: dict[str, Any] = {"rows": rows, "columns": columns, "divisor": np.full((1, 1), 3, F32)}
        plan.window_mean(source=c, finish=finish(n, [(mean, 0)], False, after=[behind(mean, None)]), **means)
        plan.window_mean(source=d, finish=finish(n, [(other_mean, 0)], False, after=[behind(other_mean, (mean, 0))]), **means)
        entries = scaled(rng, 70, [(last, 0)], after=[behind(last, None)])
        plan.linear(source=other_mean, weights=linear, weight_zero=0, finish=entries, kernel=None)
        for tensor in (wide, b, floats, c, d, e, f, mean, other_mean, last):
            plan.output(tensor=tensor, nhwc=bool(seed % 2))

    return describe, rng.standard_normal((3, 6, *size)).astype(F32)


@pytest.mark.parametrize("seed", range(8))
def test_tables_behind_epilogues(seed: int) -> None:
    both_sides(*tables_behind(seed))


def test_input_is_divided_as_the_quotient_rounds() -> None:
    scales = [float(F32(s)) for s in (1 / 127, 0.1, 3.7)]

    def describe(plan: Any) -> None:
        tensors = [plan.codes(3, 5, 3, 8, 100, s) for s in scales]
        plan.input_floats(channels=3, height=3, width=5, targets=tensors, divide=True)
        for tensor in tensors:
            plan.output(tensor=tensor, nhwc=False)

    # Halves of the scales, where multiplying by an inverse falls to the other side, and what leaves float32 when it is divided.
    halves = np.concatenate([np.arange(-60, 60, dtype=F32) * F32(s) / 2 for s in scales])
    x = np.concatenate([halves, np.array([3e38, -3e38, 1e-45, 0, -0.0], F32), np.arange(40, dtype=F32) / 16])[:405].reshape(9, 3, 3, 5)
    with np.errstate(over="ignore"):
        want = [np.clip(np.rint(x / F32(s)) + 100, 0, 255).astype(np.uint8) for s in scales]
        assert_same(native(describe).run(x), want)
        assert_same(expected(describe, x), want)
    x[4, 1, 1, 1] = np.inf
    with pytest.raises(ValueError, match="NaN or an infinity"):
        native(describe).run(x)


@pytest.mark.parametrize("channels", [1, 7, 40])
def test_poolings_that_take_the_minimum_of_some_channels(channels: int) -> None:
    rng = np.random.default_rng(channels)
    takes_min = rng.integers(0, 2, channels).astype(bool)

    def describe(plan: Any) -> None:
        source, target = plan.codes(7, 6, channels, 8, 3, 1.0), plan.codes(3, 3, channels, 8, 3, 1.0)
        plan.input_codes(tensor=source, nhwc=True)
        rows, columns = np.array([[0, 2], [1, 4], [3, 7]], np.int32), np.array([[0, 3], [2, 3], [1, 6]], np.int32)
        plan.max_pool(source=source, target=(target, 0), rows=rows, columns=columns, dilation=(1, 1), takes_min=takes_min)
        plan.output(tensor=target, nhwc=True)

    both_sides(describe, rng.integers(0, 256, (2, 7, 6, channels), np.uint8))


def ties_and_odd_zeros(seed: int) -> Describe:
    """1x1 convolutions whose sums fall on the halves between codes, to codes of all widths with even and odd zeros.

    Scales of both signs and of 0, and ordinary ones in the odd channels.
    """
    rng = np.random.default_rng(seed)
    n = int(rng.choice([17, 64, 131]))
    weights = padded_rows(rng.integers(-4, 4, (1, 1, 6, n)).astype(np.int8), 3)
    signs = rng.choice(np.array([-1, 1, 1, 1], F32), n)
    scale = (signs * F32(2) ** rng.integers(-6, -2, n)).astype(F32)
    scale[1::2] = rng.uniform(-0.2, 0.2, len(scale[1::2]))
    scale[::13] = 0
    bias = (rng.integers(-12, 12, n) / 4).astype(F32)
    bias[1::2] += rng.uniform(-0.5, 0.5, len(scale[1::2])).astype(F32)
    widths = [(bits, int(rng.integers(0, 1 << bits))) for bits in range(1, 9)]
    scales = [float(F32(s)) for s in (0.25, *rng.uniform(0.05, 0.5, 8))]
    window: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}

    def describe(plan: Any) -> None:
        source = plan.codes(8, 9, 6, 4, 3, 0.25)
        plan.input_floats(channels=6, height=8, width=9, targets=[source])
        for i, (bits, zero) in enumerate(widths):
            target = plan.codes(8, 9, n, bits, zero, scales[0] if i % 2 else scales[i])
            entries = finish(n, [(target, 0)], scale=scale, bias=bias, low=0.0 if i % 3 == 0 else -np.inf)
            plan.conv(source=source, source_channel=0, weights=weights, weight_zero=0, kernel=(1, 1), method=None, finish=entries, **window)
            plan.output(tensor=target, nhwc=False)

    return describe


@pytest.mark.parametrize("seed", range(6))
def test_sums_between_two_codes(seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, 6, 8, 9)).astype(F32)
    both_sides(ties_and_odd_zeros(seed), x)
