"""Channels with values so large that they stay floats beside the low-bit product: LLM.int8's decomposition (Dettmers et al., NeurIPS 2022,
section 3.2), with columns that calibration fixes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ulp.onnx.model import Array

from .batches import Batch
from .places import OF_ROWS
from .prepare import Layer, Prepared
from .running import Piece

Columns = tuple[int, ...]


def find(prepared: Prepared, batches: Sequence[Batch], threshold: float) -> dict[str, Columns]:
    """The channels, by tensor that linear layers read, of which a value reaches the threshold on the calibration data."""
    first = {layer.x: layer.name for layer in reversed(prepared.layers) if layer.op_type in OF_ROWS}
    if not first:
        return {}
    given = {port.name for port in prepared.inputs}
    piece = Piece(prepared.proto, prepared.proto.graph.node, [name for name in first if name not in given])
    largest: dict[str, Array] = {}
    for batch in batches:
        made = {**batch, **piece(batch)}
        for name in first:
            of_channels = np.abs(made[name]).reshape(-1, made[name].shape[-1]).max(0, initial=0)
            largest[name] = np.maximum(largest[name], of_channels) if name in largest else of_channels
    found = {}
    for name, magnitudes in largest.items():
        columns = np.flatnonzero(magnitudes >= threshold)
        if 2 * len(columns) > len(magnitudes):
            raise ValueError(
                f"outliers={threshold:g}: {len(columns)} of {len(magnitudes)} channels that layer {first[name]!r} reads reach it; with "
                f"most channels in floats nothing is gained: raise the threshold"
            )
        if len(columns):
            found[name] = tuple(int(column) for column in columns)
    return found


def without(weight: Any, layer: Layer, columns: Columns) -> Any:
    """The weights with zeros for these channels."""
    rest = weight.copy()
    np.moveaxis(rest, layer.axis, -1)[list(columns)] = 0
    return rest


def restored(values: Any, weight: Any, layer: Layer, columns: Columns) -> Any:
    """Values with those of other weights for these channels."""
    whole = values.copy()
    np.moveaxis(whole, layer.axis, -1)[list(columns)] = np.moveaxis(weight, layer.axis, -1)[list(columns)]
    return whole


def of_layers(layers: Sequence[Layer], outliers: Mapping[str, Columns]) -> dict[str, Columns]:
    """The channels by layer, of layers that have some."""
    return {layer.name: outliers[layer.x] for layer in layers if layer.x in outliers and layer.op_type in OF_ROWS}
