"""Steps of the reference plan that compute with floats or with codes of the call: functions of rows, products of two tensors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ulp import _core

from .frame import F32, Array, Frame, Tensor


class SequenceSteps(Frame):
    """See `ReferencePlan`."""

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
        integers: bool | None = None,
    ) -> None:
        del integers  # fixed-point numbers approach the same definition, within bounds

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

    def attention(
        self,
        *,
        q: tuple[int, int],
        k: tuple[int, int],
        v: tuple[int, int],
        mask: tuple[int, int] | None,
        target: tuple[int, int],
        sizes: tuple[int, int, int, int],
        values: int,
        steps: Array,
        scale: float,
    ) -> None:
        batch, rows, depth, columns = sizes

        def places(first: int, channel: int, counts: tuple[int, int, int]) -> tuple[Array, ...]:
            index = np.stack(np.meshgrid(*(np.arange(n) for n in counts), indexing="ij"), axis=-1)
            at = index @ steps[first : first + 3]
            return at[..., 0], at[..., 1], at[..., 2] + channel

        def run(env: dict[int, Array]) -> None:
            shapes = (batch, rows, depth), (batch, depth, columns), (batch, columns, values)
            given = zip((q, k, v), (0, 3, 6), shapes, strict=True)
            x, y, z = (env[tensor][places(first, channel, shape)].astype(np.float64) for (tensor, channel), first, shape in given)
            scores = x @ y * scale
            if mask is not None:
                t = self.tensors[mask[0]]
                heads = 1 if t.channels == columns else batch
                added = env[mask[0]][:, :, mask[1] : mask[1] + heads * columns]
                added = (t.values(added) if t.bits else added).reshape(-1, heads, columns)
                scores = scores + added.swapaxes(0, 1)
            made = (row_function("softmax", scores, 1, 0, 0) @ z).astype(F32)
            t = self.tensors[target[0]]
            out = np.zeros((t.height, t.width, t.channels), np.uint8 if t.bits else F32)
            out[places(9, target[1], (batch, rows, values))] = t.steps(made / F32(t.scale)) if t.bits else made
            self._write(env, (target[0], 0), out)

        self._add("attention", run, q[0], [target])

    def dynamic_linear(
        self,
        *,
        source: int,
        weights: _core.Packed,
        weight_zero: int,
        per_row: bool,
        finish: dict[str, Any],
        kernel: str | None,
        bits: int | None = None,
        function: str | None = None,
        outliers: Array | None = None,
        outlier_weights: Array | None = None,
    ) -> None:
        levels = 2 ** (8 if bits is None else bits) - 1
        t = self.tensors[source]
        w = _core.unpack(weights).astype(np.int64)[: t.channels] - weight_zero
        wide = np.zeros((0, w.shape[1]), F32) if outlier_weights is None else outlier_weights
        columns = np.zeros(0, int) if outliers is None else outliers
        self.weight_bytes += weights.nbytes + wide.nbytes

        def run(env: dict[int, Array]) -> None:
            x = env[source].reshape(-1, t.channels).copy()  # of calls with one image
            beside = x[:, columns]
            x[:, columns] = 0
            axis = 1 if per_row else None
            low = np.minimum(x.min(axis=axis, keepdims=True), F32(0))
            scale = (np.maximum(x.max(axis=axis, keepdims=True), F32(0)) - low) / F32(levels)
            safe = np.where(scale == 0, F32(1), scale)
            zero = np.clip(np.rint((F32(0) - low) / safe), 0, levels)
            steps = np.rint(x / safe + zero) if per_row else np.rint(x / safe) + zero
            codes = np.clip(steps, 0, levels).astype(np.int64)
            sums = (codes - zero.astype(np.int64)) @ w
            v = sums.astype(F32) * (safe * finish["scale"]) + finish["bias"]
            for a, row in zip(beside.T, wide, strict=True):  # products are exact in long doubles, so that each step rounds once
                v = (a[:, None].astype(np.longdouble) * row + v).astype(F32)
            if function not in (None, "identity"):
                v = row_function(function, v.astype(np.float64), 1, 0, 0).astype(F32)
            self._finish(env, None, finish, v.reshape(t.height, t.width, -1))

        self._add("dynamic_linear", run, source, finish["targets"], kernel or "reference", w_bits=weights.bits, k=t.channels)

    def recurrent(
        self,
        *,
        source: int,
        kind: str,
        input_weights: _core.Packed,
        weights: _core.Packed,
        weight_zeros: tuple[int, int],
        input_scale: Array,
        scale: Array,
        bias: Array,
        input_bits: int,
        hidden_bits: int,
        per_row: bool,
        reverse: bool,
        targets: list[tuple[int, int]],
        divide: bool,
        candidate: _core.Packed | None = None,
        hidden_bias: Array | None = None,
        hidden_scale: float | None = None,
        hidden_zero: int | None = None,
        hidden: tuple[int, int] | None = None,
        cell: tuple[int, int] | None = None,
        lengths: tuple[int, int] | None = None,
        final_hidden: tuple[int, int] | None = None,
        final_cell: tuple[int, int] | None = None,
    ) -> None:
        t = self.tensors[source]
        columns = len(bias)
        units = columns // (4 if kind == "lstm" else 3)
        wx = _core.unpack(input_weights).astype(np.int64)[: t.channels] - weight_zeros[0]
        wh = _core.unpack(weights).astype(np.int64)[:units] - weight_zeros[1]
        wn = None if candidate is None else _core.unpack(candidate).astype(np.int64)[:units] - weight_zeros[1]
        self.weight_bytes += sum(w.nbytes for w in (input_weights, weights, candidate) if w is not None)

        def of_state(h: Array) -> tuple[Array, Any]:
            if hidden_scale:
                top = 2**hidden_bits - 1
                steps = np.rint(h * (F32(1) / F32(hidden_scale)))
                return (np.clip(steps + (hidden_zero or 0), 0, top) - (hidden_zero or 0)).astype(np.int64), F32(hidden_scale)
            return coded(h, h.min(), h.max(), hidden_bits)

        def run(env: dict[int, Array]) -> None:
            def state(place: tuple[int, int] | None) -> Array:
                return np.zeros(units, F32) if place is None else env[place[0]].reshape(-1)[place[1] : place[1] + units]

            count = t.width if lengths is None else int(env[lengths[0]].reshape(-1)[lengths[1]])
            x, h, c = env[source][0, :count], state(hidden), state(cell)
            if t.bits:
                codes, unit = x.astype(np.int64) - t.zero, F32(t.scale)
            elif count:
                axis = 1 if per_row else None
                codes, unit = coded(x, x.min(axis=axis, keepdims=True), x.max(axis=axis, keepdims=True), input_bits)
            else:
                codes, unit = x.astype(np.int64), F32(1)
            from_x = (codes @ wx).astype(F32) * (unit * input_scale) + bias
            y = np.zeros((1, t.width, units), F32)
            for i in range(count)[:: -1 if reverse else 1]:
                u, unit_h = of_state(h)
                from_h = (u @ wh).astype(F32) * (unit_h * scale[: wh.shape[1]])
                if kind == "lstm":
                    a, f, g, o = (from_x[i] + from_h).astype(np.float64).reshape(4, units)
                    c = (sigmoid(f) * c + sigmoid(a) * np.tanh(g)).astype(F32)
                    h = (sigmoid(o) * np.tanh(c.astype(np.float64))).astype(F32)
                else:
                    r, z = sigmoid((from_x[i, : 2 * units] + from_h[: 2 * units]).astype(np.float64)).reshape(2, units)
                    if wn is None:
                        inner = r * (from_h[2 * units :] + (F32(0) if hidden_bias is None else hidden_bias))
                    else:
                        u, unit_h = of_state((r * h).astype(F32))
                        inner = (u @ wn).astype(F32) * (unit_h * scale[2 * units :])
                    n = np.tanh(from_x[i, 2 * units :] + inner)
                    h = (n + z * (h - n)).astype(F32)
                y[0, i] = h
            for target in targets:
                to = self.tensors[target[0]]
                self._write(env, target, (to.steps(y / F32(to.scale)) if divide else to.quantize(y)) if to.bits else y)
            for place, value in ((final_hidden, h), (final_cell, c)):
                if place is not None:
                    self._write(env, place, value[None, None])

        bits = max(input_weights.bits, weights.bits)
        self._add("recurrent", run, source, targets, "reference", w_bits=bits, k=input_weights.k + weights.k)

    def grouped_linear(
        self,
        *,
        source: int,
        target: tuple[int, int],
        weights: _core.Packed,
        group: int,
        scales: Array,
        zeros: Array | None = None,
        zero: int = 0,
        table: Array | None = None,
        bias: Array | None = None,
        per_group: bool = False,
    ) -> None:
        t = self.tensors[source]
        groups, outputs = scales.shape
        codes = _core.unpack(weights).astype(np.int64).reshape(groups, -1, outputs)[:, :group].reshape(-1, outputs)[: t.channels]
        of = np.arange(t.channels) // group
        less = np.full((groups, outputs), zero, np.float64) if zeros is None else zeros.astype(np.float64)
        shift = np.zeros(outputs, F32) if bias is None else bias
        middle = (128 if t.bits == 8 else 0) if t.bits else 0
        if t.bits and middle != t.zero:
            values = table[codes] if table is not None else codes - less[of]
            sums = np.cumsum(values * scales[of].astype(np.float64), axis=0)[-1]
            shift = (shift + float(middle - t.zero) * float(F32(t.scale)) * sums).astype(F32)
        self.weight_bytes += weights.nbytes + groups * -(-outputs // 8) * 32 * (1 if zeros is None else 2)

        def run(env: dict[int, Array]) -> None:
            x = env[source].reshape(-1, t.channels)
            y = np.zeros((len(x), outputs), F32)
            tiny = np.finfo(F32).tiny
            whole = np.maximum(np.abs(x).max(axis=1, keepdims=True) / F32(127), tiny)
            for g in range(groups):
                part = x[:, of == g]
                scale = np.maximum(np.abs(part).max(axis=1, keepdims=True) / F32(127), tiny) if per_group else whole
                a = part.astype(np.int64) - middle if t.bits else np.rint(part / scale).astype(np.int64)
                w = codes[of == g] if table is None else table[codes[of == g]].astype(np.int64)
                p = (a @ w - a.sum(axis=1, keepdims=True) * less[g]).astype(F32)
                factor = scales[g] * (F32(t.scale) if t.bits else scale)
                y = (p.astype(np.float64) * factor.astype(np.float64) + y.astype(np.float64)).astype(F32)  # a fused multiply-add
            out = y if bias is None and not shift.any() else y + shift
            self._write(env, target, out.reshape(t.height, t.width, -1))

        self._add("grouped_linear", run, source, [target], "reference", w_bits=weights.bits, k=t.channels)


def coded(x: Array, low: Any, high: Any, bits: int) -> tuple[Array, Any]:
    """Codes less their zero, and their scale, by ONNX's DynamicQuantizeLinear of so many bits."""
    low, high = np.minimum(low, F32(0)), np.maximum(high, F32(0))
    unit = (high - low) / F32(2**bits - 1)
    unit = np.where(unit == 0, F32(1), unit)
    zero = np.clip(np.rint(F32(0) - low / unit), 0, 2**bits - 1)
    return (np.clip(np.rint(x / unit) + zero, 0, 2**bits - 1) - zero).astype(np.int64), unit


def sigmoid(v: Array) -> Array:
    """In float64."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-v)))


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
