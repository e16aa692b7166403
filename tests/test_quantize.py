"""`ulp.quantize`: float models in ONNX, quantized after training, end in one integer plan and compute what their file says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper  # noqa: E402
from onnx_models import Writer, chain, small_network  # noqa: E402
from reference import Array  # noqa: E402

import ulp  # noqa: E402
from ulp.nn.observer import Observer  # noqa: E402
from ulp.onnx import OnnxError  # noqa: E402
from ulp.quantize import (  # noqa: E402
    Bits,
    FloatNetwork,
    Quantized,
    moments,
    quantize,
)
from ulp.quantize.ranges import quantizer_of  # noqa: E402


def images(count: int, *shape: int, seed: int = 5) -> Array:
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)


@pytest.fixture(scope="module")
def small() -> FloatNetwork:
    return FloatNetwork(small_network(), images(96, 3, 16, 16))


# Without what takes time, where a test is about something else.
PLAIN: dict[str, Any] = {"rounding": "nearest", "bias_correction": False}


def snr(exact: Array, given: Array) -> float:
    return float(10 * np.log10(np.square(exact).sum() / max(1e-20, float(np.square(exact - given).sum()))))


# One plan.


@pytest.mark.parametrize("bits", [8, 4, "W3A5", 1])
@pytest.mark.parametrize("model", [small_network, chain])
def test_one_integer_plan(model: Any, bits: Any) -> None:
    shape = (3, 16, 16) if model is small_network else (3, 12, 12)
    network = ulp.load(model(), bits=bits, calibrate=images(16, *shape), tune=False)
    assert network.integer
    assert all(row.integer for row in network.layers)


@pytest.mark.parametrize(("name", "attributes"), [("LeakyRelu", {"alpha": 0.1}), ("PRelu", {}), ("Sigmoid", {})])
def test_sequences_with_curves_are_one_plan(name: str, attributes: dict[str, Any]) -> None:
    w = Writer((4, 32))
    slope = [w.constant(np.linspace(0, 1, 8, dtype=np.float32)[:, None])] if name == "PRelu" else []
    y = w.add(name, w.add("Conv", "x", w.weights(8, 4, 3)), *slope, **attributes)
    model = w.model(w.add("Conv", w.add("MaxPool", y, kernel_shape=[2], strides=[2]), w.weights(8, 8, 3)))
    x = images(16, 4, 32)
    network = ulp.load(model, bits=8, calibrate=x, tune=False)
    assert network.integer
    assert snr(FloatNetwork(model, x).outputs()[0][0], network(x)) > 30


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_enlarged_rowsare_codes(mode: str) -> None:
    """Quantizers stand in front of what moves codes: of one reader with its bits, of a concatenation with 8."""
    w = Writer((3, 8, 8))
    twice = w.constant(np.array([1, 1, 2, 2], np.float32))

    def enlarged(x: str) -> str:
        return w.add("Resize", x, "", twice, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")

    a, c = (w.add("Relu", w.conv("x", 3, 8)) for _ in range(2))
    b = w.add("Relu", w.conv(enlarged(a), 8, 8))
    joined = w.add("Concat", enlarged(b), enlarged(enlarged(c)), axis=1)
    model, x = w.model(w.conv(joined, 16, 4)), images(16, 3, 8, 8)
    network = ulp.load(model, bits=4, calibrate=x, tune=False, progress=False)
    assert network.integer
    assert snr(FloatNetwork(model, x).outputs()[0][0], network(x)) > 12
    read = {node.input[0]: node.output[0] for node in network.quantized.model.graph.node if node.op_type == "Quant"}
    assert [read[name] for name in (a, b, c)] == [f"{a}/quantized{4 if mode == 'nearest' else 8}", f"{b}/quantized8", f"{c}/quantized8"]
    assert 0 < network.quantized.layers[2].clipped < 0.1


def gate() -> Any:
    """A block with hard-swish written as two operators, depthwise convolution, and a gate from a mean (squeeze and excitation)."""
    w = Writer((4, 8, 8), 3)
    a = w.conv("x", 4, 16)
    a = w.add("Mul", a, w.add("HardSigmoid", a, alpha=1 / 6, beta=0.5))
    b = w.conv(a, 16, 16, group=16)
    b = w.add("Mul", b, w.add("Sigmoid", b))
    g = w.add("Relu", w.conv(w.add("GlobalAveragePool", b), 16, 4, 1))
    c = w.add("Mul", b, w.add("HardSigmoid", w.conv(g, 4, 16, 1), alpha=1 / 6, beta=0.5))
    d = w.add("Add", w.conv(c, 16, 16, 1), a)
    d = w.add("HardSwish", w.conv(w.add("AveragePool", d, kernel_shape=[2, 2], strides=[2, 2]), 16, 24))
    flat = w.add("Flatten", w.add("GlobalAveragePool", d))
    return w.model(w.add("Gemm", flat, w.weights(10, 24), transB=1))


def test_gates_are_one_plan() -> None:
    x = images(64, 4, 8, 8)
    network = ulp.load(gate(), bits=8, calibrate=x, tune=False)
    assert network.integer, str(network)
    assert snr(ulp.load(gate())(x), network(x)) > 25


@pytest.mark.parametrize("bits", [8, 4])
def test_the_file_says_what_runs(small: FloatNetwork, bits: int, tmp_path: Path) -> None:
    """The plan against the file's own arithmetic in floats: codes fall to their neighbours now and then."""
    x = images(8, 3, 16, 16, seed=9)
    quantized = small.quantized({layer.name: Bits(bits, bits) for layer in small.layers}, **PLAIN)
    quantized.save(tmp_path / "model.onnx")
    assert snr(ulp.load(tmp_path / "model.onnx", floats="numpy", tune=False)(x), quantized.load(tune=False)(x)) > 100
    by_float = numpy_run(quantized.model, x)
    assert snr(by_float, quantized.load(tune=False)(x)) > 20


