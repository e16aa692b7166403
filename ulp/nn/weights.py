"""What the layers with weights share: integers of `bits` bits, scales, a bias, and how floats become them."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ulp._validate import as_array, describe_interval, integer, interval

from .graph import Shape
from .graph import Weights as GraphWeights
from .layer import PlannedLayer, plan_of
from .quantizer import FloatArray, Quantizer, WeightOptions, as_float32, quantize_weight, to_integers
from .shapes import LayerError, shape_text
from .trace import Symbol

_rng: np.random.Generator | None = None
_rng_lock = threading.Lock()


def _generator() -> np.random.Generator:
    """The generator of random weights, made on first use, as importing numpy's takes long. The lock is held."""
    global _rng
    _rng = _rng or np.random.default_rng()
    return _rng


def manual_seed(seed: int) -> None:
    """Seed the generator of random weights, which a layer draws on first use if none are loaded."""
    global _rng
    with _rng_lock:
        _rng = np.random.default_rng(seed)


def uniform(bound: float, shape: Shape) -> FloatArray:
    """Random numbers from -bound to bound."""
    with _rng_lock:
        return _generator().uniform(-bound, bound, shape).astype(np.float32)


W = TypeVar("W", bound="Weighted")


class Weighted(PlannedLayer):
    """Integers, one scale per output channel, a bias. If no weights are given, random ones are drawn on first use, with torch's range."""

    def __init__(
        self,
        weight_shape: Shape,
        bias: bool,
        options: WeightOptions,
        act_bits: int | None,
        act_signed: bool | None,
        act_asymmetric: bool,
        dynamic: bool,
    ) -> None:
        if act_bits is None:
            if options.bits == 1:
                raise TypeError(
                    f"{type(self).__name__}: act_bits is needed where bits=1, as binary networks differ in it: pass act_bits=1 (XNOR-Net), "
                    f"act_bits=2, or act_bits=8"
                )
            act_bits = options.bits
        super().__init__(act_bits, act_signed, act_asymmetric, dynamic)
        self.bits = options.bits
        self.weight_options = options
        self._shape = weight_shape
        self._has_bias = bool(bias)
        self._integers: npt.NDArray[np.int8] | None = None
        self._scale: FloatArray | None = None
        self._bias: FloatArray | None = None

    def _drawn(self) -> tuple[npt.NDArray[np.int8], FloatArray, FloatArray | None]:
        if self._integers is None or self._scale is None:
            self._draw()
        assert self._integers is not None
        assert self._scale is not None
        return self._integers, self._scale, self._bias

    def _settle(self) -> None:
        self._drawn()

    def _draw(self) -> None:
        """Uniform integers and biases in the range of torch's initial weights, 1 / sqrt(fan in)."""
        low, high = self.weight_options.interval
        bound = 1 / np.sqrt(max(1, int(np.prod(self._shape[1:]))))
        with _rng_lock:
            if self._integers is not None:
                return  # another thread was faster
            if self.bits == 1:
                integers = (2 * _generator().integers(0, 2, self._shape, np.int8) - 1).astype(np.int8)
            else:
                integers = _generator().integers(max(low, -high), high + 1, self._shape, np.int8)
            bias = _generator().uniform(-bound, bound, self._shape[0]).astype(np.float32) if self._has_bias else None
            self._set(integers, np.full(self._shape[0], bound / high, np.float32), bias)

    def _set(self, integers: npt.NDArray[np.int8], scale: FloatArray, bias: FloatArray | None) -> None:
        for array in (integers, scale, bias):
            if array is not None:
                array.flags.writeable = False  # plans are made from them
        self._bias = bias
        self._scale = scale
        self._integers = integers

    @property
    def weight_int(self) -> npt.NDArray[np.int8]:
        """The integers, int8, of the weight's shape; read-only."""
        return self._drawn()[0]

    @property
    def weight_scale(self) -> FloatArray:
        """One float32 scale per output channel; read-only."""
        return self._drawn()[1]

    @property
    def weight(self) -> FloatArray:
        """weight_int * weight_scale, a float32 copy. Assigning floats (array or tensor) of the same shape quantizes them."""
        integers, scale, _ = self._drawn()
        return integers * scale.reshape(-1, *(1,) * (integers.ndim - 1))

    @weight.setter
    def weight(self, value: Any) -> None:
        array = as_float32(value, "weight")
        if array.shape != self._shape:
            raise LayerError(f"weight has shape {shape_text(array.shape)}, expected {shape_text(self._shape)}")
        self._set(*quantize_weight(array, self.weight_options), self._drawn()[2] if self._has_bias else None)

    @property
    def bias(self) -> FloatArray | None:
        """float32 (O,), read-only, or None. May be assigned where the layer has one."""
        return self._drawn()[2]

    @bias.setter
    def bias(self, value: Any) -> None:
        if (value is not None) != self._has_bias:
            raise LayerError(f"bias={'a value' if value is not None else None}, but the layer was made with bias={self._has_bias}")
        if value is not None:
            array = as_float32(value, "bias")
            if array.shape != self._shape[:1]:
                raise LayerError(f"bias has shape {shape_text(array.shape)}, expected {shape_text(self._shape[:1])}")
            integers, scale, _ = self._drawn()
            self._set(integers, scale, array)

    def _take_float(self: W, layer: Any) -> W:
        """Quantize the weights of a layer of the same shape that has torch's attributes."""
        self.load_state_dict({name: getattr(layer, name) for name in ("weight", "bias") if getattr(layer, name) is not None})
        return self

    def _take_quantized(self: W, integers: object, scale: object, bias: object, act_scale: object, act_zero: object) -> W:
        array = as_array(integers, "weight_int")
        if array.dtype.kind not in "iub":
            raise TypeError(f"weight_int has dtype {array.dtype}: expected integers")
        if array.shape != self._shape:
            raise LayerError(f"weight_int has shape {shape_text(array.shape)}, expected {shape_text(self._shape)}")
        low, high = interval(self.bits, signed=True)
        outside = (array < low) | (array > high) | ((array == 0) if self.bits == 1 else False)
        if outside.any():
            raise ValueError(f"weight_int holds {array[outside].flat[0]}, which is outside {describe_interval(self.bits, signed=True)}")
        scales = np.array(np.broadcast_to(as_float32(scale, "weight_scale"), self._shape[:1]))
        self._set(array.astype(np.int8), scales, None)
        if bias is not None:
            self.bias = bias
        if act_scale is not None:
            zero = integer(act_zero, "act_zero", 0, 2**self.act_bits - 1)
            if self.act_signed and zero == 0:
                signed = 2 ** (self.act_bits - 1)
                raise ValueError(
                    f"act_zero=0 with act_signed=True: no code stands for a value below 0. Signed codes have act_zero={signed}"
                )
            self.quantizer = Quantizer(self.act_bits, float(act_scale), zero)  # type: ignore[arg-type]  # float says what does not convert
        return self

    def graph_weights(self) -> GraphWeights:
        """The weights as a graph holds them."""
        integers, scale, bias = self._drawn()
        shift = np.zeros(self._shape[0]) if bias is None else bias.astype(np.float64)
        return GraphWeights(integers, self.bits, scale.astype(np.float64), shift)

    def _nodes(self, x: Symbol, quantizer: Quantizer, weights: GraphWeights) -> Symbol:
        """The layer in a graph, with another quantizer and other weights than its own."""
        raise NotImplementedError

    def _record(self, *inputs: Symbol) -> Symbol:
        self._check(inputs[0].shape[1:], inputs[0].shape)
        return self._nodes(inputs[0], self.input_quantizer(), self.graph_weights())

    def _dynamic(self, x: FloatArray) -> FloatArray:
        quantizer = self.quantizer_for(x)
        integers, scale, bias = self._drawn()
        # The plan has scales of 1, so it returns float32 sums; this call's scale is applied below, as a plan would.
        ones = Quantizer(self.act_bits, 1.0, quantizer.zero)
        channels = self._shape[0]
        weights = GraphWeights(integers, self.bits, np.ones(channels), np.zeros(channels))
        run = self._planned(
            (-1, quantizer.zero, *x.shape[1:]),
            lambda: plan_of(x.shape[1:], self, lambda s: self._nodes(s, ones, weights), codes_in=True),
        )
        result: FloatArray = run(quantizer.codes(x))[0]
        sides = (1,) * (result.ndim - 2)
        result *= (np.float32(quantizer.scale) * scale).reshape(-1, *sides)
        result += np.zeros(1, np.float32) if bias is None else bias.reshape(-1, *sides)
        return result

    def _parameters(self) -> dict[str, FloatArray]:
        bias = self.bias
        return {"weight": self.weight} if bias is None else {"weight": self.weight, "bias": bias.copy()}

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        return {**self._parameters(), "weight_scale": self.weight_scale.copy(), **super()._state()}

    def _expected(self) -> dict[str, tuple[Shape, bool]]:
        own = {"weight": (self._shape, True), "weight_scale": (self._shape[:1], False)}
        if self._has_bias:
            own["bias"] = (self._shape[:1], True)
        return {**own, **super()._expected()}

    def _assign(self, values: dict[str, FloatArray]) -> None:
        super()._assign(values)
        if "weight" in values:
            weight = values["weight"]
            if "weight_scale" in values:
                scale = values["weight_scale"]
                integers = to_integers(weight.reshape(len(weight), -1), scale, self.weight_options).reshape(weight.shape)
            else:
                integers, scale = quantize_weight(weight, self.weight_options)
            old = self._bias if self._has_bias and self._integers is not None else None
            self._set(integers, scale, values.get("bias", old) if self._has_bias else None)
        elif "bias" in values:
            self.bias = values["bias"]

    def _bits_repr(self) -> str:
        return f"{'' if self._has_bias else ', bias=False'}, bits={self.bits}, {self._act_repr()}"
