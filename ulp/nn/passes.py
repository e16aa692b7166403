"""Rewriting a graph before it is lowered: identities are dropped, batch normalisation is folded, pooling moves in front of quantizers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .graph import BatchNorm, Conv, Gather, Graph, Identity, Linear, MaxPool, Node, Quantize, Weights
from .shapes import LayerError


def optimize(graph: Graph) -> None:
    """All passes, in place. LayerError where a batch normalisation has nothing to be folded into."""
    graph.sort()
    _rewrite(graph, lambda node: node.inputs[0] if isinstance(node.op, Identity) else node)
    _rewrite(graph, _fold_batch_norm)
    _rewrite(graph, _quantize_after_pool)


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


def _fold_batch_norm(node: Node) -> Node:
    """(sum * scale + bias) * g + h = sum * (scale * g) + (bias * g + h), in float64.

    A convolution with other users stays beside the folded one. Behind a Quantize it becomes a depthwise convolution of ones.
    """
    if not isinstance(node.op, BatchNorm):
        return node
    norm, source = node.op, node.inputs[0]
    if isinstance(source.op, (Conv, Linear)):
        w = source.op.weights
        folded = replace(w, scale=w.scale * norm.scale, bias=w.bias * norm.scale + norm.shift)
        return Node(replace(source.op, weights=folded), source.inputs, node.shape, source.name, source.kind)
    if isinstance(source.op, Quantize):
        channels = node.shape[0]
        ones = Weights(np.ones((channels, 1, 1, 1), np.int8), 2, norm.scale, norm.shift)
        op = Conv(ones, source.op.quantizer, (1, 1), (0, 0, 0, 0), (1, 1), channels)
        return Node(op, source.inputs, node.shape, node.name, node.kind)
    raise LayerError(
        f"{node} follows {source}: batch normalisation becomes part of a Conv2d right before it. "
        f"Put ulp.nn.Quantize() in front of it, and it works on codes by itself"
    )


def _quantize_after_pool(node: Node) -> Node:
    """pool(quantize(x)) = quantize(pool(x)): the pooling then works on codes, whatever follows."""
    if isinstance(node.op, (MaxPool, Gather)) and isinstance(node.inputs[0].op, Quantize):
        source = node.inputs[0]
        pooled = Node(node.op, source.inputs, node.shape, node.name, node.kind)
        return Node(source.op, [pooled], node.shape, source.name, source.kind)
    return node