def numpy_run(model: Any, x: Array) -> Array:
    """The file by onnxruntime, its quantizers as arithmetic that this test writes itself."""
    import onnxruntime

    made = onnx.ModelProto()
    made.CopyFrom(model)
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer}
    nodes = []
    for node in made.graph.node:
        if node.op_type != "Quant":
            nodes.append(node)
            continue
        name, out = node.input[0], node.output[0]
        scale, zero, width = (constants[i] for i in node.input[1:])
        signed = next(a.i for a in node.attribute if a.name == "signed")
        low, high = (-(2.0 ** (width - 1)), 2.0 ** (width - 1) - 1) if signed else (0.0, 2.0**width - 1)
        if name in constants:
            values = np.clip(np.rint(constants[name] / scale), low, high) * scale
            made.graph.initializer.append(onnx.numpy_helper.from_array(values.astype(np.float32), out))
            continue
        low, high = (low - zero) * scale, (high - zero) * scale
        made.graph.initializer.extend(helper.make_tensor(f"{out}{i}", 1, [], [float(v)]) for i, v in enumerate((low, high, scale)))
        a, b, c = (f"{out}{step}" for step in "abc")
        nodes += [
            helper.make_node("Clip", [name, f"{out}0", f"{out}1"], [a]),
            helper.make_node("Div", [a, f"{out}2"], [b]),
            helper.make_node("Round", [b], [c]),
            helper.make_node("Mul", [c, f"{out}2"], [out]),
        ]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def test_wide_is_near_the_float_model(small: FloatNetwork) -> None:
    x = images(32, 3, 16, 16, seed=8)
    quantized = small.quantized({layer.name: Bits(8, 8) for layer in small.layers}, **PLAIN)
    assert snr(ulp.load(small_network())(x), quantized.load(tune=False)(x)) > 30


# Accuracy.


def test_rounding_by_second_moments_and_biases_help(small: FloatNetwork) -> None:
    """On data that calibration did not see. Means of results are left out: they hardly vary in a network that was not trained."""
    x = images(64, 3, 16, 16, seed=8)
    exact = ulp.load(small_network())(x)
    means = exact.mean(0)
    assignment = {layer.name: Bits(3, 4) for layer in small.layers}

    def error(**how: Any) -> float:
        return snr(exact - means, small.quantized(assignment, **how).load(tune=False)(x) - means)

    plain, corrected = error(**PLAIN), error(rounding="nearest")
    assert plain + 3 < corrected < error()


def test_layers_rounded_alone(small: FloatNetwork) -> None:
    """Better than to the nearest, not as good as by what the quantized layers before give; found once for all assignments."""
    x = images(64, 3, 16, 16, seed=8)
    exact = ulp.load(small_network())(x)
    assignment = {layer.name: Bits(3, 4) for layer in small.layers}
    plain, alone = (snr(exact, small.quantized(assignment, **how).load(tune=False)(x)) for how in (PLAIN, {"alone": True}))
    assert plain + 1 < alone
    known = small.rounded_alone([3])
    first, last = small.layers[0].name, small.layers[-1].name
    mixed = small.quantized({**assignment, last: Bits(8, 4)}, alone=True)
    assert small.rounded_alone([8])[first, 3] is known[first, 3]
    assert [str(row.bits) for row in mixed.layers][-1] == "W8A4"


