"""QONNX's quantizers in ONNX's own operators, for onnxruntime, which has none of QONNX's.

They take the same steps in float32 as operators/qonnx.py and minifloat.py, and give the same bits but for signs of zeros, which its Where
drops. What cannot be written so (parameters that a call computes, other types than float32, roundings that old opsets lack)
stays with the operators of numpy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from .functions import graphs_of
from .inference import Sides
from .model import Array, Node, OnnxError
from .operators import OPERATORS
from .operators.minifloat import float_limit
from .operators.qonnx import clamp_bounds

Lookup: TypeAlias = Callable[[str], "Array | None"]

_NAMES = {"IntQuant": "Quant"}
_FLOAT = 1
# The first opsets with Where, IsNaN and comparisons of floats; with Round, and Clip with bounds as inputs; with GreaterOrEqual.
_COMPARES, _ROUNDS, _OR_EQUAL = 9, 11, 12
# The exponent of float32's smallest normal number.
_SMALLEST = -126
# A threshold takes three nodes of their own; beyond this many, a search by numpy is faster.
_MAX_STEPS = 32


class _Unknown(Exception):  # noqa: N818  # a reason, not a mistake
    """It cannot be written so, and why."""


@dataclass
class _Writer:
    """The nodes of one quantizer. constant: arrays by name; shape: of the input, None if not known.

    body: whether the node is in a body, where nobody has inferred shapes: parameters of any shape are broadcast when it runs.
    """

    onnx: Any
    node: Node
    constant: Lookup
    shape: Sides | None
    opset: int
    body: bool = False

    def __post_init__(self) -> None:
        self.nodes: list[Any] = []
        row = OPERATORS[self.node.op_type].row(self.opset)
        row.check_node(self.node.inputs, len(self.node.outputs), self.node.attributes)
        self.attributes = row.check_attributes(self.node.attributes)

    def written(self) -> list[Any]:
        """The nodes, by the operator's rule."""
        with np.errstate(all="ignore"):  # a file's numbers may be anything
            _RULES[self.node.op_type](self, self.node.inputs[0], self.node.outputs[0])
        return self.nodes

    def need(self, opset: int) -> None:
        """_Unknown before this opset."""
        if self.opset < opset:
            raise _Unknown(f"needs opset {opset} or later; the model has {self.opset}")

    def parameter(self, i: int) -> Array:
        """Input i, a constant that is broadcast to the tensor and does not make it larger, in float32."""
        array = self.constant(self.node.input(i))
        if array is None:
            raise _Unknown(f"needs a constant in place of {self.node.input(i)!r}")
        if self.shape is None and self.body:
            return array.astype(np.float32)
        if array.ndim > (1 if self.shape is None else len(self.shape)) or (self.shape is None and array.size != 1):
            raise _Unknown(f"has {self.node.input(i)!r} of the shape {list(array.shape)}, which does not fit its input")
        sides = self.shape[len(self.shape) - array.ndim :] if self.shape else ()
        if any(own not in (1, side) for own, side in zip(array.shape, sides, strict=False)):
            raise _Unknown(f"has {self.node.input(i)!r} of the shape {list(array.shape)}, which does not fit its input")
        return array.astype(np.float32)

    def number(self, i: int) -> float:
        """Input i, a constant of one element."""
        array = self.constant(self.node.input(i))
        if array is None or array.size != 1:
            raise _Unknown(f"needs a constant of one element in place of {self.node.input(i)!r}")
        return float(array.reshape(()))

    def scale(self, i: int) -> Array:
        """Input i, constant scales above 0."""
        scale = self.parameter(i)
        if not (np.isfinite(scale) & (scale > 0)).all():
            raise _Unknown(f"needs finite scales above 0 in {self.node.input(i)!r}")
        return scale

    def op(self, op_type: str, *inputs: str | Array | float, result: str = "", **attributes: Any) -> str:
        """A node; its result's name. Numbers among the inputs become float32 constants."""
        names = [x if isinstance(x, str) else self.value(np.asarray(x, np.float32)) for x in inputs]
        result = result or self.name()
        self.nodes.append(self.onnx.helper.make_node(op_type, names, [result], **attributes))
        return result

    def value(self, array: Array) -> str:
        """A constant's name."""
        name = self.name()
        self.nodes.append(self.onnx.helper.make_node("Constant", [], [name], value=self.onnx.numpy_helper.from_array(array)))
        return name

    def name(self) -> str:
        return f"{self.node.outputs[0]}/{self.node.op_type}/{len(self.nodes)}"

    # What QONNX's operators consist of.

    def rounded(self, x: str) -> str:
        """By the attribute rounding_mode."""
        mode = str(self.attributes["rounding_mode"]).upper()
        self.need(_ROUNDS)
        if mode in ("ROUND", "HALF_EVEN"):
            return self.op("Round", x)
        if mode in ("CEIL", "FLOOR"):
            return self.op(mode.capitalize(), x)
        if mode in ("DOWN", "ROUND_TO_ZERO"):
            return self.op("Where", self.op("Less", x, 0.0), self.op("Ceil", x), self.op("Floor", x))
        away: dict[str, Callable[[str], str]] = {
            "UP": lambda size: self.op("Ceil", size),
            "HALF_UP": lambda size: self.op("Floor", self.op("Add", size, 0.5)),
            "HALF_DOWN": lambda size: self.op("Ceil", self.op("Sub", size, 0.5)),
        }
        if mode in away:
            return self.op("Mul", self.op("Sign", x), away[mode](self.op("Abs", x)))
        if mode == "DPU":
            half = self.op("Equal", self.op("Sub", x, self.op("Floor", x)), 0.5)
            return self.op("Where", self.op("And", self.op("Less", x, 0.0), half), self.op("Ceil", x), self.op("Round", x))
        raise _Unknown(f"has rounding_mode={mode!r:.60}")

    def clamped(self, x: str, bits: float) -> str:
        """To the interval of `bits`, then rounded."""
        self.need(_ROUNDS)
        low, high = clamp_bounds(bits, bool(self.attributes["signed"]), bool(self.attributes["narrow"]))
        return self.rounded(self.op("Clip", x, low, high))

    def at_least(self, x: str, bound: str | Array | float) -> str:
        """x >= bound, false for NaN. bound: no NaN."""
        self.need(_COMPARES)
        if self.opset >= _OR_EQUAL:
            return self.op("GreaterOrEqual", x, bound)
        return self.op("Not", self.op("Or", self.op("Less", x, bound), self.op("IsNaN", x)))


