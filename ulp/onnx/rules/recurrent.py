"""LSTMs with integers as weights, whose activations are quantized in the call."""

from __future__ import annotations

import numpy as np

from ulp.nn import graph as ir
from ulp.onnx import views
from ulp.onnx.model import Array, Node
from ulp.onnx.parts import Value
from ulp.onnx.recurrences import QuantizedLSTM
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger

from .sequences import floats_or_root

# ONNX has the gates i, o, f, c.
_ORDER = (0, 2, 3, 1)
_DEFAULTS = ["Sigmoid", "Tanh", "Tanh"]


def quantized_lstm(scope: Scope, chain: QuantizedLSTM) -> Value:
    """Layers of DynamicQuantizeLSTM over a sequence (T, C); they may begin a part. The sequence's sides must be known."""
    x = floats_or_root(scope, chain.source)
    if len(views.shape_of(x)) != 2:
        raise NotInteger(f"its input has shape [N, {', '.join(map(str, views.shape_of(x)))}], expected (N, T, C)")
    for node in chain.layers:
        x = _layer(scope, node, views.tokens(x))
    for each in chain.nodes:
        scope.layers.setdefault(each.name, scope.layers[chain.layers[-1].name])
    return x


def _layer(scope: Scope, node: Node, x: Value) -> Value:
    _check_attributes(node)
    steps, features = views.shape_of(x)
    if node.input(4) or node.input(7):
        raise NotInteger("it has lengths of sequences, or peepholes")
    w, r = (_directions(scope, node, i, scale) for i, scale in ((1, 8), (2, 10)))
    count, units = len(w), r[0].integers.shape[1]
    shapes = {(a.integers.shape, b.integers.shape) for a, b in zip(w, r, strict=False)}
    if len(r) != count or shapes != {((4 * units, features), (4 * units, units))}:
        raise NotInteger("the shapes of its weights do not fit")
    direction = _text(node.attributes.get("direction", "forward"))
    if count != (2 if direction == "bidirectional" else 1):
        raise NotInteger(f"it has weights for {count} directions, and is {direction}")
    biases = scope.array(node.inputs[3], "bias") if node.input(3) else np.zeros((count, 8 * units), np.float32)
    if biases.shape != (count, 8 * units) or biases.dtype != np.float32 or not np.isfinite(biases).all():
        raise NotInteger("its biases do not fit")
    made = []
    for d in range(count):
        both = biases[d].reshape(2, 4, units)[:, list(_ORDER)].reshape(2, -1)
        weights = ir.Weights(w[d].integers, w[d].bits, w[d].scale, (both[0] + both[1]).astype(np.float64), w[d].zero)
        op = ir.Recurrent("lstm", weights, r[d], None, None, per_row=False, reverse=direction == "reverse" or d == 1)
        made.append(scope.add(node, op, [x.node], x.part, (units, 1, steps)))
    last = made[0] if count == 1 else x.part.graph.add(ir.Concat(), made, (2 * units, 1, steps), node.name, "Concat")
    return Value(x.part, last, view=np.ascontiguousarray(views.ordered(count * units, steps).T))


def _text(value: object) -> str:
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def _check_attributes(node: Node) -> None:
    known = node.attributes
    given = known.get("activations", ())
    names = [_text(name) for name in given] if isinstance(given, (tuple, list)) else [_text(given)]
    if names != _DEFAULTS * (len(names) // 3):
        raise NotInteger(f"its activations are {', '.join(names)}, expected {', '.join(_DEFAULTS)}")
    for name in ("clip", "input_forget"):
        if known.get(name, 0):
            raise NotInteger(f"its {name} is {known[name]}")


def _directions(scope: Scope, node: Node, at: int, scale_at: int) -> list[ir.Weights]:
    """(directions, K, 4 H) integers as weights (4 H, K) of each direction, gates in torch's order."""
    integers, scale = scope.array(node.inputs[at], "weight"), scope.array(node.input(scale_at), "scale")
    zero = scope.array(node.input(scale_at + 1), "zero point")
    if integers.ndim != 3 or integers.dtype.itemsize != 1 or integers.shape[2] % 4 or 0 in integers.shape:
        raise NotInteger(f"its weights have shape {list(integers.shape)}")
    count, _, columns = integers.shape
    if scale.size not in (count, count * columns) or not (np.isfinite(scale) & (scale > 0)).all() or zero.size not in (count, scale.size):
        raise NotInteger("the scales of its weights are not one per column, or one per direction")
    order = np.arange(columns).reshape(4, -1)[list(_ORDER)].reshape(-1)
    made = []
    for d in range(count):
        less = zero.reshape(count, -1)[d].astype(np.int64)
        if (less != less[0]).any():
            raise NotInteger("its columns have zero points of their own")
        first = 128 if integers.dtype == np.uint8 else 0
        values = np.ascontiguousarray((integers[d].T.astype(np.int16) - first).astype(np.int8)[order])
        steps = np.broadcast_to(scale.reshape(count, -1)[d].astype(np.float64), (columns,))[order]
        made.append(ir.Weights(values, _bits(values, int(less[0]) - first), steps, np.zeros(columns), int(less[0]) - first))
    return made


def _bits(integers: Array, zero: int) -> int:
    """The least width that holds the integers, and their zero, which pads them."""
    low, high = min(int(integers.min()), zero), max(int(integers.max()), zero)
    return next(bits for bits in range(2, 9) if -(2 ** (bits - 1)) <= low and high < 2 ** (bits - 1))
