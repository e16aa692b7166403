"""Convolutional networks of Brevitas, trained on digits in seconds and exported as QONNX and QCDQ: what people bring to `ulp.load`."""

from __future__ import annotations

import io
import warnings
from typing import Any

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas.export import export_onnx_qcdq, export_qonnx
from brevitas.quant import (
    Int8ActPerTensorFloat,
    Int8WeightPerChannelFloat,
    Int8WeightPerTensorFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    Uint8ActPerTensorFloat,
)
from sklearn.datasets import load_digits
from torch import nn

TRAIN = 1257

torch.set_num_threads(1)  # layers are small, and the threads of other tests are in the way


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """float32 (1797, 1, 8, 8) from 0 to 1, and the classes."""
    data = load_digits()
    return torch.from_numpy((data.images / 16).astype(np.float32))[:, None], torch.from_numpy(data.target.astype(np.int64))


def convolutional(weight_bits: int, act_bits: int, *, signed: bool = False) -> nn.Sequential:
    """W<weight_bits>A<act_bits> but for 8 bits at the ends: convolutions with batch normalisation, pooling, a linear layer."""

    def act() -> nn.Module:
        if signed:
            return nn.Sequential(
                nn.ReLU(), qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=act_bits, return_quant_tensor=True)
            )
        return qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=act_bits, return_quant_tensor=True)

    def conv(inputs: int, outputs: int, bits: int, **options: Any) -> list[nn.Module]:
        layer = qnn.QuantConv2d(
            inputs, outputs, 3, padding=1, bias=False, weight_quant=Int8WeightPerChannelFloat, weight_bit_width=bits, **options
        )
        return [layer, nn.BatchNorm2d(outputs), act()]

    return nn.Sequential(
        qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=8, return_quant_tensor=True),
        *conv(1, 16, 8),
        *conv(16, 32, weight_bits),
        qnn.QuantMaxPool2d(2, 2, return_quant_tensor=True) if hasattr(qnn, "QuantMaxPool2d") else nn.MaxPool2d(2),
        *conv(32, 32, weight_bits),
        *conv(32, 32, weight_bits, groups=32),
        *conv(32, 64, weight_bits),
        nn.MaxPool2d(2),
        nn.Flatten(),
        qnn.QuantLinear(256, 10, bias=True, weight_quant=Int8WeightPerTensorFloat, weight_bit_width=8),
    )


def binary() -> nn.Sequential:
    """Weights and activations of -1 and +1 between a first and a last layer of 8 bits."""
    return nn.Sequential(
        qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=8, return_quant_tensor=True),
        qnn.QuantConv2d(1, 32, 3, padding=1, bias=False, weight_quant=Int8WeightPerChannelFloat, weight_bit_width=8),
        nn.BatchNorm2d(32),
        qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst, scaling_init=1.0),
        qnn.QuantConv2d(32, 64, 3, padding=1, bias=False, weight_quant=SignedBinaryWeightPerTensorConst, weight_scaling_init=0.1),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(64),
        qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst, scaling_init=1.0),
        qnn.QuantConv2d(64, 64, 3, padding=1, bias=False, weight_quant=SignedBinaryWeightPerTensorConst, weight_scaling_init=0.1),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(64),
        qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst, scaling_init=1.0),
        nn.Flatten(),
        qnn.QuantLinear(256, 10, bias=True, weight_quant=Int8WeightPerTensorFloat, weight_bit_width=8),
    )


def train(network: nn.Module, epochs: int = 3) -> None:
    """A few epochs of Adam, from the same seed each time."""
    torch.manual_seed(0)
    images, classes = digits()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    network.train()
    for _ in range(epochs):
        for batch in torch.randperm(TRAIN).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), classes[batch]).backward()
            optimizer.step()
    network.eval()