def _quant(w: _Writer, x: str, result: str) -> None:
    scale, zero, bits = w.scale(1), w.parameter(2), w.number(3)
    steps = w.op("Div", x, scale)
    shifted = bool(zero.any())
    if shifted:
        steps = w.op("Add", steps, zero)
    codes = w.op("Where", w.at_least(steps, 0.0), 1.0, -1.0) if w.attributes["signed"] and bits == 1 else w.clamped(steps, bits)
    if shifted:
        codes = w.op("Sub", codes, zero)
    w.op("Mul", codes, scale, result=result)


def _bipolar_quant(w: _Writer, x: str, result: str) -> None:
    scale = w.scale(1)
    w.op("Where", w.at_least(x, 0.0), scale, -scale, result=result)


def _multi_threshold(w: _Writer, x: str, result: str) -> None:
    thresholds = w.constant(w.node.input(1))
    if thresholds is None or thresholds.ndim != 2 or thresholds.shape[1] > _MAX_STEPS or np.isnan(thresholds).any():
        raise _Unknown(f"needs constant thresholds [channels, steps], at most {_MAX_STEPS} steps, none of them NaN")
    if thresholds.dtype != np.float32 or thresholds.size == 0:
        raise _Unknown("needs thresholds in float32, at least one")
    if len(thresholds) > 1:
        if w.shape is None or len(w.shape) < 2:
            raise _Unknown("needs one row of thresholds for all channels where its input's shape is not known")
        last = (w.attributes["data_layout"] or ("NWC" if len(w.shape) == 3 else "")) in ("NHWC", "NWC")
        if w.shape[-1 if last else 1] != len(thresholds):
            raise _Unknown(f"has thresholds of {len(thresholds)} channels, which do not fit its input")
        ones = (1,) * (0 if last else len(w.shape) - 2)
        bounds = [column.reshape(-1, *ones) for column in thresholds.T]
    else:
        bounds = [column[0] for column in thresholds.T]
    counts = [w.op("Cast", w.at_least(x, bound), to=_FLOAT) for bound in bounds]
    factor, shift = (np.float32(w.attributes[name]) for name in ("out_scale", "out_bias"))
    w.op("Add", w.op("Mul", w.op("Sum", *counts), factor), shift, result=result)


