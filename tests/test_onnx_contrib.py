"""onnxruntime's own operators, as its quantizer and its optimizer write them: each loads and gives onnxruntime's results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from reference import Array

import ulp

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from test_onnx_integers import Quantized  # noqa: E402  # what is not installed skips the file

# Operator: options, shape of x, and whether it runs in integers.
UNARY: list[tuple[str, dict[str, Any], tuple[int, ...], bool]] = [
    ("QLinearSigmoid", {}, (4, 6, 6), True),
    ("QLinearLeakyRelu", {"alpha": 0.25}, (4, 6, 6), True),
    ("QLinearAveragePool", {"kernel_shape": [2, 2]}, (4, 6, 6), True),
    ("QLinearGlobalAveragePool", {"channels_last": 0}, (4, 4, 4), True),
    ("QLinearGlobalAveragePool", {"channels_last": 1}, (4, 4, 6), False),
    ("QLinearSoftmax", {"axis": -1, "opset": 13}, (4, 6, 6), False),
    ("QLinearSoftmax", {"axis": 1, "opset": 12}, (10,), False),
]


def check(w: Quantized, y: str, op_type: str, integer: bool) -> None:
    model, x = w.model(y), np.random.default_rng(1).standard_normal((3, *w.shape)).astype(np.float32) * 2
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    want: Array = ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]
    network = ulp.load(model, tune=False)
    np.testing.assert_allclose(network(x), want, rtol=1e-6, atol=1e-6, err_msg=str(network))
    assert all(row.integer is integer for row in network.layers if row.op_type in (op_type, op_type.removeprefix("QLinear"))), network


@pytest.mark.parametrize(("op_type", "options", "shape", "integer"), UNARY)
def test_functions_of_codes(op_type: str, options: dict[str, Any], shape: tuple[int, ...], integer: bool) -> None:
    w = Quantized(shape, opset=17)
    before = w.constant(np.float32(2.0**-4)), w.constant(np.uint8(128))
    zero = 0 if op_type in ("QLinearSigmoid", "QLinearSoftmax") else 128
    after = w.constant(np.float32(2.0 ** (-8 if zero == 0 else -5))), w.constant(np.uint8(zero))
    codes = w.add(op_type, w.add("QuantizeLinear", "x", *before), *before, *after, domain="com.microsoft", **options)
    check(w, w.add("DequantizeLinear", codes, *after), op_type, integer)


@pytest.mark.parametrize("op_type", ["QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearWhere"])
def test_functions_of_two_codes(op_type: str) -> None:
    """Between floats that is no work for a plan."""
    w = Quantized((4, 6, 6), opset=17)
    one = w.constant(np.float32(2.0**-4)), w.constant(np.uint8(128))
    two = w.constant(np.float32(2.0**-3)), w.constant(np.uint8(100))
    after = w.constant(np.float32(2.0**-2)), w.constant(np.uint8(80))
    a = w.add("QuantizeLinear", "x", *one), *one
    b = w.add("QuantizeLinear", w.add("Add", "x", w.number(0.5)), *two), *two
    if op_type == "QLinearConcat":
        y = w.add(op_type, *after, *a, *b, domain="com.microsoft", axis=1)
    elif op_type == "QLinearWhere":
        y = w.add(op_type, w.add("Greater", "x", w.number(0)), *a, *b, *after, domain="com.microsoft")
    else:
        y = w.add(op_type, *a, *b, *after, domain="com.microsoft")
    check(w, w.add("DequantizeLinear", y, *after), op_type, False)


def test_floats_of_the_optimizer() -> None:
    w = Quantized((6, 8), opset=17)
    row = [w.constant(w.rng.standard_normal(8).astype(np.float32)) for _ in range(3)]
    y = w.add("SkipLayerNormalization", "x", w.add("Sin", "x"), *row, domain="com.microsoft")
    y = w.add("FusedMatMul", y, w.constant(w.rng.standard_normal((5, 8)).astype(np.float32)), domain="com.microsoft", transB=1, alpha=0.5)
    check(w, y, "FusedMatMul", False)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(
    "op_type",
    ["QLinearAdd", "QLinearMul", "QLinearAveragePool", "QLinearAveragePool of all", "QLinearGlobalAveragePool", "QLinearLeakyRelu"],
)
def test_ties_with_an_odd_zero_point(op_type: str, dtype: Any) -> None:
    """Some of onnxruntime's operators add the zero point before they round, others behind: scales that are powers of two show which."""
    w = Quantized((4, 4, 4), opset=17)
    low = int(np.iinfo(dtype).min)
    parameters = [(w.constant(np.float32(scale)), w.constant(dtype(low + zero))) for scale, zero in ((1, 100), (0.5, 64), (4, 127))]
    a, b = ([w.add("QuantizeLinear", x, *p), *p] for x, p in zip(("x", w.add("Neg", "x")), parameters, strict=False))
    operands = [*a, *b] if op_type in ("QLinearAdd", "QLinearMul") else a
    options: dict[str, dict[str, Any]] = {
        "QLinearAveragePool": {"kernel_shape": [2, 2]},
        "QLinearAveragePool of all": {"kernel_shape": [4, 4]},
        "QLinearGlobalAveragePool": {"channels_last": 0},
        "QLinearLeakyRelu": {"alpha": 0.25},
    }
    y = w.add(op_type.split(maxsplit=1)[0], *operands, *parameters[2], domain="com.microsoft", **options.get(op_type, {}))
    model = w.model(w.add("DequantizeLinear", y, *parameters[2]))
    x = np.random.default_rng(1).integers(-64, 64, (8, 4, 4, 4)).astype(np.float32)
    want = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]
    for floats in ("onnxruntime", "numpy")[: 1 if "all" in op_type else 2]:
        network = ulp.load(model, tune=False, floats=floats)
        np.testing.assert_array_equal(network(x), want)
        assert all(row.shape or not row.integer for row in network.layers)
