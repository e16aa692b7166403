"""QONNX's quantizers in ONNX's own operators: the bits of the operators of numpy, also in the bodies of control flow."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402  # only where there is onnx

import ulp  # noqa: E402
from ulp.onnx.model import Node, OnnxError  # noqa: E402
from ulp.onnx.operators import OPERATORS  # noqa: E402
from ulp.onnx.stages import IslandStage  # noqa: E402
from ulp.onnx.standard import standard  # noqa: E402

QONNX = "qonnx.custom_op.general"
MODES = ("ROUND", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN", "ROUND_TO_ZERO", "DPU")
Case = tuple[str, dict[str, Any], list[Any]]


def numbers() -> npt.NDArray[np.float32]:
    """(N, 3, 4): ties, sums of sixteenths, normal numbers of all sizes, and what is none."""
    rng = np.random.default_rng(0)
    special = np.array([0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 3.4e38], np.float32)
    powers = np.exp2(rng.integers(-20, 20, 600)).astype(np.float32)
    parts = (
        special,
        rng.integers(-80, 80, 600) / 16,
        rng.standard_normal(600) * 3,
        powers * rng.choice([-1, 1], 600),
        np.nextafter(powers, np.float32(0)),
        rng.standard_normal(592) * np.exp2(rng.integers(-30, 30, 592)),
    )
    return np.concatenate(parts).astype(np.float32).reshape(-1, 3, 4)


def cases() -> Iterator[Case]:
    channels = np.array([0.25, 0.3, 1.7], np.float32).reshape(3, 1)
    for i, mode in enumerate(MODES):
        parameters: list[tuple[Any, float, float]] = [(0.5, 0, 4), (0.1, 3, 2.6), (channels, -2.5, 8)]
        scale, zero, bits = parameters[i % 3]
        for signed, narrow in ((1, 0), (0, 1)):
            yield "Quant", {"signed": signed, "narrow": narrow, "rounding_mode": mode}, [scale, zero, bits]
            yield "Quant", {"signed": signed, "narrow": narrow, "rounding_mode": mode}, [0.25, 0, 4]
        yield "Trunc", {"rounding_mode": mode}, [scale, zero, 8, 5]
        yield "Trunc", {"rounding_mode": mode, "signed": 0}, [scale, zero, 8, scale * np.float32(4), bits]
    yield "Quant", {"signed": 1, "narrow": 0}, [0.5, 0, 1]
    yield "Quant", {"signed": 1, "narrow": 0}, [channels, 0.5, 1]
    yield "BipolarQuant", {}, [0.3]
    yield "BipolarQuant", {}, [channels]
    steps = np.sort(np.random.default_rng(1).standard_normal((3, 15)).astype(np.float32), axis=1)
    for layout, thresholds in (("NCHW", steps), ("NC", steps[:1]), ("NCW", steps[:, ::-1])):
        yield "MultiThreshold", {"data_layout": layout, "out_scale": 0.7, "out_bias": -8.0}, [thresholds]
    yield "MultiThreshold", {}, [np.zeros((4, 1), np.float32)]  # three dimensions without a layout: channels are last
    for exponent, mantissa, scale in itertools.product((2, 4, 5, 7), (1, 10), (0.3, channels)):
        yield "FloatQuant", {}, [scale, exponent, mantissa]
        yield "FloatQuant", {"has_inf": mantissa % 2, "has_nan": 1, "saturation": 0}, [scale, exponent, mantissa, 3, 448]


def by_onnxruntime(case: Case, x: Any, opset: int) -> Any:
    op_type, attributes, parameters = case
    arrays = {f"p{i}": np.asarray(p, np.float32) for i, p in enumerate(parameters)}
    node = Node(op_type, "n", ("x", *arrays), ("y",), attributes)
    nodes = standard(onnx, node, arrays.get, TensorProto.FLOAT, (None, 3, 4), opset)
    if nodes is None:
        return None
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 4]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ports[:1], ports[1:]), opset_imports=[helper.make_opsetid("", opset)], ir_version=8
    )
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


@pytest.mark.parametrize("op_type", ["Quant", "Trunc", "BipolarQuant", "MultiThreshold", "FloatQuant"])
def test_they_give_the_bits_of_numpys_operators(op_type: str) -> None:
    x = numbers()
    for i, case in enumerate(case for case in cases() if case[0] == op_type):
        _, attributes, parameters = case
        opset = (17, 11, 21)[i % 3]
        (expected,) = OPERATORS[op_type](attributes, opset, x, *(np.asarray(p, np.float32) for p in parameters))
        result = by_onnxruntime(case, x, opset)
        assert result is not None, case
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected, err_msg=str(case))


def test_signs_and_thresholds_need_no_new_opset() -> None:
    x = numbers()
    for case in cases():
        if case[0] in ("BipolarQuant", "MultiThreshold"):
            np.testing.assert_array_equal(by_onnxruntime(case, x, 9), by_onnxruntime(case, x, 21))
        elif case[2][2:] != [1]:
            assert by_onnxruntime(case, x, 9) is None


@pytest.mark.parametrize(
    "case",
    [
        ("Quant", {}, [-1, 0, 4]),  # a scale below 0
        ("Quant", {}, [np.ones(3, np.float32), 0, 4]),  # scales that do not fit the last side
        ("Quant", {}, [np.ones((2, 1, 3, 1), np.float32), 0, 4]),  # scales that would make x larger
        ("Quant", {}, [1, 0, 40]),
        ("Quant", {"rounding_mode": "STOCHASTIC"}, [1, 0, 4]),
        ("MultiThreshold", {}, [np.zeros((3, 200), np.float32)]),  # a search is faster
        ("FloatQuant", {"rounding_mode": "FLOOR"}, [1, 4, 3]),
        ("FloatQuant", {"saturation": 0}, [1, 4, 3]),
    ],
)
def test_what_is_left_to_numpy(case: Case) -> None:
    assert by_onnxruntime(case, numbers(), 17) is None


def proto(op_type: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    domain = QONNX if op_type in ("Quant", "BipolarQuant") else ""
    return helper.make_node(op_type, inputs.split(), outputs.split(), domain=domain, **attributes)


def model(nodes: list[Any], **constants: Any) -> Any:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    arrays = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(QONNX, 1)]
    return helper.make_model(helper.make_graph(nodes, "g", [x], [y], arrays), opset_imports=imports, ir_version=8)


PARAMETERS = {"s": np.float32(0.25), "z": np.float32(0), "b": np.float32(3)}


def test_quantizers_between_floats_are_one_session() -> None:
    nodes = [
        proto("Softmax", "x", "a"),
        proto("Quant", "a s z b", "q", signed=0),
        proto("Softmax", "q", "e"),
        proto("BipolarQuant", "e s", "p"),
        proto("Softmax", "p", "y"),
    ]
    source = model(nodes, **PARAMETERS)
    network = ulp.load(source, floats="onnxruntime")
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    np.testing.assert_allclose(network(x), ulp.load(source, floats="numpy")(x), rtol=1e-5)
    assert [type(stage) for stage in network.stages] == [IslandStage]


def test_quantizers_in_bodies() -> None:
    info = helper.make_tensor_value_info
    then = helper.make_graph(
        [proto("Constant", "", "half", value=numpy_helper.from_array(np.float32(0.5))), proto("Quant", "x half z b", "t")],
        "then",
        [],
        [info("t", TensorProto.FLOAT, None)],
    )
    inner = helper.make_graph([proto("BipolarQuant", "x s", "o")], "inner", [], [info("o", TensorProto.FLOAT, None)])
    other = helper.make_graph(
        [proto("If", "yes", "e", then_branch=inner, else_branch=inner)], "else", [], [info("e", TensorProto.FLOAT, None)]
    )
    nodes = [
        proto("ReduceSum", "x", "sum", keepdims=0),
        proto("Greater", "sum z", "yes"),
        proto("If", "yes", "y", then_branch=then, else_branch=other),
    ]
    network = ulp.load(model(nodes, **PARAMETERS), floats="onnxruntime")
    x = np.array([[0.3, -5, 0.8, 7]], np.float32)
    assert network(x).tolist() == [[0.5, -1.5, 1.0, 1.5]]
    assert network(-x).tolist() == [[-0.25, 0.25, -0.25, -0.25]]


def in_a_branch(quantizer: Any, **constants: Any) -> Any:
    """A model of an If one of whose branches is this quantizer of x, to t; the other one is x."""
    info = helper.make_tensor_value_info
    then = helper.make_graph([quantizer], "then", [], [info("t", TensorProto.FLOAT, None)])
    other = helper.make_graph([proto("Identity", "x", "i")], "else", [], [info("i", TensorProto.FLOAT, None)])
    nodes = [
        proto("ReduceSum", "x", "sum", keepdims=0),
        proto("Greater", "sum z", "yes"),
        proto("If", "yes", "r", then_branch=then, else_branch=other),
        proto("Identity", "r", "y"),
    ]
    return model(nodes, **{**PARAMETERS, **constants})


@pytest.mark.parametrize("scale", [[[0.25]], [0.25, 0.5, 0.3, 2], [[0.25, 0.5, 0.3, 2]]])
@pytest.mark.parametrize("quantizer", [proto("Quant", "x s z b", "t"), proto("BipolarQuant", "x s", "t")], ids=lambda node: node.op_type)
def test_quantizers_in_bodies_take_scales_of_any_shape(quantizer: Any, scale: Any) -> None:
    source = in_a_branch(quantizer, s=np.array(scale, np.float32))
    x = np.array([[0.3, -0.7, 0.8, 7], [-1, 0.1, 0.2, 0.9]], np.float32)
    parameters = [np.array(scale, np.float32), *(PARAMETERS[name] for name in "zb")][: len(quantizer.input) - 1]
    (expected,) = OPERATORS[quantizer.op_type]({}, 17, x, *parameters)
    network = ulp.load(source, floats="onnxruntime")
    np.testing.assert_array_equal(network(x), expected)
    np.testing.assert_array_equal(network(-x), -x)


@pytest.mark.parametrize(
    ("quantizer", "scale", "message"),
    [
        (proto("Quant", "x s sum b", "t"), np.float32(1), "needs a constant in place of 'sum'"),
        (proto("Quant", "x sum z b", "t"), np.float32(1), "needs a constant in place of 'sum'"),
        (proto("Quant", "x s z b", "t"), np.array([1, 0, 1, 1], np.float32), "needs finite scales above 0 in 's'"),
        (proto("Quant", "x s z b", "t"), np.float64(1), "has 's' in float64: expected float32"),
        (proto("Quant", "x s z b", "t", rounding_mode="NEVER"), np.float32(1), "has rounding_mode='NEVER'"),
    ],
)
def test_what_bodies_cannot_hold_is_said(quantizer: Any, scale: Any, message: str) -> None:
    source = in_a_branch(quantizer, s=scale)
    with pytest.raises(OnnxError, match=re.escape(f"in a body of If, Loop or Scan {message}")):
        ulp.load(source, floats="onnxruntime")
