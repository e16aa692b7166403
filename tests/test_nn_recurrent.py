"""ulp.nn.LSTM and GRU: against the reference plan, as streams, compiled, calibrated, saved; what they refuse."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ulp
from ulp import nn
from ulp.nn import LayerError

KINDS = [nn.LSTM, nn.GRU]


def states_of(layer: Any, rng: np.random.Generator, count: int) -> list[Any]:
    shape = layer.num_layers * layer.directions, count, layer.hidden_size
    return [rng.uniform(-1, 1, shape).astype(np.float32) for _ in range(2 if isinstance(layer, nn.LSTM) else 1)]


def packed(states: list[Any]) -> Any:
    return tuple(states) if len(states) > 1 else states[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dynamic", [True, False])
def test_layers_compile_to_what_they_compute(kind: Any, dynamic: bool) -> None:
    rng = np.random.default_rng(5)
    nn.manual_seed(3)
    layer = kind(10, 12, 2, batch_first=True, bidirectional=True, bits=4, act_bits=6, dynamic=dynamic)

    class Network(nn.Module):
        def __init__(self) -> None:
            self.rnn = layer
            self.head = nn.Linear(24, 3, bits=4)

        def forward(self, x: Any, *states: Any) -> Any:
            y, last = self.rnn(x, packed(list(states)) if states else None)
            last = list(last) if isinstance(last, tuple) else [last]
            return [self.head(y), *last]

    network = Network()
    x = rng.standard_normal((3, 6, 10)).astype(np.float32)
    network.calibrate([x])
    states = states_of(layer, rng, 3)
    shapes = (x.shape, *((3, 4, 12) for _ in states))
    compiled = nn.compile(network, shapes)
    found = compiled(x, *(s.transpose(1, 0, 2) for s in states))
    wanted = network(x, *states)
    np.testing.assert_array_equal(found[0], wanted[0])
    for one, other in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_array_equal(one.transpose(1, 0, 2), other)
    again = nn.load(io.BytesIO(ulp_bytes(compiled)).getvalue())
    for one, other in zip(again(x, *(s.transpose(1, 0, 2) for s in states)), found, strict=True):
        np.testing.assert_array_equal(one, other)
    text = network.state_dict()
    other_network = Network()
    other_network.rnn = kind(10, 12, 2, batch_first=True, bidirectional=True, bits=4, act_bits=6, dynamic=dynamic)
    other_network.load_state_dict(text)
    np.testing.assert_array_equal(other_network(x)[0], network(x)[0])


def ulp_bytes(network: Any) -> bytes:
    return bytes(network.__reduce__()[1][0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_in_pieces_gives_what_the_whole_gives(kind: Any) -> None:
    rng = np.random.default_rng(2)
    layer = kind(7, 9, 2, bits=5, act_bits=8)
    x = rng.standard_normal((12, 2, 7)).astype(np.float32)
    whole, last = layer(x)
    state: Any = None
    pieces = []
    for begin, end in ((0, 1), (1, 6), (6, 12)):
        y, state = layer(x[begin:end], state)
        pieces.append(y)
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    np.testing.assert_array_equal(np.stack(state), np.stack(last))


@pytest.mark.parametrize("kind", KINDS)
def test_lengths(kind: Any) -> None:
    rng = np.random.default_rng(4)
    layer = kind(5, 6, bidirectional=True, batch_first=True, bits=4, act_bits=8)
    x = rng.standard_normal((3, 5, 5)).astype(np.float32)
    y, last = layer(x, None, np.array([5, 2, 0]))
    short, short_last = layer(x[1:2, :2])
    np.testing.assert_array_equal(y[1:2, :2], short)
    assert not y[1, 2:].any()
    assert not y[2].any()
    np.testing.assert_array_equal(np.stack(last)[..., 1:2, :], np.stack(short_last))
    with pytest.raises(LayerError, match=r"lengths must be in 0\.\.5, got 0\.\.6"):
        layer(x, None, np.array([6, 2, 0]))
    with pytest.raises(LayerError, match="lengths must be 3 integers"):
        layer(x, None, np.array([1.0, 2.0, 3.0]))


def test_one_sequence_without_a_batch_and_torch_states() -> None:
    layer = nn.GRU(4, 3, bits=4)
    x = np.ones((5, 4), np.float32)
    y, h = layer(x)
    assert (y.shape, h.shape) == ((5, 3), (1, 3))
    np.testing.assert_array_equal(layer(x, h)[0][0], layer(x[:1], h)[0][0])


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="projections"):
        nn.LSTM(4, 4, proj_size=2, bits=4)
    with pytest.raises(TypeError, match="act_bits is needed"):
        nn.GRU(4, 4, bits=1)
    layer = nn.LSTM(4, 3, bits=4, batch_first=True)
    with pytest.raises(LayerError, match=r"takes \(N, T, 4\)"):
        layer(np.ones((1, 2, 5), np.float32))
    with pytest.raises(LayerError, match="at least one step"):
        layer(np.ones((1, 0, 4), np.float32))
    x = np.ones((2, 3, 4), np.float32)
    with pytest.raises(LayerError, match=r"pair \(h, c\)"):
        layer(x, x)
    with pytest.raises(LayerError, match="Expected hx size"):
        layer(x, (np.zeros((1, 3, 3), np.float32),) * 2)
    with pytest.raises(LayerError, match="batch_first=True"):
        nn.compile(nn.LSTM(4, 3, bits=4), (1, 2, 4))
    with pytest.raises(ValueError, match="NaN"):
        layer(np.full((2, 3, 4), np.nan, np.float32))
    with pytest.raises(LayerError, match="not calibrated"):
        nn.LSTM(4, 3, bits=4, dynamic=False)(np.ones((3, 1, 4), np.float32))


@pytest.mark.parametrize("name", ["LSTM", "GRU"])
def test_torch_modules(name: str) -> None:
    torch = pytest.importorskip("torch")
    import ulp.torch

    torch.manual_seed(0)
    model = getattr(torch.nn, name)(6, 8, 2, bidirectional=True).eval()
    x = torch.randn(5, 2, 6)
    with torch.no_grad():
        wanted, _ = model(x)
        low = ulp.torch.convert(model, "W8A8")
        found, _ = low(x)
        assert (found - wanted).abs().max() < 0.03
        layer, _ = getattr(nn, name).from_float(model, bits=8)(x)
        assert torch.equal(found, layer)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch.ao's modules stay in files
            warnings.simplefilter("ignore", UserWarning)
            integers = torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(model), {type(model)}, dtype=torch.qint8)
        own = ulp.torch.convert(integers)
        assert (own(x)[0] - wanted).abs().max() < 0.03
        fresh = ulp.torch.convert(getattr(torch.nn, name)(6, 8, 2, bidirectional=True), "W8A8")
        fresh.load_state_dict(low.state_dict())
        assert torch.equal(fresh(x)[0], found)


def test_dynamic_lstms_of_onnx() -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(1)
    time, sizes, units = 7, (5, 12), 6
    nodes, constants = [helper.make_node("Transpose", ["x"], ["t0"], perm=[1, 0, 2])], []
    for layer, features in enumerate(sizes):
        arrays: dict[str, Any] = {
            "w": rng.integers(-8, 8, (2, features, 4 * units)).astype(np.int8),
            "r": rng.integers(-8, 8, (2, units, 4 * units)).astype(np.int8),
            "b": rng.standard_normal((2, 8 * units)).astype(np.float32),
            "ws": np.full((2,), 0.05, np.float32),
            "wz": np.zeros((2,), np.int8),
        }
        constants += [numpy_helper.from_array(a, f"{name}{layer}") for name, a in arrays.items()]
        w, r, b, ws, wz = (f"{name}{layer}" for name in arrays)
        inputs = [f"t{layer}", w, r, b, "", "", "", "", ws, wz, ws, wz]
        options: dict[str, Any] = {"domain": "com.microsoft", "hidden_size": units, "direction": "bidirectional"}
        nodes.append(helper.make_node("DynamicQuantizeLSTM", inputs, [f"y{layer}"], **options))
        nodes.append(helper.make_node("Transpose", [f"y{layer}"], [f"z{layer}"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [f"z{layer}", "shape"], [f"t{layer + 1}"]))
    constants.append(numpy_helper.from_array(np.array([0, 0, -1]), "shape"))
    nodes.append(helper.make_node("Transpose", ["t2"], ["y"], perm=[1, 0, 2]))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, time, n]) for name, n in (("x", 5), ("y", 2 * units))]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:], constants), opset_imports=opsets, ir_version=8)
    data = model.SerializeToString()
    x = rng.standard_normal((1, time, 5)).astype(np.float32)
    network = ulp.load(data, tune=False)
    assert all(row.runs_in == "integers" for row in network.layers)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(network(x), session.run(None, {"x": x})[0], atol=2e-6)
    assert onnx.__version__


@pytest.mark.parametrize("bits", [8, "W4A8", 2])
def test_float_lstms_of_onnx_are_quantized(bits: int | str, tmp_path: Path) -> None:
    """As torch.export writes two layers of both directions: zeros as states by the batch, and a Reshape by the sides of its input."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(2)
    time, sizes, units = 9, (12, 32), 16
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(op_type: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op_type}{len(nodes)}"
        nodes.append(helper.make_node(op_type, list(inputs), [name], name=name, **attributes))
        return name

    ends = [constant(f"end{i}", [i]) for i in range(5)]
    left = constant("left", [-1])
    batch = add("Slice", add("Shape", "x"), ends[0], ends[1])
    zero = constant("zero", np.zeros((1, 1, 1), np.float32))
    states = add("Expand", zero, add("Concat", ends[2], batch, constant("units", [units]), axis=0))
    x = add("Transpose", "x", perm=[1, 0, 2])
    for layer, features in enumerate(sizes):
        shapes = {"w": (2, 4 * units, features), "r": (2, 4 * units, units), "b": (2, 8 * units)}
        arrays = [constant(f"{name}{layer}", rng.uniform(-0.25, 0.25, shape).astype(np.float32)) for name, shape in shapes.items()]
        y = add("LSTM", x, *arrays, "", states, states, hidden_size=units, direction="bidirectional")
        y = add("Transpose", y, perm=[0, 2, 1, 3])
        sides = add("Shape", y)
        shape = [add("Slice", sides, ends[i], ends[i + 1]) for i in range(2)]
        x = add("Reshape", y, add("Concat", *shape, left, axis=0))
    x = add("Transpose", x, perm=[1, 0, 2])
    nodes.append(helper.make_node("MatMul", [x, constant("m", rng.standard_normal((2 * units, 10)).astype(np.float32))], ["y"], name="fc"))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", time, n]) for name, n in (("x", 12), ("y", 10))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], constants)
    data = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    sequences = rng.standard_normal((6, time, 12)).astype(np.float32)
    quantized = ulp.quantize.quantize(data, bits=bits, calibrate=sequences, progress=False)
    assert [(row.op_type, row.bits is None) for row in quantized.layers] == [("LSTM", False), ("LSTM", False), ("MatMul", False)]
    network = quantized.load(tune=False)
    assert sum(row.type == "DynamicQuantizeLSTM" and row.runs_in == "integers" for row in network.layers) == 2
    exact = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"]).run(None, {"x": sequences})[0]
    made = network(sequences)
    ratio = np.square(exact).sum() / np.square(made - exact).sum()
    assert 10 * np.log10(ratio) > {8: 30, "W4A8": 15, 2: 3}[bits]
    quantized.save(tmp_path / "q.onnx")
    again = ulp.load(tmp_path / "q.onnx", tune=False)
    np.testing.assert_array_equal(again(sequences), made)
    again.save(tmp_path / "q.ulp")
    np.testing.assert_array_equal(ulp.load(tmp_path / "q.ulp")(sequences), made)
    floats = ulp.quantize.quantize(data, bits={"LSTM*": "float", "*": 8}, calibrate=sequences, progress=False)
    assert [node.op_type for node in floats.model.graph.node].count("LSTM") == 2


def test_what_a_recurrent_layer_gives_is_no_input_of_the_next() -> None:
    x = np.zeros((2, 3, 8), np.float32)
    layer = nn.LSTM(8, 6, batch_first=True, bits=4)
    with pytest.raises(TypeError, match=r"input is a tuple of 2: .* \(result, last states\)"):
        nn.Sequential(layer, nn.Linear(6, 2, bits=4))(x)
    with pytest.raises(LayerError, match="forward returned a tuple that holds a tuple"):
        nn.compile(layer, x)
    with pytest.raises(TypeError, match=r"layer is a Linear: expected a torch\.nn\.LSTM"):
        nn.LSTM.from_float(nn.Linear(8, 6, bits=4), bits=4)