def test_biases_are_corrected(small: FloatNetwork) -> None:
    """The mean of each channel of the result is that of the float network, on the calibration data."""
    x = np.concatenate([batch["x"] for batch in small.batches])
    exact = ulp.load(small_network())(x).mean(0)
    assignment = {layer.name: Bits(2, 3) for layer in small.layers}
    roundings: tuple[Any, ...] = ("nearest", "gptq")
    for rounding in roundings:
        given, plain = (
            small.quantized(assignment, rounding=rounding, bias_correction=corrected).load(tune=False)(x).mean(0)
            for corrected in (True, False)
        )
        assert np.abs(given - exact).max() < min(1e-3, 0.1 * np.abs(plain - exact).max())


def test_eight_bits_keep_what_is_rare() -> None:
    """A large value among many small ones, which 4 bits clip."""
    observer = Observer()
    observer.add(np.append(np.random.default_rng(0).standard_normal(100_000), [20.0] * 3).astype(np.float32))
    for bits, kept in ((4, False), (6, False), (7, True), (8, True)):
        q = quantizer_of(observer, bits, "mse", 99.99)
        assert (q.scale * (2**bits - 1 - q.zero) > 19.9) == kept


@pytest.mark.parametrize("bits", [4, 6, 8])
@pytest.mark.parametrize("end", [-1, 1])
def test_ranges_in_front_of_functions_are_judged_behind_them(bits: int, end: int) -> None:
    """A hard-swish, and its mirror image, make values alike that an error of the values themselves spends codes on."""

    def function(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return x * np.clip(3 - end * x, 0, 6) / 6

    x = 5 * np.random.default_rng(bits).standard_normal(20_000).astype(np.float32)
    observer = Observer()
    observer.add(x)
    plain, behind = (quantizer_of(observer, bits, "mse", 99.99, how) for how in (None, function))
    exact = x.astype(np.float64)
    errors = [float(np.square(function(exact) - function(q.round_trip(x).astype(np.float64))).mean()) for q in (plain, behind)]
    assert errors[1] < 0.8 * errors[0]
    reached = behind.scale * (behind.levels - behind.zero if end > 0 else behind.zero)
    assert reached < 5.5


def test_a_hard_swish_of_single_operators_has_a_range_of_its_own() -> None:
    """Add, Clip, Mul, Div as old exporters write it, with a factor per channel behind; not where something else reads its operand."""
    for read_twice in (False, True):
        w = Writer((4, 8, 8))
        a = w.conv("x", 4, 16)
        y = w.add("Clip", w.add("Add", a, w.constant(np.float32(3))), w.constant(np.float32(0)), w.constant(np.float32(6)))
        y = w.add("Div", w.add("Mul", a, y), w.constant(np.float32(6)))
        y = w.add("Mul", y, w.constant(np.linspace(1, 2, 16, dtype=np.float32)[:, None, None]))
        y = w.add("Add", w.conv(y, 16, 8), w.conv(a, 16, 8)) if read_twice else w.conv(y, 16, 8)
        quantized = quantize(w.model(y), bits=8, calibrate=20 * images(16, 4, 8, 8), progress=False, **PLAIN)
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in quantized.model.graph.initializer}
        node = next(node for node in quantized.model.graph.node if node.op_type == "Quant" and node.input[0] == a)
        scale, zero = (float(constants[name]) for name in node.input[1:3])
        low = -scale * (zero if zero else 128)
        assert (low < -20) if read_twice else (-4 < low < -2.5)


@pytest.mark.parametrize("ranges", ["minmax", "percentile", "mse", "entropy"])
def test_ranges(small: FloatNetwork, ranges: Any) -> None:
    assignment = {layer.name: Bits(8, 6) for layer in small.layers}
    quantized = small.quantized(assignment, ranges=ranges, **PLAIN)
    x = images(32, 3, 16, 16, seed=8)
    assert snr(ulp.load(small_network())(x), quantized.load(tune=False)(x)) > 15
    clipped = [row.clipped for row in quantized.layers]
    assert max(clipped) == 0 if ranges == "minmax" else max(clipped) > 0


