"""How long a node takes: a count of operations from the shapes of its inputs, before it runs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .inference import Tensor
from .model import Array, Node

_PRODUCTS = ("MatMul", "Gemm", "MatMulInteger")
_WINDOWS = ("MaxPool", "AveragePool", "LpPool")
_SQUARES = ("TopK", "NonMaxSuppression", "Einsum")
# numpy multiplies integers one by one, 10 to 50 times as slow as floats.
_INTEGERS = 16


def operations(node: Node, arrays: Sequence[Array | None], result: Tensor | None) -> int:
    """An upper bound, but for constant factors. result: what is known of the first result."""
    shapes = [array.shape for array in arrays if array is not None]
    sizes = [math.prod(shape) for shape in shapes]
    made = math.prod(side or 1 for side in result.shape) if result is not None and result.shape is not None else 0
    if node.op_type in _PRODUCTS and len(shapes) > 1 and shapes[0] and shapes[1]:
        columns = shapes[1][0] if node.attributes.get("transB", 0) else shapes[1][-1]
        stack = math.prod(shapes[1][:-2]) if len(shapes[1]) > len(shapes[0]) else 1
        slow = 1 if arrays[0] is not None and arrays[0].dtype.kind == "f" else _INTEGERS
        return sizes[0] * (columns if len(shapes[1]) > 1 else 1) * stack * slow
    if "Conv" in node.op_type and len(shapes) > 1:
        return _INTEGERS * max(made, sizes[0]) * math.prod(shapes[1][1:])
    if node.op_type in _WINDOWS:
        return max(made, *sizes) * math.prod(int(side) for side in node.attributes.get("kernel_shape", ()))
    if node.op_type in _SQUARES:
        return math.prod(sizes)
    return sum(sizes)  # what it makes has a limit in bytes


# onnxruntime compares and adds the elements of windows one by one; products run many at a time.
_ONE_BY_ONE = 64


def operations_of_call(node: Node, shapes: Sequence[tuple[int, ...]], made: int) -> int:
    """What a node computes in each call: multiply-accumulates, and what takes as long as these.

    shapes: of the inputs; made: elements of the first result. The node's attributes may be anything.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if node.op_type in _PRODUCTS and len(shapes) > 1 and shapes[0]:
        inner = shapes[0][0] if node.attributes.get("transA", 0) else shapes[0][-1]
        return made * inner
    if "Conv" in node.op_type and len(shapes) > 1:
        return max(made, sizes[0]) * math.prod(shapes[1][1:])
    if node.op_type in _WINDOWS:
        kernel = node.attributes.get("kernel_shape", ())
        sides = kernel if isinstance(kernel, tuple) and all(isinstance(side, int) for side in kernel) else ()
        return made * math.prod(sides) * _ONE_BY_ONE
    return sum(sizes) + made
