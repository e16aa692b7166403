"""From a file, bytes or a ModelProto to a checked `Model`. Whatever the file holds, it ends in a model or in an OnnxError.

A size that a file declares is compared with the data and with the limits before it is used; nothing recurses; and no files are opened but
those in the model's folder.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from . import channels_last
from .functions import captured_names, graphs_of, inlined
from .limits import MAX_DIMENSIONS, Limits
from .model import Array, Model, Node, OnnxError, Payloads, Port, whole
from .operators import NEWEST_OPSET, OLDEST_OPSET, OPERATORS
from .payloads import split
from .tensors import FLOAT16, HALVES, NARROW, dtype_of, exact_type, known_type, read_tensor
from .wire import check_wire

_LONGEST_NAME = 4096

# Domains of ONNX's own operators, which may be left out.
_STANDARD = ("", "ai.onnx")
# Operators that other domains define in the same way: onnxruntime's quantizers of 4 bits and 16, and QONNX's own.
# QONNX's newer name of Quant.
_ALIASES = {"IntQuant": "Quant"}
_ELSEWHERE = ("QuantizeLinear", "DequantizeLinear", "Gelu", "Quant", "BipolarQuant", "Trunc", "FloatQuant", "MultiThreshold", "MatMulNBits")

# The inputs of quantized operators: "x" has to be given, "?" may be "", and all from the first "." on may be left out.
_QLINEAR = {
    "QLinearConv": "xxxxxxxx.",
    "QLinearMatMul": "xxxxxxxx",
    "QGemm": "xx?xx?.??",
    "QLinearAdd": "xx?xx?x.",
    "QLinearMul": "xx?xx?x.",
    **dict.fromkeys(("QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax"), "xx?x."),
}

# The float operators of those that the table of operators does not know.
_FLOAT_FORMS = {
    "QGemm": "Gemm",
    "FusedConv": "Conv",
    "FusedGemm": "Gemm",
    **{name: name.removeprefix("QLinear") for name in (*_QLINEAR, "QLinearConcat") if name.startswith("QLinear")},
}

# Attributes that name a type: halves are computed in float32.
_TYPE_ATTRIBUTES = (("Cast", "to"), ("QuantizeLinear", "precision"), ("DequantizeLinear", "output_dtype"))


def read(source: Any, limits: Limits | None = None, *, in_protos: bool = False) -> Model:
    """source: a path, the bytes of a file, or an onnx.ModelProto. Raises OnnxError, TypeError, ImportError and OSError.

    in_protos: have all data of constants in the model's protos, too; else large data is only in its arrays and payloads.
    """
    try:
        import onnx
    except ImportError as error:
        raise ImportError('reading ONNX files needs the package onnx: pip install "ulp-gemm[onnx]"') from error
    limits = Limits.of(limits)
    if isinstance(source, onnx.ModelProto):
        return _Reader(onnx, limits, None).model(source)
    folder = None
    if isinstance(source, (str, os.PathLike)):
        folder = Path(source).parent
        read_data = _file(Path(source), limits)
    elif isinstance(source, (bytes, bytearray, memoryview)):
        read_data = memoryview(bytes(source))
        _check_size(len(read_data), limits)
    else:
        raise TypeError(f"source of type {type(source).__name__}: expected a path, the bytes of a file, or an onnx.ModelProto")
    data, payloads = (bytes(read_data), {}) if in_protos else split(read_data, limits)
    del read_data
    check_wire(data, onnx.ModelProto.DESCRIPTOR, limits)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    # Protobuf's DecodeError, under the name that the version installed has for it; strings that are no UTF-8 and sizes above 2 GiB.
    except Exception as error:
        raise OnnxError(f"this is no ONNX file: {error}") from error
    del data
    return _Reader(onnx, limits, folder, payloads).model(proto)


def _check_size(size: int, limits: Limits) -> None:
    if size > limits.file_bytes:
        raise OnnxError(f"the file has {size} bytes, more than the limit file_bytes={limits.file_bytes}")


def _file(path: Path, limits: Limits) -> memoryview:
    """The bytes of a regular file, in memory that numpy takes in large pages. OSError where there is none."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OnnxError(f"{path} is no regular file")
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        _check_size(size, limits)
        data = memoryview(np.empty(size, np.uint8).data)
        return data[: file.readinto(data)].toreadonly()


