"""What rules share: the values and constants that a node reads, and the windows that it lays over an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from ulp.nn import graph as ir
from ulp.onnx import views
from ulp.onnx.model import Array, Node, OnnxError
from ulp.onnx.operators import OPERATORS
from ulp.onnx.operators.registry import Call
from ulp.onnx.operators.windows import Geometry, geometry, transposed_window
from ulp.onnx.parts import Value
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger, QuantizedConstant


def floats_of(scope: Scope, name: str, viewed: bool = False) -> Value:
    """A value that is floats; with `viewed` perhaps a view."""
    value = scope.viewed(name) if viewed else scope.value(name)
    if value.integers is not None:
        raise NotInteger("it computes with integers that nothing dequantizes")
    return value


def quantized_of(scope: Scope, name: str, viewed: bool = False) -> Value:
    """A value that holds codes of a known quantizer; with `viewed` perhaps a view."""
    value = floats_of(scope, name, viewed)
    if value.grid is None:
        raise NotInteger("its input is not quantized")
    return value


def image_of(value: Value) -> tuple[int, int, int]:
    """(channels, height, width). NotInteger where the value is no image."""
    if len(value.node.shape) != 3:
        raise NotInteger(f"its input has shape [N, {', '.join(map(str, value.node.shape))}], expected (N, C, H, W)")
    channels, height, width = value.node.shape
    return channels, height, width


def windowed(value: Value) -> tuple[Value, tuple[int, ...]]:
    """A value over which windows slide, and its shape: (C, H, W), or (C, L) of an image of one row."""
    if len(views.shape_of(value)) == 2:
        return views.line(value), views.shape_of(value)
    value = views.image(value)
    return value, image_of(value)


def as_image(numbers: Sequence[int], other: int) -> tuple[int, int]:
    """One number per side of an image; of a sequence, whose image has one row, with `other` for that."""
    first, *rest = numbers
    return (first, *rest) if rest else (other, first)  # type: ignore[return-value]


def as_sequence(value: Value, sides: int) -> Value:
    """What windows made of an image of so many sides: of two, the tensor is the image's only row."""
    if sides == 3:
        return value
    channels, _, length = value.node.shape
    return replace(value, view=views.ordered(channels, length))


def known(scope: Scope, name: str, what: str) -> QuantizedConstant | Array:
    """A constant, as integers if it has them. NotInteger where it is computed."""
    if name in scope.quantized:
        return scope.quantized[name]
    if name in scope.constants:
        return scope.constants[name]
    raise NotInteger(f"its {what} is computed, not constant")


def per_channel(array: Array, x: Value) -> Array:
    """A constant operand of the value as float64 (C,). NotInteger where it differs by pixel."""
    shape, axis = views.shape_of(x), views.channel_axis(x)
    sides = (1,) * (1 + len(shape) - array.ndim) + array.shape
    kept = None if axis is None else 1 + axis
    if len(sides) != 1 + len(shape) or any(side != 1 for i, side in enumerate(sides) if i != kept):
        raise NotInteger(f"its constant of shape {list(array.shape)} has not one value per channel")
    if kept is not None and sides[kept] not in (1, x.node.shape[0]):
        raise NotInteger(f"its constant of shape {list(array.shape)} has not one value per channel")
    return np.broadcast_to(array.astype(np.float64).reshape(-1), (x.node.shape[0],))


def same_view(a: Value, b: Value) -> bool:
    """Whether both tensors have the elements of their images in the same order and shape."""
    if a.view is None or b.view is None:
        return a.view is b.view and a.node.shape == b.node.shape
    return a.node.shape == b.node.shape and np.array_equal(a.view, b.view)


def alike(values: list[Value]) -> list[Value]:
    """Tensors whose elements lie alike in their images, which are moved if they must be."""
    first = values[0]
    if all(same_view(first, value) for value in values):
        return values
    shape = views.shape_of(first)
    if (
        len(shape) > 1
        and all(views.shape_of(value) == shape for value in values)
        and any(views.channel_axis(value) not in (0, None) for value in values)
    ):
        return [views.tokens(value) for value in values]
    return [views.line(value) if len(views.shape_of(value)) == 2 else views.image(value) for value in values]


