"""Files that are damaged or mean harm: an OnnxError says why, nothing else happens, and memory stays bounded."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="the loader of models needs the package onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402  # only where there is onnx

import ulp  # noqa: E402
from ulp.onnx import Limits, OnnxError  # noqa: E402
from ulp.onnx.reader import read  # noqa: E402

MIB = 2**20
ONNXRUNTIME = importlib.util.find_spec("onnxruntime") is not None


def tensor(name: str, *shape: int, dtype: Any = np.float32) -> Any:
    return numpy_helper.from_array(np.ones(shape, dtype), name)


def make(nodes: list[Any], *constants: Any, output: str = "y", shape: Any = ("N", 4), opset: int = 21) -> Any:
    """A model from float32 x (N, 4) to y."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, s) for name, s in (("x", shape), (output, None))]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def node(op_type: str, *inputs: str, output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op_type, list(inputs), [output], **attributes)


def good() -> Any:
    """A linear layer of 4-bit weights in integers, and a softmax in floats."""
    nodes = [
        node("QuantizeLinear", "x", "s", "z", output="q"),
        node("DequantizeLinear", "q", "s", "z", output="xq"),
        node("DequantizeLinear", "w", "s", output="wf"),
        node("MatMul", "xq", "wf", output="logits"),
        node("Softmax", "logits"),
    ]
    weights = helper.make_tensor("w", TensorProto.INT4, [4, 3], [1, -2, 3, -4, 5, -6, 7, -8, 0, 1, 2, 3])
    return make(nodes, weights, numpy_helper.from_array(np.float32(0.5), "s"), numpy_helper.from_array(np.uint8(3), "z"))


def test_the_good_model_loads() -> None:
    network = ulp.load(good().SerializeToString(), tune=False)
    x = np.array([[0.5, 1.0, -0.5, 0.0]], np.float32)
    w = 0.5 * np.array([[1, -2, 3], [-4, 5, -6], [7, -8, 0], [1, 2, 3]])
    exponentials = np.exp(x @ w)
    np.testing.assert_allclose(network(x), exponentials / exponentials.sum(), rtol=1e-5)


def refused(source: Any, words: str, **limits: int) -> None:
    """Loading or running it is an OnnxError with these words, and takes less than 64 MiB; with onnxruntime, with words of its own."""
    tracemalloc.start()
    try:
        with pytest.raises(OnnxError, match=words):
            run(source, "numpy", limits)
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()
    if ONNXRUNTIME:
        with pytest.raises(OnnxError):
            run(source, "onnxruntime", limits)


def run(source: Any, floats: str, limits: dict[str, int]) -> None:
    """Load it, and run it on ones."""
    network = ulp.load(source, tune=False, limits=Limits(**limits), floats=floats)
    for port in network.inputs:
        assert port.shape is not None
    network(*(np.ones([side if isinstance(side, int) else 1 for side in port.shape or ()], port.dtype) for port in network.inputs))


# The file.


def test_every_beginning_of_a_file() -> None:
    data = good().SerializeToString()
    for end in range(len(data)):
        with pytest.raises(OnnxError):
            read(data[:end])


@pytest.mark.parametrize(
    "data", [b"", b"\x00", b"hello, this is no model", b"\xff" * 64, b"PK\x03\x04" + bytes(64), b"\x3a\xff\xff\xff\xff\x0f"]
)
def test_other_files(data: bytes, tmp_path: Path) -> None:
    refused(data, ".")
    (tmp_path / "m.onnx").write_bytes(data)
    refused(tmp_path / "m.onnx", ".")


def nested(depth: int) -> bytes:
    """Graphs in attributes of nodes of graphs, written from the inside."""
    message = b""
    for _ in range(depth):
        for field in (6, 5, 1):  # Attribute.g, Node.attribute, Graph.node
            message = bytes([field << 3 | 2]) + varint(len(message)) + message
    return b"\x3a" + varint(len(message)) + message


def varint(n: int) -> bytes:
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


@pytest.mark.parametrize("depth", [40, 5000])
def test_graphs_in_graphs(depth: int) -> None:
    refused(nested(depth), "deep")


def test_empty_messages_do_not_become_objects() -> None:
    graph = b"\x0a\x00" * 10**6  # a million nodes of two bytes
    refused(b"\x3a" + varint(len(graph)) + graph, "limit fields=100000", fields=10**5)


