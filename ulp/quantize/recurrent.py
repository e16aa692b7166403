"""LSTMs as onnxruntime's DynamicQuantizeLSTM: integers as weights, activations of 8 bits by ranges of the call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ulp.onnx.model import Array

from .lstms import RecurrentLayer
from .weights import rounded, scales_by_error

DOMAIN = "com.microsoft"
ACT_BITS = 8
"""The only width that the operator has for what it multiplies."""


@dataclass(frozen=True)
class RecurrentWeight:
    """int8 (directions, K, 4 H), as the operator has them, and float32 scales (directions, 4 H)."""

    integers: Array
    scale: Array

    def values(self) -> Array:
        """float32 (directions, 4 H, K), as of an LSTM."""
        return np.asarray((self.integers * self.scale[:, None]).transpose(0, 2, 1), np.float32)


def recurrent_weight(weight: Array, bits: int, *, minmax: bool) -> RecurrentWeight:
    """Weights (directions, 4 H, K) at the nearest integers, one scale per row: see `scales_by_error`."""
    directions, rows, columns = weight.shape
    flat = weight.reshape(-1, columns).astype(np.float64)
    scale = scales_by_error(flat, bits, minmax=minmax)
    integers = rounded(flat, scale, bits).reshape(weight.shape).transpose(0, 2, 1).astype(np.int8)
    return RecurrentWeight(np.ascontiguousarray(integers), scale.reshape(directions, rows).astype(np.float32))


def write(writer: Any, layer: RecurrentLayer, weights: tuple[RecurrentWeight, RecurrentWeight]) -> None:
    """The node as DynamicQuantizeLSTM, and a constant as the shape by which directions are joined. writer: `ulp.quantize.write.Writer`."""
    node = writer.nodes[layer.index]
    inputs = [*node.input[:7], *[""] * (8 - min(7, len(node.input)))]
    for i, weight in zip((1, 2), weights, strict=True):
        name = f"{layer.name}/{'WR'[i - 1]}"
        inputs[i] = writer.array(f"{name}/integers", weight.integers)
        inputs += [writer.array(f"{name}/scale", weight.scale), writer.array(f"{name}/zero", np.zeros(weight.scale.shape, np.int8))]
    kept = [a for a in node.attribute if a.name != "layout"]
    copies = [type(a).FromString(a.SerializeToString()) for a in kept]
    del node.input[:], node.attribute[:]
    node.input.extend(inputs)
    node.attribute.extend(copies)
    node.op_type, node.domain = "DynamicQuantizeLSTM", DOMAIN
    if layer.joins is not None:
        writer.nodes[layer.joins].input[1] = writer.array(f"{layer.name}/joined", np.array([0, 0, -1], np.int64))
