"""Quantizing float models after training, from calibration data alone. Needs the packages onnx and onnxruntime.

>>> quantized = ulp.quantize.quantize("float.onnx", bits=4, calibrate=images)
>>> print(quantized)                       # a report per layer
>>> network = quantized.load()             # the same as ulp.load("float.onnx", bits=4, calibrate=images)
>>> quantized.save("w4a4.onnx")            # QONNX
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ulp import _options
from ulp.onnx.limits import Limits

from .budget import Budget
from .network import FloatNetwork
from .options import Activations, Rounding, check_options
from .pareto import Choice, LayerChoice, Point
from .prepare import Layer
from .ranges import Ranges
from .request import Bits, assignment_of
from .result import LayerReport, Quantized
from .search import auto

__all__ = [
    "Bits", "Budget", "Choice", "FloatNetwork", "Layer", "LayerChoice", "LayerReport", "Point", "Quantized", "auto", "quantize",
]  # fmt: skip


def quantize(
    model: Any,
    *,
    bits: Any,
    calibrate: Any,
    ranges: Ranges = "mse",
    percentile: float | None = None,
    rounding: Rounding = "gptq",
    bias_correction: bool = True,
    activations: Activations = "static",
    outliers: float | None = None,
    equalize: bool = True,
    first_last_bits: int | None = 8,
    max_ms: float | str | None = None,
    max_drop: float | None = None,
    max_bytes: int | None = None,
    metric: Callable[[Any], float] | None = None,
    example: Any = None,
    target: str | None = None,
    progress: bool = True,
    limits: Limits | None = None,
) -> Quantized:
    """Quantize a float model.

    model: a path, the bytes of a file, or an onnx.ModelProto, of floats.
    bits: for all layers, a width from 1 to 8, or a text with that of weights and that of activations, "W4A8"; or a mapping from names of
        layers, or patterns, to those or to "float": {"conv1": 8, "layer1.*": "W4A3", "head": "float", "*": 4}. print() shows the names.
        Layers that a mapping does not name have 8 bits. An LSTM that is a step of a plan once it is quantized (zeros as first states, last
        states not used, batch first by transpositions, as torch exports it) becomes DynamicQuantizeLSTM, whose activations have 8 bits
        and ranges of the call; bits="auto" leaves it, and GRUs always stay, in floats. The name of a module
        that is called several times is that of all its calls.
    calibrate: inputs like those that will come, some hundred of them: one array (or torch tensor), or an iterable of batches: arrays, dicts
        by input name, or tuples as a DataLoader gives them, of which the first items, or the items of the first, are the inputs; or tuples
        of the first inputs and a dict of the others, like the example of `ulp.compile`.
    ranges: of activations. "minmax" clips nothing, "percentile" all but a share at each end, "mse" minimizes the squared error (with 7 or
        8 bits it clips only where that makes it 16 times smaller), behind an activation where nothing else reads the tensor, so that what a
        hard-swish makes 0 takes no codes, "entropy" the loss of information (Kullback-Leibler divergence).
    percentile: for ranges="percentile", and for that alone, 50 to 100; by default 99.99.
    rounding: of weights: "nearest", or "gptq": so that each layer's result changes least on the calibration data. Of a layer with more than
        1152 weights per output that counts block by block of at most as many, so that time and memory grow with the number of weights and
        not with its third power; where the sums would take more than 1 GiB (some 116000 weights per output), and where the layer's input
        does not vary on the calibration data, weights are rounded to the nearest.
    bias_correction: the mean of each channel of a layer's result becomes that of the float model.
    activations: "static": ranges come from the calibration data. "dynamic": linear layers find the range of each row of what they read
        (each word of a sequence) in the call, which costs some time and clips nothing, and give floats; layers of images have static
        ranges.
    outliers: with activations="dynamic", a magnitude such as 6.0: channels of what a linear layer reads that reach it on the calibration
        data (after `equalize`) are multiplied in float32 beside the integers, and the range of a row is that of its other channels
        (LLM.int8, Dettmers et al., NeurIPS 2022). The report names them by layer.
    equalize: channels of what a layer reads get factors, taken out of the layer, normalization or activation in front of it and moved
        into its weights, where that lowers the error of its result on the calibration data: cross-layer equalization and SmoothQuant.
    first_last_bits: the first and the last layer have at least as many, unless `bits` names them; None: no more than the others.
        bits="auto" has no such rule.
    max_ms, max_drop, max_bytes: with bits="auto", which chooses the bits of every layer, the budget, one or several of them: milliseconds
        of a call (or the time of the network that bits="W4A4" gives, "W4A4", or a share of it, "0.5 W8A8"), points that the metric may lie
        below that of the float model, bytes of the network. Within it the network with the best metric is chosen; with max_drop the
        fastest. Latencies are measured on this CPU with the threads and the instruction set in force. `choice` of the result has the table
        and the Pareto front of all networks that were tried. Needs the package scipy.
    metric: a function of a network (called like that of `ulp.load`, and with the float model once) that gives percent, or any number of
        which more is better. By default the share of predictions on the calibration data that are those of the float model, where the
        first output has shape (N, classes) or holds probabilities; else 100 (1 - |y' - y| / |y|) of the outputs.
    example: an array, or a dict of arrays by input, whose call is timed; by default the first row of the calibration data.
    target: an instruction set ("avx2") by whose kernels' table of costs times are modelled; nothing is timed then.
    progress: show a progress bar.

    Raises ValueError and TypeError, naming argument, value and what is expected; OnnxError for a model that is quantized already or that
    onnxruntime does not run; ImportError without onnx or onnxruntime.
    """
    _options.check_options({}, progress=progress)
    how: dict[str, Any] = {"ranges": ranges, "percentile": percentile, "rounding": rounding, "bias_correction": bias_correction}
    before: dict[str, Any] = {"activations": activations, "outliers": outliers, "equalize": equalize}
    limit = {"max_ms": max_ms, "max_drop": max_drop, "max_bytes": max_bytes}
    search = {"metric": metric, "example": example, "target": target}
    budget = check_options(bits=bits, calibrate=calibrate, first_last_bits=first_last_bits, **before, **how, **limit, **search)
    network = FloatNetwork(model, calibrate, **before, progress=progress, limits=limits)
    if budget is not None:
        return auto(network, budget, progress=progress, **how, **search)
    if not network.names:
        raise ValueError(f"bits={bits!r}: the model has no layers with weights{_left_in_floats(network)}")
    calls = dict(zip(network.names, network.names, strict=True)) | {layer.name: layer.first for layer in network.layers}
    return network.quantized(assignment_of(bits, list(calls), first_last_bits, calls), **how)


def _left_in_floats(network: FloatNetwork) -> str:
    """What else a model has that could be quantized by other means, as the end of an error."""
    found = {node.op_type for node in network._prepared.proto.graph.node} & {"GRU", "LSTM", "RNN"}
    if not found:
        return ""
    kinds = ", ".join(sorted(found))
    return f" that become integers in a file, but {kinds}: ulp.torch.convert makes integer layers of torch's LSTM and GRU"
