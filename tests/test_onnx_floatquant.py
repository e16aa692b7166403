"""FloatQuant against qonnx' executor, and against the types of ml_dtypes that it names."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402  # only where there is onnx

import ulp  # noqa: E402


def model(exponent: float, mantissa: float, bias: float, high: float, scale: float = 1.0, **attributes: Any) -> Any:
    names = {"s": scale, "e": exponent, "m": mantissa, "b": bias, "h": high}
    constants = [numpy_helper.from_array(np.float32(value), name) for name, value in names.items()]
    node = helper.make_node("FloatQuant", ["x", *names], ["y"], domain="qonnx.custom_op.general", **attributes)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64]) for name in "xy"]
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], constants)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("qonnx.custom_op.general", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def numbers() -> Any:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((8, 64)) * np.exp2(rng.integers(-12, 12, (8, 64)))).astype(np.float32)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "float4_e2m1fn"])
def test_types_of_ml_dtypes(name: str) -> None:
    kind = pytest.importorskip("ml_dtypes")
    info = kind.finfo(name)
    exponent = {"float8_e4m3fn": 4, "float8_e5m2": 5, "float4_e2m1fn": 2}[name]
    bias = 2 ** (exponent - 1) - 1
    x = numbers()
    y = ulp.load(model(exponent, info.nmant, bias, float(info.max), has_nan=1))(x)
    np.testing.assert_array_equal(y, np.clip(x, -float(info.max), float(info.max)).astype(getattr(kind, name)).astype(np.float32))


def test_as_qonnx() -> None:
    float_quant = pytest.importorskip("qonnx.custom_op.general.floatquant").float_quant
    x = numbers()
    for exponent, mantissa, mode, saturation in itertools.product((2, 4, 5), (1, 2, 3), ("ROUND", "FLOOR", "CEIL"), (1, 0)):
        flags = {"has_inf": mantissa % 2, "has_nan": 1, "saturation": saturation, "rounding_mode": mode}
        y = ulp.load(model(exponent, mantissa, 3, 57344.0, 0.5, has_subnormal=1, **flags))(x)
        expected = float_quant(x.copy(), np.float32(0.5), exponent, mantissa, 3, True, 57344.0, **flags)
        np.testing.assert_array_equal(y, expected)