def test_work_of_a_call() -> None:
    """A hundred bytes that ask for minutes, by windows of floats and of codes, and by products."""
    far: dict[str, Any] = {"kernel_shape": [620000], "pads": [620000] * 2}
    refused(make([node("MaxPool", "x", **far)], shape=(1, 1, 1)), "MaxPool 'MaxPool_0': a call would compute more than the limit call_op")
    refused(make([node("AveragePool", "x", **far, count_include_pad=1)], shape=(1, 1, 1)), "limit call_operations=8796093022208")
    small = make([node("MatMul", "x", "w")], tensor("w", 4, 100))
    refused(small, "limit call_operations=100", call_operations=100)
    run(small.SerializeToString(), "numpy", {"call_operations": 1000})


def test_limits_can_be_raised_and_are_looked_at() -> None:
    data = good().SerializeToString()
    refused(data, "limit file_bytes=100", file_bytes=100)
    refused(data, "limit nodes=4", nodes=4)
    refused(data, "limit tensor_bytes=8", tensor_bytes=8)
    refused(data, "limit constant_bytes=10", constant_bytes=10)
    with pytest.raises(ValueError, match="nodes=0"):
        Limits(nodes=0)


def test_packed_numbers_that_grow() -> None:
    payload = bytes(MIB)
    numbers = b"\x3a" + varint(len(payload)) + payload  # TensorProto.int64_data
    initialiser = b"\x2a" + varint(len(numbers)) + numbers
    refused(b"\x3a" + varint(len(initialiser)) + initialiser, "lists of numbers", constant_bytes=MIB)


def test_sources_that_are_no_models(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="source of type int"):
        ulp.load(3)
    with pytest.raises(FileNotFoundError):
        ulp.load(tmp_path / "none.onnx")
    refused(tmp_path, "regular file")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        refused(tmp_path / "pipe", "regular file")


def doubled(depth: int, *, circle: bool = False) -> Any:
    """Functions each of which calls the next one twice."""
    model = make([helper.make_node("f0", ["x"], ["y"], domain="own")])
    model.opset_import.append(helper.make_opsetid("own", 1))
    imports = list(model.opset_import)
    for i in range(depth):
        last = "f0" if circle else "Relu"
        calls = [helper.make_node(f"f{i + 1}" if i + 1 < depth else last, [a], [b], domain="own" if i + 1 < depth or circle else "")
                 for a, b in (("a", "b"), ("b", "c"))]  # fmt: skip
        model.functions.append(helper.make_function("own", f"f{i}", ["a"], ["c"], calls, imports))
    return model


def test_functions_are_written_out_as_far_as_limits_allow() -> None:
    x = np.array([[-1.0, 2.0, -3.0, 4.0]], np.float32)
    np.testing.assert_array_equal(ulp.load(doubled(4), floats="numpy")(x), np.maximum(x, 0))
    refused(doubled(60), "functions written out the graph has .* nodes, more than the limit nodes=100000")
    refused(doubled(3, circle=True), "calls itself")


def test_data_in_other_files_inside_of_nodes() -> None:
    """It would be read from wherever the file says."""
    weights = tensor("w", 4)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="*/_ORT_MEM_ADDR_/*")
    add = [node("Add", "x", "w", output="z")]
    branch = helper.make_graph(add, "b", [], [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)], [weights])
    condition = numpy_helper.from_array(np.array(True), "c")
    refused(make([node("If", "c", then_branch=branch, else_branch=branch)], condition), "data in another file")


# Tensors.


def with_weights(change: Callable[[Any], None]) -> Any:
    model = make([node("MatMul", "x", "w")], tensor("w", 4, 3))
    change(model.graph.initializer[0])
    return model.SerializeToString()


def set_dims(*dims: int) -> Callable[[Any], None]:
    def change(t: Any) -> None:
        t.ClearField("dims")
        t.dims.extend(dims)

    return change


def set_field(**fields: Any) -> Callable[[Any], None]:
    def change(t: Any) -> None:
        for name, value in fields.items():
            setattr(t, name, value)

    return change


