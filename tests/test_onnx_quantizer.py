"""Six networks through every form of onnxruntime's quantizer, and files that its optimizer wrote: results beside onnxruntime's."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx_models import Writer, chain, precise_session, quantized, small_network  # noqa: E402  # what is not installed skips the file
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic  # noqa: E402
from reference import Array  # noqa: E402
from test_onnx_load import images  # noqa: E402

import ulp  # noqa: E402


def exact(model: Any, x: Array) -> Array:
    """onnxruntime's result, without the kernels whose sums of 16 bits saturate."""
    result: Array = precise_session(model.SerializeToString()).run(None, {"x": x})[0]
    return result


def gemm(w: Writer, x: str, inputs: int, outputs: int) -> str:
    bias = w.constant((w.rng.standard_normal(outputs) / 4).astype(np.float32))
    return w.add("Gemm", x, w.weights(outputs, inputs), bias, transB=1)


def perceptron() -> Any:
    w = Writer((40,))
    a = w.add("Relu", gemm(w, "x", 40, 64))
    return w.model(gemm(w, w.add("Relu", gemm(w, a, 64, 48)), 48, 10))


def inverted() -> Any:
    """A block of MobileNetV2."""
    w = Writer((3, 12, 12))
    bounds = w.constant(np.float32(0)), w.constant(np.float32(6))
    a = w.add("Clip", w.conv("x", 3, 16, stride=2), *bounds)
    b = w.add("Clip", w.conv(a, 16, 32, 1), *bounds)
    c = w.conv(w.add("Clip", w.conv(b, 32, 32, group=32), *bounds), 32, 16, 1)
    flat = w.add("Flatten", w.add("GlobalAveragePool", w.add("Add", c, a)))
    return w.model(gemm(w, flat, 16, 10))


def excited() -> Any:
    """Squeeze and excitation."""
    w = Writer((4, 8, 8))
    a = w.add("Relu", w.conv("x", 4, 16))
    b = w.conv(w.add("Relu", w.conv(w.add("GlobalAveragePool", a), 16, 4, 1)), 4, 16, 1)
    return w.model(w.conv(w.add("Mul", a, w.add("Sigmoid", b)), 16, 8))


def leaky() -> Any:
    """Activations that are no ReLU, and averages."""
    w = Writer((4, 8, 8))
    a = w.add("LeakyRelu", w.conv("x", 4, 16), alpha=0.1)
    b = w.add("AveragePool", w.add("LeakyRelu", w.conv(a, 16, 16), alpha=0.1), kernel_shape=[2, 2], strides=[2, 2])
    return w.model(w.conv(b, 16, 8))


NETWORKS: list[Callable[[], Any]] = [chain, small_network, perceptron, inverted, excited, leaky]
TYPES = {
    "u8u8": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QUInt8},
    "u8s8": {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8},
    "s8s8": {"activation_type": QuantType.QInt8, "weight_type": QuantType.QInt8},
}


def shape_of(model: Any) -> tuple[int, ...]:
    return tuple(side.dim_value for side in model.graph.input[0].type.tensor_type.shape.dim[1:])


