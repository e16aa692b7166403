"""The epilogues of steps, as `_core.Finish` describes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from ulp import _core

from . import graph as ir
from .quantizer import FloatArray, Quantizer
from .request import Group
from .shapes import LayerError
from .thresholds import thresholds

Mode: TypeAlias = Literal["fp32", "threshold", "requantise"]


def finish_of(mode: Mode, group: Group, offset: int, channels: int, terms: tuple[FloatArray, FloatArray] | None = None) -> _core.Finish:
    """The epilogue of the group's channels offset..offset + channels. terms: scale and bias of those channels, where the step has them.

    Tensors must have their ids.
    """
    slots = [slot.part(offset, channels) for slot in group.slots]
    unit = _unit_of(mode, group)
    finish: _core.Finish = {
        "low": group.low / unit,
        "high": group.high / unit,
        "residual": None if group.residual is None else group.residual.part(offset, channels).place,
        "targets": [slot.place for slot in slots],
        "thresholds": [None] * len(slots),
    }
    if unit != 1:
        finish["unit"] = unit
    if terms is not None:
        finish["scale"], finish["bias"] = terms
    for i, slot in enumerate(slots):
        quantizer = slot.tensor.quantizer
        if quantizer is None or not (quantizer.of_sums or quantizer.ties_to_odd or mode == "threshold"):
            continue
        if terms is not None and group.residual is None:
            bounds, inclusive = _in_units(quantizer, unit).bounds()
            if len(bounds) > 1:
                part = slice(slot.channel, slot.channel + channels)
                bounds, inclusive = bounds[part], inclusive[part]
            finish["thresholds"][i] = thresholds(*terms, finish["low"], finish["high"], bounds, inclusive)
        elif quantizer.of_sums:
            what = "codes of -1 and +1" if quantizer.bipolar else "codes by thresholds"
            raise LayerError(f"{what} come from a Conv2d's or a Linear's sums only, without a shortcut")
    return finish


def finish_of_sums(mode: Mode, group: Group, op: ir.Conv | ir.Linear, offset: int, channels: int) -> _core.Finish:
    """The epilogue of sums of products: scale and bias of the group's channels, each rounded to float32 before it counts in units."""
    w, part, unit = op.weights, slice(offset, offset + channels), _unit_of(mode, group)
    scale = (w.scale[part] * op.quantizer.scale).astype(np.float32) / np.float32(unit)
    finish = finish_of(mode, group, offset, channels, (scale, (w.bias[part] / unit).astype(np.float32)))
    if w.start is not None:
        finish["start"] = w.start[part]
    return finish


def _in_units(quantizer: Quantizer, unit: float) -> Quantizer:
    """The quantizer of values that count in `unit`, which is 1 where a quantizer has steps of its own."""
    return quantizer if unit == 1 else replace(quantizer, scale=quantizer.scale / unit)


def _unit_of(mode: Mode, group: Group) -> float:
    """What the group's values count in: with mode="requantise" the scale of its result, where that is one of codes."""
    first = group.slots[0].tensor.quantizer
    if mode != "requantise" or first is None:
        return 1.0
    if any(slot.tensor.quantizer is None or slot.tensor.quantizer.steps is not None for slot in group.slots):
        return 1.0
    return first.scale
