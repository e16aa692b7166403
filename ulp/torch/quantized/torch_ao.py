"""torch.ao.nn.quantized: Conv2d and Linear of quantized tensors, static ones as plans of codes, and the dynamic Linear.

torch's FBGEMM computes code = clamp(rint((float32(sum) + bias / (x_scale * w_scale)) * (x_scale * w_scale / y_scale)) + zero); a plan adds
the bias behind the multiplication instead. The exact value is the same, so codes differ by one at most, and only where it lies within
float32 rounding of the middle between two codes. torch's sums are exact while its 16-bit sums of pairs do not saturate, as with the default
quantizers of its "fbgemm" and "x86" engines, which keep activations at 0..127.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ulp.nn import graph as ir
from ulp.nn.lower import lower
from ulp.nn.quantizer import Quantizer
from ulp.nn.shapes import conv_size
from ulp.torch.layers import FixedTypes

from .found import Unfit
from .integer_linear import IntegerLinear

# How many plans a layer keeps, one per shape and quantizer of the input; the oldest is dropped first.
_MAX_PLANS = 32


def read(layer: Any) -> Any:
    """The module that takes the layer's place. Raises Unfit."""
    kind = type(layer)
    relu = kind.__name__.endswith("ReLU") or kind.__name__.endswith("ReLU2d")
    weight, bias = layer.weight(), layer.bias()
    if weight.dtype != torch.qint8:
        raise Unfit(f"its weights are {weight.dtype}")
    scale, zero = _parameters(weight)
    integers = weight.int_repr()
    if ".dynamic." in kind.__module__:
        if not kind.__name__.startswith("Linear"):
            raise Unfit(f"a dynamic {kind.__name__} is not supported")
        return Dynamic(integers, scale[:, None], zero[:, None], bias, relu)
    if zero.any():
        raise Unfit("its weights have zero points")
    if kind.__name__.startswith("Conv"):
        if layer.padding_mode != "zeros":
            raise Unfit(f"padding_mode={layer.padding_mode!r}")
        geometry = (*_pairs(layer.stride, layer.padding, layer.dilation), layer.groups)
        return Static("Conv2d", integers, scale, bias, float(layer.scale), int(layer.zero_point), relu, geometry)
    return Static("Linear", integers, scale, bias, float(layer.scale), int(layer.zero_point), relu, None)


def _pairs(*values: Any) -> list[tuple[int, int]]:
    return [(value, value) if isinstance(value, int) else tuple(value) for value in values]


