"""A network of `networks.py` as a flat list of operations with shapes: counted, given weights, written as ONNX, without any framework.

`Recorder` stands in for `torch.nn`; running the network on a `Symbol` records each operation. Names of layers and parameters are those that
torch gives the same network, so that one set of weights serves every framework.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .networks import INPUT, NETWORKS

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


def random_weights(graph: Graph, seed: int = 0) -> dict[str, F32]:
    """Parameters by torch's names: He's normal weights, so that activations keep their size; batch norms that are not trivial."""
    rng = np.random.default_rng(seed)
    made: dict[str, F32] = {}
    for node in graph.nodes:
        for name, shape in parameter_shapes(node).items():
            kind = name.rpartition(".")[2]
            if node.op == "norm" and kind in ("weight", "running_var"):
                value = rng.uniform(0.5, 1.5, shape).astype(np.float32)
            elif kind == "weight":
                value = rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(2 / math.prod(shape[1:])))
            else:
                value = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1)
            made[name] = value
    return made


@dataclass(frozen=True)
class Model:
    """A network with random weights, drawn once: what every runtime gets."""

    name: str
    graph: Graph
    weights: dict[str, F32]

    def images(self, count: int = 1, seed: int = 1) -> F32:
        """Random images (count, 3, 224, 224), normalised as torchvision's are: zero mean, unit deviation."""
        return np.random.default_rng(seed).standard_normal((count, *self.graph.nodes[0].shape), dtype=np.float32)


def model(name: str) -> Model:
    """The network of that name in `networks.NETWORKS` with its weights."""
    graph = record(NETWORKS[name])
    return Model(name, graph, random_weights(graph))


def _folded(node: Node, norm: Node | None, weights: dict[str, F32]) -> tuple[F32, F32]:
    """Weights and bias of a convolution with the batch norm behind it folded in."""
    weight = weights[f"{node.name}.weight"]
    bias = weights[f"{node.name}.bias"] if node.attributes["bias"] else np.zeros(len(weight), np.float32)
    if norm is None:
        return weight, bias
    gamma, beta, mean, variance = (weights[f"{norm.name}.{key}"] for key in ("weight", "bias", "running_mean", "running_var"))
    factor = gamma / np.sqrt(variance + np.float32(norm.attributes["eps"]))
    return weight * factor[:, None, None, None], (bias - mean) * factor + beta


def to_onnx(graph: Graph, weights: dict[str, F32], opset: int = 17, ir_version: int = 9) -> Any:
    """The network as an onnx.ModelProto, batch 1, "x" in and "y" out, batch norms folded into the convolutions before them."""
    onnx = importlib.import_module("onnx")
    nodes: list[Any] = []
    constants: list[Any] = []
    name_of = {0: "x"}
    norm_after = {node.inputs[0]: node for node in graph.nodes if node.op == "norm"}

    def constant(name: str, value: npt.NDArray[Any]) -> str:
        constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    for i, node in enumerate(graph.nodes[1:], start=1):
        inputs, at = [name_of[j] for j in node.inputs], node.attributes
        name_of[i] = "y" if i == len(graph.nodes) - 1 else f"{node.name or node.op}/{i}"
        more: dict[str, Any] = {}
        if node.op == "norm":
            name_of[i] = inputs[0]
            continue
        if node.op == "conv":
            weight, bias = _folded(node, norm_after.get(i), weights)
            inputs += [constant(f"{node.name}.weight", weight), constant(f"{node.name}.bias", bias)]
            more = {"kernel_shape": [at["kernel"]] * 2, "group": at["groups"]}
        elif node.op == "linear":
            inputs += [constant(f"{node.name}.weight", weights[f"{node.name}.weight"])]
            inputs += [constant(f"{node.name}.bias", weights[f"{node.name}.bias"])]
            more = {"transB": 1}
        elif node.op == "relu6":
            inputs += [constant(f"{name_of[i]}.low", np.float32(0)), constant(f"{name_of[i]}.high", np.float32(6))]
        elif node.op == "maxpool":
            more = {"kernel_shape": [at["kernel"]] * 2, "ceil_mode": int(at["ceil"])}
        elif node.op == "concat":
            more = {"axis": 1}
        if node.op in ("conv", "maxpool"):
            more |= {"strides": [at["stride"]] * 2, "pads": [at["padding"]] * 4}
        nodes.append(onnx.helper.make_node(_ONNX[node.op], inputs, [name_of[i]], name=name_of[i], **more))
    ends = [("x", graph.nodes[0].shape), ("y", graph.output)]
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, *shape]) for name, shape in ends)
    made = onnx.helper.make_graph(nodes, "network", [x], [y], constants)
    result = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(result)
    return result


_ONNX = {
    "conv": "Conv",
    "linear": "Gemm",
    "relu": "Relu",
    "relu6": "Clip",
    "maxpool": "MaxPool",
    "globalpool": "GlobalAveragePool",
    "flatten": "Flatten",
    "add": "Add",
    "concat": "Concat",
}
