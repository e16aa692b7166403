"""LSTMs whose weights are integers, as files write them: between transpositions that put the steps in front of the batch, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .model import Model, Node

_FRONT = (1, 0, 2)


@dataclass(frozen=True)
class QuantizedLSTM:
    """Layers of onnxruntime's DynamicQuantizeLSTM of `source`, (N, T, C), with zeros as first states, and what makes (N, T, D * H)."""

    source: str
    layers: tuple[Node, ...]
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Surroundings:
    """A model as it is searched: who makes a tensor, and who reads it."""

    model: Model
    makers: Mapping[str, Node]
    users: Mapping[str, list[Node]]

    def user(self, name: str) -> Node | None:
        """The only node that reads a tensor, but for its shape; None where there are several, or it is a result of the model."""
        found = [node for node in self.users.get(name, ()) if node.op_type != "Shape"]
        shown = any(port.name == name for port in self.model.outputs)
        return found[0] if len(found) == 1 and not shown and found[0].reads.count(name) == 1 else None

    def unused(self, name: str) -> bool:
        """Whether nothing reads a tensor."""
        return not name or (not self.users.get(name) and all(port.name != name for port in self.model.outputs))


def quantized_lstm(around: Surroundings, first: Node) -> QuantizedLSTM | None:
    """The layers from one on; None where they are something else, or their last states are used."""
    return layers_from(around, first, "DynamicQuantizeLSTM")


def layers_from(around: Surroundings, first: Node, op_type: str) -> QuantizedLSTM | None:
    """`quantized_lstm` of another operator: LSTM, to find which ones can become such layers."""
    front = around.makers.get(first.inputs[0])
    if front is None or not _is_transpose(front, _FRONT):
        return None
    layers: list[Node] = []
    nodes: list[Node] = []
    node: Node | None = first
    while node is not None and node.op_type == op_type and not node.attributes.get("layout", 0):
        if op_type == "DynamicQuantizeLSTM" and len(node.inputs) != 12:
            return None
        if not all(around.unused(name) for name in node.outputs[1:]) or not all(_is_zero(around, node.input(i)) for i in (5, 6)):
            return None
        behind = around.user(node.outputs[0])
        made = [node] if behind is None else [node, behind]
        if behind is not None and _is_transpose(behind, (0, 2, 1, 3)):
            behind = around.user(behind.outputs[0])
            if behind is None or behind.op_type != "Reshape" or not _joins(around, behind):
                return None
            made.append(behind)
        elif behind is None or behind.op_type != "Squeeze" or _numbers(around.model, behind, "axes") != (1,):
            return None
        layers.append(node)
        nodes += made
        node = around.user(behind.outputs[0])
        if node is not None and node.inputs[0] != behind.outputs[0]:
            return None
    if node is None or not layers or not _is_transpose(node, _FRONT) or any(each.problem for each in nodes):
        return None
    return QuantizedLSTM(front.inputs[0], tuple(layers), (*nodes, node))


def _is_transpose(node: Node, order: tuple[int, ...]) -> bool:
    return node.op_type == "Transpose" and tuple(node.attributes.get("perm", ())) == order


def _numbers(model: Model, node: Node, attribute: str) -> tuple[int, ...]:
    constant = model.constants.get(node.input(1))
    given = node.attributes.get(attribute, ()) if constant is None else constant.reshape(-1).tolist()
    return tuple(int(n) for n in given)


def _joins(around: Surroundings, node: Node) -> bool:
    """Whether a Reshape keeps the first two sides of four, and makes one of the others."""
    shape = _numbers(around.model, node, "shape")
    if len(shape) == 3:
        return shape[:2] == (0, 0)
    sides = around.makers.get(node.input(1))  # as torch.export writes it: a Concat of sides of the tensor's Shape, and what they leave
    if sides is None or sides.op_type != "Concat" or len(sides.inputs) != 3 or node.attributes.get("allowzero", 0):
        return False
    return all(_is_side(around, name, i, node.inputs[0]) for i, name in enumerate(sides.inputs[:2]))


def _is_side(around: Surroundings, name: str, i: int, tensor: str) -> bool:
    """Whether a name is Shape(tensor)[i : i + 1], also where onnxruntime picked that from the shape in front of the transposition."""
    cut = around.makers.get(name)
    shape = around.makers.get(cut.inputs[0]) if cut is not None and cut.op_type == "Slice" and len(cut.inputs) in (3, 4) else None
    moved = around.makers.get(tensor)
    if cut is None or shape is None:
        return False
    if shape.op_type == "Gather" and moved is not None and moved.op_type == "Transpose":
        if _numbers(around.model, shape, "") != tuple(moved.attributes.get("perm", ())) or shape.attributes.get("axis", 0):
            return False
        shape, tensor = around.makers.get(shape.inputs[0]), moved.inputs[0]
    if shape is None or shape.op_type != "Shape" or shape.inputs[0] != tensor or shape.attributes.get("start", 0):
        return False
    ends = [around.model.constants.get(cut.input(k)) for k in (1, 2)]
    axes = around.model.constants.get(cut.input(3)) if cut.input(3) else np.zeros(1)
    known = axes is not None and not np.any(axes) and "end" not in shape.attributes
    return known and all(end is not None and end.reshape(-1).tolist() == [i + k] for k, end in enumerate(ends))


def _is_zero(around: Surroundings, name: str) -> bool:
    """Whether a tensor is zeros, whatever its shape, or left out."""
    for _ in range(4):
        if not name:
            return True
        if name in around.model.constants:
            return not np.any(around.model.constants[name])
        maker = around.makers.get(name)
        if maker is None:
            return False
        if maker.op_type == "ConstantOfShape":
            value = maker.attributes.get("value")
            return value is None or not np.any(np.asarray(value))
        if maker.op_type not in ("Expand", "Identity", "Slice", "Unsqueeze", "Reshape"):
            return False
        name = maker.inputs[0]
    return False
