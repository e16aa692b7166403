"""`ulp` as the benchmarks of convolutions and networks see it: a compiled plan with codes in and out, a compiled network; both checked."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import data, layers, subject
from .layers import Convolution
from .peers import compare
from .subject import WrongResultError

FIRST_BITS = 8


class UlpNN:
    """ulp.nn with weights of `bits` and activations of `act_bits` in every layer that multiplies, but for the first, which has 8 and 8."""

    def __init__(self, bits: int, act_bits: int) -> None:
        subject.load()
        self._nn: Any = importlib.import_module("ulp.nn")
        self.bits = {"bits": bits, "act_bits": act_bits}

    def Conv2d(self, *arguments: Any, first: bool = False, **more: Any) -> Any:  # noqa: N802 - torch's name
        """At the network's widths, or at 8 and 8."""
        widths = {"bits": FIRST_BITS, "act_bits": FIRST_BITS} if first else self.bits
        return self._nn.Conv2d(*arguments, **more, **widths)

    def Linear(self, *arguments: Any, **more: Any) -> Any:  # noqa: N802 - torch's name
        """At the network's widths."""
        return self._nn.Linear(*arguments, **more, **self.bits)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nn, name)


@dataclass(frozen=True)
class Layer:
    """A plan of one convolution. Calling it runs it on x (1, H, W, C) uint8 into `outputs`, one (1, H', W', N) uint8."""

    plan: Any
    x: data.U8
    outputs: list[Any]
    bits: tuple[int, int]
    method: str
    nbytes: int

    def __call__(self) -> object:
        """The layer, as a user of plans would write the call."""
        return self.plan.run(self.x, self.outputs)


def _packed(core: Any, layer: Convolution, w: data.S8, bits: int) -> tuple[Any, int]:
    """Packed weights in the order (y, x, channel), channels rounded up to 4, and the code that stands for zero there."""
    room = -layer.channels % 4
    ordered = np.pad(w.transpose(1, 2, 3, 0), ((0, 0), (0, 0), (0, room), (0, 0)), constant_values=1 if bits == 1 else 0)
    return core.pack(np.ascontiguousarray(ordered.reshape(-1, layer.filters)), bits), 0


def layer(shape: Convolution, bits: tuple[int, int], method: str | None = None) -> Layer:
    """A checked plan of one convolution on uniform random operands of (a_bits, w_bits), requantised to a_bits behind a ReLU.

    Raises WrongResultError unless the result is exact.
    """
    core: Any = importlib.import_module("ulp._core")
    a_bits, w_bits = bits
    a, w = layers.operands(shape, a_bits, w_bits)
    sums = layers.accumulators(shape, a, w)
    top = 2**a_bits - 1
    step = layers.step(sums, top)
    plan = core.Plan()
    source = plan.codes(shape.height, shape.width, shape.channels, a_bits, 0, 1.0)
    target = plan.codes(*shape.out, shape.filters, a_bits, 0, step)
    finish = {
        "scale": np.ones(shape.filters, np.float32), "bias": np.zeros(shape.filters, np.float32), "low": 0.0, "high": float("inf"),
        "residual": None, "targets": [(target, 0)],
    }  # fmt: skip
    plan.input_codes(source, True)
    window = ((shape.stride,) * 2, (shape.padding,) * 4, (1, 1))
    if shape.depthwise:
        plan.depthwise(source, np.ascontiguousarray(w[..., 0].transpose(1, 2, 0)), *window, finish)
    else:
        packed, zero = _packed(core, shape, w, w_bits)
        plan.conv(source, 0, packed, (shape.kernel,) * 2, *window, zero, finish, method)
    plan.output(target, True)
    plan.finalize(1, False, True)
    out = np.zeros((1, *shape.out, shape.filters), np.uint8)
    step_info = next(s for s in plan.steps() if s["macs"])
    made = Layer(plan, np.ascontiguousarray(a[None]), [out], bits, str(step_info["method"]), int(plan.weight_bytes))
    made()
    verdict = compare(out[0], layers.requantised(sums, step, top))
    if not verdict.exact:
        raise WrongResultError(f"ulp W{w_bits}A{a_bits} {shape.name} ({made.method}) is {verdict.words()}")
    return made
