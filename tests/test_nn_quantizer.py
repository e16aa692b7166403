"""Quantizers, the ranges they come from, the quantization of weights, calibration."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from typing import Any

import nn_formulas as formulas
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from nn_formulas import images
from reference import Array, assert_exact

from ulp import _progress, nn
from ulp.nn.observer import Observer
from ulp.nn.quantizer import Quantizer, WeightOptions, from_range, quantize_weight

widths = st.integers(1, 8)
scales = st.floats(2.0**-20, 2.0**20, width=32)


@st.composite
def quantizers(draw: st.DrawFn) -> Quantizer:
    bits = draw(widths)
    return Quantizer(bits, draw(scales), draw(st.integers(0, 2**bits - 1)))


@given(q=quantizers(), x=st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1))
def test_codes_and_values(q: Quantizer, x: list[float]) -> None:
    array = np.array(x, np.float32)
    codes = q.codes(array)
    assert codes.dtype == np.uint8
    assert int(codes.max()) <= q.levels
    assert_exact(codes.astype(np.int64) - q.zero, formulas.steps_of(array, q), "codes")
    assert_exact(q.values(codes), formulas.rounded(array, q), "values")
    assert_exact(q.round_trip(array), q.values(codes), "round trip")
    assert_exact(q.codes(q.values(codes)), codes, "codes of values")


def test_the_largest_floats_are_clamped() -> None:
    q = Quantizer(3, 2.0**-100, 2)
    largest = np.finfo(np.float32).max
    assert_exact(q.codes(np.array([largest, -largest, 0], np.float32)), np.array([7, 0, 2], np.uint8), "codes")
    assert (q.code(math.inf), q.code(-math.inf), q.code(0.0)) == (7, 0, 2)


@given(
    q=quantizers(),
    low=st.sampled_from([-math.inf, -1.0, 0.0]),
    high=st.sampled_from([0.5, 6.0, math.inf]),
    x=st.lists(st.floats(-9, 9, width=32)),
)
def test_only_the_part_of_a_clamp_that_codes_show_is_kept(q: Quantizer, low: float, high: float, x: list[float]) -> None:
    array = np.array(x, np.float32)
    assert_exact(q.codes(np.clip(array, *q.effective_clamp(low, high))), q.codes(np.clip(array, low, high)), "codes")


def test_a_relu_in_front_of_unsigned_codes_says_nothing() -> None:
    assert Quantizer(3, 0.1).effective_clamp(0.0, math.inf) == (-math.inf, math.inf)
    assert Quantizer(3, 0.1, 1).effective_clamp(0.0, math.inf) == (0.0, math.inf)
    assert Quantizer(3, 6 / 7).effective_clamp(0.0, 6.0) == (-math.inf, math.inf)
    assert Quantizer(3, 1.0).effective_clamp(0.0, 6.0) == (-math.inf, 6.0)


@given(
    low=st.floats(-1000, 1000, width=32), width=st.floats(0, 1000, width=32), bits=widths, signed=st.booleans(), asymmetric=st.booleans()
)
def test_a_range_is_covered(low: float, width: float, bits: int, signed: bool, asymmetric: bool) -> None:
    high = low + width
    assume(bits > 1 or not signed or asymmetric)
    q = from_range(low, high, bits, signed, asymmetric)
    ends = np.array([min(low, 0.0) if signed or asymmetric else 0.0, max(high, 0.0)], np.float32)
    # No further off than half a step, and half a step more where the zero point was rounded.
    assert np.abs(q.round_trip(ends) - ends).max() <= q.scale * 1.001
    if not asymmetric:
        assert q.zero == (2 ** (bits - 1) if signed else 0)
        assert np.abs(q.round_trip(ends) - ends).max() <= q.scale * 0.501


def test_ranges_choose_the_sign() -> None:
    assert from_range(-1, 1, 4, None, asymmetric=False) == Quantizer(4, np.float32(1 / 7), 8)
    assert from_range(0, 1, 4, None, asymmetric=False) == Quantizer(4, np.float32(1 / 15), 0)
    assert from_range(-1, 1, 1, None, asymmetric=False) == Quantizer(1, 1.0, 0)
    assert from_range(-1, 3, 2, None, asymmetric=True) == Quantizer(2, np.float32(4 / 3), 1)
    assert from_range(0, 0, 4, None, asymmetric=True) == Quantizer(4, 1.0, 0)


# Weights.


@given(
    seed=st.integers(0, 2**32 - 1),
    bits=st.integers(2, 8),
    channels=st.integers(1, 5),
    k=st.integers(1, 50),
    narrow=st.booleans(),
    per_channel=st.booleans(),
)
def test_weights(seed: int, bits: int, channels: int, k: int, narrow: bool, per_channel: bool) -> None:
    weight = images(np.random.default_rng(seed), channels, k)
    found = {}
    for method in ("minmax", "mse"):
        options = WeightOptions(bits, per_channel, method, "narrow" if narrow else "full")
        integers, scale = quantize_weight(weight, options)
        assert (str(integers.dtype), str(scale.dtype)) == ("int8", "float32")
        assert (integers.shape, scale.shape) == (weight.shape, (channels,))
        low, high = -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1
        assert low <= integers.min() <= integers.max() <= high
        assert per_channel or len(set(scale.tolist())) == 1
        values = integers * scale[:, None]
        found[method] = float(np.square(values - weight, dtype=np.float64).sum())
        if method == "minmax":
            assert (np.abs(values - weight) <= scale[:, None] * 0.501).all()
    assert found["mse"] <= found["minmax"] * (1 + 1e-6) + 1e-12


def test_the_mse_scale_is_near_the_best_of_a_fine_grid() -> None:
    weight = images(np.random.default_rng(0), 1, 2000)
    for bits in range(2, 9):
        options = WeightOptions(bits)
        integers, scale = quantize_weight(weight, options)
        error = np.square(integers * scale - weight, dtype=np.float64).sum()
        low, high = options.interval
        grid = np.abs(weight).max() / high * np.linspace(0.05, 1.1, 2000)
        best = min(float(np.square(np.clip(np.rint(weight / s), low, high) * s - weight).sum()) for s in grid)
        assert error <= best * 1.03, bits


def test_one_bit_weights_are_signs_times_the_mean() -> None:
    weight = np.array([[1.0, -2.0, 3.0, -0.0], [0, 0, 0, 0]], np.float32)
    integers, scale = quantize_weight(weight, WeightOptions(1))
    assert_exact(integers, np.array([[1, -1, 1, 1], [1, 1, 1, 1]], np.int8), "signs")
    assert_exact(scale, np.array([1.5, 0], np.float32), "scales")


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_channels_of_zeros_and_of_tiny_weights(bits: int) -> None:
    weight = np.zeros((3, 4), np.float32)
    weight[1] = 1e-42
    weight[2] = [1e30, -1e30, 0, 0]
    for method in ("minmax", "mse"):
        integers, scale = quantize_weight(weight, WeightOptions(bits, method=method))
        assert not integers[:2].any()
        assert np.isfinite(scale).all()
        assert (scale > 0).all()


# Calibration.


def layers() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3, bits=3), nn.ReLU(), nn.Quantize(4), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 4, bits=2))


def inputs_of(network: nn.Sequential, x: Array) -> list[Array]:
    """Inputs of the calibrated layers, in floats all the way."""
    conv, _, _, _, _, linear = network
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(linear, nn.Linear)
    a = np.empty((len(x), 4, 6, 6), np.float32)
    for y in range(6):
        for c in range(6):
            a[:, :, y, c] = np.einsum("nchw,ochw->no", x[:, :, y : y + 3, c : c + 3], conv.weight) + conv.bias
    a = np.maximum(a, 0)
    pooled = a.reshape(len(x), 4, 3, 2, 3, 2).mean(axis=(3, 5))
    return [x, a, a, pooled.reshape(len(x), -1)]


@pytest.mark.parametrize("batches", ["list", "generator", "pairs", "array"])
def test_min_max(batches: str) -> None:
    x = images(np.random.default_rng(0), 6, 3, 8, 8)
    network = layers()
    parts: dict[str, Any] = {
        "list": [x[:2], x[2:]],
        "generator": (part for part in (x[:3], x[3:])),
        "pairs": [(x[:4], "label"), [x[4:], "label"]],
        "array": x,
    }
    assert network.calibrate(parts[batches], "minmax") is network
    quantized = [module for module in network if hasattr(module, "quantizer")]
    for module, values in zip(quantized, inputs_of(network, x), strict=True):
        expected = from_range(float(values.min()), float(values.max()), module.act_bits, None, asymmetric=False)  # type: ignore[attr-defined]
        assert module.quantizer.scale == pytest.approx(expected.scale, rel=1e-5)
        assert module.quantizer.zero == expected.zero


def error_of(x: Array, q: Quantizer) -> float:
    return float(np.square(q.round_trip(x) - x, dtype=np.float64).sum())


@given(seed=st.integers(0, 2**32 - 1), bits=st.integers(1, 8), signed=st.sampled_from([None, False, True]), asymmetric=st.booleans())
def test_methods(seed: int, bits: int, signed: bool | None, asymmetric: bool) -> None:
    rng = np.random.default_rng(seed)
    x = (images(rng, 4000) ** 3).astype(np.float32)
    if bits == 1:
        signed = None
    if seed % 2:
        x = np.maximum(x, 0)
    observer = Observer()
    for part in np.array_split(x, 3):
        observer.add(part)
    assert (observer.low, observer.high) == (x.min(), x.max())
    assert observer.zeros + observer.counts.sum() == x.size
    q = {method: observer.quantizer(bits, signed, asymmetric, method, 99.0) for method in ("minmax", "percentile", "mse")}
    assert q["minmax"] == from_range(float(x.min()), float(x.max()), bits, signed, asymmetric)
    # The histogram's bins are narrow, but not points.
    low, high = np.percentile(x, [1, 99])
    sign = bool(x.min() < 0 and bits > 1) if signed is None else signed
    assert q["percentile"].scale == pytest.approx(from_range(float(low), float(high), bits, sign, asymmetric).scale, rel=0.15)
    assert error_of(x, q["mse"]) <= error_of(x, q["minmax"]) * 1.001
    shares = [from_range(float(x.min()) * s, float(x.max()) * s, bits, sign, asymmetric) for s in np.linspace(0.02, 1, 99)]
    # The observer tries ranges 3.4 % apart, on the middles of bins.
    assert error_of(x, q["mse"]) <= min(error_of(x, share) for share in shares) * 1.1


def test_a_histogram_grows_with_the_values() -> None:
    rng = np.random.default_rng(0)
    parts = [images(rng, 1000) * np.float32(scale) for scale in (1e-3, 1.0, 0.0, 50.0, 1e-3)]
    grown, whole = Observer(), Observer()
    for part in parts:
        grown.add(part)
    whole.add(np.concatenate(parts))
    assert_exact(grown.counts, whole.counts, "counts")
    assert (grown.low, grown.high, grown.zeros) == (whole.low, whole.high, 1000)
    empty = Observer()
    empty.add(np.empty(0, np.float32))
    assert not empty.seen


def test_calibration_leaves_dynamic_layers_and_what_it_does_not_reach() -> None:
    x = images(np.random.default_rng(0), 2, 3, 8, 8)
    dynamic, unused = nn.Conv2d(3, 3, 1, bits=3, dynamic=True), nn.Conv2d(3, 3, 1, bits=3)

    class Partly(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.pool = dynamic, unused, nn.AdaptiveAvgPool2d(8)

        def forward(self, x: Any) -> Any:
            return self.pool(self.a(x))

    network = Partly().calibrate([x])
    assert dynamic.quantizer is None
    assert unused.quantizer is None
    assert network.pool.quantizer is None  # it passes its input on
    assert_exact(network(x), dynamic(x), "the result")


def test_a_calibration_that_fails_leaves_no_trace() -> None:
    x = images(np.random.default_rng(0), 2, 3, 8, 8)
    network = layers().calibrate([x])
    expected = network(x)
    with pytest.raises(ValueError, match="batches is empty"):
        network.calibrate([])
    with pytest.raises(ValueError, match="a calibration holds a NaN or an infinity"):
        network.calibrate([x, x * np.float32(np.nan)])
    with pytest.raises(nn.LayerError, match=r"layer '0': .* to have 3 channels"):
        network.calibrate([x[:, :2]])
    with pytest.raises(ValueError, match="method='max': expected 'minmax', 'percentile' or 'mse'"):
        nn.calibrate(network, [x], "max")
    with pytest.raises(ValueError, match=r"percentile=0\.5: expected a number above 50, up to 100"):
        network.calibrate([x], "percentile", percentile=0.5)
    assert_exact(network(x), expected, "the result")


@pytest.mark.parametrize("installed", [True, False])
def test_progress(installed: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    x = images(np.random.default_rng(0), 2, 3, 8, 8)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    if installed:
        monkeypatch.setattr(_progress, "_bar", lambda: lambda batches, **options: noted(batches, options["desc"]))
    else:
        _progress._bar.cache_clear()
        monkeypatch.setitem(sys.modules, "tqdm", None)
    seen: list[str] = []

    def noted(batches: Any, desc: str) -> Iterator[Any]:
        seen.append(desc)
        yield from batches

    layers().calibrate([x])
    assert seen == (["calibrate"] if installed else [])
    layers().calibrate([x], progress=False)
    assert len(seen) == installed
    assert capsys.readouterr() == ("", "")


def test_a_scale_beyond_float32_is_refused() -> None:
    with pytest.raises(ValueError, match=r"scale=1e\+300: expected a positive float32 number"):
        Quantizer(3, 1e300)
