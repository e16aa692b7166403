"""What a plan must compute, step by step, in plain numpy: integers in int64, everything else in float32, one operation at a time.

`ReferencePlan` has the methods of `ulp._core.Plan` and gives the same bits, but for functions of rows and products of floats, which it
computes in float64 and rounds once. It shares nothing with ulp but the format of packed weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp import _core

Array = npt.NDArray[Any]
F32 = np.float32


@dataclass
class Tensor:
    """One image, (height, width, channels); bits = 0 says floats."""

    height: int
    width: int
    channels: int
    bits: int = 0
    zero: int = 0
    scale: float = 1.0

    def quantize(self, v: Array, unit: float = 1) -> Array:
        with np.errstate(over="ignore"):
            return self.steps(v * (F32(unit) / F32(self.scale)))

    def steps(self, v: Array) -> Array:
        return np.asarray(np.clip(np.rint(v) + F32(self.zero), 0, 2**self.bits - 1).astype(np.uint8))

    def values(self, codes: Array, unit: float = 1) -> Array:
        return np.asarray((codes.astype(np.int64) - self.zero).astype(F32) * (F32(self.scale) / F32(unit)))


class ReferencePlan:
    """The same methods and meaning as `_core.Plan`."""

    arena_bytes = 0

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.weight_bytes = 0
        self._steps: list[tuple[dict[str, Any], Callable[[dict[int, Array]], None]]] = []
        self._outputs: list[tuple[int, bool]] = []
        self._input: tuple[np.dtype[Any], tuple[int, ...]] | None = None
        self._final = False

    # Tensors.

    def codes(self, height: int, width: int, channels: int, bits: int, zero: int, scale: float) -> int:
        assert 1 <= bits <= 8
        assert 0 <= zero < 2**bits
        assert float(F32(scale)) == scale > 0
        self.tensors.append(Tensor(height, width, channels, bits, zero, scale))
        return len(self.tensors) - 1

    def floats(self, height: int, width: int, channels: int) -> int:
        self.tensors.append(Tensor(height, width, channels))
        return len(self.tensors) - 1

    # Steps.

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

    def linear_floats(self, *, source: int, target: tuple[int, int], weights: Array, bias: Array) -> None:
        self.weight_bytes += weights.nbytes + bias.nbytes

        def run(env: dict[int, Array]) -> None:
            sums = np.zeros(weights.shape[1], F32)
            for a, row in zip(env[source].reshape(-1), weights, strict=True):
                sums = sums + a * row
            self._write(env, target, (sums + bias)[None, None])

        self._add("linear_floats", run, source, [target], "float32", k=len(weights))

    def rows(
        self,
        *,
        operands: list[tuple[int, int]],
        channels: int,
        groups: int,
        function: str,
        gamma: Array | None = None,
        beta: Array | None = None,
        epsilon: float | None = None,
        targets: list[tuple[int, int]],
        divide: bool,
    ) -> None:
        def value(env: dict[int, Array], tensor: int, channel: int) -> Array:
            t = self.tensors[tensor]
            whole = channels if groups > 1 and t.channels == channels else groups * channels
            a = env[tensor][:, :, channel : channel + whole]
            a = t.values(a) if t.bits else a
            return a.reshape(*a.shape[:2], -1, channels)

        def run(env: dict[int, Array]) -> None:
            v, *others = (value(env, *operand) for operand in operands)
            for other in others:
                v = np.broadcast_to(v + other, v.shape)
            g, b = 1.0 if gamma is None else gamma.astype(np.float64), 0.0 if beta is None else beta.astype(np.float64)
            made = row_function(function, v.astype(np.float64), g, b, epsilon or 0.0).astype(F32).reshape(*v.shape[:2], -1)
            for target in targets:
                t = self.tensors[target[0]]
                if t.bits:
                    self._write(env, target, t.steps(made / F32(t.scale)) if divide else t.quantize(made))
                else:
                    self._write(env, target, made)

        self._add("rows", run, operands[0][0], targets)

    def product(
        self,
        *,
        a: tuple[int, int],
        b: tuple[int, int],
        target: tuple[int, int],
        sizes: tuple[int, int, int, int],
        steps: Array,
        scale: float,
        in_units: bool,
    ) -> None:
        batch, rows, depth, columns = sizes
        one, other = self.tensors[a[0]], self.tensors[b[0]]
        exact = bool(one.bits and other.bits)

        def places(first: int, channel: int, counts: tuple[int, int, int]) -> tuple[Array, ...]:
            index = np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), axis=-1)
            at = index @ steps[first : first + 3]
            return at[..., 0], at[..., 1], at[..., 2] + channel

        def numbers(env: dict[int, Array], t: Tensor, tensor: int, at: tuple[Array, ...]) -> Array:
            x = env[tensor][at]
            if not t.bits:
                return np.asarray(x.astype(np.float64))
            return np.asarray(x.astype(np.int64) - t.zero if exact else t.values(x).astype(np.float64))

        def run(env: dict[int, Array]) -> None:
            x = numbers(env, one, a[0], places(0, a[1], (batch, rows, depth)))
            y = numbers(env, other, b[0], places(3, b[1], (batch, depth, columns)))
            v = (x @ y).astype(F32) * F32(scale)
            t = self.tensors[target[0]]
            out = np.zeros((t.height, t.width, t.channels), np.uint8 if t.bits else F32)
            out[places(6, target[1], (batch, rows, columns))] = t.steps(v if in_units else v / F32(t.scale)) if t.bits else v
            self._write(env, (target[0], 0), out)

        self._add("product", run, a[0], [target], k=depth)

    def dynamic_linear(
        self, *, source: int, weights: _core.Packed, weight_zero: int, per_row: bool, finish: dict[str, Any], kernel: str | None
    ) -> None:
        t = self.tensors[source]
        w = _core.unpack(weights).astype(np.int64)[: t.channels] - weight_zero
        self.weight_bytes += weights.nbytes

        def run(env: dict[int, Array]) -> None:
            x = env[source].reshape(-1, t.channels)  # of calls with one image
            axis = 1 if per_row else None
            low = np.minimum(x.min(axis=axis, keepdims=True), F32(0))
            scale = (np.maximum(x.max(axis=axis, keepdims=True), F32(0)) - low) / F32(255)
            safe = np.where(scale == 0, F32(1), scale)
            zero = np.clip(np.rint((F32(0) - low) / safe), 0, 255)
            codes = np.clip(np.rint(x / safe) + zero, 0, 255).astype(np.int64)
            sums = (codes - zero.astype(np.int64)) @ w
            v = sums.astype(F32) * (safe * finish["scale"]) + finish["bias"]
            self._finish(env, None, finish, v.reshape(t.height, t.width, -1))

        self._add("dynamic_linear", run, source, finish["targets"], kernel or "reference", w_bits=weights.bits, k=t.channels)

    def output(self, *, tensor: int, nhwc: bool) -> None:
        self._outputs.append((tensor, nhwc))
        self._add("output", lambda _: None, tensor)

    # Running.

    def finalize(self, group: int, throughput: bool, tune: bool = False, tuned: Callable[[], object] | None = None) -> None:
        assert tune in (False, True)
        assert group >= 1
        assert throughput in (False, True)
        assert tuned is None or callable(tuned)
        assert self._input is not None
        self._final = True

    def run(self, x: Array, outputs: list[Array] | None = None) -> list[Array]:
        return self._run(x, outputs)[0]

    def profile(self, x: Array) -> tuple[list[Array], Array]:
        return self._run(x, None)

    def steps(self) -> list[dict[str, Any]]:
        return [info for info, _ in self._steps]

    def _run(self, x: Array, outputs: list[Array] | None) -> tuple[list[Array], Array]:
        assert self._final
        assert self._input is not None
        assert (x.dtype, x.shape[1:]) == self._input, (x.dtype, x.shape, self._input)
        images: list[list[Array]] = [[] for _ in self._outputs]
        ns = np.zeros(len(self._steps), np.int64)
        for image in x:
            env = {-1: image}
            for i, (_, run) in enumerate(self._steps):
                begin = time.perf_counter_ns()
                run(env)
                ns[i] += time.perf_counter_ns() - begin
            for found, (t, nhwc) in zip(images, self._outputs, strict=True):
                found.append(env[t] if nhwc else env[t].transpose(2, 0, 1))
        result = []
        for i, (t, nhwc) in enumerate(self._outputs):
            s = self.tensors[t]
            shape = (len(x), s.height, s.width, s.channels) if nhwc else (len(x), s.channels, s.height, s.width)
            out = np.empty(shape, np.uint8 if s.bits else F32) if outputs is None else outputs[i]
            for j, value in enumerate(images[i]):
                out[j] = value
            result.append(out)
        return result, ns

    def _add(
        self,
        kind: str,
        run: Callable[[dict[int, Array]], None],
        source: int = -1,
        targets: Any = (),
        method: str = "reference",
        w_bits: int = 0,
        k: int = 0,
    ) -> None:
        assert not self._final
        ids = [t if isinstance(t, int) else t[0] for t in targets]
        # What a depthwise step calls k is one channel's taps; a convolution's has the channels read in it.
        outputs = self.tensors[ids[0]] if ids else self.tensors[source]
        info = {
            "kind": kind,
            "name": kind.partition("_")[0] if kind.startswith(("input_", "linear_")) else kind,
            "method": method,
            "source": source,
            "targets": ids,
            "out_shape": (outputs.height, outputs.width, outputs.channels),
            "macs": outputs.height * outputs.width * outputs.channels * k,
            "a_bits": self.tensors[source].bits if source >= 0 else 0,
            "w_bits": w_bits,
        }
        self._steps.append((info, run))

    def _write(self, env: dict[int, Array], target: tuple[int, int], value: Array) -> None:
        t = self.tensors[target[0]]
        assert value.shape[:2] == (t.height, t.width)
        if target[0] not in env:
            env[target[0]] = np.full((t.height, t.width, t.channels), t.zero, np.uint8 if t.bits else F32)
        assert target[1] + value.shape[2] <= t.channels
        env[target[0]][:, :, target[1] : target[1] + value.shape[2]] = value

    def _finish(self, env: dict[int, Array], acc: Array | None, finish: dict[str, Any], v: Array | None = None) -> None:
        unit = finish.get("unit", 1)
        if v is None:
            assert acc is not None
            if finish.get("start") is not None:
                acc = acc + finish["start"].astype(np.int64)
            assert np.abs(acc).max(initial=0) < 2**31
            assert finish["scale"].dtype == finish["bias"].dtype == F32
            assert finish["scale"].shape == finish["bias"].shape == acc.shape[2:]
            v = acc.astype(F32) * finish["scale"] + finish["bias"]
        assert v.dtype == F32
        if finish["residual"] is not None:
            r, channel = finish["residual"]
            v = v + self.tensors[r].values(env[r][:, :, channel : channel + v.shape[2]], unit)
        v = np.minimum(np.maximum(v, F32(finish["low"])), F32(finish["high"]))
        after = finish.get("after") or [None] * len(finish["targets"])
        for target, thresholds, then in zip(finish["targets"], finish["thresholds"], after, strict=True):
            t = self.tensors[target[0]]
            if then is not None:
                t = Tensor(t.height, t.width, t.channels, then["bits"], then["zero"], then["scale"])
            if thresholds is not None:
                assert acc is not None
                assert finish["residual"] is None
                table, flip = thresholds
                assert table.dtype == np.int32
                assert table.shape == (v.shape[2], 2**t.bits - 1)
                assert (np.diff(table.astype(np.int64), axis=1) >= 0).all()
                turned = np.where(flip, ~acc, acc)
                made = (table <= turned[..., None]).sum(axis=3).astype(np.uint8)
            else:
                assert t.bits or unit == 1
                made = t.quantize(v, unit) if t.bits else v
            if then is not None:
                index = made.astype(np.int64)
                if then["other"] is not None:
                    other, channel = then["other"]
                    index += env[other][:, :, channel : channel + v.shape[2]].astype(np.int64) * 2**t.bits
                made = then["table"][index]
            self._write(env, target, made)


def row_function(name: str, v: Array, gamma: Any, beta: Any, epsilon: float) -> Array:
    """A function of the last axis, in float64."""
    if name == "layer_norm":
        centered = v - v.mean(axis=-1, keepdims=True)
        return np.asarray(centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + epsilon) * gamma + beta)
    if name == "rms_norm":
        return np.asarray(v / np.sqrt((v**2).mean(axis=-1, keepdims=True) + epsilon) * gamma + beta)
    if name == "softmax":
        e = np.exp(v - v.max(axis=-1, keepdims=True))
        return np.asarray(e / e.sum(axis=-1, keepdims=True))
    with np.errstate(over="ignore", under="ignore"):
        sigmoid = 1 / (1 + np.exp(-v))
        if name == "gelu":
            return np.asarray(v * np.vectorize(math.erfc)(-v / math.sqrt(2)) / 2)
        if name == "gelu_tanh":
            return np.asarray(v / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))))
    return np.asarray({"identity": v, "silu": v * sigmoid, "sigmoid": sigmoid, "tanh": np.tanh(v)}[name])


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
