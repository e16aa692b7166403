"""Integer parts of a model while they grow: graphs of ulp.nn, and the tensors inside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp.nn import graph as ir
from ulp.nn.quantizer import Quantizer


@dataclass(eq=False)
class Part:
    """A graph of integer layers. roots: the tensors that it reads, as the graph's inputs. results: nodes whose floats are used outside, by
    the name of the tensor. Parts that were joined have all of this in common.
    """

    roots: list[str]
    graph: ir.Graph
    results: dict[str, ir.Node] = field(default_factory=dict)

    def input(self, root: str) -> ir.Node:
        """The graph's input that reads a root."""
        return self.graph.inputs[self.roots.index(root)]

    def is_same(self, other: Part) -> bool:
        """Whether it is the other part, or was joined with it."""
        return self.graph is other.graph

    def roots_of(self, name: str, walked: set[int]) -> list[str]:
        """The roots that a result is computed from, as far as nodes are not among `walked`, by id, to which they are added."""
        roots = {id(node): root for root, node in zip(self.roots, self.graph.inputs, strict=True)}
        found: list[str] = []
        stack = [self.results[name]]
        while stack:
            node = stack.pop()
            if id(node) not in walked:
                walked.add(id(node))
                found += [roots[id(node)]] if id(node) in roots else []
                stack += node.inputs
        return found

    def unite(self, other: Part) -> None:
        """Take in another part."""
        self.graph.join(other.graph)
        self.roots += other.roots
        self.results.update(other.results)


@dataclass(frozen=True, eq=False)
class Integers:
    """The result of QuantizeLinear: integers code + low of this dtype. origin: the node that was quantized, None if values moved since."""

    dtype: np.dtype[Any]
    low: int
    origin: ir.Node | None


@dataclass(frozen=True, eq=False)
class Function:
    """A tensor whose values depend on one code each of `source`, quantized by `grid`: float32 (1 or channels, codes)."""

    source: ir.Node
    grid: Quantizer
    values: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor inside a part.

    grid: the quantizer on whose grid all values lie, if known. integers: given if the tensor is integers and not their floats.
    function: given if the values are known as a function of codes. view: given if the tensor has the elements of the node's image in
    another order or shape: int64 indices of that image, (C, H, W), in the tensor's own shape.
    scaled: given if the values are those of another one, which lies on a grid, times one factor float64 (C,) per channel.
    """

    part: Part
    node: ir.Node
    grid: Quantizer | None = None
    integers: Integers | None = None
    function: Function | None = None
    view: npt.NDArray[np.int64] | None = None
    scaled: tuple[Value, npt.NDArray[np.float64]] | None = None


def _ends(node: ir.Node, passes: tuple[type, ...]) -> Iterator[ir.Node]:
    """The nodes that the result depends on through operations of these kinds, each once. Iterative: graphs may be deep, with many paths."""
    seen: set[int] = set()
    stack = [node]
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node.op, passes):
            stack.extend(node.inputs)
        else:
            yield node


def takes_sum(node: ir.Node) -> bool:
    """Whether a shortcut can be added to the node's result by the step that makes it."""
    makers = (ir.Conv, ir.Linear, ir.WindowMean, ir.Quantize, ir.Table, ir.Combine)
    return all(isinstance(end.op, makers) for end in _ends(node, (ir.Flatten, ir.BatchNorm, ir.Concat)))


def comes_from_sums(node: ir.Node) -> bool:
    """Whether codes of the node's result can be made by comparing sums with thresholds."""
    passes = (ir.Clamp, ir.Curve, ir.MaxPool, ir.Gather, ir.Flatten, ir.BatchNorm, ir.Concat)
    return all(isinstance(end.op, (ir.Conv, ir.Linear, ir.Table)) for end in _ends(node, passes))


def without_floats(node: ir.Node) -> ir.Node | None:
    """The node that keeps a result from being had as floats, if there is one: it works on codes, and nothing says on which."""
    ends = _ends(node, (ir.Clamp, ir.Flatten, ir.Concat, ir.View, ir.Rearrange))
    return next((end for end in ends if isinstance(end.op, (ir.Curve, ir.MaxPool, ir.Gather))), None)


def is_elementwise(results: Sequence[ir.Node], several: bool) -> bool:
    """Whether these are the part's input, quantized, moved, and functions and sums of its floats: no work worth a plan between floats.

    several: whether the part has several inputs. Then sums of codes and concatenations are no such work, either.
    """
    passes: tuple[type, ...] = (ir.Quantize, ir.Clamp, ir.Table, ir.Rows, ir.Flatten, ir.View, ir.Rearrange, ir.Gather, ir.Identity)
    if several:
        passes = (*passes, ir.Add, ir.Combine, ir.Concat)
    starts = {id(start): start for result in results for start in _ends(result, passes)}
    while sums := [key for key, start in starts.items() if isinstance(start.op, ir.Combine) and set(start.op.quantizers) == {None}]:
        for key in sums:
            inputs = starts.pop(key).inputs
            starts.update((id(start), start) for source in inputs for start in _ends(source, passes))
    return all(isinstance(start.op, ir.Input) for start in starts.values())
