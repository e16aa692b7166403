"""Translations of operators that torch's exporter knows not, or otherwise than torch computes them."""

from __future__ import annotations

from typing import Any

import torch

# Types of ONNX by torch's, which the exporter hands over as numbers.
_UINT8, _INT8 = 2, 3


def table() -> dict[Any, Any]:
    """What torch.onnx.export takes as its custom_translation_table."""
    found: dict[Any, Any] = {torch.ops.aten._int_mm.default: _int_mm}
    found[torch.ops.aten.as_strided.default] = _as_strided
    decomposed = getattr(torch.ops, "quantized_decomposed", None)
    for name in ("default", "tensor", "tensor2"):
        overload = getattr(getattr(decomposed, "quantize_per_tensor", None), name, None)
        if overload is not None:
            found[overload] = _quantize_per_tensor
    return found


def _quantize_per_tensor(x, scale, zero_point, quant_min: int, quant_max: int, dtype: int):  # type: ignore[no-untyped-def]
    """With the interval that torch clamps to, which torch's own translation leaves out."""
    from onnxscript.onnx_opset import opset18 as op

    if isinstance(zero_point, (int, float)):
        zero_point = op.Constant(value_int=int(zero_point))
    codes = op.QuantizeLinear(x, scale, op.Cast(zero_point, to=dtype))
    if (dtype, quant_min, quant_max) in ((_UINT8, 0, 255), (_INT8, -128, 127)):
        return codes
    low, high = (op.Cast(op.Constant(value_int=bound), to=dtype) for bound in (quant_min, quant_max))
    return op.Clip(codes, low, high)


def _as_strided(x, size, stride, storage_offset=None):  # type: ignore[no-untyped-def]
    """Without the view with which torch's adaptive pooling to one value keeps channels last, strides (C, 1, C, C) of a (N, C, 1, 1)."""
    from onnxscript.function_libs.torch_lib.ops.core import aten_as_strided
    from onnxscript.onnx_opset import opset18 as op

    if storage_offset in (None, 0) and len(size) == 4 and isinstance(size[1], int):
        channels = size[1]
        if list(size[2:]) == [1, 1] and list(stride) == [channels, 1, channels, channels]:
            return op.Identity(x)
    return aten_as_strided(x, size, stride, storage_offset)


def _int_mm(a, b):  # type: ignore[no-untyped-def]
    """int32 sums of products of bytes."""
    from onnxscript.onnx_opset import opset18 as op

    return op.MatMulInteger(a, b)
