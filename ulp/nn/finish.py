"""The epilogues of steps, as `_core.Finish` describes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from ulp import _core

from . import graph as ir
from .quantizer import FloatArray, Quantizer
from .request import After, Group
from .shapes import LayerError
from .thresholds import thresholds

Mode: TypeAlias = Literal["fp32", "threshold", "requantize"]


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
    if group.after:
        finish["after"] = [_after(group.after.get(i), offset, channels) for i in range(len(slots))]
    for i, slot in enumerate(slots):
        quantizer = group.quantizer(i)
        if quantizer is None or not (quantizer.of_sums or quantizer.ties_to_odd or mode == "threshold"):
            continue
        if terms is not None and group.residual is None:
            bounds, inclusive = _in_units(quantizer, unit).bounds()
            if len(bounds) > 1:
                first = offset if i in group.after else slot.channel
                part = slice(first, first + channels)
                bounds, inclusive = bounds[part], inclusive[part]
            finish["thresholds"][i] = thresholds(*terms, finish["low"], finish["high"], bounds, inclusive)
        elif quantizer.of_sums:
            what = "codes of -1 and +1" if quantizer.bipolar else "codes by thresholds"
            raise LayerError(f"{what} come from a Conv2d's or a Linear's sums only, without a shortcut")
    return finish


def _after(after: After | None, offset: int, channels: int) -> _core.After | None:
    """A table behind the epilogue of these channels, as a plan has it."""
    if after is None:
        return None
    q, other = after.quantizer, after.other
    place = None if other is None else other.part(offset, channels).place
    return {"bits": q.bits, "zero": q.zero, "scale": q.scale, "other": place, "table": after.table}


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
    """What the group's values count in: with mode="requantize" the scale of its result, where that is one of codes."""
    quantizers = [group.quantizer(i) for i in range(len(group.slots))]
    first = quantizers[0]
    if mode != "requantize" or first is None:
        return 1.0
    if any(quantizer is None or quantizer.steps is not None for quantizer in quantizers):
        return 1.0
    return first.scale
