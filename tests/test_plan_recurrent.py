"""LSTM and GRU as steps: products of integers against int64, the whole against float64 gates, on every ISA the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_plan import F32, Describe, expected, native
from test_plan_rows import on_every_isa

from ulp import _core


def one_layer(rng: np.random.Generator, kind: str, **fields: Any) -> tuple[Describe, int, int]:
    """A layer of random sizes and widths. fields: what is not to be chosen. Gives T and C, too."""
    gates = 4 if kind == "lstm" else 3
    time, channels, units = (int(rng.integers(1, high)) for high in (6, 40, 40))
    w_bits, x_bits, h_bits = (int(n) for n in rng.integers(1, 9, 3))
    codes_in, states, whole = (bool(n) for n in rng.integers(0, 2, 3))
    before = kind == "gru" and bool(rng.integers(0, 2))
    static = {"hidden_scale": 2 / 2**h_bits, "hidden_zero": 2 ** (h_bits - 1)} if rng.integers(0, 2) else {}
    low = -(2 ** (w_bits - 1))

    def weights(k: int, n: int) -> _core.Packed:
        made = np.where(rng.random((k, n)) < 0.5, -1, 1) if w_bits == 1 else rng.integers(low, -low, (k, n))
        return _core.pack(np.pad(made.astype(np.int8), ((0, -k % 4), (0, 0)), constant_values=1 if w_bits == 1 else 0), w_bits)

    columns = gates * units
    scales = {name: (rng.uniform(0.5, 2, columns) / -low / 8).astype(F32) for name in ("input_scale", "scale")}
    given = {
        "kind": kind,
        "input_weights": weights(channels, columns),
        "weights": weights(units, 2 * units if before else columns),
        "candidate": weights(units, units) if before else None,
        "weight_zeros": (0, 0),
        **scales,
        "bias": rng.standard_normal(columns).astype(F32),
        "hidden_bias": rng.standard_normal(units).astype(F32) if kind == "gru" and not before else None,
        "input_bits": 0 if codes_in else x_bits,
        "hidden_bits": h_bits,
        "per_row": not codes_in and bool(rng.integers(0, 2)),
        "reverse": bool(rng.integers(0, 2)),
        "divide": bool(rng.integers(0, 2)),
        **static,
        **fields,
    }

    def describe(plan: Any) -> None:
        source = plan.codes(1, time, channels, x_bits, 2**x_bits // 2, 0.125) if codes_in else plan.floats(1, time, channels)
        plan.input_floats(channels=channels, height=1, width=time, targets=[source], nhwc=True)
        result, codes, ends = plan.floats(1, time, units), plan.codes(1, time, units, 6, 32, 0.03125), plan.floats(1, 1, 2 * units)
        state = plan.floats(1, 1, 2 * units)
        if states:  # what the same layer leaves behind from zeros on
            first = {"hidden": (state, 0), **({"cell": (state, units)} if kind == "lstm" else {})}
            last = {f"final_{name}": place for name, place in first.items()}
            if kind == "gru":
                plan.recurrent(source=source, targets=[], final_hidden=(state, 0), **given)
                plan.recurrent(source=source, targets=[], final_hidden=(state, units), **given)
            else:
                plan.recurrent(source=source, targets=[], **last, **given)
        else:
            first = {}
        last = {"final_hidden": (ends, 0), **({"final_cell": (ends, units)} if kind == "lstm" else {})}
        if kind == "gru":
            plan.recurrent(source=source, targets=[], final_hidden=(ends, units), **given)
        plan.recurrent(source=source, targets=[(result, 0), (codes, 0)] if whole else [(result, 0)], **first, **last, **given)
        for tensor in (result, codes, ends) if whole else (result, ends):
            plan.output(tensor=tensor, nhwc=True)

    return describe, time, channels


@pytest.mark.parametrize("kind", ["lstm", "gru"])
@pytest.mark.parametrize("seed", range(12))
def test_layers_against_integers_and_float64(kind: str, seed: int) -> None:
    rng = np.random.default_rng([seed, kind == "gru"])
    describe, time, channels = one_layer(rng, kind)
    x = rng.standard_normal((1, 1, time, channels)).astype(F32)
    for found, wanted in zip(on_every_isa(describe, x), expected(describe, x), strict=True):
        if found.dtype == np.uint8:
            assert np.abs(found.astype(int) - wanted).max() <= 1
        else:
            np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=3e-7)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_several_sequences_in_a_group(kind: str) -> None:
    """The rows of one product, each with a scale of its own, give what they give alone."""
    rng = np.random.default_rng(7)
    describe, time, channels = one_layer(rng, kind)
    x = rng.standard_normal((7, 1, time, channels)).astype(F32)
    plan = _core.Plan()
    describe(plan)
    plan.finalize(5, False)
    for together, alone in zip(plan.run(x), native(describe).run(x), strict=True):
        np.testing.assert_array_equal(together, alone)


def test_a_nan_and_lengths_are_refused() -> None:
    describe, time, channels = one_layer(np.random.default_rng(1), "lstm")
    x = np.full((1, 1, time, channels), np.nan, F32)
    with pytest.raises(_core.NotFinite):
        native(describe).run(x)
    weights = _core.pack(np.ones((4, 16), np.int8), 2)
    ones = np.ones(16, F32)
    plan = _core.Plan()
    line, result, count = plan.floats(1, 3, 4), plan.floats(1, 3, 4), plan.floats(1, 1, 1)
    plan.input_floats(channels=4, height=1, width=3, targets=[line], nhwc=True)
    plan.input_floats(channels=1, height=1, width=1, targets=[count], nhwc=True)
    fields: dict[str, Any] = {
        "source": line,
        "kind": "lstm",
        "input_weights": weights,
        "weights": weights,
        "weight_zeros": (0, 0),
        "input_scale": ones,
    }
    fields |= {"scale": ones, "bias": ones, "input_bits": 8, "hidden_bits": 8, "per_row": True, "reverse": True, "divide": False}
    plan.recurrent(targets=[(result, 0)], lengths=(count, 0), **fields)
    plan.output(tensor=result, nhwc=True)
    plan.finalize(1, False)
    x = np.ones((1, 1, 3, 4), F32)
    for length in (0, 1, 2, 3):
        (y,) = plan.run([x, np.full((1, 1, 1, 1), length, F32)])
        assert not y[0, 0, length:].any()
        assert y[0, 0, :length].all()
    x[0, 0, 1, :2] = -3e38, 3e38  # both are numbers
    with pytest.raises(_core.NotFinite, match="leaves float32"):
        plan.run([x, np.full((1, 1, 1, 1), 3, F32)])
    for wrong in (-1, 0.5, 4, np.inf):
        with pytest.raises(_core.CodeOutOfRange, match=r"not an integer of 0\.\.3"):
            plan.run([x, np.full((1, 1, 1, 1), wrong, F32)])
