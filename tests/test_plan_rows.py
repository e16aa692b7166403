"""Steps of sequences: functions of rows against float64, products of activations, products of floats quantized in the call."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from test_plan import F32, Describe, expected, native

import ulp
from ulp import _core

FUNCTIONS = ("identity", "layer_norm", "rms_norm", "softmax", "gelu", "gelu_tanh", "silu", "sigmoid", "tanh")
NORMS = ("layer_norm", "rms_norm")


def on_every_isa(describe: Describe, x: Any) -> list[Any]:
    """The results, which are the same bits on every ISA, and with two threads."""
    isa, threads = ulp.get_isa(), ulp.get_num_threads()
    results: list[list[Any]] = []
    try:
        for name in ulp.available_isas():
            ulp.set_isa(name)
            results.append(native(describe).run(x))
        ulp.set_num_threads(2)
        results.append(native(describe).run(x))
    finally:
        ulp.set_isa(isa)
        ulp.set_num_threads(threads)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(one.view(np.uint8), two.view(np.uint8))
    return results[0]


def one_function(function: str, width: int, channels: int, groups: int = 1, inputs: int = 1, *, integers: bool = False) -> Describe:
    def describe(plan: Any) -> None:
        rng = np.random.default_rng(3)
        parameters = {
            "gamma": rng.uniform(0.5, 2, channels).astype(F32),
            "beta": rng.standard_normal(channels).astype(F32),
            "epsilon": 1e-5,
        }
        x, floats = plan.floats(1, width, channels * groups), plan.floats(1, width, channels * groups)
        codes = plan.codes(1, width, channels * groups, 8, 100, 0.0625)
        operands = [x]
        if inputs > 1:
            operands.append(plan.codes(1, width, channels * groups, 5, 11, 0.25))
        plan.input_floats(channels=channels * groups, height=1, width=width, targets=operands, nhwc=True)
        plan.rows(
            operands=[(tensor, 0) for tensor in operands],
            channels=channels,
            groups=groups,
            function=function,
            targets=[(floats, 0), (codes, 0)],
            divide=True,
            integers=integers,
            **(parameters if function in NORMS else {}),
        )
        for tensor in (floats, codes):
            plan.output(tensor=tensor, nhwc=True)

    return describe


def ulps(got: Any, want: Any) -> Any:
    return np.abs(got.astype(np.float64) - want) / np.spacing(np.abs(want).astype(F32)).astype(np.float64)


# In float32, of the largest value of the row where a sum over it takes part: what docs/networks.md states.
BOUNDS = {"identity": 0, "gelu": 6, "gelu_tanh": 24, "silu": 4, "sigmoid": 4, "tanh": 4}


@pytest.mark.parametrize("function", sorted(BOUNDS))
def test_elementwise_functions_are_within_their_ulps(function: str) -> None:
    from tools.reference.sequences import row_function

    x = np.concatenate([np.linspace(-12, 12, 4001), np.linspace(-0.7, 0.7, 999), [0, -0.0, 87, -87, 60, -60]]).astype(F32)
    floats, _ = on_every_isa(one_function(function, 2, 2503), x.reshape(1, 1, 2, 2503))
    want = row_function(function, x.astype(np.float64), 1, 0, 0)
    near = np.abs(x) <= 5 if function == "gelu_tanh" else np.abs(want) > 1e-30
    assert ulps(floats.reshape(-1), want)[near].max() <= BOUNDS[function]
    np.testing.assert_allclose(floats.reshape(-1), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("width", "channels", "groups", "inputs"), [(3, 1, 1, 1), (5, 33, 1, 2), (2, 15, 6, 1), (7, 384, 1, 2), (1, 16, 3, 2)]
)
def test_functions_of_rows(function: str, width: int, channels: int, groups: int, inputs: int) -> None:
    x = (np.random.default_rng(channels).standard_normal((2, 1, width, channels * groups)) * 3).astype(F32)
    describe = one_function(function, width, channels, groups, inputs)
    floats, codes = on_every_isa(describe, x)
    want, want_codes = expected(describe, x)
    np.testing.assert_allclose(floats, want, rtol=2e-6, atol=2e-6)
    assert np.abs(codes.astype(int) - want_codes).max() <= (0 if function == "identity" else 1)
    assert (codes != want_codes).mean() < 0.01 + 1 / codes.size


# Of csrc/ops/integer_rows.h.
INTEGER_BOUNDS = {"softmax": 2.0**-14, "sigmoid": 2.0**-14, "tanh": 2.0**-14, "gelu": 2.0**-13, "gelu_tanh": 2.0**-13, "silu": 2.0**-13}


@pytest.mark.parametrize("function", FUNCTIONS[1:])
def test_functions_in_integers_keep_their_bounds(function: str) -> None:
    """Of values that are exact in fixed point, wide and narrow, of codes and floats."""
    rng = np.random.default_rng(4)
    for width, channels, groups, inputs, spread in (
        (3, 1, 1, 1, 3),
        (5, 33, 2, 2, 1),
        (7, 384, 1, 2, 4),
        (9, 3000, 1, 1, 20),
        (4, 48, 1, 1, 700),
    ):
        x = (np.rint(rng.standard_normal((1, 1, width, channels * groups)) * spread * 2**14) / 2**14).astype(F32)
        describe = one_function(function, width, channels, groups, inputs, integers=True)
        floats, codes = on_every_isa(describe, x)
        want, want_codes = expected(describe, x)
        bound: Any = INTEGER_BOUNDS.get(function, 0)
        if function in NORMS:
            bound = 2.0**-11 * (2 * np.sqrt(channels) + 1) if channels == 1 else 2.0**-11 * (np.abs(want).max() + 1)
        assert np.abs(floats - want).max() <= bound
        assert np.abs(codes.astype(int) - want_codes).max() <= 1
        assert (codes != want_codes).mean() < 0.05 + 2 / codes.size
    nan = np.full((1, 1, 3, 1), np.nan, F32)
    with pytest.raises(ValueError, match="NaN"):
        native(one_function(function, 3, 1, integers=True)).run(nan)
    wide = np.array([-3e38, 3e38, 0, -20000, 20000, 1], F32).reshape(1, 1, 1, 6)
    assert np.isfinite(on_every_isa(one_function(function, 1, 6, integers=True), wide)[0]).all()


@pytest.mark.parametrize("function", ["gelu", "gelu_tanh", "silu", "sigmoid"])
def test_what_falls_below_float32_is_nothing(function: str) -> None:
    """As their limits say: infinity times nothing is no NaN."""
    x = np.array([-np.inf, -3e38, 3e38, np.inf], F32).reshape(1, 1, 1, 4)

    def describe(plan: Any) -> None:
        source, result = plan.floats(1, 1, 4), plan.floats(1, 1, 4)
        plan.input_floats(channels=4, height=1, width=1, targets=[source], nhwc=True)
        plan.rows(operands=[(source, 0)], channels=4, groups=1, function=function, targets=[(result, 0)], divide=False)
        plan.output(tensor=result, nhwc=True)

    (got,) = on_every_isa(describe, x)
    ends = [0, 0, 1, 1] if function == "sigmoid" else [0, 0, x[0, 0, 0, 2], np.inf]
    np.testing.assert_array_equal(got.reshape(-1), np.array(ends, F32))


def test_a_mask_counts_for_all_heads_and_rows() -> None:
    heads, width, length = 3, 4, 10

    def describe(plan: Any) -> None:
        x, mask, result = plan.floats(1, width, heads * length), plan.floats(1, 1, length), plan.floats(1, width, heads * length)
        plan.input_floats(channels=heads * length, height=1, width=width, targets=[x], nhwc=True)
        one = plan.floats(1, 1, heads * length)
        rows = {"rows": np.zeros((1, 3), np.int32), "columns": np.zeros((1, 3), np.int32)}
        for target, count in ((one, heads * length), (mask, length)):
            channels = np.stack([np.zeros(count), np.zeros(count), np.arange(count)], axis=1).astype(np.int32)
            plan.rearrange(source=x, target=(target, 0), **rows, channels=channels)
        plan.rows(
            operands=[(x, 0), (mask, 0), (one, 0)],
            channels=length,
            groups=heads,
            function="softmax",
            targets=[(result, 0)],
            divide=False,
        )
        plan.output(tensor=result, nhwc=True)

    x = np.random.default_rng(0).standard_normal((2, 1, width, heads * length)).astype(F32)
    (got,) = on_every_isa(describe, x)
    np.testing.assert_allclose(got, expected(describe, x)[0], rtol=2e-6)
    np.testing.assert_allclose(got.reshape(2, width, heads, length).sum(axis=-1), 1, rtol=1e-6)


def attention_product(codes: bool, transposed: bool, batch: int, rows: int, depth: int, columns: int, to_codes: bool) -> Describe:
    """a (rows, batch * depth) times b, which lies as keys do (columns, batch * depth), or as values (depth, batch * columns)."""
    size = (columns, batch * depth) if transposed else (depth, batch * columns)
    width, channels = max(rows, size[0]), max(batch * depth, size[1])

    def describe(plan: Any) -> None:
        def operand(zero: int) -> int:
            tensor: int = plan.codes(1, width, channels, 8, zero, 0.0625) if codes else plan.floats(1, width, channels)
            return tensor

        a, b = operand(255), operand(3)
        out = plan.codes(1, rows, batch * columns, 8, 128, 0.5) if to_codes else plan.floats(1, rows, batch * columns)
        plan.input_floats(channels=channels, height=1, width=width, targets=[a, b], divide=True, nhwc=True)
        of_b = [[0, 0, depth], [0, 0, 1], [0, 1, 0]] if transposed else [[0, 0, columns], [0, 1, 0], [0, 0, 1]]
        steps = [[0, 0, depth], [0, 1, 0], [0, 0, 1], *of_b, [0, 0, columns], [0, 1, 0], [0, 0, 1]]
        plan.product(
            a=(a, 0),
            b=(b, 0),
            target=(out, 0),
            sizes=(batch, rows, depth, columns),
            steps=np.array(steps, np.int32),
            scale=0.015625 / depth,
            in_units=to_codes and codes,
        )
        plan.output(tensor=out, nhwc=True)

    describe.shape = (2, 1, width, channels)  # type: ignore[attr-defined]
    return describe


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (3, 7, 5, 17), (2, 50, 33, 16), (2, 13, 700, 3)])
def test_products_of_activations(sizes: tuple[int, int, int, int], transposed: bool) -> None:
    for codes in (False, True):
        for to_codes in (False, True):
            describe: Any = attention_product(codes, transposed, *sizes, to_codes)
            x = (np.random.default_rng(1).standard_normal(describe.shape) * 8).astype(F32)
            (got,), (want,) = on_every_isa(describe, x), expected(describe, x)
            if codes:  # exact, also where sums leave 2^24
                np.testing.assert_array_equal(got, want)
            else:
                np.testing.assert_allclose(got, want, rtol=1e-5, atol=1 if to_codes else 1e-4)


def attention(fused: bool, heads: int, rows: int, columns: int, depth: int, values: int, mask: str) -> Describe:
    """q (rows, heads * depth), k (columns, heads * depth), v (columns, heads * values), all of the call's input; or as three steps."""
    width, channels = max(rows, columns), heads * max(depth, values, columns)

    def describe(plan: Any) -> None:
        x = [plan.floats(1, width, channels) for _ in range(3)]
        plan.input_floats(channels=channels, height=1, width=width, targets=x, nhwc=True)
        masks = {"": None, "one": (1, columns), "rows": (rows, columns), "heads": (rows, heads * columns)}[mask]
        added = None
        if masks is not None:
            added = plan.codes(1, *masks, 5, 11, 0.25) if mask == "rows" else plan.floats(1, *masks)
            at = np.zeros((masks[0], 3), np.int32)
            at[:, 1] = np.arange(masks[0])
            channel = np.stack([np.zeros(masks[1]), np.zeros(masks[1]), np.arange(masks[1])], axis=1).astype(np.int32)
            source = x[0]
            if mask == "rows":
                source = plan.codes(1, width, channels, 5, 11, 0.25)
                operand = {"operands": [(x[0], 0)], "channels": channels, "groups": 1, "function": "identity"}
                plan.rows(**operand, targets=[(source, 0)], divide=True)
            plan.rearrange(source=source, target=(added, 0), rows=np.zeros((1, 3), np.int32), columns=at, channels=channel)
        of_q, of_k = [[0, 0, depth], [0, 1, 0], [0, 0, 1]], [[0, 0, depth], [0, 0, 1], [0, 1, 0]]
        of_v = [[0, 0, values], [0, 1, 0], [0, 0, 1]]
        of_scores = [[0, 0, columns], [0, 1, 0], [0, 0, 1]]
        out, scale = plan.floats(1, rows, heads * values), 0.3
        given = (x[0], 0), (x[1], 0), (x[2], 0)
        sizes = heads, rows, depth, columns
        masking = None if added is None else (added, 0)
        if fused:
            steps = np.array([*of_q, *of_k, *of_v, *of_v], np.int32)
            q, k, v = given
            plan.attention(q=q, k=k, v=v, mask=masking, target=(out, 0), sizes=sizes, values=values, steps=steps, scale=scale)
        else:
            scores, weights = (plan.floats(1, rows, heads * columns) for _ in range(2))
            steps = np.array([*of_q, *of_k, *of_scores], np.int32)
            plan.product(a=given[0], b=given[1], target=(scores, 0), sizes=sizes, steps=steps, scale=scale, in_units=False)
            operands = [(scores, 0), *([] if masking is None else [masking])]
            over = {"channels": columns, "groups": heads, "function": "softmax"}
            plan.rows(operands=operands, **over, targets=[(weights, 0)], divide=False)
            steps = np.array([*of_scores, *of_v, *of_v], np.int32)
            sizes = heads, rows, columns, values
            plan.product(a=(weights, 0), b=given[2], target=(out, 0), sizes=sizes, steps=steps, scale=1.0, in_units=False)
        plan.output(tensor=out, nhwc=True)

    describe.shape = (2, 1, width, channels)  # type: ignore[attr-defined]
    return describe


