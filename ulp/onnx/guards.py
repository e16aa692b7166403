"""Nodes in front of operators that end the process in onnxruntime where an input is empty: they divide by its size, or share it out.

A Reshape to [0, ..., 0, -1] changes nothing, copies nothing, and is an error where a side but the last is 0: nothing times the side it is
to find is any size. So is one to [-1, 0, ..., 0] but for the first side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from .functions import graphs_of

# Inputs that must not be empty, and how many sides these have, 0 where that is not known; None where a node says it.
_RECURRENT = ("LSTM", "GRU", "DynamicQuantizeLSTM")
_RANKS: dict[str, dict[int, int] | None] = {
    **{name: {0: 3, 1: 3} for name in _RECURRENT},
    "QAttention": {0: 3},
    "STFT": {0: 3, 2: 1},
    "Unique": {0: 0},
    "ConvTranspose": None,
    "Einsum": None,
}
GUARDED = tuple(_RANKS)
# What nodes of guards are called, so that messages can say which operator it was.
_NAME = "an input of {} is empty, {}"
_FOUND = re.compile(r"Name:'an input of (\w+) is empty, \d+'")


def refused(message: str) -> str | None:
    """The operator for which a guard stopped a session, by onnxruntime's message; None for other errors."""
    found = _FOUND.search(message)
    return found.group(1) if found else None


class Guards:
    """The guards of one model. constants: the initializers that they read."""

    def __init__(self, onnx: Any, fixed: set[str]) -> None:
        """fixed: tensors that cannot be empty."""
        self.onnx = onnx
        self.fixed = fixed
        self.constants: dict[str, Any] = {}
        self.count = 0

    def guarded(self, nodes: Sequence[Any]) -> list[Any]:
        """The NodeProtos with guards between them, also in their graphs. What needs none is not copied."""
        return [each for node in nodes for each in self._guarded(node)]

    def _guarded(self, node: Any) -> list[Any]:
        behind = self._bodies(node) if any(graphs_of(a) for a in node.attribute) else node
        inputs = _RANKS.get(node.op_type, {})
        if inputs is None:
            inputs = _by_attributes(node)
        made = []
        for i, rank in inputs.items():
            if i < len(node.input) and node.input[i] and node.input[i] not in self.fixed:
                if behind is node:
                    behind = type(node)()
                    behind.CopyFrom(node)
                result = f"{node.input[i]}/{node.output[0]}/{i}/not empty"
                made += self._guard(node, node.input[i], result, rank)
                behind.input[i] = result
        return [*made, behind]

    def _bodies(self, node: Any) -> Any:
        if not any(_has_one(graph) for a in node.attribute for graph in graphs_of(a)):
            return node
        copy = type(node)()
        copy.CopyFrom(node)
        for a in copy.attribute:
            for graph in graphs_of(a):
                inner = self.guarded(graph.node)
                del graph.node[:]
                graph.node.extend(inner)
        return copy

    def _guard(self, node: Any, name: str, result: str, rank: int) -> list[Any]:
        """Nodes that make `result` of a tensor. rank: 0 where it is not known."""
        shapes = [[0] * (rank - 1) + [-1], [-1] + [0] * (rank - 1)] if rank > 1 else [[-1], [0, -1]]
        if node.op_type in _RECURRENT:  # whose last side is that of its weights
            shapes = shapes[:1]
        made: list[Any] = []
        last = name
        for shape in shapes:
            last = self._reshape(made, node, last, self._constant(shape), f"{result}{len(made)}")
        if rank <= 1:
            sides = f"{result}/shape"
            made.append(self.onnx.helper.make_node("Shape", [name], [sides]))
            self._reshape(made, node, last, sides, f"{result}{len(made)}")
        made[-1].output[0] = result
        return made

    def _reshape(self, made: list[Any], node: Any, x: str, shape: str, result: str) -> str:
        self.count += 1
        made.append(self.onnx.helper.make_node("Reshape", [x, shape], [result], name=_NAME.format(node.op_type, self.count)))
        return result

    def _constant(self, shape: list[int]) -> str:
        name = "ulp/" + ",".join(map(str, shape))
        if name not in self.constants:
            self.constants[name] = self.onnx.helper.make_tensor(name, self.onnx.TensorProto.INT64, [len(shape)], shape)
        return name


def _by_attributes(node: Any) -> dict[int, int]:
    """How many sides the inputs of an Einsum or a ConvTranspose have; 0 where that is not known."""
    if node.op_type == "ConvTranspose":
        kernel = next((a.ints for a in node.attribute if a.name == "kernel_shape"), ())
        return {0: len(kernel) + 2 if kernel else 0}
    equation = next((a.s.decode(errors="replace") for a in node.attribute if a.name == "equation"), "")
    operands = equation.replace(" ", "").partition("->")[0].split(",")
    return {i: len(operands[i]) if i < len(operands) and "." not in operands[i] else 0 for i in range(len(node.input))}


def _has_one(graph: Any) -> bool:
    return any(node.op_type in _RANKS or any(_has_one(inner) for a in node.attribute for inner in graphs_of(a)) for node in graph.node)
