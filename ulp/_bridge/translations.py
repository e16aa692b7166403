"""Translations of operators that torch's exporter knows not, or otherwise than torch computes them."""

from __future__ import annotations

from typing import Any

import torch

# Types of ONNX by torch's, which the exporter hands over as numbers.
_UINT8, _INT8 = 2, 3


def table() -> dict[Any, Any]:
    """What torch.onnx.export takes as its custom_translation_table."""
    found: dict[Any, Any] = {torch.ops.aten._int_mm.default: _int_mm}
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


def _int_mm(a, b):  # type: ignore[no-untyped-def]
    """int32 sums of products of bytes."""
    from onnxscript.onnx_opset import opset18 as op

    return op.MatMulInteger(a, b)
