"""Rewriting quantized operators as DequantizeLinear, the float operator and QuantizeLinear, so that rules see one form only.

This applies to operators whose scales and zero points are constants. Others stay, and run as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from .channels_last import channels_first
from .model import Array, Model, Node
from .rewrites import Names, with_pools_first, with_scales_beside, without_sandwiches


def normalise(model: Model, islands: bool = False) -> Model:
    """The same model without QLinear operators and what onnxruntime fuses, as far as their quantizers are constants.

    islands: whether onnxruntime runs the nodes that are not integer.
    """
    if islands:
        model = with_pools_first(model)
    model = with_scales_beside(without_sandwiches(channels_first(model)))
    writer = _Writer(model, islands)
    with np.errstate(all="ignore"):  # scales may be anything here
        for node in model.nodes:
            rule = _RULES.get(node.op_type)
            needed = _NEEDED.get(node.op_type, 0)
            # onnxruntime's Gelu is older than ONNX's, of which its opset may know nothing.
            clear = not node.problem or (node.op_type, node.domain, len(node.inputs)) == ("Gelu", _MICROSOFT, 1)
            known = rule is not None and clear and all(node.input(i) for i in range(needed))
            if rule is None or not known or not rule(writer, node):
                writer.nodes.append(node)
    return replace(model, nodes=writer.nodes, constants=writer.constants)


_MICROSOFT = "com.microsoft"
_QONNX = "qonnx.custom_op.general"


class _Writer:
    def __init__(self, model: Model, islands: bool) -> None:
        self.islands = islands
        self.constants = dict(model.constants)
        self.opset = model.opset
        self.nodes: list[Node] = []
        self.name = Names(model).new

    def known(self, *names: str) -> bool:
        """Whether all these inputs, of those that are given, are constants."""
        return all(not name or name in self.constants for name in names)

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

    def compute(
        self, op_type: str, node: Node, inputs: list[str], scale: str, zero: str, *, zero_inside: bool = False, **attributes: object
    ) -> bool:
        """The float operator, under the node's name, and the quantizer of its result. Gives True.

        zero_inside: rint(x / scale + zero) in place of rint(x / scale) + zero, which has another result for ties if the zero point is odd.
        """
        if not scale:
            self.nodes.append(Node(op_type, node.name, tuple(inputs), node.outputs, attributes))
            return True
        floats = self.name(f"{node.outputs[0]}/float")
        self.nodes.append(Node(op_type, node.name, tuple(inputs), (floats,), attributes))
        if zero_inside and zero and (self.constants[zero] % 2).any():
            floats = self.rounded(node, floats, scale, zero)
        quantizer = (floats, self.parameter(scale), self.parameter(zero))
        self.nodes.append(Node("QuantizeLinear", f"{node.name}/y", quantizer if zero else quantizer[:2], node.outputs[:1]))
        return True

    def rounded(self, node: Node, floats: str, scale: str, zero: str) -> str:
        """The values that Quant gives, whose zero point is inside of the rounding."""
        z, out = self.constants[zero], self.name(f"{node.outputs[0]}/rounded")
        numbers = [self.constant(f"{out}/number", np.array(number, np.float32)) for number in (z.reshape(-1)[0], 8)]
        options = {"signed": int(z.dtype.kind == "i"), "narrow": 0, "rounding_mode": "ROUND"}
        self.nodes.append(Node("Quant", f"{node.name}/rounded", (floats, self.parameter(scale), *numbers), (out,), options, _QONNX))
        return out


def _ties(ratios: list[Fraction], largest: int) -> bool:
    """Whether sums of integers of up to `largest` times these ratios may lie in the middle between two integers.

    As arithmetic on float32 finds them there: with larger denominators it only ever comes near.
    """
    return math.lcm(*(ratio.denominator for ratio in ratios)) <= 4 * largest


def _fraction(scale: Array) -> Fraction:
    """A scale; 1 for what is none."""
    number = float(scale.reshape(-1)[0]) if scale.size == 1 else 0.0
    return Fraction(number) if math.isfinite(number) and number else Fraction(1)


def _activated(
    w: _Writer,
    node: Node,
    op_type: str,
    inputs: tuple[str, ...],
    attributes: dict[str, Any],
    parameters: tuple[float, ...],
    shortcut: str = "",
) -> bool:
    """The operator that onnxruntime fused with a shortcut and the activation of the attribute `activation`, and these behind it."""
    name = attributes.pop("activation", "")
    if not isinstance(name, str) or (name and name not in _ACTIVATIONS) or not all(isinstance(value, float) for value in parameters):
        return False
    keys = _ACTIVATIONS.get(name, ())
    if len(parameters) < len(keys):
        return False
    floats = w.name(f"{node.outputs[0]}/float") if name else node.outputs[0]
    if shortcut:
        product = w.name(f"{node.outputs[0]}/product")
        w.nodes.append(Node(op_type, node.name, inputs, (product,), attributes))
        w.nodes.append(Node("Add", f"{node.name}/Add", (product, shortcut), (floats,)))
    else:
        w.nodes.append(Node(op_type, node.name, inputs, (floats,), attributes))
    if not name:
        return True
    if name == "Clip" and w.opset >= 11:
        bounds = (w.constant(f"{node.outputs[0]}/{key}", np.array(value, np.float32)) for key, value in zip(keys, parameters, strict=False))
        w.nodes.append(Node("Clip", f"{node.name}/Clip", (floats, *bounds), node.outputs))
    else:
        w.nodes.append(Node(name, f"{node.name}/{name}", (floats,), node.outputs, dict(zip(keys, parameters, strict=False))))
    return True


# Activations that onnxruntime fuses with what is before them, and the attributes of each.
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"), ()),
    **dict.fromkeys(("LeakyRelu", "Elu"), ("alpha",)),
    "Clip": ("min", "max"),
    "HardSigmoid": ("alpha", "beta"),
}


def _fused_conv(w: _Writer, node: Node) -> bool:
    """Conv, + Z, activation."""
    attributes = dict(node.attributes)
    parameters = attributes.pop("activation_params", ())
    if not isinstance(parameters, tuple):
        return False
    inputs = node.inputs[:3] if node.input(2) else node.inputs[:2]
    return _activated(w, node, "Conv", inputs, attributes, parameters, node.input(3))


def _fused_gemm(w: _Writer, node: Node) -> bool:
    attributes = dict(node.attributes)
    given = [attributes.pop(f"activation_{key}", None) for key in ("alpha", "beta", "gamma")]
    return _activated(w, node, "Gemm", node.inputs, attributes, tuple(value for value in given if value is not None))


def _gelu(w: _Writer, node: Node) -> bool:
    """Gelu, BiasGelu and FastGelu of onnxruntime, by operators that every opset has."""
    if node.domain != _MICROSOFT:
        return False
    steps = _Chain(w, node)
    x = steps("Add", *node.inputs[:2]) if node.input(1) else node.inputs[0]
    if node.op_type == "FastGelu":
        root = np.sqrt(2 / np.pi)
        inner = steps("Mul", x, steps("Add", steps("Mul", steps("Mul", x, x), 0.044715 * root), root))
        gate = steps("Tanh", inner)
    else:
        gate = steps("Erf", steps("Mul", x, np.sqrt(0.5)))
    steps.last("Mul", steps("Mul", x, steps("Add", gate, 1.0)), 0.5)
    return True


def _quick_gelu(w: _Writer, node: Node) -> bool:
    """x * sigmoid(alpha * x)."""
    steps = _Chain(w, node)
    steps.last("Mul", node.inputs[0], steps("Sigmoid", steps("Mul", node.inputs[0], node.attributes.get("alpha", 1.702))))
    return True


class _Chain:
    """Elementwise operators in place of a node, the last of which has its name and its result."""

    def __init__(self, writer: _Writer, node: Node) -> None:
        self.writer = writer
        self.node = node
        self.count = 0

    def __call__(self, op_type: str, *inputs: str | float) -> str:
        """The result of an operator of tensors and numbers."""
        self.count += 1
        out = self.writer.name(f"{self.node.outputs[0]}/{self.count}")
        self.writer.nodes.append(Node(op_type, f"{self.node.name}/{self.count}", self._names(inputs), (out,)))
        return out

    def last(self, op_type: str, *inputs: str | float) -> None:
        """The operator that makes the node's result."""
        self.writer.nodes.append(Node(op_type, self.node.name, self._names(inputs), self.node.outputs))

    def _names(self, inputs: tuple[str | float, ...]) -> tuple[str, ...]:
        w, out = self.writer, self.node.outputs[0]
        return tuple(x if isinstance(x, str) else w.constant(f"{out}/number", np.array(x, np.float32)) for x in inputs)


