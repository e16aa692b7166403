"""Layers without weights of their own: activations, sums, concatenation, changes of shape, batch normalisation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp._validate import integer

from .graph import Add as AddOp
from .graph import BatchNorm, Clamp, Combine, Op, Shape
from .graph import Concat as ConcatOp
from .graph import Identity as IdentityOp
from .graph import Quantize as QuantizeOp
from .layer import Layer, QuantizedInput
from .quantizer import FloatArray, as_float32
from .shapes import LayerError, dimension, shape_text
from .trace import Symbol, record, record_flatten


class Elementwise(Layer):
    """A layer that keeps the shape."""

    _op: Op

    def _record(self, *inputs: Symbol) -> Symbol:
        return record(self._op, inputs[0].node.shape, self, inputs[0])


class ReLU(Elementwise):
    """max(x, 0). `inplace` is accepted and ignored."""

    _op = Clamp(0.0, math.inf)

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        return np.asarray(np.maximum(inputs[0], np.float32(0)))


class ReLU6(Elementwise):
    """min(max(x, 0), 6). `inplace` is accepted and ignored."""

    _op = Clamp(0.0, 6.0)

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        self.inplace = inplace

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        return np.clip(inputs[0], np.float32(0), np.float32(6))


class Identity(Elementwise):
    """The input. Arguments are accepted and ignored, as in torch."""

    _op = IdentityOp()

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        super().__init__()

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        return inputs[0]


class Dropout(Identity):
    """The input: nothing is dropped outside training."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
        super().__init__()
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        """As torch's."""
        return f"p={self.p}, inplace={self.inplace}"


class Flatten(Layer):
    """The dimensions start_dim..end_dim as one. A compiled network takes start_dim=1, all of an image."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim = integer(start_dim, "start_dim", -64, 63)
        self.end_dim = integer(end_dim, "end_dim", -64, 63)

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        x = inputs[0]
        first, last = (dimension(dim, max(x.ndim, 1)) for dim in (self.start_dim, self.end_dim))
        if first > last:
            raise LayerError("flatten() has invalid args: start_dim cannot come after end_dim")
        if x.ndim == 0:
            return x.reshape(1)  # as in torch
        return x.reshape(*x.shape[:first], -1 if x.size else math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :])

    def _record(self, *inputs: Symbol) -> Symbol:
        return record_flatten(inputs[0], self.start_dim, self.end_dim, self)

    def extra_repr(self) -> str:
        """As torch's."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Concat(Layer):
    """`Concat(1)(x, y, ...)`, or of one list or tuple: the arrays behind one another along `dim`. A compiled network takes dim=1."""

    def __init__(self, dim: int = 1) -> None:
        super().__init__()
        self.dim = integer(dim, "dim", -64, 63)

    def forward(self, *inputs: Any) -> Any:
        """The inputs' concatenation, float32."""
        if len(inputs) == 1 and isinstance(inputs[0], (list, tuple)):
            inputs = tuple(inputs[0])
        if not inputs:
            raise LayerError("expected a non-empty list of Tensors")
        return super().forward(*inputs)

    def _axis(self, shapes: list[Shape]) -> int:
        first, ndim = shapes[0], len(shapes[0])
        if ndim == 0:
            raise LayerError("zero-dimensional tensor (at position 0) cannot be concatenated")
        axis = dimension(self.dim, ndim)
        for i, shape in enumerate(shapes[1:], 1):
            if len(shape) != ndim:
                raise LayerError(f"Tensors must have same number of dimensions: got {ndim} and {len(shape)}")
            for j, (a, b) in enumerate(zip(first, shape, strict=True)):
                if a != b and j != axis:
                    raise LayerError(
                        f"Sizes of tensors must match except in dimension {axis}. Expected size {a} but got size {b} "
                        f"for tensor number {i} in the list."
                    )
        return axis

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        return np.concatenate(inputs, axis=self._axis([x.shape for x in inputs]))

    def _record(self, *inputs: Symbol) -> Symbol:
        if self._axis([x.shape for x in inputs]) != 1:
            raise LayerError(f"Concat({self.dim}) cannot be compiled: a compiled network concatenates channels, Concat(1)")
        if inputs[0].rows is not None:
            inputs = tuple(x.as_rows(False) for x in inputs)
        first = inputs[0].node.shape
        return record(ConcatOp(), (sum(x.node.shape[0] for x in inputs), *first[1:]), self, *inputs)

    def extra_repr(self) -> str:
        """The dimension."""
        return f"dim={self.dim}"


