"""Islands: how they are called, what they may need, and with how many threads."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper  # noqa: E402  # only where there is onnx
from onnx_models import Writer  # noqa: E402

import ulp  # noqa: E402
from ulp.onnx import session  # noqa: E402

FLOAT, FLOAT16, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    return helper.make_node(op_type, inputs.split(), outputs.split(), **attributes)


def model(nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], *constants: Any, opset: int = 17) -> Any:
    """inputs, outputs: by name a type and a shape."""
    before, behind = ([helper.make_tensor_value_info(name, *kind) for name, kind in some.items()] for some in (inputs, outputs))
    graph = helper.make_graph(nodes, "g", before, behind, list(constants))
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("qonnx.custom_op.general", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def of_floats() -> Any:
    """b + x and b - x, in another order than they are computed; c is not read."""
    sides = {"x": (FLOAT, ["N", 4]), "c": (INT64, []), "b": (FLOAT, ["N", 4])}
    nodes = [node("Add", "b x", "sum"), node("Sub", "b x", "difference")]
    return ulp.load(model(nodes, sides, {"difference": (FLOAT, ["N", 4]), "sum": (FLOAT, ["N", 4])}), floats="onnxruntime")


def test_a_model_of_floats_is_called_by_position_and_by_name() -> None:
    network = of_floats()
    x, b, c = np.ones((3, 4), np.float32), np.full((3, 4), 5, np.float32), np.array(0)
    for results in (network(x, c, b), network(c=c, b=b, x=x), network(x, b=b, c=c), network(x[:, ::-1], c, b.astype(np.float64))):
        assert list(results) == ["difference", "sum"]
        np.testing.assert_array_equal(results["difference"], b - x)
        np.testing.assert_array_equal(results["sum"], b + x)
    assert not network.integer


def test_a_model_of_floats_checks_what_it_is_given() -> None:
    network = of_floats()
    x, c = np.ones((3, 4), np.float32), np.array(0)
    for _ in range(2):  # what is known of good shapes does not let others in
        assert network(x, c, x)["sum"].shape == (3, 4)
        with pytest.raises(ValueError, match=r"b has shape \[2, 4\]: expected \[N, 4\]"):
            network(x, c, x[:2])
        with pytest.raises(ValueError, match=r"x has shape \[4\]"):
            network(x[0], c, x)
    with pytest.raises(TypeError, match="c has dtype float32"):
        network(x, x, x)
    with pytest.raises(TypeError, match="'b' is missing"):
        network(x, c)
    with pytest.raises(TypeError, match="'x' is given twice"):
        network(x, c, x=x)
    with pytest.raises(TypeError, match="'d' is no input"):
        network(x, c, d=x)


def test_float16_is_what_the_file_says() -> None:
    network = ulp.load(model([node("Add", "x x", "y")], {"x": (FLOAT16, ["N"])}, {"y": (FLOAT16, ["N"])}), floats="onnxruntime")
    for x in (np.array([40000, 1], np.float16), np.array([40000, 1], np.float32)):
        y = network(x)
        assert y.dtype == np.float16
        assert y.tolist() == [np.inf, 2]


def int8_network(source: Any, side: int, **options: Any) -> tuple[Any, Any]:
    """What onnxruntime's quantizer makes of a network of images, and images."""
    onnx_models = pytest.importorskip("onnx_models")
    x = np.random.default_rng(0).standard_normal((4, 3, side, side)).astype(np.float32)
    return onnx_models.quantized(source(onnx_models), x, **options), x


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long onnxruntime takes as a share of a plan's time: the last number. A 0 is added for every question."""
    answers = [0.5]

    def ratio(ours: Any, theirs: Any) -> float:
        answer = answers[0]
        answers.append(0)
        ours()
        theirs()
        return answer

    monkeypatch.setattr("ulp.onnx.rivals.ratio", ratio)
    return answers


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("signed", [False, True])
def test_integers_that_onnxruntime_runs_faster_are_left_to_it(asked: list[float], form: str, signed: bool) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    kind = quantization.QuantType.QInt8 if signed else quantization.QuantType.QUInt8
    how = {"quant_format": quantization.QuantFormat[form], "activation_type": kind, "weight_type": quantization.QuantType.QInt8}
    source, x = int8_network(lambda models: models.chain(), 12, **how)
    network = ulp.load(source, floats="onnxruntime")
    if not session.Session(source.SerializeToString(), "all of it").exact:  # on this CPU, so it is never left to onnxruntime
        assert network.integer
        assert len(asked) == 1
        return
    assert len(asked) == 2
    assert len(network.stages) == 1
    assert {(row.runs_in, row.why) for row in network.layers if row.type in ("Conv", "Gemm")} == {
        ("floats", "onnxruntime is faster whole, measured at load")
    }
    plan = ulp.load(source, floats="onnxruntime", tune=False)
    assert plan.integer
    np.testing.assert_array_equal(network(x), plan(x))
    # Only where it was asked for, and is so.
    assert ulp.load(source, floats="onnxruntime", strict=True).integer
    asked[0] = 0.97  # within the margin
    assert ulp.load(source, floats="onnxruntime").integer
    assert len(asked) == 3


