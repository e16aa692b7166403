"""Functions that a model defines, written out where they are called; and what graphs inside of nodes read from outside."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .limits import MAX_DIMENSIONS, Limits
from .model import OnnxError


def inlined(proto: Any, limits: Limits) -> Any:
    """The ModelProto without functions of its own. OnnxError where they call each other in a circle or become too large."""
    if not proto.functions:
        return proto
    _check_expansion(proto, limits)
    from onnx import inliner  # few models have functions

    try:
        return inliner.inline_local_functions(proto)
    except Exception as error:  # onnx raises many kinds for what is wrong in a file
        raise OnnxError(f"the functions of the model cannot be written out: {error}") from error


def _check_expansion(proto: Any, limits: Limits) -> None:
    """A function that calls another twice doubles it: n of them make 2**n nodes of a few bytes."""
    functions = {(f.domain, f.name): f for f in proto.functions}
    sizes: dict[tuple[str, str], tuple[int, int]] = {}
    for key in functions:
        stack = [key]
        while stack:
            current = stack[-1]
            calls = {(n.domain, n.op_type) for n in nodes_within(functions[current].node)} & functions.keys()
            waiting = [call for call in calls if call not in sizes]
            if current in sizes or not waiting:
                sizes.setdefault(current, _size(functions[current].node, functions[current].ByteSize(), sizes))
                stack.pop()
                continue
            if len(stack) > len(functions) or any(call in stack for call in waiting):
                raise OnnxError(f"the function {current[1]!r:.100} calls itself")
            stack.append(waiting[0])
    count, nbytes = _size(proto.graph.node, 0, sizes)
    if count > limits.nodes:
        raise OnnxError(f"with its functions written out the graph has {count} nodes, more than the limit nodes={limits.nodes}")
    limits.check_constants(nbytes)


def _size(nodes: Any, nbytes: int, sizes: dict[tuple[str, str], tuple[int, int]]) -> tuple[int, int]:
    count = 0
    for node in nodes_within(nodes):
        more, wide = sizes.get((node.domain, node.op_type), (1, 0))
        count, nbytes = count + more, nbytes + wide
    return count, nbytes


def nodes_within(nodes: Any) -> Iterator[Any]:
    """These NodeProtos and those of the graphs among their attributes."""
    stack = list(nodes)
    while stack:
        node = stack.pop()
        yield node
        for attribute in node.attribute:
            for graph in graphs_of(attribute):
                stack.extend(graph.node)


def graphs_of(attribute: Any) -> list[Any]:
    """The GraphProtos of an AttributeProto."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def captured_names(graph: Any) -> set[str]:
    """Names that a GraphProto inside a node reads, and that neither it nor a graph around it within the node makes."""
    found: set[str] = set()
    stack: list[tuple[Any, frozenset[str]]] = [(graph, frozenset())]
    while stack:
        inner, outside = stack.pop()
        made = {port.name for port in inner.input} | {tensor.name for tensor in inner.initializer}
        made |= {sparse.values.name for sparse in inner.sparse_initializer}
        made |= {name for node in inner.node for name in node.output}
        known = outside | made
        found |= {name for node in inner.node for name in node.input if name and name not in known}
        found |= {port.name for port in inner.output if port.name and port.name not in known}
        for node in inner.node:
            for attribute in node.attribute:
                stack += [(deeper, known) for deeper in graphs_of(attribute)]
    return found


# Operators that make of constants no more elements than they read.
_NO_LARGER = frozenset({"Cast", "Concat", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
_MAX_FOLDED = 2**25  # some tenths of a second


def cheap_to_fold(graph: Any, outside: Callable[[str], int | None]) -> bool:
    """Whether computing all constants of a GraphProto inside a node takes no time worth speaking of.

    outside: of a name that it reads from around, how many elements it has, None where it is no constant.
    """
    stack = [(graph, outside)]
    left = _MAX_FOLDED
    while stack:
        inner, known_outside = stack.pop()
        sizes: dict[str, int | None] = {tensor.name: _elements(tensor.dims) for tensor in inner.initializer}
        sizes.update((port.name, None) for port in inner.input)

        def size_of(name: str, sizes: dict[str, int | None] = sizes, around: Callable[[str], int | None] = known_outside) -> int | None:
            return sizes[name] if name in sizes else around(name)

        lengths: dict[str, int] = {}  # of what ConstantOfShape makes of a constant
        for node in inner.node:
            graphs = [deeper for attribute in node.attribute for deeper in graphs_of(attribute)]
            reads = [size_of(name) for name in node.input if name]
            size = sum(size for size in reads if size is not None) if None not in reads else None
            if node.op_type == "Constant":
                size = sum(_elements(a.t.dims) + len(a.floats) + len(a.ints) + 1 for a in node.attribute)
                lengths.update((name, _length(node.attribute)) for name in node.output)
            elif node.op_type == "ConstantOfShape" and size is not None:
                size = lengths.get(node.input[0], _MAX_FOLDED + 1)
            elif graphs:
                if node.op_type != "If":  # a loop may run for any time
                    return False
                size = None
                stack += [(deeper, size_of) for deeper in graphs]
            elif size is not None and (node.op_type not in _NO_LARGER or node.domain not in ("", "ai.onnx")):
                return False
            left -= size or 0
            sizes.update((name, size) for name in node.output if name)
            if left < 0:
                return False
    return True


def _elements(dims: Sequence[int]) -> int:
    return math.prod(max(0, side) for side in dims)


def _length(attributes: Any) -> int:
    """How many elements a tensor of a Constant's shape has; too many where that is not known."""
    from onnx import numpy_helper

    if len(attributes) != 1 or attributes[0].t.data_type != attributes[0].t.INT64 or _elements(attributes[0].t.dims) > MAX_DIMENSIONS:
        return _MAX_FOLDED + 1
    try:
        return _elements(numpy_helper.to_array(attributes[0].t).reshape(-1).tolist())
    except Exception:  # onnx raises many kinds for what is wrong in a tensor
        return _MAX_FOLDED + 1