# Bits per layer.


def bits_by_layer(quantized: Quantized) -> list[str]:
    return [str(row.bits) for row in quantized.layers]


def test_bits_by_name_and_pattern() -> None:
    x = images(32, 3, 12, 12)
    names = [layer.name for layer in FloatNetwork(chain(), x).layers]
    assert len(names) == len(set(names)) == 6
    given = {names[1]: "W2A5", names[5]: "float", "Conv_[68]": 5, "*": 3}
    found = dict(zip(names, bits_by_layer(quantize(chain(), bits=given, calibrate=x, **PLAIN)), strict=True))
    assert found == {n: {names[0]: "W8A8", names[1]: "W2A5", names[5]: "None"}.get(n, found[n]) for n in names}
    assert found[names[4]] == "W5A5"


def test_first_and_last_layer() -> None:
    x = images(32, 3, 12, 12)
    assert bits_by_layer(quantize(chain(), bits=3, calibrate=x, **PLAIN)) == ["W8A8", *["W3A3"] * 4, "W8A8"]
    assert bits_by_layer(quantize(chain(), bits="W3A4", calibrate=x, first_last_bits=None, **PLAIN)) == ["W3A4"] * 6
    assert bits_by_layer(quantize(chain(), bits={"*": 2}, calibrate=x, first_last_bits=4, **PLAIN)) == ["W4A4", *["W2A2"] * 4, "W4A4"]


def test_a_float_layer_stays_in_floats(small: FloatNetwork) -> None:
    assignment = {layer.name: None if i == 2 else Bits(4, 4) for i, layer in enumerate(small.layers)}
    network = small.quantized(assignment, **PLAIN).load(tune=False)
    rows = [row for row in network.layers if row.type in ("Conv", "Gemm")]
    assert [row.integer for row in rows].count(False) == 1
    x = images(4, 3, 16, 16)
    assert np.isfinite(network(x)).all()


# Names.


@pytest.mark.parametrize(
    ("node", "weight", "name"),
    [
        ("/layer1/layer1.0/conv1/Conv", "onnx::Conv_12", "layer1.0.conv1"),
        ("/layer2/layer2.0/down/down.0/Conv", "onnx::Conv_13", "layer2.0.down.0"),
        ("node_conv2d", "layer1.0.conv1.weight", "layer1.0.conv1"),
        ("my conv", "w", "my conv"),
        ("", "w", "Conv"),
    ],
)
def test_layers_are_called_as_their_modules(node: str, weight: str, name: str) -> None:
    made = helper.make_graph(
        [helper.make_node("Conv", ["x", weight], ["y"], name=node)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(images(3, 2, 3, 3), weight)],
    )
    network = FloatNetwork(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), images(4, 2, 4, 4))
    (layer,) = network.layers
    assert (layer.name, layer.macs) == (name, 3 * 2 * 2 * 2 * 9)


# Calibration data.


def test_forms_of_calibration_data() -> None:
    x = images(70, 3, 12, 12)
    labels = np.arange(70)
    forms: list[Any] = [x, [x[:40], x[40:]], iter([x[:40], x[40:]]), {"x": x}, [{"x": x}], [(x, labels)], [[x, labels]]]
    forms.append(x.astype(np.float64))
    made = [quantize(chain(), bits=4, calibrate=form, **PLAIN).model.SerializeToString() for form in forms]
    assert len(set(made)) == 1


