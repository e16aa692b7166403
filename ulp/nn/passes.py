"""Rewriting a graph before it is lowered: identities are dropped, batch normalisation is folded, pooling moves in front of quantizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .graph import (
    Add,
    Attention,
    BatchNorm,
    Clamp,
    Combine,
    Concat,
    Conv,
    DynamicLinear,
    Flatten,
    Gather,
    Graph,
    Identity,
    Input,
    Linear,
    MaxPool,
    Node,
    Op,
    Product,
    Quantize,
    Rearrange,
    Rows,
    Weights,
    layout,
)
from .quantizer import Quantizer
from .shapes import LayerError


def optimize(graph: Graph, *, integer_functions: bool = False) -> None:
    """All passes, in place. LayerError where a batch normalisation has nothing to be folded into.

    integer_functions: functions of rows are steps of their own, in integers.
    """
    graph.sort()
    _rewrite(graph, lambda node: node.inputs[0] if isinstance(node.op, Identity) else node)
    _rewrite(graph, _fold_batch_norm)
    _rewrite(graph, _add_floats)
    _sum_in_rows(graph)
    if integer_functions:
        _rewrite(graph, _in_integers)
    else:
        _attention(graph)
        _function_in_product(graph)
    _rewrite(graph, _quantize_after_pool)
    for node in graph.inputs:
        _read_pixels(graph, node)


def _rewrite(graph: Graph, rule: Callable[[Node], Node]) -> None:
    """Put rule(node) in each node's place, from the input on; a rule sees the inputs already rewritten."""
    instead: dict[int, Node] = {}
    for node in graph.nodes:
        node.inputs = [instead.get(id(source), source) for source in node.inputs]
        made = rule(node)
        if made is not node:
            instead[id(node)] = made
    graph.outputs = [instead.get(id(node), node) for node in graph.outputs]
    graph.sort()


def _in_integers(node: Node) -> Node:
    """A function of rows by fixed-point numbers."""
    if not isinstance(node.op, Rows) or node.op.function == "identity":
        return node
    return Node(replace(node.op, integers=True), node.inputs, node.shape, node.name, node.kind)


def _attention(graph: Graph) -> None:
    """A product, softmax, and a product with its result, all of floats, are one step."""
    users = graph.users()

    def fused(node: Node) -> Node:
        if not isinstance(node.op, Product) or node.op.quantizers != (None, None) or node.op.scale != 1:
            return node
        weights, values = node.inputs
        if not isinstance(weights.op, Rows) or weights.op.function != "softmax" or users[id(weights)] != 1 or len(weights.inputs) > 2:
            return node
        scores, *masks = weights.inputs
        of_scores, mixes = scores.op, node.op
        if not isinstance(of_scores, Product) or of_scores.quantizers != (None, None) or users[id(scores)] != 1:
            return node
        batch, rows, _, columns = of_scores.sizes
        one_behind_another = np.array([[0, 0, columns], [0, 1, 0], [0, 0, 1]])
        fits = weights.op.groups == batch and mixes.sizes[:3] == (batch, rows, columns) and mixes.channels[0] == 0
        if not fits or not np.array_equal(mixes.steps[:3], one_behind_another) or any(not _is_mask(mask, columns) for mask in masks):
            return node
        steps = np.concatenate([of_scores.steps[:6], mixes.steps[3:]])
        channels = (*of_scores.channels, mixes.channels[1])
        mask = weights.op.quantizers[1] if masks else None
        operands, first = _one_product([*scores.inputs, values], users)
        channels = channels[0] + first[0], channels[1] + first[1], channels[2] + first[2]
        op = Attention(of_scores.sizes, mixes.sizes[3], steps, channels, of_scores.scale, mask)
        return Node(op, [*operands, *masks], node.shape, node.name, node.kind)

    _rewrite(graph, fused)


def _one_product(nodes: list[Node], users: dict[int, int]) -> tuple[list[Node], list[int]]:
    """Products of the call of one tensor as one product, which quantizes it once; and each one's first channel in it."""
    ops = [node.op for node in nodes if isinstance(node.op, DynamicLinear)]
    alike = {
        (id(node.inputs[0]), op.per_row, op.bits, op.function, op.weights.zero, op.outliers) for node, op in zip(nodes, ops, strict=False)
    }
    if len(ops) < len(nodes) or len(alike) > 1 or any(users.get(id(node)) != 1 for node in nodes):
        return nodes, [0] * len(nodes)
    bits = max(op.weights.bits for op in ops)
    if any(op.weights.start is not None or (op.weights.bits == 1 and bits > 1) for op in ops):
        return nodes, [0] * len(nodes)
    weights = Weights(
        np.concatenate([op.weights.integers for op in ops]),
        bits,
        np.concatenate([op.weights.scale for op in ops]),
        np.concatenate([op.weights.bias for op in ops]),
        ops[0].weights.zero,
    )
    sizes = [node.shape[0] for node in nodes]
    shape = (sum(sizes), *nodes[0].shape[1:])
    wide = [op.outlier_weights for op in ops if op.outlier_weights is not None]
    op = replace(ops[0], weights=weights, outlier_weights=np.concatenate(wide, axis=1) if wide else None)
    made = Node(op, nodes[0].inputs, shape, nodes[0].name, nodes[0].kind)
    return [made] * len(nodes), [sum(sizes[:i]) for i in range(len(sizes))]


def _is_mask(node: Node, columns: int) -> bool:
    """Whether the tensor is one of a row of pixels, as masks are."""
    height, _, channels = layout(node)
    return height == 1 and channels % columns == 0


