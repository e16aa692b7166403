"""Steps at every width of a vector: channels around 16, 32, 64 and 128, on each instruction set, against the reference plan."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_plan import F32, Describe, assert_same, expected, native, padded_rows, scaled

import ulp

WIDTHS = (1, 7, 8, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 80, 96, 127, 128, 144)


def network(rng: np.random.Generator, n: int, colours: int, height: int, width: int) -> Describe:
    """An image to codes of two quantizers, a layer of n channels with a shortcut and four targets, poolings, depthwise layers."""
    bits, zero = int(rng.integers(2, 9)), int(rng.integers(0, 4))
    # Values that reach far beyond the codes, so that rounding them would overflow int32, and values that do not.
    far = bool(rng.random() < 0.3)
    first = rng.integers(-8, 8, (1, 1, colours, n)).astype(np.int8)
    second = rng.integers(-4, 4, (1, 1, n, n)).astype(np.int8)
    taps = {side: rng.integers(-128, 128, (*side, n)).astype(np.int8) for side in ((3, 3), (5, 5), (2, 7))}
    terms = [scaled(rng, n, []) for _ in range(6)]
    table = np.sort(rng.integers(-60, 60, (n, 2**3 - 1)), axis=1).astype(np.int32), rng.random(n) < 0.5

    def entries(i: int, targets: list[tuple[int, int]], **changes: Any) -> dict[str, Any]:
        scale = terms[i]["scale"] * F32(1e7 if far else 1.0)
        return terms[i] | {"scale": scale, "targets": targets, "thresholds": [None] * len(targets)} | changes

    def describe(plan: Any) -> None:
        images = [plan.codes(height, width, colours, 8, 128, 0.03125), plan.codes(height, width, colours, bits, zero, 0.25)]
        plan.input_floats(channels=colours, height=height, width=width, targets=images)
        x = plan.codes(height, width, n, bits, zero, 0.25)
        y = plan.codes(height, width, n, 4, 5, 0.5)
        z = plan.codes(height, width, n, 8, 128, 0.125)
        counted = plan.codes(height, width, n, 3, 0, 1.0)
        values = plan.floats(height, width, n)
        window: dict[str, Any] = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1)}
        conv: dict[str, Any] = window | {"source_channel": 0, "kernel": (1, 1), "weight_zero": 0, "method": None}
        plan.conv(source=images[1], weights=padded_rows(first, 4), finish=entries(0, [(x, 0)], low=-1.0, high=6.0), **conv)
        targets = [(y, 0), (values, 0), (z, 0)]
        plan.conv(source=x, weights=padded_rows(second, 3), finish=entries(1, targets, residual=(x, 0), low=0.0), **conv)
        only = entries(2, [(counted, 0)], thresholds=[table])
        plan.conv(source=z, weights=padded_rows(second, 3), finish=only, **conv)
        for tensor in (y, values, counted):
            plan.output(tensor=tensor, nhwc=True)
        pooled = plan.codes(height - 1, width - 1, n, bits, zero, 0.25)
        rows, columns = (np.array([(i, i + 2) for i in range(side - 1)], np.int32) for side in (height, width))
        plan.max_pool(source=x, target=(pooled, 0), rows=rows, columns=columns, dilation=(1, 1))
        plan.output(tensor=pooled, nhwc=True)
        for i, (side, stride) in enumerate((((3, 3), 1), ((3, 3), 2), ((5, 5), 1), ((2, 7), 1))):
            up, left = side[0] // 2, side[1] // 2
            padding = (up, left, up, left)
            out = [(length + 2 * pad - s) // stride + 1 for length, pad, s in zip((height, width), (up, left), side, strict=True)]
            target = plan.codes(*out, n, 6, 3, 0.5)
            more = entries(2 + i, [(target, 0)])
            plan.depthwise(source=z, weights=taps[side], stride=(stride,) * 2, padding=padding, dilation=(1, 1), finish=more)
            plan.output(tensor=target, nhwc=True)

    return describe


@pytest.mark.parametrize("n", WIDTHS)
def test_every_width(n: int) -> None:
    rng = np.random.default_rng(n)
    height, width, colours = int(rng.integers(4, 9)), int(rng.integers(4, 40)), n % 5 + 1
    describe = network(rng, n, colours, height, width)
    x = (rng.standard_normal((2, colours, height, width)) * 2).astype(F32)
    want = expected(describe, x)
    for isa in ulp.available_isas():
        ulp.set_isa(isa)
        assert_same(native(describe).run(x), want, f"{isa}, output")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_images_that_are_not_finite(value: float) -> None:
    """Wherever it stands, also in the last of some pixels that fill no vector."""
    for colours in range(1, 6):

        def describe(plan: Any) -> None:
            image = plan.codes(1, 37, colours, 8, 0, 1.0)  # noqa: B023  # called in this round
            plan.input_floats(channels=colours, height=1, width=37, targets=[image])  # noqa: B023
            plan.output(tensor=image, nhwc=True)

        for isa in ulp.available_isas():
            ulp.set_isa(isa)
            plan = native(describe)
            for at in (0, 15, 36):
                x = np.zeros((1, colours, 1, 37), F32)
                x[0, colours - 1, 0, at] = value
                with pytest.raises(ValueError, match=r"not finite|NaN|finite"):
                    plan.run(x)
