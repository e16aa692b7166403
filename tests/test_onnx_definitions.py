"""`ulp.load` where definitions are easily misread: rounding and signs of QONNX's Quant, halves, parameters that only a call knows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import Array

import ulp

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402  # what is not installed skips the file
from onnx_models import Writer  # noqa: E402

from ulp.onnx import OnnxError  # noqa: E402

F32 = np.float32
MODES = ["requantize", "threshold"]


def quant_reference(x: Array, scale: float, zero: float, bits: int, signed: int, narrow: int) -> Array:
    """QONNX's definition, in float32 and in its order."""
    steps = x / F32(scale) + F32(zero)
    if signed and bits == 1:
        codes = np.where(steps >= 0, F32(1), F32(-1))
    else:
        low = -(2 ** (bits - 1)) + narrow if signed else 0
        high = 2 ** (bits - 1) - 1 if signed else 2**bits - 1 - narrow
        codes = np.rint(np.clip(steps, F32(low), F32(high)))
    return np.asarray((codes - F32(zero)) * F32(scale))


def quant(
    w: Writer, x: str, scale: Any, zero: Any, bits: Any, *, signed: int = 0, narrow: int = 0, mode: str = "ROUND", op: str = "Quant"
) -> str:
    parameters = [w.constant(np.asarray(v, None if isinstance(v, np.generic) else F32)) for v in (scale, zero, bits)]
    return w.add(op, x, *parameters, domain="onnx.brevitas", signed=signed, narrow=narrow, rounding_mode=mode)


def conv_of_eighths(w: Writer, x: str, channels: int, outputs: int = 6) -> tuple[str, Array]:
    """A 1 x 1 convolution with 4-bit weights in eighths, whose sums are exact in float32; and its weights."""
    weights = w.rng.integers(-7, 8, (outputs, channels, 1, 1)).astype(F32) / 8
    name = quant(w, w.constant(weights), 1 / 8, 0, 4, signed=1)
    return w.add("Conv", x, name), weights[:, :, 0, 0]


def sums_of(x: Array, weights: Array) -> Array:
    return np.asarray(np.einsum("nchw,oc->nohw", x, weights, dtype=np.float64).astype(F32))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("zero", "bits", "signed", "narrow"),
    [(67, 8, 0, 0), (128, 8, 0, 0), (255, 8, 0, 0), (-3, 8, 1, 1), (5, 4, 0, 0), (4, 4, 0, 0), (-1, 3, 1, 0), (1, 2, 0, 1), (1, 1, 0, 0)],
)
def test_ties_of_quant_go_to_the_even_code(zero: int, bits: int, signed: int, narrow: int, mode: str) -> None:
    w = Writer((3, 8, 8), opset=13)
    y, weights = conv_of_eighths(w, quant(w, "x", 1 / 16, 0, 8, signed=1), 3)
    scale = 1 / 4
    network = ulp.load(w.model(quant(w, y, scale, zero, bits, signed=signed, narrow=narrow)), mode=mode, tune=False)
    assert network.integer
    x = w.rng.standard_normal((20, 3, 8, 8), dtype=F32)
    sums = sums_of(quant_reference(x, 1 / 16, 0, 8, 1, 0), weights)
    expected = quant_reference(sums, scale, zero, bits, signed, narrow)
    otherwise = (np.rint(sums / F32(scale)) * F32(scale)).clip(expected.min(), expected.max())
    assert zero % 2 == 0 or (otherwise != expected).any()  # else no tie is among them
    np.testing.assert_array_equal(network(x), expected)


def test_layers_read_codes_of_an_odd_zero_point() -> None:
    """An input quantizer of an odd zero point runs by itself, and what follows it stays in integers, pads and shortcut included."""
    w = Writer((4, 6, 6), opset=13)
    q = quant(w, "x", 1 / 4, 5, 4)
    weights = w.rng.integers(-3, 4, (4, 4, 3, 3)).astype(F32) / 8
    y = w.add("Conv", q, quant(w, w.constant(weights), 1 / 8, 0, 3, signed=1), pads=[1, 1, 1, 1])
    network = ulp.load(w.model(quant(w, y, 1 / 8, 3, 5)), tune=False)
    assert [row.integer for row in network.layers if row.op_type == "Conv"] == [True]
    x = (w.rng.integers(-40, 40, (3, 4, 6, 6)) / 8).astype(F32)
    padded = np.pad(quant_reference(x, 1 / 4, 5, 4, 0, 0), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))
    sums = np.einsum("nchwij,ocij->nohw", windows, weights, dtype=np.float64).astype(F32)
    np.testing.assert_array_equal(network(x), quant_reference(sums, 1 / 8, 3, 5, 0, 0))


