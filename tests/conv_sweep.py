"""Random convolutions on every path that computes them, compared with int64.

A path is a kernel of the table that can convolve, on pixels with padded channels or without (tight); a transform; a depthwise method; or
what the rules choose under the limit of an ISA. Each is forced, and the plan is asked what it took.

`python tests/conv_sweep.py --outputs 100000000` goes on for longer than the suite; it ends with the first difference, whose problem it
prints.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

import ulp
from ulp import _core

Array = npt.NDArray[Any]

FORMS = ("padded", "tight", "depthwise")
# What sums become behind the epilogue, by a table of the codes that are nearest to them.
ZERO, TABLE = 128, np.random.default_rng(0).permutation(256).astype(np.uint8)
# Kernels whose step is no whole number of k, or that read rows at one stride: the plan refuses them.
REFUSALS = ("cannot convolve here", "cannot run here")


@dataclass(frozen=True)
class Path:
    """One way to compute: `method` is what the plan is asked for, None what its rules choose. `isa` is the limit in force meanwhile."""

    form: str
    method: str | None
    isa: str

    def __str__(self) -> str:
        return f"{self.form} {self.method or 'by rule'}, isa {self.isa}"


@dataclass
class Problem:
    """A convolution in groups of neighbouring channels; for depthwise ones each channel is a group."""

    form: str
    images: Array  # (N, H, W, C) codes
    a_bits: int
    a_zero: int
    weights: Array  # (groups, kh, kw, C / groups, n)
    w_bits: int
    w_zero: int
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]  # top, left, bottom, right
    dilation: tuple[int, int]
    start: Array | None  # int32 (groups * n,)
    images_together: int = 1
    throughput: bool = False
    threads: int = 1
    sums: Array = field(init=False)  # what it must give, (N, H', W', groups * n) int64

    def __post_init__(self) -> None:
        self.sums = exact_sums(self)

    @property
    def tabled(self) -> bool:
        """Whether codes are made of the sums, too, by a table behind the epilogue."""
        return self.images_together == 2

    def __str__(self) -> str:
        return (
            f"{self.form} {self.images.shape} W{self.w_bits}A{self.a_bits}, weights {self.weights.shape} {self.weights.dtype}, zeros "
            f"{self.a_zero} and {self.w_zero}, stride {self.stride}, padding {self.padding}, dilation {self.dilation}, start "
            f"{self.start is not None}, {self.images_together} images together, throughput {self.throughput}, {self.threads} threads"
        )


def exact_sums(p: Problem) -> Array:
    """By taps, in float64: every partial sum is an integer below 2^53, so they are what int64 would give."""
    groups, kh, kw, channels, n = p.weights.shape
    a = p.images.astype(np.float64) - p.a_zero
    top, left, bottom, right = p.padding
    a = np.pad(a, ((0, 0), (top, bottom), (left, right), (0, 0)))
    w = p.weights.astype(np.float64) - p.w_zero
    height = (a.shape[1] - p.dilation[0] * (kh - 1) - 1) // p.stride[0] + 1
    width = (a.shape[2] - p.dilation[1] * (kw - 1) - 1) // p.stride[1] + 1
    total = np.zeros((groups, len(a), height, width, n))
    for y, x in itertools.product(range(kh), range(kw)):
        rows = slice(y * p.dilation[0], y * p.dilation[0] + (height - 1) * p.stride[0] + 1, p.stride[0])
        columns = slice(x * p.dilation[1], x * p.dilation[1] + (width - 1) * p.stride[1] + 1, p.stride[1])
        tap = a[:, rows, columns]
        for g in range(groups):
            total[g] += tap[..., g * channels : (g + 1) * channels] @ w[g, y, x]
    sums = np.moveaxis(total, 0, 3).reshape(len(a), height, width, groups * n).astype(np.int64)
    return np.asarray(sums if p.start is None else sums + p.start)


def paths(form: str) -> list[Path]:
    """All of this CPU and this build."""
    isas = ulp.available_isas()
    found = [Path(form, None, isa) for isa in isas]
    best = isas[0]
    if form != "depthwise":
        found += [Path(form, k["name"], best) for k in _core.kernels() if k["isa"] in isas]
        found.append(Path(form, "direct", best))
    if form == "padded" and "avx2" in isas:
        # Each row of the technique under the ISA that takes it.
        found += [Path(form, "winograd", isa) for isa in ("avx512vnni", "avx2") if isa in isas]
    return found


def _pick(rng: np.random.Generator, *values: Any) -> int:
    return int(values[int(rng.integers(len(values)))])


def _values(rng: np.random.Generator, shape: tuple[int, ...], low: int, high: int, extreme: bool) -> Array:
    return np.asarray(rng.choice(np.array([low, high]), shape) if extreme else rng.integers(low, high + 1, shape))


def _up_to_a_vector(width: int, channels: int, stride: int, window: int) -> int:
    """The next width at which windows end where a vector of 32 codes does, or nearly so: the padding of a segment then lies behind it."""
    ends = (w for w in range(width, width + 33) if -((w - 1) * stride + window) * channels % 32 < 3)
    return next(ends, width)


def random_problem(rng: np.random.Generator, path: Path, pairs: list[tuple[int, int]] | None, outputs: int) -> Problem:
    """One that the path may be able to compute; pairs: (a_bits, w_bits) to choose from; about so many outputs, mostly fewer."""
    winograd = path.method == "winograd"
    a_bits, w_bits = pairs[int(rng.integers(len(pairs)))] if pairs else (int(v) for v in rng.integers(1, 9, 2))
    signed = winograd or path.form == "depthwise" or bool(rng.random() < 0.6)
    kernel = (3, 3) if winograd or rng.random() < 0.3 else (int(rng.integers(1, 6)), int(rng.integers(1, 8)))
    stride = (1, 1) if winograd or rng.random() < 0.4 else (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    dilation = (1, 1) if winograd or rng.random() < 0.6 else (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    groups = 1
    if path.form == "tight":
        kernel, dilation, channels = (kernel[0], max(2, kernel[1])), (dilation[0], 1), int(rng.integers(1, 4))
        if signed and w_bits == 1 and kernel[1] * channels % 4:  # bipolar weights have no zero for padding
            kernel = kernel[0], 4
    elif path.form == "depthwise":
        groups = channels = _pick(rng, rng.integers(1, 10), rng.integers(1, 140), 32, 96)
    else:
        channels = _pick(rng, rng.integers(1, 8), rng.integers(1, 70), rng.integers(1, 33) * 4, 32)
        if rng.random() < 0.25:
            groups = int(rng.integers(2, 4))
            # Bipolar weights read no channels that are not theirs, other than pads.
            per_group = 4 * -(-channels // 4 // groups) if signed and w_bits == 1 else -(-channels // groups)
            channels = max(1, per_group) * groups if per_group else 4 * groups
    # Where K fits both forms, weights are taken as tight; not with a dilation.
    fits_both = kernel[1] > 1 and kernel[1] * 4 * -(-channels // groups // 4) == -(-kernel[1] * channels // 4) * 4
    if path.form == "padded" and channels < 4 and fits_both and dilation[1] == 1:
        dilation = dilation[0], 2
    n = 1 if path.form == "depthwise" else _pick(rng, rng.integers(1, 10), rng.integers(1, 50), 32, 64, rng.integers(90, 200))
    padding = [int(v) for v in (rng.integers(0, 4, 4) if rng.random() < 0.7 else [0] * 4)]
    columns = groups * n
    pixels = max(1, int(outputs / columns * rng.uniform(0.1, 1.2)))
    images = min(pixels, int(rng.integers(1, 5)))
    height = max(1, int(math.sqrt(pixels / images) * rng.uniform(0.3, 2)))
    width = max(1, pixels // images // height)
    if rng.random() < 0.4:
        width = _up_to_a_vector(width, channels, stride[1], dilation[1] * (kernel[1] - 1) + 1)
    sides = [0, 0]
    for i, size in enumerate((height, width)):
        reach = (size - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 + int(rng.integers(0, stride[i]))
        sides[i] = max(1, reach - padding[i] - padding[i + 2])
        padding[i + 2] += max(0, dilation[i] * (kernel[i] - 1) + 1 - sides[i] - padding[i] - padding[i + 2])
    top = 2**a_bits - 1
    low, high = (-(2 ** (w_bits - 1)), 2 ** (w_bits - 1) - 1) if signed else (0, 2**w_bits - 1)
    if signed and w_bits == 1 and path.form != "depthwise":
        low, high = -1, 1
    extreme = rng.random() < 0.3
    codes = _values(rng, (images, *sides, channels), 0, top, extreme)
    weights = _values(rng, (groups, *kernel, channels // groups, n), low, high, extreme or (low, high) == (-1, 1))
    w_zero = 0
    if path.form != "depthwise" and not signed:
        w_zero = _pick(rng, 0, rng.integers(low, high + 1), high)
    return Problem(
        form=path.form,
        images=codes.astype(np.uint8),
        a_bits=a_bits,
        a_zero=_pick(rng, 0, rng.integers(0, top + 1), top),
        weights=weights.astype(np.int8 if signed else np.uint8),
        w_bits=w_bits,
        w_zero=w_zero,
        stride=stride,
        padding=(padding[0], padding[1], padding[2], padding[3]),
        dilation=dilation,
        start=rng.integers(-1000, 1000, columns).astype(np.int32) if rng.random() < 0.3 else None,
        images_together=int(rng.integers(1, 4)),
        throughput=bool(rng.random() < 0.1),
        threads=2 if rng.random() < 0.1 else 1,
    )


def packed(p: Problem, group: int) -> Any:
    """As a step wants them: channels, or kernel rows where they are tight, padded to a multiple of 4."""
    w = p.weights[group]
    kh, kw, channels, n = w.shape
    fill = 1 if w.dtype == np.int8 and p.w_bits == 1 else p.w_zero
    rows = w.reshape(kh, kw * channels, n) if p.form == "tight" else w.reshape(kh * kw, channels, n)
    rows = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4), (0, 0)), constant_values=fill)
    return _core.pack(np.ascontiguousarray(rows.reshape(-1, n)), p.w_bits)


def plan_of(p: Problem, path: Path) -> Any:
    """ValueError where the method cannot compute it."""
    plan: Any = _core.Plan()
    describe(p, path, plan)
    plan.finalize(p.images_together, p.throughput)
    return plan


def describe(p: Problem, path: Path, plan: Any) -> None:
    """The steps of the convolution for an open plan."""
    groups, kh, kw, channels, n = p.weights.shape
    height, width, depth = p.images.shape[1:]
    source = plan.codes(height, width, depth, p.a_bits, p.a_zero, 1.0)
    result = plan.floats(*p.sums.shape[1:])
    looked_up = [plan.codes(*p.sums.shape[1:], 8, 0, 1.0)] if p.tabled else []
    plan.input_codes(tensor=source, nhwc=True)

    def finish(first: int, columns: int) -> Any:
        targets = [(tensor, first) for tensor in (result, *looked_up)]
        table = {"bits": 8, "zero": ZERO, "scale": 1.0, "other": None, "table": TABLE}
        entries: dict[str, Any] = {"residual": None, "low": -math.inf, "high": math.inf, "targets": targets}
        entries |= {"thresholds": [None] * len(targets), "after": [None, table] if p.tabled else None}
        entries |= {"scale": np.ones(columns, np.float32), "bias": np.zeros(columns, np.float32)}
        return entries if p.start is None else entries | {"start": p.start[first : first + columns]}

    window: dict[str, Any] = {"source": source, "stride": p.stride, "padding": p.padding, "dilation": p.dilation}
    if p.form == "depthwise":
        weights = np.ascontiguousarray(np.moveaxis(p.weights[:, :, :, 0, 0], 0, 2))
        plan.depthwise(weights=weights, finish=finish(0, groups), **window)
    else:
        for g in range(groups):
            plan.conv(
                source_channel=g * channels,
                weights=packed(p, g),
                kernel=(kh, kw),
                weight_zero=p.w_zero,
                method=path.method,
                finish=finish(g * n, n),
                **window,
            )
    plan.output(tensor=result, nhwc=True)
    for tensor in looked_up:
        plan.output(tensor=tensor, nhwc=True)


def check_method(p: Problem, path: Path, plan: Any) -> None:
    """What ran is what was asked for; by rule, something that the ISA in force has."""
    kernels = {k["name"]: k for k in _core.kernels()}
    for step in plan.steps()[1 : -2 if p.tabled else -1]:
        method = step["method"]
        if p.form == "depthwise" or path.method == "winograd":
            scalar = ulp.get_isa() == "baseline"
            technique = path.method or "depthwise"
            assert method.startswith(technique + "_"), (method, str(path))
            assert (method == "depthwise_scalar") == (p.form == "depthwise" and scalar), (method, str(path))
        elif path.method in (None, "direct"):
            assert (method in kernels and kernels[method]["available"]) or (not path.method and method.startswith("winograd")), (
                method,
                str(path),
            )
        else:
            assert method == path.method, (method, str(path))


def run_path(p: Problem, path: Path) -> bool:
    """Compare; False where the path cannot compute this. AssertionError with the problem where a sum is wrong."""
    ulp.set_isa(path.isa)
    ulp.set_num_threads(p.threads)
    try:
        plan = plan_of(p, path)
    except ValueError as error:
        if any(words in str(error) for words in REFUSALS):
            return False
        raise AssertionError(f"{path}: {p}: {error}") from error
    check_method(p, path, plan)
    plan.run(np.full_like(p.images, 2**p.a_bits - 1))  # so that what lies around the codes is not zero
    got, *codes = plan.run(p.images)
    wrong = got != p.sums.astype(np.float32)
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(f"{path}: {int(wrong.sum())} of {got.size} outputs are wrong, first {at}: {got[at]}, not {p.sums[at]}; {p}")
    for found in codes:
        expected = TABLE[np.clip(np.rint(p.sums.astype(np.float32)) + ZERO, 0, 255).astype(np.int64)]
        if (found != expected).any():
            raise AssertionError(f"{path}: {int((found != expected).sum())} of {found.size} codes by a table are wrong; {p}")
    return True


def sweep(form: str, outputs: int, seed: int, per_problem: int = 6000, show: Callable[[str], None] | None = None) -> dict[Path, int]:
    """At least so many outputs on each path of the form that can convolve at all; how many there were."""
    rng = np.random.default_rng(seed)
    isa, threads = ulp.get_isa(), ulp.get_num_threads()
    ulp.set_isa(ulp.available_isas()[0])
    pairs = {k["name"]: k["pairs"] for k in _core.kernels()}
    winograd_pairs = [(a, w) for a in range(1, 7) for w in range(1, 5) if (a, w) != (6, 4)]
    done = dict.fromkeys(paths(form), 0)
    problems = 0
    shown = time.monotonic()
    try:
        tried = dict.fromkeys(done, 0)
        while done:
            path = min(done, key=lambda q: done[q])
            if done[path] >= outputs:
                break
            supported = winograd_pairs if path.method == "winograd" else pairs.get(path.method or "")
            p = random_problem(rng, path, supported, per_problem)
            problems += 1
            # The same sums serve every other path that can compute them and still wants some.
            for other in list(done):
                if other is path or done[other] < outputs:
                    pair_fits = other.method not in pairs or (p.a_bits, p.w_bits) in pairs[other.method]
                    if pair_fits and run_path(p, other):
                        done[other] += p.sums.size
            tried[path] += 1
            if done[path] == 0 and tried[path] >= 50:  # a kernel that reads rows at one stride
                del done[path]
            if show and time.monotonic() - shown > 60:
                shown = time.monotonic()
                show(f"{form}: {problems} problems, at least {min(done.values())} outputs per path")
    finally:
        ulp.set_isa(isa)
        ulp.set_num_threads(threads)
    return done


def _show(line: str) -> None:
    print(line, flush=True)  # noqa: T201  # progress


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("forms", nargs="*", choices=[*FORMS, []])
    parser.add_argument("--outputs", type=int, default=10**6, help="of each path")
    parser.add_argument("--per-problem", type=int, default=6000, help="outputs of a problem, about")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    begin = time.monotonic()
    done: dict[Path, int] = {}
    for form in args.forms or FORMS:
        done |= sweep(form, args.outputs, args.seed, args.per_problem, _show)
    for path, count in done.items():
        sys.stdout.write(f"{count:12d}  {path}\n")
    sys.stdout.write(f"{sum(done.values())} outputs of {len(done)} paths in {time.monotonic() - begin:.0f} s, all equal\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
