"""The quantizer of float models, as `compile` calls it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from ulp.quantize import quantize
from ulp.quantize.options import check_options, is_auto

# Arguments of the quantizer that are not options of `compile`, or are named by it.
_OWN = ("model", "bits", "calibrate", "example", "progress", "limits")


def check(options: Mapping[str, Any]) -> None:
    """TypeError for options that the quantizer has not."""
    known = [name for name in inspect.signature(quantize).parameters if name not in _OWN]
    for name in options:
        if name not in known:
            raise TypeError(f"compile() has no argument {name!r}; of the quantizer it takes {', '.join(known)}")


def is_float(bits: Any) -> bool:
    """Whether `bits` asks for the model as it is."""
    return isinstance(bits, str) and bits.lower() == "float"


def timed(bits: Any, example: Any) -> dict[str, Any]:
    """With bits="auto", whose latencies are those of a call with the example, this as the quantizer's argument."""
    return {"example": example} if is_auto(bits) and example is not None else {}


def check_request(bits: Any, calibrate: Any, options: Mapping[str, Any]) -> None:
    """ValueError for a model of floats without bits, or without what bits need; and the quantizer's errors that need no model."""
    if bits is None:
        raise ValueError(
            "the model is of floats: pass bits=4 or bits='W4A8' with calibrate=batches, some hundred inputs from which the ranges come; or "
            "bits='float' to run it as it is"
        )
    if is_float(bits):
        for name in ("calibrate",) * (calibrate is not None) + tuple(options):
            raise ValueError(f"{name}= with bits='float', which quantizes nothing")
        return
    if calibrate is None:
        raise ValueError("bits= without calibrate=: pass some hundred inputs, from which the ranges come, such as calibrate=images[:256]")
    arguments = inspect.signature(quantize).bind(None, bits=bits, calibrate=calibrate, **options)
    arguments.apply_defaults()
    check_options(**{name: value for name, value in arguments.arguments.items() if name not in ("model", "progress", "limits")})
