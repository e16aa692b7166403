"""Encoders of transformers: quantized files become one plan, with what lies between the products."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402  # what is not installed skips the file
from onnx_models import Writer, precise_session, quantized  # noqa: E402
from onnxruntime import InferenceSession, SessionOptions  # noqa: E402
from onnxruntime.quantization import QuantType, quantize_dynamic  # noqa: E402

import ulp  # noqa: E402

LENGTH, WIDTH, HEADS = 12, 32, 4


def gelu(w: Writer, x: str, form: str) -> str:
    def number(v: float) -> str:
        return w.constant(np.array(v, np.float32))

    if form == "tanh":
        cube = w.add("Pow", x, number(3.0))
        inner = w.add("Mul", w.add("Add", x, w.add("Mul", cube, number(0.044715))), number(math.sqrt(2 / math.pi)))
        return w.add("Mul", w.add("Mul", x, number(0.5)), w.add("Add", w.add("Tanh", inner), number(1.0)))
    if form == "silu":
        return w.add("Mul", x, w.add("Sigmoid", x))
    gate = w.add("Add", w.add("Erf", w.add("Div", x, number(math.sqrt(2)))), number(1.0))
    if form == "erf":
        return w.add("Mul", w.add("Mul", x, gate), number(0.5))
    return w.add("Mul", w.add("Mul", number(0.5), x), gate)


def encoder(form: str = "erf", *, norm_first: bool = False, layers: int = 2, mask: tuple[int, ...] = ()) -> Any:
    """A float encoder x (N, T, C) -> y; with `mask` the scores get an input "mask" (N, *mask) added."""
    w = Writer((LENGTH, WIDTH), opset=17)
    w.nodes.clear()

    def linear(x: str, inputs: int, outputs: int) -> str:
        bias = w.constant(w.rng.standard_normal(outputs).astype(np.float32) / 4)
        return w.add(
            "Add", w.add("MatMul", x, w.constant((w.rng.standard_normal((inputs, outputs)) / inputs**0.5).astype(np.float32))), bias
        )

    def norm(x: str) -> str:
        gamma, beta = w.rng.uniform(0.5, 1.5, WIDTH).astype(np.float32), w.rng.standard_normal(WIDTH).astype(np.float32) / 4
        return w.add("LayerNormalization", x, w.constant(gamma), w.constant(beta), axis=-1, epsilon=1e-5)

    def heads(x: str, perm: list[int]) -> str:
        split = w.add("Reshape", x, w.constant(np.array([0, 0, HEADS, WIDTH // HEADS])))
        return w.add("Transpose", split, perm=perm)

    def attention(x: str) -> str:
        q, k, v = (linear(x, WIDTH, WIDTH) for _ in range(3))
        scores = w.add("MatMul", heads(q, [0, 2, 1, 3]), heads(k, [0, 2, 3, 1]))
        scores = w.add("Div", scores, w.constant(np.array((WIDTH / HEADS) ** 0.5, np.float32)))
        p = w.add("Softmax", w.add("Add", scores, "mask") if mask else scores, axis=-1)
        mixed = w.add("Transpose", w.add("MatMul", p, heads(v, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        return linear(w.add("Reshape", mixed, w.constant(np.array([0, 0, WIDTH]))), WIDTH, WIDTH)

    def forward(x: str) -> str:
        return linear(gelu(w, linear(x, WIDTH, 2 * WIDTH), form), 2 * WIDTH, WIDTH)

    x = "x"
    for _ in range(layers):
        for part in (attention, forward):
            x = w.add("Add", x, part(norm(x))) if norm_first else norm(w.add("Add", x, part(x)))
    shapes = {"x": (LENGTH, WIDTH), **({"mask": mask} if mask else {})}
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name, shape in shapes.items()]
    return w.model(x, inputs=ports)


def tokens(seed: int, images: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((images, LENGTH, WIDTH)).astype(np.float32)


def by_onnxruntime(model: Any, x: Any, **others: Any) -> Any:
    return precise_session(model.SerializeToString()).run(None, {"x": x, **others})[0]


def dynamic(model: Any, **options: Any) -> Any:
    """As onnxruntime's quantizer for products of the call makes it."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "a.onnx"), Path(folder, "b.onnx")
        onnx.save(model, source)
        quantize_dynamic(source, target, **options)
        return onnx.load(target)


def one_plan(network: Any) -> None:
    assert len(network.stages) == 1, f"{network}"
    assert {row.reason for row in network.layers if not row.integer} <= {"it computes in float32, as a step of the plan"}, f"{network}"
    assert all(row.integer for row in network.layers if row.bits != (0, 0)), f"{network}"
    assert network.integer == all(row.integer for row in network.layers), f"{network}"


