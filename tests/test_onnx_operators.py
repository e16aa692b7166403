"""Operators of ulp.onnx against the cases that the onnx package itself tests backends with, and what they refuse."""

from __future__ import annotations

import importlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

onnx = pytest.importorskip("onnx", reason="the loader of models needs the package onnx")

from onnx.backend.test.case import node as onnx_cases  # noqa: E402  # only where there is onnx

from ulp.onnx.model import OnnxError  # noqa: E402
from ulp.onnx.operators import NEWEST_OPSET, OLDEST_OPSET, OPERATORS  # noqa: E402

Array = npt.NDArray[Any]

# Where onnx's file of an operator's cases is not called as the operator is, in small letters.
_FILES = {
    "BatchNormalization": "batch_normalization",
    "Range": "rangeop",
}

# QONNX's and onnxruntime's operators are not onnx's.
_FOREIGN = {"BipolarQuant", "FloatQuant", "MatMulNBits", "MultiThreshold", "Quant", "Trunc"}

# Cases of what ulp refuses, by the beginnings of their names, and why.
_REFUSED = {
    "test_training_dropout": "training",
    "test_batchnorm_example_training_mode": "training",
    "test_batchnorm_epsilon_training_mode": "training",
    "test_identity_sequence": "sequences",
    "test_identity_opt": "optional values",
    "test_equal_string": "strings",
    "test_cast_FLOAT_to_INT": "types of 2 and 4 bits are for storage",
    "test_cast_FLOAT_to_UINT": "types of 2 and 4 bits are for storage",
    "test_cast_FLOAT16_to_INT": "types of 2 and 4 bits are for storage",
    "test_cast_FLOAT16_to_UINT": "types of 2 and 4 bits are for storage",
}
# Types that arrays do not have here: floats of 8 and 4 bits, bfloat16, strings.
_REFUSED_TYPES = {"BFLOAT16", "FLOAT4E2M1", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT8E8M0", "STRING"}
_NARROW = {"INT2", "UINT2", "INT4", "UINT4"}


def collect() -> Iterator[Any]:
    """onnx's cases of one node that is in the table. Importing a file of them makes them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in sorted(set(OPERATORS) - _FOREIGN):
            importlib.import_module(f"onnx.backend.test.case.node.{_FILES.get(name, name.lower())}")
    for case in onnx_cases._NodeTestCases:
        if len(case.model.graph.node) == 1 and case.model.graph.node[0].op_type in OPERATORS:
            yield case


def type_names(case: Any) -> set[str]:
    ports = [*case.model.graph.input, *case.model.graph.output]
    return {onnx.TensorProto.DataType.Name(port.type.tensor_type.elem_type) for port in ports}


CASES = {case.name: case for case in collect()}
REFUSED = {
    name
    for name, case in CASES.items()
    if (name.startswith(tuple(_REFUSED)) and "zero_ratio" not in name) or type_names(case) & _REFUSED_TYPES
}


def as_array(value: Any) -> Any:
    """Integers of 2 and 4 bits in 8, as the loader has them."""
    array = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    if isinstance(array, np.ndarray) and array.dtype.name in ("int2", "uint2", "int4", "uint4"):
        return array.astype(np.uint8 if array.dtype.name.startswith("u") else np.int8)
    return array


def attributes_of(node: Any) -> dict[str, Any]:
    """As the loader has them."""
    values = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, onnx.TensorProto):
            value = as_array(value)
        elif not isinstance(value, (int, float)):
            value = tuple(value)
        values[attribute.name] = value
    return values


def run_case(case: Any) -> None:
    node = case.model.graph.node[0]
    opset = next((o.version for o in case.model.opset_import if o.domain in ("", "ai.onnx")), NEWEST_OPSET)
    opset = max(opset, OLDEST_OPSET)  # onnx names the opset in which a definition first stood
    attributes = attributes_of(node)
    results = [onnx.TensorProto.DataType.Name(port.type.tensor_type.elem_type) for port in case.model.graph.output]
    if node.op_type == "QuantizeLinear" and results[0] in _NARROW:
        attributes["output_dtype"] = onnx.TensorProto.DataType.Value(results[0])
    operator = OPERATORS[node.op_type].bind(attributes, opset, inputs=len(node.input), outputs=len(node.output))
    for given, expected in case.data_sets:
        arrays = iter([as_array(value) for value in given])
        inputs = [next(arrays) if name else None for name in node.input]
        copies = [None if array is None else array.copy() for array in inputs]
        outcome = operator(*inputs)
        for array, copy in zip(inputs, copies, strict=True):
            assert array is None or copy is None or np.array_equal(array, copy, equal_nan=array.dtype.kind == "f"), (
                "the operator wrote to its input"
            )
        wanted = [as_array(value) for value in expected]
        for result, value in zip(outcome, wanted, strict=False):
            assert (result.dtype, result.shape) == (value.dtype, value.shape)
            np.testing.assert_allclose(result, value, rtol=case.rtol, atol=case.atol)
        assert len(outcome) >= len(wanted)


@pytest.mark.parametrize("name", sorted(set(CASES) - REFUSED))
def test_case_of_onnx(name: str) -> None:
    run_case(CASES[name])


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_case_that_ulp_refuses(name: str) -> None:
    with pytest.raises((OnnxError, AttributeError)):
        run_case(CASES[name])


def test_every_operator_has_a_case() -> None:
    covered = {CASES[name].model.graph.node[0].op_type for name in set(CASES) - REFUSED}
    assert set(OPERATORS) - covered <= _FOREIGN


@pytest.mark.parametrize("k", [1, 33025, 33026, 70001])
def test_sums_as_long_as_int32_and_longer(k: int) -> None:
    """255 * 255 * 33025 is the last that fits; ONNX lets longer ones wrap."""
    a, b = np.full((2, k), 255, np.uint8), np.full((k, 3), 255, np.uint8)
    (result,) = OPERATORS["MatMulInteger"]({}, 21, a, b)
    wrapped = np.array(255 * 255 * k).astype(np.int32)
    assert result.dtype == np.int32
    assert (result == wrapped).all()


def test_zero_points_of_rows_and_columns() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 256, (2, 4, 9)).astype(np.uint8), rng.integers(-128, 128, (9, 5)).astype(np.int8)
    rows, columns = rng.integers(0, 256, 4).astype(np.uint8), rng.integers(-128, 128, 5).astype(np.int8)
    exact = np.matmul(a.astype(np.int64) - rows.astype(np.int64)[:, None], b.astype(np.int64) - columns)
    for zeros in (rows, rows[:, None]):
        (result,) = OPERATORS["MatMulInteger"]({}, 21, a, b, zeros, columns)
        assert (result == exact).all()


@pytest.mark.parametrize("coordinates", ["half_pixel", "half_pixel_symmetric", "asymmetric"])
@pytest.mark.parametrize("nearest", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_resize_takes_the_pixel_nearest_to_the_exact_coordinate(coordinates: str, nearest: str) -> None:
    half = Fraction(1, 2)
    rounded: Callable[[Fraction], int] = {
        "floor": math.floor,
        "ceil": math.ceil,
        "round_prefer_floor": lambda x: math.ceil(x - half),
        "round_prefer_ceil": lambda x: math.floor(x + half),
    }[nearest]
    for side, quarters in itertools.product(range(1, 8), range(1, 14)):
        scale = Fraction(quarters, 4)
        out = math.floor(side * scale)
        middle = Fraction(side, 2) * (1 - out / (scale * side)) if coordinates == "half_pixel_symmetric" else Fraction(0)
        offset = Fraction(0) if coordinates == "asymmetric" else half
        expected = [min(max(rounded((y + offset) / scale - offset + middle), 0), side - 1) for y in range(out)]
        attributes = {"mode": "nearest", "coordinate_transformation_mode": coordinates, "nearest_mode": nearest}
        x = np.arange(side, dtype=np.float32).reshape(1, 1, side)
        scales = np.array([1, 1, float(scale)], np.float32)
        assert OPERATORS["Resize"](attributes, 19, x, None, scales)[0].reshape(-1).tolist() == expected, (side, scale)
