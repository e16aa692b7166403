"""Activations other than ReLU: functions of one quantized value, and so tables of 2^bits results."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp._validate import integer

from .graph import Rows, Shape, Table
from .layer import QuantizedInput, plan_of
from .quantizer import FloatArray, Quantizer, as_float32
from .shapes import LayerError, shape_text
from .trace import Symbol, record

Doubles = npt.NDArray[np.float64]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Doubles) -> Doubles:
    e = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, e) / (1 + e))


def _softplus(x: Doubles) -> Doubles:
    return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


class _Activation(QuantizedInput):
    """function(quantized x), float32 of any shape: computed in float64 and rounded once, for each code once.

    act_bits: of the codes of the input, 8 by default. These arguments are those of `Conv2d`. None: the function of floats in float32,
    without codes; only GELU, SiLU, Sigmoid and Tanh have it.
    """

    def __init__(self, act_bits: int | None, act_signed: bool | None, act_asymmetric: bool, dynamic: bool) -> None:
        if act_bits is None and (act_signed is not None or act_asymmetric or dynamic):
            raise ValueError("act_signed, act_asymmetric or dynamic with act_bits=None, which quantizes nothing")
        super().__init__(8 if act_bits is None else act_bits, act_signed, act_asymmetric, dynamic)
        self.of_floats = act_bits is None
        if self.of_floats and self._step() is None:
            raise ValueError(f"act_bits=None: {type(self).__name__} is a function of codes, expected 1..8")

    @property
    def observable(self) -> bool:
        """Whether it quantizes its input."""
        return not self.of_floats and super().observable

    def _step(self) -> str | None:
        """The function of floats, as `graph.Rows` has it."""
        return None

    def _record_floats(self, x: Symbol) -> Symbol:
        return record(Rows(str(self._step()), (None,)), x.node.shape, self, x)

    def _expected(self) -> dict[str, tuple[Shape, bool]]:
        return {} if self.of_floats else super()._expected()

    def _act_repr(self) -> str:
        return "act_bits=None" if self.of_floats else super()._act_repr()

    def _function(self, x: Doubles) -> Doubles:
        """Of each value; x is (..., C, 1) or (..., C, values) where the layer differs by channel."""
        raise NotImplementedError

    def _values(self, quantizer: Quantizer) -> FloatArray:
        """float32 (rows, 2^bits): what becomes of each code."""
        grid = quantizer.values(np.arange(quantizer.levels + 1, dtype=np.uint8))[None].astype(np.float64)
        with np.errstate(over="ignore", under="ignore"):
            values = self._function(grid).astype(np.float32)
        if not np.isfinite(values).all():
            raise LayerError(f"{type(self).__name__}: for some codes of {quantizer} the result leaves float32")
        return values

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        x = inputs[0]
        self._check(x.shape)
        if self.of_floats:
            if x.size == 0:
                return x
            one = x.reshape(1, -1, x.shape[-1] if x.ndim else 1)
            floats: FloatArray = self._planned((-1, *one.shape), lambda: plan_of(one.shape[1:], self, self._record_floats))(one)[0]
            return floats.reshape(x.shape)
        if self._observer is not None:
            self._observer.add(x)
            with np.errstate(over="ignore", under="ignore"):
                return self._by_channel(x).astype(np.float32)
        quantizer = self.quantizer
        if quantizer is None or x.ndim not in (2, 3, 4) or x.size == 0:
            found = self.quantizer_for(x)
            values, codes = self._values(found), found.codes(x)
            if len(values) == 1:
                return np.asarray(values[0][codes])
            rows = np.arange(len(values)).reshape(-1, *(1,) * (x.ndim - 2))
            return np.asarray(values[rows, codes])
        shape = x.shape[1:]
        result: FloatArray = self._planned(shape, lambda: plan_of(shape, self, self._record))(x)[0]
        return result

    def _by_channel(self, x: FloatArray) -> Doubles:
        return self._function(x.astype(np.float64))

    def _check(self, shape: Shape) -> None:
        """LayerError unless the layer takes an input of this shape."""

    def _record(self, *inputs: Symbol) -> Symbol:
        x = inputs[0]
        self._check(x.shape)
        if self.of_floats:
            return self._record_floats(x)
        quantizer = self.input_quantizer()
        if x.rows and len(self._values(quantizer)) > 1:
            x = x.as_rows(False)
        return record(Table(quantizer, self._values(quantizer)), x.node.shape, self, x)

    def _arguments(self) -> str:
        return ""

    def extra_repr(self) -> str:
        """As torch's, and the bits."""
        own = self._arguments()
        return own + (", " if own else "") + self._act_repr()


