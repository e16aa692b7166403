"""Steps that compute with elements: tables of codes, sums and products of images, moves, input by pixels. Against the reference plan."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from test_plan import F32
from test_plan_errors import OTHER, RESULT, SOURCE, UNWRITTEN, begin, unscaled
from test_plan_units import both_sides

import ulp
from ulp import _core

SEEDS = range(24)


def random_image(rng: np.random.Generator) -> tuple[int, int, int]:
    return int(rng.integers(1, 9)), int(rng.integers(1, 40)), int(rng.choice([1, 2, 3, 4, 5, 8, 16, 31, 32, 33, 64, 300]))


def random_codes(rng: np.random.Generator, plan: Any, size: tuple[int, int, int]) -> tuple[int, int]:
    """A tensor of a random quantizer, and its bits."""
    bits = int(rng.integers(1, 9))
    zero = int(rng.integers(0, 2**bits))
    return plan.codes(*size, bits, zero, float(F32(rng.uniform(0.01, 0.9)))), bits


def images(seed: int, size: tuple[int, int, int], nhwc: bool = False) -> Any:
    height, width, channels = size
    shape = (3, height, width, channels) if nhwc else (3, channels, height, width)
    return np.random.default_rng(seed + 1).standard_normal(shape).astype(F32)


@pytest.mark.parametrize("seed", SEEDS)
def test_lookups(seed: int) -> None:
    size = random_image(np.random.default_rng(seed))

    def describe(plan: Any) -> None:
        rng = np.random.default_rng(seed)
        random_image(rng)
        height, width, channels = size
        source, bits = random_codes(rng, plan, size)
        wide, wide_bits = random_codes(rng, plan, (height, width, 2 * channels))
        floats = plan.floats(*size)
        plan.input_floats(channels=channels, height=height, width=width, targets=[source])
        for at, rows in ((0, 1), (channels, channels)):
            table = rng.integers(0, 2**wide_bits, (rows, 2**bits)).astype(np.uint8)
            plan.lookup(source=source, target=(wide, at), codes=table)
        rows = int(rng.choice([1, channels]))
        plan.lookup(source=source, target=(floats, 0), values=rng.standard_normal((rows, 2**bits)).astype(F32))
        for tensor in (wide, floats):
            plan.output(tensor=tensor, nhwc=bool(seed % 2))

    both_sides(describe, images(seed, size))


@pytest.mark.parametrize("bits", range(1, 9))
def test_a_lookup_of_dense_rows_knows_every_code(bits: int) -> None:
    """Rows without gaps are looked up as a whole, 32 codes at a time and a tail."""

    def describe(plan: Any) -> None:
        source, result = plan.codes(3, 77, 4, bits, 0, 1.0), plan.codes(3, 77, 4, 8, 0, 1.0)
        plan.input_codes(tensor=source, nhwc=True)
        table = np.random.default_rng(bits).permutation(256).astype(np.uint8)[None, : 2**bits]
        plan.lookup(source=source, target=(result, 0), codes=np.ascontiguousarray(table))
        plan.output(tensor=result, nhwc=True)

    both_sides(describe, np.random.default_rng(0).integers(0, 2**bits, (2, 3, 77, 4)).astype(np.uint8))


@pytest.mark.parametrize("seed", SEEDS)
def test_combinations(seed: int) -> None:
    size = random_image(np.random.default_rng(seed))

    def describe(plan: Any) -> None:
        rng = np.random.default_rng(seed)
        random_image(rng)
        height, width, channels = size
        count, multiply = int(rng.integers(1, 5)), bool(rng.integers(0, 2))
        sources = [random_codes(rng, plan, size) for _ in range(4)]
        plan.input_floats(channels=channels, height=height, width=width, targets=[source for source, _ in sources], divide=True)
        wide = plan.floats(height, width, 2 * channels)
        pixel = plan.floats(1, 1, channels)
        places = [(source, 0) for source, _ in sources]
        common: dict[str, Any] = {"channels": channels, "low": -math.inf, "high": math.inf, "divide": False}
        plan.combine(operands=places[:count], multiply=multiply, targets=[(wide, 0)], **common)
        plan.combine(operands=places[-1:], multiply=multiply, targets=[(wide, channels)], **common)
        rows, columns = np.array([[0, height]], np.int32), np.array([[0, width]], np.int32)
        mean: dict[str, Any] = {"residual": None, "low": -math.inf, "high": math.inf, "targets": [(pixel, 0)], "thresholds": [None]}
        divisor = np.full((1, 1), height * width, F32)
        plan.window_mean(source=sources[0][0], rows=rows, columns=columns, divisor=divisor, finish=mean)
        results = [random_codes(rng, plan, size)[0] for _ in range(2)]
        floats = plan.floats(*size)
        targets = [(results[0], 0), (floats, 0), (results[1], 0)]
        common |= {"low": float(F32(-rng.uniform(0, 3))), "high": float(F32(rng.uniform(0, 3))), "divide": bool(rng.integers(0, 2))}
        operands = [(wide, channels), places[0], (pixel, 0)][: int(rng.integers(1, 4))]
        plan.combine(operands=operands, multiply=not multiply, targets=targets, **common)
        for tensor in (*results, floats, wide):
            plan.output(tensor=tensor, nhwc=bool(seed % 2))

    both_sides(describe, images(seed, size))


@pytest.mark.parametrize("seed", SEEDS)
def test_rearrangements(seed: int) -> None:
    """Transposes of all three axes, channel shuffles, reversed and stepped slices, in slices of the target."""
    size = random_image(np.random.default_rng(seed))

    def describe(plan: Any) -> None:
        rng = np.random.default_rng(seed)
        random_image(rng)
        height, width, channels = size
        source = plan.codes(*size, 5, 3, 0.125)
        plan.input_floats(channels=channels, height=height, width=width, targets=[source])
        order = rng.permutation(3)
        picks = [rng.permutation(size[axis])[: int(rng.integers(1, size[axis] + 1))] for axis in order]
        if seed % 3 == 0:
            picks = [np.arange(size[axis]) for axis in order]
        if seed % 3 == 1:
            picks[2] = picks[2][0] + np.arange(size[order[2]] - picks[2][0])
        places = []
        for axis, pick in zip(order, picks, strict=True):
            places.append(np.zeros((len(pick), 3), np.int32))
            places[-1][:, axis] = pick
        target = plan.codes(len(picks[0]), len(picks[1]), len(picks[2]) + 2, 5, 3, 0.125)
        first = {"rows": places[0], "columns": places[1]}
        plan.rearrange(source=source, target=(target, 2), channels=places[2], **first)
        plan.rearrange(source=source, target=(target, 0), channels=np.repeat(places[2][:1], 2, axis=0), **first)
        plan.output(tensor=target, nhwc=True)

    both_sides(describe, images(seed, size))


@pytest.mark.parametrize("seed", SEEDS)
def test_input_by_pixels(seed: int) -> None:
    size = random_image(np.random.default_rng(seed))

    def describe(plan: Any) -> None:
        rng = np.random.default_rng(seed)
        random_image(rng)
        height, width, channels = size
        results = [random_codes(rng, plan, size)[0] for _ in range(int(rng.integers(1, 5)))]
        plan.input_floats(channels=channels, height=height, width=width, targets=results, divide=bool(seed % 2), nhwc=True)
        for tensor in results:
            plan.output(tensor=tensor, nhwc=False)

    both_sides(describe, images(seed, size, nhwc=True) * F32(3))


def test_input_by_pixels_must_be_finite() -> None:
    plan = _core.Plan()
    plan.input_floats(channels=5, height=2, width=3, targets=[plan.codes(2, 3, 5, 8, 0, 1.0)], nhwc=True)
    plan.output(tensor=0, nhwc=True)
    plan.finalize(1, False)
    for value in (math.nan, math.inf, -math.inf):
        x = np.zeros((2, 2, 3, 5), F32)
        x[1, 1, 2, 4] = value
        with pytest.raises(_core.NotFinite):
            plan.run(x)


def test_codes_of_sums_that_are_no_numbers_are_codes() -> None:
    """inf * 0 is a NaN: its code is unspecified, but one of the target's."""

    def describe(plan: Any) -> None:
        sources = [plan.codes(1, 3, 40, 8, 0, 1e36) for _ in range(4)]
        result = plan.codes(1, 3, 40, 2, 1, 1.0)
        plan.input_floats(channels=40, height=1, width=3, targets=sources)
        bounds = {"low": -math.inf, "high": math.inf, "divide": False}
        plan.combine(operands=[(s, 0) for s in sources], channels=40, multiply=True, targets=[(result, 0)], **bounds)
        plan.output(tensor=result, nhwc=True)

    for name in ulp.available_isas():
        ulp.set_isa(name)
        plan = _core.Plan()
        describe(plan)
        plan.finalize(1, False)
        x = np.full((1, 40, 1, 3), 2e38, F32)
        x[0, ::3] = 0
        assert plan.run(x)[0].max() <= 3
    ulp.set_isa(ulp.available_isas()[0])


