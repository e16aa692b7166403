"""Types and shapes of all tensors, by ONNX's own shape inference. Nothing is run, and no value is guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from .functions import graphs_of
from .limits import MAX_DIMENSIONS, Limits
from .model import Array, Model, Node, OnnxError, Port
from .operators import OPERATORS
from .stages import bound
from .tensors import exact_type

Sides: TypeAlias = "tuple[int | None, ...]"

# Constants up to this size are given to the inference with their values: shapes, axes and sizes are among them.
_SMALL = 1024

# What computes with shapes.
_OF_SHAPES = (
    *("Shape", "Size", "Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Identity", "Cast", "Reshape", "ConstantOfShape", "Expand"),
    *("Add", "Sub", "Mul", "Div", "Mod", "Neg", "Floor", "Ceil", "Min", "Max", "Equal", "Where", "ReduceProd", "Flatten"),
)

# Operators of other domains whose first result has the type and shape of the first input.
_ALIKE = (
    *("Quant", "BipolarQuant", "Trunc", "IntQuant", "FloatQuant", "MultiThreshold"),
    *("Gelu", "FastGelu", "BiasGelu", "QuickGelu", "SkipLayerNormalization", "SimplifiedLayerNormalization", "QLinearSoftmax"),
)
# ONNX's own on floats whose only result has the type and shape of the first input.
_UNCHANGED = ("Relu", "Clip", "BatchNormalization", "Softmax", "Sigmoid", "Tanh", "LeakyRelu", "PRelu")
_FLOATS = (1, 10, 11, 16)
# Operators that other domains took from ONNX as they are.
_TAKEN = ("QuantizeLinear", "DequantizeLinear")
_POOL = "QLinearAveragePool"
_FLOAT = 1
# The first opset in which these two have an axis.
_AXIS = 13


@dataclass(frozen=True)
class Tensor:
    """What is known of a tensor: its type's number in TensorProto, and its shape; a side that is not known is None."""

    kind: int
    shape: Sides | None


@dataclass(frozen=True)
class Inferred:
    """What follows from the shapes of a model's inputs. tensors: types and shapes; values: small arrays that follow from shapes alone."""

    tensors: dict[str, Tensor]
    values: dict[str, Array]
    negative: dict[str, tuple[Node, int]]
    """Results with a side below 0: the node, and the side"""
    fixed: bool = False
    """Whether no call has other shapes"""
    batched: frozenset[str] = frozenset()
    """Tensors whose first side follows the batch"""


def infer(model: Model, shapes: Mapping[str, Sides | None], limits: Limits) -> Inferred:
    """Types, shapes and values of tensors by name, as far as they are known. shapes: of the inputs."""
    inference = _Inference(model, limits)
    for port in model.inputs:
        inference.tensors[port.name] = Tensor(inference.kind_of(port), shapes.get(port.name))
    for node in model.nodes:
        inference.node(node)
    return Inferred(inference.tensors, inference.values, inference.negative)


