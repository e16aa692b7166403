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


def train(network: nn.Module, epochs: int = 4) -> None:
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