@pytest.mark.parametrize(
    ("calibrate", "error", "message"),
    [
        (None, ValueError, "calibrate=None"),
        ([], ValueError, "calibrate holds no batches"),
        (iter([]), ValueError, "calibrate holds no batches"),
        (images(0, 3, 12, 12), ValueError, "calibrate[0] is empty, of shape [0, 3, 12, 12]"),
        (images(4, 3, 12), ValueError, "calibrate[0] has shape [4, 3, 12], and input 'x' takes [any, 3, 12, 12]"),
        ([images(4, 3, 12, 12), images(4, 1, 12, 12)], ValueError, "calibrate[1] has shape [4, 1, 12, 12]"),
        (images(4, 3, 12, 12) * np.float32("nan"), ValueError, "calibrate[0] holds a NaN or an infinity"),
        (images(4, 3, 12, 12) + np.float32("inf"), ValueError, "calibrate[0] holds a NaN or an infinity"),
        (images(4, 3, 12, 12) - np.float32("inf"), ValueError, "found from it; give a mask of attention as bool, or with -1e9 for -inf"),
        (np.zeros((4, 3, 12, 12), np.uint8), TypeError, "calibrate[0] is uint8, and input 'x' is float32"),
        (np.full((1, 3, 12, 12), 0.5, np.float32), ValueError, "input 'x' is 0.5 everywhere"),
        ([{"y": images(4, 3, 12, 12)}], ValueError, "calibrate[0] has no input 'x'"),
        (images(4, 3, 12, 12) * np.float32(1e30), ValueError, "calibrate: 'x' of the float model has values up to"),
        (7, TypeError, "calibrate of type int"),
        ("images", TypeError, "calibrate of type str"),
        (["images"], TypeError, "calibrate[0] of type str"),
    ],
)
def test_bad_calibration_data(calibrate: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        quantize(chain(), bits=4, calibrate=calibrate)


@pytest.mark.parametrize(("index", "what"), [(1, "weights"), (2, "a bias")])
def test_weights_that_are_no_numbers_are_named(index: int, what: str) -> None:
    proto = onnx.ModelProto()
    proto.CopyFrom(chain())
    node = next(node for node in proto.graph.node if node.op_type == "Conv")
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == node.input[index]]
    broken = onnx.numpy_helper.to_array(tensor).copy()
    broken.flat[1] = np.nan
    tensor.CopyFrom(onnx.numpy_helper.from_array(broken, tensor.name))
    with pytest.raises(ValueError, match=f"layer 'Conv[^']*' has {what} with a NaN or an infinity"):
        quantize(proto, bits=4, calibrate=images(4, 3, 12, 12))


@pytest.mark.parametrize(
    ("bits", "error", "message"),
    [
        (0, ValueError, "bits=0: expected a bit width from 1 to 8"),
        (9, ValueError, "bits=9: expected a bit width from 1 to 8"),
        ("W4A9", ValueError, "bits='W4A9'"),
        ((4, 8), TypeError, "write 'W4A8'"),
        ("four", TypeError, "bits='four'"),
        (4.0, TypeError, "bits=4.0: expected a width from 1 to 8, a text such as 'W4A8', or 'float'"),
        ({"conv9": 4}, ValueError, "bits['conv9'] fits no layer; the model has Conv_"),
        ({"layer9.*": 4}, ValueError, "bits['layer9.*'] fits no layer"),
        ({"*": 12}, ValueError, "bits['*']=12"),
        ({3: 4}, TypeError, "bits has the key 3"),
        ({}, ValueError, "bits={} names no layer"),
    ],
)
def test_bad_bits(bits: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        quantize(chain(), bits=bits, calibrate=images(8, 3, 12, 12))


def test_bits_and_calibrate_come_together() -> None:
    with pytest.raises(ValueError, match="bits= without calibrate="):
        ulp.load(chain(), bits=4)
    with pytest.raises(ValueError, match="calibrate= without bits="):
        ulp.load(chain(), calibrate=images(4, 3, 12, 12))


def test_a_quantized_file_is_refused(small: FloatNetwork, tmp_path: Path) -> None:
    quantized = small.quantized({layer.name: Bits(4, 4) for layer in small.layers}, **PLAIN)
    with pytest.raises(OnnxError, match="this file is quantized already"):
        ulp.load(quantized.model, bits=4, calibrate=images(4, 3, 16, 16))
    quantized.load(tune=False).save(tmp_path / "model.ulp")
    with pytest.raises(OnnxError, match="bits= for a saved network"):
        ulp.load(tmp_path / "model.ulp", bits=4, calibrate=images(4, 3, 16, 16))


def test_names_and_options_of_an_assignment(small: FloatNetwork) -> None:
    with pytest.raises(ValueError, match=r"assignment\['conv9'\]: no layer has this name"):
        small.quantized({"conv9": Bits(4, 4)})
    with pytest.raises(ValueError, match="ranges='maximum': expected one of minmax"):
        small.quantized({}, ranges="maximum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="rounding='up': expected one of"):
        small.quantized({}, rounding="up")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="bias_correction='no': expected True or False"):
        small.quantized({}, bias_correction="no")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="percentile=60 with ranges='mse'"):
        small.quantized({}, percentile=60)
    with pytest.raises(TypeError, match="percentile='60': expected a number"):
        small.quantized({}, ranges="percentile", percentile="60")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="limits=5: expected"):
        ulp.load(chain(), limits=5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="calibrate= with bits='float'"):
        ulp.load(chain(), bits="float", calibrate=images(4, 3, 12, 12))
    with pytest.raises(TypeError, match=re.escape("load(bits=): this model is quantized already")):
        small.quantized({}, **PLAIN).load(bits=3)


