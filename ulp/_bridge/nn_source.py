"""A network of ulp.nn as an onnx.ModelProto in QONNX: the graph that `ulp.nn.compile` records, node by node."""

# ruff: noqa: ARG002  # rules have the same arguments
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ulp import nn
from ulp.nn import graph as ir
from ulp.nn.compiled import recorded
from ulp.nn.passes import transposition
from ulp.nn.quantizer import Quantizer
from ulp.nn.shapes import LayerError

from .protos import QONNX_DOMAIN

_OPSET = 20
_PAD_MODES = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def from_nn(network: nn.Module, example: Any) -> Any:
    """The model. LayerError, naming the layer, for what is not supported, and as `ulp.nn.compile` raises it."""
    graph, pack = recorded(network, example)
    writer = _Writer(network)
    for node in graph.nodes:
        writer.node(node)
    names = [str(key) for key in pack.keys]
    if not names:
        names = ["output"] if len(graph.outputs) == 1 else [f"output_{i}" for i in range(len(graph.outputs))]
    for node, name in zip(graph.outputs, names, strict=True):
        writer.result(node, name)
    return writer.model(graph, names)


class _Writer:
    """Nodes of ONNX, and the name of each recorded node's result."""

    def __init__(self, network: nn.Module) -> None:
        import onnx

        self.onnx = onnx
        self.layers = dict(network.named_modules())
        self.network = network
        self.names: dict[int, str] = {}
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}
        self.quantized: dict[tuple[str, float, int, int, bool], str] = {}

    def add(self, op_type: str, inputs: Sequence[str], name: str, domain: str = "", **attributes: Any) -> str:
        """A node; its result is called as the node."""
        taken = {node.name for node in self.nodes}
        unique, i = name, 2
        while unique in taken:
            unique, i = f"{name}:{i}", i + 1
        self.nodes.append(self.onnx.helper.make_node(op_type, list(inputs), [unique], name=unique, domain=domain, **attributes))
        return unique

    def constant(self, name: str, array: Any, dtype: Any = np.float32) -> str:
        self.constants[name] = self.onnx.numpy_helper.from_array(np.array(array, dtype), name)
        return name

    def layer(self, node: ir.Node) -> Any:
        """The layer that recorded a node."""
        found = self.layers.get(node.name.partition(":")[0])
        found = self.network if found is None and type(self.network).__name__ == node.kind else found
        if found is None:
            raise LayerError(f"{node} cannot be exported: it is no part of the network, which has no attribute that holds it")
        return found

    def quant(self, x: str, quantizer: Quantizer, name: str) -> str:
        """The tensor by codes."""
        key = (x, quantizer.scale, quantizer.zero, quantizer.bits, quantizer.bipolar)
        if key in self.quantized:
            return self.quantized[key]
        half = 2 ** (quantizer.bits - 1)
        signed = quantizer.zero == half and quantizer.bits > 1
        label = f"{name}/Quant"
        scale = self.constant(f"{label}/scale", quantizer.scale)
        if not signed and quantizer.zero % 2:
            made = self.quant_linear(x, quantizer, scale, label)
        else:
            zero = self.constant(f"{label}/zero", 0 if signed else quantizer.zero)
            width = self.constant(f"{label}/bits", quantizer.bits)
            made = self.add("Quant", [x, scale, zero, width], label, QONNX_DOMAIN, signed=int(signed), narrow=0, rounding_mode="ROUND")
        self.quantized[key] = made
        return made

    def quant_linear(self, x: str, quantizer: Quantizer, scale: str, label: str) -> str:
        """QuantizeLinear, Clip, DequantizeLinear: with an odd zero point, Quant would round values in the middle of two codes otherwise."""
        zero = self.constant(f"{label}/zero", quantizer.zero, np.uint8)
        codes = self.add("QuantizeLinear", [x, scale, zero], f"{label}/codes")
        bounds = [self.constant(f"{label}/{end}", bound, np.uint8) for end, bound in (("low", 0), ("high", quantizer.levels))]
        return self.add("DequantizeLinear", [self.add("Clip", [codes, *bounds], f"{label}/Clip"), scale, zero], label)

    def weights(self, weights: ir.Weights, name: str) -> tuple[str, str]:
        """Names of the dequantized weights and of the bias."""
        if weights.zero or weights.start is not None:
            raise LayerError(f"{name} cannot be exported: its weights have a zero point")
        sides = (-1,) + (1,) * (weights.integers.ndim - 1)
        scale = weights.scale.astype(np.float32).reshape(sides)
        values = self.constant(f"{name}.weight", weights.integers * scale)
        scales = self.constant(f"{name}.weight/scale", scale)
        if weights.bits == 1:
            quantized = self.add("BipolarQuant", [values, scales], f"{name}.weight/Quant", QONNX_DOMAIN)
        else:
            zero, width = self.constant(f"{name}.weight/zero", 0), self.constant(f"{name}.weight/bits", weights.bits)
            attributes: dict[str, Any] = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"}
            quantized = self.add("Quant", [values, scales, zero, width], f"{name}.weight/Quant", QONNX_DOMAIN, **attributes)
        return quantized, self.constant(f"{name}.bias", weights.bias)

    # Nodes: each rule takes the node, its operation and the names of its inputs, and gives the name of its result.

    def node(self, node: ir.Node) -> None:
        """Write one recorded node, whose inputs are written."""
        rule = _RULES.get(type(node.op))
        if rule is None:
            raise LayerError(f"{node} cannot be exported to ONNX: it is not supported")
        self.names[id(node)] = rule(self, node, node.op, [self.names[id(source)] for source in node.inputs])

    def input(self, node: ir.Node, op: ir.Input, _: list[str]) -> str:
        return "input" if op.shape is None else self.add("Unsqueeze", ["input", self.constant("input/axis", [2], np.int64)], "input/image")

    def conv(self, node: ir.Node, op: ir.Conv, x: list[str]) -> str:
        weight, bias = self.weights(op.weights, node.name)
        kernel = op.weights.integers.shape[2:]
        attributes: dict[str, Any] = {
            "strides": op.stride,
            "pads": op.padding,
            "dilations": op.dilation,
            "group": op.groups,
            "kernel_shape": kernel,
        }
        return self.add("Conv", [self.quant(x[0], op.quantizer, node.name), weight, bias], node.name, **attributes)

    def linear(self, node: ir.Node, op: ir.Linear, x: list[str]) -> str:
        weight, bias = self.weights(op.weights, node.name)
        return self.add("Gemm", [self.quant(x[0], op.quantizer, node.name), weight, bias], node.name, transB=1)

    def norm(self, node: ir.Node, op: ir.BatchNorm, x: list[str]) -> str:
        layer = self.layer(node)
        ones, zeros = np.ones(layer.num_features), np.zeros(layer.num_features)
        terms = [
            self.constant(f"{node.name}.{name}", other if value is None else value)
            for name, value, other in (
                ("weight", layer.weight, ones),
                ("bias", layer.bias, zeros),
                ("running_mean", layer.running_mean, zeros),
                ("running_var", layer.running_var, ones),
            )
        ]
        return self.add("BatchNormalization", [x[0], *terms], node.name, epsilon=layer.eps)

    def clamp(self, node: ir.Node, op: ir.Clamp, x: list[str]) -> str:
        if (op.low, op.high) == (0.0, np.inf):
            return self.add("Relu", x, node.name)
        return self.add("Clip", [x[0], *(self.constant(f"{node.name}/{end}", getattr(op, end)) for end in ("low", "high"))], node.name)

    def pool(self, node: ir.Node, op: ir.MaxPool, x: list[str]) -> str:
        layer = self.layer(node)
        return self.add("MaxPool", x, node.name, dilations=layer.dilation, **_windows(layer))

    def mean(self, node: ir.Node, op: ir.WindowMean, x: list[str]) -> str:
        layer = self.layer(node)
        codes = self.quant(x[0], op.quantizer, node.name)
        if len(op.rows) == len(op.columns) == 1 and op.divisor.reshape(-1)[0] == np.prod(node.inputs[0].shape[1:]):
            return self.add("GlobalAveragePool", [codes], node.name)
        if not hasattr(layer, "kernel_size") or layer.divisor_override is not None:
            raise LayerError(f"{node} cannot be exported: ONNX has no average over such windows")
        return self.add("AveragePool", [codes], node.name, count_include_pad=int(layer.count_include_pad), **_windows(layer))

    def gather(self, node: ir.Node, op: ir.Gather, x: list[str]) -> str:
        layer = self.layer(node)
        if node.kind != "Pad":
            raise LayerError(f"{type(layer).__name__} {node.name!r} cannot be exported to ONNX: it is not supported")
        top, left, bottom, right = layer.sides
        pads = self.constant(f"{node.name}/pads", [0, 0, top, left, 0, 0, bottom, right], np.int64)
        codes = self.quant(x[0], layer.input_quantizer(), node.name)  # codes move as floats do
        return self.add("Pad", [codes, pads], f"{node.name}/Pad", mode=_PAD_MODES[layer.padding_mode])

    def rearrange(self, node: ir.Node, op: ir.Rearrange, x: list[str]) -> str:
        channels, _, length = node.inputs[0].shape
        wanted = transposition(channels, length)
        if any(not np.array_equal(getattr(op, name), getattr(wanted, name)) for name in ("rows", "columns", "channels")):
            raise LayerError(f"{node} cannot be exported: it moves elements in an order of its own")
        return self.add("Transpose", x, f"{node.name}/Transpose", perm=[0, 3, 2, 1])

    def table(self, node: ir.Node, op: ir.Table, x: list[str]) -> str:
        codes, layer, name = self.quant(x[0], op.quantizer, node.name), self.layer(node), node.name
        if node.kind == "SiLU":
            return self.add("Mul", [codes, self.add("Sigmoid", [codes], f"{name}/Sigmoid")], name)
        if node.kind == "PReLU":
            return self.add(
                "PRelu", [codes, self.constant(f"{name}.weight", layer.weight.reshape(-1, *(1,) * (len(node.shape) - 1)))], name
            )
        operators: dict[str, tuple[str, dict[str, Any]]] = {
            "Mish": ("Mish", {}),
            "Hardswish": ("HardSwish", {}),
            "Hardsigmoid": ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}),
            "Sigmoid": ("Sigmoid", {}),
            "Tanh": ("Tanh", {}),
            "LeakyReLU": ("LeakyRelu", {"alpha": getattr(layer, "negative_slope", 0.0)}),
            "ELU": ("Elu", {"alpha": getattr(layer, "alpha", 0.0)}),
            "GELU": ("Gelu", {"approximate": getattr(layer, "approximate", "none")}),
        }
        if node.kind not in operators:
            raise LayerError(f"{node} cannot be exported to ONNX: it is not supported")
        op_type, attributes = operators[node.kind]
        return self.add(op_type, [codes], name, **attributes)

    def sum(self, node: ir.Node, op: ir.Add, x: list[str]) -> str:
        return self.add("Add", [x[0], self.quant(x[1], op.quantizer, node.name)], node.name)

    def result(self, node: ir.Node, name: str) -> None:
        """Give an output of the network its name."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [self.names[id(node)]], [name], name=f"{name}/Identity"))

    def view(self, node: ir.Node, op: ir.View, x: list[str]) -> str:
        flat = self.add("Squeeze", [x[0], self.constant("view/axis", [2], np.int64)], f"{node.name}/Squeeze")
        return self.add("Transpose", [flat], f"{node.name}/Transpose", perm=[0, 2, 1]) if op.channels_last else flat

    def model(self, graph: ir.Graph, names: Sequence[str]) -> Any:
        """The ModelProto, for any batch."""
        helper, kind, source = self.onnx.helper, self.onnx.TensorProto.FLOAT, graph.input
        assert isinstance(source.op, ir.Input)
        inputs = [helper.make_tensor_value_info("input", kind, ["batch", *(source.op.shape or source.shape)])]
        results = [
            helper.make_tensor_value_info(name, kind, ["batch", *node.shape]) for name, node in zip(names, graph.outputs, strict=True)
        ]
        made = helper.make_graph(self.nodes, "network", inputs, results, list(self.constants.values()))
        imports = [helper.make_opsetid("", _OPSET), helper.make_opsetid(QONNX_DOMAIN, 1)]
        return helper.make_model(made, opset_imports=imports, producer_name="ulp", ir_version=9)


def _windows(layer: Any) -> dict[str, Any]:
    y, x = layer.padding
    return {"kernel_shape": layer.kernel_size, "strides": layer.stride, "pads": (y, x, y, x), "ceil_mode": int(layer.ceil_mode)}


def _plain(op_type: str, **attributes: Any) -> Callable[[_Writer, ir.Node, Any, list[str]], str]:
    return lambda writer, node, _, x: writer.add(op_type, x, node.name, **attributes)


_RULES: dict[type, Callable[[_Writer, ir.Node, Any, list[str]], str]] = {
    ir.Input: _Writer.input,
    ir.Conv: _Writer.conv,
    ir.Linear: _Writer.linear,
    ir.BatchNorm: _Writer.norm,
    ir.Clamp: _Writer.clamp,
    ir.MaxPool: _Writer.pool,
    ir.WindowMean: _Writer.mean,
    ir.Gather: _Writer.gather,
    ir.Rearrange: _Writer.rearrange,
    ir.Table: _Writer.table,
    ir.View: _Writer.view,
    ir.Add: _Writer.sum,
    ir.Concat: _plain("Concat", axis=1),
    ir.Flatten: _plain("Flatten", axis=1),
    ir.Identity: _plain("Identity"),
    ir.Quantize: lambda writer, node, op, x: writer.quant(x[0], op.quantizer, node.name),
}