PIXELS = np.zeros((4, 3), np.int32)
SIX = np.zeros((6, 3), np.int32)
IDENTITY = np.arange(16, dtype=np.uint8)[None]
MOVE: dict[str, Any] = {
    "source": SOURCE,
    "target": (UNWRITTEN, 0),
    "rows": PIXELS,
    "columns": PIXELS,
    "channels": SIX,
}
LOOKUP: dict[str, Any] = {"source": SOURCE, "target": (UNWRITTEN, 0), "codes": IDENTITY}
SUM: dict[str, Any] = {
    "operands": [(SOURCE, 0), (OTHER, 0)],
    "channels": 6,
    "multiply": False,
    "low": 0.0,
    "high": 1.0,
    "targets": [(UNWRITTEN, 0)],
    "divide": False,
}


@pytest.mark.parametrize(
    ("name", "valid", "changes", "message"),
    [
        ("rearrange", MOVE, {"rows": PIXELS - 1}, "a place is negative"),
        ("rearrange", MOVE, {"rows": PIXELS + np.array([4, 0, 0])}, "a place is outside the image"),
        ("rearrange", MOVE, {"rows": PIXELS + np.array([2, 0, 0]), "channels": SIX + np.array([2, 0, 0])}, "a place is outside the image"),
        ("rearrange", MOVE, {"channels": SIX + np.array([0, 0, 2**31 - 1])}, "a place is outside the image"),
        ("rearrange", MOVE, {"rows": PIXELS[:, :2]}, "rows, columns and channels are places"),
        ("rearrange", MOVE, {"columns": PIXELS[:0]}, "rows, columns and channels are places"),
        ("rearrange", MOVE, {"rows": PIXELS[:3]}, "gives 3 x 4 x 6, which does not fit"),
        ("rearrange", MOVE, {"target": (RESULT, 0)}, "source and target must share a quantizer"),
        ("rearrange", MOVE, {"source": UNWRITTEN, "target": (RESULT, 0)}, "no step has written channel 0"),
        ("lookup", LOOKUP, {"codes": IDENTITY[:, :15]}, r"the table has shape \(1, 15\), expected \(1 or 6, 16\)"),
        ("lookup", LOOKUP, {"codes": np.repeat(IDENTITY, 5, axis=0)}, r"the table has shape \(5, 16\)"),
        ("lookup", LOOKUP, {"codes": IDENTITY + 1}, "a code is beyond the target's 15"),
        ("lookup", LOOKUP, {"values": np.ones((1, 16), F32)}, "expected one of codes and values"),
        ("lookup", LOOKUP, {"codes": None, "values": np.ones((1, 16), F32)}, "codes go with a target of codes"),
        ("lookup", LOOKUP, {"target": (SOURCE, 0)}, "the source cannot be the target"),
        ("lookup", LOOKUP, {"target": (OTHER, 0)}, "is written twice"),
        ("combine", SUM, {"operands": []}, r"expected 1\.\.4 operands, got 0"),
        ("combine", SUM, {"operands": [(SOURCE, 0)] * 5}, "got 5"),
        ("combine", SUM, {"targets": []}, r"expected 1\.\.4 targets, got 0"),
        ("combine", SUM, {"low": math.nan}, "low must not be above high"),
        ("combine", SUM, {"channels": 7}, "7 channels from 0 on are not within the 6 of tensor 0"),
        ("combine", SUM, {"channels": 0}, "0 channels"),
        ("combine", SUM, {"operands": [(SOURCE, 0), (OTHER, 1)]}, "6 channels from 1 on"),
        ("combine", SUM, {"targets": [(OTHER, 0)]}, "a tensor that is read cannot be a target"),
        ("combine", SUM, {"operands": [(SOURCE, 0), (UNWRITTEN, 0)], "targets": [(RESULT, 0)]}, "no step has written channel 0"),
    ],
)
def test_what_is_refused(name: str, valid: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    plan = _core.Plan()
    begin(plan)
    fields = {
        key: value.astype(valid[key].dtype) if isinstance(value, np.ndarray) and key in valid else value for key, value in changes.items()
    }
    with pytest.raises(ValueError, match=f"^{name}.*{message}"):
        getattr(plan, name)(**(valid | fields))
    getattr(plan, name)(**valid)


@pytest.mark.parametrize("seed", SEEDS)
def test_products_of_floats(seed: int) -> None:
    """Each sum in one order, rounded after each operation: the same bits on every ISA."""
    rng = np.random.default_rng(seed)
    size = height, width, channels = int(rng.integers(1, 4)), int(rng.integers(1, 4)), int(rng.integers(1, 70))
    count, at = int(rng.integers(1, 40)), int(rng.integers(0, 3))

    def describe(plan: Any) -> None:
        rng = np.random.default_rng(seed)
        source, _ = random_codes(rng, plan, size)
        floats, result = plan.floats(*size), plan.floats(1, 1, at + count)
        plan.input_floats(channels=channels, height=height, width=width, targets=[source])
        plan.rescale(source=source, finish=unscaled(targets=[(floats, 0)]))
        for first, n in ((0, at), (at, count)) if at else ((0, count),):
            weights = rng.standard_normal((height * width * channels, n)).astype(F32)
            plan.linear_floats(source=floats, target=(result, first), weights=weights, bias=rng.standard_normal(n).astype(F32))
        plan.output(tensor=result, nhwc=False)

    both_sides(describe, images(seed, size))


def test_products_of_floats_refuse() -> None:
    plan = _core.Plan()
    begin(plan)
    floats, result = plan.floats(4, 4, 6), plan.floats(1, 1, 4)
    plan.rescale(source=SOURCE, finish=unscaled(targets=[(floats, 0)]))
    valid: dict[str, Any] = {"source": floats, "target": (result, 0), "weights": np.ones((96, 4), F32), "bias": np.ones(4, F32)}
    refused: list[tuple[dict[str, Any], str]] = [
        ({"source": SOURCE}, "source and target hold floats"),
        ({"target": (UNWRITTEN, 0)}, "source and target hold floats"),
        ({"weights": np.ones((95, 4), F32)}, r"weights have shape \(95, 4\), expected \(96, 1 or more\)"),
        ({"weights": np.ones((96, 0), F32), "bias": np.ones(0, F32)}, r"expected \(96, 1 or more\)"),
        ({"bias": np.ones(3, F32)}, "expected 4 biases, got 3"),
        ({"weights": np.full((96, 4), np.inf, F32)}, "weights and biases must be finite"),
        ({"bias": np.full(4, np.nan, F32)}, "weights and biases must be finite"),
        ({"target": (result, 1)}, "gives 1 x 1 x 4, which does not fit channel 1 on of tensor"),
        ({"source": result}, "no step has written channel 0"),
    ]
    for changes, message in refused:
        with pytest.raises(ValueError, match=f"^linear.*{message}"):
            plan.linear_floats(**(valid | changes))
    plan.linear_floats(**valid)


def test_tables_of_floats_are_finite() -> None:
    plan = _core.Plan()
    begin(plan)
    floats = plan.floats(4, 4, 6)
    with pytest.raises(ValueError, match="lookup: values must be finite"):
        plan.lookup(source=SOURCE, target=(floats, 0), values=np.full((1, 16), np.nan, F32))


def test_operands_of_other_sizes() -> None:
    plan = _core.Plan()
    begin(plan)
    small, line = plan.codes(2, 2, 6, 4, 8, 0.5), plan.codes(1, 4, 6, 4, 8, 0.5)
    take = np.arange(2, dtype=np.int32)
    plan.gather(source=SOURCE, source_channel=0, channels=6, target=(small, 0), rows=take, columns=take)
    plan.gather(source=SOURCE, source_channel=0, channels=6, target=(line, 0), rows=take[:1], columns=np.arange(4, dtype=np.int32))
    for tensor in (small, line):
        with pytest.raises(ValueError, match="do not fit"):
            plan.combine(**(SUM | {"operands": [(SOURCE, 0), (tensor, 0)]}))
