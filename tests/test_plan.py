"""Plans at the edges of their bounds, against the reference plan: narrow sums that just fit, pads, borders, slices, shared memory."""

from __future__ import annotations

import gc
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from reference import Array, assert_exact, interval

import ulp
from tools.reference.plan import ReferencePlan
from ulp import _core

F32 = np.float32
Describe = Callable[[Any], None]

needs_avx2 = pytest.mark.skipif("avx2" not in ulp.available_isas(), reason="needs AVX2")


def finish(n: int, targets: list[tuple[int, int]], has_scale: bool = True, **changes: Any) -> dict[str, Any]:
    """An epilogue that gives the sums themselves, but for `changes`."""
    entries: dict[str, Any] = {
        "residual": None,
        "low": -math.inf,
        "high": math.inf,
        "targets": targets,
        "thresholds": [None] * len(targets),
    }
    if has_scale:
        entries |= {"scale": np.ones(n, F32), "bias": np.zeros(n, F32)}
    return entries | changes


def scaled(rng: np.random.Generator, n: int, targets: list[tuple[int, int]], **changes: Any) -> dict[str, Any]:
    scale = (rng.standard_normal(n) * 0.02).astype(F32)
    return finish(n, targets, **({"scale": scale, "bias": rng.standard_normal(n).astype(F32)} | changes))


def native(describe: Describe, group: int = 1, throughput: bool = False, tune: bool = False) -> Any:
    plan = _core.Plan()
    describe(plan)
    plan.finalize(group, throughput, tune)
    return plan


def expected(describe: Describe, x: Array) -> list[Array]:
    plan = ReferencePlan()
    describe(plan)
    plan.finalize(1, False)
    return plan.run(x)


def assert_same(got: list[Array], want: list[Array], what: str = "output") -> None:
    assert len(got) == len(want)
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        assert_exact(g, w, f"{what} {i}")


def padded_rows(w: Array, bits: int, zero: int = 0) -> Any:
    """(kh, kw, C, N) -> packed, channels padded to a multiple of 4."""
    pads = -w.shape[2] % 4
    w = np.pad(w, ((0, 0), (0, 0), (0, pads), (0, 0)), constant_values=zero)
    return _core.pack(np.ascontiguousarray(w.reshape(-1, w.shape[3])), bits)


