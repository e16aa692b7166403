"""`python -m ulp.demo`: handwritten digits in 2, 3 and 4 bits, trained here, run by `ulp`, checked and timed beside numpy.

A network of three linear layers is trained on scikit-learn's digits in float32, then at W4A4, W3A3 and W2A2 (weights, activations) with
quantisation-aware training. Inference is `ulp.gemm` with its epilogue: activations stay integers of that width from the first layer to
the last. Every integer is held against int64 arithmetic, every logit against the model that was trained. The exit status is 0 only if
all of it agrees.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

import ulp
from ulp import _core
from ulp._demo_model import BRIGHTEST, SIZES, Digits, Float, FloatNetwork, IntegerLayer, Precision, QuantizedNetwork, load_digits, train

Array = npt.NDArray[Any]

# A quantised network this many points below the float one has not learned: worse than any seed tried, better than a broken epilogue.
LARGEST_LOSS = 8.0

PRECISIONS = (Precision(4, 4), Precision(3, 3), Precision(2, 2))


@dataclass(frozen=True)
class Effort:
    """How much to train and to measure. Layers are (M, N, K)."""

    epochs: int
    rounds: int
    layers: tuple[tuple[int, int, int], ...]


FULL = Effort(80, 41, ((512, 1024, 1024), (1, 4096, 4096)))
QUICK = Effort(15, 3, ((32, 256, 256), (1, 512, 512)))


class UlpLinear:
    """An integer layer whose product, bias, scaling, ReLU and rounding are one call of `ulp.gemm`."""

    def __init__(self, layer: IntegerLayer) -> None:
        self.layer = layer
        self.weights = ulp.pack(layer.weights, bits=layer.precision.weights)
        self._bits = (layer.precision.activations, layer.precision.weights)

    def __call__(self, a: Array) -> Array:
        """uint8 (M, K) activations -> uint8 (M, N) activations, or float32 (M, N) logits in the last layer."""
        layer = self.layer
        if layer.out_bits is None:
            return ulp.gemm(a, self.weights, bits=self._bits, scale=layer.scale, bias=layer.bias)
        return ulp.gemm(a, self.weights, bits=self._bits, scale=layer.scale, bias=layer.bias, out_bits=layer.out_bits, relu=True)

    def product(self, a: Array) -> Array:
        """uint8 (M, K) activations -> int32 (M, N) sums."""
        return ulp.gemm(a, self.weights, bits=self._bits)


def reference(layer: IntegerLayer, a: Array) -> Array:
    """What UlpLinear must return: the sums in int64, scaled in float32, rounded half to even."""
    # Through float64, because numpy has no fast integer product; exact, as sums are below 2^53 by far.
    sums = (a.astype(np.float64) @ layer.weights.astype(np.float64)).astype(np.int64) + layer.bias.astype(np.int64)
    scaled: Float = sums.astype(np.float32) * layer.scale
    if layer.out_bits is None:
        return scaled
    return np.clip(np.rint(scaled), 0, layer.precision.largest_activation).astype(np.uint8)


class UlpNetwork:
    """The quantised network in `ulp`: pixels in, logits out, integers between."""

    def __init__(self, network: QuantizedNetwork) -> None:
        self.precision = network.precision
        self.linear = [UlpLinear(layer) for layer in network.layers()]

    @property
    def nbytes(self) -> int:
        """Bytes of the packed weights."""
        return sum(linear.weights.nbytes for linear in self.linear)

    def __call__(self, pixels: Array) -> Array:
        """uint8 (images, 64) -> float32 (images, 10)."""
        a: Array = self.precision.activations_of(pixels)
        for linear in self.linear:
            a = linear(a)
        return a

    def inputs(self, pixels: Array) -> list[Array]:
        """The activations that each layer gets."""
        inputs: list[Array] = [self.precision.activations_of(pixels)]
        for linear in self.linear[:-1]:
            inputs.append(linear(inputs[-1]))
        return inputs

    def kernels(self, pixels: Array) -> list[str]:
        """Which kernel ran in each layer."""
        names = []
        for linear, a in zip(self.linear, self.inputs(pixels), strict=True):
            linear(a)
            names.append(_core.last_kernel())
        return names

    def products(self, inputs: Sequence[Array]) -> list[Array]:
        """The int32 sums of every layer alone, for `inputs`: what is left of a run without scaling, rounding and small activations."""
        return [linear.product(a) for linear, a in zip(self.linear, inputs, strict=True)]

    def agrees(self, pixels: Array) -> bool:
        """Whether every activation and every logit, of the batch and of single images, is what int64 arithmetic gives."""
        a: Array = self.precision.activations_of(pixels)
        for linear in self.linear:
            expected = reference(linear.layer, a)
            rows = np.concatenate([linear(a[i : i + 1]) for i in range(len(a))])
            a = linear(a)
            if not (np.array_equal(a, expected) and np.array_equal(rows, expected)):
                return False
        return True


class NumpyLinear:
    """The float32 layer as one writes it for speed in numpy: the product, then bias and ReLU in place."""

    def __init__(self, weight: Float, bias: Float, relu: bool) -> None:
        self.weight, self.bias, self.relu = np.ascontiguousarray(weight), bias, relu

    def __call__(self, x: Float) -> Float:
        """(M, K) -> (M, N)."""
        y: Float = x @ self.weight
        y += self.bias
        return np.maximum(y, 0, out=y) if self.relu else y


class NumpyNetwork:
    """The float network for inference; the pixels' scale is folded into the first weights."""

    def __init__(self, network: FloatNetwork) -> None:
        first, *others = network.weights
        weights = [first / np.float32(BRIGHTEST), *others]
        relu = [True] * len(others) + [False]
        self.linear = [NumpyLinear(*layer) for layer in zip(weights, network.biases, relu, strict=True)]

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return sum(linear.weight.nbytes for linear in self.linear)

    def __call__(self, pixels: Array) -> Float:
        """uint8 (images, 64) -> float32 (images, 10)."""
        x: Float = pixels.astype(np.float32)
        for linear in self.linear:
            x = linear(x)
        return x