class _Reader:
    def __init__(self, onnx: Any, limits: Limits, folder: Path | None, payloads: Payloads | None = None) -> None:
        self.onnx = onnx
        self.limits = limits
        self.folder = folder
        self.payloads = payloads or {}
        self.bits: dict[str, int] = {}
        self.protos: dict[str, Any] = {}
        self.inexact: set[str] = set()
        self.constant_bytes = 0

    def model(self, proto: Any) -> Model:
        proto = inlined(proto, self.limits)
        graph = proto.graph
        if len(graph.node) > self.limits.nodes:
            raise OnnxError(f"the graph has {len(graph.node)} nodes, more than the limit nodes={self.limits.nodes}")
        opset, problem = self.opset(proto)
        constants: dict[str, Array] = {}
        for tensor in graph.initializer:
            self.initializer(tensor, constants)
        for sparse in graph.sparse_initializer:
            self.protos[_checked_name(sparse.values.name, "an initialiser")] = sparse
        inputs = [self.port(p, "input") for p in graph.input]
        outputs = [self.port(p, "output") for p in graph.output]
        for kind, ports in (("inputs", inputs), ("outputs", outputs)):
            repeated = _repeated(port.name for port in ports)
            if repeated is not None:
                raise OnnxError(f"two {kind} are called {repeated!r}")
        if not outputs:
            raise OnnxError("the graph has no outputs")
        inputs = [port for port in inputs if port.name not in self.protos]
        names = _unique_names(graph.node)
        nodes = [_checked(self.node(n, name, problem), opset) for n, name in zip(graph.node, names, strict=True)]
        nodes = [node for node in nodes if not self.constant(node, opset, constants)]
        nodes = _sorted(nodes, {port.name for port in inputs} | set(self.protos))
        made = {name for node in nodes for name in node.outputs} | {port.name for port in inputs} | set(self.protos)
        for port in outputs:
            if port.name not in made:
                raise OnnxError(f"nothing makes the output {port.name!r}")
        nodes = [self.with_width(node, constants) for node in nodes]
        return Model(inputs, outputs, nodes, constants, opset, self.bits, self.protos, self.inexact, proto, self.payloads)

    def opset(self, proto: Any) -> tuple[int, str]:
        """(the opset of ONNX's own operators, why their definitions are not known; "" where they are)"""
        versions = [o.version for o in proto.opset_import if o.domain in _STANDARD]
        if not versions and not any(node.domain in _STANDARD for node in proto.graph.node):
            return NEWEST_OPSET, ""
        if len(set(versions)) != 1:
            raise OnnxError(f"the file names {len(set(versions))} opsets of ONNX's own operators, expected one")
        problem = ""
        if not OLDEST_OPSET <= versions[0] <= NEWEST_OPSET:
            problem = (
                f"opset {versions[0]} is outside {OLDEST_OPSET}..{NEWEST_OPSET}, which ulp knows; "
                f"onnx.version_converter.convert_version(model, 21) brings the model to another one"
            )
        return int(versions[0]), problem

    def initializer(self, proto: Any, constants: dict[str, Array]) -> None:
        """Keep a tensor by its name; as an array, too, unless its type is none of numpy's."""
        name = _checked_name(proto.name, "an initialiser")
        if name in self.protos:
            raise OnnxError(f"two initialisers are called {name!r}")
        if proto.data_type not in self.onnx.TensorProto.DataType.values() or not proto.data_type:
            raise OnnxError(f"the initialiser {name!r} has the type number {proto.data_type}, which ONNX has not")
        self.protos[name] = proto
        if known_type(proto.data_type):
            constants[name] = self.tensor(proto, f"the initialiser {name!r}", name)
        elif proto.data_location == proto.EXTERNAL:
            raise OnnxError(f"the initialiser {name!r}, of the type number {proto.data_type}, lies in another file, which is not supported")

    def tensor(self, proto: Any, what: str, name: str = "") -> Array:
        """The tensor as a read-only array; `name` is under which its width is kept, if it is narrow."""
        array = read_tensor(proto, what, self.folder, self.limits, self.payloads)
        self.constant_bytes += array.nbytes
        self.limits.check_constants(self.constant_bytes)
        if name and proto.data_type in NARROW:
            self.bits[name] = NARROW[proto.data_type][0]
        if name and not exact_type(proto.data_type):
            self.inexact.add(name)
        array.flags.writeable = False
        return array

    def constant(self, node: Node, opset: int, constants: dict[str, Array]) -> bool:
        """Whether it is a Constant node, whose value is then among the constants."""
        if node.op_type != "Constant" or node.problem:
            return False
        name = node.outputs[0]
        if name in self.protos:
            raise OnnxError(f"{node}: something else is called {name!r}, too")
        try:
            constants[name] = OPERATORS["Constant"].bind(node.attributes, opset, inputs=len(node.inputs), outputs=len(node.outputs))()[0]
        except OnnxError as error:
            raise OnnxError(f"{node}: {error}") from error
        value = next((a.t for a in node.proto.attribute if a.name == "value"), None)
        self.protos[name] = self.onnx.numpy_helper.from_array(constants[name]) if value is None else value
        return True

    def node(self, proto: Any, name: str, problem: str) -> Node:
        op_type = _checked_name(proto.op_type, f"the operator of node {name!r}")
        what = f"{op_type} {name!r}"
        known = op_type in _ELSEWHERE or (proto.domain == channels_last.DOMAIN and op_type in channels_last.OPERATORS)
        if proto.domain not in _STANDARD and op_type in OPERATORS and not known:
            problem = f"it is of the domain {proto.domain!r:.60}, whose meaning of it is not known; ulp knows ONNX's own {op_type}"
        if proto.input and not proto.input[-1]:  # which says nothing, and which some operators of onnxruntime do not expect
            copy = self.onnx.NodeProto()
            copy.CopyFrom(proto)
            while copy.input and not copy.input[-1]:
                del copy.input[-1]
            proto = copy
        if self.payloads and (op_type != "Constant" or problem):
            proto = self.filled(proto)
        inputs = tuple(_checked_name(i, f"an input of {what}") if i else "" for i in proto.input)
        outputs = tuple(_checked_name(o, f"an output of {what}") if o else "" for o in proto.output)
        if not any(outputs):
            raise OnnxError(f"{what} has no outputs")
        repeated = _repeated(_checked_name(a.name, f"an attribute of {what}") for a in proto.attribute)
        if repeated is not None:
            raise OnnxError(f"{what} has the attribute {repeated!r:.60} twice")
        attributes = {}
        captured: dict[str, None] = {}
        for a in proto.attribute:
            try:
                attributes[a.name] = self.attribute(a, f"{what}: attribute {a.name!r:.60}", outputs)
            except _Foreign as why:
                problem = problem or str(why)
                proto = self.filled(proto)
                check_wire(proto.SerializeToString(), "Node", self.limits)
            for graph in graphs_of(a):
                captured.update(dict.fromkeys(sorted(captured_names(graph))))
        if op_type == "Cast":
            if "through" in attributes:
                raise OnnxError(f"{what}: the attribute 'through' is unknown")
            attributes["through"] = attributes.get("to") if attributes.get("to") in HALVES else 0
        for operator, key in _TYPE_ATTRIBUTES:
            if op_type == operator and attributes.get(key) in HALVES:
                attributes[key] = 1
        return Node(_ALIASES.get(op_type, op_type), name, inputs, outputs, attributes, proto.domain, tuple(captured), proto, problem)

    def filled(self, proto: Any) -> Any:
        """The NodeProto with all data of its tensors, for those who take it as it is."""
        tensors = [a.name for a in proto.attribute if a.HasField("t") and a.t.raw_data in self.payloads]
        if tensors:
            copy = self.onnx.NodeProto()
            copy.CopyFrom(proto)
            for a in copy.attribute:
                if a.name in tensors:
                    a.t.CopyFrom(whole(a.t, self.payloads))
            proto = copy
        return proto

    def attribute(self, proto: Any, what: str, outputs: tuple[str, ...]) -> Any:
        kinds = self.onnx.AttributeProto
        if proto.ref_attr_name:
            raise OnnxError(f"{what} refers to one of a function, but the node is in none")
        if proto.type == kinds.FLOAT:
            return proto.f
        if proto.type == kinds.INT:
            return proto.i
        if proto.type == kinds.STRING:
            return _text(proto.s, what)
        if proto.type == kinds.TENSOR:
            if not known_type(proto.t.data_type):
                raise _Foreign(f"the attribute {proto.name!r:.60} has the type number {proto.t.data_type}, which no array has")
            return self.tensor(proto.t, what, outputs[0] if proto.name == "value" else "")
        if proto.type == kinds.FLOATS:
            return tuple(proto.floats)
        if proto.type == kinds.INTS:
            return tuple(proto.ints)
        if proto.type == kinds.STRINGS:
            return tuple(_text(s, what) for s in proto.strings)
        if proto.type in (kinds.GRAPH, kinds.GRAPHS):
            raise _Foreign(f"the attribute {proto.name!r:.60} is a graph, which only onnxruntime runs")
        if proto.type in (kinds.SPARSE_TENSOR, kinds.SPARSE_TENSORS, kinds.TENSORS, kinds.TYPE_PROTO, kinds.TYPE_PROTOS):
            raise _Foreign(f"the attribute {proto.name!r:.60} has the type number {proto.type}, which only onnxruntime knows")
        raise OnnxError(f"{what} has the type number {proto.type}: expected ints, floats, strings or a tensor")

    def port(self, proto: Any, kind: str) -> Port:
        name = _checked_name(proto.name, f"an {kind}")
        what = f"the {kind} {name!r}"
        if not proto.type.HasField("tensor_type") or not known_type(proto.type.tensor_type.elem_type):
            untyped = not proto.type.WhichOneof("value") or (proto.type.HasField("tensor_type") and not proto.type.tensor_type.elem_type)
            if untyped and kind == "input":
                raise OnnxError(f"{what} has no type")
            return Port(name, np.dtype(object), None)
        tensor = proto.type.tensor_type
        dtype = dtype_of(tensor.elem_type, what)
        if tensor.elem_type == FLOAT16:
            dtype = np.dtype(np.float16)
        shape = None
        if tensor.HasField("shape"):
            # Some writers give an open side as 0 or -1.
            shape = tuple(d.dim_value if d.dim_value > 0 else _side_name(d.dim_param) for d in tensor.shape.dim)
            if len(shape) > MAX_DIMENSIONS:
                raise OnnxError(f"{what} has {len(shape)} dimensions: expected {MAX_DIMENSIONS} at most")
            self.limits.check_tensor([side for side in shape if isinstance(side, int)], dtype.itemsize)
        return Port(name, dtype, shape)

    def with_width(self, node: Node, constants: dict[str, Array]) -> Node:
        """Codes of 2 and 4 bits come in bytes: QuantizeLinear is told its zero point's type."""
        zero = node.input(2)
        if node.op_type != "QuantizeLinear" or zero not in self.bits or node.attributes.get("output_dtype"):
            return node
        width = self.bits[zero], constants[zero].dtype == np.int8
        kind = next(kind for kind, narrow in NARROW.items() if narrow == width)
        return replace(node, attributes={**node.attributes, "output_dtype": kind})


