"""What torch.export and torchao's pt2e quantization make: a graph in which aten.conv2d and aten.linear lie between dequantize and quantize.

Each such node whose input and weights are dequantized becomes a layer of their integers, in the graph's own place. The sums are exact; the
graph adds up the float32 values that the integers stand for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ulp import nn
from ulp.nn.quantizer import Quantizer

from .found import Unfit

_aten = torch.ops.aten
_CONV, _SAME_CONV, _LINEAR = _aten.conv2d.default, _aten.conv2d.padding, _aten.linear.default
# Functions whose results are values of their input, or 0.0.
_KEEPING = (
    _aten.flatten.using_ints,
    _aten.max_pool2d.default,
    _aten.permute.default,
    _aten.relu.default,
    _aten.reshape.default,
    _aten.view.default,
)
# Other operators with weights, by how their names begin.
_UNSUPPORTED = ("conv1d.", "conv3d.", "conv_transpose", "convolution.", "bilinear.", "lstm.", "gru.", "rnn_", "embedding.")
_PER_TENSOR = "quantized_decomposed.dequantize_per_tensor.default"
_PER_CHANNEL = "quantized_decomposed.dequantize_per_channel.default"


def layers(model: Any) -> Iterator[tuple[Any, Any]]:
    """(node, its layer of `ulp.nn`, or the Unfit that says why there is none) for each convolution and product of a quantized graph."""
    nodes = model.graph.nodes
    if not any(_operator(node).startswith("quantized_decomposed.") for node in nodes):
        return
    for node in list(nodes):
        if node.op == "call_function" and _operator(node).removeprefix("aten.").startswith(_UNSUPPORTED):
            yield node, Unfit(f"{_operator(node)} is not supported")
        elif node.op == "call_function" and node.target in (_CONV, _SAME_CONV, _LINEAR):
            try:
                yield node, _layer(model, node)
            except Unfit as reason:
                yield node, reason


def put(model: Any, node: Any, layer: torch.nn.Module) -> None:
    """Have the layer compute what the node does; what only the node read leaves the graph."""
    name = f"ulp_{node.name}"
    model.add_submodule(name, layer)
    with model.graph.inserting_before(node):
        node.replace_all_uses_with(model.graph.call_module(name, (node.args[0],)))
    unused = [node]
    for candidate in unused:  # it grows
        if not candidate.users:
            sources = candidate.all_input_nodes if candidate is not node else [n for n in node.all_input_nodes if n is not node.args[0]]
            model.graph.erase_node(candidate)
            unused += [source for source in sources if source.op != "placeholder"]
            if candidate.op == "get_attr":
                _forget(model, candidate.target)


def _operator(node: Any) -> str:
    """The operator's name, "" for a node of another kind."""
    return str(node.target) if node.op == "call_function" else ""


def _layer(model: Any, node: Any) -> Any:
    """The nn.Conv2d or nn.Linear of a node's integers. Raises Unfit."""
    arguments = [*node.args, *[None] * (7 - len(node.args))]
    source, weight, bias = arguments[:3]
    while source.op == "call_function" and source.target in _KEEPING:
        source = source.args[0]
    quantizer = _quantizer(source)
    integers, scale = _weights(model, weight)
    low, high = integers.min(), integers.max()
    if low < -128 or high > 127:
        raise Unfit(f"its weights less their zero points are {low}..{high}, beyond 8 bits")
    bits = max(2, int(max(-low - 1, high)).bit_length() + 1)
    values = None if bias is None else _tensor(model, bias).float().numpy()
    given = integers.astype(np.int8), scale, values, quantizer.scale, quantizer.zero
    options: dict[str, Any] = {"bits": bits, "act_bits": quantizer.bits}
    if node.target is _LINEAR:
        return nn.Linear.from_quantized(*given, **options)
    stride, padding, dilation, groups = arguments[3:]
    options |= {"stride": _pair(stride, 1), "dilation": _pair(dilation, 1), "groups": groups or 1}
    return nn.Conv2d.from_quantized(*given, padding=padding if isinstance(padding, str) else _pair(padding, 0), **options)


def _pair(sides: Any, usual: int) -> Any:
    if not sides:
        return usual, usual
    return tuple(sides) if len(sides) == 2 else (sides[0], sides[0])


def _quantizer(node: Any) -> Quantizer:
    """Of the values that a dequantize gives."""
    if _operator(node) != _PER_TENSOR:
        raise Unfit(f"its input is not dequantized by one scale that is known, but comes from {node.name}")
    scale, zero, low, high = node.args[1:5]
    bits = int(high - low).bit_length()
    if not all(isinstance(value, (int, float)) for value in (scale, zero)) or bits > 8 or not math.isfinite(scale):
        raise Unfit(f"its input has {bits} bits with scale {scale} and zero point {zero}")
    return Quantizer(bits, float(scale), int(zero) - int(low))


def _weights(model: Any, node: Any) -> tuple[Any, Any]:
    """(integers less their zero points, int32, of the weights' shape; scales float32 (O,))"""
    if _operator(node) == _PER_TENSOR:
        integers = _tensor(model, node.args[0]).int()
        scale, zero = torch.tensor(float(node.args[1])), torch.tensor(int(node.args[2]))
    elif _operator(node) == _PER_CHANNEL and node.args[3] == 0:
        integers = _tensor(model, node.args[0]).int()
        scale, zero = (_tensor(model, argument) for argument in node.args[1:3])
    else:
        raise Unfit("its weights are not dequantized by one scale, or one per output channel")
    sides = (-1,) + (1,) * (integers.dim() - 1)
    less = integers - zero.int().reshape(sides)
    return less.numpy(), scale.float().reshape(-1).expand(len(integers)).numpy().copy()


def _tensor(model: Any, node: Any) -> torch.Tensor:
    """A tensor that the graph holds."""
    if node.op != "get_attr":
        raise Unfit(f"its {node.name} is calculated")
    owner: Any = model
    for name in node.target.split("."):
        owner = getattr(owner, name)
    return owner.detach().cpu()


def _forget(model: Any, target: str) -> None:
    """Delete a tensor that no node reads any more."""
    if any(node.op == "get_attr" and node.target == target for node in model.graph.nodes):
        return
    path, _, name = target.rpartition(".")
    delattr(model.get_submodule(path), name)