@pytest.mark.parametrize("mode", MODES)
def test_one_signed_bit_is_minus_or_plus_one(mode: str) -> None:
    w = Writer((3, 4, 4), opset=13)
    y, weights = conv_of_eighths(w, quant(w, "x", 1 / 8, 0, 6, signed=1), 3)
    z, second = conv_of_eighths(w, quant(w, y, 0.5, 0, 1, signed=1), 6)
    network = ulp.load(w.model(z), mode=mode, tune=False)
    assert network.integer
    x = (w.rng.integers(-20, 20, (9, 3, 4, 4)) / 8).astype(F32)
    sums = sums_of(quant_reference(x, 1 / 8, 0, 6, 1, 0), weights)
    assert (sums == 0).any()
    signs = quant_reference(sums, 0.5, 0, 1, 1, 0)
    assert set(np.unique(signs)) == {-0.5, 0.5}
    np.testing.assert_array_equal(network(x), sums_of(signs, second))


@pytest.mark.parametrize("zero", [0, 1])
def test_one_signed_bit_of_the_input(zero: int) -> None:
    w = Writer((3, 4, 4), opset=13)
    y, weights = conv_of_eighths(w, quant(w, "x", 0.25, zero, 1, signed=1), 3)
    x = (w.rng.integers(-8, 8, (4, 3, 4, 4)) / 8).astype(F32)
    expected = sums_of(quant_reference(x, 0.25, zero, 1, 1, 0), weights)
    np.testing.assert_array_equal(ulp.load(w.model(y), tune=False)(x), expected)


@pytest.mark.parametrize("op", ["Quant", "IntQuant"])
@pytest.mark.parametrize(
    ("scale", "zero", "bits"),
    [(F32(0.25), np.int64(0), np.int32(4)), (np.float64(0.25), np.float64(0), F32(4)), (F32(0.25), F32(0), F32(4))],
)
def test_types_and_names_of_quant(op: str, scale: Any, zero: Any, bits: Any) -> None:
    w = Writer((3, 4, 4), opset=13)
    weights = w.rng.integers(-7, 8, (6, 3, 1, 1)).astype(F32) / 4
    q = quant(w, "x", scale, zero, bits, signed=1, op=op)
    network = ulp.load(w.model(w.add("Conv", q, quant(w, w.constant(weights), scale, zero, bits, signed=1, op=op))), tune=False)
    assert network.integer
    x = w.rng.standard_normal((2, 3, 4, 4)).astype(F32)
    np.testing.assert_array_equal(network(x), sums_of(quant_reference(x, 0.25, 0, 4, 1, 0), weights[:, :, 0, 0]))


@pytest.mark.parametrize("zero", [1.25, -0.5, 2.0])
def test_constants_less_a_zero_point_that_is_no_integer(zero: float) -> None:
    w = Writer((5,), opset=13)
    values = (w.rng.integers(-20, 20, (1, 5)) / 8).astype(F32)
    y = w.add("Add", "x", quant(w, w.constant(values), 0.25, zero, 4, signed=1))
    expected = quant_reference(values, 0.25, zero, 4, 1, 0)
    np.testing.assert_array_equal(ulp.load(w.model(y))(np.zeros((2, 5), F32)), expected.repeat(2, 0))


@pytest.mark.parametrize(
    ("mode", "rounded"),
    [
        ("round_to_zero", [-2, -1, -1, 0, 0, 0, 0, 1, 1, 2]),
        ("dpu", [-2, -2, -1, 0, 0, 0, 1, 1, 2, 2]),
        ("ROUND", [-2, -2, -1, -1, 0, 0, 1, 1, 2, 2]),
    ],
)
def test_rounding_modes_of_brevitas(mode: str, rounded: list[int]) -> None:
    steps = np.array([[-2.5, -1.75, -1.25, -0.75, -0.5, 0.5, 0.75, 1.25, 1.5, 2.5]], F32)
    if mode == "dpu":  # halves below 0 go up, others to even
        rounded = [-2, -2, -1, -1, 0, 0, 1, 1, 2, 2]
    for constant in (False, True):
        w = Writer((10,), opset=13)
        y = quant(w, w.constant(steps / 4) if constant else "x", 0.25, 0, 4, signed=1, mode=mode)
        result = ulp.load(w.model(w.add("Add", "x", y) if constant else y))(steps / 4)
        np.testing.assert_array_equal(result - (steps / 4 if constant else 0), np.array([rounded], F32) / 4)


