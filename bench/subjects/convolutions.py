"""Single convolutions of well-known networks: shapes, operands, and the exact result in int64.

Activations are uint8 (H, W, C), weights int8 (N, kernel, kernel, C / groups), batch 1, no bias. What a layer returns is uint8 (H', W', N):
clamp(rint(accumulator / step), 0, 255), a ReLU at zero point 0, with a power of two as the step, so that the right answer is known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import operands as values


@dataclass(frozen=True)
class Convolution:
    """One layer. network: where it stands."""

    network: str
    height: int
    width: int
    channels: int
    filters: int
    kernel: int
    stride: int = 1
    groups: int = 1

    @property
    def padding(self) -> int:
        """As many rows and columns as keep the size at stride 1."""
        return self.kernel // 2

    @property
    def out(self) -> tuple[int, int]:
        """Height and width of the result."""
        height, width = ((size + 2 * self.padding - self.kernel) // self.stride + 1 for size in (self.height, self.width))
        return height, width

    @property
    def depth(self) -> int:
        """Products in one sum."""
        return self.kernel**2 * self.channels // self.groups

    @property
    def gemm(self) -> tuple[int, int, int]:
        """M, N, K of the equivalent product."""
        return self.out[0] * self.out[1], self.filters, self.depth

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        m, n, k = self.gemm
        return m * n * k

    @property
    def name(self) -> str:
        """As in "3x3 56x56x64 to 64"."""
        kind = f"{self.kernel}x{self.kernel}" + (f"/{self.stride}" if self.stride > 1 else "") + (" depthwise" if self.depthwise else "")
        return f"{kind} {self.height}x{self.width}x{self.channels} to {self.filters}"

    @property
    def depthwise(self) -> bool:
        """Whether there is one filter per channel."""
        return self.groups == self.channels > 1


LAYERS: tuple[Convolution, ...] = (
    *(Convolution("ResNet-18", size, size, c, c, 3) for size, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
    *(Convolution("ResNet-18", size, size, c, 2 * c, 3, 2) for size, c in ((56, 64), (28, 128), (14, 256))),
    *(Convolution("ResNet-18", size, size, c, 2 * c, 1, 2) for size, c in ((56, 64), (28, 128), (14, 256))),
    *(Convolution("ResNet-50", size, size, 4 * c, c, 1) for size, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
    *(Convolution("ResNet-50", size, size, c, 4 * c, 1) for size, c in ((56, 64), (28, 128), (14, 256), (7, 512))),
    *(Convolution("MobileNetV2", size, size, c, c, 3, 1, c) for size, c in ((112, 32), (56, 144), (14, 384), (7, 960))),
    Convolution("MobileNetV2", 28, 28, 192, 192, 3, 2, 192),
    Convolution("GoogLeNet of the paper", 28, 28, 16, 32, 5),
)
QUICK = (Convolution("small", 12, 12, 16, 32, 3), Convolution("small", 12, 12, 32, 32, 3, 2, 32))


def operands(layer: Convolution, a_bits: int, w_bits: int) -> tuple[values.U8, values.S8]:
    """Uniform random activations (H, W, C) and weights (N, kernel, kernel, C / groups) of these widths; 1-bit weights are -1 and +1."""
    a = values.activations(layer.height * layer.width, layer.channels, a_bits).reshape(layer.height, layer.width, layer.channels)
    shape = (layer.filters, layer.kernel, layer.kernel, layer.channels // layer.groups)
    return a, values.weights(layer.filters, layer.depth, w_bits).reshape(shape)


def accumulators(layer: Convolution, a: values.U8, w: values.S8) -> values.I64:
    """The exact sums (H', W', N), padding with 0: float64 products of integers below 2^53 are exact."""
    height, width = layer.out
    p, s, g = layer.padding, layer.stride, layer.groups
    padded = np.pad(a.astype(np.float64), ((p, p), (p, p), (0, 0)))
    sums = np.zeros((g, height * width, layer.filters // g))
    for y in range(layer.kernel):
        for x in range(layer.kernel):
            window = padded[y : y + (height - 1) * s + 1 : s, x : x + (width - 1) * s + 1 : s].reshape(height * width, g, -1)
            taps = w[:, y, x].astype(np.float64).reshape(g, layer.filters // g, -1)
            sums += window.transpose(1, 0, 2) @ taps.transpose(0, 2, 1)
    out: values.I64 = sums.transpose(1, 0, 2).reshape(height, width, layer.filters).astype(np.int64)
    return out


def step(sums: values.I64, top: int = 255) -> float:
    """The power of two that maps the largest of these accumulators into 0 .. top."""
    return float(2 ** max(0, int(np.ceil(np.log2(max(1, int(sums.max(initial=0))) / top)))))


def requantized(sums: values.I64, by: float, top: int = 255) -> values.U8:
    """clamp(rint(sums / by), 0, top), half to even."""
    out: values.U8 = np.clip(np.rint(sums / by), 0, top).astype(np.uint8)
    return out
