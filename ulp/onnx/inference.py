"""Types and shapes of all tensors, by ONNX's own shape inference. Nothing is run, and no value is guessed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .limits import MAX_DIMENSIONS, Limits
from .model import Array, Model, Node, OnnxError, Port
from .operators import OPERATORS
from .stages import bound

Sides: TypeAlias = "tuple[int | None, ...]"

# Constants up to this size are given to the inference with their values: shapes, axes and sizes are among them.
_SMALL = 1024

# Inferences that are run with what the last one made known. ONNX's own propagation of shapes' values knows newer opsets only.
_ROUNDS = 16

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
# Operators that other domains took from ONNX as they are.
_TAKEN = ("QuantizeLinear", "DequantizeLinear")


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


def infer(model: Model, shapes: Mapping[str, Sides | None], limits: Limits) -> Inferred:
    """Types, shapes and values of tensors by name, as far as they are known. shapes: of the inputs."""
    values = {name: array for name, array in model.constants.items() if array.size <= _SMALL}
    given = len(values)
    for _ in range(_ROUNDS):
        tensors = _infer_once(model, shapes, values, given)
        open_before = sum(not _is_full(tensors.get(name)) for node in model.nodes for name in node.outputs)
        before = len(values)
        _compute(model, tensors, values, limits)
        if len(values) == before or not open_before:
            break
    return Inferred(tensors, values)


def _is_full(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.shape is not None and None not in tensor.shape


def _infer_once(model: Model, shapes: Mapping[str, Sides | None], values: Mapping[str, Array], given: int) -> dict[str, Tensor]:
    """One run of ONNX's inference. values: the first `given` are constants of the model, the others are to be taken for constants."""
    import onnx

    helper = onnx.helper
    sources = {port.name: port for port in model.source.graph.input}
    inputs = []
    for port in model.inputs:
        kind = sources[port.name].type.tensor_type.elem_type
        inputs.append(helper.make_tensor_value_info(port.name, kind, shapes.get(port.name)) if kind else sources[port.name])
    initializers, known = [], {}
    for name, array in model.constants.items():
        proto = model.protos.get(name)
        kind = helper.np_dtype_to_tensor_dtype(array.dtype) if proto is None else proto.data_type
        known[name] = Tensor(kind, array.shape)
        if array.size <= _SMALL and name not in model.inexact:
            initializers.append(onnx.numpy_helper.from_array(array, name))
        else:
            inputs.append(helper.make_tensor_value_info(name, kind, array.shape))
    computed = list(values)[given:]
    initializers += [onnx.numpy_helper.from_array(values[name], name) for name in computed]
    known.update((name, Tensor(helper.np_dtype_to_tensor_dtype(values[name].dtype), values[name].shape)) for name in computed)
    done = set(computed)
    nodes = [_skeleton(onnx, node) for node in model.nodes if node.outputs[0] not in done]
    graph = helper.make_graph(nodes, "g", inputs, [], initializers)
    skeleton = helper.make_model(graph, opset_imports=model.source.opset_import, ir_version=max(model.source.ir_version, 4))
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except Exception:  # onnx raises many kinds for what is wrong in a file; what runs the nodes says it better
        inferred = skeleton
    for info in (*inferred.graph.value_info, *inferred.graph.input):
        if info.type.HasField("tensor_type"):
            tensor = info.type.tensor_type
            sides = (d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in tensor.shape.dim)
            known[info.name] = Tensor(tensor.elem_type, tuple(sides) if tensor.HasField("shape") else None)
    return known


def _compute(model: Model, tensors: Mapping[str, Tensor], values: dict[str, Array], limits: Limits) -> None:
    """Add what follows from shapes and from known values."""
    for node in model.nodes:
        if node.problem or node.op_type not in _OF_SHAPES or node.op_type not in OPERATORS or len(node.outputs) != 1:
            continue
        if node.outputs[0] in values:
            continue
        arrays: list[Array | None] = []
        if node.op_type in ("Shape", "Size"):
            tensor = tensors.get(node.inputs[0])
            if not _is_full(tensor):
                continue
            assert tensor is not None
            assert tensor.shape is not None
            shape = tuple(side or 0 for side in tensor.shape)
            arrays = [np.broadcast_to(np.int8(0), shape)] if len(shape) <= MAX_DIMENSIONS and math.prod(shape) < 2**62 else []
        elif node.inputs and all(not name or name in values for name in node.inputs):
            arrays = [values[name] if name else None for name in node.inputs]
            sides = arrays[-1]
            if sides is not None and node.op_type in ("ConstantOfShape", "Expand") and math.prod(map(int, sides.reshape(-1))) > _SMALL:
                continue
        try:
            results = bound(node, model.opset, limits)(*arrays) if arrays else ()
        except OnnxError:  # what runs the node says it
            continue
        if results and results[0].size <= _SMALL:
            values[node.outputs[0]] = results[0]


def _skeleton(onnx: Any, node: Node) -> Any:
    """The node as the inference knows it."""
    if node.domain not in ("", "ai.onnx"):
        if node.op_type in _ALIKE:
            return onnx.helper.make_node("Identity", node.inputs[:1], node.outputs[:1])
        if node.op_type in _TAKEN:
            return onnx.helper.make_node(node.op_type, node.inputs, node.outputs, axis=node.attributes.get("axis", 1))
    elif node.op_type in _ALIKE[:6]:
        return onnx.helper.make_node("Identity", node.inputs[:1], node.outputs[:1])
    return node_proto(onnx, node)


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


def takes_any_batch(model: Model, one: Mapping[str, Tensor], many: Mapping[str, Tensor], batch: int) -> bool:
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
            elif name and not _follows(one.get(name), many.get(name), batch):
                return False
    return True


def _follows(one: Tensor | None, many: Tensor | None, batch: int) -> bool:
    if one is None or many is None or one.shape is None or many.shape is None or len(one.shape) != len(many.shape) or not one.shape:
        return False
    rest = [a is not None and a == b for a, b in zip(one.shape[1:], many.shape[1:], strict=True)]
    return one.shape[0] == 1 and many.shape[0] == batch and all(rest)
