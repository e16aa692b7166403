"""The frame of the reference plan: its tensors, the list of its steps, how they run, and what is done with sums."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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


class Frame:
    """A plan without steps."""

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
