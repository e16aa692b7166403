"""QONNX's operators: values worked out by hand, and the package qonnx itself where it is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ulp.onnx.model import OnnxError
from ulp.onnx.operators import OPERATORS

X = np.array([-9, -2.5, -1.5, -0.75, -0.5, 0, 0.25, 0.5, 0.75, 1.5, 2.5, 9], np.float32)


def number(value: Any) -> npt.NDArray[np.float32]:
    return np.array(value, np.float32)


def quant(x: Any, scale: float, zero: float, bits: float, **attributes: Any) -> list[float]:
    (result,) = OPERATORS["Quant"](attributes, 21, np.asarray(x, np.float32), number(scale), number(zero), number(bits))
    assert result.dtype == np.float32
    return [float(value) for value in result]


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("ROUND", [-4, -2, -2, -1, 0, 0, 0, 0, 1, 2, 2, 3]),
        ("half_even", [-4, -2, -2, -1, 0, 0, 0, 0, 1, 2, 2, 3]),
        ("CEIL", [-4, -2, -1, 0, 0, 0, 1, 1, 1, 2, 3, 3]),
        ("FLOOR", [-4, -3, -2, -1, -1, 0, 0, 0, 0, 1, 2, 3]),
        ("UP", [-4, -3, -2, -1, -1, 0, 1, 1, 1, 2, 3, 3]),
        ("DOWN", [-4, -2, -1, 0, 0, 0, 0, 0, 0, 1, 2, 3]),
        ("HALF_UP", [-4, -3, -2, -1, -1, 0, 0, 1, 1, 2, 3, 3]),
        ("HALF_DOWN", [-4, -2, -1, -1, 0, 0, 0, 0, 1, 1, 2, 3]),
    ],
)
def test_rounding_modes(mode: str, values: list[float]) -> None:
    assert quant(X, 1, 0, 3, signed=1, narrow=0, rounding_mode=mode) == values


def test_intervals() -> None:
    assert quant([-99, 99], 1, 0, 3, signed=1, narrow=1) == [-3, 3]
    assert quant([-99, 99], 1, 0, 3, signed=0, narrow=0) == [0, 7]
    assert quant([-99, 99], 1, 0, 3, signed=0, narrow=1) == [0, 6]
    assert quant([-99, 99], 0.5, 2, 3, signed=0, narrow=0) == [-1, 2.5]
    assert quant([-2, -0.1, 0, 2], 0.5, 0, 1, signed=1, narrow=0) == [-0.5, -0.5, 0.5, 0.5]


def test_bipolar_quant() -> None:
    scale = np.array([[0.5], [2]], np.float32)
    (result,) = OPERATORS["BipolarQuant"]({}, 21, np.array([[-3, 0], [-0.0, -1]], np.float32), scale)
    assert result.tolist() == [[-0.5, 0.5], [2, -2]]


def test_trunc() -> None:
    x = np.array([0, 1, 3, 4, 7, 12, 15], np.float32) / 4
    (first,) = OPERATORS["Trunc"]({}, 21, x, number(0.25), number(0), number(4), number(2))
    assert first.tolist() == [0, 0, 0, 0.25, 0.25, 0.75, 0.75]
    (second,) = OPERATORS["Trunc"]({"signed": 0}, 21, x, number(0.25), number(0), number(4), number(1), number(1))
    assert second.tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_refusals() -> None:
    for mode in ("", "STOCHASTIC"):
        with pytest.raises(OnnxError, match="expected one of ROUND"):
            quant([1], 1, 0, 3, rounding_mode=mode)
    for bits in (0, -1, 33, float("nan")):
        with pytest.raises(OnnxError, match="bit width"):
            quant([1], 1, 0, bits)
    for scale in (0, -1, float("inf"), float("nan")):
        with pytest.raises(OnnxError, match="finite scales above 0"):
            quant([1], scale, 0, 3)
    with pytest.raises(OnnxError, match="do not"):
        OPERATORS["Quant"]({}, 21, X, np.ones(5, np.float32), number(0), number(3))


def test_float_quant() -> None:
    attributes = {"has_nan": 1, "has_subnormal": 1}
    x = np.array([0, 0.3, 1.0625, 300, -500, 2.0**-9, 2.0**-12], np.float32)
    (fp8,) = OPERATORS["FloatQuant"](attributes, 21, x, number(1), number(4), number(3), number(7), number(448))
    assert fp8.tolist() == [0, 0.3125, 1, 288, -448, 2.0**-9, 0]
    (unsaturated,) = OPERATORS["FloatQuant"](
        {**attributes, "saturation": 0}, 21, x, number(1), number(4), number(3), number(7), number(448)
    )
    assert np.isnan(unsaturated).tolist() == [False] * 4 + [True] + [False] * 2
    with pytest.raises(OnnxError, match="neither infinity nor NaN"):
        OPERATORS["FloatQuant"]({"saturation": 0}, 21, x, number(1), number(4), number(3))
    with pytest.raises(OnnxError, match="exponent_bitwidth"):
        OPERATORS["FloatQuant"]({}, 21, x, number(1), number(40), number(3))


def test_float_quant_is_qonnxs() -> None:
    theirs = pytest.importorskip("qonnx.custom_op.general.floatquant", reason="the peer").float_quant
    x = (np.random.default_rng(0).standard_normal(4000) * np.exp2(np.arange(4000) % 24 - 12)).astype(np.float32)
    for exponent, mantissa, scale, mode in [(4, 3, 1, "ROUND"), (5, 2, 0.01, "ROUND"), (2, 1, 0.3, "FLOOR"), (3, 0, 2, "CEIL")]:
        inputs = number(scale), number(exponent), number(mantissa), number(2 ** (exponent - 1) - 1), number(400)
        (ours,) = OPERATORS["FloatQuant"]({"rounding_mode": mode}, 21, x, *inputs)
        np.testing.assert_array_equal(ours, theirs(x, *inputs[:4], max_val=inputs[4], rounding_mode=mode).astype(np.float32))


def test_the_package_qonnx() -> None:
    intquant = pytest.importorskip("qonnx.custom_op.general.intquant", reason="the peer")
    truncation = pytest.importorskip("qonnx.custom_op.general.trunc", reason="the peer")
    rng = np.random.default_rng(0)
    for _ in range(300):
        x = np.concatenate([rng.standard_normal((8, 3)) * 4, rng.integers(-8, 8, (8, 3)) / 4]).astype(np.float32)
        scale = number(2.0 ** rng.integers(-3, 2)) if rng.integers(2) else (rng.random((1, 3)) + 0.1).astype(np.float32)
        signed, narrow = (int(flag) for flag in rng.integers(2, size=2))
        bits, zero = number(rng.integers(1, 9)), number(0 if signed else rng.integers(3))
        mode = str(rng.choice(["ROUND", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN"]))
        attributes = {"signed": signed, "narrow": narrow, "rounding_mode": mode}
        (ours,) = OPERATORS["Quant"](attributes, 21, x, scale, zero, bits)
        np.testing.assert_array_equal(ours, intquant.int_quant(x, scale, zero, bits, signed, narrow, mode))
        (ours,) = OPERATORS["Trunc"]({"rounding_mode": mode}, 21, x, scale, zero, number(8), bits)
        np.testing.assert_array_equal(ours, truncation.trunc_v1(x, scale, zero, number(8), bits, mode))
        wide = (scale * number(2.0 ** rng.integers(4))).astype(np.float32)
        (ours,) = OPERATORS["Trunc"](attributes, 21, x, scale, zero, number(8), wide, bits)
        theirs = truncation.trunc_v2(x, scale, zero, number(8), narrow, signed, wide, bits, mode)
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