def _trunc(w: _Writer, x: str, result: str) -> None:
    scale, zero = w.scale(1), w.parameter(2)
    w.need(_ROUNDS)
    steps = w.op("Round", w.op("Add", w.op("Div", x, scale), zero))
    if not w.node.input(5):
        dropped = w.number(3) - w.number(4)
        if not 0 <= dropped <= 32:
            raise _Unknown(f"drops {dropped} bits: expected 0 to 32")
        kept = w.rounded(w.op("Div", steps, np.float32(2**dropped)))
        w.op("Mul", w.op("Sub", kept, zero), scale, result=result)
        return
    out_scale = w.scale(4)
    ratio = np.exp2(np.rint(np.log2(out_scale / scale)))
    kept = w.clamped(w.op("Div", steps, ratio), w.number(5))
    w.op("Mul", w.op("Sub", kept, zero / ratio), out_scale, result=result)


def _float_quant(w: _Writer, x: str, result: str) -> None:
    scale, exponent, mantissa = w.scale(1), w.number(2), w.number(3)
    bias = w.number(4) if w.node.input(4) else 2 ** (exponent - 1) - 1
    max_val = w.number(5) if w.node.input(5) else math.inf
    high = float_limit(exponent, mantissa, bias, max_val)
    lowest = 1 - bias - mantissa
    saturates = bool(w.attributes["saturation"])
    # Numbers just below a power of two may count as that power: only rounding to the nearest does not show it.
    if str(w.attributes["rounding_mode"]).upper() not in ("ROUND", "HALF_EVEN") or lowest < _SMALLEST:
        raise _Unknown("needs rounding_mode='ROUND' and steps that float32 has as normal numbers")
    if not saturates and not (w.attributes["has_inf"] or w.attributes["has_nan"]):
        raise _Unknown("needs saturation, infinity or NaN for what is beyond its largest number")
    scaled = w.op("Div", x, scale)
    size = w.op("Add", w.op("Abs", scaled), np.finfo(np.float32).tiny)
    # The exponent: by a logarithm, which is one off now and then, and comparisons with powers.
    guess = w.op("Floor", w.op("Mul", w.op("Log", size), 1 / math.log(2)))
    above = w.op("Cast", w.at_least(size, w.op("Pow", 2.0, w.op("Add", guess, 1.0))), to=_FLOAT)
    below = w.op("Cast", w.op("Less", size, w.op("Pow", 2.0, guess)), to=_FLOAT)
    power = w.op("Sub", w.op("Add", guess, above), below)
    step = w.op("Pow", 2.0, w.op("Max", w.op("Sub", power, mantissa), lowest))
    rounded = w.op("Mul", step, w.rounded(w.op("Div", scaled, step)))
    clipped = w.op("Clip", rounded, -high, high)
    if not saturates:
        beyond = w.op("Greater", w.op("Abs", rounded), high)
        instead = w.op("Where", w.op("Less", rounded, 0.0), -math.inf, math.inf) if w.attributes["has_inf"] else math.nan
        clipped = w.op("Where", beyond, instead, clipped)
    w.op("Mul", clipped, scale, result=result)


_RULES: Mapping[str, Callable[[_Writer, str, str], None]] = {
    "Quant": _quant,
    "BipolarQuant": _bipolar_quant,
    "MultiThreshold": _multi_threshold,
    "Trunc": _trunc,
    "FloatQuant": _float_quant,
}


