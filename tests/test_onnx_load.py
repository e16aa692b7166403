"""`ulp.load` of int8 models by onnxruntime's quantizer, and of small models written here: results, errors, the table of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import Array

import ulp

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402  # what is not installed skips the file
from onnx_models import Writer, chain, quantized, small_network  # noqa: E402
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic  # noqa: E402

from ulp.onnx import OnnxError, OnnxNetwork  # noqa: E402


def run_ort(model: Any, **inputs: Array) -> Array:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    result: Array = ort.InferenceSession(model.SerializeToString(), options).run(None, inputs)[0]
    return result


def images(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


U8U8 = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8}
U8S7 = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}
S8S7 = {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8, "per_channel": True, "reduce_range": True}


@pytest.mark.parametrize("types", [U8U8, U8S7, S8S7], ids=["u8u8", "u8s7", "s8s7"])
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator], ids=["qdq", "qoperator"])
@pytest.mark.parametrize("make", [chain, small_network])
def test_onnxruntimes_int8_models_give_its_bits(make: Any, form: Any, types: dict[str, Any]) -> None:
    model = make()
    x = images(24, *(side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim[1:]))
    int8 = quantized(model, x, quant_format=form, **types)
    network = ulp.load(int8, tune=False, strict=True)
    assert network.integer, network
    np.testing.assert_array_equal(network(x), run_ort(int8, x=x))


@pytest.mark.parametrize(("kind", "low", "high"), [("INT4", -8, 7), ("UINT4", 0, 15), ("INT2", -2, 1), ("UINT2", 0, 3)])
def test_qdq_of_2_and_4_bits_gives_onnxruntimes_bits(kind: str, low: int, high: int) -> None:
    w = Writer((8, 6, 6), opset=25)
    dtype, zero = getattr(TensorProto, kind), 0 if low < 0 else (high + 1) // 2
    integers = w.rng.integers(low, high + 1, (16, 8, 3, 3)).reshape(-1).tolist()
    stored = [("w", [16, 8, 3, 3], integers), ("w_zero", [16], [zero] * 16), ("y_zero", [], [zero])]
    w.constants += [helper.make_tensor(name, dtype, shape, values) for name, shape, values in stored]
    x_scale, x_zero, y_scale = w.constant(np.float32(0.03)), w.constant(np.uint8(120)), w.constant(np.float32(0.05))
    w_scale = w.constant((w.rng.random(16) / 8 + 0.05).astype(np.float32))
    x = w.add("DequantizeLinear", w.add("QuantizeLinear", "x", x_scale, x_zero), x_scale, x_zero)
    y = w.add("Conv", x, w.add("DequantizeLinear", "w", w_scale, "w_zero", axis=0), pads=[1, 1, 1, 1])
    model = w.model(w.add("DequantizeLinear", w.add("QuantizeLinear", y, y_scale, "y_zero"), y_scale, "y_zero"))
    network = ulp.load(model, strict=True)
    assert [row.bits for row in network.layers] == [(4 if "4" in kind else 2, 8)]
    x_values = images(3, 8, 6, 6)
    np.testing.assert_array_equal(network(x_values), run_ort(model, x=x_values))


def test_dynamically_quantized_products_are_exact(tmp_path: Path) -> None:
    w = Writer((32,))
    hidden = w.add("Relu", w.add("Gemm", "x", w.weights(64, 32), w.constant(w.rng.standard_normal(64).astype(np.float32)), transB=1))
    onnx.save(w.model(w.add("Gemm", hidden, w.weights(10, 64), w.constant(np.zeros(10, np.float32)), transB=1)), tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx", weight_type=QuantType.QUInt8)
    model, x = onnx.load(tmp_path / "int8.onnx"), images(1, 32)
    network = ulp.load(tmp_path / "int8.onnx")
    assert [row.op_type for row in network.layers if row.integer] == ["MatMulInteger"] * 2
    np.testing.assert_allclose(network(x), run_ort(model, x=x), rtol=1e-6, atol=1e-6)


def quant(w: Writer, x: str, scale: float, bits: float, *, signed: int = 0, zero: float = 0, narrow: int = 0, mode: str = "ROUND") -> str:
    parameters = (w.constant(np.array(v, np.float32)) for v in (scale, zero, bits))
    return w.add("Quant", x, *parameters, domain="onnx.brevitas", signed=signed, narrow=narrow, rounding_mode=mode)


def quantized_weights(w: Writer, *shape: int, bits: int = 3) -> str:
    scale = np.exp2(w.rng.integers(-4, -1, size=(shape[0],) + (1,) * (len(shape) - 1))).astype(np.float32)
    parameters = (w.constant(scale), w.constant(np.array(0, np.float32)), w.constant(np.array(bits, np.float32)))
    return w.add("Quant", w.weights(*shape), *parameters, domain="onnx.brevitas", signed=1, narrow=1, rounding_mode="ROUND")


def layer(w: Writer, x: str, inputs: int, outputs: int, kernel: int = 3) -> str:
    weights = quantized_weights(w, outputs, inputs, kernel, kernel)
    return w.add("Conv", x, weights, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4)


def check(w: Writer, result: str, x: Array, *, integer: bool = True) -> OnnxNetwork:
    """The network as plans must give what its operators of numpy give node by node. All scales are powers of two: nothing is rounded."""
    model = w.model(result)
    network = ulp.load(model, tune=False, floats="numpy")
    assert network.integer is integer, network
    expected = by_operators(model, x)
    np.testing.assert_array_equal(network(x), expected)
    np.testing.assert_allclose(ulp.load(model, tune=False)(x), expected, rtol=1e-5, atol=1e-6)
    return network


def by_operators(model: Any, x: Array) -> Array:
    """Every node by its numpy operator."""
    from ulp.onnx.limits import Limits
    from ulp.onnx.reader import read
    from ulp.onnx.stages import bound

    known = read(model)
    tensors: dict[str, Any] = {**known.constants, "x": x, "": None}
    for node in known.nodes:
        results = bound(node, known.opset, Limits())(*(tensors[name] for name in node.inputs))
        tensors.update(zip(node.outputs, results, strict=False))
    result: Array = tensors[known.outputs[0].name]
    return result


def writer() -> tuple[Writer, str]:
    w = Writer((4, 8, 8), opset=13)
    return w, quant(w, "x", 0.25, 4, signed=1)


X = images(3, 4, 8, 8)


@pytest.mark.parametrize(
    "options", [{"signed": 1}, {"signed": 1, "narrow": 1}, {"zero": 4.0}, {"narrow": 1}, {"signed": 1, "zero": -2.0}, {"bits": 1.0}]
)
def test_activations_of_every_kind(options: dict[str, Any]) -> None:
    w, x = writer()
    y = quant(w, layer(w, x, 4, 8), 0.5, **{"bits": 3.0, **options})
    check(w, layer(w, y, 8, 8), X)


def test_normalisation_behind_a_pooling_may_turn_channels_round() -> None:
    w, x = writer()
    pooled = w.add("MaxPool", layer(w, x, 4, 8), kernel_shape=[2, 2], strides=[2, 2])
    scale = w.constant(np.array([1, -1, 0.5, -2, 0, 1, -1, 2], np.float32))
    others = [w.constant(np.full(8, value, np.float32)) for value in (0.25, 0.5, 1)]
    y = quant(w, w.add("BatchNormalization", pooled, scale, *others, epsilon=0.0), 0.5, 3, signed=1)
    check(w, layer(w, y, 8, 4), X)


def test_signs_are_taken_of_sums() -> None:
    w, x = writer()
    one = w.constant(np.array([0.5], np.float32))
    sign = w.add("BipolarQuant", w.add("MaxPool", layer(w, x, 4, 8), kernel_shape=[2, 2], strides=[2, 2]), one, domain="onnx.brevitas")
    weights = w.add("BipolarQuant", w.weights(8, 8, 3, 3), one, domain="onnx.brevitas")
    network = check(w, w.add("Conv", sign, weights, kernel_shape=[3, 3], pads=[1, 1, 1, 1]), X)
    assert network.layers[-1].bits == (1, 2)


def test_signs_of_the_input_are_taken_in_floats() -> None:
    w = Writer((4, 8, 8), opset=13)
    sign = w.add("BipolarQuant", "x", w.constant(np.array(0.5, np.float32)), domain="onnx.brevitas")
    network = check(w, layer(w, sign, 4, 8), X, integer=False)
    assert [row.integer for row in network.layers] == [False, True]


def test_shortcuts_concatenation_padding_and_resizing() -> None:
    w, x = writer()
    a = quant(w, w.add("Relu", layer(w, x, 4, 8)), 0.5, 3)
    b = w.add("Relu", w.add("Add", layer(w, a, 8, 8), a))
    c = quant(w, w.add("Concat", quant(w, b, 1.0, 4), a, axis=1), 0.5, 4)
    sizes = w.constant(np.array([1, 1, 2, 3], np.float32))
    d = w.add("Resize", c, "", sizes, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    e = w.add("Pad", d, w.constant(np.array([0, 0, 1, 0, 0, 0, 2, 1])), mode="reflect")
    check(w, layer(w, e, 16, 4), X)


def test_averages_and_linear_layers() -> None:
    w, x = writer()
    a = quant(
        w, w.add("AveragePool", quant(w, layer(w, x, 4, 8), 0.5, 4, signed=1), kernel_shape=[2, 2], strides=[2, 2]), 0.25, 6, signed=1
    )
    b = quant(w, w.add("ReduceMean", a, axes=[2, 3], keepdims=0), 0.125, 8, signed=1)
    weights = w.add("Transpose", quantized_weights(w, 10, 8), perm=[1, 0])
    check(w, w.add("Add", w.add("MatMul", b, weights), w.constant(np.arange(10, dtype=np.float32))), X)


def test_what_follows_dropped_bits_is_integer() -> None:
    w, x = writer()
    mean = w.add("AveragePool", quant(w, layer(w, x, 4, 8), 0.5, 4), kernel_shape=[4, 4], strides=[4, 4])
    parameters = [w.constant(np.array(value, np.float32)) for value in (0.5 / 16, 0, 8, 0.5, 4)]
    dropped = w.add("Trunc", mean, *parameters, domain="onnx.brevitas", signed=0, narrow=0, rounding_mode="FLOOR")
    check(w, w.add("Gemm", w.add("Flatten", dropped), quantized_weights(w, 10, 32), transB=1), X)


def test_shapes_that_are_computed_keep_any_batch() -> None:
    w, x = writer()
    a = quant(w, layer(w, x, 4, 8), 0.5, 4, signed=1)
    batch = w.add("Gather", w.add("Shape", a), w.constant(np.array([0])), axis=0)
    flat = w.add("Reshape", a, w.add("Concat", batch, w.constant(np.array([-1])), axis=0))
    check(w, w.add("Gemm", flat, quantized_weights(w, 10, 512), transB=1), X)


def test_a_batch_that_is_computed_with_is_not_folded() -> None:
    w, x = writer()
    a = quant(w, layer(w, x, 4, 8), 0.5, 4, signed=1)
    batch = w.add("Gather", w.add("Shape", a), w.constant(np.array([0])), axis=0)
    doubled = w.add("Concat", w.add("Mul", batch, w.constant(np.array([2]))), w.constant(np.array([256])), axis=0)
    flat = quant(w, w.add("Reshape", a, doubled), 0.5, 4, signed=1)
    check(w, w.add("Gemm", flat, quantized_weights(w, 10, 256), transB=1), X, integer=False)


def test_what_has_no_integers_runs_between_plans() -> None:
    w, x = writer()
    a = w.add("Softmax", layer(w, x, 4, 8), axis=1)
    b = layer(w, quant(w, w.add("Softmax", quant(w, a, 0.25, 3), axis=2), 0.25, 3), 8, 4)
    c = w.add("MaxPool", layer(w, quant(w, w.add("Softmax", b, axis=3), 0.5, 4), 4, 4), kernel_shape=[2, 2])
    network = check(w, w.add("Softmax", w.add("Flatten", c), axis=1), X, integer=False)
    reasons = {row.name.rsplit("_", 1)[0]: row.reason for row in network.layers if not row.integer}
    assert set(reasons) == {"Softmax", "MaxPool", "Flatten"}
    assert reasons["Softmax"] == "its input is not quantized"
    with pytest.raises(OnnxError, match=r"strict=True, and 5 of .* would run in floats:\n  Softmax 'Softmax_\d+': it is over another side"):
        ulp.load(w.model(network.outputs[0].name), strict=True)


def test_integers_go_in_and_come_out() -> None:
    w = Writer((4, 8, 8))
    scale, zero = w.constant(np.array(0.25, np.float32)), w.constant(np.array(7, np.uint8))
    x = w.add("DequantizeLinear", "x", scale, zero)
    y = w.add("QuantizeLinear", layer(w, x, 4, 8), scale, zero)
    ports = [helper.make_tensor_value_info(name, TensorProto.UINT8, ["N", None, 8, 8]) for name in ("x", y)]
    ports[0].type.tensor_type.shape.dim[1].dim_value = 4
    model = w.model(y, inputs=ports[:1], outputs=ports[1:])
    codes = np.random.default_rng(0).integers(0, 256, (2, 4, 8, 8), np.uint8)
    result = ulp.load(model, strict=True)(codes)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, by_operators(model, codes))


def test_qcdq_has_the_bits_of_its_clip() -> None:
    w = Writer((4, 8, 8), opset=13)
    scale, zero = w.constant(np.array(0.5, np.float32)), w.constant(np.array(0, np.int8))
    q = w.add("QuantizeLinear", "x", scale, zero)
    clipped = w.add("Clip", q, w.constant(np.array(-3, np.int8)), w.constant(np.array(3, np.int8)))
    network = check(w, layer(w, w.add("DequantizeLinear", clipped, scale, zero), 4, 8), X)
    assert network.layers[-1].bits == (3, 3)


def test_several_inputs_and_outputs_go_by_name() -> None:
    w = Writer((4, 8, 8), opset=13)
    a, b = layer(w, quant(w, "x", 0.25, 4, signed=1), 4, 8), layer(w, quant(w, "y", 0.5, 3, signed=1), 4, 8)
    total = w.add("Add", a, b)
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4, 8, 8]) for name in ("x", "y")]
    model = w.model(total, inputs=ports, outputs=[helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (total, a)])
    network = ulp.load(model)
    results = network(y=2 * X, x=X)
    assert set(results) == {total, a}
    np.testing.assert_array_equal(results[total], results[a] + network(X, 2 * X)[total] - network(X, 2 * X)[a])
    for arguments, message in [
        (((X,), {}), "the input 'y' is missing"),
        (((X, X, X), {}), "3 inputs: the model has 2, x, y"),
        (((X, X), {"z": X}), "'z' is no input"),
        (((X, X.astype(int)), {}), "y has dtype int64: expected float32"),
    ]:
        with pytest.raises(TypeError, match=message):
            network(*arguments[0], **arguments[1])
    with pytest.raises(ValueError, match=r"y has shape \[2, 4, 8, 8\]: expected \[N, 4, 8, 8\]"):
        network(X, X[:2])


def test_table_and_profile() -> None:
    w, x = writer()
    model = w.model(w.add("Sigmoid", layer(w, x, 4, 8)))
    network = ulp.load(model)
    assert "1 of 2 layers in integers" in str(network)
    assert "W3A4" in str(network)
    profile = network.profile(X)
    assert [row.kind for row in profile][-1] in ("island", "Sigmoid")
    assert sum(row.share for row in profile) == pytest.approx(1)


def test_open_shapes_are_asked_for_where_integers_need_them() -> None:
    w, x = writer()
    model = w.model(layer(w, x, 4, 8))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    with pytest.raises(OnnxError, match=r"known only in a call: shapes= gives"):
        ulp.load(model, strict=True)
    in_integers = ulp.load(model, shapes={"x": (1, 4, 8, 8)})(X)
    assert in_integers.shape == (3, 8, 8, 8)
    np.testing.assert_allclose(ulp.load(model)(X), in_integers, rtol=1e-5, atol=1e-6)
    assert ulp.load(model)(images(2, 4, 6, 8)).shape == (2, 8, 6, 8)
    with pytest.raises(OnnxError, match="'z', which is no input: the model has x"):
        ulp.load(model, shapes={"z": (1, 4, 8, 8)})
    with pytest.raises(OnnxError, match="does not fit the input's shape"):
        ulp.load(model, shapes={"x": (1, 5, 8, 8)})


def test_an_unknown_operator_is_named_with_those_that_are_known() -> None:
    w, x = writer()
    with pytest.raises(OnnxError, match=r"no operator NonMaxSuppression: pip install onnxruntime, which .* Those that there are: A"):
        ulp.load(w.model(w.add("NonMaxSuppression", layer(w, x, 4, 8))), floats="numpy")


@pytest.mark.parametrize(("name", "value"), [("mode", "fp32"), ("hint", "fast"), ("group", 0), ("floats", "torch")])
def test_arguments(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name}="):
        ulp.load(b"", **{name: value})


def test_other_sizes_are_refused_with_what_helps() -> None:
    w, x = writer()
    model = w.model(layer(w, x, 4, 8))
    fixed = ulp.load(model)
    with pytest.raises(ValueError, match=r"^x has shape \[3, 4, 6, 8\]: expected \[N, 4, 8, 8\]$"):
        fixed(images(3, 4, 6, 8))
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    for given in (images(1, 4, 6, 8), images(1, 4, 6, 8).astype(np.float64)):
        with pytest.raises(OnnxError, match=r"'x' is for shape \[N, 4, 8, 8\], and got \[1, 4, 6, 8\]: shapes= loads it for others"):
            ulp.load(model, shapes={"x": (1, 4, 8, 8)}, tune=False)(given)
    assert ulp.load(model, shapes={"x": (1, 4, 6, 8)}, tune=False)(images(1, 4, 6, 8)).shape == (1, 8, 6, 8)


def test_a_batch_of_one_says_what_sets_another() -> None:
    w = Writer((4,))
    port = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])
    model = w.model(w.add("Reshape", "x", w.constant(np.array([1, -1]))), inputs=[port])
    network = ulp.load(model)
    with pytest.raises(ValueError, match=r"expected \[1, 4\], or another batch by shapes= in ulp.load where"):
        network(np.ones((2, 4), np.float32))
    assert ulp.load(model, shapes={"x": (2, 4)})(np.ones((2, 4), np.float32)).shape == (1, 8)
    for shape in ((1, 5), (2, 5), (4,)):  # which shapes= would not take
        with pytest.raises(ValueError, match=r"expected \[1, 4\]$"):
            network(np.ones(shape, np.float32))


@pytest.mark.parametrize("sides", [4, "1,4", None])
def test_shapes_are_sides(sides: Any) -> None:
    w = Writer((4,))
    with pytest.raises(TypeError, match=r"shapes\['x'\]=.*: expected its sides, as \(1, 3, 224, 224\)"):
        ulp.load(w.model(w.add("Relu", "x")), shapes={"x": sides})


def test_a_side_has_one_size() -> None:
    w = Writer((4,))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "T"]) for name in "xz"]
    model = w.model(w.add("Concat", "x", "z", axis=1), inputs=ports)
    with pytest.raises(OnnxError, match="shapes says that the side 'T' is 3 of 'x', and 4 of 'z'"):
        ulp.load(model, shapes={"x": (1, 3), "z": (1, 4)})


def test_shapes_go_by_name() -> None:
    with pytest.raises(TypeError, match=r"shapes=\[1, 3\]: expected shapes by the inputs' names"):
        ulp.load(b"", shapes=[1, 3])  # type: ignore[arg-type]  # refused


def test_a_product_of_integers_alone_is_one_in_the_table_and_in_the_profile() -> None:
    w = np.random.default_rng(0).integers(-128, 128, (64, 48)).astype(np.int8)
    node = helper.make_node("MatMulInteger", ["x", "w"], ["y"], name="product")
    x = helper.make_tensor_value_info("x", TensorProto.UINT8, [4, 64])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, [4, 48])
    graph = helper.make_graph([node], "g", [x], [y], [onnx.numpy_helper.from_array(w, "w")])
    network = ulp.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString())
    codes = np.random.default_rng(1).integers(0, 256, (4, 64)).astype(np.uint8)
    np.testing.assert_array_equal(network(codes), codes.astype(np.int32) @ w.astype(np.int32))
    assert [row.runs_in for row in network.layers] == [row.runs_in for row in network.profile(codes)] == ["integers"]