class _Inference:
    """Node by node: onnx's inference of whole models takes sides below 0 for sides, and lists for as long as the file says."""

    def __init__(self, model: Model, limits: Limits) -> None:
        import onnx

        self.onnx = onnx
        self.model = model
        self.limits = limits
        self.sources = {port.name: port for port in model.source.graph.input}
        self.versions = {o.domain: o.version for o in model.source.opset_import}
        self.schemas: dict[tuple[str, str], Any] = {}
        self.data: dict[str, Any] = {}
        self.types: dict[Tensor, Any] = {}
        self.tensors: dict[str, Tensor] = {}
        self.values: dict[str, Array] = {}
        self.negative: dict[str, tuple[Node, int]] = {}
        for name, array in model.constants.items():
            proto = model.protos.get(name)
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype) if proto is None else proto.data_type
            self.tensors[name] = Tensor(kind, array.shape)
            if array.size <= _SMALL:
                self.values[name] = array

    def kind_of(self, port: Port) -> int:
        """The number of a port's type; 0 where it is no tensor."""
        return int(self.sources[port.name].type.tensor_type.elem_type)

    def node(self, node: Node) -> None:
        """Add what is known of the node's results."""
        if self.value(node):
            return
        domain = "" if node.domain == "ai.onnx" else node.domain
        first = self.tensors.get(node.inputs[0]) if node.inputs else None
        if node.op_type in (_ALIKE if domain else _ALIKE[:6]):
            if first is not None:
                self.tensors[node.outputs[0]] = first
            return
        kind = self.kind_of_alike(node, domain)
        if kind and first is not None and first.shape is not None:
            self.tensors[node.outputs[0]] = Tensor(kind, first.shape)
            return
        known = all(name in self.tensors and self.tensors[name].kind for name in node.inputs if name)
        if node.op_type == _POOL and first is not None and first.kind:  # windows lie over codes as over floats
            options = {key: value for key, value in node.attributes.items() if key != "channels_last"}
            if len(options) < len(node.attributes) and node.attributes["channels_last"]:
                return
            pool = _POOL.removeprefix("QLinear")
            node = replace(node, op_type=pool, inputs=node.inputs[:1], domain="", proto=None, attributes=options)
            self.tensors[node.inputs[0]] = Tensor(_FLOAT, first.shape)
            self.node(node)
            self.tensors[node.inputs[0]] = first
            if node.outputs[0] in self.tensors:
                self.tensors[node.outputs[0]] = Tensor(first.kind, self.tensors[node.outputs[0]].shape)
            return
        schema = self.schema(node.op_type, "" if node.op_type in _TAKEN else domain)
        if (
            not known
            or schema is None
            or not self.is_sound(node)
            or (node.proto is not None and any(graphs_of(a) for a in node.proto.attribute))
        ):
            return
        proto = node_proto(self.onnx, node)
        types = {name: self.type_proto(self.tensors[name]) for name in node.inputs if name}
        data = {name: self.tensor_proto(name) for name in node.inputs if name in self.values}
        try:
            made = self.onnx.shape_inference.infer_node_outputs(schema, proto, types, data)
        except Exception:  # onnx raises many kinds for what is wrong in a file; what runs the node says it better
            return
        for name, kind in made.items():
            if kind.HasField("tensor_type"):
                tensor = kind.tensor_type
                sides = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
                lowest = min((side for side in sides if side is not None), default=0)
                if lowest < 0:
                    self.negative[name] = node, lowest
                known_sides = tuple(None if side is None or side < 0 else side for side in sides)
                self.tensors[name] = Tensor(tensor.elem_type, known_sides if tensor.HasField("shape") else None)

    def kind_of_alike(self, node: Node, domain: str) -> int:
        """The type of a result that has the shape of the node's first input; 0 where onnx's inference, which takes longer, has to say."""
        if node.problem or len(node.outputs) != 1:
            return 0
        if node.op_type in _UNCHANGED and not domain:
            decides = node.inputs[0]
        elif node.op_type == "QuantizeLinear":
            decides = node.input(2)
        elif node.op_type == "DequantizeLinear" and not node.attributes.get("output_dtype"):
            decides = node.input(1)
        else:
            return 0
        kind = self.tensors[decides].kind if decides in self.tensors else 0
        return kind if node.op_type == "QuantizeLinear" or kind in _FLOATS else 0

    def is_sound(self, node: Node) -> bool:
        """Whether attributes have the lengths that onnx's inference takes for granted: it ends the process where they have not."""
        if node.problem and node.op_type in OPERATORS:
            return False
        if node.op_type == "Split":
            sizes = self.values.get(node.input(1))
            counts = (node.attributes.get("num_outputs"), node.attributes.get("split"), None if sizes is None else sizes.reshape(-1))
            return all(count is None or (count if isinstance(count, int) else len(count)) == len(node.outputs) for count in counts)
        shape = self.tensors[node.inputs[0]].shape if node.inputs and node.inputs[0] else None
        for key, share in (("kernel_shape", 1), ("strides", 1), ("dilations", 1), ("pads", 2), ("output_shape", 1), ("output_padding", 1)):
            value = node.attributes.get(key)
            if not isinstance(value, tuple) or node.op_type == "Pad":
                continue
            if shape is None or len(value) != share * (len(shape) - 2) or min(value, default=0) < 0:
                return False
        return True

    def schema(self, op_type: str, domain: str) -> Any:
        """The operator's definition; None where onnx has none."""
        key = (op_type, domain)
        if key not in self.schemas:
            try:
                version = self.model.opset if not domain else self.versions.get(domain, 1)
                if op_type in _TAKEN and not domain:  # `normalise` writes them with an axis, which old opsets have not
                    version = max(version, _AXIS)
                self.schemas[key] = self.onnx.defs.get_schema(op_type, version, domain)
            except Exception:  # of a type of its own in each version of onnx
                self.schemas[key] = None
        return self.schemas[key]

    def type_proto(self, tensor: Tensor) -> Any:
        """The TypeProto of a tensor."""
        if tensor not in self.types:
            self.types[tensor] = self.onnx.helper.make_tensor_type_proto(tensor.kind, tensor.shape)
        return self.types[tensor]

    def tensor_proto(self, name: str) -> Any:
        """The TensorProto of a known value."""
        if name not in self.data:
            proto = self.model.proto(name)
            inside = proto is not None and proto.data_location != proto.EXTERNAL
            self.data[name] = proto if inside else self.onnx.numpy_helper.from_array(self.values[name], name)
        return self.data[name]

    def value(self, node: Node) -> bool:
        """Compute the node's result if it follows from shapes and from known values; False where it does not."""
        if node.problem or node.op_type not in _OF_SHAPES or node.op_type not in OPERATORS or len(node.outputs) != 1:
            return False
        arrays: list[Array | None] = []
        if node.op_type in ("Shape", "Size"):
            tensor = self.tensors.get(node.inputs[0])
            if tensor is None or tensor.shape is None or None in tensor.shape:
                return False
            shape = tuple(side or 0 for side in tensor.shape)
            small = len(shape) <= MAX_DIMENSIONS and math.prod(max(side, 1) for side in shape) < 2**62  # for numpy, even if it is empty
            arrays = [np.broadcast_to(np.int8(0), shape)] if small else []
        elif node.inputs and all(not name or name in self.values for name in node.inputs):
            arrays = [self.values[name] if name else None for name in node.inputs]
            sides = arrays[-1]
            if sides is not None and node.op_type in ("ConstantOfShape", "Expand") and math.prod(map(int, sides.reshape(-1))) > _SMALL:
                return False
        try:
            results = bound(node, self.model.opset, self.limits)(*arrays) if arrays else ()
        except OnnxError:  # what runs the node says it
            return False
        if not results or results[0].size > _SMALL or any(name in self.model.inexact for name in node.inputs):
            return False
        self.values[node.outputs[0]] = results[0]
        kind = int(node.attributes["to"]) if node.op_type == "Cast" else self.onnx.helper.np_dtype_to_tensor_dtype(results[0].dtype)
        self.tensors[node.outputs[0]] = Tensor(kind, results[0].shape)
        return exact_type(kind)


