"""Resize and Upsample: the nearest pixels are moved; interpolation by a whole factor is a depthwise convolution of integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from ulp.nn import graph as ir
from ulp.nn.quantizer import Quantizer
from ulp.nn.subpixel import spread
from ulp.onnx.model import Array, Node
from ulp.onnx.parts import Value
from ulp.onnx.scope import Scope
from ulp.onnx.weights import NotInteger

from .moves import gathered, indices, small_input
from .operands import image_of
from .steps import codes_by_steps, exactly_by_rounding

_MAX_ELEMENTS = 2**24


def resize(scope: Scope, node: Node) -> Value:
    """Resize and Upsample to the nearest pixel, of integers, too; or between four pixels."""
    if node.attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise NotInteger("it crops, and what lies outside of the image has a value of its own")
    if node.attributes.get("mode", "nearest") != "nearest":
        return _interpolated(scope, node)
    x = scope.value(node.inputs[0])
    if x.grid is None:
        raise NotInteger("its input is not quantized")
    pixels = _resized(scope, node, indices(x))[0, 0].astype(np.int64)
    if not _is_clear(scope, node, image_of(x)[1:], pixels):
        raise NotInteger("which of its pixels are the nearest, roundings decide")
    return gathered(scope, node, x, pixels)


def _is_clear(scope: Scope, node: Node, image: tuple[int, ...], pixels: Array) -> bool:
    """Whether coordinates in float32, as onnxruntime has them, say the same pixels (height', width') as exact ones."""
    get = node.attributes.get
    way, nearest = get("coordinate_transformation_mode", "half_pixel"), get("nearest_mode", "round_prefer_floor")
    if scope.opset < 11 or node.op_type == "Upsample":
        way, nearest = "asymmetric", ""
    scales = _scales(scope, node, image, pixels.shape)
    if image == pixels.shape:
        return bool((pixels.reshape(-1) == np.arange(pixels.size)).all())
    for axis, (side, out) in enumerate(zip(image, pixels.shape, strict=True)):
        indices = pixels[:, 0] // image[1] if axis == 0 else pixels[0] % image[1]
        scale = scales[axis]
        where = _coordinates(side, out, scale, way)
        how = nearest or ("ceil" if scale < 1 else "floor")
        if scale != 1 and (np.clip(_ROUND[how](where), 0, side - 1) != indices).any():
            return False
    return True


def _scales(scope: Scope, node: Node, image: tuple[int, ...], result: tuple[int, ...]) -> list[np.float32]:
    """By how much each side of the image is enlarged."""
    given = [small_input(scope, name) for name in node.inputs[1:] if name][-1].reshape(-1)
    axes = node.attributes.get("axes")
    along = range(len(given)) if axes is None else [axis % 4 for axis in axes]
    if given.dtype.kind == "f":
        of_axes = dict(zip(along, given.astype(np.float32), strict=True))
    else:
        if node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise NotInteger("it keeps the ratio of the sides")
        of_axes = {2 + i: np.float32(out) / np.float32(side) for i, (side, out) in enumerate(zip(image, result, strict=True))}
    return [of_axes.get(axis, np.float32(1)) for axis in (2, 3)]


_ROUND: dict[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda x: np.ceil(x - np.float32(0.5)),
    "round_prefer_ceil": lambda x: np.floor(x + np.float32(0.5)),
}


def _coordinates(side: int, out: int, scale: np.float32, way: str) -> Array:
    """float32 (out,): where each pixel of the result lies in the source, rounded after each operation."""
    half, y = np.float32(0.5), np.arange(out, dtype=np.float32)
    if way == "asymmetric":
        return np.asarray(y / scale)
    if way == "tf_half_pixel_for_nn":
        return np.asarray((y + half) / scale)
    if way == "align_corners":
        return np.asarray(y * np.float32(side - 1) / np.float32(max(out - 1, 1)))
    if way == "pytorch_half_pixel" and out == 1:
        return np.zeros(1, np.float32)
    if way == "half_pixel_symmetric":
        offset = np.float32(side) / 2 * (1 - np.float32(out) / (scale * np.float32(side)))
        return np.asarray(offset + (y + 0.5).astype(np.float64) / scale - 0.5, np.float32)
    return np.asarray((y + half) / scale - half)


def _resized(scope: Scope, node: Node, images: Array) -> Array:
    """What the operator makes of images (1, n, H, W). NotInteger where it resizes more than these."""
    arrays = [small_input(scope, name) if name else None for name in node.inputs[1:]]
    if len(arrays) > 2 and arrays[2] is not None and arrays[2].size:  # the sizes of the whole image, batch and channels among them
        if node.attributes.get("axes") is not None:
            raise NotInteger("it resizes by axes")
        arrays[2] = np.concatenate([np.array(images.shape[:2], arrays[2].dtype), arrays[2][2:]])
    result = scope.run(node, [images, *arrays])[0]
    if result.size == 0:
        raise NotInteger("its result is empty")
    if result.shape[:2] != images.shape[:2]:
        raise NotInteger("it resizes more than the image")
    return result


def _interpolated(scope: Scope, node: Node) -> Value:
    """Linear interpolation by whole factors: sums of codes times integers, which are exact, where the operator rounds each product."""
    x = scope.value(node.inputs[0])
    if x.grid is None:
        raise NotInteger("its input is not quantized")
    channels, *image = image_of(x)
    if node.attributes.get("mode") != "linear" or node.attributes.get("antialias", 0) or node.attributes.get("exclude_outside", 0):
        raise NotInteger("it interpolates by more than the nearest four pixels")
    if sum(image) * image[0] * image[1] > _MAX_ELEMENTS:
        raise NotInteger("its input has too many pixels")
    kernels, norm, pads, places = [], 1, [], []
    for axis, side in enumerate(image):
        # What becomes of each row of ones, or column, says how rows are weighted.
        ones = np.zeros((1, side, *image), np.float32)
        np.moveaxis(ones[0], 1 + axis, 1)[np.arange(side), np.arange(side)] = 1
        weights = _resized(scope, node, ones)[0].take(0, 2 - axis).T
        kernel, first, stride, divisor = _kernel_of(weights)
        kernels.append(kernel)
        norm *= divisor
        at, around = spread(side + 2, stride, 1, len(kernel), first, len(weights))
        places.append(at)
        pads.append(around)
    integers = np.outer(*kernels)
    if integers.max() > 127:  # int8
        raise NotInteger("it enlarges by too much")
    # Pixels outside of the image are those at its edge.
    edges = [np.clip(np.arange(-1, side + 1), 0, side - 1).astype(np.int32) for side in image]
    made = scope.add(node, ir.Gather(*edges), [x.node], x.part, (channels, len(edges[0]), len(edges[1])))
    made = scope.add(node, ir.Gather(*places), [made], x.part, (channels, len(places[0]), len(places[1])))
    taps = np.broadcast_to(integers.astype(np.int8), (channels, 1, *integers.shape))
    bits = int(integers.max()).bit_length() + 1
    own = ir.Weights(np.ascontiguousarray(taps), bits, np.full(channels, 1 / norm), np.zeros(channels))
    assert x.grid is not None
    (top, bottom), (left, right) = pads
    op = ir.Conv(own, x.grid, (1, 1), (top, left, bottom, right), (1, 1), channels)
    size = tuple(len(at) + sum(around) - len(kernel) + 1 for at, around, kernel in zip(places, pads, kernels, strict=True))
    result = Value(x.part, scope.add(node, op, [made], x.part, (channels, *size)))
    return result if x.integers is None else _truncated(scope, node, x, result, norm)


def _truncated(scope: Scope, node: Node, x: Value, result: Value, norm: int) -> Value:
    """The integers of x interpolated, which onnxruntime computes in float32 and then truncates."""
    assert x.grid is not None
    assert x.integers is not None
    if norm & (norm - 1):
        raise NotInteger("it interpolates integers by weights that float32 has not, and truncates")
    grid = Quantizer(x.grid.bits, x.grid.scale, x.grid.zero)
    steps = exactly_by_rounding(grid, x.integers.low, "ROUND_TO_ZERO")
    return replace(codes_by_steps(scope, node, steps, result), grid=grid, integers=replace(x.integers, origin=None))


def _kernel_of(weights: Array) -> tuple[Array, int, int, int]:
    """(kernel of a transposed convolution, where its result begins, stride, divisor) of interpolation weights (size, side).

    The pixels are those of the side and one more at each end, which equals the last one. NotInteger where it is none.
    """
    size, side = weights.shape
    stride = size // side
    if stride == 0 or stride * side != size:
        raise NotInteger("it interpolates by a factor that is no integer")
    far = np.arange(-2 * stride, 2 * stride + 1)  # from a pixel times the stride to a result
    for divisor, values in ((2 * stride, 2 * stride - np.abs(2 * far + 1 - stride)), (stride, stride - np.abs(far))):
        there = np.flatnonzero(values > 0)
        kernel, least = values[there[0] : there[-1] + 1], int(far[there[0]])
        expected = np.zeros((size, side))
        for i in range(-1, side + 1):
            results = i * stride + least + np.arange(len(kernel))
            inside = (results >= 0) & (results < size)
            expected[results[inside], min(max(i, 0), side - 1)] += kernel[inside] / divisor
        if np.allclose(expected, weights, rtol=0, atol=1e-5):
            common = int(np.gcd.reduce([divisor, *kernel]))
            return kernel // common, stride - least, stride, divisor // common
    raise NotInteger("it interpolates by weights that are no multiples of one number")
