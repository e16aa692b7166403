"""What runs in integers besides plain layers: activations as tables, sums and products of computed values, sequences, and moves.

Scales are powers of two, so that floats are exact in onnxruntime, too, and every code must be the same, ties included.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import Array

import ulp

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx_models import Writer  # noqa: E402  # what is not installed skips the file


class Quantized(Writer):
    """A model whose tensors are quantized by powers of two."""

    def codes(self, x: str, scale: float = 2.0**-4, zero: int = 128) -> str:
        """QuantizeLinear and DequantizeLinear."""
        s, z = self.constant(np.float32(scale)), self.constant(np.uint8(zero))
        return self.add("DequantizeLinear", self.add("QuantizeLinear", x, s, z), s, z)

    def integers(self, *shape: int) -> str:
        """Quantized weights."""
        w = self.constant(self.rng.integers(-7, 8, shape).astype(np.int8))
        return self.add("DequantizeLinear", w, self.constant(np.float32(2.0**-6)), self.constant(np.int8(0)))

    def layer(self, x: str, outputs: int, inputs: int, kernel: int = 1, **attributes: Any) -> str:
        """Conv."""
        return self.add("Conv", x, self.integers(outputs, inputs, kernel, kernel), **attributes)

    def number(self, value: float) -> str:
        """A float."""
        return self.constant(np.float32(value))

    def shape_of(self, *sides: int) -> str:
        """int64s."""
        return self.constant(np.array(sides, np.int64))


def expected(model: Any, x: Array) -> Array:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    # As the file says it; what onnxruntime fuses rounds elsewhere.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    result: Array = ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})[0]
    return result


def check(w: Writer, result: str, tmp_path: Path, exact: bool = True) -> Any:
    """All of the model is one plan, which gives onnxruntime's results, on each ISA, with threads, and from a file."""
    model = w.model(result)
    network = ulp.load(model, tune=False, strict=True)
    assert network.integer, network
    x = np.random.default_rng(1).standard_normal((3, *w.shape)).astype(np.float32) * 3
    want = expected(model, x)
    compare: Callable[[Array, Array], None] = np.testing.assert_array_equal if exact else close
    compare(network(x), want)
    network.save(tmp_path / "network.ulp")
    saved = ulp.load(tmp_path / "network.ulp")
    threads = ulp.get_num_threads()
    isa = ulp.get_isa()
    try:
        ulp.set_num_threads(2)
        np.testing.assert_array_equal(saved(x), network(x))
        ulp.set_isa("baseline")
        np.testing.assert_array_equal(ulp.load(model, tune=False)(x), network(x))
    finally:
        ulp.set_num_threads(threads)
        ulp.set_isa(isa)
    return network


def close(got: Array, want: Array) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6)


Form = Callable[[Quantized, str], str]


def tanh_gelu(w: Quantized, x: str) -> str:
    cube = w.add("Mul", w.add("Mul", x, w.add("Mul", x, x)), w.number(0.044715))
    inner = w.add("Tanh", w.add("Mul", w.add("Add", x, cube), w.number(0.7978846)))
    return w.add("Mul", w.add("Mul", x, w.number(0.5)), w.add("Add", inner, w.number(1)))