@pytest.mark.parametrize(
    ("sizes", "mask"), [((1, 1, 1, 1, 1), ""), ((3, 29, 17, 5, 7), "one"), ((2, 50, 33, 16, 3), "rows"), ((3, 7, 19, 8, 16), "heads")]
)
def test_attention_is_two_products_around_softmax(sizes: tuple[int, int, int, int, int], mask: str) -> None:
    describe: Any = attention(True, *sizes, mask)
    x = np.random.default_rng(2).standard_normal(describe.shape).astype(F32) * 3
    (got,), (want,) = on_every_isa(describe, x), native(attention(False, *sizes, mask)).run(x)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(got, expected(describe, x)[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("per_row", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_products_with_codes_of_the_call(per_row: bool, signed: bool) -> None:
    rng = np.random.default_rng(5)
    for width, channels, outputs, bits in ((1, 3, 5, 8), (9, 40, 33, 4), (30, 64, 70, 8)):
        low = -(2 ** (bits - 1)) if signed else 0
        w = rng.integers(low, low + 2**bits, (channels + -channels % 4, outputs)).astype(np.int8 if signed else np.uint8)
        zero = 0 if signed else 2 ** (bits - 1)
        w[channels:] = zero
        terms = {"scale": rng.uniform(0.001, 0.1, outputs).astype(F32), "bias": rng.standard_normal(outputs).astype(F32)}

        def describe(
            plan: Any, w: Any = w, zero: int = zero, terms: Any = terms, width: int = width, channels: int = channels, bits: int = bits
        ) -> None:
            outputs = w.shape[1]
            x, floats, codes = plan.floats(1, width, channels), plan.floats(1, width, outputs), plan.codes(1, width, outputs, 8, 99, 0.25)
            plan.input_floats(channels=channels, height=1, width=width, targets=[x], nhwc=True)
            targets = [(floats, 0), (codes, 0)]
            finish = {"residual": None, "low": -math.inf, "high": math.inf, "targets": targets, "thresholds": [None] * 2, **terms}
            weights = _core.pack(w, bits)
            plan.dynamic_linear(source=x, weights=weights, weight_zero=zero, per_row=per_row, finish=finish, kernel=None)
            for tensor in (floats, codes):
                plan.output(tensor=tensor, nhwc=True)

        x = rng.standard_normal((3, 1, width, channels)).astype(F32)
        x[1] = 0
        x[2] = np.abs(x[2])
        for one in x[:, None]:
            for got, want in zip(on_every_isa(describe, one), expected(describe, one), strict=True):
                np.testing.assert_array_equal(got, want)
        if width > 1 and not per_row:  # one scale for the whole call: as one image of all rows
            together = native(partial(describe, width=3 * width)).run(x.reshape(1, 1, 3 * width, channels))
            for got, want in zip(on_every_isa(describe, x), together, strict=True):
                np.testing.assert_array_equal(got.reshape(want.shape), want)


@pytest.mark.parametrize(("a_bits", "w_bits", "function"), [(4, 4, "gelu"), (8, 1, "silu"), (1, 8, "identity"), (6, 2, "tanh")])
def test_products_with_fewer_bits_and_a_function(a_bits: int, w_bits: int, function: str) -> None:
    rng = np.random.default_rng(a_bits)
    width, channels, outputs = 11, 21, 35  # rows whose last vector is short, and weights that are padded
    w = rng.choice([-1, 1], (24, outputs)) if w_bits == 1 else rng.integers(-(2 ** (w_bits - 1)), 2 ** (w_bits - 1), (24, outputs))
    w[channels:] = 1 if w_bits == 1 else 0
    weights = _core.pack(w.astype(np.int8), w_bits)
    terms = {"scale": rng.uniform(0.01, 0.1, outputs).astype(F32), "bias": rng.standard_normal(outputs).astype(F32)}

    def describe(plan: Any) -> None:
        x, floats = plan.floats(2, width, channels), plan.floats(2, width, outputs)
        plan.input_floats(channels=channels, height=2, width=width, targets=[x], nhwc=True)
        finish = {"residual": None, "low": -1.0, "high": 1.5, "targets": [(floats, 0)], "thresholds": [None], **terms}
        plan.dynamic_linear(
            source=x, weights=weights, weight_zero=0, per_row=True, finish=finish, kernel=None, bits=a_bits, function=function
        )
        plan.output(tensor=floats, nhwc=True)

    x = (rng.standard_normal((1, 2, width, channels)) * 10.0 ** rng.integers(-30, 20, (1, 2, width, 1))).astype(F32)
    (got,), (want,) = on_every_isa(describe, x), expected(describe, x)
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=1e-30)
    if function == "identity":
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(("width", "channels", "outputs"), [(1, 5, 3), (13, 40, 70), (300, 24, 33)])
def test_outliers_are_multiplied_in_floats(width: int, channels: int, outputs: int) -> None:
    """Beside the integers, whose scales they leave alone."""
    rng = np.random.default_rng(width)
    columns = np.unique(np.array([0, channels // 2, channels - 1], np.int32))
    w = rng.integers(-8, 8, (channels + -channels % 4, outputs)).astype(np.int8)
    w[channels:] = 0
    weights, wide = _core.pack(w, 4), rng.standard_normal((len(columns), outputs)).astype(F32)
    terms = {"scale": rng.uniform(0.01, 0.1, outputs).astype(F32), "bias": rng.standard_normal(outputs).astype(F32)}

    def describe(plan: Any, **changes: Any) -> None:
        x, floats, codes = plan.floats(1, width, channels), plan.floats(1, width, outputs), plan.codes(1, width, outputs, 8, 99, 0.25)
        plan.input_floats(channels=channels, height=1, width=width, targets=[x], nhwc=True)
        targets = [(floats, 0), (codes, 0)]
        finish = {"residual": None, "low": -30.0, "high": 30.0, "targets": targets, "thresholds": [None] * 2, **terms}
        given = {"source": x, "weights": weights, "weight_zero": 0, "per_row": True, "finish": finish, "kernel": None, "bits": 6}
        plan.dynamic_linear(**given | {"outliers": columns, "outlier_weights": wide} | changes)
        for tensor in (floats, codes):
            plan.output(tensor=tensor, nhwc=True)

    x = rng.standard_normal((1, 1, width, channels)).astype(F32)
    x[..., columns] *= 100
    for got, want in zip(on_every_isa(describe, x), expected(describe, x), strict=True):
        np.testing.assert_array_equal(got, want)
    for value in (np.nan, np.inf):
        x[0, 0, width // 2, columns[-1]] = value
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            native(describe).run(x)
    for message, changes in (
        ("outliers go with per_row", {"per_row": False}),
        ("ascending channels", {"outliers": columns[::-1].copy()}),
        ("ascending channels", {"outliers": columns + np.int32(1)}),
        (r"outlier_weights have shape \(2,", {"outlier_weights": wide[:2].copy()}),
        ("outlier_weights must be finite", {"outlier_weights": wide * F32(np.inf)}),
    ):
        with pytest.raises(ValueError, match=message):
            native(partial(describe, **changes))


def test_outliers_whose_products_leave_float32() -> None:
    """A fused product of finite factors has no infinity to take from another: no NaN, and the reference's results."""
    w, terms = _core.pack(np.ones((8, 20), np.int8), 2), {"scale": np.ones(20, F32), "bias": np.zeros(20, F32)}

    def describe(plan: Any) -> None:
        x, y, codes = plan.floats(1, 3, 8), plan.floats(1, 3, 20), plan.codes(1, 3, 20, 8, 99, 0.25)
        plan.input_floats(channels=8, height=1, width=3, targets=[x], nhwc=True)
        finish = {"residual": None, "low": -math.inf, "high": math.inf, "targets": [(y, 0), (codes, 0)], "thresholds": [None] * 2, **terms}
        given = {"source": x, "weights": w, "weight_zero": 0, "per_row": True, "finish": finish, "kernel": None}
        plan.dynamic_linear(**given, outliers=np.array([0, 3], np.int32), outlier_weights=np.full((2, 20), 2, F32))
        for tensor in (y, codes):
            plan.output(tensor=tensor, nhwc=True)

    x = np.random.default_rng(0).standard_normal((1, 1, 3, 8)).astype(F32)
    x[0, 0, 1, [0, 3]], x[0, 0, 2, [0, 3]] = (3e38, -3e38), (-3e38, 3e38)
    with np.errstate(over="ignore"):
        want = expected(describe, x)
    assert list(want[0][0, 0, 1:, 0]) == [math.inf, -math.inf]
    for got, one in zip(on_every_isa(describe, x), want, strict=True):
        np.testing.assert_array_equal(got, one)


def test_a_division_by_multiplications_rounds_as_a_division() -> None:
    """The quantizers': codes next to halves show each wrong rounding."""
    rng = np.random.default_rng(7)
    w = _core.pack(np.eye(64, dtype=np.int8), 2)
    ones = {"scale": np.ones(64, F32), "bias": np.zeros(64, F32)}

    def describe(plan: Any) -> None:
        x, floats = plan.floats(1, 500, 64), plan.floats(1, 500, 64)
        plan.input_floats(channels=64, height=1, width=500, targets=[x], nhwc=True)
        finish = {"residual": None, "low": -math.inf, "high": math.inf, "targets": [(floats, 0)], "thresholds": [None], **ones}
        plan.dynamic_linear(source=x, weights=w, weight_zero=0, per_row=True, finish=finish, kernel=None)
        plan.output(tensor=floats, nhwc=True)

    largest = rng.uniform(0.5, 2, (1, 1, 500, 1)).astype(F32) * F32(255)
    x = (rng.integers(0, 255, (1, 1, 500, 64)) + 0.5).astype(F32) * (largest / F32(255))
    x[:, :, 250:] = np.nextafter(x[:, :, 250:], F32(0))
    x[..., 0] = largest[..., 0]
    (got,), (want,) = on_every_isa(describe, x), expected(describe, x)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("source", ["rows", "groups", 3, 8])
def test_products_with_weights_in_groups(source: str | int) -> None:
    """Of floats, quantized per row or per group of it, and of codes with a zero point."""
    rng = np.random.default_rng(8)
    for width, channels, outputs, bits, group, kind in ((1, 3, 5, 8, 3, "zeros"), (9, 40, 33, 4, 16, "table"), (7, 96, 70, 2, 32, "zero")):
        groups = -(-channels // group)
        fields = {
            "weights": _core.pack(rng.integers(0, 2**bits, (groups * 32, outputs), dtype=np.uint8), bits),
            "group": group,
            "scales": rng.uniform(-1, 1, (groups, outputs)).astype(F32),
            "zeros": rng.uniform(0, 2**bits, (groups, outputs)).astype(F32) if kind == "zeros" else None,
            "zero": 2 if kind == "zero" else 0,
            "table": rng.integers(-3000, 3000, 16).astype(np.int32) if kind == "table" else None,
            "bias": rng.standard_normal(outputs).astype(F32) if bits != 2 else None,
            "per_group": source == "groups",
        }

        def describe(plan: Any, fields: Any = fields, width: int = width, channels: int = channels, outputs: int = outputs) -> None:
            zero = 5 if isinstance(source, int) else 0
            x = plan.codes(1, width, channels, source, zero, 0.25) if isinstance(source, int) else plan.floats(1, width, channels)
            wide = plan.floats(1, width, outputs)
            plan.input_floats(channels=channels, height=1, width=width, targets=[x], nhwc=True)
            plan.grouped_linear(source=x, target=(wide, 0), **fields)
            plan.output(tensor=wide, nhwc=True)

        x = rng.standard_normal((3, 1, width, channels)).astype(F32)
        for one in x[:, None]:
            for got, want in zip(on_every_isa(describe, one), expected(describe, one), strict=True):
                np.testing.assert_array_equal(got, want)
        together = np.concatenate([native(describe).run(one[None])[0] for one in x])
        np.testing.assert_array_equal(native(describe).run(x)[0], together)


@pytest.mark.parametrize("per_row", [False, True])
def test_codes_of_products_that_leave_int32(per_row: bool) -> None:
    """The weights' scales alone do not say how far values reach: the activation's counts, too, which is known in the call only."""
    rng = np.random.default_rng(6)
    channels, outputs = 24, 21
    weights = _core.pack(rng.integers(-128, 128, (channels, outputs)).astype(np.int8), 8)
    terms = {"scale": np.full(outputs, 0.01, F32), "bias": np.zeros(outputs, F32)}

    def describe(plan: Any) -> None:
        x, codes = plan.floats(1, 3, channels), [plan.codes(1, 3, outputs, 8, zero, 1.0) for zero in (0, 128, 255)]
        plan.input_floats(channels=channels, height=1, width=3, targets=[x], nhwc=True)
        targets = [(tensor, 0) for tensor in codes]
        finish = {"residual": None, "low": -math.inf, "high": math.inf, "targets": targets, "thresholds": [None] * 3, **terms}
        plan.dynamic_linear(source=x, weights=weights, weight_zero=0, per_row=per_row, finish=finish, kernel=None)
        for tensor in codes:
            plan.output(tensor=tensor, nhwc=True)

    x = rng.standard_normal((1, 1, 3, channels)).astype(F32)
    for factor in (1e9, 1e20, 1e37):
        with np.errstate(over="ignore"):
            want = expected(describe, x * F32(factor))
        assert {0, 255} == set(np.unique(want))
        for got, codes in zip(on_every_isa(describe, x * F32(factor)), want, strict=True):
            np.testing.assert_array_equal(got, codes)
    x[0, 0, 1, :2] = -3e38, 3e38
    with pytest.raises(ValueError, match="leaves float32"):
        native(describe).run(x)
    for infinity in (-np.inf, np.inf):  # alone it has no zero point: the sanitizers see to it that none is made of it
        x[0, 0, 1, :2] = infinity, 1
        with pytest.raises(ValueError, match="infinity"):
            native(describe).run(x)


def refusals() -> list[tuple[str, Callable[[Any], None]]]:
    def product(**changes: Any) -> Callable[[Any], None]:
        steps = np.array([[0, 0, 2], [0, 1, 0], [0, 0, 1]] * 3, np.int32)
        given = {"a": (0, 0), "b": (1, 0), "target": (2, 0), "sizes": (2, 2, 2, 2), "steps": steps, "scale": 1.0, "in_units": False}
        return lambda plan: plan.product(**given | changes)

    def rows(**changes: Any) -> Callable[[Any], None]:
        given = {"operands": [(0, 0)], "channels": 4, "groups": 1, "function": "softmax", "targets": [(2, 0)], "divide": False}
        return lambda plan: plan.rows(**given | changes)

    def dynamic(**changes: Any) -> Callable[[Any], None]:
        ones = np.ones(4, F32)
        finish = {"residual": None, "low": -1.0, "high": 1.0, "targets": [(2, 0)], "thresholds": [None], "scale": ones, "bias": ones}
        weights = _core.pack(np.ones((4, 4), np.int8), 2)
        given = {"source": 0, "weights": weights, "weight_zero": 0, "per_row": True, "finish": finish, "kernel": None}
        return lambda plan: plan.dynamic_linear(**given | changes)

    at = np.array([[0, 0, 2], [0, 1, 0], [0, 0, 1]] * 3, np.int32)
    return [
        ("indices leave a tensor", product(sizes=(2, 3, 2, 2))),
        ("is not covered", product(sizes=(1, 2, 2, 2))),
        ("a step is 0", product(steps=np.where(np.arange(27).reshape(9, 3) // 3 == 2, 0, at).astype(np.int32))),
        ("columns must be channels", product(steps=at[[0, 1, 2, 3, 4, 5, 6, 8, 7]])),
        ("goes with codes only", product(in_units=True)),
        ("must be finite", product(scale=math.inf)),
        ("a tensor that is read", product(target=(1, 0))),
        ("no function is called 'softmin'", rows(function="softmin")),
        ("go with normalizations", rows(gamma=np.ones(4, F32))),
        ("one value per channel", rows(function="rms_norm", gamma=np.ones(3, F32))),
        ("epsilon must be finite", rows(function="layer_norm", epsilon=-1.0)),
        ("'identity' has no form in integers", rows(function="identity", integers=True)),
        ("groups", rows(groups=0)),
        ("no function of single elements", dynamic(function="softmax")),
        ("bits = 9 is outside", dynamic(bits=9)),
    ]


@pytest.mark.parametrize(("message", "call"), refusals())
def test_refusals(message: str, call: Callable[[Any], None]) -> None:
    plan = _core.Plan()
    for _ in range(3):
        plan.floats(1, 2, 4)
    plan.input_floats(channels=4, height=1, width=2, targets=[0, 1], nhwc=True)
    with pytest.raises(ValueError, match=message):
        call(plan)


@pytest.mark.parametrize("function", ["identity", "softmax", "gelu", "layer_norm"])
@pytest.mark.parametrize("channels", [5, 16, 33])
def test_a_nan_becomes_no_code(function: str, channels: int) -> None:
    """-inf does, as in masks; a NaN of the input, or one that infinities make, is refused on every instruction set."""
    plan = _core.Plan()
    x, codes = plan.floats(1, 4, channels), plan.codes(1, 4, channels, 8, 128, 0.05)
    plan.input_floats(channels=channels, height=1, width=4, targets=[x])
    epsilon = 1e-5 if function == "layer_norm" else None
    plan.rows(operands=[(x, 0)], channels=channels, groups=1, function=function, epsilon=epsilon, targets=[(codes, 0)], divide=True)
    plan.output(tensor=codes, nhwc=True)
    plan.finalize(1, False)
    values = np.random.default_rng(0).standard_normal((3, channels, 1, 4)).astype(F32)
    isa = ulp.get_isa()
    try:
        for name in ulp.available_isas():
            ulp.set_isa(name)
            for hole, allowed in ((np.nan, ()), (-np.inf, ("identity", "softmax", "gelu"))):
                x_bad = values.copy()
                x_bad[1, channels // 2, 0, 3] = hole
                if function in allowed:
                    assert plan.run(x_bad)[0][1, 0, 3, channels // 2] == (0 if function == "identity" else 128)
                else:
                    with pytest.raises(_core.NotFinite, match="NaN"):
                        plan.run(x_bad)
    finally:
        ulp.set_isa(isa)


def test_infinities_become_no_codes_in_sums() -> None:
    plan = _core.Plan()
    a, b, codes = plan.floats(1, 4, 6), plan.floats(1, 4, 6), plan.codes(1, 4, 6, 8, 128, 0.05)
    plan.input_floats(channels=6, height=1, width=4, targets=[a])
    plan.input_floats(channels=6, height=1, width=4, targets=[b])
    plan.combine(operands=[(a, 0), (b, 0)], channels=6, multiply=False, low=-np.inf, high=np.inf, targets=[(codes, 0)], divide=True)
    plan.output(tensor=codes, nhwc=True)
    plan.finalize(1, False)
    x = np.ones((2, 6, 1, 4), F32)
    assert (plan.run([x, x])[0] == 168).all()
    y = x.copy()
    y[1, 3, 0, 2] = np.inf
    with pytest.raises(_core.NotFinite, match="NaN or an infinity"):
        plan.run([x, y])
