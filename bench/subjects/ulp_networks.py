"""`ulp` as the benchmarks of convolutions and networks see it: a compiled plan with codes in and out, a compiled network; both checked."""

from __future__ import annotations

import importlib
import importlib.util
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import convolutions, installed, layerwise, operands
from .convolutions import Convolution
from .interface import NetworkRuntime, WrongResultError, compare, counted
from .models import CALIBRATION_IMAGES, F32, Model
from .networks import NETWORKS

FIRST_BITS = 8
MIN_PACKED = 32  # products in a sum below which packing costs more than it saves: depthwise convolutions


class UlpNN:
    """ulp.nn with weights of `bits` and activations of `act_bits` in every layer that multiplies, but for the first, which has 8 and 8.

    made: the layers with weights, in the order in which the network makes them. stored: where given, what `_stored` said of each of those
    layers, in the same order.
    """

    def __init__(self, bits: int, act_bits: int, stored: Iterator[dict[str, Any]] | None = None) -> None:
        self._nn = load_nn()
        self.bits = {"bits": bits, "act_bits": act_bits}
        self.stored = stored
        self.made: list[Any] = []

    def Conv2d(  # noqa: N802 - torch's name
        self,
        channels: int,
        filters: int,
        kernel: int,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bias: bool = True,
        first: bool = False,
    ) -> Any:
        """At the network's widths, or at 8 and 8."""
        widths = {"bits": FIRST_BITS, "act_bits": FIRST_BITS} if first else self.bits
        more = {"stride": stride, "padding": padding, "groups": groups, **widths}
        return self._layer(self._nn.Conv2d, (channels, filters, kernel), {"bias": bias}, more)

    def Linear(self, channels: int, features: int) -> Any:  # noqa: N802 - torch's name
        """At the network's widths."""
        return self._layer(self._nn.Linear, (channels, features), {}, self.bits)

    def _layer(self, kind: Any, sizes: tuple[int, ...], fresh: dict[str, Any], more: dict[str, Any]) -> Any:
        layer = kind(*sizes, **fresh, **more) if self.stored is None else kind.from_quantized(**_restored(next(self.stored)), **more)
        self.made.append(layer)
        return layer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._nn, name)


def _stored(layer: Any) -> dict[str, Any]:
    """A layer's integers, packed if there are many per channel, their scales, its bias and its quantizer."""
    integers, quantizer = layer.weight_int, layer.quantizer
    rows = integers.reshape(len(integers), -1)
    ulp = installed.load()
    packed = rows if rows.shape[1] < MIN_PACKED else ulp.pack(np.ascontiguousarray(rows.T), bits=layer.bits)
    return {
        "packed": packed, "shape": integers.shape, "weight_scale": layer.weight_scale, "bias": layer.bias, "act_scale": quantizer.scale,
        "act_zero": quantizer.zero,
    }  # fmt: skip