def listed(kind: int, field: str, numbers: list[int], *dims: int) -> Callable[[Any], None]:
    def change(t: Any) -> None:
        t.Clear()
        t.name, t.data_type = "w", kind
        t.dims.extend(dims)
        getattr(t, field).extend(numbers)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_dims(-1, 3), "sides of 0 or more"),
        (set_dims(2**62, 2**62), "limit tensor_bytes"),
        (set_dims(2**31, 2**33, 0), "48 bytes"),
        (set_dims(0, 2**62), "48 bytes"),
        (set_dims(*[1] * 60), "60 dimensions"),
        (set_dims(4, 4), "take 64"),
        (set_dims(), "take 4"),
        (set_field(raw_data=b""), "0 bytes"),
        (set_field(raw_data=bytes(47)), "47 bytes"),
        (set_field(data_type=0), "type number 0"),
        (set_field(data_type=8), "types that only onnxruntime knows"),
        (set_field(data_type=17), "types that only onnxruntime knows"),
        (set_field(data_type=9999), "type number 9999"),
        (set_field(name=""), "name"),
        (set_field(name="a\nb"), "printable"),
        (set_field(name="\x1b[2Jw"), "printable"),
        (set_field(name="w" * 5000), "printable"),
        (lambda t: t.segment.SetInParent(), "segment"),
        (listed(1, "int64_data", [1, 2], 2), "0 elements in float_data"),
        (listed(2, "int32_data", [1, 256], 2), "allows 0 to 255"),
        (listed(3, "int32_data", [-129], 1), "allows -128 to 127"),
        (listed(22, "int32_data", [1, 2], 2), "takes 1"),
        (listed(22, "int32_data", [1, 2], 2**40), "limit tensor_bytes"),
    ],
)
def test_tensors(change: Callable[[Any], None], words: str) -> None:
    refused(with_weights(change), words)


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", "uint8", "int8", "uint16", "int16", "int32", "int64", "uint32", "uint64", "bool"]
)
def test_tensors_raw_and_listed_are_the_same(dtype: str) -> None:
    array = np.array([[0, 1, 100], [3, 2, 1]]).astype(dtype)
    raw = numpy_helper.from_array(array, "w")
    lists = helper.make_tensor("w", raw.data_type, array.shape, array.reshape(-1))
    assert not lists.raw_data
    for proto in (raw, lists):
        w = read(make([node("Relu", "x")], proto)).constants["w"]
        assert w.dtype == ("float32" if dtype == "float16" else dtype)
        assert (w == array).all()


@pytest.mark.parametrize(("kind", "values"), [("INT4", [-8, 7, -1]), ("UINT4", [15, 0, 9]), ("INT2", [-2, 1, -1]), ("UINT2", [3, 0, 2])])
def test_narrow_integers(kind: str, values: list[int]) -> None:
    lists = helper.make_tensor("w", getattr(TensorProto, kind), [3], values)
    raw = numpy_helper.from_array(numpy_helper.to_array(lists), "w")
    for proto in (lists, raw):
        model = read(make([node("Relu", "x")], proto))
        assert model.constants["w"].tolist() == values
        assert model.bits == {"w": int(kind[-1])}


def test_bfloat16() -> None:
    proto = helper.make_tensor("w", TensorProto.BFLOAT16, [3], [1.0, -2.5, 3e38])
    assert read(make([node("Relu", "x")], proto)).constants["w"].tolist() == numpy_helper.to_array(proto).astype(np.float32).tolist()


# Data in other files.


def external(folder: Path, **entries: str) -> Path:
    """A model in folder/model whose weights lie where the entries say; 48 bytes of ones are in folder/model/w.bin and folder/secret.bin."""
    home = folder / "model"
    home.mkdir(exist_ok=True)
    for path in (home / "w.bin", folder / "secret.bin"):
        path.write_bytes(np.ones((4, 3), np.float32).tobytes())

    def change(t: Any) -> None:
        t.ClearField("raw_data")
        t.data_location = TensorProto.EXTERNAL
        for key, value in entries.items():
            t.external_data.add(key=key, value=value)

    path = home / "m.onnx"
    path.write_bytes(with_weights(change))
    return path


