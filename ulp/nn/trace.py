"""Recording a network: it is called once with a symbol in place of an array, and every layer adds itself to a graph."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np

from ulp._validate import integer

from .graph import Flatten, Graph, Input, Node, Op, Shape, View
from .module import Module
from .passes import transposition
from .shapes import LayerError, dimension


class Trace:
    """A graph in the making, and the names of the network's layers."""

    def __init__(self, network: Module, *shapes: Shape) -> None:
        self.graph = Graph.start(shapes[0])
        for shape in shapes[1:]:
            self.graph.join(Graph.start(shape))
        self._names = {id(module): name for name, module in network.named_modules()}
        self._calls: dict[str, int] = {}

    def name(self, layer: Module | str) -> str:
        """The layer's name in the network, or for a layer that is not part of it, or known by its class only, the class in lower case.

        A second call of the same layer gets ":2".
        """
        name = self._names.get(id(layer)) or kind_of(layer).lower()
        calls = self._calls[name] = self._calls.get(name, 0) + 1
        return name if calls == 1 else f"{name}:{calls}"


class Symbol:
    """The result of a layer while a network is traced. It has a shape and no values.

    node: the image (C, H, W) or vector that holds it. rows: None where the symbol is that; else the symbol is of two dimensions, (C, L) of
    an image (C, 1, L), or with rows=True (T, C) of an image (C, 1, T).
    """

    def __init__(self, trace: Trace, node: Node, batch: int, rows: bool | None = None) -> None:
        self.trace = trace
        self.node = node
        self.batch = batch
        self.rows = rows
        self._moved: Symbol | None = None

    @classmethod
    def start(cls, trace: Trace, batch: int, index: int = 0) -> Symbol:
        """An input of the network."""
        node = trace.graph.inputs[index]
        assert isinstance(node.op, Input)
        return cls(trace, node, batch, None if node.op.shape is None else False)

    @property
    def result(self) -> Node:
        """The node that gives it as an output of the network."""
        if self.rows is None:
            return self.node
        return self.trace.graph.add(View(self.rows), [self.node], self.shape[1:], self.node.name, self.node.kind)

    def as_rows(self, rows: bool) -> Symbol:
        """The same symbol of two dimensions, in an image (C, 1, T) of its rows (T, C), or in (C, 1, L) of (C, L)."""
        if self.rows is rows:
            return self
        if self._moved is not None:  # one for all that read it
            return self._moved
        channels, _, length = self.node.shape
        shape = (length, 1, channels)
        node = self.trace.graph.add(transposition(channels, length), [self.node], shape, self.node.name, "Transpose")
        self._moved = Symbol(self.trace, node, self.batch, rows)
        return self._moved

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array's, with the example's batch."""
        if self.rows is None:
            return self.batch, *self.node.shape
        channels, _, length = self.node.shape
        return (self.batch, length, channels) if self.rows else (self.batch, channels, length)

    @property
    def ndim(self) -> int:
        """Dimensions with the batch."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """float32."""
        return np.dtype(np.float32)

    def size(self, dim: int | None = None) -> Any:
        """As torch's `Tensor.size`."""
        return self.shape if dim is None else self.shape[dim]

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Symbol:
        """As torch's `Tensor.flatten`; only flatten(1), the images one by one."""
        start_dim, end_dim = integer(start_dim, "start_dim", -64, 63), integer(end_dim, "end_dim", -64, 63)
        return record_flatten(self, start_dim, end_dim, "Flatten")

    def _unknown(self, what: str) -> NoReturn:
        raise self._error(what)

    def _error(self, what: str) -> LayerError:
        return LayerError(
            f"{what} on the result of {self.node} cannot be compiled: between its layers a compiled network holds no arrays. "
            f"Use a layer of ulp.nn: Add() for x + y, Concat(1) for a concatenation, Flatten(1) for a reshape, ReLU() for relu"
        )

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        self._unknown("a numpy function")

    __array_ufunc__ = None  # numpy then leaves operators to Symbol

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self._unknown(f"`.{name}`")

    def __getitem__(self, index: object) -> NoReturn:
        self._unknown("indexing")

    def __bool__(self) -> bool:
        raise self._error("a condition")

    def __add__(self, other: object) -> NoReturn:
        self._unknown("`+`")

    def __mul__(self, other: object) -> NoReturn:
        self._unknown("`*`")

    def __sub__(self, other: object) -> NoReturn:
        self._unknown("`-`")

    def __truediv__(self, other: object) -> NoReturn:
        self._unknown("`/`")

    __radd__ = __add__
    __rmul__ = __mul__
    __rsub__ = __sub__
    __rtruediv__ = __truediv__


def kind_of(layer: Module | str) -> str:
    """The class of a layer, which may be given by that name."""
    return layer if isinstance(layer, str) else type(layer).__name__


def record(op: Op, shape: Shape, layer: Module | str, *inputs: Symbol, kind: str = "") -> Symbol:
    """The symbol of a layer's result, in an image of this shape; of two dimensions if the first input is. layer: or its class's name."""
    trace = inputs[0].trace
    if any(x.trace is not trace for x in inputs):
        raise LayerError("a symbol of another trace: forward must not keep results between calls")
    node = trace.graph.add(op, [x.node for x in inputs], shape, trace.name(layer), kind or kind_of(layer))
    return Symbol(trace, node, inputs[0].batch, inputs[0].rows)


def record_flatten(x: Symbol, start_dim: int, end_dim: int, layer: Module | str) -> Symbol:
    """The symbol of Flatten(start_dim, end_dim). LayerError unless it flattens each image as a whole."""
    if (dimension(start_dim, x.ndim), dimension(end_dim, x.ndim)) != (1, x.ndim - 1):
        raise LayerError(f"Flatten({start_dim}, {end_dim}) cannot be compiled: use Flatten(1), which keeps the images apart")
    if x.rows is not None:
        x = x.as_rows(False)
    return Symbol(x.trace, record(Flatten(), (math.prod(x.node.shape),), layer, x).node, x.batch)
