"""Equalized channels: the same function in floats, less noise in codes, and still one integer plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

from onnx_models import Writer, small_network
from reference import Array

import ulp
from ulp.onnx.session import Session
from ulp.quantize import FloatNetwork, equalize
from ulp.quantize.batches import batches_of
from ulp.quantize.equalize import equalized
from ulp.quantize.prepare import prepare

CHANNELS = 16


@pytest.fixture(autouse=True)
def _tables_for_any_gain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equalize, "_TABLE_GAIN", 0.9)


def spread(w: Writer, *sides: int) -> Array:
    """Factors (C, 1, ...) whose largest is some hundred times the smallest."""
    return np.exp(w.rng.uniform(-3, 3, (CHANNELS, *sides))).astype(np.float32)


def uneven(w: Writer, x: str, inputs: int, kernel: int = 3) -> str:
    """A convolution whose channels have very different sizes."""
    factors = spread(w, 1, 1, 1)
    weight = w.rng.standard_normal((CHANNELS, inputs, kernel, kernel)).astype(np.float32) / np.sqrt(inputs * kernel**2)
    bias = w.constant((w.rng.standard_normal(CHANNELS) * factors.ravel() / 4).astype(np.float32))
    return w.add("Conv", x, w.constant((weight * factors).astype(np.float32)), bias, pads=[kernel // 2] * 4)


def even(w: Writer, x: str, groups: int = 1, outputs: int = 24) -> str:
    return w.conv(x, CHANNELS, CHANNELS if groups > 1 else outputs, group=groups)


def images_model(kind: str) -> Any:
    """One convolution with uneven channels, something behind it, and layers that read that."""
    w = Writer((3, 8, 8))
    y = uneven(w, "x", 3)
    if kind == "depthwise":
        return w.model(even(w, w.add("Relu", y), CHANNELS))
    if kind == "grouped":
        return w.model(even(w, w.add("LeakyRelu", y, alpha=0.1), 4))
    if kind == "pooled":
        pooled = w.add("AveragePool", w.add("MaxPool", w.add("Relu", y), kernel_shape=[2, 2]), kernel_shape=[2, 2])
        return w.model(even(w, pooled))
    if kind == "two readers":
        a = w.add("Relu", y)
        return w.model(w.add("Concat", even(w, a), even(w, a, CHANNELS), axis=1))
    if kind == "table":
        return w.model(even(w, w.add("HardSwish", y)))
    if kind == "table of several operators":
        return w.model(even(w, w.add("Mul", y, w.add("Sigmoid", y)), CHANNELS))
    if kind == "constants":
        moved = w.add("Sub", w.add("Add", w.add("Relu", y), w.constant(np.float32(0.5))), w.constant(spread(w, 1, 1)))
        return w.model(even(w, w.add("Div", w.add("Mul", moved, w.constant(spread(w, 1, 1))), w.constant(np.float32(2)))))
    assert kind == "normalized"
    scale, shift = (w.constant(spread(w)) for _ in range(2))
    mean, variance = (w.constant(np.ones(CHANNELS, np.float32)) for _ in range(2))
    return w.model(even(w, w.add("BatchNormalization", w.add("Relu", y), scale, shift, mean, variance)))


IMAGES = ("depthwise", "grouped", "pooled", "two readers", "table", "table of several operators", "constants", "normalized")


def rows_model(kind: str) -> Any:
    """The same for linear layers."""
    w = Writer((10,) if kind == "gemm" else (6, CHANNELS))
    if kind == "gemm":
        weight = w.constant((w.rng.standard_normal((CHANNELS, 10)) * spread(w, 1)).astype(np.float32))
        y = w.add("Relu", w.add("Gemm", "x", weight, w.constant(spread(w)), transB=1))
        return w.model(w.add("Gemm", y, w.weights(CHANNELS, 7), w.constant(np.ones(7, np.float32))))
    normal = w.add("LayerNormalization", "x", w.constant(spread(w)), w.constant(spread(w)), axis=-1)
    heads = [w.add("MatMul", normal, w.weights(CHANNELS, 12)) for _ in range(3)]
    return w.model(w.add("Concat", *heads, axis=-1))


def inputs(model: Any, count: int = 16) -> Array:
    sides = [side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim][1:]
    return np.random.default_rng(1).standard_normal((count, *sides)).astype(np.float32)


def noise(network: FloatNetwork, model: Any, x: Array, bits: int) -> float:
    """The relative squared error, the mean over channels."""
    assignment = dict.fromkeys((layer.name for layer in network.layers), bits)
    made = network.quantized(assignment, rounding="nearest", bias_correction=False).load(tune=False, progress=False)(x)
    exact = Session(model.SerializeToString(), "float")([x])[0]
    others = tuple(i for i in range(exact.ndim) if i != (1 if exact.ndim == 4 else exact.ndim - 1))
    return float((np.square(made - exact).sum(others) / np.square(exact).sum(others)).mean())


@pytest.mark.parametrize("model", [*(images_model(kind) for kind in IMAGES), rows_model("gemm"), rows_model("rows")])
def test_the_same_function_with_less_noise(model: Any) -> None:
    x = inputs(model)
    prepared = prepare(model)
    made = equalized(prepared, batches_of(x, prepared.inputs))
    assert made is not prepared
    assert [layer.name for layer in made.layers] == [layer.name for layer in prepared.layers]
    exact, same = (Session(one.SerializeToString(), "float")([x])[0] for one in (model, made.proto))
    np.testing.assert_allclose(same, exact, rtol=1e-4, atol=1e-4 * np.abs(exact).max())
    network, plain = (FloatNetwork(model, x, equalize=on, progress=False) for on in (True, False))
    ratios = [noise(network, model, x, bits) / noise(plain, model, x, bits) for bits in (4, 8)]
    assert max(ratios) < 1.1
    assert np.prod(ratios) < 0.8


@pytest.mark.parametrize("kind", IMAGES)
def test_still_one_integer_plan(kind: str) -> None:
    model = images_model(kind)
    assert ulp.load(model, bits=4, calibrate=inputs(model), tune=False).integer


def test_what_others_read_stays() -> None:
    w = Writer((3, 8, 8))
    a = w.add("Relu", uneven(w, "x", 3))
    b = uneven(w, a, CHANNELS)
    model = w.model(w.add("Concat", even(w, w.add("Add", b, a)), a, axis=1))
    prepared = prepare(model)
    assert equalized(prepared, batches_of(inputs(model), prepared.inputs)) is prepared


def test_a_shift_behind_a_relu_is_part_of_the_plan() -> None:
    w = Writer((3, 8, 8))
    y = w.add("Add", w.add("Relu", w.conv("x", 3, CHANNELS)), w.constant(spread(w, 1, 1)))
    model = w.model(even(w, y))
    x = inputs(model)
    network = ulp.load(model, bits=8, calibrate=x, tune=False)
    assert network.integer
    exact = Session(model.SerializeToString(), "float")([x])[0]
    assert np.abs(network(x) - exact).max() < 0.02 * np.abs(exact).max()


def test_tables_per_channel_take_time_and_must_gain_much(monkeypatch: pytest.MonkeyPatch) -> None:
    model = images_model("table")
    prepared = prepare(model)
    batches = batches_of(inputs(model), prepared.inputs)
    assert equalized(prepared, batches) is not prepared
    monkeypatch.setattr(equalize, "_TABLE_GAIN", 1e-6)
    assert equalized(prepared, batches) is prepared


def test_even_channels_stay() -> None:
    prepared = prepare(small_network())
    made = equalized(prepared, batches_of(inputs(small_network()), prepared.inputs))
    assert {layer.x for layer in made.layers} == {layer.x for layer in prepared.layers}