@pytest.mark.parametrize("form", ["erf", "erf_of_half", "tanh", "silu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_static_encoders_are_one_plan(form: str, norm_first: bool) -> None:
    if norm_first and form not in ("erf", "tanh"):
        pytest.skip("what follows a norm does not depend on the activation")
    model = quantized(encoder(form, norm_first=norm_first), tokens(0, 4), op_types_to_quantize=["MatMul"])
    network = ulp.load(model)
    if not norm_first:  # otherwise the first norm reads floats that nothing has quantized yet
        one_plan(network)
    x = tokens(9, 3)
    want = by_onnxruntime(model, x)
    got = network(x)
    # Sums in another order now and then round to a neighbouring code.
    assert np.abs(got - want).mean() < 0.02 * np.abs(want).mean()
    np.testing.assert_array_equal(network(x[:1]), got[:1])


@pytest.mark.parametrize("weights", [QuantType.QInt8, QuantType.QUInt8])
def test_dynamic_encoders_are_one_plan(weights: Any, tmp_path: Path) -> None:
    model = dynamic(encoder(), weight_type=weights, op_types_to_quantize=["MatMul"])
    network = ulp.load(model)
    one_plan(network)
    for images in (1, 3):
        x = tokens(images, images)
        want, got = by_onnxruntime(model, x), network(x)
        assert np.abs(got - want).mean() < 0.02 * np.abs(want).mean()
    network.save(tmp_path / "a.ulp")
    np.testing.assert_array_equal(ulp.load(tmp_path / "a.ulp")(x), got)
    with pytest.raises(ValueError, match="NaN"):
        network(np.full_like(x, np.nan))


@pytest.mark.parametrize("shape", [(1, 1, LENGTH), (1, LENGTH, LENGTH)])
@pytest.mark.parametrize("least", [-np.inf, float(np.finfo(np.float32).min)])
def test_masks_of_the_call(shape: tuple[int, ...], least: float) -> None:
    model = dynamic(encoder(mask=shape), weight_type=QuantType.QUInt8, op_types_to_quantize=["MatMul"])
    network = ulp.load(model, tune=False)
    assert [type(stage).__name__ for stage in network.stages] == ["IntegerStage"]
    x = tokens(1, 2)
    mask = np.where(np.random.default_rng(2).random((2, *shape)) < 0.4, np.float32(least), np.float32(0))
    mask[..., 0] = 0  # or nothing would be left of a row
    want, got = by_onnxruntime(model, x, mask=mask), network(x, mask)
    assert np.abs(got - want).mean() < 0.02 * np.abs(want).mean()
    assert np.abs(network(x, 0 * x[:, :1, :LENGTH].reshape(2, 1, 1, LENGTH) + np.zeros((2, *shape), np.float32)) - want).mean() > 0.05


@pytest.mark.parametrize("images", [1, 2])
def test_one_product_of_the_call_has_the_bits_of_onnxruntime(images: int) -> None:
    w = Writer((LENGTH, WIDTH), opset=17)
    product = w.add("MatMul", "x", w.constant(w.rng.standard_normal((WIDTH, 24)).astype(np.float32)))
    w.add("Add", product, w.constant(w.rng.standard_normal(24).astype(np.float32)))
    # onnxruntime's uint8 times uint8 does not saturate.
    model = dynamic(w.model(f"t{len(w.nodes) - 1}"), weight_type=QuantType.QUInt8, per_channel=False)
    network = ulp.load(model, tune=False)
    one_plan(network)
    for x in (tokens(1, images), np.zeros_like(tokens(1, images)), np.abs(tokens(2, images)), tokens(3, images) * 1e-20):
        np.testing.assert_array_equal(network(x), by_onnxruntime(model, x))


@pytest.mark.parametrize("products", [1, 2])
def test_products_of_the_call_that_floats_scatter_are_left_to_onnxruntime(products: int) -> None:
    w, x = Writer((LENGTH, WIDTH), opset=17), "x"
    for _ in range(products):
        x = w.add("MatMul", x, w.constant(w.rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)))
        x = w.add("Sin", x)  # in no plan
    model = dynamic(w.model(x), weight_type=QuantType.QUInt8, per_channel=False)
    network = ulp.load(model)
    assert any(type(stage).__name__ == "IntegerStage" for stage in network.stages) == (products == 1)
    assert sum(row.integer for row in network.layers if row.op_type == "MatMulInteger") == products
    assert any("between such products" in row.why for row in network.layers) == (products == 2)
    np.testing.assert_array_equal(network(tokens(3)), by_onnxruntime(model, tokens(3)))
    kept = ulp.load(model, tune=False)
    assert sum(type(stage).__name__ == "IntegerStage" for stage in kept.stages) == products
    np.testing.assert_array_equal(kept(tokens(3)), network(tokens(3)))


def relative(layers: int = 2, width: int = 64) -> Any:
    """A float encoder like T5's, as torch exports it: ids (N, T) -> y. Places are buckets of distances, with a bias for each."""
    w = Writer((), opset=17)
    heads = 4

    def numbers(*given: float) -> str:
        return w.constant(np.array(given[0] if len(given) == 1 else given, np.float32))

    def places(*given: int) -> str:
        return w.constant(np.array(given, np.int64))

    def linear(x: str, inputs: int, outputs: int) -> str:
        return w.add("MatMul", x, w.constant((w.rng.standard_normal((inputs, outputs)) / inputs**0.5).astype(np.float32)))

    def norm(x: str) -> str:
        mean = w.add("ReduceMean", w.add("Pow", x, numbers(2)), axes=[-1])
        root = w.add("Sqrt", w.add("Add", mean, numbers(1e-6)))
        return w.add("Mul", w.constant(w.rng.uniform(0.5, 1.5, width).astype(np.float32)), w.add("Mul", x, w.add("Div", numbers(1), root)))

    def split(x: str, perm: list[int]) -> str:
        return w.add("Transpose", w.add("Reshape", x, places(0, 0, heads, width // heads)), perm=perm)

    x = w.add("Gather", w.constant(w.rng.standard_normal((50, width)).astype(np.float32)), "ids")
    length = w.add("Gather", w.add("Shape", "ids"), w.constant(np.array(1)))
    steps = w.add("Range", w.constant(np.array(0)), length, w.constant(np.array(1)))
    apart = w.add("Sub", w.add("Unsqueeze", steps, places(0)), w.add("Unsqueeze", steps, places(1)))
    far = w.add("Cast", w.add("Abs", apart), to=TensorProto.FLOAT)
    scaled = w.add("Mul", w.add("Log", w.add("Max", far, numbers(1))), numbers(2.5))
    bucket = w.add("Cast", w.add("Where", w.add("Less", far, numbers(4)), far, w.add("Min", scaled, numbers(7))), to=TensorProto.INT64)
    before = w.add("Mul", w.add("Cast", w.add("Greater", apart, places(0)), to=TensorProto.INT64), places(8))
    table = w.constant(w.rng.standard_normal((16, heads)).astype(np.float32))
    bias = w.add("Transpose", w.add("Gather", table, w.add("Add", bucket, before)), perm=[2, 0, 1])
    bias = w.add("Unsqueeze", bias, places(0))
    for _ in range(layers):
        normed = norm(x)
        q, k, v = (linear(normed, width, width) for _ in range(3))
        scores = w.add("Add", w.add("MatMul", split(q, [0, 2, 1, 3]), split(k, [0, 2, 3, 1])), bias)
        mixed = w.add("MatMul", w.add("Softmax", scores, axis=-1), split(v, [0, 2, 1, 3]))
        mixed = w.add("Reshape", w.add("Transpose", mixed, perm=[0, 2, 1, 3]), places(0, 0, width))
        x = w.add("Add", x, linear(mixed, width, width))
        x = w.add("Add", x, linear(w.add("Relu", linear(norm(x), width, 4 * width)), 4 * width, width))
    return w.model(norm(x), inputs=[helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"])])


@pytest.mark.parametrize("shapes", [None, {"ids": (1, 12)}])
def test_encoders_with_relative_places(shapes: Any) -> None:
    model = dynamic(relative(), weight_type=QuantType.QUInt8)  # with which onnxruntime does not saturate
    network = ulp.load(model, shapes=shapes, tune=False)
    found = [row.integer for row in network.layers if row.op_type == "MatMulInteger"]
    assert len(found) == 12, f"{network}"
    assert all(found), f"{network}"
    options = SessionOptions()
    options.intra_op_num_threads = 1
    session = InferenceSession(model.SerializeToString(), options)
    for images, length in ((1, 12), (2, 12), (2, 5))[: 3 if shapes is None else 2]:
        ids = np.random.default_rng(length).integers(0, 50, (images, length))
        want = session.run(None, {"ids": ids})[0]
        # A code apart here and there, where sums in another order round otherwise.
        assert np.abs(network(ids) - want).mean() < 1e-3 * np.abs(want).mean()


def test_an_activation_whose_parts_are_used_elsewhere_stays_as_it_is() -> None:
    w = Writer((LENGTH, WIDTH), opset=17)
    h = w.add("MatMul", "x", w.constant(w.rng.standard_normal((WIDTH, 24)).astype(np.float32)))
    gate = w.add("Sigmoid", h)
    w.add("Add", w.add("Mul", h, gate), gate)
    model = quantized(w.model(f"t{len(w.nodes) - 1}"), tokens(0, 2), op_types_to_quantize=["MatMul"])
    x = tokens(5)
    np.testing.assert_allclose(ulp.load(model)(x), by_onnxruntime(model, x), atol=1e-5)