def standard(onnx: Any, node: Node, constant: Lookup, kind: int, shape: Sides | None, opset: int) -> list[Any] | None:
    """The NodeProtos that give the node's result; None where there are none.

    constant: known tensors by name, else None. kind: the number of the input's type; shape: its sides, None if not known.
    """
    if node.op_type not in _RULES or kind != _FLOAT or node.problem:
        return None
    try:
        return _Writer(onnx, node, constant, shape, opset).written()
    except (_Unknown, OnnxError):
        return None


def is_quantizer(op_type: str) -> bool:
    """Whether `standard` may know a node of this operator."""
    return _NAMES.get(op_type, op_type) in _RULES


def with_standard_bodies(onnx: Any, proto: Any, constant: Lookup, opset: int) -> Any:
    """A NodeProto with quantizers written out in the graphs among its attributes; itself where there are none."""
    if not any(_has_quantizers(graph) for a in proto.attribute for graph in graphs_of(a)):
        return proto
    copy = onnx.NodeProto()
    copy.CopyFrom(proto)
    stack = [(graph, constant) for a in copy.attribute for graph in graphs_of(a)]
    while stack:
        graph, outside = stack.pop()
        known = _lookup(onnx, graph, outside)
        nodes = []
        for inner in graph.node:
            nodes += _written(onnx, inner, known, opset) or [inner]
        nodes = [_copied(onnx, inner) for inner in nodes]
        del graph.node[:]
        graph.node.extend(nodes)
        stack += [(deeper, known) for inner in graph.node for a in inner.attribute for deeper in graphs_of(a)]
    return copy


def _copied(onnx: Any, proto: Any) -> Any:
    copy = onnx.NodeProto()
    copy.CopyFrom(proto)
    return copy


def _has_quantizers(graph: Any) -> bool:
    stack = [graph]
    while stack:
        for node in stack.pop().node:
            if is_quantizer(node.op_type):
                return True
            stack += [deeper for a in node.attribute for deeper in graphs_of(a)]
    return False


def _lookup(onnx: Any, graph: Any, outside: Lookup) -> Lookup:
    """Constants as a graph inside of a node sees them."""
    own: dict[str, Any] = {tensor.name: tensor for tensor in graph.initializer}
    made = {port.name for port in graph.input}
    for node in graph.node:
        made.update(node.output)
        if node.op_type == "Constant" and node.output and len(node.attribute) == 1 and node.attribute[0].HasField("t"):
            own[node.output[0]] = node.attribute[0].t

    def constant(name: str) -> Array | None:
        if name not in own:
            return None if name in made else outside(name)
        try:
            array: Array = onnx.numpy_helper.to_array(own[name])
        except Exception:  # onnx raises many kinds for what is wrong in a tensor
            return None
        return array

    return constant


def _written(onnx: Any, proto: Any, constant: Lookup, opset: int) -> list[Any] | None:
    """The nodes for one of a body, whose types nobody has inferred: its scale has the type of its input. None for what is no quantizer.

    OnnxError for a quantizer that cannot be written so: numpy runs no bodies, and onnxruntime has no quantizers.
    """
    if not is_quantizer(proto.op_type) or not proto.output:
        return None
    op_type = _NAMES.get(proto.op_type, proto.op_type)
    try:
        attributes = {a.name: _plain(onnx.helper.get_attribute_value(a)) for a in proto.attribute}
    except Exception:  # onnx raises many kinds for what is wrong in an attribute
        return None
    node = Node(op_type, proto.name, tuple(proto.input), tuple(proto.output), attributes, proto.domain)
    name = node.input(1)
    scale, x = constant(name), constant(node.input(0))
    try:
        if scale is not None and scale.dtype != np.float32:
            raise _Unknown(f"has {name!r} in {scale.dtype}: expected float32")
        writer = _Writer(onnx, node, constant, None if x is None else x.shape, opset, body=True)
        return writer.written()
    except (_Unknown, OnnxError) as why:
        raise OnnxError(f"{node} in a body of If, Loop or Scan {why}") from why


def _plain(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