def test_external_data(tmp_path: Path) -> None:
    for entries in ({"location": "w.bin"}, {"location": "./w.bin", "offset": "0", "length": "48"}):
        assert (ulp.load(external(tmp_path, **entries))(np.ones((1, 4), np.float32)) == 4).all()
    refused(external(tmp_path, location="w.bin").read_bytes(), "by its path")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({}, "relative path"),
        ({"location": ""}, "relative path"),
        ({"location": "."}, "relative path|regular|no bytes|directory"),
        ({"location": "../secret.bin"}, r"without \.\."),
        ({"location": "a/../../secret.bin"}, r"without \.\."),
        ({"location": "/etc/passwd"}, "relative path"),
        ({"location": "C:\\secret.bin"}, "relative path"),
        ({"location": "C:secret.bin"}, "relative path"),
        ({"location": "..\\secret.bin"}, "relative path"),
        ({"location": "w.bin\x00"}, "relative path"),
        ({"location": "link.bin"}, "link out of"),
        ({"location": "linked/secret.bin"}, "link out of"),
        ({"location": "circle"}, "cannot be read"),
        ({"location": "none.bin"}, "cannot be read"),
        ({"location": "a" * 10000}, "cannot be read"),
        ({"location": "pipe"}, "no bytes"),
        ({"location": "zero"}, "link out of|no bytes"),
        ({"location": "w.bin", "offset": "1"}, "no bytes 1 to 49"),
        ({"location": "w.bin", "offset": "-4"}, "offset='-4'"),
        ({"location": "w.bin", "offset": "9" * 30}, "offset='999"),
        ({"location": "w.bin", "offset": str(2**59)}, "no bytes"),
        ({"location": "w.bin", "offset": "\N{ARABIC-INDIC DIGIT ONE}"}, "offset="),
        ({"location": "w.bin", "length": "47"}, "47 bytes"),
        ({"location": "w.bin", "length": "0x30"}, "length='0x30'"),
    ],
)
def test_external_data_elsewhere(entries: dict[str, str], words: str, tmp_path: Path) -> None:
    path = external(tmp_path, **entries)
    home = path.parent
    (home / "link.bin").symlink_to(tmp_path / "secret.bin")
    (home / "linked").symlink_to(tmp_path)
    (home / "circle").symlink_to("circle")
    (home / "zero").symlink_to("/dev/zero")
    os.mkfifo(home / "pipe")
    refused(path, words)


def test_external_data_that_many_tensors_share(tmp_path: Path) -> None:
    model = onnx.load_from_string(external(tmp_path, location="w.bin").read_bytes())
    for i in range(100):
        model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
        model.graph.initializer[-1].name = f"w{i}"
    path = tmp_path / "model" / "m.onnx"
    path.write_bytes(model.SerializeToString())
    refused(path, "limit constant_bytes=4800", constant_bytes=4800)


# The graph.


def test_cycles_and_names() -> None:
    refused(make([node("Add", "x", "b", output="a"), node("Relu", "a", output="b"), node("Relu", "a")]), "cycle")
    refused(make([node("Relu", "y")]), "cycle")
    refused(make([node("Relu", "x"), node("Relu", "x")]), "something else")
    refused(make([node("Relu", "x", output="x")]), "something else")
    refused(make([node("Relu", "x", output="w"), node("Relu", "w")], tensor("w", 4)), "something else")
    refused(make([node("Relu", "x")], tensor("w", 4), tensor("w", 4)), "two initialisers")
    refused(make([node("Relu", "nothing")]), "nothing makes its input 'nothing'")
    refused(make([node("Relu", "x", output="other")]), "nothing makes the output 'y'")
    refused(make([helper.make_node("Relu", ["x"], [])]), "no outputs")
    refused(make([node("Constant", value_float=1.0), node("Constant", value_float=1.0)]), "something else")


def test_long_graphs_in_any_order_are_sorted_quickly() -> None:
    nodes = [node("Relu", f"t{i}", output=f"t{i + 1}") for i in range(20_000)]
    model = make([node("Relu", "x", output="t0"), *nodes[::-1]], output="t20000")
    assert [n.outputs[0] for n in read(model).nodes] == [f"t{i}" for i in range(20_001)]


@pytest.mark.parametrize("op_type", ["Relu", "MaxPool", "Add", "Concat"])
def test_deep_graphs_and_many_paths(op_type: str) -> None:
    """No rule recurses, and none follows every path: there are 2^n through n sums of a tensor with itself."""
    every: dict[str, dict[str, Any]] = {"Concat": {"axis": 1}, "MaxPool": {"kernel_shape": [1, 1]}}
    attributes = every.get(op_type, {})
    nodes = [
        node("QuantizeLinear", "x", "s", output="q"),
        node("DequantizeLinear", "q", "s", output="d"),
        node("DequantizeLinear", "w", "s", output="wf"),
        node("Conv", "d", "wf", output="t0"),
    ]
    count = 20 if op_type == "Concat" else 1100
    for i in range(count):
        inputs = [f"t{i}"] * (2 if op_type in ("Add", "Concat") else 1)
        nodes.append(node(op_type, *inputs, output=f"t{i + 1}", **attributes))
    nodes.append(node("Relu", f"t{count}"))
    weights = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.int8), "w")
    model = make(nodes, weights, numpy_helper.from_array(np.float32(0.5), "s"), shape=("N", 1, 1, 1))
    network = ulp.load(model, tune=False)
    result = network(np.full((1, 1, 1, 1), 0.5, np.float32))
    if op_type == "Add":
        assert result == np.inf
    else:
        assert (result == 0.25).all()