def float_tail(outputs: int = 10, behind: str = "") -> tuple[Any, Any]:
    """int8 but for its last layer, and images."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    models = pytest.importorskip("onnx_models")
    w = models.Writer((3, 8, 8))
    flat = w.add("Flatten", w.add("Relu", w.conv(w.add("Relu", w.conv("x", 3, 16, stride=2)), 16, 8, stride=2)))
    last = w.add("Gemm", flat, w.weights(outputs, 32), w.weights(outputs), transB=1)
    name = w.nodes[-1].name
    source = w.model(w.add(behind, last) if behind else last)
    x = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    return models.quantized(source, x, nodes_to_exclude=[name], weight_type=quantization.QuantType.QInt8), x


@pytest.mark.parametrize("floats", ["onnxruntime", "numpy"])
def test_a_small_last_layer_in_floats_ends_the_plan(floats: Any, tmp_path: Any) -> None:
    models = pytest.importorskip("onnx_models")
    source, x = float_tail()
    network = ulp.load(source, floats=floats, tune=False)
    assert len(network.stages) == 1
    assert not network.integer
    (row,) = [row for row in network.layers if row.type == "Gemm"]
    assert (row.runs_in, row.why, row.shape, row.nbytes) == ("floats", "its weights are not quantized", (10,), 4 * 320)
    assert [step.runs_in for step in network.profile(x).rows if step.type == "Gemm"] == ["floats"]
    peer = models.precise_session(source.SerializeToString())
    np.testing.assert_allclose(network(x), peer.run(None, {"x": x})[0], rtol=0, atol=1e-5)
    network.save(tmp_path / "tail.ulp")
    again = ulp.load(tmp_path / "tail.ulp")
    assert not again.integer
    np.testing.assert_array_equal(again(x), network(x))
    for file in (source, tmp_path / "tail.ulp"):
        with pytest.raises(ulp.onnx.OnnxError, match=r"Gemm.*its weights are not quantized"):
            ulp.load(file, strict=True)


def test_last_layers_in_floats_that_are_no_small_product_are_left_to_onnxruntime(asked: list[float]) -> None:
    for source, x in (float_tail(300), float_tail(behind="Tanh")):
        network = ulp.load(source, tune=False)
        assert [type(stage).__name__ for stage in network.stages] == ["IntegerStage", "IslandStage"]
        assert np.isfinite(network(x)).all()
    # Neither does one keep the layers before it from being left.
    network = ulp.load(float_tail()[0])
    assert [type(stage).__name__ for stage in network.stages] == ["IslandStage"]
    asked[0] = 1
    assert [type(stage).__name__ for stage in ulp.load(float_tail()[0]).stages] == ["IntegerStage"]


@pytest.mark.parametrize(("shares", "stages"), [((1, 0.5), 1), ((1, 1), 2)])
def test_a_model_that_onnxruntime_runs_faster_whole_is_left_to_it(monkeypatch: pytest.MonkeyPatch, shares: Any, stages: int) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    models = pytest.importorskip("onnx_models")
    w = models.Writer((3, 8, 8))
    first = w.add("Relu", w.conv("x", 3, 16, stride=2))
    source = w.model(w.conv(w.add("Relu", w.conv(first, 16, 16)), 16, 8))
    x = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    int8 = models.quantized(source, x, nodes_to_exclude=["Conv_0"], weight_type=quantization.QuantType.QInt8)
    answers = iter(shares)  # first of the integer part, then of the whole
    monkeypatch.setattr("ulp.onnx.rivals.ratio", lambda _ours, _theirs: next(answers))
    network = ulp.load(int8, floats="onnxruntime")
    assert len(network.stages) == stages
    assert next(answers, None) is None
    whole = {row.why for row in network.layers if row.type == "Conv"} == {"onnxruntime is faster whole, measured at load"}
    assert whole == (stages == 1)
    np.testing.assert_array_equal(network(x), ulp.load(int8, floats="onnxruntime", tune=False)(x))


def test_what_onnxruntime_rounds_otherwise_is_not_left_to_it(asked: list[float]) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    how = {"quant_format": quantization.QuantFormat.QDQ, "weight_type": quantization.QuantType.QInt8}
    narrow = {**how, "activation_type": quantization.QuantType.QUInt8, "weight_type": quantization.QuantType.QInt4}
    for source, x in (
        int8_network(lambda models: models.chain(), 12, **narrow),  # products in floats
        int8_network(lambda models: models.small_network(), 16, **how, activation_type=quantization.QuantType.QInt8),
    ):
        assert np.isfinite(ulp.load(source, floats="onnxruntime")(x)).all()
        assert len(asked) == 1


def test_sessions_follow_the_number_of_threads() -> None:
    before = ulp.get_num_threads()
    try:
        ulp.set_num_threads(1)
        network = of_floats()
        session = network.stages[0].session
        x, c = np.ones((3, 4), np.float32), np.array(0)
        for threads in (1, 2, 1):
            ulp.set_num_threads(threads)
            assert network(x, c, x)["sum"][0, 0] == 2
            assert session.options.intra_op_num_threads == threads
    finally:
        ulp.set_num_threads(before)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_opens_sessions_of_its_own() -> None:
    """Whatever another thread holds while the process forks."""
    network = of_floats()
    x, c = np.ones((3, 4), np.float32), np.array(0)
    network(x, c, x)
    with session._reopening, session._lock:
        child = os.fork()
        if not child:
            signal.alarm(20)
            ulp.set_num_threads(2)
            os._exit(int((network(x, c, x)["sum"] != 2).any()))
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(network(x, c, x)["sum"], x + x)


def test_branches_that_are_never_taken_need_not_fit_the_shapes() -> None:
    def branch(result: str, axis: str) -> Any:
        return helper.make_graph([node("Squeeze", f"x {axis}", result)], result, [], [helper.make_tensor_value_info(result, FLOAT, None)])

    axes = [onnx.numpy_helper.from_array(np.array([i]), name) for i, name in enumerate("ab")]
    nodes = [node("If", "first", "y", then_branch=branch("t", "a"), else_branch=branch("e", "b"))]
    inputs = {"x": (FLOAT, ["N", "C"]), "first": (TensorProto.BOOL, [])}
    network = ulp.load(model(nodes, inputs, {"y": (FLOAT, None)}, *axes), shapes={"x": (1, 2)}, floats="onnxruntime")
    assert network(np.ones((1, 2), np.float32), np.array(True)).shape == (2,)


def test_the_length_of_a_sequence_is_given_by_shapes() -> None:
    """x (T, 4) is one sequence: its first side is no batch. Codes of opset 10, whose quantizers have no axis."""
    arrays: dict[str, Any] = {"s": np.float32(0.25), "z": np.uint8(128)}
    arrays |= {"w": np.random.default_rng(0).integers(-8, 8, (3, 4, 3)).astype(np.int8), "wz": np.int8(0)}
    nodes = [
        helper.make_node("Unsqueeze", ["x"], ["batch"], axes=[0]),
        node("Transpose", "batch", "t", perm=[0, 2, 1]),
        node("QuantizeLinear", "t s z", "q"),
        node("QLinearConv", "q s z w s wz s z", "c"),
        node("DequantizeLinear", "c s z", "d"),
        node("Transpose", "d", "r", perm=[0, 2, 1]),
        helper.make_node("Squeeze", ["r"], ["y"], axes=[0]),
    ]
    constants = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in arrays.items()]
    source = model(nodes, {"x": (FLOAT, ["T", 4])}, {"y": (FLOAT, ["T", 3])}, *constants, opset=10)
    x = np.random.default_rng(1).standard_normal((20, 4)).astype(np.float32)
    network = ulp.load(source, shapes={"x": (20, 4)})
    assert [row.runs_in for row in network.layers if row.type == "Conv"] == ["integers"]
    in_floats = ulp.load(source)
    np.testing.assert_array_equal(network(x), in_floats(x))
    assert in_floats(x[:9]).shape == (7, 3)
    with pytest.raises(ValueError, match=r"x has shape \[9, 4\]: expected \[20, 4\]"):
        network(x[:9])
    with pytest.raises(ulp.onnx.OnnxError, match="has a side of -1"):
        ulp.load(source, shapes={"x": (1, 4)})


def test_functions_of_codes_between_floats_divide_no_island() -> None:
    """An embedding of codes, whose floats a norm squares: without layers with weights, a plan would only divide the session."""
    arrays = {"table": np.arange(40, dtype=np.uint8).reshape(10, 4), "s": np.float32(0.5), "z": np.uint8(7), "two": np.float32(2)}
    nodes = [
        node("Gather", "table ids", "codes"),
        node("DequantizeLinear", "codes s z", "d"),
        node("Unsqueeze", "d axes", "u"),
        node("Pow", "u two", "squares"),
        node("Softmax", "squares", "p"),
        node("Softmax", "u", "q"),
        node("Add", "p q", "y"),
    ]
    constants = [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in {**arrays, "axes": np.array([2])}.items()]
    source = model(nodes, {"ids": (INT64, ["N"])}, {"y": (FLOAT, None)}, *constants)
    network = ulp.load(source, floats="onnxruntime")
    assert len(network.stages) == 1
    assert not any("could not be told" in row.why for row in network.layers)
    ids = np.array([3, 1, 9])
    np.testing.assert_allclose(network(ids), ulp.load(source, floats="numpy")(ids), rtol=1e-6)


def test_two_quantizers_one_behind_the_other_stay_two() -> None:
    """onnxruntime's optimizations would make one of them, with other results."""
    w, x = Writer((4, 6), opset=15), "x"
    for scale, zero in ((0.125, 0), (1.0, 3), (0.0625, -44)):
        parameters = w.constant(np.float32(scale)), w.constant(np.int8(zero))
        x = w.add("DequantizeLinear", w.add("QuantizeLinear", x, *parameters), *parameters)
    given = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32) * 4
    network = ulp.load(w.model(x))
    assert not any(row.integer for row in network.layers)
    steps = np.clip(np.rint(given * 8), -128, 127) / 8
    steps = np.clip(np.rint(steps) + 3, -128, 127) - 3
    np.testing.assert_array_equal(network(given), (np.clip(np.rint(steps * 16) - 44, -128, 127) + 44) / 16)