# Calibration data that say little.


def linear(weight: Array, *before: Array) -> Any:
    """x by each of `before`, plus 1, then by `weight`."""
    w, x = Writer((len(before[0] if before else weight),), 1), "x"
    for constant in before:
        x = w.add("Relu", w.add("Add", w.add("MatMul", x, w.constant(constant)), w.constant(np.ones(constant.shape[1], np.float32))))
    return w.model(w.add("MatMul", x, w.constant(weight)))


@pytest.mark.parametrize(("rows", "factor"), [(1, 1), (1, 1e4), (3, 1), (64, 1e-6), (64, 1e-30), (64, 1e4)])
def test_few_and_tiny_and_large_inputs(rows: int, factor: float) -> None:
    model = linear(images(64, 8))
    x = np.maximum(images(rows, 64, seed=1), 0) * np.float32(factor)
    network = ulp.load(model, bits=8, calibrate=x, progress=False)
    if factor > 1e-20:
        assert snr(ulp.load(model)(x), network(x)) > 30


def test_layers_whose_input_does_not_vary() -> None:
    """A pruned layer in front gives its bias alone; and inputs of which some are always 0."""
    model = linear(images(64, 8), np.zeros((64, 64), np.float32))
    x = images(64, 64)
    assert snr(ulp.load(model)(x), ulp.load(model, bits=8, calibrate=x, progress=False)(x)) > 30
    x[:, ::2] = 0
    model = linear(images(64, 8))
    assert snr(ulp.load(model)(x), ulp.load(model, bits=8, calibrate=x, progress=False)(x)) > 30


@pytest.mark.parametrize("bits", [1, 4])
def test_long_rows_are_rounded_by_blocks(bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(256, 8) @ images(8, 100, seed=2)
    model = linear(images(100, 8))
    how: dict[str, Any] = {"bits": bits, "calibrate": x, "first_last_bits": None, "bias_correction": False, "ranges": "minmax"}
    exact = ulp.load(model)(x)
    plain = snr(exact, quantize(model, rounding="nearest", **how).load(tune=False)(x))
    monkeypatch.setattr(moments, "_COLUMNS", 33)
    blocks = quantize(model, **how | {"bits": f"W{bits}A8"}).load(tune=False)(x)
    assert moments.blocks_of(100) == (4, 25)
    assert moments.blocks_of(97) == (3, 33)
    assert snr(exact, blocks) > plain
    y = np.arange(2 * 3 * 97.0).reshape(2, 3, 97)
    np.testing.assert_array_equal(moments.out_of_blocks(moments.in_blocks(y), 2, 97), y)
    monkeypatch.setattr(moments, "_MOST_MOMENTS", 10)
    assert snr(exact, quantize(model, **how).load(tune=False)(x)) >= plain - 1


def test_an_outlier_is_warned_of() -> None:
    x = images(64, 64)
    x[3] *= 1e6
    with pytest.warns(UserWarning, match=r"layer 'MatMul\w*' reads is \d+ times.*ranges='percentile'"):
        quantize(linear(images(64, 8)), bits=8, calibrate=x, progress=False)


def test_a_module_that_is_called_again() -> None:
    """The name of its first call is that of all; an entry of their own comes before."""
    w = Writer((16,), 1)
    weight, x = "l.weight", "x"
    w.constants.append(onnx.numpy_helper.from_array(images(16, 16), weight))
    for _ in range(3):
        x = w.add("Relu", w.add("MatMul", x, weight))
    model = w.model(w.add("MatMul", x, w.constant(images(16, 4))))

    def widths(bits: Any) -> list[str]:
        return bits_by_layer(quantize(model, bits=bits, calibrate=images(32, 16), progress=False))

    assert widths({"l": 4})[:3] == ["W4A4"] * 3
    assert widths({"l": 4, "l_2": 3})[:3] == ["W4A4", "W3A3", "W4A4"]
    assert widths(4)[:3] == ["W8A8"] * 3


# The report.


def test_report(small: FloatNetwork) -> None:
    quantized = small.quantized({layer.name: Bits(4, 4) for layer in small.layers}, **PLAIN)
    lines = str(quantized).splitlines()
    assert lines[0] == f"Quantized: {len(small.layers)} of {len(small.layers)} layers"
    assert lines[1].split() == ["layer", "type", "bits", "weight", "SNR", "dB", "output", "SNR", "dB", "clipped", "%"]
    wide = small.quantized({layer.name: Bits(8, 8) for layer in small.layers}, **PLAIN)
    for narrow, better in zip(quantized.layers, wide.layers, strict=True):
        assert narrow.weight_snr < better.weight_snr - 15
        assert narrow.output_snr < better.output_snr
        assert 0 <= better.clipped <= narrow.clipped < 0.05
    assert quantized.assignment == {layer.name: Bits(4, 4) for layer in small.layers}
    network = quantized.load(tune=False)
    assert network.quantized is quantized


def test_a_float_file_says_what_to_do() -> None:
    assert str(ulp.load(chain())).endswith("ulp.load(..., bits=, calibrate=) quantizes it")
    assert "quantizes it" not in str(ulp.load(chain(), bits=4, calibrate=images(8, 3, 12, 12), tune=False))


# Models of other kinds.


def test_open_sides_are_those_of_the_data() -> None:
    w = Writer((3, 12, 12))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])]
    model = w.model(w.conv(w.add("Relu", w.conv("x", 3, 8)), 8, 4), inputs=inputs)
    network = ulp.load(model, bits=4, calibrate=images(8, 3, 10, 14), tune=False)
    assert network.integer
    assert network(images(2, 3, 10, 14)).shape == (2, 4, 10, 14)