class _Plain(_Activation):
    """An activation whose only argument in torch is `inplace`, which is accepted and ignored."""

    def __init__(
        self,
        inplace: bool = False,
        *,
        act_bits: int | None = 8,
        act_signed: bool | None = None,
        act_asymmetric: bool = False,
        dynamic: bool = False,
    ) -> None:
        super().__init__(act_bits, act_signed, act_asymmetric, dynamic)
        self.inplace = inplace


class SiLU(_Plain):
    """x * sigmoid(x) of the quantized input, as a table. `inplace` is accepted and ignored; act_bits and so on: see `Conv2d`."""

    def _step(self) -> str:
        return "silu"

    def _function(self, x: Doubles) -> Doubles:
        return x * _sigmoid(x)


class Mish(_Plain):
    """x * tanh(softplus(x)) of the quantized input, as a table. `inplace` is accepted and ignored; act_bits and so on: see `Conv2d`."""

    def _function(self, x: Doubles) -> Doubles:
        return x * np.tanh(_softplus(x))


class Hardswish(_Plain):
    """x * min(max(x + 3, 0), 6) / 6 of the quantized input, as a table. `inplace` is ignored; act_bits and so on: see `Conv2d`."""

    def _function(self, x: Doubles) -> Doubles:
        return np.asarray(x * np.clip(x + 3, 0, 6) / 6)


class Hardsigmoid(_Plain):
    """min(max(x + 3, 0), 6) / 6 of the quantized input, as a table. `inplace` is ignored; act_bits and so on: see `Conv2d`."""

    def _function(self, x: Doubles) -> Doubles:
        return np.asarray(np.clip(x + 3, 0, 6) / 6)


class _Bare(_Activation):
    """An activation without arguments in torch."""

    def __init__(
        self, *, act_bits: int | None = 8, act_signed: bool | None = None, act_asymmetric: bool = False, dynamic: bool = False
    ) -> None:
        super().__init__(act_bits, act_signed, act_asymmetric, dynamic)


class Sigmoid(_Bare):
    """1 / (1 + exp(-x)) of the quantized input, as a table. act_bits and so on: see `Conv2d`."""

    def _step(self) -> str:
        return "sigmoid"

    def _function(self, x: Doubles) -> Doubles:
        return _sigmoid(x)


class Tanh(_Bare):
    """tanh(x) of the quantized input, as a table. act_bits and so on: see `Conv2d`."""

    def _step(self) -> str:
        return "tanh"

    def _function(self, x: Doubles) -> Doubles:
        return np.asarray(np.tanh(x))


class LeakyReLU(_Activation):
    """max(x, 0) + negative_slope * min(x, 0) of the quantized input, as a table. `inplace` is ignored; act_bits and so on: see `Conv2d`."""

    def __init__(
        self,
        negative_slope: float = 0.01,
        inplace: bool = False,
        *,
        act_bits: int = 8,
        act_signed: bool | None = None,
        act_asymmetric: bool = False,
        dynamic: bool = False,
    ) -> None:
        super().__init__(act_bits, act_signed, act_asymmetric, dynamic)
        self.negative_slope = _finite(negative_slope, "negative_slope")
        self.inplace = inplace

    def _function(self, x: Doubles) -> Doubles:
        return np.asarray(np.where(x >= 0, x, x * self.negative_slope))

    def _arguments(self) -> str:
        return f"negative_slope={self.negative_slope:g}"