def _parameters(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Scales float64 and zero points int32 (O,) of quantized weights."""
    channels = weight.shape[0]
    if weight.qscheme() in (torch.per_channel_affine, torch.per_channel_symmetric):
        if weight.q_per_channel_axis() != 0:
            raise Unfit(f"its weights have scales along axis {weight.q_per_channel_axis()}")
        return weight.q_per_channel_scales().double(), weight.q_per_channel_zero_points().int()
    if weight.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
        scale, zero = torch.tensor(weight.q_scale(), dtype=torch.float64), torch.tensor(weight.q_zero_point(), dtype=torch.int32)
        return scale.repeat(channels), zero.repeat(channels)
    raise Unfit(f"its weights are quantized by {weight.qscheme()}")


class Static(FixedTypes):
    """Takes and gives quint8 tensors with one scale, as the layer whose place it takes. The input's scale is each call's own."""

    bits = act_bits = 8

    def __init__(
        self,
        kind: str,
        integers: Tensor,
        weight_scale: Tensor,
        bias: Tensor | None,
        scale: float,
        zero_point: int,
        relu: bool,
        geometry: tuple[Any, ...] | None,
    ) -> None:
        super().__init__()
        self.kind, self.relu, self.geometry = kind, relu, geometry
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float64))
        self.register_buffer("zero_point", torch.tensor(zero_point))
        self.register_buffer("weight", integers.detach().clone())
        self.register_buffer("weight_scale", weight_scale)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self._plans: dict[Any, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_plans": {}}

    def _load_from_state_dict(self, *args: Any) -> None:
        self._plans = {}
        super()._load_from_state_dict(*args)

    def forward(self, x: Tensor | None = None, *, input: Tensor | None = None) -> Tensor:  # noqa: A002  # torch's: Linear's x, Conv2d's input
        """The layer's result, a quint8 tensor; TypeError for another kind of tensor."""
        x = input if x is None else x
        if x is None:
            raise TypeError("forward() missing 1 required argument: 'input'")
        if not x.is_quantized or x.dtype != torch.quint8 or x.qscheme() != torch.per_tensor_affine:
            raise TypeError(f"expected a quint8 tensor with one scale, as torch's quantized layers take, but got {x.dtype}")
        codes = x.int_repr().contiguous().numpy()
        leading = codes.shape[:-1]
        if self.kind == "Linear":
            codes = codes.reshape(-1, codes.shape[-1])
        run = self._plan(codes.shape[1:], x.q_scale(), x.q_zero_point())
        result = torch.from_numpy(run(codes)[0])
        if self.kind == "Linear":
            result = result.reshape(*leading, -1)
        return torch._make_per_tensor_quantized_tensor(result, float(self.scale), int(self.zero_point))

    def _plan(self, shape: tuple[int, ...], scale: float, zero: int) -> Any:
        key = shape, scale, zero
        run = self._plans.get(key)
        if run is None:
            run = self._lowered(shape, Quantizer(8, scale, zero))
            if len(self._plans) >= _MAX_PLANS:
                self._plans.pop(next(iter(self._plans)), None)
            self._plans[key] = run
        return run

    def _lowered(self, shape: tuple[int, ...], quantizer: Quantizer) -> Any:
        channels = self.weight.shape[0]
        bias = np.zeros(channels) if self.bias is None else self.bias.double().numpy()
        weights = ir.Weights(self.weight.numpy(), 8, self.weight_scale.numpy(), bias)
        graph = ir.Graph.start(shape)
        op: ir.Op
        if self.geometry is None:
            op, made = ir.Linear(weights, quantizer), (channels,)
            if math.prod(shape) != self.weight.shape[1]:
                raise RuntimeError(f"the input has {math.prod(shape)} features, the layer takes {self.weight.shape[1]}")
        else:
            stride, (top, left), dilation, groups = self.geometry
            if len(shape) != 3 or shape[0] != self.weight.shape[1] * groups:
                raise RuntimeError(f"expected (N, {self.weight.shape[1] * groups}, H, W), but one image has shape {shape}")
            sides = top, left, top, left
            kernel = self.weight.shape[2], self.weight.shape[3]
            made = (channels, *conv_size((shape[1], shape[2]), kernel, stride, sides, dilation))  # type: ignore[assignment]
            op = ir.Conv(weights, quantizer, stride, sides, dilation, groups)
        node = graph.add(op, [graph.input], made, "", self.kind)
        if self.relu:
            node = graph.add(ir.Clamp(0.0, math.inf), [node], made, "", "ReLU")
        graph.outputs = [graph.add(ir.Quantize(Quantizer(8, float(self.scale), int(self.zero_point))), [node], made, "", "Quantize")]
        return lower(graph, "requantize", codes_in=True, codes_out=True).runner()

    def extra_repr(self) -> str:
        """Shape of the weights, scale and zero point of the result."""
        quantizer = f"scale={float(self.scale)}, zero_point={int(self.zero_point)}"
        return f"{self.kind}, weight={list(self.weight.shape)}, {quantizer}, relu={self.relu}"


class Dynamic(IntegerLinear):
    """torch.ao.nn.quantized.dynamic.Linear: codes by the range of each call's whole input, float32 out."""

    def __init__(self, integers: Tensor, scale: Tensor, zero: Tensor, bias: Tensor | None, relu: bool) -> None:
        super().__init__(integers, 8, scale.float(), zero, bias, 8)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) float32 -> (..., out_features) float32."""
        self.check(x)
        if x.dtype != torch.float32:
            raise TypeError(f"expected float32, as torch's dynamic Linear takes, but got {x.dtype}")
        rows = x.detach().reshape(-1, self.in_features)
        if len(rows) == 0:
            return rows.new_empty((*x.shape[:-1], self.out_features))
        # FBGEMM's range: its codes stay below 128, so that its sums of pairs never saturate.
        scale, zero = torch._choose_qparams_per_tensor(rows, True)
        codes = torch.quantize_per_tensor(rows, scale, zero, torch.quint8).int_repr().numpy()
        # One rounding, as of FBGEMM's fused multiply-add.
        y = torch.from_numpy(self.sums(codes, int(zero))[0]).float().double() * (self.weight_scale[:, 0] * scale).double()
        if self.bias is not None:
            y += self.bias
        y = y.float()
        return (y.relu_() if self.relu else y).reshape(*x.shape[:-1], self.out_features)
