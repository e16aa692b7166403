"""Settling weights and biases layer by layer: each sees what the quantized layers before it give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ulp._progress import progress_bar

from .batches import Batch
from .moments import Moments, moments_fit
from .outliers import Columns, without
from .prepare import Layer, Prepared
from .rounding import Rounding
from .walk import Walk
from .weights import Settled, as_weight, quantized_weight, rows_of

# Widths above, alone, are rounded to the nearest: there it makes no difference that trials would show.
_NEAREST = 6


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
    outliers: Mapping[str, Columns] = MappingProxyType({}),
) -> dict[str, Settled]:
    """The weights and biases of the layers that `bits` names.

    quantized: the model with quantizers of activations as arithmetic of floats, and the weights as they were. second: round by second
    moments, else to the nearest. outliers: by layer, channels that its integers do not multiply.
    """
    floats, codes = Walk(prepared.proto, batches), Walk(quantized, batches)
    opset = next(o.version for o in prepared.proto.opset_import if o.domain in ("", "ai.onnx"))
    found: dict[str, Settled] = {}
    layers = [layer for layer in prepared.layers if layer.name in bits]
    for layer in progress_bar(layers, progress, "quantize", "layer"):
        x, q = floats.inputs_of(layer.y), codes.inputs_of(layer.y)
        (made,) = _settled(
            prepared, layer, x, q, opset, [bits[layer.name]], second, bias_correction, minmax, outliers.get(layer.name, ())
        ).values()
        found[layer.name] = made
        codes.settle(layer, made.weight.values(), made.bias)
    return found


def settled_alone(
    prepared: Prepared,
    batches: Sequence[Batch],
    widths: Sequence[int],
    *,
    second: bool,
    bias_correction: bool,
    minmax: bool,
    progress: bool,
    outliers: Mapping[str, Columns] = MappingProxyType({}),
) -> dict[tuple[str, int], Settled]:
    """Of every layer, at every width: weights and bias by what the layer reads in the float network, whatever becomes of other layers.

    Not as good as `settle`, and found once for all choices of bits.
    """
    floats = Walk(prepared.proto, batches)
    opset = next(o.version for o in prepared.proto.opset_import if o.domain in ("", "ai.onnx"))
    found: dict[tuple[str, int], Settled] = {}
    for layer in progress_bar(prepared.layers, progress, "round", "layer"):
        x = floats.inputs_of(layer.y)
        columns = outliers.get(layer.name, ())
        made = _settled(prepared, layer, x, x, opset, widths, second, bias_correction, minmax, columns, passes=1, nearest=_NEAREST)
        found |= {(layer.name, width): settled for width, settled in made.items()}
    return found


def _settled(
    prepared: Prepared,
    layer: Layer,
    x: list[Any],
    q: list[Any],
    opset: int,
    widths: Sequence[int],
    second: bool,
    bias_correction: bool,
    minmax: bool,
    outliers: Columns,
    *,
    nearest: int = 8,
    **how: int,
) -> dict[int, Settled]:
    """By width. x, q: what the layer reads in the float network and in the quantized one, batch by batch. nearest: what is wider is rounded
    to the nearest, whatever `second` says."""
    weight = prepared.constants[layer.weight]
    if outliers:
        weight = without(weight, layer, outliers)
        rest, same = [_zeroed(each, outliers) for each in x], q is x
        x, q = rest, rest if same else q  # of q the file says it
    second = second and moments_fit(layer)
    moments = None
    if layer.op_type != "ConvTranspose":
        moments = Moments.of(layer, prepared.proto.graph.node[layer.index], x, q, opset, second=second)
    rounding = None
    if moments is not None and second:
        rounding = Rounding(rows_of(weight.astype(np.float64), layer.axis).reshape(layer.groups, -1, moments.mean.shape[1]), moments)
    found = {}
    for width in widths:
        if rounding is None or width > nearest:
            made = quantized_weight(layer, weight, width, minmax=minmax)
        else:
            integers, scale = rounding.at(width, **how)
            outputs = layer.shape[layer.axis]
            made = as_weight(integers.reshape(outputs, -1), scale.reshape(outputs, 1), width, layer.shape, layer.axis)
        bias = None
        if bias_correction and moments is not None and (layer.added or layer.op_type != "MatMul"):
            bias = _corrected(layer, prepared, weight, made.values(), moments)
        found[width] = Settled(made, bias)
    return found


def _zeroed(x: Any, channels: Columns) -> Any:
    rest = x.copy()
    rest[..., list(channels)] = 0
    return rest


def _corrected(layer: Layer, prepared: Prepared, weight: Any, values: Any, moments: Moments) -> Any:
    """The bias (O,) with which each channel's mean is that of the float network."""
    shape = layer.groups, -1, moments.mean.shape[1]
    exact = rows_of(weight.astype(np.float64), layer.axis).reshape(shape)
    given = rows_of(values.astype(np.float64), layer.axis).reshape(shape)
    change = (exact @ moments.mean[..., None] - given @ moments.mean_quantized[..., None]).reshape(-1)
    bias = layer.added or layer.bias
    own = prepared.constants[bias].astype(np.float64).reshape(-1) if bias else 0.0
    return np.asarray(own + change, np.float32)
