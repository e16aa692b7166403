"""What a plan must compute, step by step, in plain numpy: integers in int64, everything else in float32, one operation at a time.

`ReferencePlan` has the methods of `ulp._core.Plan` and gives the same bits, but for functions of rows and products of floats, which it
computes in float64 and rounds once. It shares nothing with ulp but the format of packed weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ulp import _core

from .frame import F32, Array
from .sequences import SequenceSteps


class ReferencePlan(SequenceSteps):
    """The same methods and meaning as `_core.Plan`."""

    def input_floats(self, *, channels: int, height: int, width: int, targets: list[int], divide: bool = False, nhwc: bool = False) -> None:
        assert self._input is None
        self._input = np.dtype(F32), (height, width, channels) if nhwc else (channels, height, width)

        def run(env: dict[int, Array]) -> None:
            x = env[-1] if nhwc else env[-1].transpose(1, 2, 0)
            if not np.isfinite(x).all():
                raise ValueError("the input holds a NaN or an infinity")
            for t in targets:
                q = self.tensors[t]
                if not q.bits:
                    self._write(env, (t, 0), x)
                    continue
                self._write(env, (t, 0), q.steps(x / F32(q.scale)) if divide else q.quantize(x))

        self._add("input_floats", run, targets=targets)

    def input_codes(self, *, tensor: int, nhwc: bool) -> None:
        assert self._input is None
        t = self.tensors[tensor]
        self._input = np.dtype(np.uint8), (t.height, t.width, t.channels) if nhwc else (t.channels, t.height, t.width)

        def run(env: dict[int, Array]) -> None:
            x = env[-1] if nhwc else env[-1].transpose(1, 2, 0)
            if (x >= 2**t.bits).any():
                raise ValueError(f"the input holds codes beyond {2**t.bits - 1}")
            self._write(env, (tensor, 0), x)

        self._add("input_codes", run, targets=[tensor])

    def conv(
        self,
        *,
        source: int,
        source_channel: int,
        weights: _core.Packed,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        weight_zero: int,
        finish: dict[str, Any],
        method: str | None,
    ) -> None:
        t = self.tensors[source]
        w = _core.unpack(weights).astype(np.int64) - weight_zero
        stretch = kernel[1] * t.channels
        if t.channels < 4 and kernel[1] > 1 and dilation[1] == 1 and len(w) == kernel[0] * (stretch + -stretch % 4):
            # Pixels without padded channels: only a row of the kernel is padded.
            assert source_channel == 0
            w = w.reshape(kernel[0], -1, weights.n)
            assert not w[:, stretch:].any()
            w = w[:, :stretch].reshape(*kernel, t.channels, weights.n)
        else:
            w = w.reshape(*kernel, -1, weights.n)
            assert w.shape[2] % 4 == 0
            assert source_channel + w.shape[2] - 3 <= t.channels
        channels = w.shape[2]
        self.weight_bytes += weights.nbytes

        def run(env: dict[int, Array]) -> None:
            a = env[source].astype(np.int64) - t.zero
            a = np.concatenate([a, np.zeros((t.height, t.width, 3), np.int64)], axis=2)[:, :, source_channel : source_channel + channels]
            self._finish(env, window_products(a, kernel, stride, padding, dilation, lambda p, y, x: p @ w[y, x]), finish)

        self._add("conv", run, source, finish["targets"], method or "reference", w_bits=weights.bits, k=w[..., 0].size)

    def depthwise(
        self,
        *,
        source: int,
        weights: Array,
        stride: tuple[int, int],
        padding: tuple[int, int, int, int],
        dilation: tuple[int, int],
        finish: dict[str, Any],
    ) -> None:
        t = self.tensors[source]
        assert weights.dtype == np.int8
        assert weights.shape[2] == t.channels
        w = weights.astype(np.int64)
        self.weight_bytes += weights.nbytes

        def run(env: dict[int, Array]) -> None:
            a = env[source].astype(np.int64) - t.zero
            self._finish(env, window_products(a, w.shape[:2], stride, padding, dilation, lambda p, y, x: p * w[y, x]), finish)

        self._add("depthwise", run, source, finish["targets"], w_bits=8, k=w[..., 0].size)

    def linear(self, *, source: int, weights: _core.Packed, weight_zero: int, finish: dict[str, Any], kernel: str | None) -> None:
        t = self.tensors[source]
        pad = -t.channels % 4
        w = _core.unpack(weights).astype(np.int64).reshape(t.height, t.width, t.channels + pad, weights.n)[:, :, : t.channels] - weight_zero
        self.weight_bytes += weights.nbytes

        def run(env: dict[int, Array]) -> None:
            a = env[source].astype(np.int64) - t.zero
            self._finish(env, a.reshape(1, 1, -1) @ w.reshape(-1, weights.n), finish)

        self._add("linear", run, source, finish["targets"], kernel or "reference", w_bits=weights.bits, k=w[..., 0].size)

    def max_pool(
        self,
        *,
        source: int,
        target: tuple[int, int],
        rows: Array,
        columns: Array,
        dilation: tuple[int, int],
        takes_min: Array | None = None,
    ) -> None:
        assert (rows[:, 0] < rows[:, 1]).all()
        assert (columns[:, 0] < columns[:, 1]).all()

        def run(env: dict[int, Array]) -> None:
            def extreme(window: Array) -> Array:
                largest = window.max(axis=(0, 1))
                return np.asarray(largest if takes_min is None else np.where(takes_min, window.min(axis=(0, 1)), largest))

            a = env[source]
            out = [[extreme(a[y0 : y1 : dilation[0], x0 : x1 : dilation[1]]) for x0, x1 in columns] for y0, y1 in rows]
            self._write(env, target, np.array(out))

        self._add("max_pool", run, source, [target])

    def window_mean(self, *, source: int, rows: Array, columns: Array, divisor: Array, finish: dict[str, Any]) -> None:
        t = self.tensors[source]
        assert divisor.dtype == F32
        assert not {"scale", "bias"} & set(finish)

        def run(env: dict[int, Array]) -> None:
            a = env[source].astype(np.int64) - t.zero
            sums = np.array([[a[y0:y1, x0:x1].sum(axis=(0, 1)) for x0, x1 in columns] for y0, y1 in rows])
            self._finish(env, None, finish, sums.astype(F32) * (F32(t.scale) / F32(finish.get("unit", 1)) / divisor)[:, :, None])

        self._add("window_mean", run, source, finish["targets"])

    def rescale(self, *, source: int, finish: dict[str, Any]) -> None:
        t = self.tensors[source]
        assert not {"scale", "bias"} & set(finish)
        unit = finish.get("unit", 1)
        self._add("rescale", lambda env: self._finish(env, None, finish, t.values(env[source], unit)), source, finish["targets"])

    def gather(self, *, source: int, source_channel: int, channels: int, target: tuple[int, int], rows: Array, columns: Array) -> None:
        t = self.tensors[source]

        def run(env: dict[int, Array]) -> None:
            a = env[source][:, :, source_channel : source_channel + channels]
            padded = np.pad(a, ((0, 1), (0, 1), (0, 0)), constant_values=t.zero)  # index -1 is the pad
            self._write(env, target, padded[rows][:, columns])

        self._add("gather", run, source, [target])

    def rearrange(self, *, source: int, target: tuple[int, int], rows: Array, columns: Array, channels: Array) -> None:
        def run(env: dict[int, Array]) -> None:
            places = rows[:, None, None] + columns[:, None] + channels
            self._write(env, target, env[source][places[..., 0], places[..., 1], places[..., 2]])

        self._add("rearrange", run, source, [target])

    def lookup(self, *, source: int, target: tuple[int, int], codes: Array | None = None, values: Array | None = None) -> None:
        table = values if codes is None else codes
        assert table is not None

        def run(env: dict[int, Array]) -> None:
            a = env[source]
            rows = np.broadcast_to(table, (a.shape[2], table.shape[1]))
            self._write(env, target, rows[np.arange(a.shape[2]), a])

        self._add("lookup", run, source, [target])

    def combine(
        self,
        *,
        operands: list[tuple[int, int]],
        channels: int,
        multiply: bool,
        low: float,
        high: float,
        targets: list[tuple[int, int]],
        divide: bool,
    ) -> None:
        def value(env: dict[int, Array], tensor: int, channel: int) -> Array:
            a = env[tensor][:, :, channel : channel + channels]
            return self.tensors[tensor].values(a) if self.tensors[tensor].bits else a

        def run(env: dict[int, Array]) -> None:
            v, *others = (value(env, *operand) for operand in operands)
            for other in others:
                v = np.broadcast_to(v * other if multiply else v + other, v.shape)
            v = np.minimum(np.maximum(v, F32(low)), F32(high))
            for target in targets:
                t = self.tensors[target[0]]
                if t.bits:
                    self._write(env, target, t.steps(v / F32(t.scale)) if divide else t.quantize(v))
                else:
                    self._write(env, target, v)

        self._add("combine", run, operands[0][0], targets)


def window_products(
    a: Array,
    kernel: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    product: Callable[[Array, int, int], Array],
) -> Array:
    """Sum over the taps (y, x) of product(the pixels under the tap, y, x). `a` has its zero point taken off: padding is 0."""
    top, left, bottom, right = padding
    padded = np.pad(a, ((top, bottom), (left, right), (0, 0)))
    height = (padded.shape[0] - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    width = (padded.shape[1] - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    total: Any = 0
    for y in range(kernel[0]):
        for x in range(kernel[1]):
            rows = slice(y * dilation[0], y * dilation[0] + (height - 1) * stride[0] + 1, stride[0])
            columns = slice(x * dilation[1], x * dilation[1] + (width - 1) * stride[1] + 1, stride[1])
            total = total + product(padded[rows, columns], y, x)
    return np.asarray(total)