@dataclass(frozen=True)
class Timing:
    """Median seconds a call, and how many times faster than the first contestant: the median of the ratios of the rounds."""

    seconds: float
    speedup: float


def measure(contestants: Mapping[str, Callable[[], object]], rounds: int, threads: int, title: str) -> dict[str, Timing]:
    """Time all contestants in every round, one sample of a millisecond or more each, in an order that rotates.

    What the machine does to one contestant it does to its neighbour, so that their ratio within a round is worth more than their times.
    An untimed sample comes before each timed one and brings the weights back into cache where they fit. The clock is the calling
    thread's CPU time, and with several threads the wall's.
    """
    from tqdm import tqdm

    clock = time.thread_time if threads == 1 else time.perf_counter

    def sample(run: Callable[[], object], calls: int) -> float:
        begin = clock()
        for _ in range(calls):
            run()
        return (clock() - begin) / calls

    calls = {}
    for name, run in contestants.items():
        run()
        calls[name] = max(1, round(1e-3 / max(sample(run, 3), 1e-7)))
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in tqdm(range(rounds), desc=title, unit="round", leave=False, disable=None):
        start = turn % len(names)
        for name in (*names[start:], *names[:start]):
            sample(contestants[name], calls[name])
            seconds[name].append(sample(contestants[name], calls[name]))
    first = seconds[names[0]]
    return {
        name: Timing(statistics.median(own), statistics.median(a / b for a, b in zip(first, own, strict=True)))
        for name, own in seconds.items()
    }


class Checks:
    """What must hold; prints each as it is found."""

    def __init__(self) -> None:
        self.made = 0
        self.failed = 0

    def add(self, holds: bool, claim: str) -> None:
        """Record one."""
        self.made += 1
        self.failed += not holds
        print(f"  {'ok    ' if holds else 'FAILED'}  {claim}")


@dataclass(frozen=True)
class LargeLayer:
    """Rows of the table of one layer, and the best GMAC/s of `ulp` in it."""

    title: str
    rows: list[list[str]]
    rate: float


