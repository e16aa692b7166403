"""What can be checked of the quantizer's arguments before there is a model: exporting one may take minutes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np

from ulp import _core, _options
from ulp._validate import bit_width

from .budget import Budget
from .ranges import RANGES
from .request import bits_of

Rounding = Literal["nearest", "gptq"]
_ROUNDINGS = ("nearest", "gptq")
Activations = Literal["static", "dynamic"]
_ACTIVATIONS = ("static", "dynamic")


def is_auto(bits: Any) -> bool:
    """Whether the bits of every layer are chosen within a budget."""
    return isinstance(bits, str) and bits.lower() == "auto"


def check_options(
    *,
    bits: Any,
    calibrate: Any,
    ranges: Any,
    percentile: Any,
    rounding: Any,
    bias_correction: Any,
    activations: Any,
    outliers: Any,
    equalize: Any,
    first_last_bits: Any,
    max_ms: Any,
    max_drop: Any,
    max_bytes: Any,
    metric: Any,
    example: Any,
    target: Any,
) -> Budget | None:
    """The budget of bits="auto", None for other bits. Arguments as for `ulp.quantize.quantize`; TypeError and ValueError name the wrong."""
    asked = {"max_ms": max_ms, "max_drop": max_drop, "max_bytes": max_bytes, "metric": metric, "example": example, "target": target}
    automatic = is_auto(bits)
    if not automatic and (given := [name for name, value in asked.items() if value is not None]):
        raise ValueError(f'{given[0]}= with bits={bits!r}: it belongs to bits="auto"')
    if automatic and first_last_bits != 8:
        raise ValueError(f'first_last_bits={first_last_bits!r} with bits="auto": the first and the last layer are chosen like the others')
    budget = Budget(max_ms, max_drop, max_bytes) if automatic else None
    if metric is not None:
        check_metric(metric)
    if target is not None and target not in _core.isas():
        raise ValueError(f"target={target!r}: instruction set {target!r} is unknown; this build knows {', '.join(_core.isas())}")
    if not automatic:
        _check_bits(bits)
    if first_last_bits is not None:
        bit_width(first_last_bits, "first_last_bits")
    check_method(ranges, percentile, rounding, bias_correction)
    check_activations(activations)
    check_outliers(outliers, activations)
    _options.check_options({}, equalize=equalize)
    check_calibrate(calibrate)
    return budget


def check_method(ranges: Any, percentile: Any, rounding: Any, bias_correction: Any) -> None:
    """ValueError or TypeError for ways of quantizing that there are not."""
    if ranges not in RANGES:
        raise ValueError(f"ranges={ranges!r}: expected one of {', '.join(RANGES)}")
    if percentile is not None:
        try:
            within = 50 <= percentile <= 100
        except TypeError:
            raise TypeError(f"percentile={percentile!r}: expected a number from 50 to 100") from None
        if not within:
            raise ValueError(f"percentile={percentile!r}: expected 50 to 100")
        if ranges != "percentile":
            raise ValueError(f'percentile={percentile!r} with ranges={ranges!r}: it belongs to ranges="percentile"')
    if rounding not in _ROUNDINGS:
        raise ValueError(f"rounding={rounding!r}: expected one of {', '.join(_ROUNDINGS)}")
    _options.check_options({}, bias_correction=bias_correction)


def check_activations(activations: Any) -> None:
    """ValueError for a way of quantizing activations that there is not."""
    if activations not in _ACTIVATIONS:
        raise ValueError(f"activations={activations!r}: expected one of {', '.join(_ACTIVATIONS)}")


def check_outliers(outliers: Any, activations: Any) -> None:
    """TypeError or ValueError for a threshold that is none, and for one with ranges that are not of rows."""
    if outliers is None:
        return
    if isinstance(outliers, (bool, np.bool_)) or not isinstance(outliers, (int, float, np.integer, np.floating)):
        raise TypeError(
            f"outliers={outliers!r}: expected a number, the magnitude from which channels of activations stay floats, such as 6.0"
        )
    if not (math.isfinite(outliers) and outliers > 0):
        raise ValueError(f"outliers={outliers!r}: expected a finite number above 0")
    if activations != "dynamic":
        raise ValueError(f'outliers={outliers!r} with activations={activations!r}: it belongs to activations="dynamic"')


def check_metric(metric: Any) -> None:
    """TypeError for what is no function."""
    if not callable(metric):
        raise TypeError(f"metric={metric!r}: expected a function that takes a network and gives a number")


def check_calibrate(calibrate: Any) -> None:
    """ValueError for no data, TypeError for what holds none."""
    if calibrate is None:
        raise ValueError("calibrate=None: quantizing needs some batches of inputs, such as calibrate=images[:256]")
    if not isinstance(calibrate, Iterable) or isinstance(calibrate, (str, bytes)):
        raise TypeError(f"calibrate of type {type(calibrate).__name__}: expected an array, or an iterable of arrays, dicts or tuples")
    if _count(calibrate) == 0:
        raise no_batches()


def no_batches() -> ValueError:
    """For calibration data that are none."""
    return ValueError("calibrate holds no batches (an iterator that was used up?): give at least one, better some hundred inputs")


def _count(batches: Any) -> int | None:
    """How many there are, where that is known before they are made."""
    if isinstance(batches, Mapping) or hasattr(batches, "dtype"):
        return None  # one batch, which is checked with the model's inputs
    try:
        return len(batches)
    except TypeError:  # of an iterator, and of a DataLoader of an iterable data set
        return None


def _check_bits(bits: Any) -> None:
    """The errors of bits that need no names of layers."""
    if not isinstance(bits, Mapping):
        bits_of(bits, "bits")
        return
    if not bits:
        raise ValueError("bits={} names no layer: write {'*': 4} for all of them")
    for pattern, value in bits.items():
        if not isinstance(pattern, str):
            raise TypeError(f"bits has the key {pattern!r}: expected names of layers, or patterns such as 'layer1.*'")
        bits_of(value, f"bits[{pattern!r}]")
