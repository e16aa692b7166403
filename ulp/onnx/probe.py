"""Running float nodes once while a model is built, for the shapes and types of their results.

The arrays of a probe are right in shape and type for a batch of one. Their values are right only where they follow from constants and from
shapes; all other values are 0. An operator whose result's shape depends on such a value is not run, and the shape counts as unknown.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .model import Array, Node

_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")

# Inputs by whose values a result has its shape.
_SHAPING: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Expand", "Reshape", "Split", "Squeeze", "Tile", "TopK", "Unsqueeze", "Upsample"), (1,)),
    **{f"Reduce{name}": (1,) for name in _REDUCTIONS},
    "ConstantOfShape": (0,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
}

# Operators with scales among their inputs, none of which may be 0.
_SCALED = ("QuantizeLinear", "DequantizeLinear", "Quant", "BipolarQuant", "Trunc", "QLinearConv", "QLinearMatMul")

# What gives true values for inputs of any values.
_OF_SHAPES = ("Shape", "Size")


def gives_values(node: Node, known: Sequence[bool]) -> bool:
    """Whether the values of a probe's results are right. known: whether those of each input are."""
    return node.op_type in _OF_SHAPES or all(known)


def has_shape(node: Node, known: Sequence[bool]) -> bool:
    """Whether the shapes of a probe's results are right."""
    return all(known[i] for i in _SHAPING.get(node.op_type, ()) if i < len(known))


def arrays(node: Node, samples: Sequence[Array | None], known: Sequence[bool]) -> list[Array | None]:
    """What the node is run on: samples, but 1 for floats that may be scales and are not known."""
    if node.op_type not in _SCALED:
        return list(samples)
    return [
        np.ones_like(sample) if i > 0 and sample is not None and sample.dtype.kind == "f" and not known[i] else sample
        for i, sample in enumerate(samples)
    ]