def large_layer(m: int, n: int, k: int, effort: Effort, threads: int, rng: np.random.Generator, checks: Checks) -> LargeLayer:
    """One linear layer of random weights in every precision beside float32, checked, by the functions that ran the digits."""
    x = rng.random((m, k), dtype=np.float32)
    float_layer = NumpyLinear(rng.standard_normal((k, n), dtype=np.float32), np.zeros(n, dtype=np.float32), relu=True)
    calls: dict[str, Callable[[], object]] = {"float32": partial(float_layer, x)}
    nbytes = {"float32": float_layer.weight.nbytes}
    kernels = {"float32": "numpy"}
    exact = True
    for precision in PRECISIONS:
        low, high = precision.weight_interval
        weights = rng.integers(low, high + 1, size=(k, n), dtype=np.int8)
        a = rng.integers(0, precision.largest_activation + 1, size=(m, k), dtype=np.uint8)
        bias = rng.integers(-k, k + 1, size=n, dtype=np.int32)
        # About two standard deviations of a sum fill the output's interval.
        spread = np.sqrt(k) * (high - low + 1) * (precision.largest_activation + 1) / 6
        scale = np.full(n, precision.largest_activation / spread, dtype=np.float32)
        linear = UlpLinear(IntegerLayer(weights, bias, scale, precision, precision.activations))
        exact &= np.array_equal(linear(a), reference(linear.layer, a))
        name = str(precision)
        calls[name], nbytes[name], kernels[name] = partial(linear, a), linear.weights.nbytes, _core.last_kernel()
    checks.add(exact, f"{m} x {n} x {k}: every activation equals int64 arithmetic, {', '.join(map(str, PRECISIONS))}")
    timings = measure(calls, effort.rounds, threads, f"timing {m}x{n}x{k}")
    rates = {name: m * n * k / timing.seconds / 1e9 for name, timing in timings.items()}
    rows = [
        [name, size(nbytes[name]), duration(timing.seconds), f"{rates[name]:.1f}", ratio(timing.speedup), kernels[name]]
        for name, timing in timings.items()
    ]
    return LargeLayer(f"M = {m}, N = {n}, K = {k}", rows, max(rates[str(p)] for p in PRECISIONS))


def size(nbytes: int) -> str:
    """Bytes with a unit: 1536 -> "1.5 KiB"."""
    return f"{nbytes / 1024:.1f} KiB" if nbytes < 2**20 else f"{nbytes / 2**20:.1f} MiB"


def duration(seconds: float) -> str:
    """0.0000123 -> "12.3 us"."""
    if seconds < 1e-6:
        return f"{seconds * 1e9:.0f} ns"
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def ratio(value: float) -> str:
    """Two significant digits below 1, else one decimal: "0.25x", "3.1x"."""
    return f"{value:.2g}x" if value < 0.95 else f"{value:.1f}x"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Names on the left, numbers on the right of their columns. Plain ASCII: it must print on every console."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    names = [head in ("network", "layer", "kernel") for head in heads]

    def line(cells: Sequence[str]) -> str:
        return "  ".join(f"{c:<{w}}" if left else f"{c:>{w}}" for c, w, left in zip(cells, widths, names, strict=True)).rstrip()

    return "\n".join("  " + text for text in (line(heads), line(["-" * w for w in widths]), *map(line, rows)))


@contextmanager
def thread_limit(threads: int) -> Iterator[None]:
    """Both `ulp` and numpy's BLAS use this many threads, and what they used before afterwards."""
    from threadpoolctl import threadpool_limits

    before = ulp.get_num_threads()
    with threadpool_limits(limits=threads, user_api="blas"):
        ulp.set_num_threads(threads)
        try:
            yield
        finally:
            ulp.set_num_threads(before)