def test_a_fixed_batch() -> None:
    w = Writer((3, 12, 12))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 12, 12])]
    model = w.model(w.conv(w.add("Relu", w.conv("x", 3, 8)), 8, 4), inputs=inputs)
    network = FloatNetwork(model, images(8, 3, 12, 12))
    assert [len(batch["x"]) for batch in network.batches] == [2] * 4
    with pytest.raises(ValueError, match="has 7 rows, and the model takes 2 at once"):
        FloatNetwork(model, images(7, 3, 12, 12))


def test_several_inputs() -> None:
    w = Writer((3, 8, 8))
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 8, 8]) for name in ("x", "z")]
    model = w.model(w.add("Add", w.add("Relu", w.conv("x", 3, 8)), w.add("Relu", w.conv("z", 3, 8))), inputs=inputs)
    x, z = images(16, 3, 8, 8), images(16, 3, 8, 8, seed=6)
    network = ulp.load(model, bits=8, calibrate={"x": x, "z": z}, tune=False)
    assert snr(ulp.load(model)(x, z), network(x, z)) > 25
    assert len(FloatNetwork(model, [(x, z, np.arange(16))]).batches) == 1
    with pytest.raises(ValueError, match=r"calibrate\[0\] is one array, and the model has 2 inputs: give .* dict with x, z"):
        FloatNetwork(model, x)
    forms: list[Any] = [[(x, {"z": z})], (x, {"z": z}), [((x, z), np.arange(16))], [({"z": z, "x": x}, np.arange(16))]]
    for form in forms:
        (batch,) = FloatNetwork(model, form).batches
        np.testing.assert_array_equal(batch["x"], x)
        np.testing.assert_array_equal(batch["z"], z)
    with pytest.raises(ValueError, match=r"calibrate\[0\] is a tuple with 1 arrays, and the model has the inputs x, z"):
        FloatNetwork(model, [(x, "label")])
    with pytest.raises(ValueError, match=r"calibrate\[0\] has no input 'z': the model reads x, z"):
        FloatNetwork(model, [(x, {"y": z})])


@pytest.mark.parametrize("opset", [7, 9, 10])
def test_old_opsets(opset: int) -> None:
    rng = np.random.default_rng(0)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    weights = [onnx.numpy_helper.from_array(rng.standard_normal((4, 4), dtype=np.float32), "w")]
    graph = helper.make_graph(nodes, "old", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=4)
    x = rng.random((64, 4), dtype=np.float32)
    network = ulp.load(model, bits=8, calibrate=x, progress=False, tune=False)
    assert snr(ulp.load(model)(x), network(x)) > 25


