"""Brevitas' QuantConv2d and QuantLinear as layers of integers.

A layer multiplies integers if its input is quantized: by its own `input_quant`, or by the activation in front of it, which torch.fx finds
through modules that pass values on as they are. The sums are exact; Brevitas adds up the float32 values that the integers stand for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ulp.nn.quantizer import Quantizer

from . import library
from .found import LayerIntegers, Unfit, values_of

# Modules and functions whose results are values of their input, or 0.0.
_KEEPING_MODULES = (
    torch.nn.Dropout,
    torch.nn.Dropout2d,
    torch.nn.Flatten,
    torch.nn.Identity,
    torch.nn.MaxPool2d,
    torch.nn.PixelShuffle,
    torch.nn.ReLU,
)
_KEEPING_FUNCTIONS = (torch.flatten, torch.relu, torch.nn.functional.relu, torch.nn.functional.max_pool2d, torch.nn.functional.dropout)
_KEEPING_METHODS = ("contiguous", "flatten", "permute", "relu", "reshape", "squeeze", "transpose", "unsqueeze", "view")


def input_quants(graphs: Iterable[tuple[str, Any, Any]]) -> dict[int, Any]:
    """By the id of a layer the module that quantizes its input, in the graphs of a model (prefix, part, graph)."""
    found: dict[int, list[Any]] = {}
    for _, part, graph in graphs:
        for node in graph.nodes:
            if node.op == "call_module" and library(layer := part.get_submodule(node.target)) == "brevitas":
                found.setdefault(id(layer), []).append(_quantizing(part, node.args[0] if node.args else node.kwargs.get("input")))
    # A layer that is used twice must get the same codes both times.
    return {key: quants[0] for key, quants in found.items() if quants[0] is not None and all(quant is quants[0] for quant in quants)}


def _quantizing(part: Any, node: Any) -> Any:
    """The enabled proxy that made a node's values, or None."""
    while isinstance(node, torch.fx.Node):
        if node.op == "call_module":
            module = part.get_submodule(node.target)
            for name in ("output_quant", "act_quant"):
                quant = getattr(module, name, None)
                if getattr(quant, "is_quant_enabled", False):
                    return quant
            keeps = isinstance(module, _KEEPING_MODULES) or type(module).__name__ == "QuantUpsamplingNearest2d"
        elif node.op == "call_function":
            keeps = node.target in _KEEPING_FUNCTIONS
        else:
            keeps = node.op == "call_method" and node.target in _KEEPING_METHODS
        if not keeps:
            return None
        node = node.args[0] if node.args else None
    return None


def read(layer: Any, quant: Any) -> LayerIntegers:
    """What the layer, in evaluation, computes with. quant: what quantizes its input, if it does not do so itself.

    Raises Unfit.
    """
    before = layer.input_quant if layer.input_quant.is_quant_enabled else None
    quant = quant if before is None else before
    if quant is None:
        raise Unfit("nothing is known to quantize its input: give it an input_quant, or a quantizing activation that torch.fx can see")
    after = layer.output_quant if layer.output_quant.is_quant_enabled else None
    if layer.return_quant_tensor and after is None:
        raise Unfit("it returns a QuantTensor of sums (return_quant_tensor=True without output_quant)")
    if not layer.weight_quant.is_quant_enabled:
        raise Unfit("its weights are floats")
    with torch.no_grad():
        quantizer = quantizer_of(quant)
        weight = layer.quant_weight()
        integers, bits = _integers(weight)
        channels = len(integers)
        if weight.scale.numel() not in (1, channels) or (weight.scale.numel() > 1 and weight.scale.shape[0] != channels):
            raise Unfit(f"its weights have scales of shape {tuple(weight.scale.shape)}, which are neither one nor one per output channel")
        scale = np.broadcast_to(weight.scale.detach().cpu().float().numpy().reshape(-1), (channels,)).copy()
        bias = None if layer.bias is None else _bias(layer, quant, weight)
    return LayerIntegers(integers, bits, scale, bias, quantizer, before, after, bool(layer.return_quant_tensor))


def quantizer_of(quant: Any) -> Quantizer:
    """The codes of what an activation's proxy gives. Unfit where they are no codes of 1 to 8 bits with one scale."""
    scale, zero, bits = quant.scale(), quant.zero_point(), quant.bit_width()
    if any(t is None or t.numel() != 1 for t in (scale, zero, bits)):
        raise Unfit("its input has no scale, or more than one")
    width, offset = float(bits), float(zero)
    if width not in range(1, 9):
        raise Unfit(f"its input has {width:g} bits")
    width = int(width)
    if width == 1 and quant.is_signed:
        return Quantizer(2, float(scale), 1)  # -1 and +1, and 0 for pads
    code = offset + (2 ** (width - 1) if quant.is_signed else 0)
    if code not in range(2**width):
        raise Unfit(f"its input's zero point {offset:g} is no code of {width} bits")
    return Quantizer(width, float(scale), int(code))


def _integers(weight: Any) -> tuple[npt.NDArray[np.int8], int]:
    """(integers less their zero points, bits)"""
    bits = float(weight.bit_width)
    if bits not in range(1, 9):
        raise Unfit(f"its weights have {bits:g} bits")
    steps = torch.round(weight.value / weight.scale).cpu().numpy()  # the zero point is in the values
    low, high = steps.min(initial=0), steps.max(initial=0)
    if low < -128 or high > 127:
        raise Unfit(f"its weights less their zero point are {low:g}..{high:g}, beyond 8 bits")
    if bits == 1 and (np.abs(steps) == 1).all():
        return steps.astype(np.int8), 1
    needed = int(max(-low - 1, high)).bit_length() + 1
    return steps.astype(np.int8), max(2, int(bits), needed)


def _bias(layer: Any, quant: Any, weight: Any) -> npt.NDArray[np.float32]:
    """The bias as it is added, quantized where the layer does that."""
    bias = layer.bias
    if layer.bias_quant.is_quant_enabled:
        from brevitas.quant_tensor import IntQuantTensor

        nothing = torch.zeros((1,) * 4 if layer.weight.dim() == 4 else (1, 1))
        of = IntQuantTensor(nothing, quant.scale(), quant.zero_point(), quant.bit_width(), quant.is_signed, False)
        bias = layer.bias_quant(bias, of, weight)
    return np.array(values_of(bias).detach().cpu().float().numpy().reshape(-1), np.float32)
