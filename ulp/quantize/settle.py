"""Settling weights and biases layer by layer: each sees what the quantized layers before it give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ulp._progress import progress_bar

from .batches import Batch
from .moments import Moments
from .prepare import Layer, Prepared
from .rounding import round_by_error
from .walk import Walk
from .weights import Settled, as_weight, quantized_weight, rows_of


def settle(
    prepared: Prepared,
    quantized: Any,
    batches: Sequence[Batch],
    bits: Mapping[str, int],
    *,
    second: bool,
    bias_correction: bool,
    minmax: bool,
    progress: bool,
) -> dict[str, Settled]:
    """The weights and biases of the layers that `bits` names.

    quantized: the model with quantizers of activations as arithmetic of floats, and the weights as they were. second: round by second
    moments, else to the nearest.
    """
    floats, codes = Walk(prepared.proto, batches), Walk(quantized, batches)
    opset = next(o.version for o in prepared.proto.opset_import if o.domain in ("", "ai.onnx"))
    found: dict[str, Settled] = {}
    layers = [layer for layer in prepared.layers if layer.name in bits]
    for layer in progress_bar(layers, progress, "quantize", "layer"):
        x, q = floats.inputs_of(layer.y), codes.inputs_of(layer.y)
        weight = prepared.constants[layer.weight]
        moments = None
        if layer.op_type != "ConvTranspose":
            moments = Moments.of(layer, prepared.proto.graph.node[layer.index], x, q, opset, second=second)
        if moments is None or not second:
            made = quantized_weight(layer, weight, bits[layer.name], minmax=minmax)
        else:
            rows = rows_of(weight.astype(np.float64), layer.axis).reshape(layer.groups, -1, moments.mean.shape[1])
            integers, scale = round_by_error(rows, moments, bits[layer.name])
            outputs = layer.shape[layer.axis]
            made = as_weight(integers.reshape(outputs, -1), scale.reshape(outputs, 1), bits[layer.name], layer.shape, layer.axis)
        bias = None
        if bias_correction and moments is not None and (layer.added or layer.op_type != "MatMul"):
            bias = _corrected(layer, prepared, made.values(), moments)
        found[layer.name] = Settled(made, bias)
        codes.settle(layer, made.values(), bias)
    return found


def _corrected(layer: Layer, prepared: Prepared, values: Any, moments: Moments) -> Any:
    """The bias (O,) with which each channel's mean is that of the float network."""
    shape = layer.groups, -1, moments.mean.shape[1]
    exact = rows_of(prepared.constants[layer.weight].astype(np.float64), layer.axis).reshape(shape)
    given = rows_of(values.astype(np.float64), layer.axis).reshape(shape)
    change = (exact @ moments.mean[..., None] - given @ moments.mean_quantized[..., None]).reshape(-1)
    bias = layer.added or layer.bias
    own = prepared.constants[bias].astype(np.float64).reshape(-1) if bias else 0.0
    return np.asarray(own + change, np.float32)