class _Foreign(Exception):  # noqa: N818  # a reason, not a mistake
    """Why only onnxruntime knows what a node means."""


def _checked(node: Node, opset: int) -> Node:
    """The node; with a problem unless it has the inputs, outputs and attributes that its operator has."""
    if node.problem:
        return node
    try:
        if node.op_type in OPERATORS:
            OPERATORS[node.op_type].row(opset).check_node(node.inputs, len(node.outputs), node.attributes)
        elif node.op_type in _QLINEAR:
            expected = _QLINEAR[node.op_type]
            min_inputs = len(expected.partition(".")[0])
            given = all(name or kind != "x" for name, kind in zip(node.inputs, expected, strict=False))
            if not min_inputs <= len(node.inputs) <= len(expected) or not given:
                raise OnnxError(
                    f"inputs {list(node.inputs)!s:.200}: expected {min_inputs} to {len(expected)}, none of tensors and scales left out"
                )
        elif node.op_type == "QLinearConcat" and (len(node.inputs) < 5 or len(node.inputs) % 3 != 2 or not all(node.inputs)):
            raise OnnxError(f"{len(node.inputs)} inputs: expected a scale and a zero point, and three of each tensor")
        if node.op_type in _FLOAT_FORMS:
            # `normalise` hands its attributes on to the float operator.
            known = OPERATORS[_FLOAT_FORMS[node.op_type]].row(opset).attributes
            for name in known.keys() & node.attributes.keys():
                known[name].check(node.attributes[name], name)
    except OnnxError as error:
        return replace(node, problem=str(error))
    return node