ROUNDINGS: dict[str, Any] = {
    "ROUND": np.rint,
    "FLOOR": np.floor,
    "CEIL": np.ceil,
    "DOWN": np.trunc,
    "UP": lambda x: np.sign(x) * np.ceil(np.abs(x)),
    "HALF_UP": lambda x: np.sign(x) * np.floor(np.abs(x) + F32(0.5)),
    "HALF_DOWN": lambda x: np.sign(x) * np.ceil(np.abs(x) - F32(0.5)),
}


@pytest.mark.parametrize("seed", range(4))
def test_random_quantizers(seed: int) -> None:
    """Of inputs, of constants, of sums with and without a shortcut: with any zero point and width, in integers or not."""
    rng = np.random.default_rng(seed)
    integer = 0
    for case in range(60):
        w = Writer((4, 5, 5), seed=case, opset=13)
        form = rng.choice(["input", "constant", "sums", "shortcut"])
        bits, signed, narrow = float(rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 8, 12, 2.5])), int(rng.integers(2)), int(rng.integers(2))
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0.0, 2**bits - 1)
        zero = float(rng.choice([0, np.floor(rng.uniform(low, high)), np.floor(rng.uniform(low, high)), F32(rng.uniform(low, high))]))
        scale = float(2.0 ** rng.integers(-4, 2))
        rounding = str(rng.choice(list(ROUNDINGS))) if rng.random() < 0.3 else "ROUND"
        x = (rng.integers(-60, 60, (2, 4, 5, 5)) / 16).astype(F32)
        options: dict[str, Any] = {"signed": signed, "narrow": narrow, "mode": rounding}
        if form == "input":
            y, given = quant(w, "x", scale, zero, bits, **options), x
        elif form == "constant":
            given = x[:1]
            y = w.add("Add", "x", quant(w, w.constant(given), scale, zero, bits, **options))
        else:
            a = quant(w, "x", 1 / 16, 0, 7, signed=1)
            codes = quant_reference(x, 1 / 16, 0, 7, 1, 0)
            y, weights = conv_of_eighths(w, a, 4, 4)
            given = sums_of(codes, weights)
            if form == "shortcut":
                y, given = w.add("Add", y, a), given + codes
            y = quant(w, y, scale, zero, bits, **options)
        steps = given / F32(scale) + F32(zero)
        low, high = low + (narrow and signed), high - (narrow and not signed)
        codes = ROUNDINGS[rounding](np.clip(steps, F32(low), F32(high)))
        if signed and bits == 1:
            codes = np.where(steps >= 0, F32(1), F32(-1))
        expected = (codes - F32(zero)) * F32(scale) + (x if form == "constant" else F32(0))
        network = ulp.load(w.model(y), mode=str(rng.choice(MODES)), tune=False)
        integer += network.integer
        np.testing.assert_array_equal(network(x), expected, err_msg=f"{form} {bits} {scale} {zero} {options}")
    assert integer > 5


def halves(nodes: list[Any], kinds: tuple[int, int], shape: list[Any], *constants: Any) -> Any:
    ports = [helper.make_tensor_value_info(name, kind, shape) for name, kind in zip("xy", kinds, strict=True)]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_a_cast_to_half_rounds_and_overflows() -> None:
    nodes = [helper.make_node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16), helper.make_node("Cast", ["h"], ["y"], to=TensorProto.FLOAT)]
    x = np.array([1 / 3, 65519, 65520, -1e6, 1e-8, 2049], F32)
    result = ulp.load(halves(nodes, (TensorProto.FLOAT, TensorProto.FLOAT), ["N"]))(x)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(result, x.astype(np.float16).astype(F32))
    nodes[0].attribute[0].i = TensorProto.BFLOAT16
    result = ulp.load(halves(nodes, (TensorProto.FLOAT, TensorProto.FLOAT), ["N"]))(np.array([257, 259, 1 + 2**-8, 2.0], F32))
    assert result[:3].tolist() == [256.0, 260.0, 1.0]
    nodes[0].attribute.append(helper.make_attribute("through", 10))
    with pytest.raises(OnnxError, match="'through' is unknown"):
        ulp.load(halves(nodes, (TensorProto.FLOAT, TensorProto.FLOAT), ["N"]))


