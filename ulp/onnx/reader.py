"""From a file, bytes or a ModelProto to a checked `Model`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .model import Array, Model, Node, OnnxError, Port

_NARROW = {"INT2": 2, "UINT2": 2, "INT4": 4, "UINT4": 4}
_AS_FLOAT32 = ("FLOAT16", "BFLOAT16")


@dataclass(frozen=True)
class Limits:
    """What a file may ask for; raise a limit for a model that needs more."""

    model_bytes: int = 2 << 30
    nodes: int = 100_000
    tensor_elements: int = 1 << 30


def read(source: Any, limits: Limits | None = None) -> Model:
    """source: a path, the bytes of a file, or an onnx.ModelProto. Raises OnnxError."""
    import onnx

    limits = limits or Limits()
    folder = None
    if isinstance(source, onnx.ModelProto):
        proto = source
    else:
        if isinstance(source, (str, os.PathLike)):
            path = Path(source)
            folder = path.parent
            data = path.read_bytes()
        else:
            data = bytes(source)
        proto = onnx.ModelProto()
        try:
            proto.ParseFromString(data)
        except Exception as error:
            raise OnnxError(f"this is no ONNX file: {error}") from error
    return _Reader(onnx, limits, folder).model(proto)


class _Reader:
    def __init__(self, onnx: Any, limits: Limits, folder: Path | None) -> None:
        self.onnx = onnx
        self.limits = limits
        self.folder = folder
        self.bits: dict[str, int] = {}

    def model(self, proto: Any) -> Model:
        graph = proto.graph
        constants = {t.name: self.tensor(t, t.name) for t in graph.initializer}
        nodes = []
        for i, n in enumerate(graph.node):
            node = self.node(n, i)
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                constants[node.outputs[0]] = self.constant(node, n)
            else:
                nodes.append(node)
        inputs = [self.port(p) for p in graph.input if p.name not in constants]
        outputs = [self.port(p) for p in graph.output]
        opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=1)
        known = {p.name for p in inputs} | set(constants)
        return Model(inputs, outputs, _sorted(nodes, known), constants, opset, self.bits)

    def tensor(self, t: Any, name: str) -> Array:
        kind = self.onnx.TensorProto.DataType.Name(t.data_type)
        array = self.onnx.numpy_helper.to_array(t, str(self.folder) if self.folder else "")
        if kind in _NARROW:
            self.bits[name] = _NARROW[kind]
            return np.asarray(array.astype(np.uint8 if kind.startswith("U") else np.int8))
        if kind in _AS_FLOAT32:
            return np.asarray(array.astype(np.float32))
        return np.asarray(array)

    def constant(self, node: Node, proto: Any) -> Array:
        (key, value), *_ = node.attributes.items()
        if key == "value":
            tensor = next(a.t for a in proto.attribute if a.name == "value")
            return self.tensor(tensor, node.outputs[0])
        dtype = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}[key]
        return np.array(value, dtype)

    def node(self, n: Any, i: int) -> Node:
        attributes = {a.name: self.attribute(a, n) for a in n.attribute}
        return Node(n.op_type, n.name or f"{n.op_type}_{i}", tuple(n.input), tuple(n.output), attributes, n.domain)

    def attribute(self, a: Any, n: Any) -> Any:
        kinds = self.onnx.AttributeProto
        if a.type == kinds.FLOAT:
            return a.f
        if a.type == kinds.INT:
            return a.i
        if a.type == kinds.STRING:
            return a.s.decode()
        if a.type == kinds.TENSOR:
            return self.tensor(a.t, f"{n.name}.{a.name}")
        if a.type == kinds.FLOATS:
            return tuple(a.floats)
        if a.type == kinds.INTS:
            return tuple(a.ints)
        if a.type == kinds.STRINGS:
            return tuple(s.decode() for s in a.strings)
        raise OnnxError(f"{n.op_type} {n.name!r}: attribute {a.name!r} holds a graph or another type that is not supported")

    def port(self, p: Any) -> Port:
        t = p.type.tensor_type
        kind = self.onnx.TensorProto.DataType.Name(t.elem_type)
        dtype = np.dtype(self.onnx.helper.tensor_dtype_to_np_dtype(t.elem_type)) if kind not in _NARROW else np.dtype(np.int8)
        shape = None
        if t.HasField("shape"):
            shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in t.shape.dim)
        return Port(p.name, dtype, shape)


def _sorted(nodes: list[Node], known: set[str]) -> list[Node]:
    """ONNX wants nodes in an order in which they can run; some writers do not keep to that."""
    order, waiting = [], list(nodes)
    while waiting:
        rest = []
        for node in waiting:
            if all(not name or name in known for name in node.inputs):
                order.append(node)
                known.update(node.outputs)
            else:
                rest.append(node)
        if len(rest) == len(waiting):
            missing = next(name for name in rest[0].inputs if name and name not in known)
            raise OnnxError(f"{rest[0]}: nothing makes its input {missing!r}, or the graph has a cycle")
        waiting = rest
    return order
