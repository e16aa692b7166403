"""Exactness on a device: every kernel against numpy on fresh random operands, through the native module and through `ulp.gemm`.

    python -m bench.cuda.check --out checks.json --seconds 90

A stage stops when its share of the time is over and says so. Each result is compared whole, with the poison around it that nobody may
touch.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .operands import Array, Problem, any_problem, extreme_problem, interval, longest_k, matrix, random_problem

POISON = 0xA5
MAX_FAILURES = 12
# (m, n, k): a row, tails of every tile on every side, K shorter and longer than a block, K that is worth a split.
PAIR_SHAPES = ((1, 40, 200), (19, 131, 96), (70, 200, 328), (5, 64, 4096), (200, 272, 160))
REDUCED_SHAPES = ((3, 40, 200), (70, 136, 392))
REDUCED_PAIRS = ((1, 1), (4, 4), (8, 3), (8, 8))
BOUND_PAIRS = ((8, 8), (8, 4), (4, 4), (8, 1), (1, 1))
LONG_K, LONG_PAIRS = 600_000, ((4, 4), (1, 8))  # longer than the largest cluster can take in its accumulators


@dataclass
class Stage:
    """What one kind of check found. cut: the time was over before all were made."""

    name: str
    checks: int = 0
    seconds: float = 0.0
    cut: bool = False
    failures: list[str] = field(default_factory=list)
    skipped: str | None = None

    def expect(self, got: Array, expected: Array, what: str) -> None:
        """Count a check; keep the first wrong element of a wrong one."""
        self.checks += 1
        if got.shape == expected.shape and np.array_equal(got, expected):
            return
        if len(self.failures) >= MAX_FAILURES:
            return
        if got.shape != expected.shape:
            self.failures.append(f"{what}: shape {got.shape}, expected {expected.shape}")
            return
        wrong = np.argwhere(got != expected)
        at = tuple(int(i) for i in wrong[0])
        self.failures.append(f"{what}: {len(wrong)} of {got.size} wrong, at {at} {got[at]} instead of {expected[at]}")


class Device:
    """A GPU as the native module shows it; no other library is needed."""

    def __init__(self, module: Any, index: int = 0) -> None:
        self.module = module
        self.index = index
        facts = module.devices()[index]
        self.name, self.arch, self.sms = str(facts["name"]), int(facts["arch"]), int(facts["sms"])

    def choice(self, problem: Problem, kernel: str | None) -> dict[str, Any]:
        """`pick` for this problem. ValueError where the kernel cannot run it."""
        (m, k), n = problem.a.shape, problem.b.shape[1]
        chosen: dict[str, Any] = self.module.pick(
            m, n, k, problem.a_bits, problem.a_signed, problem.b_bits, self.arch, self.sms, problem.aligned, kernel,
            b_signed=problem.b_signed, b_zero_point=problem.b_zero_point,
        )  # fmt: skip
        return chosen

    def kernels(self, problem: Problem) -> list[str]:
        """Every kernel that can run it, with its own number of splits and with others where they can be forced."""
        names = [name for name in self.module.kernels() if self._runs(problem, name)]
        return names + [forced for name in names for splits in (2, 3, 4, 8) if self._runs(problem, forced := f"{name}/{splits}")]

    def _runs(self, problem: Problem, kernel: str) -> bool:
        try:
            self.choice(problem, kernel)
        except ValueError:
            return False
        return True

    def pack(self, problem: Problem) -> Any:
        """Its weights, packed on the host."""
        return self.module.Weights.from_host(problem.b, problem.b_bits, self.index)

    def run(self, problem: Problem, weights: Any, kernel: str | None) -> Array:
        """The result and what lies around it, as bytes: `surrounded` is what it must be."""
        module, epilogue = self.module, problem.epilogue
        (m, k), n = problem.a.shape, problem.b.shape[1]
        rows = np.full(problem.offset + max(1, m) * problem.row_stride + 16, POISON, dtype=np.uint8)
        at = np.lib.stride_tricks.as_strided(rows[problem.offset :], (m, k), (problem.row_stride, 1))
        at[...] = problem.a.view(np.uint8)
        columns = n + problem.out_gap
        target = np.full((m + 1) * columns * epilogue.dtype.itemsize, POISON, dtype=np.uint8)
        size = int(self.choice(problem, kernel)["workspace_bytes"])
        arrays: dict[str, Any] = {
            "a": rows,
            "out": target,
            "workspace": np.full(size, POISON, dtype=np.uint8) if size else None,
            "b_zeros": problem.b_zero if not isinstance(problem.b_zero, int) else None,
            "scales": epilogue.scale if not isinstance(epilogue.scale, float) else None,
            "bias": epilogue.bias,
            "float_bias": epilogue.float_bias,
        }
        buffers = {name: module.Buffer.from_numpy(array, self.index) for name, array in arrays.items() if array is not None}
        pointers = {name: buffers[name].pointer if name in buffers else 0 for name in arrays}
        a = module.Activations(
            pointer=pointers["a"] + problem.offset, m=m, row_stride=problem.row_stride, bits=problem.a_bits, signed=problem.a_signed,
            zero=problem.a_zero,
        )  # fmt: skip
        end = module.Epilogue(
            kind=epilogue.kind, scale=epilogue.scale if isinstance(epilogue.scale, float) else 1.0, scales=pointers["scales"],
            bias=pointers["bias"], float_bias=pointers["float_bias"], relu=epilogue.relu, out_bits=epilogue.out_bits,
            out_signed=epilogue.out_signed, out_zero=epilogue.out_zero,
        )  # fmt: skip
        module.gemm(
            a, weights, end, b_zero=problem.b_zero if isinstance(problem.b_zero, int) else 0, b_zeros=pointers["b_zeros"],
            out=pointers["out"], out_stride=columns, workspace=pointers["workspace"], workspace_bytes=size, kernel=kernel,
        )  # fmt: skip
        got = np.asarray(module.to_numpy(pointers["out"], target.shape, target.dtype, self.index, 0))
        typed: Array = got.view(epilogue.dtype).reshape(m + 1, columns)
        return typed


def surrounded(problem: Problem, expected: Array) -> Array:
    """The result as `Device.run` returns it: poison after every row and in a row more."""
    m, n = expected.shape
    poison = np.full((m + 1) * (n + problem.out_gap) * expected.dtype.itemsize, POISON, dtype=np.uint8)
    whole = poison.view(expected.dtype).reshape(m + 1, n + problem.out_gap)
    whole[:m, :n] = expected
    return whole


def check_problem(device: Device, stage: Stage, problem: Problem, kernels: Sequence[str | None]) -> None:
    """One problem by each of these kernels."""
    expected = surrounded(problem, problem.expected())
    weights = device.pack(problem)
    for kernel in kernels:
        try:
            got = device.run(problem, weights, kernel)
        except RuntimeError as error:
            raise RuntimeError(f"{kernel or 'picked'} {problem.words()}: {error}") from error
        # As bytes, so that poison that is NaN equals itself; but floats by value, as 0 and -0 are equal.
        same = np.array_equal(got, expected, equal_nan=got.dtype.kind == "f")
        stage.expect(expected if same else got, expected, f"{kernel or 'picked'} {problem.words()}")


# Each stage yields after every problem, so that it can be stopped.


def pairs(
    device: Device, stage: Stage, rng: np.random.Generator, shapes: Sequence[tuple[int, int, int]], widths: Sequence[tuple[int, int]]
) -> Iterator[None]:
    """Every pair of widths and signs by every kernel."""
    for a_bits, b_bits in widths:
        for a_signed in (False, True):
            for b_signed in (False, True):
                for shape in shapes:
                    problem = random_problem(rng, shape, (a_bits, a_signed), (b_bits, b_signed))
                    check_problem(device, stage, problem, [None, *device.kernels(problem)])
                    yield


def edges(device: Device, stage: Stage, rng: np.random.Generator, count: int, largest: tuple[int, int, int]) -> Iterator[None]:
    """Whatever a call allows: tails, strides, alignment, zero points, epilogues."""
    for _ in range(count):
        problem = any_problem(rng, largest)
        check_problem(device, stage, problem, [None, *device.kernels(problem)])
        yield


def bounds(device: Device, stage: Stage, longest: int, widths: Sequence[tuple[int, int]]) -> Iterator[None]:
    """Sums as large as they get: K at what one accumulator takes and one block more, and at what int32 takes or `longest`."""
    for a_bits, b_bits in widths:
        for a_signed in (False, True):
            for b_signed in (False, True):
                a, b = (a_bits, a_signed), (b_bits, b_signed)
                limit = min(longest, longest_k(a, b))
                for k in sorted({min(k, limit) for k in (65536, 65536 + 128, limit)}):
                    for sign in (1, -1):
                        problem = extreme_problem(k, a, b, sign)
                        check_problem(device, stage, problem, [None, *device.kernels(problem)])
                        yield


def packing(device: Device, stage: Stage, rng: np.random.Generator) -> Iterator[None]:
    """The same bytes whoever packs them, the values back, and the first value out of range found."""
    module = device.module
    for bits in range(1, 9):
        for signed in (False, True):
            k, n = (int(x) for x in rng.integers(1, 400, 2))
            b = matrix(rng, (k, n), bits, signed)
            host = module.Weights.from_host(b, bits, device.index)
            for order in ("C", "F"):
                copy = module.Buffer.from_numpy(np.ascontiguousarray(b if order == "C" else b.T), device.index)
                strides = (n, 1) if order == "C" else (1, k)
                there = module.Weights.from_device(copy.pointer, k, n, *strides, signed, bits, device.index, 0)
                stage.expect(there.to_host(), host.to_host(), f"bytes packed on the device, {k}x{n}, {bits} bits")
                stage.expect(there.sums(), host.sums(), f"sums taken on the device, {k}x{n}, {bits} bits")
            stage.expect(host.unpack(), b, f"unpacked values, {k}x{n}, {bits} bits")
            if bits < 8:
                at = int(rng.integers(0, k * n))
                b.flat[at] = interval(bits, signed)[1] + 1
                copy = module.Buffer.from_numpy(b, device.index)
                values = module.Activations(pointer=copy.pointer, m=k, row_stride=n, bits=bits, signed=signed)
                found = module.check(values, n, device.index, 0)
                stage.expect(np.array(found), np.array(at), f"first value out of range, {k}x{n}, {bits} bits")
            yield


def run_stage(name: str, make: Callable[[Stage], Iterator[None]], seconds: float) -> Stage:
    """One stage within its time. What the device throws ends it and counts as a failure: after a fault nothing there can be trusted."""
    stage = Stage(name)
    begin = time.monotonic()
    try:
        for _ in make(stage):
            if time.monotonic() - begin > seconds:
                stage.cut = True
                break
    except (RuntimeError, MemoryError) as error:
        stage.failures.append(f"{type(error).__name__}: {error}")
    stage.seconds = round(time.monotonic() - begin, 2)
    return stage


def plan(device: Device, rng: np.random.Generator, reduced: bool) -> list[tuple[str, float, Callable[[Stage], Iterator[None]]]]:
    """(name, share of the time, stage) of everything that needs the native module alone."""
    everything = [(a, b) for a in range(1, 9) for b in range(1, 9)]
    if reduced:
        return [
            ("pairs", 0.5, lambda stage: pairs(device, stage, rng, REDUCED_SHAPES, REDUCED_PAIRS)),
            ("edges", 0.3, lambda stage: edges(device, stage, rng, 40, (90, 150, 700))),
            ("packing", 0.2, lambda stage: packing(device, stage, rng)),
        ]
    return [
        ("packing", 0.05, lambda stage: packing(device, stage, rng)),
        ("pairs", 0.4, lambda stage: pairs(device, stage, rng, PAIR_SHAPES, everything)),
        ("edges", 0.25, lambda stage: edges(device, stage, rng, 600, (300, 400, 1500))),
        ("bounds", 0.1, lambda stage: bounds(device, stage, 1 << 18, BOUND_PAIRS)),
        ("long k", 0.05, lambda stage: bounds(device, stage, LONG_K, LONG_PAIRS)),
    ]


def save(path: Path, device: Device, seed: int, stages: Sequence[Stage]) -> None:
    """What has been found so far, as JSON."""
    content = {"device": device.name, "arch": device.arch, "seed": seed, "stages": [asdict(stage) for stage in stages]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def summary(stages: Sequence[dict[str, Any]]) -> list[str]:
    """One line per stage, and its failures."""
    lines = []
    for stage in stages:
        verdict = f"{len(stage['failures'])} WRONG" if stage["failures"] else "exact"
        if stage["skipped"]:
            verdict = f"skipped: {stage['skipped']}"
        cut = ", cut by the clock" if stage["cut"] else ""
        lines.append(f"  {stage['name']:10} {stage['checks']:6} checks in {stage['seconds']:.0f} s{cut}: {verdict}")
        lines += [f"    {failure}" for failure in stage["failures"]]
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages; 1 where anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda.check", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--reduced", action="store_true", help="a small set without torch, for compute-sanitizer")
    args = parser.parse_args(arguments)
    from bench.subjects import installed

    installed.load()
    from ulp._gpu import native

    seed = int(np.random.SeedSequence().generate_state(1)[0]) if args.seed is None else args.seed
    device = Device(native.load())
    rng = np.random.default_rng(seed)
    stages: list[Stage] = []
    todo = plan(device, rng, args.reduced)
    if not args.reduced:
        from . import check_torch

        todo += check_torch.plan(device, rng)
    for name, share, make in todo:
        stages.append(run_stage(name, make, share * args.seconds))
        save(args.out, device, seed, stages)
        print("\n".join(summary([asdict(stages[-1])])), flush=True)
    return 1 if any(stage.failures for stage in stages) else 0


if __name__ == "__main__":
    sys.exit(main())