def test_a_file_of_halves_takes_and_gives_halves(tmp_path: Path) -> None:
    model = halves([helper.make_node("Exp", ["x"], ["y"])], (TensorProto.FLOAT16, TensorProto.FLOAT16), ["N", 3])
    network = ulp.load(model)
    assert {port.dtype for port in (*network.inputs, *network.outputs)} == {np.dtype(np.float16)}
    x = np.array([[1, -0.3, 12]], np.float16)
    network.save(os.fspath(tmp_path / "halves.ulp"))
    for known in (network, ulp.load(tmp_path / "halves.ulp")):
        result = known(x)
        assert result.dtype == np.float16
        with np.errstate(over="ignore"):
            np.testing.assert_array_equal(result, np.exp(x.astype(F32)).astype(np.float16))
        np.testing.assert_array_equal(known(np.array([[1 / 3] * 3], F32)), known(np.array([[1 / 3] * 3], np.float16)))
    with pytest.raises(TypeError, match="x has dtype int64: expected float16"):
        network(np.ones((1, 3), np.int64))


def test_integer_networks_of_halves() -> None:
    w = Writer((3, 4, 4), opset=13)
    y, weights = conv_of_eighths(w, quant(w, "x", 1 / 8, 0, 6, signed=1), 3)
    ports = [[helper.make_tensor_value_info(name, TensorProto.FLOAT16, ["N", None, 4, 4])] for name in ("x", y)]
    ports[0][0].type.tensor_type.shape.dim[1].dim_value = 3
    network = ulp.load(w.model(y, inputs=ports[0], outputs=ports[1]), tune=False)
    x = w.rng.standard_normal((2, 3, 4, 4)).astype(np.float16)
    expected = sums_of(quant_reference(x.astype(F32), 1 / 8, 0, 6, 1, 0), weights)
    assert network.integer
    assert network(x).dtype == np.float16
    np.testing.assert_array_equal(network(x), expected.astype(np.float16))
    np.testing.assert_array_equal(network(x=x), network(x))


@pytest.mark.parametrize("cast", [False, True])
def test_a_cast_to_the_same_type_stays_in_integers(cast: bool) -> None:
    w = Writer((8, 6, 6), opset=13)
    scale, zero, w_scale = w.constant(F32(1 / 32)), w.constant(np.uint8(128)), w.constant(F32(1 / 64))

    def codes(x: str) -> str:
        q = w.add("QuantizeLinear", x, scale, zero)
        return w.add("DequantizeLinear", w.add("Cast", q, to=TensorProto.UINT8) if cast else q, scale, zero)

    first = codes("x")
    weights = w.add("DequantizeLinear", w.constant(w.rng.integers(-60, 61, (8, 8, 3, 3)).astype(np.int8)), w_scale)
    second = codes(w.add("Conv", first, weights, pads=[1, 1, 1, 1]))
    network = ulp.load(w.model(w.add("Add", second, w.add("Cast", first, to=TensorProto.FLOAT) if cast else first)), tune=False)
    assert network.integer
    assert network.layers[0].op_type == "Conv"


def test_open_sides_without_a_name_differ() -> None:
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["?", 3, "?", "?"]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    network = ulp.load(model, shapes={"x": (1, 3, 8, 8)})
    assert network(np.ones((1, 3, 5, 7), F32)).shape == (1, 3, 5, 7)
    for side in model.graph.input[0].type.tensor_type.shape.dim:
        if side.dim_param:
            side.dim_param = "side"
    with pytest.raises(ValueError, match="expected \\[side, 3, side, side\\]"):
        ulp.load(model, shapes={"x": (8, 3, 8, 8)})(np.ones((1, 3, 5, 7), F32))