def _restored(stored: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `from_quantized`."""
    more = {key: value for key, value in stored.items() if key not in ("packed", "shape")}
    packed = stored["packed"]
    rows = packed if isinstance(packed, np.ndarray) else packed.unpack().T
    return {"weight_int": rows.reshape(stored["shape"]), **more}


def load_nn() -> Any:
    """The module ulp.nn."""
    installed.load()
    return importlib.import_module("ulp.nn")


def has_plans() -> bool:
    """Whether the ulp that is installed has compiled plans."""
    return hasattr(importlib.import_module("ulp._core"), "Plan")


@dataclass(frozen=True)
class Layer:
    """A plan of one convolution. Calling it runs it on x (1, H, W, C) uint8 into `outputs`, one (1, H', W', N) uint8."""

    plan: Any
    x: operands.U8
    outputs: list[Any]
    bits: tuple[int, int]
    method: str
    nbytes: int

    def __call__(self) -> object:
        """The layer, as a user of plans would write the call."""
        return self.plan.run(self.x, self.outputs)


def _packed(core: Any, layer: Convolution, w: operands.S8, bits: int) -> tuple[Any, int]:
    """Packed weights in the order (y, x, channel), channels rounded up to 4, and the code that stands for zero there."""
    room = -layer.channels % 4
    ordered = np.pad(w.transpose(1, 2, 3, 0), ((0, 0), (0, 0), (0, room), (0, 0)), constant_values=1 if bits == 1 else 0)
    return core.pack(np.ascontiguousarray(ordered.reshape(-1, layer.filters)), bits), 0


def layer(shape: Convolution, bits: tuple[int, int], method: str | None = None) -> Layer:
    """A checked plan of one convolution on uniform random operands of (a_bits, w_bits), requantized to a_bits behind a ReLU.

    Raises WrongResultError unless the result is exact.
    """
    core: Any = importlib.import_module("ulp._core")
    a_bits, w_bits = bits
    a, w = convolutions.operands(shape, a_bits, w_bits)
    sums = convolutions.accumulators(shape, a, w)
    top = 2**a_bits - 1
    step = convolutions.step(sums, top)
    plan = core.Plan()
    source = plan.codes(shape.height, shape.width, shape.channels, a_bits, 0, 1.0)
    target = plan.codes(*shape.out, shape.filters, a_bits, 0, step)
    finish = {
        "scale": np.ones(shape.filters, np.float32), "bias": np.zeros(shape.filters, np.float32), "low": 0.0, "high": float("inf"),
        "residual": None, "targets": [(target, 0)], "thresholds": [None],
    }  # fmt: skip
    plan.input_codes(tensor=source, nhwc=True)
    window = {"stride": (shape.stride,) * 2, "padding": (shape.padding,) * 4, "dilation": (1, 1)}
    if shape.depthwise:
        taps = np.ascontiguousarray(w[..., 0].transpose(1, 2, 0))
        plan.depthwise(source=source, weights=taps, finish=finish, **window)
    else:
        packed, zero = _packed(core, shape, w, w_bits)
        plan.conv(
            source=source, source_channel=0, weights=packed, kernel=(shape.kernel,) * 2, weight_zero=zero, finish=finish, method=method,
            **window,
        )  # fmt: skip
    plan.output(tensor=target, nhwc=True)
    plan.finalize(1, False, True)
    out = np.zeros((1, *shape.out, shape.filters), np.uint8)
    step_info = next(s for s in plan.steps() if s["macs"])
    made = Layer(plan, np.ascontiguousarray(a[None]), [out], bits, str(step_info["method"]), int(plan.weight_bytes))
    made()
    verdict = compare(out[0], convolutions.requantized(sums, step, top))
    if not verdict.exact:
        raise WrongResultError(f"ulp W{w_bits}A{a_bits} {shape.name} ({made.method}) is {verdict.words()}")
    return made


PAIRS = ((2, 1), (2, 2), (3, 3), (4, 4))  # (a_bits, w_bits) of the networks


@dataclass(frozen=True)
class _State:
    compiled: Any
    x: F32


class UlpNetwork(NetworkRuntime):
    """A compiled network of ulp.nn at one width, calibrated on the same images as the peers."""

    kind = "ulp"
    packages = ("ulp",)

    def __init__(self, bits: tuple[int, int]) -> None:
        self.bits = bits
        self.name = f"ulp W{bits[1]}A{bits[0]}"  # type: ignore[misc]
        self.note = "first layer 8 bits"  # type: ignore[misc]

    def why_unavailable(self) -> str | None:
        if reason := installed.why_unavailable():
            return reason
        if importlib.util.find_spec("ulp.nn") and hasattr(importlib.import_module("ulp.nn"), "compile"):
            return None
        return "the ulp that is installed has no ulp.nn.compile: pip install ."

    def version(self) -> str:
        return installed.version()  # a core built in place has no package metadata

    def network(self, model: Model) -> tuple[Any, UlpNN]:
        """The network with the model's weights, calibrated, and the facade that made it."""
        nn = UlpNN(self.bits[1], self.bits[0])
        module = NETWORKS[model.name](nn)
        module.load_state_dict(model.weights)
        return module.calibrate([model.images(CALIBRATION_IMAGES, seed=2)]), nn

    def before(self, threads: int) -> None:
        installed.load().set_num_threads(threads)

    def build(self, model: Model, directory: Path) -> Path:
        path = directory / f"{model.name} {self.name}.pickle"
        module, nn = self.network(model)
        weighted = {name for name, layer in module.named_modules() if layer in nn.made}
        rest = {key: value for key, value in module.state_dict().items() if key.rpartition(".")[0] not in weighted}
        with path.open("wb") as file:
            for part in (rest, *map(_stored, nn.made)):
                pickle.dump(part, file, pickle.HIGHEST_PROTOCOL)
        return path

    def _read(self, name: str, path: Path) -> Any:
        with path.open("rb") as file:
            rest = pickle.load(file)
            module = NETWORKS[name](UlpNN(self.bits[1], self.bits[0], iter(lambda: pickle.load(file), None)))
        module.load_state_dict(rest, strict=False)
        return module

    def load(self, name: str, path: Path, x: F32, threads: int) -> _State:
        self.before(threads)
        return _State(load_nn().compile(self._read(name, path), x), x)

    def check(self, name: str, path: Path, x: F32) -> int:
        """Compare every tensor on one image with the int64 reference; returns how many. WrongResultError names the first that differs."""
        return layerwise.check(self._read(name, path), x)

    def model_bytes(self, state: _State) -> int:
        return int(state.compiled.nbytes)

    def precision(self, state: _State) -> str:
        return counted(step["method"] for step in state.compiled._plan.steps() if step["macs"])

    def run(self, state: _State) -> object:
        return state.compiled(state.x)

    def result(self, state: _State) -> F32:
        return np.array(self.run(state), copy=True)


def at_all_bits(pairs: Sequence[tuple[int, int]] = PAIRS) -> list[UlpNetwork]:
    """`ulp` at each of these (a_bits, w_bits)."""
    return [UlpNetwork(bits) for bits in pairs]