def export(network: nn.Module, kind: str, example: torch.Tensor, **options: Any) -> bytes:
    """The file that Brevitas writes; kind: "qonnx" or "qcdq". Any batch size."""
    file = io.BytesIO()
    write = {"qonnx": export_qonnx, "qcdq": export_onnx_qcdq}[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        axes = {"x": {0: "N"}, "y": {0: "N"}}
        write(network, example, export_path=file, dynamo=False, input_names=["x"], output_names=["y"], dynamic_axes=axes, **options)
    return file.getvalue()


class QuantizedSum(nn.Module):
    """A shortcut: both operands by one signed quantizer, then the sum."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.quant = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=bits, return_quant_tensor=True)

    def forward(self, x: Any, y: Any) -> Any:
        """x + y."""
        return self.quant(x) + self.quant(y)


def _conv(inputs: int, outputs: int, kernel: int, stride: int, groups: int, bits: int) -> list[nn.Module]:
    options: dict[str, Any] = {"stride": stride, "padding": kernel // 2, "groups": groups, "bias": False}
    layer = qnn.QuantConv2d(inputs, outputs, kernel, weight_quant=Int8WeightPerChannelFloat, weight_bit_width=bits, **options)
    return [layer, nn.BatchNorm2d(outputs)]


def _relu(bits: int) -> nn.Module:
    return qnn.QuantReLU(act_quant=Uint8ActPerTensorFloat, bit_width=bits, return_quant_tensor=True)


class BasicBlock(nn.Module):
    """Of ResNet-18."""

    def __init__(self, inputs: int, outputs: int, stride: int, bits: int) -> None:
        super().__init__()
        first, second = _conv(inputs, outputs, 3, stride, 1, bits), _conv(outputs, outputs, 3, 1, 1, bits)
        self.body = nn.Sequential(*first, _relu(bits), *second)
        self.shortcut = nn.Sequential(*(_conv(inputs, outputs, 1, stride, 1, bits) if stride > 1 else []))
        self.sum = QuantizedSum(bits)
        self.relu = _relu(bits)

    def forward(self, x: Any) -> Any:
        """relu(body(x) + shortcut(x))."""
        return self.relu(self.sum(self.body(x), self.shortcut(x)))


class InvertedResidual(nn.Module):
    """Of MobileNetV2."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, bits: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        widen = [*_conv(inputs, hidden, 1, 1, 1, bits), _relu(bits)] if expansion > 1 else []
        self.body = nn.Sequential(
            *widen, *_conv(hidden, hidden, 3, stride, hidden, bits), _relu(bits), *_conv(hidden, outputs, 1, 1, 1, bits)
        )
        self.quant = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=bits, return_quant_tensor=True)
        self.sum = QuantizedSum(bits) if stride == 1 and inputs == outputs else None

    def forward(self, x: Any) -> Any:
        """body(x), and x if the shapes allow it."""
        y = self.body(x)
        return self.quant(y if self.sum is None else self.sum(x, y))


def resnet18(bits: int) -> nn.Sequential:
    """ResNet-18 for 224 x 224; 8 bits at the ends."""
    layers: list[nn.Module] = [qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=8, return_quant_tensor=True)]
    layers += [*_conv(3, 64, 7, 2, 1, 8), _relu(bits), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for outputs in (64, 128, 256, 512):
        layers += [BasicBlock(channels, outputs, 1 if outputs == 64 else 2, bits), BasicBlock(outputs, outputs, 1, bits)]
        channels = outputs
    return nn.Sequential(*layers, *_head(channels))


def mobilenet_v2(bits: int) -> nn.Sequential:
    """MobileNetV2 for 224 x 224; 8 bits at the ends."""
    layers: list[nn.Module] = [qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=8, return_quant_tensor=True)]
    layers += [*_conv(3, 32, 3, 2, 1, 8), _relu(bits)]
    channels = 32
    for expansion, outputs, count, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    ):
        for i in range(count):
            layers.append(InvertedResidual(channels, outputs, stride if i == 0 else 1, expansion, bits))
            channels = outputs
    return nn.Sequential(*layers, *_conv(channels, 1280, 1, 1, 1, bits), _relu(bits), *_head(1280))


def _head(channels: int) -> list[nn.Module]:
    linear = qnn.QuantLinear(channels, 1000, bias=True, weight_quant=Int8WeightPerTensorFloat, weight_bit_width=8)
    mean = qnn.QuantIdentity(act_quant=Int8ActPerTensorFloat, bit_width=8, return_quant_tensor=True)
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), mean, linear]


def settle(network: nn.Module, images: torch.Tensor, batches: int = 3) -> nn.Module:
    """Random weights' ranges: the statistics of normalisations and quantizers from some images."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the mean of all batches, not mostly what was there before
    network.train()
    with torch.no_grad():
        for _ in range(batches):
            network(images)
    return network.eval()
