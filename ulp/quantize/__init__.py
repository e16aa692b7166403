"""Quantizing float models after training, from calibration data alone. Needs the packages onnx and onnxruntime.

>>> quantized = ulp.quantize.quantize("float.onnx", bits=4, calibrate=images)
>>> print(quantized)                       # a report per layer
>>> network = quantized.load()             # the same as ulp.load("float.onnx", bits=4, calibrate=images)
>>> quantized.save("w4a4.onnx")            # QONNX
"""

from __future__ import annotations

from typing import Any

from ulp.onnx.limits import Limits

from .network import FloatNetwork, Ranges, Rounding
from .prepare import Layer
from .request import Bits, assignment_of
from .result import LayerReport, Quantized

__all__ = ["Bits", "FloatNetwork", "Layer", "LayerReport", "Quantized", "quantize"]


def quantize(
    model: Any,
    *,
    bits: Any,
    calibrate: Any,
    ranges: Ranges = "mse",
    rounding: Rounding = "nearest",
    first_last_bits: int | None = 8,
    progress: bool = True,
    limits: Limits | None = None,
) -> Quantized:
    """Quantize a float model.

    model: a path, the bytes of a file, or an onnx.ModelProto, of floats.
    bits: for all layers, a width from 1 to 8, or a text with that of weights and that of activations, "W4A8"; or a mapping from names of
        layers, or patterns, to those or to "float": {"conv1": 8, "layer1.*": "W4A3", "head": "float", "*": 4}. print() shows the names.
    calibrate: inputs like those that will come, some hundred of them: one array (or torch tensor), or an iterable of batches: arrays, dicts
        by input name, or tuples as a DataLoader gives them, of which the first items are the inputs.
    ranges: how ranges of activations are found: "minmax" clips nothing, "percentile" 0.01 % at each end, "mse" minimizes the squared error.
    rounding: "nearest".
    first_last_bits: the first and the last layer have at least as many, unless `bits` names them; None: no more than the others.
    progress: show a progress bar.

    Raises ValueError and TypeError, naming argument, value and what is expected; OnnxError for a model that is quantized already or that
    onnxruntime does not run; ImportError without onnx or onnxruntime.
    """
    network = FloatNetwork(model, calibrate, progress=progress, limits=limits)
    assignment = assignment_of(bits, [layer.name for layer in network.layers], first_last_bits)
    return network.quantized(assignment, ranges=ranges, rounding=rounding)