def test_a_relu_in_front_of_a_quantizer_of_4_bits_stays() -> None:
    w = Writer((4, 6), opset=21)
    w.constants.append(helper.make_tensor("zero", TensorProto.UINT4, (), [5]))
    s, x = w.constant(np.float32(0.25)), w.add("Relu", w.add("Mul", "x", w.constant(np.array([-1, 1, 2, -2, 1, 1], np.float32))))
    model = w.model(w.add("DequantizeLinear", w.add("QuantizeLinear", x, s, "zero"), s, "zero"))
    assert ulp.load(model)(np.full((2, 4, 6), -1, np.float32)).min() == 0


@pytest.mark.parametrize("floats", ["onnxruntime", "numpy"])
def test_the_shape_of_a_sequence_inside_of_an_integer_part_is_that_of_the_tensor(floats: Any) -> None:
    """A part holds (T, C) as an image (C, 1, T)."""
    rng = np.random.default_rng(0)
    arrays = {"s": np.float32(0.1), "z": np.float32(0), "b": np.float32(4), "one": np.int64(1), "w": rng.standard_normal((8, 16))}
    constants = [onnx.numpy_helper.from_array(np.asarray(a, np.int64 if name == "one" else np.float32), name) for name, a in arrays.items()]
    quant = {"domain": "qonnx.custom_op.general", "signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
    nodes = [
        *(node("Quant", f"{name} s z b", f"{name}q", **quant) for name in "xw"),
        node("MatMul", "xq wq", "y"),
        node("Shape", "y", "shape"),
        node("Gather", "shape one", "length"),
        node("Cast", "length", "count", to=FLOAT),
        node("Add", "y count", "sum"),
    ]
    sides = {"sum": (FLOAT, ["N", 5, 16])}
    source = model(nodes, {"x": (FLOAT, ["N", 5, 8])}, sides, *constants)
    x = rng.standard_normal((3, 5, 8)).astype(np.float32)
    network = ulp.load(source, floats=floats, tune=False)
    assert [row.integer for row in network.layers if row.type == "MatMul"] == [True]
    codes = [np.clip(np.rint(a / np.float32(0.1)), -8, 7) for a in (x, arrays["w"].astype(np.float32))]
    np.testing.assert_allclose(network(x), codes[0] @ codes[1] * 0.01 + 5, atol=1e-5)


def test_an_empty_batch_does_not_end_the_process() -> None:
    """onnxruntime divides by it in some operators. Others give an empty result."""
    weights = [onnx.numpy_helper.from_array(np.ones((1, 4, sides), np.float32), name) for name, sides in (("w", 6), ("r", 1))]
    lstm = model([node("LSTM", "x w r", "y", hidden_size=1)], {"x": (FLOAT, [4, "N", 6])}, {"y": (FLOAT, [4, 1, "N", 1])}, *weights)
    einsum = model([node("Einsum", "x x", "y", equation="nab,ncb->nac")], {"x": (FLOAT, ["N", 4, 6])}, {"y": (FLOAT, ["N", 4, 4])})
    for made, x in ((lstm, np.ones((4, 1, 6), np.float32)), (einsum, np.ones((1, 4, 6), np.float32))):
        network = ulp.load(made)
        axis = 1 if made is lstm else 0
        assert network(x).size == 4 ** (1 if axis else 2)
        with pytest.raises(ulp.onnx.OnnxError, match=r"cannot run (LSTM|Einsum) on an empty tensor"):
            network(np.delete(x, 0, axis))
    softmax = model([node("Softmax", "x", "y", axis=-1)], {"x": (FLOAT, ["N", 6])}, {"y": (FLOAT, ["N", 6])})
    assert ulp.load(softmax)(np.zeros((0, 6), np.float32)).shape == (0, 6)