@pytest.mark.parametrize("per_channel", [False, True], ids=["tensor", "channel"])
@pytest.mark.parametrize("types", list(TYPES))
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator], ids=["qdq", "qoperator"])
@pytest.mark.parametrize("make", NETWORKS)
def test_static(make: Callable[[], Any], form: Any, types: str, per_channel: bool) -> None:
    if types == "u8u8" and per_channel:
        pytest.skip("onnxruntime's quantizer makes int8 weights of them")
    model = make()
    x = images(8, *shape_of(model))
    int8 = quantized(model, x, quant_format=form, per_channel=per_channel, **TYPES[types])
    network = ulp.load(int8, tune=False)
    assert all(row.integer for row in network.layers if row.op_type in ("Conv", "Gemm", "MatMul")), network
    ours, theirs = network(x), exact(int8, x)
    if make in (excited, leaky):  # a code may fall to its neighbour where floats are in between
        assert np.abs(ours - theirs).max() <= 0.02 * np.ptp(theirs)
        assert (ours == theirs).mean() > 0.97
    else:
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("weights", [QuantType.QUInt8, QuantType.QInt8], ids=["u8", "s8"])
@pytest.mark.parametrize("make", NETWORKS)
def test_dynamic(make: Callable[[], Any], weights: Any, tmp_path: Path) -> None:
    model = make()
    x = images(1, *shape_of(model))
    onnx.save(model, tmp_path / "float.onnx")
    quantize_dynamic(tmp_path / "float.onnx", tmp_path / "int8.onnx", weight_type=weights)
    int8 = onnx.load(tmp_path / "int8.onnx")
    theirs = exact(int8, x)
    np.testing.assert_allclose(ulp.load(int8, tune=False)(x), theirs, rtol=1e-4, atol=1e-4 * np.ptp(theirs))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator], ids=["qdq", "qoperator"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_in_blocks(bits: int, form: Any, symmetric: bool) -> None:
    """onnxruntime may round activations here, by accuracy_level; ours is the product of the weights' values."""
    pytest.importorskip("onnx_ir")
    quantizer = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    if form == QuantFormat.QDQ and bits == 2:
        pytest.skip("onnxruntime's quantizer writes 4 and 8 bits so")
    w = Writer((80,), opset=21)
    model = w.model(w.add("MatMul", w.add("Relu", w.add("MatMul", "x", w.weights(80, 64))), w.weights(64, 24)))
    options = {"block_size": 32, "is_symmetric": symmetric, "quant_format": form, "op_types_to_quantize": ("MatMul",), "bits": bits}
    config = quantizer.DefaultWeightOnlyQuantConfig(**options)
    with contextlib.redirect_stdout(io.StringIO()):
        made = quantizer.MatMulNBitsQuantizer(model, bits=bits, block_size=32, is_symmetric=symmetric, algo_config=config)
        made.process()
    x = images(3, 80)
    theirs = exact(made.model.model, x)
    np.testing.assert_allclose(ulp.load(made.model.model)(x), theirs, atol=0.02 * np.ptp(theirs))


def nbits(w: Writer, x: str, *, k: int, n: int, bits: int, block: int, zeros: bool, bias: bool, accuracy: int = 0) -> str:
    blocks = -(-k // block)
    inputs = [
        w.constant(w.rng.integers(0, 256, (n, blocks, block * bits // 8)).astype(np.uint8)),
        w.constant((w.rng.random(n * blocks) / 16 + 0.01).astype(np.float32)),
        w.constant(w.rng.integers(0, 256, n * -(-blocks * bits // 8)).astype(np.uint8)) if zeros else "",
    ]
    inputs += ["", w.constant(w.rng.standard_normal(n).astype(np.float32))] if bias else []
    while not inputs[-1]:
        inputs.pop()
    level = {"accuracy_level": accuracy} if accuracy else {}
    return w.add("MatMulNBits", x, *inputs, domain="com.microsoft", K=k, N=n, bits=bits, block_size=block, **level)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(("k", "block"), [(64, 16), (80, 32), (24, 32), (33, 64)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_products_with_weights_in_blocks(bits: int, k: int, block: int, zeros: bool) -> None:
    w = Writer((k,), opset=21)
    model = w.model(nbits(w, "x", k=k, n=12, bits=bits, block=block, zeros=zeros, bias=True))
    x = images(5, k)
    theirs = exact(model, x)
    np.testing.assert_allclose(ulp.load(model)(x), theirs, rtol=1e-3, atol=1e-4 * np.ptp(theirs))


@pytest.mark.parametrize(("shape", "block"), [((96,), 16), ((7, 96), 32), ((70,), 64), ((5, 300), 128), ((300,), 256)])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_activations_are_integers_where_the_file_asks_for_it(bits: int, shape: tuple[int, ...], block: int) -> None:
    """accuracy_level 4: the same integers per block as onnxruntime's, so nearly the same floats; a bias, ReLU and sums follow."""
    for zeros in (False, True):
        w = Writer(shape, opset=21)
        y = nbits(w, "x", k=shape[-1], n=40, bits=bits, block=block, zeros=zeros, bias=zeros, accuracy=4)
        model = w.model(w.add("Add", w.add("Relu", y), y))
        network = ulp.load(model, tune=False)
        assert [row.integer for row in network.layers if row.op_type == "MatMulNBits"] == [True], network
        x = images(3, *shape)
        theirs = exact(model, x)
        # onnxruntime's kernels for 2 bits, and for blocks beyond K, may keep activations as floats.
        np.testing.assert_allclose(network(x), theirs, atol=(0.02 if bits == 2 else 1e-5) * np.ptp(theirs))


def test_blocks_of_codes_are_multiplied_as_the_file_has_them() -> None:
    for shape in ((96,), (7, 96)):
        w = Writer(shape, opset=21)
        scale, zero = w.constant(np.float32(0.0625)), w.constant(np.uint8(117))
        x = w.add("DequantizeLinear", w.add("QuantizeLinear", "x", scale, zero), scale, zero)
        model = w.model(nbits(w, x, k=96, n=12, bits=4, block=32, zeros=True, bias=True))
        network = ulp.load(model, tune=False)
        assert network.integer, network
        theirs = exact(model, images(5, *shape))
        np.testing.assert_allclose(network(images(5, *shape)), theirs, atol=1e-5 * np.ptp(theirs))


@pytest.mark.parametrize(("bits", "zeros"), [(2, False), (2, True), (4, False), (4, True), (8, False)])
def test_weights_in_one_block_are_integers(bits: int, zeros: bool) -> None:
    w = Writer((30,), opset=21)
    scale, zero = w.constant(np.float32(0.0625)), w.constant(np.uint8(128))
    x = w.add("DequantizeLinear", w.add("QuantizeLinear", "x", scale, zero), scale, zero)
    model = w.model(nbits(w, x, k=30, n=12, bits=bits, block=32, zeros=zeros, bias=True))
    network = ulp.load(model)
    assert network.integer, network
    theirs = exact(model, images(5, 30))
    np.testing.assert_allclose(network(images(5, 30)), theirs, rtol=1e-4, atol=1e-5 * np.ptp(theirs))


def microsoft(w: Writer, op_type: str, *inputs: str, **attributes: Any) -> str:
    return w.add(op_type, *inputs, domain="com.microsoft", **attributes)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("per_column", [False, True])
@pytest.mark.parametrize("zeros", [False, True])
def test_fused_products_of_integers(signed: bool, per_column: bool, zeros: bool) -> None:
    w = Writer((32,))
    low, dtype = (-64, np.int8) if signed else (0, np.uint8)  # of 7 bits: nothing saturates
    b = w.constant(w.rng.integers(low, low + 128, (32, 12)).astype(dtype))
    scale = w.constant((w.rng.random(12 if per_column else 1) / 100 + 0.001).astype(np.float32).reshape(-1 if per_column else ()))
    zero = w.constant(w.rng.integers(low, low + 128, 12 if per_column else ()).astype(dtype)) if zeros else ""
    bias = w.constant(w.rng.standard_normal(12).astype(np.float32))
    one = microsoft(w, "DynamicQuantizeMatMul", "x", b, scale, zero, bias)
    model, x = w.model(one), images(1, 32)
    np.testing.assert_allclose(ulp.load(model)(x), exact(model, x), rtol=1e-5, atol=1e-5)
    a = w.constant(w.rng.integers(0, 256, (3, 32)).astype(np.uint8))
    a_zero = w.constant(np.array(7, np.uint8)) if zeros else ""
    two = microsoft(w, "MatMulIntegerToFloat", a, b, w.constant(np.float32(0.01)), scale, a_zero, zero, bias)
    model = w.model(w.add("Add", one, two))
    np.testing.assert_allclose(ulp.load(model)(x), exact(model, x), rtol=1e-5, atol=1e-5)


FUSED = [
    ("Relu", []),
    ("Sigmoid", []),
    ("Tanh", []),
    ("LeakyRelu", [0.25]),
    ("Clip", [-0.5, 0.5]),
    ("HardSigmoid", [0.25, 0.5]),
]


@pytest.mark.parametrize(("name", "parameters"), FUSED)
def test_fused_convolutions(name: str, parameters: list[float]) -> None:
    w = Writer((4, 6, 6), opset=17)
    bias = w.constant(w.rng.standard_normal(8).astype(np.float32))
    given: dict[str, Any] = {"activation": name, "kernel_shape": [3, 3], "pads": [1] * 4}
    if parameters:
        given["activation_params"] = parameters
    model, x = w.model(microsoft(w, "FusedConv", "x", w.weights(8, 4, 3, 3), bias, **given)), images(2, 4, 6, 6)
    np.testing.assert_allclose(ulp.load(model)(x), exact(model, x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["", "Relu", "LeakyRelu"])
def test_fused_convolutions_with_a_shortcut(name: str) -> None:
    """Conv + Z, activation: floats in an island, and codes."""
    w = Writer((4, 6, 6), opset=17)
    given: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1] * 4}
    if name:
        given |= {"activation": name} | ({"activation_params": [0.25]} if name == "LeakyRelu" else {})
    bias = w.constant(w.rng.standard_normal(4).astype(np.float32))
    model, x = w.model(microsoft(w, "FusedConv", "x", w.weights(4, 4, 3, 3), bias, "x", **given)), images(2, 4, 6, 6)
    np.testing.assert_allclose(ulp.load(model)(x), exact(model, x), rtol=1e-4, atol=1e-5)

    w = Writer((4, 6, 6), opset=17)
    codes = qdq(w, "x", 0.03125, 128)
    integers = w.constant(w.rng.integers(-7, 8, (4, 4, 3, 3)).astype(np.int8))
    weights = w.add("DequantizeLinear", integers, w.constant(np.float32(0.0625)), w.constant(np.int8(0)))
    made = microsoft(w, "FusedConv", codes, weights, "", codes, **given)
    model = w.model(qdq(w, made, 0.0625, 99))
    network = ulp.load(model, tune=False)
    assert network.integer == (name != "LeakyRelu"), network  # whose thresholds would be of a sum with a shortcut
    np.testing.assert_allclose(network(x), exact(model, x), atol=0.0626)
    assert (network(x) == exact(model, x)).mean() > 0.99


def qdq(w: Writer, x: str, scale: float, zero: int) -> str:
    parameters = [w.constant(np.float32(scale)), w.constant(np.uint8(zero))]
    return w.add("DequantizeLinear", w.add("QuantizeLinear", x, *parameters), *parameters)


@pytest.mark.parametrize(
    ("name", "biased"), [("Gelu", False), ("BiasGelu", True), ("FastGelu", False), ("FastGelu", True), ("QuickGelu", False)]
)
@pytest.mark.parametrize("opset", [13, 20])
def test_forms_of_gelu_are_tables(name: str, biased: bool, opset: int) -> None:
    """For every code of the input, but for float32's last bit in onnxruntime's own."""
    w = Writer((16,), opset=opset)
    bias = [w.constant(w.rng.standard_normal(16).astype(np.float32))] if biased else []
    model = w.model(qdq(w, microsoft(w, name, qdq(w, "x", 0.03, 121), *bias), 0.017, 13))
    network = ulp.load(model, tune=False)
    assert network.integer, network
    x = (np.arange(256, dtype=np.float32)[:, None] - 121) * np.float32(0.03) + np.zeros((1, 16), np.float32)
    near = np.abs(network(x) - exact(model, x))
    assert (near > 0).mean() < 0.001
    assert near.max() < 0.018


def test_an_optimized_file_is_as_integer_as_before(tmp_path: Path) -> None:
    """onnxruntime's optimizer writes QLinear operators for QDQ."""
    model = chain()
    x = images(8, *shape_of(model))
    int8 = quantized(model, x, quant_format=QuantFormat.QDQ, **TYPES["u8u8"])
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 4
    ort.InferenceSession(int8.SerializeToString(), options)
    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert "QLinearConv" in {node.op_type for node in optimized.graph.node}
    network = ulp.load(optimized, tune=False)
    assert network.integer, network
    np.testing.assert_array_equal(network(x), exact(int8, x))
