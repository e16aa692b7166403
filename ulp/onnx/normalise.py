"""Rewriting quantized operators as DequantizeLinear, the float operator and QuantizeLinear, so that rules see one form only.

This applies to operators whose scales and zero points are constants. Others stay, and run as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from .model import Array, Model, Node


def normalise(model: Model) -> Model:
    """The same model without QLinear operators and QGemm, as far as their quantizers are constants."""
    writer = _Writer(model)
    with np.errstate(all="ignore"):  # scales may be anything here
        for node in model.nodes:
            rule = _RULES.get(node.op_type)
            if rule is None or node.problem or not rule(writer, node):
                writer.nodes.append(node)
    return replace(model, nodes=writer.nodes, constants=writer.constants)


class _Writer:
    def __init__(self, model: Model) -> None:
        self.constants = dict(model.constants)
        self.nodes: list[Node] = []
        self.names = {name for node in model.nodes for name in node.outputs} | {port.name for port in model.inputs} | set(self.constants)

    def known(self, *names: str) -> bool:
        """Whether all these inputs, of those that are given, are constants."""
        return all(not name or name in self.constants for name in names)

    def name(self, wanted: str) -> str:
        """`wanted`, or something like it that nothing is called yet."""
        while wanted in self.names:
            wanted += "'"
        self.names.add(wanted)
        return wanted

    def constant(self, wanted: str, value: Array) -> str:
        name = self.name(wanted)
        self.constants[name] = value
        return name

    def parameter(self, name: str) -> str:
        """A scale or zero point; of one element: as a scalar, which fits any axis."""
        if name and self.constants[name].size == 1 and self.constants[name].ndim:
            return self.constant(f"{name}/scalar", self.constants[name].reshape(()))
        return name

    def dequantize(self, node: Node, first: int, axis: int = 1) -> str:
        """Inputs first .. first + 2 of the node, which are a tensor, its scale and its zero point, as floats."""
        tensor, scale, zero = (node.input(i) for i in range(first, first + 3))
        out = self.name(f"{tensor}/float")
        inputs = (tensor, self.parameter(scale), self.parameter(zero))
        self.nodes.append(Node("DequantizeLinear", f"{node.name}/{first}", inputs if zero else inputs[:2], (out,), {"axis": axis}))
        return out

    def bias(self, node: Node, i: int, scale: Array, axis: int) -> list[str]:
        """Input i, an int32 bias in steps of `scale`, as floats; nothing if it is left out."""
        name = node.input(i)
        if not name:
            return []
        scale = np.asarray(scale, np.float32)
        step = self.constant(f"{name}/scale", scale.reshape(()) if scale.size == 1 else scale)
        out = self.name(f"{name}/float")
        self.nodes.append(Node("DequantizeLinear", f"{node.name}/{i}", (name, step), (out,), {"axis": axis}))
        return [out]

    def compute(self, op_type: str, node: Node, inputs: list[str], scale: str, zero: str, **attributes: object) -> bool:
        """The float operator, under the node's name, and the quantizer of its result. Gives True."""
        if not scale:
            self.nodes.append(Node(op_type, node.name, tuple(inputs), node.outputs, attributes))
            return True
        floats = self.name(f"{node.outputs[0]}/float")
        self.nodes.append(Node(op_type, node.name, tuple(inputs), (floats,), attributes))
        quantizer = (floats, self.parameter(scale), self.parameter(zero))
        self.nodes.append(Node("QuantizeLinear", f"{node.name}/y", quantizer if zero else quantizer[:2], node.outputs[:1]))
        return True


def _conv(w: _Writer, node: Node) -> bool:
    _, x_scale, x_zero, _, w_scale, w_zero, y_scale, y_zero, *_ = (*node.inputs, "")
    if not w.known(x_scale, x_zero, w_scale, w_zero, y_scale, y_zero):
        return False
    inputs = [w.dequantize(node, 0), w.dequantize(node, 3, axis=0)]
    inputs += w.bias(node, 8, w.constants[x_scale] * w.constants[w_scale], axis=0)
    return w.compute("Conv", node, inputs, y_scale, y_zero, **node.attributes)


def _matmul(w: _Writer, node: Node) -> bool:
    parameters = [node.input(i) for i in (1, 2, 4, 5, 6, 7)]
    if not w.known(*parameters) or w.constants[node.inputs[1]].size != 1:
        return False
    return w.compute("MatMul", node, [w.dequantize(node, 0), w.dequantize(node, 3)], *parameters[-2:])


def _gemm(w: _Writer, node: Node) -> bool:
    a_scale, _, b_scale, _, y_scale, y_zero = parameters = [node.input(i) for i in (1, 2, 4, 5, 7, 8)]
    if not w.known(*parameters) or w.constants[a_scale].size != 1:
        return False
    attributes = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0, **node.attributes}
    inputs = [w.dequantize(node, 0), w.dequantize(node, 3, axis=0 if attributes["transB"] else 1)]
    step = np.float32(attributes["alpha"]) * (w.constants[a_scale] * w.constants[b_scale])
    inputs += w.bias(node, 6, step, axis=0)
    return w.compute("Gemm", node, inputs, y_scale, y_zero, **attributes)


def _binary(w: _Writer, node: Node) -> bool:
    if not w.known(*(node.input(i) for i in (1, 2, 4, 5, 6, 7))):
        return False
    return w.compute(node.op_type[len("QLinear") :], node, [w.dequantize(node, 0), w.dequantize(node, 3)], node.input(6), node.input(7))


def _unary(w: _Writer, node: Node) -> bool:
    attributes = dict(node.attributes)
    if not w.known(*(node.input(i) for i in range(1, 5))) or attributes.pop("channels_last", 0):
        return False
    attributes.pop("opset", None)  # QLinearSoftmax's: which definition of the axis holds
    return w.compute(node.op_type[len("QLinear") :], node, [w.dequantize(node, 0)], node.input(3), node.input(4), **attributes)


def _concat(w: _Writer, node: Node) -> bool:
    if not w.known(*node.inputs[:2], *node.inputs[3::3], *node.inputs[4::3]):
        return False
    inputs = [w.dequantize(node, i) for i in range(2, len(node.inputs), 3)]
    return w.compute("Concat", node, inputs, node.inputs[0], node.inputs[1], **node.attributes)


_RULES: dict[str, Callable[[_Writer, Node], bool]] = {
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "QGemm": _gemm,
    "QLinearAdd": _binary,
    "QLinearMul": _binary,
    "QLinearAveragePool": _unary,
    "QLinearGlobalAveragePool": _unary,
    "QLinearLeakyRelu": _unary,
    "QLinearSigmoid": _unary,
    "QLinearConcat": _concat,
}