def node_proto(onnx: Any, node: Node) -> Any:
    """The NodeProto of a node: the file's own, or where it says something else, one of the node's attributes."""
    proto = node.proto
    says = (node.op_type, node.domain, node.inputs, node.outputs)
    if proto is not None and (proto.op_type, proto.domain, tuple(proto.input), tuple(proto.output)) == says:
        return proto
    attributes = {}
    for key, value in node.attributes.items():
        if key == "through":  # of a Cast to a half: see the reader
            attributes["to"] = value or node.attributes["to"]
        elif key not in attributes and not (isinstance(value, tuple) and not value):
            attributes[key] = onnx.numpy_helper.from_array(value) if hasattr(value, "dtype") else value
    return onnx.helper.make_node(node.op_type, node.inputs, node.outputs, name=node.name, domain=node.domain, **attributes)


def open_shape(port: Port) -> Sides | None:
    """A port's shape, sides with names as unknown."""
    return None if port.shape is None else tuple(side if isinstance(side, int) else None for side in port.shape)


def check_sides(one: Inferred, many: Inferred) -> None:
    """OnnxError where a result has a side below 0, whatever the batch. onnxruntime would abort the process."""
    for name, found in one.negative.items():
        if many.negative.get(name) == found:
            raise OnnxError(f"{found[0]}: its result {name!r} has a side of {found[1]}")


def takes_any_batch(model: Model, one: Inferred, many: Inferred, batch: int) -> bool:
    """Whether every tensor has one row per element of the batch, by two inferences: for a batch of one, and of `batch`.

    Then a batch that the file fixes at one is fixed by its writer only. A tensor that keeps its shape, or that has another side that
    follows the batch, may mix elements: False.
    """
    constant = set(model.protos) | set(model.constants)
    for node in model.nodes:
        computed = any(name not in constant for name in node.reads)
        for name in node.outputs:
            if not computed:
                constant.add(name)
            elif not name or (name in one.values and name in many.values):  # a shape, which follows by itself
                continue
            elif not _follows(one.tensors.get(name), many.tensors.get(name), batch):
                return False
    return True


def has_no_batch(model: Model, one: Inferred, many: Inferred) -> bool:
    """Whether the first side of inputs is none of what the model computes, but another side of it is, as the length of one sequence."""
    constant = set(model.protos) | set(model.constants)
    ends = {port.name for port in model.outputs}
    follows = False
    for node in model.nodes:
        if constant.issuperset(node.reads):
            constant.update(node.outputs)
            continue
        for name in node.outputs:
            a, b = one.tensors.get(name), many.tensors.get(name)
            if name not in ends and a is not None and b is not None and a.shape and b.shape:
                if not a.shape[0] == b.shape[0] == 1:
                    return False
                follows = follows or a != b
    return follows


def batch_inside(one: Inferred, many: Inferred) -> frozenset[str]:
    """Tensors of which another side than the first follows the batch, by inferences as for `takes_any_batch`."""
    pairs = ((name, tensor.shape, many.tensors[name].shape) for name, tensor in one.tensors.items() if name in many.tensors)
    return frozenset(name for name, a, b in pairs if a is not None and b is not None and a[1:] != b[1:])


def with_batches(one: Inferred, many: Inferred) -> Inferred:
    """The first inference, with `batched` by both."""
    pairs = ((name, tensor.shape, many.tensors[name].shape) for name, tensor in one.tensors.items() if name in many.tensors)
    return replace(one, batched=frozenset(name for name, a, b in pairs if a and b and a[0] != b[0]))


def _follows(one: Tensor | None, many: Tensor | None, batch: int) -> bool:
    if one is None or many is None or one.shape is None or many.shape is None or len(one.shape) != len(many.shape) or not one.shape:
        return False
    rest = [a is not None and a == b for a, b in zip(one.shape[1:], many.shape[1:], strict=True)]
    return one.shape[0] == 1 and many.shape[0] == batch and all(rest)