def train_all(digits: Digits, effort: Effort, seed: int) -> tuple[FloatNetwork, dict[str, QuantizedNetwork]]:
    """The float network and, starting from it, one network a precision, by name."""
    network = FloatNetwork(np.random.default_rng(seed))
    train(network, digits, effort.epochs, np.random.default_rng(seed), "training float32")
    quantized = {str(p): QuantizedNetwork(network, p, digits.train_pixels) for p in PRECISIONS}
    # The same second training for all, so that low precision owes nothing to having seen the data more often.
    train(network, digits, effort.epochs, np.random.default_rng(seed + 1), "training float32 further")
    for name, low in quantized.items():
        train(low, digits, effort.epochs, np.random.default_rng(seed + 1), f"training {name}")
    return network, quantized


def check_network(low: UlpNetwork, trained: QuantizedNetwork, digits: Digits, float_wrong: int, checks: Checks) -> int:
    """All that must hold of a network in `ulp`. Returns how many test images it gets wrong."""
    logits = low(digits.test_pixels)
    wrong = int((logits.argmax(axis=1) != digits.test_labels).sum())
    images = len(digits.test_labels)
    name = low.precision
    checks.add(
        low.agrees(digits.test_pixels), f"{name}: all activations and logits equal int64 arithmetic, {images} images together and singly"
    )
    checks.add(
        np.array_equal(logits, trained.logits(digits.test_pixels)), f"{name}: logits and predictions equal the trained numpy model's"
    )
    loss = 100 * (wrong - float_wrong) / images
    checks.add(loss <= LARGEST_LOSS, f"{name}: accuracy at most {LARGEST_LOSS:g} points below float32's")
    return wrong


def time_networks(models: Mapping[str, Callable[[Array], Array]], pixels: Array, effort: Effort, threads: int) -> dict[str, Timing]:
    """Pixels to logits, by all of the networks."""
    calls: dict[str, Callable[[], object]] = {name: partial(model, pixels) for name, model in models.items()}
    return measure(calls, effort.rounds, threads, f"timing {len(pixels)} image{'s' if len(pixels) > 1 else ''}")


def run(seed: int, effort: Effort, threads: int) -> int:
    """The whole demo. Returns the exit status: 0, or 1 if a check fails."""
    digits = load_digits(seed)
    images = len(digits.test_labels)
    print(f"ulp {ulp.__version__}: handwritten digits in 4, 3 and 2 bits")
    print(f"{ulp.config.cpu_name()}, {ulp.get_isa()}, {threads} thread{'s' if threads > 1 else ''}, numpy {np.__version__}, seed {seed}\n")

    begin = time.perf_counter()
    # On one thread, whatever is measured later: BLAS sums in another order on two, and the seed would not say all.
    with thread_limit(1):
        network, quantized = train_all(digits, effort, seed)
    shape = "-".join(map(str, SIZES))
    print(f"Trained {shape} on {len(digits.train_labels)} images, 4 networks of {2 * effort.epochs} epochs, ", end="")
    print(f"in {time.perf_counter() - begin:.1f} s; {images} others test it.\n\nChecks")

    checks = Checks()
    floating = NumpyNetwork(network)
    integer = {name: UlpNetwork(low) for name, low in quantized.items()}
    wrong = {"float32": int((floating(digits.test_pixels).argmax(axis=1) != digits.test_labels).sum())}
    for name, low in integer.items():
        wrong[name] = check_network(low, quantized[name], digits, wrong["float32"], checks)
    rng = np.random.default_rng(seed)
    layers = [large_layer(m, n, k, effort, threads, rng, checks) for m, n, k in effort.layers]

    models: dict[str, NumpyNetwork | UlpNetwork] = {"float32": floating, **integer}
    one = digits.test_pixels[:1]
    whole = time_networks(models, digits.test_pixels, effort, threads)
    single = time_networks(models, one, effort, threads)
    heads = ["network", "accuracy", "wrong", "weights", "smaller", f"{images} images", "vs numpy", "1 image", "vs numpy"]
    rows = [
        [
            *(name, f"{100 * (1 - wrong[name] / images):.1f} %", str(wrong[name])),
            *(size(model.nbytes), ratio(floating.nbytes / model.nbytes)),
            *(duration(whole[name].seconds), ratio(whole[name].speedup), duration(single[name].seconds), ratio(single[name].speedup)),
        ]
        for name, model in models.items()
    ]
    print(f"\nThe digits, from pixels to logits ({images} images, so one of them is {100 / images:.2f} points)\n")
    print(table(heads, rows), end="\n\n")
    for name, low in integer.items():
        kernels = (", ".join(dict.fromkeys(low.kernels(pixels))) for pixels in (digits.test_pixels, one))
        print("  {}  kernels for {} images: {}; for 1: {}".format(name, images, *kernels))
    print(
        "\n" + what_dominates(single, integer[str(PRECISIONS[0])], digits.test_pixels, effort, threads, max(layer.rate for layer in layers))
    )
    for layer in layers:
        print(f"\nOne layer, {layer.title}: product, bias, ReLU, rounding to activations\n")
        print(table(["layer", "weights", "time", "GMAC/s", "vs numpy", "kernel"], layer.rows))
    print(
        f"\nTimes are medians of {effort.rounds} rounds in which all rows alternate, {'CPU time' if threads == 1 else 'wall time'};",
        end=" ",
    )
    print('"vs numpy" is how many times as fast as float32.')
    if threads > 1:
        print("Wall time holds whatever else this machine does, and BLAS threads that wait for a busy core: trust it on an idle one only.")
    print("All checks hold." if not checks.failed else f"{checks.failed} of {checks.made} checks FAILED.")
    return 1 if checks.failed else 0