def test_no_layers_with_weights() -> None:
    w = Writer((3, 8, 8))
    model = w.model(w.add("Relu", "x"))
    for bits in (4, {"*": 4}):
        with pytest.raises(ValueError, match="the model has no layers with weights"):
            ulp.load(model, bits=bits, calibrate=images(4, 3, 8, 8))
    x = images(4, 3, 8, 8)
    np.testing.assert_array_equal(ulp.load(model, bits="float")(x), np.maximum(x, 0))


def test_what_stays_in_floats_is_named_where_nothing_else_is_there() -> None:
    w = Writer((4, 6), 1)  # (batch, steps, features)
    steps = w.add("Transpose", "x", perm=[1, 0, 2])
    gru = w.add("GRU", steps, w.weights(1, 15, 6), w.weights(1, 15, 5), hidden_size=5)
    with pytest.raises(ValueError, match=r"no layers with weights that become integers in a file, but GRU: ulp\.torch\.convert"):
        ulp.load(w.model(gru), bits=8, calibrate=images(8, 4, 6), progress=False)


@pytest.mark.parametrize("square", ["Pow", "Mul"])
def test_normalizations_of_single_operators_stay_in_floats(square: str) -> None:
    w = Writer((6, 16), opset=13)
    x = w.add("Relu", w.add("MatMul", "x", w.weights(16, 32)))
    first = len(w.nodes)
    centered = w.add("Sub", x, w.add("ReduceMean", x, axes=[-1]))
    squares = w.add("Pow", centered, w.constant(np.float32(2))) if square == "Pow" else w.add("Mul", centered, centered)
    variance = w.add("Add", w.add("ReduceMean", squares, axes=[-1]), w.constant(np.float32(1e-5)))
    y = w.add("Div", centered, w.add("Sqrt", variance))
    inside = {name for node in w.nodes[first:-1] for name in node.output}
    model, rows = w.model(w.add("MatMul", y, w.weights(32, 8))), images(32, 6, 16)
    network = ulp.load(model, bits=8, calibrate=rows, tune=False, progress=False)
    assert inside.isdisjoint(node.input[0] for node in network.quantized.model.graph.node if node.op_type == "Quant")
    assert snr(FloatNetwork(model, rows).outputs()[0][0], network(rows)) > 35


def transformer_block() -> Any:
    """A normalization, two linear layers on rows with a Gelu between, around which x is added; then a mean and a linear layer."""
    w = Writer((12, 16), 3)

    def linear(x: str, inputs: int, outputs: int) -> str:
        bias = w.constant(w.rng.standard_normal(outputs).astype(np.float32))
        return w.add("Add", w.add("MatMul", x, w.constant(w.rng.standard_normal((inputs, outputs)).astype(np.float32) / 4)), bias)

    ones, zeros = w.constant(np.ones(16, np.float32)), w.constant(np.zeros(16, np.float32))
    h = w.add("LayerNormalization", "x", ones, zeros, axis=-1)
    h = w.add("Add", linear(w.add("Gelu", linear(h, 16, 32)), 32, 16), "x")
    return w.model(linear(w.add("ReduceMean", h, w.constant(np.array([1])), keepdims=0), 16, 5))


def test_linear_layers_on_rows() -> None:
    """Layers between what stays in floats; what only floats read is not quantized. Biases behind MatMul are corrected, too."""
    x = images(64, 12, 16)
    network = ulp.load(transformer_block(), bits=4, calibrate=x, tune=False)
    assert {row.type for row in network.layers if not row.integer} <= {"LayerNormalization", "Add", "ReduceMean"}
    assert not any(row.type == "Quant" for row in network.layers)
    exact, given = ulp.load(transformer_block())(x), network(x)
    assert snr(exact, given) > 20
    assert np.abs(exact.mean(0) - given.mean(0)).max() < 1e-3
    assert [row.op_type for row in network.quantized.layers] == ["MatMul", "MatMul", "Gemm"]


def test_transposed_convolutions_and_shared_weights() -> None:
    w = Writer((4, 6, 6), 1)
    a = w.add("ConvTranspose", w.add("Relu", w.conv("x", 4, 8)), w.weights(8, 4, 2, 2), kernel_shape=[2, 2], strides=[2, 2])
    shared = w.weights(4, 4, 3, 3)
    for _ in range(2):
        a = w.add("Conv", w.add("Relu", a), shared, pads=[1] * 4)
    x = images(16, 4, 6, 6)
    network = ulp.load(w.model(a), bits=8, calibrate=x, tune=False)
    assert network.integer
    assert snr(ulp.load(w.model(a))(x), network(x)) > 30