FORMS: dict[str, Form] = {
    **{
        name: lambda w, x, name=name: w.add(name, x)  # type: ignore[misc]
        for name in (
            *(
                "LeakyRelu",
                "Sigmoid",
                "Tanh",
                "HardSwish",
                "HardSigmoid",
                "Elu",
                "Selu",
                "Celu",
                "Gelu",
                "Mish",
                "Erf",
                "Softplus",
                "Softsign",
            ),
            *("Abs", "Neg", "Floor", "Sign", "Exp", "ThresholdedRelu", "Cos", "Sin"),
        )
    },
    "tanh form of Gelu": lambda w, x: w.add("Gelu", x, approximate="tanh"),
    "PRelu by channel": lambda w, x: w.add("PRelu", x, w.constant(np.linspace(-1, 2, 8, dtype=np.float32).reshape(8, 1, 1))),
    "PRelu": lambda w, x: w.add("PRelu", x, w.number(0.25)),
    "SiLU": lambda w, x: w.add("Mul", x, w.add("Sigmoid", x)),
    "SiLU, other order": lambda w, x: w.add("Mul", w.add("Sigmoid", x), x),
    "x * HardSigmoid": lambda w, x: w.add("Mul", x, w.add("HardSigmoid", x, alpha=1 / 6)),
    "x * relu6(x + 3) / 6": lambda w, x: w.add(
        "Div", w.add("Mul", x, w.add("Clip", w.add("Add", x, w.number(3)), w.number(0), w.number(6))), w.number(6)
    ),
    "Erf form of GELU": lambda w, x: w.add(
        "Mul",
        w.add("Mul", x, w.add("Add", w.add("Erf", w.add("Div", x, w.number(2**0.5))), w.number(1))),
        w.number(0.5),
    ),
    "Tanh form of GELU": tanh_gelu,
    "Mish of its parts": lambda w, x: w.add("Mul", x, w.add("Tanh", w.add("Softplus", x))),
    "scaled by channel": lambda w, x: w.add("Tanh", w.add("Mul", x, w.constant(np.linspace(-1, 2, 8, dtype=np.float32).reshape(8, 1, 1)))),
    "Max and Min": lambda w, x: w.add("Min", w.add("Max", x, w.number(-1.25)), w.number(2.5)),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("bits", [8, 4])
def test_activations_are_tables(form: str, bits: int, tmp_path: Path) -> None:
    w = Quantized((4, 5, 6))
    a = w.codes(w.layer(w.codes("x"), 8, 4), 2.0**-4 if bits == 8 else 0.5, 128)
    if bits == 4:  # fewer codes, as QCDQ says them
        s, z = w.constant(np.float32(0.5)), w.constant(np.uint8(8))
        q = w.add("Clip", w.add("QuantizeLinear", a, s, z), w.constant(np.uint8(0)), w.constant(np.uint8(15)))
        a = w.add("DequantizeLinear", q, s, z)
    network = check(w, w.codes(FORMS[form](w, a), 2.0**-5, 100), tmp_path)
    assert {row.method for row in network.profile(np.zeros((1, 4, 5, 6), np.float32)) if row.step == "lookup"} <= {"table", "tables"}


def test_an_activation_may_end_the_model_or_be_added_to(tmp_path: Path) -> None:
    w = Quantized((4, 5, 6))
    a = w.codes(w.layer(w.codes("x"), 8, 4))
    check(w, w.add("Sigmoid", a), tmp_path, exact=False)
    w = Quantized((4, 5, 6))
    x = w.codes("x")
    a, b = w.codes(w.layer(x, 8, 4)), w.codes(w.layer(x, 8, 4), 2.0**-3)
    check(w, w.codes(w.add("Relu", w.add("Add", w.add("LeakyRelu", a, alpha=0.125), b)), 2.0**-4, 3), tmp_path)


def two_layers(w: Quantized, **attributes: Any) -> tuple[str, str]:
    x = w.codes("x")
    return w.layer(x, 8, 4, **attributes), w.layer(x, 8, 4, **attributes)


Sum = Callable[[Quantized, str, str], str]

SUMS: dict[str, Sum] = {
    "two convolutions, neither quantized": lambda w, a, b: w.add("Add", a, b),
    "and a relu": lambda w, a, b: w.add("Relu", w.add("Add", a, b)),
    "a relu and codes": lambda w, a, b: w.add("Add", w.add("Relu", a), w.codes(b, 0.5, 7)),
    "two of codes": lambda w, a, b: w.add("Add", w.codes(a, 0.125), w.codes(b, 0.25, 3)),
    "three convolutions": lambda w, a, b: w.add("Add", w.add("Add", a, b), w.codes(w.layer(w.codes(a), 8, 8), 0.5)),
    "a relu and a clip": lambda w, a, b: w.add("Add", w.add("Relu", a), w.add("Clip", b, w.number(-1), w.number(2))),
    "a product": lambda w, a, b: w.add("Mul", a, b),
    "a product of codes": lambda w, a, b: w.add("Mul", w.codes(a), w.codes(b, 0.25, 3)),
    "squeeze and excitation": lambda w, a, b: w.add(
        "Mul", w.codes(a), w.codes(w.add("HardSigmoid", w.codes(w.add("GlobalMaxPool", w.codes(b)))), 2.0**-8, 0)
    ),
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_and_products_of_computed_values(name: str, tmp_path: Path) -> None:
    w = Quantized((4, 5, 6))
    check(w, w.codes(SUMS[name](w, *two_layers(w)), 2.0**-2, 90), tmp_path)
    w = Quantized((4, 5, 6), seed=1)
    check(w, SUMS[name](w, *two_layers(w)), tmp_path)


@pytest.mark.parametrize("seed", range(12))
def test_convolutions_and_pooling_of_sequences(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    groups = int(rng.choice([1, 2, 4]))
    inputs, outputs, length = groups * int(rng.integers(1, 6)), groups * int(rng.integers(1, 6)), int(rng.integers(12, 40))
    w = Quantized((inputs, length), seed)
    kernel, dilation = int(rng.integers(1, 5)), int(rng.integers(1, 3))
    attributes = {"strides": [int(rng.integers(1, 4))], "dilations": [dilation], "pads": rng.integers(0, 4, 2).tolist(), "group": groups}
    a = w.add("Conv", w.codes("x"), w.integers(outputs, inputs // groups, kernel), **attributes)
    a = w.codes(w.add("Relu", a), 0.25, 3)
    if seed % 3 == 0:
        a = w.add("MaxPool", a, kernel_shape=[2], pads=[1, 0], strides=[1])
    if seed % 3 == 1:
        a = w.codes(w.add("AveragePool", a, kernel_shape=[2], pads=[1, 1], count_include_pad=seed % 2), 0.25)
    if seed % 2:
        scale = w.constant(np.linspace(-1, 1, outputs, dtype=np.float32).reshape(outputs, 1))
        a = w.codes(w.add("LeakyRelu", w.add("Mul", a, scale)), 0.25)
    a = w.codes(w.add("Conv", a, w.integers(5, outputs, 1)), 0.25)
    check(w, w.add("Flatten", w.add("GlobalMaxPool", a)) if seed % 4 == 0 else a, tmp_path)


@pytest.mark.parametrize("seed", range(16))
def test_transposed_convolutions(seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    sides = 1 if seed % 4 == 0 else 2
    groups = int(rng.choice([1, 1, 2, 3]))
    inputs, each = groups * int(rng.integers(1, 6)), int(rng.integers(1, 6))
    kernel, stride, dilation = (rng.integers(1, high, sides) for high in (5, 4, 3))
    reach = dilation * (kernel - 1)
    pads = [int(rng.integers(0, r + 2)) for r in (*reach, *reach)]
    extra = [int(rng.integers(0, s)) for s in stride]
    w = Quantized((inputs, *rng.integers(4, 9, sides).tolist()), seed)
    geometry: dict[str, Any] = {"strides": stride.tolist(), "dilations": dilation.tolist(), "pads": pads, "output_padding": extra}
    if seed % 5 == 0:
        geometry = {"strides": stride.tolist(), "auto_pad": "SAME_UPPER" if seed % 2 else "SAME_LOWER"}
    bias = w.constant(rng.integers(-9, 9, groups * each).astype(np.float32) / 8)
    scales = w.constant((2.0 ** rng.integers(-7, -3, each)).astype(np.float32))
    integers = w.constant(rng.integers(-7, 8, (inputs, each, *kernel)).astype(np.int8))
    weights = w.add("DequantizeLinear", integers, scales, w.constant(np.zeros(each, np.int8)), axis=1)
    a = w.add("ConvTranspose", w.codes("x"), weights, bias, group=groups, **geometry)
    check(w, w.codes(w.add("Relu", a), 0.25, 3) if seed % 3 else a, tmp_path)


@pytest.mark.parametrize("seed", range(24))
def test_transposed_convolutions_multiply_no_zeros(seed: int, tmp_path: Path) -> None:
    """Codes of one come from a convolution for each place of a pixel."""
    rng = np.random.default_rng(seed)
    sides = 1 if seed % 6 == 0 else 2
    inputs, outputs = int(rng.integers(4, 9)), int(rng.integers(1, 9))
    kernel, stride = rng.integers(1, 7, sides), rng.integers(1, 4, sides)
    stride[-1] = max(stride[-1], 2)
    pads = [int(rng.integers(0, k + 1)) for k in (*kernel, *kernel)]
    geometry: dict[str, Any] = {"strides": stride.tolist(), "pads": pads, "output_padding": [int(rng.integers(0, s)) for s in stride]}
    w = Quantized((inputs, *rng.integers(5, 9, sides).tolist()), seed)
    scales = w.constant((2.0 ** rng.integers(-7, -3, outputs)).astype(np.float32))
    zeros = w.constant(np.full(outputs, int(rng.integers(-2, 3)), np.int8))
    weights = w.add("DequantizeLinear", w.constant(rng.integers(-7, 8, (inputs, outputs, *kernel)).astype(np.int8)), scales, zeros, axis=1)
    bias = w.constant(rng.integers(-9, 9, outputs).astype(np.float32) / 8)
    a = w.codes(w.add("Relu", w.add("ConvTranspose", w.codes("x"), weights, bias, **geometry)), 0.25, 3)
    network = check(w, a, tmp_path)
    x = np.zeros((1, *w.shape), np.float32)
    assert "rearrange" in [row.step for row in network.profile(x, runs=1)]
    assert "gather" not in [row.step for row in network.profile(x, runs=1)]


@pytest.mark.parametrize("seed", range(16))
def test_linear_interpolation_by_whole_factors(seed: int, tmp_path: Path) -> None:
    """By powers of two, where onnxruntime's own products are exact, to codes and to floats."""
    rng = np.random.default_rng(seed)
    w = Quantized((int(rng.integers(1, 9)), *rng.integers(2, 9, 2).tolist()), seed)
    factors = rng.choice([[2, 2], [1, 2], [4, 2], [2, 1], [4, 4]])
    way = ["half_pixel", "asymmetric", "pytorch_half_pixel"][seed % 3]
    scales = w.constant(np.array([1, 1, *factors], np.float32))
    a = w.add("Resize", w.codes("x"), "", scales, mode="linear", coordinate_transformation_mode=way)
    network = check(w, w.codes(a, 2.0**-5) if seed % 4 else a, tmp_path)
    assert "depthwise" in [row.step for row in network.profile(np.zeros((1, *w.shape), np.float32), runs=1)] or w.shape[0] == 1


@pytest.mark.parametrize("factor", [3, 5])
@pytest.mark.parametrize("way", ["half_pixel", "asymmetric"])
def test_linear_interpolation_by_odd_factors_rounds_once(factor: int, way: str) -> None:
    """onnxruntime rounds each product; codes may differ by one where that decides."""
    w = Quantized((4, 5, 6))
    a = w.add(
        "Resize",
        w.codes("x"),
        "",
        w.constant(np.array([1, 1, factor, factor], np.float32)),
        mode="linear",
        coordinate_transformation_mode=way,
    )
    model, x = w.model(w.codes(a, 0.0371)), np.random.default_rng(0).standard_normal((2, 4, 5, 6)).astype(np.float32)
    network = ulp.load(model, tune=False)
    assert network.integer, network
    near = np.abs(network(x) - expected(model, x))
    assert near.max() < 0.0372
    assert (near > 0).mean() < 0.01


@pytest.mark.parametrize("options", [{"coordinate_transformation_mode": "align_corners"}, {"mode": "cubic"}, {"antialias": 1}])
def test_other_interpolations_stay_floats(options: dict[str, Any]) -> None:
    w = Quantized((4, 5, 6))
    scales = w.constant(np.array([1, 1, 2, 2], np.float32))
    model = w.model(w.codes(w.add("Resize", w.codes("x"), "", scales, **{"mode": "linear"} | options)))
    assert not ulp.load(model, tune=False).integer


def test_sequences_that_are_not_quantized_at_the_end(tmp_path: Path) -> None:
    w = Quantized((6, 20))
    check(w, w.add("Conv", w.codes("x"), w.integers(8, 6, 3), pads=[1, 1]), tmp_path)


@pytest.mark.parametrize("shape", [(20, 8), (1, 8), (7, 5), (3, 5, 8)])
def test_linear_layers_on_rows(shape: tuple[int, ...], tmp_path: Path) -> None:
    """A block of a transformer without its attention: linear layers with bias, GELU, a shortcut."""
    features = shape[-1]
    w = Quantized(shape)
    x = w.codes("x")
    bias = w.constant(w.rng.integers(-9, 9, 16).astype(np.float32) / 8)
    hidden = w.codes(w.add("Add", w.add("MatMul", x, w.integers(features, 16)), bias), 0.125)
    hidden = w.codes(w.add("Gelu", hidden), 2.0**-4, 20)
    out = w.codes(w.add("MatMul", hidden, w.integers(16, features)), 0.125)
    network = check(w, w.codes(w.add("Add", out, x), 0.125), tmp_path)
    if len(shape) == 2:  # nothing is transposed on the way
        assert "rearrange" not in {row.step for row in network.profile(np.zeros((1, *shape), np.float32))}
    w = Quantized(shape)
    check(w, w.add("MatMul", w.codes("x"), w.integers(features, 3)), tmp_path)


def test_patches_of_an_image_as_rows(tmp_path: Path) -> None:
    w = Quantized((4, 6, 8))
    a = w.codes(w.add("Conv", w.codes("x"), w.integers(8, 4, 2, 2), strides=[2, 2]))
    rows = w.add("Transpose", w.add("Reshape", a, w.shape_of(0, 8, -1)), perm=[0, 2, 1])
    network = check(w, w.codes(w.add("MatMul", rows, w.integers(8, 6))), tmp_path)
    assert "rearrange" not in {row.step for row in network.profile(np.zeros((1, 4, 6, 8), np.float32))}


def shuffled(w: Quantized, x: str) -> str:
    parts = w.add("Transpose", w.add("Reshape", x, w.shape_of(0, 2, 4, 6, 8)), perm=[0, 2, 1, 3, 4])
    return w.add("Reshape", parts, w.shape_of(0, 8, 6, 8))


def sliced(w: Quantized, x: str, starts: Any, ends: Any, axes: Any, steps: Any) -> str:
    return w.add("Slice", x, *(w.shape_of(*numbers) for numbers in (starts, ends, axes, steps)))


MOVES: dict[str, tuple[Form, int]] = {
    "DepthToSpace": (lambda w, x: w.add("DepthToSpace", x, blocksize=2), 2),
    "DepthToSpace CRD": (lambda w, x: w.add("DepthToSpace", x, blocksize=2, mode="CRD"), 2),
    "SpaceToDepth": (lambda w, x: w.add("SpaceToDepth", x, blocksize=2), 32),
    "channel shuffle": (shuffled, 8),
    "Slice of channels": (lambda w, x: sliced(w, x, [1], [7], [1], [2]), 3),
    "Slice of pixels": (lambda w, x: sliced(w, x, [5, 1], [-100, 7], [2, 3], [-2, 2]), 8),
    "Gather": (lambda w, x: w.add("Gather", x, w.shape_of(3, 0, 3), axis=1), 3),
    "Transpose": (lambda w, x: w.add("Transpose", x, perm=[0, 3, 1, 2]), 8),
    "Transpose of pixels": (lambda w, x: w.add("Transpose", x, perm=[0, 1, 3, 2]), 8),
    "Reshape of channels": (lambda w, x: w.add("Reshape", x, w.shape_of(0, 4, 12, 8)), 4),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_of_codes(name: str, tmp_path: Path) -> None:
    move, channels = MOVES[name]
    for last in range(3):
        w = Quantized((4, 6, 8), seed=last)
        a = move(w, w.codes(w.layer(w.codes("x"), 8, 4), 0.25))
        if last == 1:
            a = w.codes(w.layer(a, 5, channels, 3, pads=[1, 1, 1, 1]))
        if last == 2:  # between integers, and the floats of what was moved
            w = Quantized((8, 6, 8), seed=last)
            s, z = w.constant(np.float32(0.25)), w.constant(np.int8(3))
            q = w.add("QuantizeLinear", "x", s, z)
            a = w.add("Relu", w.add("DequantizeLinear", move(w, q), s, z))
        check(w, a, tmp_path)


@pytest.mark.parametrize("channels", [1, 2])
def test_a_transposed_image_is_a_result(channels: int, tmp_path: Path) -> None:
    """With one channel it looks like rows whose features are the channels."""
    w = Quantized((channels, 3, 4))
    check(w, w.add("Transpose", w.codes(w.layer(w.codes("x"), channels, channels), 0.25), perm=[0, 3, 1, 2]), tmp_path)


def test_split_and_concat(tmp_path: Path) -> None:
    w = Quantized((8, 6, 8))
    w.nodes.append(onnx.helper.make_node("Split", [w.codes("x"), w.shape_of(3, 5)], ["one", "other"], name="split", axis=1))
    joined = w.add("Concat", w.codes(w.layer("one", 5, 3)), w.add("Relu", "other"), axis=1)
    check(w, w.codes(w.layer(joined, 4, 10)), tmp_path)


def test_a_move_that_mixes_images_runs_in_floats() -> None:
    w = Quantized((8, 6))
    model = w.model(w.codes(w.add("Transpose", w.codes("x"), perm=[1, 0, 2])))
    network = ulp.load(model, tune=False)
    assert {row.op_type: row.reason for row in network.layers if not row.integer}["Transpose"].endswith("it does not keep the images apart")
    x = np.random.default_rng(0).standard_normal((3, 8, 6)).astype(np.float32)
    np.testing.assert_array_equal(network(x), expected(model, x))


def test_integers_are_moved_and_joined_as_they_are(tmp_path: Path) -> None:
    w = Quantized((4, 5, 6))
    s, z = w.constant(np.float32(0.25)), w.constant(np.uint8(120))
    q = w.add("QuantizeLinear", "x", s, z)
    scales = w.constant(np.array([1, 1, 2, 2], np.float32))
    large = w.add("Resize", q, "", scales, nearest_mode="floor", coordinate_transformation_mode="asymmetric")
    joined = w.add("Concat", large, w.add("MaxPool", large, kernel_shape=[1, 1]), axis=1)
    check(w, w.add("DequantizeLinear", w.add("Transpose", joined, perm=[0, 2, 3, 1]), s, z), tmp_path)


@pytest.mark.parametrize(("shape", "axes"), [((20, 8), (1,)), ((8, 20), (2,)), ((8, 5, 6), (2, 3)), ((5, 6, 8), (1, 2))])
@pytest.mark.parametrize("keepdims", [0, 1])
def test_means_over_all_but_the_channels(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: int, tmp_path: Path) -> None:
    w = Quantized(shape)
    mean = w.codes(w.add("ReduceMean", w.codes("x"), w.shape_of(*axes), keepdims=keepdims), 2.0**-5)
    check(w, w.add("Reshape", mean, w.shape_of(0, -1)), tmp_path)


def test_the_first_row_goes_on_alone(tmp_path: Path) -> None:
    w = Quantized((20, 8))
    hidden = w.codes(w.add("MatMul", w.codes("x"), w.integers(8, 6)), 0.25)
    first = w.add("Gather", hidden, w.constant(np.array(0)), axis=1)
    check(w, w.add("Gemm", first, w.integers(3, 6), transB=1), tmp_path)


@pytest.mark.parametrize("shape", [(6, 8), (1, 8), (4, 5, 6), (1, 5, 6)], ids=str)
@pytest.mark.parametrize("name", ["nothing", "relu", "rows", "pool"])
def test_the_first_elements_of_a_tensor(shape: tuple[int, ...], name: str, tmp_path: Path) -> None:
    """They lie in order at the start of the image, which has more."""
    for axis, side in enumerate(shape, 1):
        if side == 1:
            continue
        w = Quantized(shape, 7, opset=17)
        x = sliced(w, w.codes("x"), [0], [side // 2], [axis], [1])
        if name == "relu":
            x = w.add("Relu", x)
        if name == "rows":
            columns = side // 2 if axis == len(shape) else shape[-1]
            x = w.add("MatMul", x, w.integers(columns, 3))
        if name == "pool":
            x = w.add("MaxPool", x, kernel_shape=[1] * (len(shape) - 1))
        check(w, x, tmp_path)


@pytest.mark.parametrize("side", ["N", "T"])
def test_rows_that_are_moved_into_the_batch_of_one_run_in_floats(side: str) -> None:
    """The first side, which is open, becomes the last one: no plan has its size."""
    w = Quantized((3,), 8, opset=17)
    x = w.add("Transpose", w.add("Unsqueeze", "x", w.shape_of(0)), perm=[0, 2, 1])
    y = w.add("Conv", w.codes(x), w.integers(4, 3, 3), pads=[1, 1])
    model = w.model(y, inputs=[onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [side, 3])])
    network = ulp.load(model, tune=False)
    for rows in (1, 5):
        given = w.rng.standard_normal((rows, 3)).astype(np.float32)
        close(network(given), expected(model, given))


def test_products_of_floats_with_int8_weights_are_not_quantized_by_onnxruntime() -> None:
    """It would round the floats to 8 bits by itself."""
    w = Quantized((6, 64), 9, opset=17)
    model = w.model(w.add("MatMul", "x", w.integers(64, 8)))
    x = w.rng.standard_normal((2, 6, 64)).astype(np.float32)
    close(ulp.load(model)(x), expected(model, x))
