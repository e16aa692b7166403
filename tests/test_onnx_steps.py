"""Codes by thresholds on sums: roundings and widths of QONNX, MultiThreshold, rising activations; scales per channel; channels last."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")  # tests/onnx_models.py

from onnx import helper
from onnx_models import Writer
from reference import Array
from test_onnx_load import by_operators, check, images, layer, quant, quantized_weights

import ulp

MODES = ["ROUND", "HALF_EVEN", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN"]
BITS = [*range(1, 10), 12, 16, 1.5, 2.5, 3.7, 7.9]


def sums(seed: int = 0) -> tuple[Writer, str]:
    """A model whose tensor holds sums of a 1 x 1 convolution: every multiple of 1/32 from about -4 to 4."""
    w = Writer((3, 24, 24), seed, opset=13)
    x = quant(w, "x", 0.25, 6, signed=1)
    return w, layer(w, x, 3, 4, kernel=1)


@pytest.mark.parametrize("mode", MODES)
def test_every_rounding_and_width_of_quant_is_qonnxs(mode: str) -> None:
    """Behind a layer, of the input, and of a constant; integer wherever the codes have 8 bits."""
    theirs = pytest.importorskip("qonnx.custom_op.general.quant").quant
    x = images(1, 3, 24, 24) * 2
    values = (np.arange(-600, 601, dtype=np.float32) / 32).reshape(1, 1, 1, -1)
    w, y = sums()
    before = by_operators(w.model(y), x)
    for bits, signed, narrow, (scale, zero) in itertools.product(BITS, (0, 1), (0, 1), [(0.125, 0), (0.25, 3), (0.3, 0), (0.5, -2)]):
        if (bits <= 2 and narrow) or (zero and not signed) or (bits == 1 and signed and zero) or (scale == 0.3 and mode in MODES[:2]):
            continue  # no codes but one; and where rint(x / s) is a tie, float32 rounds before
        arguments = (np.float32(scale), np.float32(zero), np.float32(bits), signed, narrow, mode)
        what = f"bits={bits} signed={signed} narrow={narrow} scale={scale} zero={zero}"
        w, y = sums()
        network = ulp.load(w.model(quant(w, y, scale, bits, signed=signed, zero=zero, narrow=narrow, mode=mode)), tune=False)
        np.testing.assert_array_equal(network(x), theirs(before, *arguments), err_msg=what)
        if bits <= 8 and abs(zero) < 2 ** (bits - 1) - 1:
            assert network.integer, f"{what}\n{network}"
        w = Writer((1, 1, values.shape[-1]), opset=13)
        alone = ulp.load(w.model(quant(w, "x", scale, bits, signed=signed, zero=zero, narrow=narrow, mode=mode)), tune=False)
        np.testing.assert_array_equal(alone(values), theirs(values, *arguments), err_msg=what)
        w = Writer((1, 1, values.shape[-1]), opset=13)
        folded = w.add("Mul", "x", quant(w, w.constant(values), scale, bits, signed=signed, zero=zero, narrow=narrow, mode=mode))
        np.testing.assert_array_equal(ulp.load(w.model(folded))(np.ones_like(values)), theirs(values, *arguments), err_msg=what)


@pytest.mark.parametrize("act", ["Clip", "LeakyRelu", "Sigmoid", "Relu"])
@pytest.mark.parametrize("affine", [("Mul",), ("Mul", "Add"), ("Div",)])
def test_scales_of_channels_behind_an_activation_are_integer(act: str, affine: tuple[str, ...]) -> None:
    """As where the scale of the next depthwise layer's input differs from channel to channel."""
    w, y = sums()
    y = w.add(act, y, *([w.constant(np.float32(-0.75)), w.constant(np.float32(1.5))] if act == "Clip" else []))
    factors = [0.5, 1.0, 2.0, 4.0] if affine == ("Div",) else [0.5, 0.75, 1.25, 2.0]  # products and quotients are exact
    for op_type in affine:
        y = w.add(op_type, y, w.constant(np.array(factors, np.float32).reshape(4, 1, 1)))
    check(w, layer(w, quant(w, y, 0.25, 3, signed=1), 4, 3, kernel=1), images(2, 3, 24, 24))


@pytest.mark.parametrize("mode", ["round_to_zero", "dpu", "ceil"])
def test_roundings_of_brevitas_are_integer(mode: str) -> None:
    w, y = sums()
    check(w, quant(w, y, 0.25, 4, signed=1, mode=mode), images(2, 3, 24, 24))