def _repeated(names: Any) -> str | None:
    """The first name that comes twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return str(name)
        seen.add(name)
    return None


def _checked_name(name: str | bytes, what: str) -> str:
    # Protobuf gives bytes for text that is no UTF-8; in a file, it has been looked at before.
    if isinstance(name, bytes) or not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise OnnxError(f"{what} has the name {name!r:.100}: expected 1 to {_LONGEST_NAME} printable characters")
    return name


def _side_name(name: str) -> str | None:
    """The name of an open side. None where it says nothing: several writers call all open sides "?"."""
    return name[:_LONGEST_NAME] if any(character.isalnum() for character in name) else None


def _text(value: bytes, what: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise OnnxError(f"{what} is no UTF-8: {error}") from error


def _unique_names(protos: Any) -> list[str]:
    """A name for each node: its own where it has one that no other has, else its operator and position."""
    names: list[str] = []
    taken = {proto.name for proto in protos}
    seen: set[str] = set()
    for i, proto in enumerate(protos):
        name = proto.name
        if not name or name in seen:
            name = f"{proto.op_type}_{i}"
            while name in taken or name in seen:
                name += "'"
        names.append(_checked_name(name, f"node {i}"))
        seen.add(name)
    return names


def _sorted(nodes: list[Node], known: set[str]) -> list[Node]:
    """Nodes in an order in which they can run. ONNX requires it of the file, whose order is kept if it is one."""
    makers: dict[str, int] = {}
    for i, node in enumerate(nodes):
        for name in node.outputs:
            if name and (name in makers or name in known):
                raise OnnxError(f"{node}: its output {name!r} is made by something else, too")
            if name:
                makers[name] = i
    users: list[list[int]] = [[] for _ in nodes]
    missing = [0] * len(nodes)
    for i, node in enumerate(nodes):
        for name in {name for name in node.reads if name not in known}:
            if name not in makers:
                raise OnnxError(f"{node}: nothing makes its input {name!r}")
            users[makers[name]].append(i)
            missing[i] += 1
    return _in_turn(nodes, users, missing)


def _in_turn(nodes: list[Node], users: list[list[int]], missing: list[int]) -> list[Node]:
    """users: of each node, which nodes wait for it; missing: for how many each waits."""
    if all(user > i for i, waiting in enumerate(users) for user in waiting):
        return nodes
    ready = deque(i for i, count in enumerate(missing) if count == 0)
    order = []
    while ready:
        i = ready.popleft()
        order.append(nodes[i])
        for user in users[i]:
            missing[user] -= 1
            if missing[user] == 0:
                ready.append(user)
    if len(order) < len(nodes):
        first = next(nodes[i] for i, count in enumerate(missing) if count)
        raise OnnxError(f"{first}: the graph has a cycle, on which its inputs depend")
    return order