_OF_ELEMENTS = ("gelu", "gelu_tanh", "silu", "sigmoid", "tanh")


def _function_in_product(graph: Graph) -> None:
    """A function of single elements that alone reads a product of the call becomes part of that."""
    users = graph.users()

    def fused(node: Node) -> Node:
        if not isinstance(node.op, Rows) or node.op.function not in _OF_ELEMENTS or node.op.quantizers != (None,):
            return node
        (source,) = node.inputs
        if not isinstance(source.op, DynamicLinear) or source.op.function != "identity" or users[id(source)] != 1:
            return node
        return Node(replace(source.op, function=node.op.function), source.inputs, node.shape, source.name, source.kind)

    _rewrite(graph, fused)


def _fold_batch_norm(node: Node) -> Node:
    """(sum * scale + bias) * g + h = sum * (scale * g) + (bias * g + h), in float64.

    A convolution with other users stays beside the folded one. Behind a Quantize it becomes a depthwise convolution of ones.
    """
    if not isinstance(node.op, BatchNorm):
        return node
    norm, source = node.op, node.inputs[0]
    if isinstance(source.op, (Conv, Linear, DynamicLinear)):
        w = source.op.weights
        folded = replace(w, scale=w.scale * norm.scale, bias=w.bias * norm.scale + norm.shift)
        op = replace(source.op, weights=folded)
        if isinstance(op, DynamicLinear) and op.outlier_weights is not None:
            op = replace(op, outlier_weights=(op.outlier_weights * norm.scale).astype(np.float32))
        return Node(op, source.inputs, node.shape, source.name, source.kind)
    if isinstance(source.op, Quantize):
        channels = node.shape[0]
        ones = Weights(np.ones((channels, 1, 1, 1), np.int8), 2, norm.scale, norm.shift)
        op = Conv(ones, source.op.quantizer, (1, 1), (0, 0, 0, 0), (1, 1), channels)
        return Node(op, source.inputs, node.shape, node.name, node.kind)
    if isinstance(source.op, Product) and (norm.scale == norm.scale[0]).all() and not norm.shift.any():
        scaled = replace(source.op, scale=float(np.float32(source.op.scale * norm.scale[0])))
        return Node(scaled, source.inputs, node.shape, source.name, source.kind)
    raise LayerError(
        f"{node} follows {source}: batch normalisation becomes part of a Conv2d right before it. "
        f"Put ulp.nn.Quantize() in front of it, and it works on codes by itself"
    )


def _quantize_after_pool(node: Node) -> Node:
    """pool(quantize(x)) = quantize(pool(x)): the pooling then works on codes, whatever follows."""
    if isinstance(node.op, (MaxPool, Gather, Rearrange)) and isinstance(node.inputs[0].op, Quantize):
        source = node.inputs[0]
        pooled = Node(node.op, source.inputs, node.shape, node.name, node.kind)
        return Node(source.op, [pooled], node.shape, source.name, source.kind)
    return node


def _add_floats(node: Node) -> Node:
    """A sum whose first operand is clamped or moved before it is added: no step that makes it can add, so a step of its own does."""
    if not isinstance(node.op, Add):
        return node
    stack = [node.inputs[0]]
    while stack:
        source = stack.pop()
        if isinstance(source.op, Clamp):
            return Node(Combine(False, (None, node.op.quantizer)), node.inputs, node.shape, node.name, node.kind)
        if isinstance(source.op, (Flatten, Concat, BatchNorm)):
            stack.extend(source.inputs)
    return node


def _sum_in_rows(graph: Graph) -> None:
    """A sum that only one function of rows reads is part of that, and so is one with a mask that counts for all groups."""
    users = graph.users()
    for node in graph.nodes:
        if not isinstance(node.op, Rows) or len(node.inputs) != 1 or node.op.quantizers != (None,):
            continue
        source = node.inputs[0]
        if users[id(source)] == 1 and (quantizers := _summands(source.op, node.op.groups)) is not None:
            node.op, node.inputs = replace(node.op, quantizers=quantizers), source.inputs
    graph.sort()


def _summands(op: Op, groups: int) -> tuple[Quantizer | None, ...] | None:
    """The quantizers of what the operation adds; None where it does something else, or in other groups."""
    if isinstance(op, Combine):
        return None if op.multiply else op.quantizers
    return op.quantizers if isinstance(op, Rows) and op.function == "identity" and op.groups == groups else None


def transposition(channels: int, length: int) -> Rearrange:
    """(channels, 1, length) -> (length, 1, channels)."""
    rows, columns, picked = (np.zeros((n, 3), np.int32) for n in (1, channels, length))
    columns[:, 2] = np.arange(channels)
    picked[:, 1] = np.arange(length)
    return Rearrange(rows, columns, picked)


def _read_pixels(graph: Graph, source: Node) -> None:
    """Where all that reads an input transposes it first, it is read so in the first place."""
    op, shape = source.op, source.shape
    assert isinstance(op, Input)
    readers = [node for node in graph.nodes if source in node.inputs]
    if op.shape is None or len(op.shape) != 2 or op.channels_last or not readers:
        return
    wanted = transposition(shape[0], shape[2])
    for node in readers:
        moves = node.op
        if not isinstance(moves, Rearrange) or any(
            not np.array_equal(a, b)
            for a, b in ((moves.rows, wanted.rows), (moves.columns, wanted.columns), (moves.channels, wanted.channels))
        ):
            return
    source.op = replace(op, channels_last=True)
    source.shape = (shape[2], 1, shape[0])
    _rewrite(graph, lambda node: source if node in readers else node)
