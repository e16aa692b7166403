"""The ResNet of `float_networks` in Brevitas, at any bits per layer, to train it on: what the last stage of docs/choosing-bits.md does."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import brevitas.nn as qnn
from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Int8WeightPerTensorFloat, Uint8ActPerTensorFloat
from torch import nn

from .brevitas_networks import QuantizedSum
from .float_networks import Residual

Pairs = Mapping[str, tuple[int, int]]
"""Bits of the weights and of the activations of each layer, by its name in the float network."""


def _conv(layer: nn.Conv2d, weight_bits: int) -> nn.Module:
    made = qnn.QuantConv2d(
        layer.in_channels, layer.out_channels, layer.kernel_size, stride=layer.stride, padding=layer.padding, bias=False,
        weight_quant=Int8WeightPerChannelFloat, weight_bit_width=weight_bits,
    )  # fmt: skip
    made.weight.data.copy_(layer.weight.data)
    return made


def _relu(bits: int) -> nn.Module:
    return qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=bits, return_quant_tensor=True)


def _identity(bits: int) -> nn.Module:
    return qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=bits, return_quant_tensor=True)


class _LowBitResidual(nn.Module):
    """A `Residual` whose convolutions read codes; its sum is of 8 bits, its result of those that the next layer reads."""

    def __init__(self, block: Residual, name: str, pairs: Pairs, result_bits: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(block.conv1, pairs[f"{name}.conv1"][0]), block.bn1, _relu(pairs[f"{name}.conv2"][1]),
            _conv(block.conv2, pairs[f"{name}.conv2"][0]), block.bn2,
        )  # fmt: skip
        self.shortcut = nn.Sequential()
        if len(block.shortcut):
            self.shortcut = nn.Sequential(_conv(block.shortcut[0], pairs[f"{name}.shortcut.0"][0]), block.shortcut[1])
        self.sum = QuantizedSum(8)
        self.relu = _relu(result_bits)

    def forward(self, x: Any) -> Any:
        """As of the block."""
        return self.relu(self.sum(self.body(x), self.shortcut(x)))


def low_bit(network: nn.Module, pairs: Pairs) -> nn.Sequential:
    """A copy of `float_networks.resnet()` with these bits and the same weights."""
    float_layers = list(copy.deepcopy(network))
    # What reads each block's result.
    readers = {"2": "3.conv1", "3": "4.conv1", "4": "5.conv1", "5": "8"}
    layers: list[nn.Module] = [_identity(pairs["0"][1])]
    for i, layer in enumerate(float_layers):
        name = str(i)
        if isinstance(layer, nn.Conv2d):
            layers.append(_conv(layer, pairs[name][0]))
        elif isinstance(layer, Residual):
            layers.append(_LowBitResidual(layer, name, pairs, max(pairs[readers[name]][1], 8 if name == "5" else 1)))
        elif isinstance(layer, nn.ReLU):
            layers.append(_relu(pairs[readers[name]][1]))
        elif isinstance(layer, nn.Linear):
            linear = qnn.QuantLinear(
                layer.in_features, layer.out_features, bias=True, weight_quant=Int8WeightPerTensorFloat, weight_bit_width=pairs[name][0]
            )
            linear.load_state_dict(layer.state_dict(), strict=False)
            layers += [_identity(pairs[name][1]), linear]
        else:
            layers.append(layer)
    return nn.Sequential(*layers)