def what_dominates(single: Mapping[str, Timing], low: UlpNetwork, pixels: Array, effort: Effort, threads: int, rate: float) -> str:
    """Where the time of so small a network goes: measured for all images, by leaving parts out. rate: GMAC/s of the best large layer."""
    inputs = low.inputs(pixels)
    calls: dict[str, Callable[[], object]] = {
        "whole": partial(low, pixels),
        "products": partial(low.products, inputs),
        "pixels": partial(low.precision.activations_of, pixels),
    }
    parts = measure(calls, effort.rounds, threads, f"timing the parts of {low.precision}")
    products, convert = (1 / parts[name].speedup for name in ("products", "pixels"))
    rest = max(0.0, 1 - products - convert)
    macs = sum(k * n for k, n in itertools.pairwise(SIZES))
    arithmetic = duration(macs / rate / 1e9)
    one = duration(statistics.median(single[str(p)].seconds for p in PRECISIONS))
    text = (
        f"Where the time goes: an image is {macs:,} multiply-accumulates, {arithmetic} at the best rate below. The {one} of one image "
        f"are the cost of calls from Python: {len(SIZES) - 1} of ulp.gemm and the rounding of pixels; numpy's are that of its own "
        f"calls. Of all {len(pixels)} images at {low.precision}, {100 * products:.0f} % is products, {100 * convert:.0f} % the rounding "
        f"of pixels and {100 * rest:.0f} % scaling, rounding and storing results. Larger layers show the arithmetic itself:"
    )
    return textwrap.fill(text, 110, initial_indent="  ", subsequent_indent="  ")


def _count(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r}: expected a number from {low} to {high}")
        return int(text)

    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo with command-line arguments. Returns 0; 1 if a check fails; 2 if a package is missing. Wrong use raises SystemExit."""
    parser = argparse.ArgumentParser(
        prog="python -m ulp.demo", description="Train a digit classifier in 4, 3 and 2 bits, run it in ulp, check and time it. No download."
    )
    parser.add_argument("--seed", type=_count(0, 2**31 - 1), default=0, help="of the split, the training and the layers (default 0)")
    parser.add_argument("--threads", type=_count(1, 1024), default=1, help="for ulp and for numpy (default 1)")
    parser.add_argument("--quick", action="store_true", help="a third of the time: short training, small layers, rough times")
    given = parser.parse_args(arguments)
    try:
        with thread_limit(given.threads):
            return run(given.seed, QUICK if given.quick else FULL, given.threads)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("sklearn", "tqdm", "threadpoolctl"):
            raise
        print(f'ulp.demo needs {error.name}: pip install ".[demo]", or pip install scikit-learn threadpoolctl tqdm', file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