def test_long_chains_of_quantizers_load_in_a_time_linear_in_their_length() -> None:
    nodes = []
    for i in range(3000):
        nodes += [node("QuantizeLinear", f"t{i}", "s", output=f"q{i}"), node("DequantizeLinear", f"q{i}", "s", output=f"t{i + 1}")]
    nodes[0].input[0] = "x"
    model = make(nodes, numpy_helper.from_array(np.float32(0.5), "s"), output="t3000")
    begin = time.process_time()
    ulp.load(model, tune=False)
    assert time.process_time() - begin < 10  # some 10 ms per 10 pairs if every node looks at all nodes before it


def test_constants_that_take_long_to_compute() -> None:
    square = [node("ConstantOfShape", "s", output="c"), node("MatMul", "c", "c", output="d"), node("Add", "x", "d")]
    refused(make(square, ints("s", 2048, 2048)), "limit operations=2147483648")
    refused(make([node("MaxPool", "c", output="d", kernel_shape=[300]), node("Add", "x", "d")], tensor("c", 1, 1, 4000)),
            "limit operations=100000", operations=100_000)  # fmt: skip


def test_what_is_not_supported_has_a_name() -> None:
    branch = helper.make_graph([], "b", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)])
    refused(make([node("If", "x", then_branch=branch, else_branch=branch)]), "If 'If_0'.*is a graph, which only onnxruntime runs")
    refused(make([node("Frobnicate", "x")]), r"Frobnicate 'Frobnicate_0'.*Those that there are: Abs, Add")
    refused(make([helper.make_node("Relu", ["x"], ["y"], domain="elsewhere")]), "domain 'elsewhere'")
    sparse = make([node("Relu", "x")])
    sparse.graph.sparse_initializer.add()
    refused(sparse, "an initialiser has the name ''")
    reference = make([node("LeakyRelu", "x", alpha=0.5)])
    reference.graph.node[0].attribute[0].ref_attr_name = "alpha"
    refused(reference, "refers to one of a function")
    for opset in (1, 1000):
        refused(make([node("Relu", "x")], opset=opset), f"opset {opset} is outside 7")
    for versions in ([], [13, 14]):
        model = make([node("Relu", "x")])
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid("", version) for version in versions)
        refused(model, f"names {len(versions)} opsets")


def test_attributes() -> None:
    refused(make([node("LeakyRelu", "x", alpha=1)]), "alpha is of type int: expected a float")
    refused(make([node("LeakyRelu", "x", alpha="a")]), "alpha is of type str")
    refused(make([node("LeakyRelu", "x", beta=1.0)]), "'beta' is unknown")
    twice = make([node("LeakyRelu", "x", alpha=1.0)])
    twice.graph.node[0].attribute.add().CopyFrom(twice.graph.node[0].attribute[0])
    refused(twice, "'alpha' twice")
    text = make([node("LeakyRelu", "x", alpha="a")])
    text.graph.node[0].attribute[0].s = b"\xff"
    refused(text, "UTF-8")
    untyped = make([node("LeakyRelu", "x", alpha=1.0)])
    untyped.graph.node[0].attribute[0].type = 0
    refused(untyped, "type number 0")


def test_ports() -> None:
    for change, words in (
        (lambda p: p.type.Clear(), "no type"),
        (lambda p: setattr(p.type.tensor_type, "elem_type", 0), "no type"),
        (lambda p: setattr(p, "name", ""), "name"),
        (lambda p: setattr(p.type.tensor_type.shape.dim[1], "dim_value", 2**60), "limit tensor_bytes"),
        (lambda p: p.type.tensor_type.shape.dim.extend([p.type.tensor_type.shape.dim[1]] * 40), "dimensions|limit tensor_bytes"),
    ):
        model = make([node("Relu", "x")])
        change(model.graph.input[0])
        refused(model, words)


# What nodes make of small tensors.


def ints(name: str, *numbers: int) -> Any:
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def floats(name: str, *numbers: float) -> Any:
    return numpy_helper.from_array(np.array(numbers, np.float32), name)


