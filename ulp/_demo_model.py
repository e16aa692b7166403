"""The digits and the networks of `ulp.demo`: data, float32 training and quantisation-aware training, all in numpy.

Quantisation follows LSQ (Esser et al., "Learned Step Size Quantization", ICLR 2020, section 2): a value x is carried as the integer
clip(rint(x / step), low, high), the gradient passes the rounding unchanged (straight-through), and steps are learned, one a weight
column and one a layer of activations. Training multiplies the integers themselves and rescales as the epilogue of `ulp.gemm` does, so
that what is trained is what runs.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float32]

SIZES = (64, 96, 64, 10)
BRIGHTEST = 16  # pixels are 0 .. 16
# As arrays: numpy converts a scalar anew in every call, which would be a quarter of the time of one image.
_HALF = np.array(BRIGHTEST // 2, dtype=np.uint8)
_LOG2_BRIGHTEST = np.array(4, dtype=np.uint8)
_LARGEST = [np.array((1 << bits) - 1, dtype=np.uint8) for bits in range(5)]
BATCH = 64
LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Precision:
    """Bits of the weights and of the activations."""

    weights: int
    activations: int

    def __str__(self) -> str:
        return f"W{self.weights}A{self.activations}"

    @property
    def weight_interval(self) -> tuple[int, int]:
        """Smallest and largest weight: signed."""
        return -(2 ** (self.weights - 1)), 2 ** (self.weights - 1) - 1

    @property
    def largest_activation(self) -> int:
        """Activations are unsigned: they follow a ReLU, or are pixels."""
        return (1 << self.activations) - 1

    def activations_of(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Pixels of 0 .. 16 as activations of 0 .. largest_activation, rounded to nearest. Stays in uint8: 16 * 15 + 8 = 248."""
        rounded: npt.NDArray[np.uint8] = pixels * _LARGEST[self.activations]
        rounded += _HALF
        rounded >>= _LOG2_BRIGHTEST
        return rounded


@dataclass(frozen=True)
class Digits:
    """Pixels are uint8 (images, 64) of 0 .. 16, labels int64 (images,) of 0 .. 9."""

    train_pixels: npt.NDArray[np.uint8]
    train_labels: npt.NDArray[np.int64]
    test_pixels: npt.NDArray[np.uint8]
    test_labels: npt.NDArray[np.int64]


def load_digits(seed: int) -> Digits:
    """The 1797 digits that scikit-learn carries, 30 % of each class held back for the test."""
    from sklearn.datasets import load_digits as load
    from sklearn.model_selection import train_test_split

    pixels, labels = load(return_X_y=True)
    split = train_test_split(pixels.astype(np.uint8), labels.astype(np.int64), test_size=0.3, stratify=labels, random_state=seed)
    return Digits(split[0], split[2], split[1], split[3])


def softmax_gradient(logits: Float, labels: npt.NDArray[np.int64]) -> Float:
    """Gradient of the mean cross-entropy by the logits, (images, 10)."""
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(labels)), labels] -= 1
    return np.asarray(p / np.float32(len(labels)), dtype=np.float32)


