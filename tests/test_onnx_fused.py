"""Sums and tables of codes that become part of a layer's step; poolings in front of the first quantizer. Against float operators."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")  # tests/onnx_models.py

from onnx_models import Writer
from test_onnx_load import check, images, layer, quant

import ulp


def residual_network(seed: int) -> tuple[Writer, str]:
    """Blocks whose branches are quantized before their sum or product, as Brevitas has them; results go through more quantizers."""
    w = Writer((4, 9, 11), seed, opset=13)
    rng = np.random.default_rng(seed)

    def random_quant(x: str) -> str:
        bits = int(rng.integers(2, 6))
        return quant(w, x, float(rng.choice([0.125, 0.25, 0.5])), bits, signed=int(rng.integers(0, 2)))

    x = quant(w, "x", 0.25, 4, signed=1)
    for _ in range(3):
        body = random_quant(layer(w, random_quant(layer(w, x, 4, 4)), 4, 4))
        shortcut = random_quant(layer(w, x, 4, 4, kernel=1)) if rng.integers(0, 2) else random_quant(x)
        operands = (body, shortcut) if rng.integers(0, 2) else (shortcut, body)
        total = w.add("Add" if rng.integers(0, 3) else "Mul", *operands)
        x = random_quant(w.add("Relu", total) if rng.integers(0, 2) else total)
        if rng.integers(0, 2):
            x = random_quant(w.add("LeakyRelu", x, alpha=0.25))
    return w, layer(w, x, 4, 5)


@pytest.mark.parametrize("seed", range(16))
def test_residual_networks(seed: int) -> None:
    w, y = residual_network(seed)
    check(w, y, images(3, 4, 9, 11))


@pytest.mark.parametrize("op_type", ["Add", "Mul"])
@pytest.mark.parametrize("bits", [2, 4, 5])
def test_a_sum_of_few_bits_takes_no_step(op_type: str, bits: int) -> None:
    w = Writer((4, 9, 11), bits, opset=13)
    x = quant(w, "x", 0.25, 4, signed=1)
    body, shortcut = (quant(w, layer(w, x, 4, 4), 0.5, bits, signed=1) for _ in range(2))
    again = quant(w, shortcut, 0.25, bits, signed=1)
    total = quant(w, w.add(op_type, body, again), 0.5, 4, signed=1)
    network = check(w, layer(w, total, 4, 5), images(1, 4, 9, 11))
    steps = {row.step for row in network.profile(images(1, 4, 9, 11), runs=1)}
    assert steps - {"input", "output"} == ({"conv"} if bits < 5 else {"conv", "combine"})


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("form", ["Quant", "QDQ", "integers"])
def test_poolings_of_a_float_layers_codes(form: str, seed: int) -> None:
    """onnxruntime pools the floats, of which fewer are to be quantized then."""
    rng = np.random.default_rng(seed)
    w = Writer((3, 20, 21), seed, opset=13)
    y = w.conv("x", 3, 8, 5, stride=2)
    y = w.add("Relu", y) if rng.integers(0, 2) else y
    kernel, pads = int(rng.integers(2, 4)), [int(side) for side in rng.integers(0, 2, 4)]
    window: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [2, int(rng.integers(1, 3))], "pads": pads}
    if form == "Quant":
        after = w.add("MaxPool", quant(w, y, 0.25, 4, signed=1), **window)
    else:
        parameters = [w.constant(np.float32(0.03125)), w.constant(np.uint8(7))]
        codes = w.add("QuantizeLinear", y, *parameters)
        if form == "QDQ":
            after = w.add("MaxPool", w.add("DequantizeLinear", codes, *parameters), **window)
            parameters = [w.constant(np.float32(0.0625)), w.constant(np.uint8(99))]
            after = w.add("DequantizeLinear", w.add("QuantizeLinear", after, *parameters), *parameters)
        else:
            after = w.add("DequantizeLinear", w.add("MaxPool", codes, **window), *parameters)
    model, x = w.model(layer(w, after, 8, 5)), images(2, 3, 20, 21) * 3
    network = ulp.load(model, tune=False)
    rows = list(network.profile(x, runs=1))
    assert not any(row.step == "max_pool" for row in rows)
    assert any(row.step == "conv" for row in rows)
    by_numpy = ulp.load(model, tune=False, floats="numpy")
    assert any(row.step == "max_pool" for row in by_numpy.profile(x, runs=1))
    # Sums of floats in another order may round to another code: one step of 4 bits, behind 8 channels.
    near = np.abs(network(x) - by_numpy(x))
    assert (near == 0).mean() > 0.95