@pytest.mark.parametrize(
    "model",
    [
        make([node("Expand", "x", "s")], ints("s", 2**40, 1, 4)),
        make([node("Expand", "c", "s", output="e"), node("Add", "x", "e")], ints("s", 2**20, 2**20), floats("c", 1.0)),
        make([node("Tile", "x", "s")], ints("s", 1, 2**40)),
        make([node("Tile", "x", "s")], ints("s", 2**62, 2**62)),
        make([node("Pad", "x", "s")], ints("s", 0, 0, 0, 2**40)),
        make([node("Pad", "x", "s")], ints("s", 2**62, 2**62, 2**62, 2**62)),
        make([node("Pad", "x", pads=[0, 0, 0, 2**62])], opset=10),
        make([node("Resize", "x", "", "", "s")], ints("s", 1, 2**40)),
        make([node("Resize", "x", "", "s")], floats("s", 1.0, 1e30)),
        make([node("Upsample", "x", "s")], floats("s", 1.0, 1e30), opset=9),
        make([node("ConstantOfShape", "s")], ints("s", 2**40)),
        make([node("ConstantOfShape", "s")], ints("s", 2**62, 2**62)),
        make([node("Range", "a", "b", "a")], numpy_helper.from_array(np.int64(1), "a"), numpy_helper.from_array(np.int64(2**60), "b")),
        make([node("Gather", "x", "i")], numpy_helper.from_array(np.zeros((2**16, 8), np.int64), "i"), shape=(1, 2**12)),
        make([node("MatMul", "a", "b", output="c"), node("Add", "x", "c")], tensor("a", 2**16, 1), tensor("b", 1, 2**16)),
        make([node("Add", "a", "b", output="c"), node("Add", "x", "c")], tensor("a", 2**16, 1), tensor("b", 1, 2**16)),
        make([node("Conv", "x", "w", pads=[2**20] * 4)], tensor("w", 1, 1, 3, 3), shape=("N", 1, 8, 8)),
        make([node("ConvTranspose", "x", "w", strides=[2**20] * 2)], tensor("w", 1, 1, 3, 3), shape=("N", 1, 8, 8)),
        make([node("MaxPool", "x", kernel_shape=[2**20, 2**20], pads=[2**20] * 4)], shape=("N", 1, 8, 8)),
        make([node("AveragePool", "x", kernel_shape=[1, 1], pads=[2**40] * 4)], shape=("N", 1, 8, 8)),
    ],
)
def test_small_files_that_ask_for_much(model: Any) -> None:
    refused(
        model.SerializeToString(),
        "limit tensor_bytes|limit operations|too large|too big|outside|takes|has a side of -",
        tensor_bytes=32 * MIB,
    )


