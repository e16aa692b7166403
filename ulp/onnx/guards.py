"""Nodes in front of operators that end the process in onnxruntime where an input is empty: they divide by its size, or share it out.

A Reshape to [0, ..., 0, -1] changes nothing, copies nothing, and is an error where a side but the last is 0: nothing times the side it is
to find is any size. So is one to [-1, 0, ..., 0] but for the first side.

Numbers end it, too: frames of no length, no groups, and the least integer divided by -1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from .functions import graphs_of
from .model import OnnxError

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

    def __init__(self, onnx: Any, fixed: set[str], divided: Callable[[Any], int] = lambda _: 0) -> None:
        """fixed: tensors that cannot be empty. divided: of a Div, the type in which its divisor may be -1; 0 where it cannot."""
        self.onnx = onnx
        self.fixed = fixed
        self.divided = divided
        self.constants: dict[str, Any] = {}
        self.count = 0

    def guarded(self, nodes: Sequence[Any]) -> list[Any]:
        """The NodeProtos with guards between them, also in their graphs. What needs none is not copied."""
        return [each for node in nodes for each in self._guarded(node)]

    def _guarded(self, node: Any) -> list[Any]:
        if node.op_type == "Div" and (kind := self.divided(node)):
            return self._division(node, kind)
        if node.op_type == "ConvTranspose":
            for a in node.attribute:
                if a.name == "group" and a.i < 1:
                    raise OnnxError(f"ConvTranspose {node.name!r}: group={a.i}: expected 1 or more")
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
        if node.op_type == "STFT" and len(node.input) > 3 and node.input[3]:
            if behind is node:
                behind = type(node)()
                behind.CopyFrom(node)
            made += self._not_zero(node.input[3], f"{node.input[3]}/{node.output[0]}/not 0")
            behind.input[3] = made[-1].output[0]
        return [*made, behind]

    def _not_zero(self, x: str, result: str) -> list[Any]:
        """Nodes that add x modulo x to it: nothing, or onnxruntime's error for 0."""
        make = self.onnx.helper.make_node
        return [make("Mod", [x, x], [f"{result}/rest"]), make("Add", [x, f"{result}/rest"], [result])]

    def _division(self, node: Any, kind: int) -> list[Any]:
        """Nodes that negate where the divisor is -1: the least integer stays what it is, as numpy has it, and no division traps."""
        make, y = self.onnx.helper.make_node, node.output[0]
        names = {value: f"ulp/{value} of {kind}" for value in (-1, 1)}
        for value, name in names.items():
            self.constants[name] = self.onnx.helper.make_tensor(name, kind, [], [value])
        by = type(node)()
        by.CopyFrom(node)
        by.input[1], by.output[0] = f"{y}/by", f"{y}/divided"
        return [
            make("Equal", [node.input[1], names[-1]], [f"{y}/minus"]),
            make("Where", [f"{y}/minus", names[1], node.input[1]], [f"{y}/by"]),
            by,
            make("Neg", [f"{y}/divided"], [f"{y}/negated"]),
            make("Where", [f"{y}/minus", f"{y}/negated", f"{y}/divided"], [y]),
        ]

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