def _scaled_sums(w: _Writer, node: Node, a: tuple[str, str, str], b: tuple[str, str, str], bias: str) -> bool:
    """MatMulInteger of tensors with their zero points, times their scales, plus a bias, where there is one."""
    sums, floats, scale = (w.name(f"{node.outputs[0]}/{what}") for what in ("sums", "floats", "scale"))
    zeros = (a[2] or w.constant(f"{a[0]}/zero", np.zeros((), np.uint8)) if b[2] else a[2], b[2])
    w.nodes.append(Node("MatMulInteger", node.name, tuple(name for name in (a[0], b[0], *zeros) if name), (sums,)))
    w.nodes.append(Node("Cast", f"{node.name}/Cast", (sums,), (floats,), {"to": 1, "through": 0}))
    w.nodes.append(Node("Mul", f"{node.name}/scale", (a[1], b[1]), (scale,)))
    result = w.name(f"{node.outputs[0]}/result") if bias else node.outputs[0]
    w.nodes.append(Node("Mul", f"{node.name}/Mul", (floats, scale), (result,)))
    if bias:
        w.nodes.append(Node("Add", f"{node.name}/Add", (result, bias), node.outputs))
    return True


def _matmul_integer_to_float(w: _Writer, node: Node) -> bool:
    if not w.known(node.input(4)) or (node.input(4) and w.constants[node.input(4)].dtype != np.uint8):
        return False  # of a computed zero point, the type is not known here
    a, b = (node.input(0), node.input(2), node.input(4)), (node.input(1), node.input(3), node.input(5))
    return _scaled_sums(w, node, a, b, node.input(6))


