"""torchao's quantized linear layers: torch.nn.Linear whose weight is an Int8Tensor or an IntxUnpackedToInt8Tensor.

Activations are quantized by torchao's own functions, so codes are the same. With an Int8Tensor the rest is done in torchao's order,
too, and float32 results are the same bits. IntxUnpackedToInt8Tensor multiplies float32 values in torchao, and so do weights without
quantized activations; here sums are exact and only the scales round.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .found import Unfit
from .integer_linear import FloatInput, IntegerLinear


def read(layer: Any) -> IntegerLinear:
    """The layer that takes its place. Raises Unfit."""
    weight = layer.weight
    kind = type(weight).__name__
    if type(layer) is not torch.nn.Linear:
        raise Unfit(f"{type(layer).__name__} with a {kind} is not supported")
    if kind == "Int8Tensor":
        bits, dynamic = 8, weight.act_quant_kwargs
        if weight.act_pre_scale is not None:
            raise Unfit("its activations are scaled before they are quantized (act_pre_scale)")
    elif kind == "IntxUnpackedToInt8Tensor":
        bits, dynamic = int(re.sub(r"\D", "", str(weight.target_dtype))), weight.activation_quantization
        if dynamic is not None and str(getattr(dynamic, "value", dynamic)) != "int8_asym_per_token":
            raise Unfit(f"its activations are quantized as {dynamic}")
    else:
        raise Unfit(f"its weights are a {kind}; Int8Tensor and IntxUnpackedToInt8Tensor are supported")
    integers, scale = weight.qdata, weight.scale
    out_features, in_features = integers.shape
    rows, group = weight.block_size
    if in_features % group or rows not in (1, out_features):
        raise Unfit(f"its weights have scales of blocks of {rows} x {group}")
    groups = in_features // group
    zero = torch.zeros_like(scale) if weight.zero_point is None else weight.zero_point
    scale, zero = (t.reshape(-1, groups).expand(out_features, groups) for t in (scale, zero))
    if bits == 1:
        raise Unfit("weights of one bit are 0 and -1 there")
    arguments = integers, bits, scale, zero, layer.bias
    if dynamic is None:
        return FloatInput(*arguments, act_bits=0)
    if kind == "Int8Tensor":
        return Int8Rows(*arguments, weight.act_quant_kwargs, weight.act_quant_scale, weight.act_quant_zero_point)
    return IntxTokens(*arguments, act_bits=8)


class Int8Rows(IntegerLinear):
    """Int8Tensor with int8 activations, dynamic or static."""

    def __init__(
        self,
        integers: Tensor,
        bits: int,
        scale: Tensor,
        zero: Tensor,
        bias: Tensor | None,
        options: Any,
        act_scale: Tensor | None,
        act_zero: Tensor | None,
    ) -> None:
        super().__init__(integers, bits, scale, zero, bias, 8)
        if scale.shape[1] > 1 or bool(zero.any()):
            raise Unfit("its weights have scales per group or zero points, together with quantized activations")
        self.options = options
        self.register_buffer("act_scale", act_scale)
        self.register_buffer("act_zero", act_zero)
        integer_sums = integers.to(torch.int32).sum(dim=1)
        self.register_buffer("weight_sums", integer_sums)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """(..., in_features) of any float dtype -> (..., out_features) of that."""
        x = input
        from torchao.quantization import Int8Tensor

        self.check(x)
        o = self.options
        quantized = Int8Tensor.from_hp(
            x.detach(),
            o.granularity,
            mapping_type=o.mapping_type,
            scale=self.act_scale,
            zero_point=self.act_zero,
            reduce_range=o.reduce_range,
        )
        codes = quantized.qdata.reshape(-1, self.in_features)
        scales = quantized.scale.reshape(-1, 1)
        scales = scales.float() if scales.dtype == torch.half else scales
        y = (torch.from_numpy(self.sums(codes.numpy())[0]) * scales).to(x.dtype)
        if o.mapping_type.name == "ASYMMETRIC" and quantized.zero_point is not None:
            zeros = quantized.zero_point.reshape(-1, 1).to(scales.dtype)
            y = y - (zeros * scales * self.weight_sums.to(scales.dtype)).to(x.dtype)
        y = (y * self.weight_scale.flatten()).reshape(*x.shape[:-1], self.out_features)
        if self.bias is not None:
            y += self.bias
        return y.to(x.dtype)


class IntxTokens(IntegerLinear):
    """IntxUnpackedToInt8Tensor with activations of int8, each row with its own scale and zero point."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """(..., in_features) of any float dtype -> (..., out_features) of that."""
        x = input
        from torchao.quantization import MappingType
        from torchao.quantization.quant_primitives import choose_qparams_affine, quantize_affine

        self.check(x)
        rows = x.detach().reshape(-1, self.in_features)
        block = 1, self.in_features
        limits = {"quant_min": -128, "quant_max": 127}
        scale, zero = choose_qparams_affine(
            rows, MappingType.ASYMMETRIC, block, target_dtype=torch.int8, zero_point_dtype=torch.int8, **limits
        )
        codes = quantize_affine(rows, block, scale, zero, output_dtype=torch.int8, **limits).numpy()
        zeros = zero.reshape(-1, 1).numpy().astype(np.float64)
        matrix, sums = self.in_groups()
        total = (matrix.product(codes) - zeros * sums) * scale.reshape(-1, 1).double().numpy()
        y = torch.from_numpy(total.astype(np.float32)).reshape(*x.shape[:-1], self.out_features)
        if self.bias is not None:
            y += self.bias
        return y.to(x.dtype)
