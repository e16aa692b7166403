"""A network of `networks.py` as a flat list of operations with shapes: counted, without any framework.

`Recorder` stands in for `torch.nn`; running the network on a `Symbol` records each operation. Names of layers and parameters are those that
torch gives the same network, so that one set of weights serves every framework.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .networks import INPUT

F32 = npt.NDArray[np.float32]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Node:
    """One operation. inputs: positions of earlier nodes. shape: of its result for one image, without the batch. name: the layer's path."""

    op: str
    name: str
    inputs: tuple[int, ...]
    shape: Shape
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Symbol:
    """A tensor while a network is recorded: the node that makes it."""

    graph: Graph
    node: int

    @property
    def shape(self) -> Shape:
        """Without the batch."""
        return self.graph.nodes[self.node].shape


@dataclass
class Graph:
    """The operations of one network in the order in which they run; the first is the input, the last the result."""

    nodes: list[Node]

    def add(self, op: str, name: str, inputs: list[Symbol], shape: Shape, **attributes: Any) -> Symbol:
        """Append one operation."""
        self.nodes.append(Node(op, name, tuple(s.node for s in inputs), shape, attributes))
        return Symbol(self, len(self.nodes) - 1)

    @property
    def output(self) -> Shape:
        """Shape of the result, without the batch."""
        return self.nodes[-1].shape

    def parameters(self) -> int:
        """Trainable parameters, as torchvision counts them."""
        return sum(math.prod(shape) for node in self.nodes for name, shape in parameter_shapes(node).items() if "running" not in name)

    def macs(self) -> int:
        """Multiply-accumulates of one image, of convolutions and linear layers."""
        return sum(node_macs(node) for node in self.nodes)


def parameter_shapes(node: Node) -> dict[str, Shape]:
    """The shapes of a node's parameters and running statistics by their full names."""
    at = node.attributes
    shapes: dict[str, Shape] = {}
    if node.op == "conv":
        shapes["weight"] = (at["filters"], at["channels"] // at["groups"], at["kernel"], at["kernel"])
        if at["bias"]:
            shapes["bias"] = (at["filters"],)
    elif node.op == "linear":
        shapes = {"weight": (at["features"], at["channels"]), "bias": (at["features"],)}
    elif node.op == "norm":
        shapes = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), node.shape[:1])
    return {f"{node.name}.{key}": shape for key, shape in shapes.items()}


def node_macs(node: Node) -> int:
    """Multiply-accumulates of one operation; 0 for all but convolutions and linear layers."""
    at = node.attributes
    if node.op == "conv":
        return math.prod(node.shape) * int(at["channels"]) // int(at["groups"]) * int(at["kernel"]) ** 2
    return int(at["channels"]) * int(at["features"]) if node.op == "linear" else 0


class _Module:
    """As much of torch.nn.Module as the networks use. `apply_` is what a leaf records."""

    path = ""

    def children(self) -> Iterator[tuple[str, _Module]]:
        return ((key, value) for key, value in vars(self).items() if isinstance(value, _Module))

    def name_below(self, path: str) -> None:
        self.path = path
        for key, child in self.children():
            child.name_below(f"{path}.{key}" if path else key)

    def __call__(self, x: Any) -> Any:
        return self.forward(x)

    def forward(self, x: Any) -> Any:
        raise NotImplementedError


class _Sequential(_Module):
    def __init__(self, *modules: _Module) -> None:
        self.modules = modules

    def children(self) -> Iterator[tuple[str, _Module]]:
        return ((str(i), module) for i, module in enumerate(self.modules))

    def forward(self, x: Any) -> Any:
        for module in self.modules:
            x = module(x)
        return x