def test_many_results_that_are_large_together() -> None:
    nodes = [node("Expand", "x", "s", output=f"t{i}") for i in range(64)]
    model = make([*nodes, node("Concat", *(f"t{i}" for i in range(64)), axis=0)], ints("s", MIB // 16, 4))
    refused(model.SerializeToString(), "limit result_bytes", result_bytes=8 * MIB)


def test_many_codes_that_are_large_together() -> None:
    nodes = [node("QuantizeLinear", "x", "s", output="q"), node("DequantizeLinear", "q", "s", output="t0")]
    nodes += [node("MaxPool", f"t{i}", output=f"t{i + 1}", kernel_shape=[1, 1]) for i in range(64)]
    model = make([*nodes, node("Relu", "t64")], numpy_helper.from_array(np.float32(0.5), "s"), shape=("N", 1, 512, 512))
    refused(model.SerializeToString(), "limit result_bytes", result_bytes=8 * MIB)


@pytest.mark.parametrize("pool", [False, True])
def test_small_files_that_ask_for_much_in_integer_parts_too(pool: bool) -> None:
    layer = node("MaxPool", "xq", kernel_shape=[2, 2], pads=[2**28] * 4) if pool else node("Conv", "xq", "wf", pads=[1000] * 4)
    nodes = [
        node("QuantizeLinear", "x", "s", output="q"),
        node("DequantizeLinear", "q", "s", output="xq"),
        node("DequantizeLinear", "w", "s", output="wf"),
        layer,
    ]
    for outputs, inputs in ((64, 1), (1, 64)):
        weights = numpy_helper.from_array(np.ones((outputs, inputs, 3, 3), np.int8), "w")
        model = make(nodes, weights, numpy_helper.from_array(np.float32(0.5), "s"), shape=("N", inputs, 8, 8))
        refused(model.SerializeToString(), "limit tensor_bytes", tensor_bytes=32 * MIB)


def test_many_constants_that_are_large_together() -> None:
    nodes = [node("ConstantOfShape", "s", output=f"c{i}") for i in range(64)]
    sums = [node("Add", "c0" if i == 0 else f"t{i - 1}", f"c{i}", output=f"t{i}") for i in range(64)]
    model = make([*nodes, *sums, node("Add", "x", "t63")], ints("s", MIB // 4, 1))
    refused(model.SerializeToString(), "limit constant_bytes", constant_bytes=8 * MIB)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (make([node("Reshape", "x", "s")], ints("s", -1, -1)), "-1 once"),
        (make([node("Reshape", "x", "s")], ints("s", 2**32, 2**32)), "does not"),
        (make([node("Reshape", "x", "s")], ints("s", -5)), "0 or more"),
        (make([node("Reshape", "x", "s")], ints("s", 0, 0, 0)), "does not have"),
        (make([node("Transpose", "x", perm=[0, 0])]), "each of 0 to 1 once"),
        (make([node("Concat", "x", axis=5)]), "axis=5"),
        (make([node("Gather", "x", "i", axis=1)], ints("i", 4)), "indices of 4 to 4 for 4"),
        (make([node("Conv", "x", "w", group=0)], tensor("w", 1, 1, 3, 3), shape=("N", 1, 8, 8)), "group=0"),
        (make([node("Conv", "x", "w", strides=[0, 0])], tensor("w", 1, 1, 3, 3), shape=("N", 1, 8, 8)), "strides=0"),
        (
            make([node("Conv", "x", "w", dilations=[2**40] * 2)], tensor("w", 1, 1, 3, 3), shape=("N", 1, 8, 8)),
            "does not fit|a side of -",
        ),
        (make([node("Conv", "x", "w", group=3)], tensor("w", 4, 1, 3, 3), shape=("N", 3, 8, 8)), "3 groups"),
        (make([node("MaxPool", "x", kernel_shape=[-1, 2])], shape=("N", 1, 8, 8)), "kernel_shape=-1"),
        (make([node("Resize", "x", "", "s")], floats("s", 1.0, float("nan"))), "finite|has a side of -"),
        (make([node("Resize", "x", "", "s")], floats("s", 1.0, -1.0)), "finite|has a side of -"),
        (
            make([node("Range", "a", "b", "c")], *(numpy_helper.from_array(np.float32(v), n) for v, n in ((0, "a"), (1, "b"), (0, "c")))),
            "steps of 0",
        ),
        (make([node("Slice", "x", "a", "b", "c", "d")], *(ints(n, v) for n, v in (("a", 0), ("b", 4), ("c", 1), ("d", 0)))), "step of 0"),
    ],
)
def test_nodes_that_make_no_sense(model: Any, words: str) -> None:
    refused(model.SerializeToString(), words)


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -1.0, 0.0])
def test_scales(scale: float) -> None:
    nodes = [node("QuantizeLinear", "x", "s", output="q"), node("DequantizeLinear", "q", "s")]
    if scale != -1.0:  # which ONNX allows
        with pytest.raises(OnnxError, match="scale"):  # onnxruntime lets it pass
            run(make(nodes, numpy_helper.from_array(np.float32(scale), "s")).SerializeToString(), "numpy", {})
    quant = helper.make_node("Quant", ["x", "s", "z", "b"], ["y"], domain="qonnx.custom_op.general", signed=1, narrow=0)
    constants = [numpy_helper.from_array(np.float32(v), n) for n, v in (("s", scale), ("z", 0), ("b", 4))]
    refused(make([quant], *constants).SerializeToString(), "scale")


def test_more_dimensions_than_numpy_has() -> None:
    shape = numpy_helper.from_array(np.ones(33, np.int64), "shape")
    refused(make([node("Expand", "x", "shape")], shape).SerializeToString(), "32")
    axes = numpy_helper.from_array(np.arange(40, dtype=np.int64), "axes")
    refused(make([node("Unsqueeze", "x", "axes")], axes).SerializeToString(), "dimensions: expected 32 at most")


def test_empty_tensors_of_sides_beyond_an_address() -> None:
    empty = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[0, 2**62, 2**62], raw_data=b"")
    refused(make([node("Identity", "w")], empty).SerializeToString(), "sides that are too large")