def _dynamic_matmul(w: _Writer, node: Node) -> bool:
    if w.opset < 11:
        return False
    a = tuple(w.name(f"{node.inputs[0]}/{what}") for what in ("codes", "scale", "zero"))
    w.nodes.append(Node("DynamicQuantizeLinear", f"{node.name}/x", node.inputs[:1], a))
    return _scaled_sums(w, node, (a[0], a[1], a[2]), (node.input(1), node.input(2), node.input(3)), node.input(4))


def _conv(w: _Writer, node: Node) -> bool:
    _, x_scale, x_zero, _, w_scale, w_zero, y_scale, y_zero, *_ = (*node.inputs, "")
    if not w.known(x_scale, x_zero, w_scale, w_zero, y_scale, y_zero) or w.constants[x_scale].size != 1:
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
    a, b, y = (_fraction(w.constants[node.inputs[i]]) for i in (1, 4, 6))
    ties = _ties([a * b / y], 255 * 255) if node.op_type == "QLinearMul" else _ties([a / y, b / y], 255)
    inputs = [w.dequantize(node, 0), w.dequantize(node, 3)]
    return w.compute(node.op_type[len("QLinear") :], node, inputs, node.input(6), node.input(7), zero_inside=ties)


def _unary(w: _Writer, node: Node) -> bool:
    attributes = dict(node.attributes)
    if not w.known(*(node.input(i) for i in range(1, 5))) or attributes.pop("channels_last", 0):
        return False
    kernel = attributes.get("kernel_shape")
    ties = False
    if node.op_type == "QLinearAveragePool" and isinstance(kernel, tuple) and len(kernel) <= 3:
        window = max(1, math.prod(side for side in kernel if isinstance(side, int)))
        x, y = (_fraction(w.constants[node.inputs[i]]) for i in (1, 3))
        ties = _ties([x / y / window], 255 * window)
        zero = node.input(4)
        if ties and w.islands and zero and (w.constants[zero] % 2).any():
            return False  # of a window over all of an image, onnxruntime adds the zero point behind rounding; sides are not known here
    kind = node.op_type[len("QLinear") :]
    return w.compute(kind, node, [w.dequantize(node, 0)], node.input(3), node.input(4), zero_inside=ties, **attributes)


def _where(w: _Writer, node: Node) -> bool:
    if not w.known(*(node.input(i) for i in (2, 3, 5, 6, 7, 8))):
        return False
    return w.compute("Where", node, [node.inputs[0], w.dequantize(node, 1), w.dequantize(node, 4)], node.input(7), node.input(8))


def _concat(w: _Writer, node: Node) -> bool:
    if not w.known(*node.inputs[:2], *node.inputs[3::3], *node.inputs[4::3]):
        return False
    inputs = [w.dequantize(node, i) for i in range(2, len(node.inputs), 3)]
    return w.compute("Concat", node, inputs, node.inputs[0], node.inputs[1], **node.attributes)


# How many inputs operators must have that the reader does not check; others stay, and what runs them says what is wrong.
_NEEDED = {"BiasGelu": 2, "FusedConv": 2, "FusedGemm": 2, "DynamicQuantizeMatMul": 3, "MatMulIntegerToFloat": 4, "QLinearWhere": 9}

_RULES: dict[str, Callable[[_Writer, Node], bool]] = {
    "FusedConv": _fused_conv,
    "FusedGemm": _fused_gemm,
    "Gelu": _gelu,
    "BiasGelu": _gelu,
    "FastGelu": _gelu,
    "QuickGelu": _quick_gelu,
    "DynamicQuantizeMatMul": _dynamic_matmul,
    "MatMulIntegerToFloat": _matmul_integer_to_float,
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
    "QLinearWhere": _where,
}