def through_views(rule: Callable[[Scope, Node], Value]) -> Callable[[Scope, Node], Value]:
    """A rule that treats all elements alike, for views, too: it sees their images, and its result is viewed as they are."""

    def applied(scope: Scope, node: Node) -> Value:
        names = [name for name in dict.fromkeys(node.inputs) if name in scope.values or name in scope.grids]
        given = {name: scope.viewed(name) for name in names}
        found = list(given.values())
        if found and found[0].view is not None and all(same_view(found[0], value) for value in found):
            constants = [array for name in node.inputs if scope.is_constant(name) and (array := scope.constant(name)) is not None]
            if any(array.size != 1 for array in constants):
                raise NotInteger("it treats parts of a sequence in different ways")
            view = found[0].view
            scope.values.update((name, replace(value, view=None)) for name, value in given.items())
            try:
                return replace(rule(scope, node), view=view)
            finally:
                scope.values.update(given)
        made = rule(scope, node)
        begin = made.node
        while not found and len(begin.inputs) == 1:
            begin = begin.inputs[0]
        if not found and made.view is None and isinstance(begin.op, ir.Input) and made.node.shape == begin.shape:  # it began a part
            return replace(made, view=views.root_view(begin))
        return made

    return applied


def quantized_weights(scope: Scope, name: str) -> QuantizedConstant:
    """The integers of a constant. NotInteger where it has none."""
    weights = known(scope, name, "weight")
    if isinstance(weights, QuantizedConstant):
        return weights
    # Floats that are integers: FINN leaves the scales to what follows the layer.
    if weights.dtype.kind == "f" and (np.abs(weights) <= 255).all() and (np.rint(weights) == weights).all():
        ones = (1,) * weights.ndim
        return QuantizedConstant(weights.astype(np.int16), np.ones(ones), np.zeros(ones, np.int64))
    maker = scope.makers.get(name)
    if maker is not None and maker.op_type == "Quant" and scope.is_constant(maker.input(3)):
        raise NotInteger(f"its weights have {scope.scalar(maker.input(3), 'bit width'):g} bits, and integers have 1 to 8")
    raise NotInteger("its weights are not quantized")


def on_grid(scope: Scope, node: Node, value: Value) -> ir.Node:
    """The value's node as a Quantize, which changes nothing: a sum, a normalisation or a float result can begin there."""
    if isinstance(value.node.op, ir.Quantize) or value.grid is None:
        return value.node
    return scope.add(node, ir.Quantize(value.grid), [value.node], value.part, value.node.shape)


def kept(scope: Scope, node: Node, value: Value, made: ir.Node) -> Value:
    """What an operation that only moves codes gives: codes of the same quantizer, if the value holds some."""
    moved = replace(value, node=made, integers=value.integers and replace(value.integers, origin=None), function=None)
    return replace(moved, node=on_grid(scope, node, moved))


def window_geometry(scope: Scope, node: Node, image: tuple[int, ...], kernel: tuple[int, ...], ceil: bool = False) -> Geometry:
    """How the node's windows lie over an image (C, H, W), which may get a frame of its padding."""
    try:
        attributes = OPERATORS[node.op_type].row(scope.opset).check_attributes(node.attributes)
        g = geometry(Call(attributes, scope.opset, 1, scope.limits), image[1:], kernel, ceil)
        scope.limits.check_tensor([image[0], *map(sum, zip(image[1:], g.before, g.after, strict=True))], 1)
        return g
    except OnnxError as error:
        raise OnnxError(f"{node}: {error}") from error


def transposed_geometry(
    scope: Scope, node: Node, sides: tuple[int, ...], kernel: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(stride, dilation, where the result begins in the full one, its sides) of a ConvTranspose."""
    attributes = OPERATORS[node.op_type].row(scope.opset).check_attributes(node.attributes)
    return transposed_window(Call(attributes, scope.opset, 1, scope.limits), sides, kernel)