class FloatNetwork:
    """Linear layers with ReLU between them, in float32."""

    def __init__(self, rng: np.random.Generator) -> None:
        shapes = list(itertools.pairwise(SIZES))
        self.weights: list[Float] = [(rng.standard_normal(s) * np.sqrt(2 / s[0])).astype(np.float32) for s in shapes]
        self.biases: list[Float] = [np.zeros(n, dtype=np.float32) for _, n in shapes]

    def parameters(self) -> list[Float]:
        """What training changes, in place, in the order of `gradients`."""
        return [*self.weights, *self.biases]

    def activations(self, pixels: npt.NDArray[np.uint8]) -> list[Float]:
        """The input of every layer, and the logits at the end."""
        values = [pixels.astype(np.float32) / np.float32(BRIGHTEST)]
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            y = values[-1] @ weight + bias
            values.append(np.maximum(y, 0) if number + 1 < len(self.weights) else y)
        return values

    def logits(self, pixels: npt.NDArray[np.uint8]) -> Float:
        """(images, 10)."""
        return self.activations(pixels)[-1]

    def gradients(self, pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> list[Float]:
        """Gradients of the mean cross-entropy by `parameters`."""
        values = self.activations(pixels)
        dy = softmax_gradient(values[-1], labels)
        weights: list[Float] = []
        biases: list[Float] = []
        for number in reversed(range(len(self.weights))):
            weights.insert(0, values[number].T @ dy)
            biases.insert(0, dy.sum(axis=0))
            if number:
                dy = (dy @ self.weights[number].T) * (values[number] > 0)
        return [*weights, *biases]


@dataclass(frozen=True)
class IntegerLayer:
    """A linear layer as inference needs it.

    weights: int8 (K, N) of the precision's interval. bias: int32 (N,), added to the sums. scale: float32 (N,), what a sum is multiplied by:
    to the activations of the next layer, or to logits in the last. out_bits: width of those activations, None in the last layer.
    """

    weights: npt.NDArray[np.int8]
    bias: npt.NDArray[np.int32]
    scale: Float
    precision: Precision
    out_bits: int | None


class QuantizedNetwork:
    """A FloatNetwork's layers at low precision, with learned steps; steps are kept as logarithms, so that they stay positive."""

    def __init__(self, source: FloatNetwork, precision: Precision, pixels: npt.NDArray[np.uint8]) -> None:
        self.precision = precision
        self.weights = [w.copy() for w in source.weights]
        self.biases = [b.copy() for b in source.biases]
        _, high = precision.weight_interval
        # LSQ's first steps: 2 <|x|> / sqrt(high), of each weight column, and of the float network's activations.
        self.log_weight_steps: list[Float] = [np.log(2 * np.abs(w).mean(axis=0) / np.sqrt(high)).astype(np.float32) for w in self.weights]
        hidden = source.activations(pixels)[1:-1]
        root = np.sqrt(precision.largest_activation)
        self.log_activation_steps: list[Float] = [np.log(np.array([2 * h.mean() / root], dtype=np.float32)) for h in hidden]

    def parameters(self) -> list[Float]:
        """What training changes, in place, in the order of `gradients`."""
        return [*self.weights, *self.biases, *self.log_weight_steps, *self.log_activation_steps]

    def input_steps(self) -> list[np.float32]:
        """Step of each layer's input: pixels are 0 .. 1 as the float network sees them."""
        return [np.float32(1 / self.precision.largest_activation), *(np.exp(s[0]) for s in self.log_activation_steps)]

    def layers(self) -> list[IntegerLayer]:
        """The network in integers. The only place where they are made: training uses them, too."""
        steps = self.input_steps()
        made = []
        for number, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            weight_step = np.exp(self.log_weight_steps[number])
            sum_step = steps[number] * weight_step
            last = number + 1 == len(self.weights)
            made.append(
                IntegerLayer(
                    np.clip(np.rint(weight / weight_step), *self.precision.weight_interval).astype(np.int8),
                    np.rint(bias / sum_step).astype(np.int32),
                    sum_step if last else sum_step / steps[number + 1],
                    self.precision,
                    None if last else self.precision.activations,
                )
            )
        return made

    def _forward(self, layers: Sequence[IntegerLayer], pixels: npt.NDArray[np.uint8]) -> tuple[list[Float], list[Float]]:
        """(inputs of every layer as integers, outputs of every layer before rounding).

        Float32 arithmetic, which is exact on the sums: all are far below 2^24.
        """
        inputs = [self.precision.activations_of(pixels).astype(np.float32)]
        outputs: list[Float] = []
        for layer in layers:
            outputs.append((inputs[-1] @ layer.weights.astype(np.float32) + layer.bias.astype(np.float32)) * layer.scale)
            if layer.out_bits:
                inputs.append(np.clip(np.rint(outputs[-1]), 0, self.precision.largest_activation))
        return inputs, outputs

    def logits(self, pixels: npt.NDArray[np.uint8]) -> Float:
        """(images, 10), by the float arithmetic of training."""
        return self._forward(self.layers(), pixels)[1][-1]

    def gradients(self, pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64]) -> list[Float]:
        """Gradients of the mean cross-entropy by `parameters`: straight through the roundings, zero where a value is clipped."""
        layers = self.layers()
        inputs, outputs = self._forward(layers, pixels)
        steps = self.input_steps()
        low, high = self.precision.weight_interval
        dy = softmax_gradient(outputs[-1], labels)
        weights: list[Float] = []
        biases: list[Float] = []
        weight_steps: list[Float] = []
        activation_steps: list[Float] = []
        for number in reversed(range(len(layers))):
            codes = layers[number].weights.astype(np.float32)
            weight_step = np.exp(self.log_weight_steps[number])
            ratio = self.weights[number] / weight_step
            inside = (ratio > low) & (ratio < high)
            dw = inputs[number].T @ dy * steps[number]
            weights.insert(0, dw * inside)
            biases.insert(0, dy.sum(axis=0))
            weight_steps.insert(0, (dw * (codes - ratio * inside)).sum(axis=0) * weight_step)
            if number:
                before = outputs[number - 1]
                inside = (before > 0) & (before < self.precision.largest_activation)
                dx = dy @ (codes * weight_step).T
                slope = (dx * (inputs[number] - before * inside)).sum() * steps[number]
                activation_steps.insert(0, np.array([slope], dtype=np.float32))
                dy = dx * inside
        return [*weights, *biases, *weight_steps, *activation_steps]


def train(network: FloatNetwork | QuantizedNetwork, digits: Digits, epochs: int, rng: np.random.Generator, title: str) -> None:
    """Adam (Kingma and Ba, 2015) with its usual constants and a rate that falls to zero along a cosine."""
    from tqdm import tqdm

    parameters = network.parameters()
    mean = [np.zeros_like(p) for p in parameters]
    square = [np.zeros_like(p) for p in parameters]
    count = len(digits.train_labels)
    batches = -(-count // BATCH)
    step = 0
    for _ in tqdm(range(epochs), desc=title, unit="epoch", leave=False, disable=None):
        order = rng.permutation(count)
        for chosen in np.array_split(order, batches):
            rate = LEARNING_RATE * 0.5 * (1 + np.cos(np.pi * step / (epochs * batches)))
            step += 1
            found = network.gradients(digits.train_pixels[chosen], digits.train_labels[chosen])
            for p, g, m, v in zip(parameters, found, mean, square, strict=True):
                m[...] += 0.1 * (g - m)
                v[...] += 0.001 * (g * g - v)
                p[...] -= np.float32(rate) * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