@pytest.mark.parametrize("pool", [("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}), ("GlobalAveragePool", {}), None])
@pytest.mark.parametrize("mode", ["FLOOR", "ROUND", "CEIL"])
@pytest.mark.parametrize("second", [False, True])
def test_bits_are_dropped_in_integers(mode: str, pool: tuple[str, dict[str, Any]] | None, second: bool) -> None:
    """Behind an average, as Brevitas' TruncAvgPool2d has it, and of codes themselves."""
    w, x = Writer((4, 8, 8), opset=13), images(3, 4, 8, 8)
    codes = quant(w, "x", 0.0625, 6, signed=1)
    y = codes if pool is None else w.add(pool[0], codes, **pool[1])
    numbers = (0.0625, 0, 6, 0.25, 4) if second else (0.0625, 0, 6, 4)
    parameters = (w.constant(np.array(v, np.float32)) for v in numbers)
    extra = {"signed": 1, "narrow": 0} if second else {}
    dropped = w.add("Trunc", y, *parameters, domain="onnx.brevitas", rounding_mode=mode, **extra)
    network = check(w, layer(w, dropped, 4, 5, kernel=1), x)
    assert {row.bits for row in network.layers if row.op_type == "Conv"} <= {(3, 4), (3, 5)}


@pytest.mark.parametrize("mode", MODES)
def test_trunc_is_qonnxs(mode: str) -> None:
    trunc = pytest.importorskip("qonnx.custom_op.general.trunc")
    x = np.arange(-512, 512, dtype=np.float32).reshape(1, 1, 1, -1) / 8
    for signed, out_bits in itertools.product((0, 1), (1, 2, 3, 4, 6, 8)):
        arguments = (np.float32(0.125), np.float32(0), np.float32(8), np.float32(out_bits))
        w = Writer((1, 1, x.shape[-1]), opset=13)
        codes = quant(w, "x", 0.125, 8, signed=signed)
        inputs = [w.constant(np.asarray(a)) for a in arguments]
        network = ulp.load(w.model(w.add("Trunc", codes, *inputs, domain="onnx.brevitas", rounding_mode=mode)), tune=False)
        given = np.clip(np.rint(x * 8), -128 * signed, 255 - 128 * signed).astype(np.float32) / 8
        np.testing.assert_array_equal(network(x), trunc.trunc_v1(given, *arguments, mode))


@pytest.mark.parametrize("mode", MODES)
def test_trunc_with_a_zero_point_is_qonnxs(mode: str) -> None:
    trunc = pytest.importorskip("qonnx.custom_op.general.trunc")
    x = np.arange(-512, 512, dtype=np.float32).reshape(1, 1, 1, -1) / 8
    integer = 0
    for zero, out_bits, second in itertools.product((4, 16, 100), (2, 4), (False, True)):
        w = Writer((1, 1, x.shape[-1]), opset=13)
        codes = quant(w, "x", 0.125, 8, signed=0, zero=zero)
        out_scale = np.float32(0.125 * 2 ** (8 - out_bits))
        head, last = [np.float32(v) for v in (0.125, zero, 8)], np.float32(out_bits)
        numbers = [*head, out_scale, last] if second else [*head, last]
        extra = {"signed": 0, "narrow": 0} if second else {}
        inputs = [w.constant(np.asarray(a)) for a in numbers]
        model = w.model(w.add("Trunc", codes, *inputs, domain="onnx.brevitas", rounding_mode=mode, **extra))
        network = ulp.load(model, tune=False)
        given = (np.clip(np.rint(x * 8 + np.float32(zero)), 0, 255).astype(np.float32) - zero) / 8
        want = trunc.trunc_v2(given, *head, 0, 0, out_scale, last, mode) if second else trunc.trunc_v1(given, *head, last, mode)
        np.testing.assert_array_equal(network(x), want, err_msg=f"{zero} {out_bits} {second}\n{network}")
        integer += network.integer
    assert integer


def test_thresholds_of_one_channel_or_each() -> None:
    multithreshold = pytest.importorskip("qonnx.custom_op.general.multithreshold").multithreshold
    x = images(1, 3, 24, 24) * 2
    rng = np.random.default_rng(0)
    for rows, steps, scale, bias in [(4, 7, 1.0, 0.0), (1, 3, 0.5, -1.0), (4, 1, 2.0, -1.0), (4, 15, 0.25, 0.5), (1, 255, 1.0, 0.0)]:
        w, y = sums()
        before = by_operators(w.model(y), x)
        thresholds = np.sort(rng.integers(-64, 64, (rows, steps)) / 32, axis=1).astype(np.float32)
        attributes: dict[str, Any] = {"out_scale": scale, "out_bias": bias, "out_dtype": "INT8", "domain": "qonnx.custom_op.general"}
        codes = w.add("MultiThreshold", y, w.constant(thresholds), **attributes)
        network = ulp.load(w.model(codes), tune=False)
        assert network.integer, network
        np.testing.assert_array_equal(network(x), multithreshold(before, thresholds, scale, bias))
        # Codes of it are a layer's input, pooled or joined with others on the way.
        pooled = w.add("MaxPool", codes, kernel_shape=[2, 2])
        joined = w.add("Concat", pooled, pooled, axis=1)
        check(w, layer(w, joined, 8, 5), x)


@pytest.mark.parametrize("layout", ["NCW", "NC", "NWC", ""])
def test_thresholds_on_sequences(layout: str) -> None:
    """(N, C, L), and rows (N, T, C), for which QONNX takes what says nothing."""
    rows = layout in ("NWC", "")
    w = Writer((12, 4) if rows else (4, 12), opset=13)
    x = np.random.default_rng(0).standard_normal((3, *w.shape)).astype(np.float32)
    codes = quant(w, "x", 0.25, 4, signed=1)
    if rows:
        y = w.add("MatMul", codes, quant(w, w.weights(4, 5), 0.125, 3, signed=1, narrow=1))
    else:
        y = w.add("Conv", codes, quantized_weights(w, 5, 4, 3), kernel_shape=[3], pads=[1, 1])
    thresholds = w.constant(np.sort(w.rng.integers(-64, 64, (5, 7)) / 32, axis=1).astype(np.float32))
    attributes = {"data_layout": layout} if layout else {}
    codes = w.add("MultiThreshold", y, thresholds, domain="qonnx.custom_op.general", **attributes)
    if rows:
        check(w, w.add("MatMul", codes, quant(w, w.weights(5, 3), 0.125, 3, signed=1, narrow=1)), x)
    else:
        check(w, w.add("Conv", codes, quantized_weights(w, 3, 5, 1), kernel_shape=[1]), x)


def test_thresholds_on_codes_and_on_floats() -> None:
    w, x = Writer((4, 8, 8), opset=13), images(3, 4, 8, 8)
    thresholds = w.constant(np.array([[-1, 0, 0.5]], np.float32))
    check(w, w.add("MultiThreshold", quant(w, "x", 0.25, 4, signed=1), thresholds, domain="finn.custom_op.general"), x)
    w = Writer((4, 8, 8), opset=13)
    codes = w.add("MultiThreshold", "x", w.constant(np.array([[-1, 0, 0.5]], np.float32)), domain="finn.custom_op.general")
    network = check(w, layer(w, codes, 4, 4), x, integer=False)
    assert [row.op_type for row in network.layers if row.integer] == ["Conv"]


CURVES: list[tuple[str, dict[str, float]]] = [
    ("LeakyRelu", {"alpha": 0.125}),
    ("Elu", {"alpha": 0.5}),
    ("Celu", {"alpha": 2.0}),
    ("Selu", {}),
    ("Sigmoid", {}),
    ("Tanh", {}),
    ("HardSigmoid", {"alpha": 0.25, "beta": 0.5}),
    ("Softplus", {}),
    ("Softsign", {}),
]


@pytest.mark.parametrize(("name", "attributes"), CURVES)
def test_rising_activations_are_thresholds(name: str, attributes: dict[str, Any]) -> None:
    w, y = sums()
    activated = w.add(name, y, **attributes)
    pooled = w.add("MaxPool", activated, kernel_shape=[3, 3], strides=[2, 2])
    check(w, layer(w, quant(w, pooled, 0.0625, 6, signed=1), 4, 5), images(2, 3, 24, 24) * 2)


@pytest.mark.parametrize("kernel", [[1, 4], [5, 3]])
def test_rising_activations_of_one_average_per_row(kernel: list[int]) -> None:
    w = Writer((4, 5, 5), opset=13)
    y = w.add("AveragePool", quant(w, "x", 0.25, 4, signed=1), kernel_shape=kernel, strides=[1, 2])
    check(w, quant(w, w.add("LeakyRelu", y, alpha=0.25), 0.0625, 6, signed=1), images(2, 4, 5, 5))


def test_a_rising_activation_whose_floats_are_needed_runs_in_floats() -> None:
    w, y = sums()
    activated = w.add("Sigmoid", y)
    network = check(w, w.add("Mul", quant(w, activated, 0.125, 4), activated), images(2, 3, 24, 24), integer=False)
    assert [row.op_type for row in network.layers if row.integer] == ["Conv"]


def test_prelu_has_a_slope_per_channel() -> None:
    w, y = sums()
    slopes = w.constant(np.array([0, 0.25, 0.5, 2], np.float32).reshape(4, 1, 1))
    check(w, layer(w, quant(w, w.add("PRelu", y, slopes), 0.25, 4, signed=1), 4, 5), images(2, 3, 24, 24))
    w, y = sums()
    falling = w.constant(np.array([-1], np.float32).reshape(1, 1, 1))
    check(w, layer(w, quant(w, w.add("PRelu", y, falling), 0.25, 4, signed=1), 4, 5), images(2, 3, 24, 24), integer=False)


@pytest.mark.parametrize("layered", [False, True], ids=["input", "sums"])
@pytest.mark.parametrize(("group", "outputs"), [(8, 8), (8, 16), (4, 8)])
def test_scales_per_channel_in_front_of_grouped_layers(layered: bool, group: int, outputs: int) -> None:
    """As Brevitas' MobileNet has them: the sums of a group do not mix channels of different scales."""
    w, x = Writer((8, 8, 8), opset=13), images(2, 8, 8, 8)
    y = w.add("Relu", layer(w, quant(w, "x", 0.25, 4, signed=1), 8, 8)) if layered else "x"
    scales = np.repeat(np.exp2(w.rng.integers(-4, 0, (1, group, 1, 1))), 8 // group, axis=1).astype(np.float32)
    parameters = [w.constant(scales), w.constant(np.float32(0)), w.constant(np.float32(4))]
    codes = w.add("Quant", y, *parameters, domain="onnx.brevitas", signed=0, narrow=0, rounding_mode="ROUND")
    weights = quantized_weights(w, outputs, 8 // group, 3, 3)
    network = check(w, quant(w, w.add("Conv", codes, weights, group=group), 0.5, 4, signed=1), x, integer=layered)
    assert all(row.integer for row in network.layers if row.op_type == "Conv"), network


def test_scales_that_a_sum_mixes_run_in_floats() -> None:
    w = Writer((8, 8, 8), opset=13)
    scales = np.exp2(w.rng.integers(-4, 0, (1, 8, 1, 1))).astype(np.float32)
    parameters = [w.constant(scales), w.constant(np.float32(0)), w.constant(np.float32(4))]
    codes = w.add("Quant", "x", *parameters, domain="onnx.brevitas", signed=0, narrow=0, rounding_mode="ROUND")
    weights = quantized_weights(w, 8, 4, 3, 3)
    network = check(w, w.add("Conv", codes, weights, group=2), images(2, 8, 8, 8), integer=False)
    assert not any(row.integer for row in network.layers if row.op_type == "Conv")


def u_network(last: bool) -> tuple[Writer, str]:
    """Layers, a norm, pooling, upsampling and a concatenation, as ONNX has them or with channels last."""
    domain, w = "qonnx.custom_op.channels_last" if last else "", Writer((8, 8, 4) if last else (4, 8, 8), opset=13)

    def ordered(array: Array) -> str:
        """A constant with the sides (., C, H, W)."""
        return w.constant(array.transpose(0, 2, 3, 1) if last else array)

    def conv(x: str, inputs: int, outputs: int, bias: bool) -> str:
        parameters = (w.constant(np.array(v, np.float32)) for v in (0.125, 0, 4))
        weights = ordered((w.rng.standard_normal((outputs, inputs, 3, 3)) / 2).astype(np.float32))
        q = w.add("Quant", weights, *parameters, domain="onnx.brevitas", signed=1, narrow=1, rounding_mode="ROUND")
        biases = [w.constant((w.rng.integers(-8, 8, outputs) / 8).astype(np.float32))] if bias else []
        return w.add("Conv", x, q, *biases, domain=domain, kernel_shape=[3, 3], pads=[1] * 4)

    one = quant(w, w.add("LeakyRelu", conv(quant(w, "x", 0.25, 4, signed=1), 4, 8, True), alpha=0.125), 0.25, 4, signed=1)
    pooled = w.add("MaxPool", one, domain=domain, kernel_shape=[2, 2], strides=[2, 2])
    norm = [w.constant(v.astype(np.float32)) for v in (np.ones(8), np.zeros(8), np.zeros(8), np.full(8, 4))]
    two = quant(w, w.add("BatchNormalization", conv(pooled, 8, 8, False), *norm, domain=domain, epsilon=0.0), 0.25, 4, signed=1)
    two = quant(w, w.add("Add", two, ordered(w.rng.integers(0, 4, (1, 8, 1, 1)).astype(np.float32))), 0.25, 4)
    scales = w.constant(np.array([1, 2, 2, 1] if last else [1, 1, 2, 2], np.float32))
    asked = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    larger = w.add("Resize", two, w.constant(np.zeros(0, np.float32)), scales, **asked)
    joined = w.add("Concat", quant(w, larger, 0.25, 4), quant(w, one, 0.25, 4), axis=-1 if last else 1)
    return w, conv(joined, 16, 5, True)


def test_channels_last_become_one_integer_plan() -> None:
    w, y = u_network(last=True)
    model, x = w.model(y), images(2, 8, 8, 4)
    model.opset_import.append(helper.make_opsetid("qonnx.custom_op.channels_last", 1))
    network = ulp.load(model, tune=False)
    assert network.integer, network
    first, result = u_network(last=False)
    expected = by_operators(first.model(result), np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    np.testing.assert_array_equal(network(x), expected.transpose(0, 2, 3, 1))


def multi_threshold(w: Writer, x: str, *thresholds: list[float]) -> str:
    """In steps of 0.25 from -1 on."""
    bounds = w.constant(np.array(thresholds, np.float32))
    return w.add("MultiThreshold", x, bounds, domain="qonnx.custom_op.general", out_scale=0.25, out_bias=-1.0)


def clamped(w: Writer, x: str, kind: str) -> str:
    return w.add("Relu", x) if kind == "Relu" else w.add("Clip", x, w.constant(np.float32(-0.25)), w.constant(np.float32(0.25)))


@pytest.mark.parametrize("kind", ["Relu", "Clip"])
@pytest.mark.parametrize("rows", [0, 1, 4])
def test_what_thresholds_made_is_clamped_as_values(kind: str, rows: int) -> None:
    """Not by the thresholds, which are of other values; rows=0: signs, of which a ReLU makes 0 and 0.25."""
    w, y = sums()
    codes = multi_threshold(w, y, *[[row - 2.0, 0.5, 1.0, 1.5, 2.0] for row in range(rows)]) if rows else quant(w, y, 0.25, 1, signed=1)
    check(w, quant(w, w.add("Mul", codes, clamped(w, codes, kind)), 0.0625, 6, signed=1), images(2, 3, 24, 24) * 2)
    check(w, layer(w, clamped(w, codes, kind), 4, 5), images(2, 3, 24, 24) * 2)


@pytest.mark.parametrize("kind", ["Relu", "Clip"])
def test_thresholds_of_clamped_sums_beside_codes_of_all(kind: str) -> None:
    w, y = sums()
    steps = multi_threshold(w, clamped(w, y, kind), [-1.0, -0.625, 0.125, 0.1875, 2.0])
    both = w.add("Concat", steps, quant(w, y, 0.25, 4, signed=1), axis=1)
    network = ulp.load(w.model(both), tune=False)
    x = images(2, 3, 24, 24) * 2
    np.testing.assert_array_equal(network(x), by_operators(w.model(both), x))


def test_thresholds_per_channel_of_a_function_of_codes() -> None:
    w, y = sums()
    codes = quant(w, y, 0.25, 4, signed=1)
    bounds = [[row - 2.0, 0.5, 1.0, 1.5, 2.0] for row in range(4)]
    squares = w.add("Mul", codes, codes)
    check(w, multi_threshold(w, squares, *bounds), images(2, 3, 24, 24) * 2)
    joined = w.add("Concat", squares, w.add("Neg", codes), axis=1)
    check(w, multi_threshold(w, joined, *bounds, *[[row - 1.0, 0.25, 0.5, 1.5, 2.5] for row in range(4)]), images(2, 3, 24, 24) * 2)