class _Conv2d(_Module):
    def __init__(
        self,
        channels: int,
        filters: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        first: bool = False,
    ) -> None:
        self.attributes = {
            "channels": channels, "filters": filters, "kernel": kernel, "stride": stride, "padding": padding, "groups": groups,
            "bias": bias, "first": first,
        }  # fmt: skip

    def forward(self, x: Symbol) -> Symbol:
        at = self.attributes
        channels, *size = x.shape
        if channels != at["channels"]:
            raise ValueError(f"{self.path}: {channels} channels, not {at['channels']}")
        out = [(s + 2 * at["padding"] - at["kernel"]) // at["stride"] + 1 for s in size]
        return x.graph.add("conv", self.path, [x], (at["filters"], *out), **at)


class _Linear(_Module):
    def __init__(self, channels: int, features: int) -> None:
        self.attributes = {"channels": channels, "features": features}

    def forward(self, x: Symbol) -> Symbol:
        if x.shape != (self.attributes["channels"],):
            raise ValueError(f"{self.path}: input {x.shape}, not ({self.attributes['channels']},)")
        return x.graph.add("linear", self.path, [x], (self.attributes["features"],), **self.attributes)


class _BatchNorm2d(_Module):
    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        self.channels, self.eps = channels, eps

    def forward(self, x: Symbol) -> Symbol:
        if x.shape[0] != self.channels:
            raise ValueError(f"{self.path}: {x.shape[0]} channels, not {self.channels}")
        return x.graph.add("norm", self.path, [x], x.shape, eps=self.eps)


class _ReLU(_Module):
    op = "relu"

    def forward(self, x: Symbol) -> Symbol:
        return x.graph.add(self.op, self.path, [x], x.shape)


class _ReLU6(_ReLU):
    op = "relu6"


class _MaxPool2d(_Module):
    def __init__(self, kernel: int, stride: int, padding: int = 0, ceil_mode: bool = False) -> None:
        self.attributes = {"kernel": kernel, "stride": stride, "padding": padding, "ceil": ceil_mode}

    def forward(self, x: Symbol) -> Symbol:
        at = self.attributes
        room = at["stride"] - 1 if at["ceil"] else 0
        out = []
        for size in x.shape[1:]:
            count = (size + 2 * at["padding"] - at["kernel"] + room) // at["stride"] + 1
            # torch's rule: the last window begins inside the image or its left padding.
            out.append(count - 1 if at["ceil"] and (count - 1) * at["stride"] >= size + at["padding"] else count)
        return x.graph.add("maxpool", self.path, [x], (x.shape[0], *out), **at)


class _AdaptiveAvgPool2d(_Module):
    def __init__(self, size: int) -> None:
        if size != 1:
            raise ValueError(f"size is {size}; only the global pool, 1, is recorded")

    def forward(self, x: Symbol) -> Symbol:
        return x.graph.add("globalpool", self.path, [x], (x.shape[0], 1, 1))


class _Flatten(_Module):
    def forward(self, x: Symbol) -> Symbol:
        return x.graph.add("flatten", self.path, [x], (math.prod(x.shape),))


class _Add(_Module):
    def __call__(self, x: Symbol, y: Symbol) -> Symbol:  # type: ignore[override]
        if x.shape != y.shape:
            raise ValueError(f"{self.path}: shapes {x.shape} and {y.shape}")
        return x.graph.add("add", self.path, [x, y], x.shape)


class _Concat(_Module):
    def forward(self, x: list[Symbol]) -> Symbol:
        if len({s.shape[1:] for s in x}) != 1:
            raise ValueError(f"{self.path}: shapes {[s.shape for s in x]}")
        return x[0].graph.add("concat", self.path, x, (sum(s.shape[0] for s in x), *x[0].shape[1:]))


class Recorder:
    """The `nn` that records."""

    Module = _Module
    Sequential = _Sequential
    Conv2d = _Conv2d
    Linear = _Linear
    BatchNorm2d = _BatchNorm2d
    ReLU = _ReLU
    ReLU6 = _ReLU6
    MaxPool2d = _MaxPool2d
    AdaptiveAvgPool2d = _AdaptiveAvgPool2d
    Flatten = _Flatten
    Add = _Add
    Concat = _Concat


def record(network: Callable[[Any], Any], shape: Shape = INPUT) -> Graph:
    """The operations that `network` does on one image of `shape`."""
    module = network(Recorder)
    module.name_below("")
    graph = Graph([Node("input", "input", (), shape)])
    module(Symbol(graph, 0))
    return graph
