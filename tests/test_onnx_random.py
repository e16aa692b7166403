"""Random networks of quantizers and layers: `ulp.load` gives what numpy's operators give node by node, whatever is integer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from reference import Array

import ulp

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_models import Writer
from onnx_random import attempt
from test_onnx_load import by_operators, quant, quantized_weights

Image = tuple[str, int, int]
"""Name, channels, side"""


class RandomNetwork:
    """Layers on images that were made before. All numbers are small multiples of powers of two, so that float32 is exact."""

    def __init__(self, seed: int) -> None:
        self.w = Writer((4, 8, 8), seed, opset=13)
        self.rng = self.w.rng
        self.images: list[Image] = [(quant(self.w, "x", 0.5, 4, signed=1), 4, 8)]
        steps: list[Callable[[], Image | None]] = [self.quantize, self.conv, self.conv, self.relu, self.pool, self.affine, self.add]
        steps += [self.concat, self.mean, self.conv_and_quantize, self.conv_and_quantize, self.depthwise]
        for _ in range(int(self.rng.integers(4, 11))):
            made = steps[self.rng.integers(len(steps))]()
            if made is not None:
                self.images.append(made)

    def pick(self, *, quantized: bool = False) -> Image:
        """An image, the latest ones most often; quantized now if it is to be."""
        image = self.images[-1 - min(int(self.rng.geometric(0.6)) - 1, len(self.images) - 1)]
        return (self.quantized(image[0]), *image[1:]) if quantized else image

    def quantized(self, name: str) -> str:
        """Behind a quantizer of 2 to 4 bits."""
        signed, bits = int(self.rng.integers(2)), float(self.rng.integers(2, 5))
        return quant(self.w, name, float(2.0 ** self.rng.integers(-1, 2)), bits, signed=signed, narrow=int(self.rng.integers(2)))

    def quantize(self) -> Image:
        return self.pick(quantized=True)

    def conv(self) -> Image:
        name, channels, side = self.pick(quantized=bool(self.rng.integers(4)))
        outputs, kernel, stride = int(self.rng.choice([3, 8, 12])), int(self.rng.choice([1, 3])), int(self.rng.integers(1, 3))
        weights = quantized_weights(self.w, outputs, channels, kernel, kernel, bits=int(self.rng.integers(2, 5)))
        bias = [self.w.constant(self.rng.integers(-8, 8, outputs).astype(np.float32) / 4)] if self.rng.integers(2) else []
        made = self.w.add("Conv", name, weights, *bias, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4, strides=[stride] * 2)
        return made, outputs, (side + stride - 1) // stride

    def conv_and_quantize(self) -> Image:
        name, channels, side = self.conv()
        return self.quantized(self.w.add("Relu", name) if self.rng.integers(2) else name), channels, side

    def depthwise(self) -> Image:
        name, channels, side = self.pick(quantized=True)
        weights = quantized_weights(self.w, channels, 1, 3, 3)
        return self.w.add("Conv", name, weights, kernel_shape=[3, 3], pads=[1] * 4, group=channels), channels, side

    def relu(self) -> Image:
        name, channels, side = self.pick()
        if self.rng.integers(2):
            return self.w.add("Relu", name), channels, side
        return self.w.add("Clip", name, self.w.constant(np.float32(-1)), self.w.constant(np.float32(2))), channels, side

    def pool(self) -> Image | None:
        name, channels, side = self.pick()
        if side < 2:
            return None
        pads = int(self.rng.integers(2))
        made = self.w.add("MaxPool", name, kernel_shape=[3 if pads else 2] * 2, strides=[2, 2], pads=[pads] * 4)
        return made, channels, (side + 2 * pads - (3 if pads else 2)) // 2 + 1

    def mean(self) -> Image | None:
        name, channels, side = self.pick(quantized=True)
        if side < 4:
            return None
        return self.w.add("AveragePool", name, kernel_shape=[2, 2], strides=[2, 2]), channels, side // 2

    def affine(self) -> Image:
        name, channels, side = self.pick()
        scale = self.w.constant(self.rng.choice([-1.0, 0.5, 1.0], channels).astype(np.float32).reshape(-1, 1, 1))
        shift = self.w.constant((self.rng.integers(-4, 4, channels) / 4).astype(np.float32).reshape(-1, 1, 1))
        return self.w.add("Add", self.w.add("Mul", name, scale), shift), channels, side

    def others(self, image: Image) -> list[Image]:
        return [other for other in self.images if other[2] == image[2]]

    def add(self) -> Image | None:
        image = self.pick()
        same = [other for other in self.others(image) if other[1] == image[1]]
        if not same:
            return None
        other = same[self.rng.integers(len(same))]
        second = self.quantized(other[0]) if self.rng.integers(2) else other[0]
        return self.w.add("Add", *([image[0], second] if self.rng.integers(2) else [second, image[0]])), *image[1:]

    def concat(self) -> Image | None:
        image = self.pick()
        same = self.others(image)
        other = same[self.rng.integers(len(same))]
        return self.w.add("Concat", image[0], other[0], axis=1), image[1] + other[1], image[2]

    def model(self) -> Any:
        """The last image, or a linear layer behind it."""
        name, channels, side = self.images[-1]
        if name == self.images[0][0] or self.rng.integers(2):
            flat = self.w.add("Flatten", self.quantized(name))
            name = self.w.add("Gemm", flat, quantized_weights(self.w, 5, channels * side * side), transB=1)
        return self.w.model(name)


@pytest.mark.parametrize("mode", ["requantize", "threshold"])
@pytest.mark.parametrize("seed", range(24))
def test_random_networks(seed: int, mode: str) -> None:
    model = RandomNetwork(seed).model()
    x: Array = (np.random.default_rng(seed).integers(-40, 40, (2, 4, 8, 8)) / 8).astype(np.float32)
    network = ulp.load(model, tune=False, mode=mode)
    np.testing.assert_array_equal(network(x), by_operators(model, x), err_msg=str(network))


@pytest.mark.parametrize("block", range(2))
def test_random_models_are_onnxruntimes(block: int) -> None:
    """Of all kinds of layers; most of their nodes are integer. What differs by optimizations in sessions of onnxruntime is its own."""
    found = [attempt(seed) for seed in range(20 * block, 20 * block + 20)]
    assert not [what for outcome, what in found if outcome == "wrong"]
    shares = [what for outcome, what in found if outcome == "equal"]
    assert len(shares) >= 18
    assert np.mean(shares) > 0.6


def test_random_qonnx_models_are_as_defined() -> None:
    found = [attempt(seed, "qonnx") for seed in range(24)]
    assert [outcome for outcome, _ in found] == ["equal"] * 24, found
    assert np.mean([share for _, share in found]) > 0.5


def test_random_qonnx_models_are_those_of_its_executor() -> None:
    pytest.importorskip("qonnx")
    assert [attempt(seed, "executor")[0] for seed in range(100, 112)] == ["equal"] * 12