class Add(QuantizedInput):
    """`Add()(x, y)`: x + quantized y, both float32 of the same shape.

    The second operand, in a residual block the shortcut, goes through the layer's own quantizer, of 8 bits unless act_bits says otherwise;
    see `Conv2d` for its arguments. act_bits=None: the sum of floats, a step of its own or part of the normalization behind it. Compiled,
    the sum with codes becomes part of the Conv2d (and its BatchNorm2d), Linear, average or Quantize that computes x; behind a ReLU or
    another activation it is a step of its own. Raises LayerError for different shapes: nothing is broadcast.
    """

    def __init__(
        self, act_bits: int | None = 8, *, act_signed: bool | None = None, act_asymmetric: bool = False, dynamic: bool = False
    ) -> None:
        if act_bits is None and (act_signed is not None or act_asymmetric or dynamic):
            raise ValueError("act_signed, act_asymmetric or dynamic with act_bits=None, which quantizes nothing")
        super().__init__(8 if act_bits is None else act_bits, act_signed, act_asymmetric, dynamic)
        self.of_floats = act_bits is None

    @property
    def observable(self) -> bool:
        """Whether it quantizes its second operand."""
        return not self.of_floats and super().observable

    def _expected(self) -> dict[str, tuple[Shape, bool]]:
        return {} if self.of_floats else super()._expected()

    def forward(self, x: Any, y: Any) -> Any:
        """x + quantized y."""
        if isinstance(x, Symbol) != isinstance(y, Symbol):
            raise LayerError("Add of a layer's result and an array cannot be compiled")
        return super().forward(x, y)

    def _check(self, a: Shape, b: Shape) -> None:
        if a == b:
            return
        if len(a) != len(b):
            raise LayerError(f"Add takes two inputs of one shape, but got {shape_text(a)} and {shape_text(b)}")
        for dim, (m, n) in reversed(list(enumerate(zip(a, b, strict=True)))):
            if m != n:
                raise LayerError(f"The size of tensor a ({m}) must match the size of tensor b ({n}) at non-singleton dimension {dim}")

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        x, y = inputs
        self._check(x.shape, y.shape)
        if self.of_floats or self._observer is not None:
            if self._observer is not None:
                self._observer.add(y)
            return x + y
        result = self._rounded(y)
        result += x
        return result

    def _record(self, *inputs: Symbol) -> Symbol:
        self._check(inputs[0].shape, inputs[1].shape)
        if inputs[0].rows is not None:
            inputs = inputs[0], inputs[1].as_rows(inputs[0].rows)
        op = Combine(False, (None, None)) if self.of_floats else AddOp(self.input_quantizer())
        return record(op, inputs[0].node.shape, self, *inputs)

    def extra_repr(self) -> str:
        """The bits."""
        return "None" if self.of_floats else self._act_repr()


class Quantize(QuantizedInput):
    """Codes and back: (clamp(rint(x / scale) + zero) - zero) * scale, float32 of any shape. Arguments: see `Conv2d`.

    Put it where a compiled network needs codes and no layer makes any: behind a MaxPool2d whose result is the network's; behind a
    MaxPool2d or the input that is an Add's first operand; in front of a BatchNorm2d that follows no Conv2d; and last for codes_out.
    """

    def __init__(self, act_bits: int = 8, *, act_signed: bool | None = None, act_asymmetric: bool = False, dynamic: bool = False) -> None:
        super().__init__(act_bits, act_signed, act_asymmetric, dynamic)

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        if self._observer is not None:
            self._observer.add(inputs[0])
            return inputs[0]
        return self._rounded(inputs[0])

    def _record(self, *inputs: Symbol) -> Symbol:
        return record(QuantizeOp(self.input_quantizer()), inputs[0].node.shape, self, inputs[0])

    def extra_repr(self) -> str:
        """The bits."""
        return self._act_repr()