def extreme_weights(rng: np.random.Generator, kernel: tuple[int, int], channels: int, n: int, bits: int, signed: bool) -> Array:
    """(kh, kw, C, n), one pattern a column: those that carry narrow sums furthest, and random ones."""
    low, high = interval(bits, signed)
    values = np.array([low, high])
    shape = (*kernel, channels)
    y, x, c = np.indices(shape)
    columns = [
        np.full(shape, low),
        np.full(shape, high),
        values[c % 2],
        values[c // 2 % 2],
        values[c // 4 % 2],
        values[y % 2],  # the signs of Winograd's sums and differences of taps
        values[x % 2],
        values[(x + y) % 2],
        values[(2 * c < channels).astype(int)],
        np.where(c % 37 == 5, low, high if low == -1 and high == 1 else 0),
    ]
    while len(columns) < n:
        columns.append(rng.choice(values, shape) if len(columns) % 3 else rng.choice(values, shape[2])[None, None] + 0 * y)
    return np.stack(columns[:n], axis=-1).astype(np.int8 if signed else np.uint8)


def extreme_images(weights: Array, size: int, bits: int, pad: int) -> Array:
    """(n, size, size, C) codes: all largest, checkers, and largest where a column of the weights is positive, or negative."""
    top = 2**bits - 1
    channels = weights.shape[2]
    y, x, c = np.indices((size, size, channels))
    images = [np.full(y.shape, top), top * (y % 2), top * (x % 2), top * ((x + y) % 2), top * ((x + y + c) % 2)]
    for column in range(0, weights.shape[3], 5):
        tile = np.resize(weights[:, :, :, column], (*weights.shape[:2], channels))
        rows, columns = (np.arange(size) + pad) % weights.shape[0], (np.arange(size) + pad) % weights.shape[1]
        at = tile[rows][:, columns]
        images += [np.where(at > 0, top, 0), np.where(at < 0, top, 0)]
    return np.stack(images).astype(np.uint8)


def conv_plan(x: Array, bits: int, zero: int, weights: Any, n: int, method: str | None, **geometry: Any) -> Describe:
    kernel, stride = geometry["kernel"], geometry.get("stride", (1, 1))
    padding, dilation = geometry.get("padding", (0, 0, 0, 0)), geometry.get("dilation", (1, 1))
    height = (x.shape[1] + padding[0] + padding[2] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    width = (x.shape[2] + padding[1] + padding[3] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1

    def describe(plan: Any) -> None:
        source = plan.codes(*x.shape[1:], bits, zero, 1.0)
        result = plan.floats(height, width, n)
        plan.input_codes(tensor=source, nhwc=True)
        entries = finish(n, [(result, 0)])
        plan.conv(
            source=source,
            source_channel=0,
            weights=weights,
            kernel=kernel,
            stride=stride,
            padding=padding,
            dilation=dilation,
            weight_zero=geometry.get("weight_zero", 0),
            finish=entries,
            method=method,
        )
        plan.output(tensor=result, nhwc=True)

    return describe


# Winograd.


@needs_avx2
@pytest.mark.parametrize("w_bits", range(1, 5))
@pytest.mark.parametrize("a_bits", range(1, 7))
def test_winograd_at_its_bounds(w_bits: int, a_bits: int) -> None:
    rng = np.random.default_rng(10 * w_bits + a_bits)
    if (w_bits, a_bits) == (4, 6):
        w = padded_rows(extreme_weights(rng, (3, 3), 4, 8, 4, True), 4)
        with pytest.raises(ValueError, match="'winograd' cannot run here: it would overflow at W4A6"):
            native(conv_plan(np.zeros((1, 4, 4, 4), np.uint8), 6, 0, w, 8, "winograd", kernel=(3, 3)))
        return
    for channels, n in ((4, 40), (36, 40), (60, 33), (300, 16), (600, 9)):
        weights = extreme_weights(rng, (3, 3), channels, n, w_bits, True)
        x = extreme_images(weights, 5, a_bits, 1)[: 9 if channels > 100 else None]
        zero = int(rng.choice([0, 2 ** (a_bits - 1), 2**a_bits - 1]))
        describe = conv_plan(x, a_bits, zero, padded_rows(weights, w_bits), n, "winograd", kernel=(3, 3), padding=(1, 1, 1, 1))
        plan = native(describe, 3)
        assert plan.steps()[1]["method"].startswith("winograd")
        assert_same(plan.run(x), expected(describe, x), f"C = {channels}, zero = {zero}, output")


@needs_avx2
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_winograds_runs_are_exact_for_every_panel(order: tuple[int, int]) -> None:
    """The second panel allows runs of four steps but not of five; they begin elsewhere, and are too long for the first."""
    weights = np.zeros((3, 3, 40, 64), np.int8)
    steps = ((2, 3, 4, 5, 6, 7), (0, 1, 2, 4))
    for panel, which in enumerate(order):
        for step in steps[which]:
            weights[:, :, 4 * step : 4 * step + 4, 32 * panel : 32 * panel + 32] = -8
    x = np.full((1, 6, 6, 40), 15, np.uint8)
    describe = conv_plan(x, 4, 0, padded_rows(weights, 4), 64, "winograd", kernel=(3, 3))
    assert_same(native(describe).run(x), expected(describe, x))


@needs_avx2
@pytest.mark.parametrize("seed", range(8))
def test_winograds_runs_with_few_large_weights(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = np.where(rng.random((1, 1, 88, 96)) < rng.uniform(0.1, 0.9), rng.choice([-8, 7], (1, 1, 88, 96)), 0)
    weights = np.broadcast_to(weights, (3, 3, 88, 96)) * rng.choice([0, 1], (1, 1, 88, 96), p=[0.2, 0.8])
    x = extreme_images(weights, 5, 4, 1)
    describe = conv_plan(x, 4, 8, padded_rows(weights.astype(np.int8), 4), 96, "winograd", kernel=(3, 3), padding=(1, 1, 1, 1))
    assert_same(native(describe).run(x), expected(describe, x))


@needs_avx2
def test_winograd_needs_room_for_four_times_the_sum() -> None:
    channels = 236_716  # 4 * 9 * 63 * 4 of them pass 2^31
    weights = _core.pack(np.full((9 * channels, 1), -4, np.int8), 3)
    x = np.full((1, 3, 3, channels), 63, np.uint8)
    with pytest.raises(ValueError, match="'winograd' cannot run here: it would overflow int32 with 236716 channels"):
        native(conv_plan(x, 6, 0, weights, 1, "winograd", kernel=(3, 3)))
    describe = conv_plan(x, 6, 0, weights, 1, None, kernel=(3, 3))
    assert_same(native(describe, tune=True).run(x), [np.full((1, 1, 1, 1), -4 * 63 * 9 * channels, F32)])


# Kernels that gather.


def gathering(a_bits: int, w_bits: int, tight: bool = False) -> list[str]:
    techniques = ["mul8", "mul16", "dot"] if tight else ["mul8", "mul16", "dot", "lut"]
    kernels = [k for k in _core.kernels() if k["available"] and k["technique"] in techniques and (a_bits, w_bits) in k["pairs"]]
    return [k["name"] for k in kernels if k["isa"] != "avx512vbmi"]  # its steps are no whole number of k


@pytest.mark.parametrize(
    ("w_bits", "a_bits"), [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (2, 4), (4, 4), (5, 8), (6, 6), (7, 7), (8, 8), (3, 8)]
)
def test_sums_that_are_cut_into_runs(w_bits: int, a_bits: int) -> None:
    """K of one and of several K-blocks, segments that end inside a run and runs that end inside a segment."""
    rng = np.random.default_rng(w_bits * 8 + a_bits)
    for channels, kernel, signed in (
        (4, (5, 5), True),
        (44, (3, 3), True),
        (132, (2, 3), False),
        (1300, (1, 1), True),
        (24, (5, 5), False),
    ):
        n = 100 if channels < 100 else 33
        weights = extreme_weights(rng, kernel, channels, n, w_bits, signed)
        x = extreme_images(weights.astype(np.int16) if signed else weights.astype(np.int16) * 2 - 2**w_bits, 6, a_bits, 1)[:8]
        zero = int(rng.choice([0, 2**a_bits - 1]))
        geometry: dict[str, Any] = {"kernel": kernel, "padding": (1, 1, 0, 2), "dilation": (1, 2) if kernel == (2, 3) else (1, 1)}
        if not signed:
            geometry["weight_zero"] = 2**w_bits // 2
        packed = padded_rows(weights, w_bits)
        want = expected(conv_plan(x, a_bits, zero, packed, n, None, **geometry), x)
        for name in gathering(a_bits, w_bits):
            plan = native(conv_plan(x, a_bits, zero, packed, n, name, **geometry), 3)
            assert plan.steps()[1]["method"] == name
            assert_same(plan.run(x), want, f"{name}, C = {channels}, kernel {kernel}, output")


@pytest.mark.parametrize("isa", ulp.available_isas())
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_images_without_padded_channels(isa: str, channels: int) -> None:
    rng = np.random.default_rng(channels)
    ulp.set_isa(isa)
    for width in range(1, 12):
        for w_bits in range(1, 9):
            a_bits = int(rng.integers(1, 9))
            kernel = (int(rng.integers(1, 5)), width)
            row = width * channels
            signed = bool(rng.random() < 0.5)
            weight_zero = 0 if signed else int(rng.integers(0, 2**w_bits))
            if signed and w_bits == 1 and row % 4:
                continue
            if width == 1:
                packed = padded_rows(extreme_weights(rng, kernel, channels, 19, w_bits, signed), w_bits, 1 if w_bits == 1 else weight_zero)
            else:
                w = extreme_weights(rng, kernel, channels, 19, w_bits, signed).reshape(kernel[0], row, 19)
                w = np.pad(w, ((0, 0), (0, -row % 4), (0, 0)), constant_values=weight_zero)
                packed = _core.pack(np.ascontiguousarray(w.reshape(-1, 19)), w_bits)
            x = rng.choice(np.array([0, 2**a_bits - 1], np.uint8), (3, 9, 12, channels))
            geometry = {
                "kernel": kernel,
                "stride": (int(rng.integers(1, 4)), int(rng.integers(1, 4))),
                "dilation": (int(rng.integers(1, 3)), 1),
                "padding": tuple(int(p) for p in rng.integers(0, 4, 4)),
                "weight_zero": weight_zero,
            }
            zero = int(rng.integers(0, 2**a_bits))
            want = expected(conv_plan(x, a_bits, zero, packed, 19, None, **geometry), x)
            for method in [None, *gathering(a_bits, w_bits, tight=True)]:
                got = native(conv_plan(x, a_bits, zero, packed, 19, method, **geometry), 2).run(x)
                assert_same(got, want, f"{method}, W{w_bits}A{a_bits}, kernel {kernel}, output")


@pytest.mark.parametrize(
    ("channels", "width", "kernel", "padding"), [(3, 32, 3, 0), (1, 28, 5, 2), (3, 8, 3, 1), (2, 16, 3, 0), (3, 26, 7, 3)]
)
@pytest.mark.parametrize("bits", [(8, 8), (8, 3), (3, 8)])
def test_row_sums_where_the_padding_of_k_reaches_past_a_row(
    channels: int, width: int, kernel: int, padding: int, bits: tuple[int, int]
) -> None:
    """Rows without padded channels that fill whole vectors: kernels pack them, and row sums must count what is packed behind the last."""
    a_bits, w_bits = bits
    rng = np.random.default_rng(width)
    row = kernel * channels
    w = rng.integers(0, 2**w_bits, (kernel, row, 19)).astype(np.uint8)
    weight_zero = int(rng.integers(1, 2**w_bits - 1))
    w = np.pad(w, ((0, 0), (0, -row % 4), (0, 0)), constant_values=weight_zero)
    packed = _core.pack(np.ascontiguousarray(w.reshape(-1, 19)), w_bits)
    x = rng.integers(0, 2**a_bits, (2, 9, width, channels)).astype(np.uint8)
    geometry = {"kernel": (kernel, kernel), "padding": (padding,) * 4, "weight_zero": weight_zero}
    zero = 2 ** (a_bits - 1)
    want = expected(conv_plan(x, a_bits, zero, packed, 19, None, **geometry), x)
    for isa in ulp.available_isas():
        ulp.set_isa(isa)
        for method in [None, *gathering(a_bits, w_bits, tight=True)]:
            got = native(conv_plan(x, a_bits, zero, packed, 19, method, **geometry), 2).run(x)
            assert_same(got, want, f"{isa} {method}, output")


# Linear layers, whose results take one of two ways.


@pytest.mark.parametrize("isa", ulp.available_isas())
@pytest.mark.parametrize("has_border", [False, True])
@pytest.mark.parametrize("n", [1, 10, 33, 70])
def test_linear_layers_of_few_and_of_many_images(isa: str, has_border: bool, n: int) -> None:
    ulp.set_isa(isa)
    rng = np.random.default_rng(n)
    rows = rng.integers(-4, 4, (2 * 3, 8, n)).astype(np.int8)
    rows[:, 6:] = 1  # the zero point: channels that pad a pixel
    weights = _core.pack(np.ascontiguousarray(rows.reshape(-1, n)), 3)
    more_weights = _core.pack(rng.integers(-4, 4, (n + -n % 4, n)).astype(np.int8), 3)
    start = rng.integers(-40, 40, n).astype(np.int32)
    table = np.sort(rng.integers(-60, 60, (n, 7)), axis=1).astype(np.int32), rng.random(n) < 0.5
    terms = scaled(rng, n, [])

    def describe(plan: Any) -> None:
        source = plan.codes(2, 3, 6, 4, 3, 1.0)
        plan.input_codes(tensor=source, nhwc=True)
        if has_border:
            window: dict[str, Any] = {"stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1)}
            entries = finish(6, [(plan.floats(2, 3, 6), 0)])
            plan.depthwise(source=source, weights=np.ones((3, 3, 6), np.int8), **window, finish=entries)
        first, counted, values = plan.codes(1, 1, n + 5, 5, 16, 2.0), plan.codes(1, 1, n, 3, 0, 1.0), plan.floats(1, 1, n)
        targets = [(first, 5), (counted, 0), (values, 0)]
        entries = finish(n, targets, start=start, low=-40.0, thresholds=[None, table, None])
        plan.linear(source=source, weights=weights, weight_zero=1, finish=entries, kernel=None)
        second = plan.codes(1, 1, n, 5, 9, 4.0)
        entries = terms | {"residual": (first, 5), "targets": [(second, 0)], "thresholds": [None]}
        plan.linear(source=counted, weights=more_weights, weight_zero=0, finish=entries, kernel=None)
        for tensor in (counted, values, second):
            plan.output(tensor=tensor, nhwc=True)

    x = rng.integers(0, 16, (11, 2, 3, 6)).astype(np.uint8)
    want = expected(describe, x)
    for group in (1, 4, 11):
        assert_same(native(describe, group).run(x), want, f"group {group}, output")


# Sums at int32's limits.


@pytest.mark.parametrize("isa", ulp.available_isas())
def test_the_largest_sums(isa: str) -> None:
    ulp.set_isa(isa)
    channels = 65_792  # 255 * 128 times this is 2^31 - 32768
    x = np.full((1, 1, 1, channels), 255, np.uint8)
    want = [np.full((1, 1, 1, 8), -255 * 128 * channels, F32)]
    packed = _core.pack(np.full((channels, 8), -128, np.int8), 8)
    assert_same(native(conv_plan(x, 8, 0, packed, 8, None, kernel=(1, 1))).run(x), want)

    def linear(plan: Any, wider: int = 0, n: int = 8) -> None:
        source, result = plan.codes(1, 1, channels + wider, 8, 0, 1.0), plan.floats(1, 1, n)
        plan.input_codes(tensor=source, nhwc=True)
        matrix = _core.pack(np.full((channels + wider, n), -128, np.int8), 8)
        plan.linear(source=source, weights=matrix, weight_zero=0, finish=finish(n, [(result, 0)]), kernel=None)
        plan.output(tensor=result, nhwc=True)

    assert_same(native(linear).run(x), want)
    with pytest.raises(ValueError, match="linear: K = 65796 could overflow int32; it may be at most 65793"):
        native(lambda plan: linear(plan, 4))

    def depthwise(plan: Any, more: int = 0) -> None:
        source, result = plan.codes(256, 257 + more, 1, 8, 0, 1.0), plan.floats(1, 1, 1)
        plan.input_codes(tensor=source, nhwc=True)
        plan.depthwise(
            source=source,
            weights=np.full((256, 257 + more, 1), -128, np.int8),
            stride=(1, 1),
            padding=(0, 0, 0, 0),
            dilation=(1, 1),
            finish=finish(1, [(result, 0)]),
        )
        plan.output(tensor=result, nhwc=True)

    assert_same(native(depthwise).run(x.reshape(1, 256, 257, 1)), [want[0][..., :1]])
    with pytest.raises(ValueError, match="depthwise: K = 66048 could overflow int32"):
        native(lambda plan: depthwise(plan, 1))


@pytest.mark.parametrize("isa", ulp.available_isas())
def test_the_largest_window(isa: str) -> None:
    ulp.set_isa(isa)
    height, width = 2902, 2901  # times 255 just below 2^31

    def mean(plan: Any, more: int = 0) -> None:
        source, result = plan.codes(height + more, width, 1, 8, 128, 1.0), plan.floats(1, 1, 1)
        plan.input_codes(tensor=source, nhwc=True)
        rows, columns = np.array([[0, height + more]], np.int32), np.array([[0, width]], np.int32)
        plan.window_mean(source=source, rows=rows, columns=columns, divisor=np.ones((1, 1), F32), finish=finish(1, [(result, 0)], False))
        plan.output(tensor=result, nhwc=True)

    x = np.full((1, height, width, 1), 255, np.uint8)
    assert_same(native(mean).run(x), [np.full((1, 1, 1, 1), 127 * height * width, F32)])
    with pytest.raises(ValueError, match="window_mean: K = 8421603 could overflow int32"):
        native(lambda plan: mean(plan, 1))


# Buffers.


def branches(seed: int) -> Describe:
    """A tensor read with several paddings, slices and concatenation at odd channels, residuals, up to four targets, idle tensors."""

    def describe(plan: Any) -> None:
        rng = np.random.default_rng(seed)
        height, width, channels = (int(i) for i in (rng.integers(3, 9), rng.integers(3, 9), rng.integers(5, 14)))
        x = [plan.codes(height, width, channels, bits, zero, 0.25) for bits, zero in ((3, 4), (6, 0), (8, 128))]
        plan.input_floats(channels=channels, height=height, width=width, targets=x)
        for step in range(6):
            source = x[int(rng.integers(len(x)))] if step % 2 else x[-1]
            bits, before = int(rng.integers(1, 9)), int(rng.integers(1, 6))
            pad = int(rng.integers(0, 4))
            n = int(rng.choice([3, 8, 20, 33]))
            first = int(rng.integers(0, channels))
            read = channels - first
            w = rng.integers(-4, 4, (3, 3, read, n)).astype(np.int8)
            joined = plan.codes(height, width, before + n, bits, 2 ** (bits - 1), 0.5)
            alone = plan.codes(height, width, n, 5, 3, 0.125)
            counted = plan.codes(height, width, n, 3, 0, 1.0)
            values = plan.floats(height, width, n)
            table = np.sort(rng.integers(-60, 60, (n, 7)), axis=1).astype(np.int32)
            targets = [(joined, before), (alone, 0), (counted, 0), (values, 0)]
            entries = scaled(rng, n, targets, low=-3.0, thresholds=[None, None, (table, rng.random(n) < 0.5), None])
            # The window of 3 x 3 in steps of `pad` keeps the size; without a pad it is cut from the middle.
            dilation = max(pad, 1)
            around = (dilation, dilation, dilation, dilation)
            plan.conv(
                source=source,
                source_channel=first,
                weights=padded_rows(w, 3),
                kernel=(3, 3),
                stride=(1, 1),
                padding=around,
                dilation=(dilation, dilation),
                weight_zero=0,
                finish=entries,
                method=None,
            )
            plan.output(tensor=values, nhwc=bool(step % 2))
            small = rng.integers(-8, 8, (1, 1, channels, before)).astype(np.int8)
            residual = (alone, int(rng.integers(0, n - before + 1))) if n >= before else None
            entries = scaled(rng, before, [(joined, 0)], high=5.0, residual=residual)
            plan.conv(
                source=source,
                source_channel=0,
                weights=padded_rows(small, 4),
                kernel=(1, 1),
                stride=(1, 1),
                padding=(0, 0, 0, 0),
                dilation=(1, 1),
                weight_zero=0,
                finish=entries,
                method="direct",
            )
            wide = plan.codes(height, width, channels, 6, 0, 0.25)
            taps = rng.integers(-3, 4, (5, 5, channels)).astype(np.int8)
            around = (2, 2, 2, 2)
            plan.depthwise(
                source=source,
                weights=taps,
                stride=(1, 1),
                padding=around,
                dilation=(1, 1),
                finish=scaled(rng, channels, [(wide, 0)], residual=(source, 0)),
            )
            plan.output(tensor=joined, nhwc=bool(step % 3))
            x.append(wide)
        plan.output(tensor=x[-1], nhwc=False)

    return describe


@pytest.mark.parametrize("isa", ulp.available_isas())
@pytest.mark.parametrize("seed", range(6))
def test_buffers_are_shared_without_trace(seed: int, isa: str) -> None:
    ulp.set_isa(isa)
    rng = np.random.default_rng(seed)
    describe = branches(seed)
    shape = native(describe).steps()[0]["out_shape"]
    x = (rng.standard_normal((4, shape[2], *shape[:2])) * 2).astype(F32)
    want = expected(describe, x)
    for group, throughput, threads, tune in ((1, False, 1, False), (2, True, 3, False), (3, False, 2, True)):
        ulp.set_num_threads(threads)
        plan = native(describe, group, throughput, tune)
        for images in (4, 1, 3, 0, 2):
            assert_same(plan.run(x[:images]), [w[:images] for w in want], f"group {group}, {images} images, output")
        outputs = [np.full_like(w, 77) for w in want]
        assert all(a is b for a, b in zip(plan.run(x, outputs), outputs, strict=True))
        assert_same(outputs, want)
        assert_same(plan.profile(x)[0], want)
        assert plan.arena_bytes < sum(w.nbytes for w in want) * group * 4


def test_pixels_behind_the_last_one_hold_codes() -> None:
    """Weights that read past the tensor's last channel meet the next pixel, behind the last one a code all the same."""
    rng = np.random.default_rng(0)
    for w_bits, a_bits in ((8, 1), (8, 3), (2, 1), (4, 4)):
        top = 2**w_bits - 1
        x = rng.integers(0, 2**a_bits, (5, 3, 4, 7)).astype(np.uint8)

        def describe(plan: Any) -> None:
            source = plan.codes(3, 4, 7, a_bits, 0, 1.0)  # noqa: B023  # called in this round
            plan.input_codes(tensor=source, nhwc=True)
            for step in range(4):
                # Bytes of 255 come and go around the narrow codes.
                noise = plan.codes(3, 4, 8 + 40 * step, 8, 255, 1.0)
                w = np.full((1, 1, 7, 8 + 40 * step), top, np.uint8)  # noqa: B023
                plan.conv(
                    source=source,
                    source_channel=0,
                    weights=padded_rows(w, w_bits, 1),  # noqa: B023
                    kernel=(1, 1),
                    stride=(1, 1),
                    padding=(0, 0, 0, 0),
                    dilation=(1, 1),
                    weight_zero=1,
                    finish=finish(8 + 40 * step, [(noise, 0)]),
                    method=None,
                )
                copy = plan.codes(3, 4, 7, a_bits, 0, 1.0)  # noqa: B023
                plan.gather(
                    source=source,
                    source_channel=0,
                    channels=7,
                    target=(copy, 0),
                    rows=np.array([2, 0, 1], np.int32),
                    columns=np.array([3, -1, 0, 1], np.int32),
                )
                result = plan.floats(3, 4, 40)
                w = np.full((1, 1, 5, 40), top, np.uint8)  # noqa: B023
                around = (0, 0, 0, 0)
                plan.conv(
                    source=copy,
                    source_channel=2,
                    weights=padded_rows(w, w_bits, 1),  # noqa: B023
                    kernel=(1, 1),
                    stride=(1, 1),
                    padding=around,
                    dilation=(1, 1),
                    weight_zero=1,
                    finish=finish(40, [(result, 0)]),
                    method=None,
                )
                plan.output(tensor=result, nhwc=True)
                plan.output(tensor=noise, nhwc=False)

        plan, want = native(describe, 3), expected(describe, x)
        for images in (5, 2, 1):
            assert_same(plan.run(x[:images]), [w[:images] for w in want])


# Threads and lifetimes.


def test_threads_run_one_plan_while_others_are_made() -> None:
    describe = branches(1)
    plan = native(describe, 2)
    shape = plan.steps()[0]["out_shape"]
    x = np.random.default_rng(1).standard_normal((4, shape[2], *shape[:2])).astype(F32)
    want = expected(describe, x)
    failures: list[BaseException] = []

    def work(index: int) -> None:
        try:
            for _ in range(4):
                if index == 0:
                    assert_same(native(describe, 1, True, tune=True).run(x), want)
                else:
                    assert_same(plan.run(x), want)
        except BaseException as error:  # shown by the main thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures


def test_a_plan_that_another_thread_finalizes_is_left_alone() -> None:
    plan = _core.Plan()
    branches(2)(plan)
    refused: list[str] = []

    def finalize() -> None:
        plan.finalize(1, False, True)

    thread = threading.Thread(target=finalize)
    thread.start()
    while thread.is_alive():
        try:
            plan.codes(2, 2, 2, 2, 0, 1.0)
        except ValueError as error:
            refused.append(str(error))
    thread.join()
    # What came before finalize was accepted.
    assert {r.split(" by ")[0] for r in refused} <= {"the plan is being finalized", "the plan is finalized"}


def test_tuning_reports_each_step_and_may_be_ended() -> None:
    plan = _core.Plan()
    branches(2)(plan)
    count = 0

    def interrupt() -> None:
        raise KeyboardInterrupt

    def report() -> None:
        nonlocal count
        count += 1

    with pytest.raises(KeyboardInterrupt):
        plan.finalize(1, False, True, interrupt)
    plan.finalize(1, False, True, report)
    assert count == len(plan.steps())
    shape = plan.steps()[0]["out_shape"]
    x = np.ones((1, shape[2], *shape[:2]), F32)
    assert_same(plan.run(x), expected(branches(2), x))


def test_a_plan_keeps_its_weights() -> None:
    describe = branches(3)
    plan = native(describe)
    gc.collect()
    rubbish = [_core.pack(np.ones((400, 40), np.uint8), 1) for _ in range(50)]
    shape = plan.steps()[0]["out_shape"]
    x = np.random.default_rng(1).standard_normal((2, shape[2], *shape[:2])).astype(F32)
    assert_same(plan.run(x), expected(describe, x))
    assert rubbish


def test_the_time_to_lay_out_many_tensors_that_live_at_once() -> None:
    """Some 0.2 s; with a sort per tensor it was 15 s."""
    plan, count = _core.Plan(), 6000
    index = np.zeros(1, np.int32)
    tensors = [plan.codes(height=1, width=1, channels=4, bits=2, zero=0, scale=1.0) for _ in range(count)]
    plan.input_codes(tensor=tensors[0], nhwc=True)
    for target in tensors[1:]:
        plan.gather(source=tensors[0], source_channel=0, channels=4, target=(target, 0), rows=index, columns=index)
    for tensor in tensors[::-1]:
        plan.output(tensor=tensor, nhwc=False)
        plan.output(tensor=tensor, nhwc=False)
    begin = time.perf_counter()
    plan.finalize(group=1, throughput=False)
    assert time.perf_counter() - begin < 5
    x = np.array([[[[0, 1, 2, 3]]]], np.uint8)
    assert all(np.array_equal(result.ravel(), x.ravel()) for result in plan.run(x))


def test_calls_of_plain_arrays() -> None:
    """What PlanCall takes gives what the plan gives; for everything else it gives None, and refuses shapes of other sizes."""
    plan = _core.Plan()
    parts = [plan.floats(height=1, width=2, channels=3) for _ in range(2)]
    with pytest.raises(ValueError, match="not finalized"):
        _core.PlanCall(plan, [(2, 3)] * 2, [(6,)] * 2)
    for part in parts:
        plan.input_floats(channels=3, height=1, width=2, targets=[part], nhwc=True)
    for part in parts[::-1]:
        plan.output(tensor=part, nhwc=True)
    plan.finalize(group=1, throughput=False)
    for inputs, outputs in (
        ([(2, 3)], [(6,)] * 2),
        ([(2, 3), (7,)], [(6,)] * 2),
        ([(2, 3)] * 2, [(6,), (-1, -6)]),
        ([(2, 3)] * 2, [(2**62, 6)] * 2),
    ):
        with pytest.raises(ValueError, match="sizes"):
            _core.PlanCall(plan, inputs, outputs)
    call = _core.PlanCall(plan, [(2, 3), (3, 2)], [(6,), (1, 6)])
    x, y = np.random.default_rng(0).standard_normal((2, 4, 6)).astype(F32)
    x, y = x.reshape(4, 2, 3), y.reshape(4, 3, 2)
    results = call(x, y)
    assert results is not None
    assert_same(results, [y.reshape(4, 6), x.reshape(4, 1, 6)])
    unaligned = np.frombuffer(b"0" + y.tobytes(), np.uint8)[1:].view(F32).reshape(y.shape)
    others: list[tuple[Any, ...]] = [
        (),
        (x,),
        (x, y, y),
        (x, y[:3]),
        (x[:0], y[:0]),
        (x, y.reshape(4, 6)),
        (x, y[..., None]),
        (x, y.astype(F32(0).dtype.newbyteorder())),
    ]
    others += [
        (x, y.astype(np.float64)),
        (x, np.asfortranarray(y)),
        (x, unaligned),
        (x, y.tolist()),
        (x, np.ma.masked_array(y)),
        (F32(0), y),
    ]
    assert all(call(*given) is None for given in others)