def open_model(nodes: list[Any], inputs: dict[str, Any], outputs: list[str], *constants: tuple[str, Array]) -> Any:
    ports = [helper.make_tensor_value_info(name, *port) for name, port in inputs.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "g", ports, results, [numpy_helper.from_array(array, name) for name, array in constants])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_parameters_that_only_a_call_knows() -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], ["r"]),
        helper.make_node("Split", ["r", "parts"], ["a", "b"], axis=1),
        helper.make_node("Mul", ["a", "two"], ["y"]),
    ]
    inputs = {
        "x": (TensorProto.FLOAT, [2, 6]),
        "s": (TensorProto.FLOAT, []),
        "z": (TensorProto.UINT8, []),
        "shape": (TensorProto.INT64, [2]),
        "parts": (TensorProto.INT64, [2]),
    }
    network = ulp.load(open_model(nodes, inputs, ["y", "b"], ("two", F32(2))))
    x = np.linspace(-1, 1, 12, dtype=F32).reshape(2, 6)
    result = network(x, F32(0.1), np.uint8(7), np.array([3, 4]), np.array([1, 3]))
    values = (np.clip(np.rint(x / F32(0.1)) + 7, 0, 255) - 7).astype(F32) * F32(0.1)
    np.testing.assert_array_equal(result["y"], values.reshape(3, 4)[:, :1] * 2)
    np.testing.assert_array_equal(result["b"], values.reshape(3, 4)[:, 1:])
    with pytest.raises(OnnxError, match="Split"):
        network(x, F32(0.1), np.uint8(7), np.array([3, 4]), np.array([1, 4]))


def test_a_scale_that_is_computed_from_the_input() -> None:
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("ReduceMax", ["a"], ["m"], keepdims=0),
        helper.make_node("Div", ["m", "levels"], ["s"]),
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    model = open_model(nodes, {"x": (TensorProto.FLOAT, [2, 8])}, ["y"], ("levels", F32(127)), ("z", np.int8(0)))
    x = np.random.default_rng(0).standard_normal((2, 8)).astype(F32)
    scale = np.abs(x).max() / F32(127)
    np.testing.assert_array_equal(ulp.load(model)(x), np.rint(x / scale) * scale)


def test_integer_layers_behind_a_shape_that_only_a_call_knows() -> None:
    """Behind a Resize by scales from outside, a layer runs in floats: a plan has one shape."""
    w = Writer((3, 4, 4), opset=13)
    y, weights = conv_of_eighths(w, quant(w, w.add("Resize", "x", "", "k", mode="nearest"), 1 / 8, 0, 6, signed=1), 3)
    ports = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 4, 4]),
        helper.make_tensor_value_info("k", TensorProto.FLOAT, [4]),
    ]
    network = ulp.load(w.model(y, inputs=ports), tune=False)
    x = w.rng.standard_normal((2, 3, 4, 4)).astype(F32)
    expected = sums_of(quant_reference(x.repeat(2, 2).repeat(3, 3), 1 / 8, 0, 6, 1, 0), weights)
    np.testing.assert_array_equal(network(x, np.array([1, 1, 2, 3], F32)), expected)


@pytest.mark.parametrize("per_channel", [False, True])
def test_negative_scales(per_channel: bool) -> None:
    """ONNX allows them, and onnxruntime's own 4-bit weights have them."""
    w = Writer((16,), opset=21)
    integers = w.rng.integers(-8, 8, (5, 16))
    w.constants.append(helper.make_tensor("w", TensorProto.INT4, [5, 16], integers.reshape(-1).tolist()))
    scale = np.array([-0.25, 0.5, -0.125, 0.25, -1] if per_channel else -0.25, F32)
    x_scale, x_zero = w.constant(F32(1 / 16)), w.constant(np.uint8(100))
    x = w.add("DequantizeLinear", w.add("QuantizeLinear", "x", x_scale, x_zero), x_scale, x_zero)
    network = ulp.load(w.model(w.add("Gemm", x, w.add("DequantizeLinear", "w", w.constant(scale), axis=0), transB=1)), tune=False)
    assert network.integer
    given = w.rng.standard_normal((7, 16)).astype(F32)
    codes = np.clip(np.rint(given * 16) + 100, 0, 255) - 100
    np.testing.assert_array_equal(network(given), (codes / 16) @ (integers * scale.reshape(-1, 1)).T)


def test_negative_scales_of_blocks() -> None:
    w = Writer((8,), opset=21)
    integers = w.rng.integers(-8, 8, (8, 3))
    w.constants.append(helper.make_tensor("w", TensorProto.INT4, [8, 3], integers.reshape(-1).tolist()))
    scale = (w.rng.choice([-1, 1], (2, 3)) / 4).astype(F32)
    weights = w.add("DequantizeLinear", "w", w.constant(scale), axis=0, block_size=4)
    x = w.rng.integers(-4, 5, (3, 8)).astype(F32)
    np.testing.assert_array_equal(ulp.load(w.model(w.add("MatMul", "x", weights)))(x), x @ (integers * scale.repeat(4, 0)).astype(F32))