class BatchNorm2d(Layer):
    """(x - running_mean) / sqrt(running_var + eps) * weight + bias, channel by channel, by the statistics of training.

    Takes and gives float32 (N, C, H, W). Arguments as for torch.nn.BatchNorm2d; `momentum` is accepted and ignored. Compiled, the layer
    becomes part of the Conv2d right before it, or works on the codes of a Quantize right before it; behind anything else it cannot be
    compiled.
    """

    _terms: tuple[FloatArray, FloatArray] | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if not track_running_stats:
            raise ValueError("track_running_stats=False: normalising by each batch's own statistics is not supported")
        if not eps >= 0:
            raise ValueError(f"eps={eps!r}: expected a number of 0 or more")
        self.num_features = integer(num_features, "num_features", 1, 2**24)
        self.eps = float(eps)
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.weight: FloatArray | None = np.ones(num_features, np.float32) if affine else None
        self.bias: FloatArray | None = np.zeros(num_features, np.float32) if affine and bias else None
        self.running_mean = np.zeros(num_features, np.float32)
        self.running_var = np.ones(num_features, np.float32)

    @classmethod
    def from_float(cls, layer: Any) -> BatchNorm2d:
        """A layer like `layer` (a torch.nn.BatchNorm2d, or what has its attributes)."""
        bias = layer.bias is not None
        made = cls(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats, bias=bias)
        made.load_state_dict({name: getattr(layer, name) for name in made._parameters() | made._buffers()})
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("weight", "bias", "running_mean", "running_var") and value is not None:
            value = as_float32(value, name)
            if value.shape != (self.num_features,):
                raise LayerError(f"{name} has shape {shape_text(value.shape)}, expected [{self.num_features}]")
            value.flags.writeable = False  # what is written into it would go unseen
        super().__setattr__(name, value)
        object.__setattr__(self, "_terms", None)

    def terms(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """(scale, shift), float64 (C,), with which the layer is x * scale + shift."""
        deviation = np.sqrt(self.running_var.astype(np.float64) + self.eps)
        if not (deviation > 0).all():
            raise LayerError("running_var + eps must be above 0 in every channel")
        scale = (1.0 if self.weight is None else self.weight.astype(np.float64)) / deviation
        shift = (0.0 if self.bias is None else self.bias.astype(np.float64)) - self.running_mean * scale
        return scale, shift

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        x = inputs[0]
        if x.ndim != 4:
            raise LayerError(f"expected 4D input (got {x.ndim}D input)")
        self._check(x.shape[1])
        terms = self._terms
        if terms is None:
            scale, shift = (t.astype(np.float32)[:, None, None] for t in self.terms())
            object.__setattr__(self, "_terms", terms := (scale, shift))  # around __setattr__, which forgets them
        result: FloatArray = x * terms[0]
        result += terms[1]
        return result

    def _record(self, *inputs: Symbol) -> Symbol:
        if len(inputs[0].shape) != 4:
            raise LayerError(f"expected 4D input (got {len(inputs[0].shape)}D input)")
        self._check(inputs[0].shape[1])
        return record(BatchNorm(*self.terms()), inputs[0].node.shape, self, inputs[0])

    def _check(self, channels: int) -> None:
        if channels != self.num_features:
            raise LayerError(f"running_mean should contain {channels} elements not {self.num_features}")

    def _buffers(self) -> dict[str, FloatArray]:
        return {"running_mean": self.running_mean.copy(), "running_var": self.running_var.copy()}

    def _parameters(self) -> dict[str, FloatArray]:
        return {name: term.copy() for name, term in (("weight", self.weight), ("bias", self.bias)) if term is not None}

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        return {**self._parameters(), **self._buffers()}

    def _expected(self) -> dict[str, tuple[Shape, bool]]:
        shape = (self.num_features,)
        return {**dict.fromkeys(self._state(), (shape, True)), "num_batches_tracked": ((), False)}

    def _assign(self, values: dict[str, FloatArray]) -> None:
        for name, value in values.items():
            if name != "num_batches_tracked":
                setattr(self, name, value)

    def extra_repr(self) -> str:
        """As torch's."""
        bias = ", bias=False" if self.affine and self.bias is None else ""
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}{bias}"