class ELU(_Activation):
    """x where x > 0, else alpha * (exp(x) - 1), of the quantized input, as a table. `inplace` is ignored; act_bits: see `Conv2d`."""

    def __init__(
        self,
        alpha: float = 1.0,
        inplace: bool = False,
        *,
        act_bits: int = 8,
        act_signed: bool | None = None,
        act_asymmetric: bool = False,
        dynamic: bool = False,
    ) -> None:
        super().__init__(act_bits, act_signed, act_asymmetric, dynamic)
        self.alpha = _finite(alpha, "alpha")
        self.inplace = inplace

    def _function(self, x: Doubles) -> Doubles:
        return np.asarray(np.where(x > 0, x, self.alpha * np.expm1(np.minimum(x, 0))))

    def _arguments(self) -> str:
        return f"alpha={self.alpha:g}"


class GELU(_Activation):
    """x * Phi(x) of the quantized input, Phi the normal distribution; or its tanh form. As a table. act_bits and so on: see `Conv2d`.

    approximate: "none" or "tanh", as in torch.
    """

    def __init__(
        self,
        approximate: str = "none",
        *,
        act_bits: int | None = 8,
        act_signed: bool | None = None,
        act_asymmetric: bool = False,
        dynamic: bool = False,
    ) -> None:
        if approximate not in ("none", "tanh"):
            raise ValueError(f"approximate={approximate!r}: expected 'none' or 'tanh'")
        self.approximate = approximate
        super().__init__(act_bits, act_signed, act_asymmetric, dynamic)

    def _step(self) -> str:
        return "gelu" if self.approximate == "none" else "gelu_tanh"

    def _function(self, x: Doubles) -> Doubles:
        if self.approximate == "none":
            return np.asarray(0.5 * x * (1 + _erf(x / math.sqrt(2))))
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))

    def _arguments(self) -> str:
        return f"approximate={self.approximate!r}"


class PReLU(_Activation):
    """max(x, 0) + weight * min(x, 0) of the quantized input, as a table; one weight, or one per channel (dimension 1).

    num_parameters: 1, or the number of channels. init: the weights at first. `weight` is float32 (num_parameters,), and in the state dict.
    act_bits and so on: see `Conv2d`.
    """

    def __init__(
        self,
        num_parameters: int = 1,
        init: float = 0.25,
        *,
        act_bits: int = 8,
        act_signed: bool | None = None,
        act_asymmetric: bool = False,
        dynamic: bool = False,
    ) -> None:
        super().__init__(act_bits, act_signed, act_asymmetric, dynamic)
        self.num_parameters = integer(num_parameters, "num_parameters", 1, 2**24)
        self.init = _finite(init, "init")
        self.weight: FloatArray = np.full(self.num_parameters, self.init, np.float32)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            value = as_float32(value, name)
            if value.shape != (self.num_parameters,):
                raise LayerError(f"weight has shape {shape_text(value.shape)}, expected [{self.num_parameters}]")
            value.flags.writeable = False  # what is written into it would go unseen
        super().__setattr__(name, value)

    def _function(self, x: Doubles) -> Doubles:
        return np.asarray(np.where(x >= 0, x, x * self.weight.astype(np.float64)[:, None]))

    def _by_channel(self, x: FloatArray) -> Doubles:
        weight = self.weight.astype(np.float64)
        if self.num_parameters > 1:
            weight = weight.reshape(-1, *(1,) * (x.ndim - 2))
        return np.asarray(np.where(x >= 0, x, x * weight))

    def _check(self, shape: Shape) -> None:
        channels = shape[1] if len(shape) > 1 else 1
        if self.num_parameters not in (1, channels):
            raise LayerError(
                f"Mismatch of parameter numbers and input channel size. Found parameter numbers = {self.num_parameters} "
                f"and channel size = {channels}."
            )

    def _parameters(self) -> dict[str, FloatArray]:
        return {"weight": self.weight.copy()}

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        return {**self._parameters(), **super()._state()}

    def _expected(self) -> dict[str, tuple[Shape, bool]]:
        return {"weight": ((self.num_parameters,), True), **super()._expected()}

    def _assign(self, values: dict[str, FloatArray]) -> None:
        if "weight" in values:
            self.weight = values["weight"]
        super()._assign(values)

    def _arguments(self) -> str:
        return f"num_parameters={self.num_parameters}"


def _finite(value: float, name: str) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{name}={value!r}: expected a finite number")
    return number