def test_a_missing_scale() -> None:
    refused(make([node("QuantizeLinear", "x")]), "1 inputs, expected")
    refused(make([node("QuantizeLinear", "x", "")]), "1 inputs, expected")
    refused(make([node("QuantizeLinear", "x", "s", "z")], tensor("s", 3), tensor("z", 3, dtype=np.uint8)), "y_scale has shape")


@pytest.mark.parametrize(
    ("op_type", "inputs"),
    [
        ("QLinearConcat", "s z x s z x"),
        ("QLinearConcat", "s z"),
        ("QLinearConcat", "s z x - z"),
        ("QLinearAdd", "x s z x s z"),
        ("QLinearAdd", "x s z x - z s z"),
        ("QLinearMul", "x s z x s z s z s"),
        ("QGemm", "x s z x"),
        ("QGemm", "x s z x - z"),
        ("QLinearSigmoid", "x s z"),
        ("QLinearLeakyRelu", "x s z - z"),
    ],
)
def test_inputs_of_onnxruntimes_operators(op_type: str, inputs: str) -> None:
    names = [name.replace("-", "") for name in inputs.split()]
    wrong = helper.make_node(op_type, names, ["y"], domain="com.microsoft")
    constants = numpy_helper.from_array(np.float32(0.5), "s"), numpy_helper.from_array(np.uint8(3), "z")
    refused(make([wrong], *constants), "expected")


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"),
    [
        ("QLinearConcat", "s z x s z", {"axis": "channels"}),
        ("QLinearConcat", "s z x s z", {"axis": [1]}),
        ("QLinearLeakyRelu", "x s z s z", {"alpha": "much"}),
        ("QLinearAveragePool", "x s z s z", {"kernel_shape": 2}),
        ("QGemm", "x s z x s z", {"alpha": "much"}),
        ("QGemm", "x s z x s z", {"transB": 0.5}),
        ("FusedConv", "x w", {"group": [2], "activation": "Relu"}),
        ("FusedGemm", "x w", {"alpha": "much", "activation": "Relu"}),
    ],
)
def test_attributes_of_onnxruntimes_operators(op_type: str, inputs: str, attributes: dict[str, Any]) -> None:
    wrong = helper.make_node(op_type, inputs.split(), ["y"], domain="com.microsoft", **attributes)
    constants = numpy_helper.from_array(np.float32(0.5), "s"), numpy_helper.from_array(np.uint8(3), "z"), tensor("w", 4, 4)
    refused(make([wrong], *constants), "expected")


@pytest.mark.parametrize(
    "parameters", [(0.5, 0, 8, 1e38), (0.5, 0, 8, 2000), (1e-45, 0, 8, 4), (0.5, 0, 1, 8, 1e38, 4), (1e-45, 0, 8, 1e38, 4)]
)
def test_parameters_of_trunc(parameters: tuple[float, ...]) -> None:
    names = [f"p{i}" for i in range(len(parameters))]
    constants = [numpy_helper.from_array(np.float32(value), name) for name, value in zip(names, parameters, strict=True)]
    wrong = helper.make_node("Trunc", ["x", *names], ["y"], domain="onnx.brevitas", rounding_mode="FLOOR")
    with contextlib.suppress(OnnxError):
        run(make([wrong], *constants), "numpy", {})


def test_parameters_of_odd_shapes() -> None:
    """A scalar of thresholds, a scale with more sides than one."""
    thresholds = helper.make_node("MultiThreshold", ["x", "t"], ["y"], domain="onnx.brevitas")
    refused(make([thresholds], numpy_helper.from_array(np.float32(1), "t")), r"\w")
    conv = node("QLinearConv", "q", "s", "z", "w", "v", "z", "r", "z", output="c")
    scales = numpy_helper.from_array(np.float32(0.5), "r"), tensor("s", 2, 2), tensor("v", 3), tensor("z", dtype=np.uint8)
    weights = tensor("w", 3, 4, 1, 1, dtype=np.uint8)
    refused(make([node("QuantizeLinear", "x", "r", "z", output="q"), conv], *scales, weights, output="c", shape=("N", 4, 2, 2)), r"\w")


def test_outputs_that_are_wanted_alone_do_not_hide_mistakes() -> None:
    """Also of a part of the graph that only messages would show."""
    refused(make([node("Relu", "x"), node("Frobnicate", "x", output="z"), node("Relu", "z", output="zz")], output="zz"), "Frobnicate")
