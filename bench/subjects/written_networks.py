"""The ResNet of `float_networks` as one writes it in ulp.nn, to compare what `ulp.compile` makes of the torch module with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ulp import nn


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, bits: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bits=bits)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bits=bits)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bits=bits) if stride != 1 else None
        self.relu, self.last, self.add = nn.ReLU(), nn.ReLU(), nn.Add()

    def forward(self, x: Any) -> Any:
        """(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""
        y = self.conv2(self.relu(self.conv1(x)))
        return self.last(self.add(y, x if self.shortcut is None else self.shortcut(x)))


def resnet(bits: int, images: npt.NDArray[np.float32], group: int = 1) -> Any:
    """Calibrated with the images (N, 1, 16, 16) and compiled, with groups of so many; 8 bits in the first and the last layer.

    Its weights are random: their values are nothing to its time.
    """
    nn.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1, bits=8), nn.ReLU(),
        _Residual(24, 24, 1, bits), _Residual(24, 48, 2, bits), _Residual(48, 96, 2, bits),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10, bits=8),
    )  # fmt: skip
    return nn.compile(network.calibrate([images]), images, group=group)
