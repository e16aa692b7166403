"""Translations of operators that torch's exporter knows not, or otherwise than torch computes them."""

from __future__ import annotations

import math
from typing import Any

import torch

# Types of ONNX by torch's, which the exporter hands over as numbers.
_UINT8, _INT8 = 2, 3
# How many times as many pixels an adaptive pooling may read as there are.
_MOST_REPEATED = 64


def table() -> dict[Any, Any]:
    """What torch.onnx.export takes as its custom_translation_table."""
    found: dict[Any, Any] = {torch.ops.aten._int_mm.default: _int_mm}
    found[torch.ops.aten.as_strided.default] = _as_strided
    for name in ("adaptive_avg_pool2d", "_adaptive_avg_pool2d"):
        found[getattr(torch.ops.aten, name).default] = _adaptive_average
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


def _adaptive_average(x, output_size):  # type: ignore[no-untyped-def]
    """As an average over windows that are all alike: of sides that do not divide, over rows and columns that are there several times.

    Torch's own form gathers single pixels, by indices and masks. Where too many rows and columns would be made, products with matrices.
    """
    from onnxscript.onnx_opset import opset18 as op

    sides = list(zip(x.shape[-2:], output_size, strict=True))
    if all(outputs == 1 for _, outputs in sides):
        return op.ReduceMean(x, op.Constant(value_ints=[-2, -1]), keepdims=1)
    read, kernel = zip(*(_repeated(int(size), outputs) for size, outputs in sides), strict=True)
    if math.prod(map(len, read)) > _MOST_REPEATED * math.prod(int(size) for size, _ in sides):
        rows, columns = (op.Constant(value=_means(int(size), outputs)) for size, outputs in sides)
        return op.MatMul(op.MatMul(rows, x), op.Transpose(columns, perm=[1, 0]))
    for axis, (chosen, (size, _)) in enumerate(zip(read, sides, strict=True), start=len(x.shape) - 2):
        if chosen != list(range(int(size))):
            x = op.Gather(x, op.Constant(value_ints=chosen), axis=axis)
    return op.AveragePool(x, kernel_shape=list(kernel), strides=list(kernel))


def _windows(size: int, outputs: int) -> list[range]:
    """Torch's windows: from floor(i size / outputs) to ceil((i + 1) size / outputs)."""
    return [range(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]


def _repeated(size: int, outputs: int) -> tuple[list[int], int]:
    """Which rows to average in windows of how many, so that in each all rows of a window are equally often."""
    windows = _windows(size, outputs)
    kernel = math.lcm(*map(len, windows))
    return [row for window in windows for row in window for _ in range(kernel // len(window))], kernel


def _means(size: int, outputs: int) -> Any:
    """The averages as a matrix, a TensorProto of float32 (outputs, size)."""
    import numpy as np
    from onnx import numpy_helper

    found = np.zeros((outputs, size), np.float32)
    for row, window in zip(found, _windows(size, outputs), strict=True):
        row[window.start : window.stop] = 1 / len(window)
    return numpy_helper.from_array(found)


def _int_mm(a, b):  # type: ignore[no-untyped-def]
    """int32 sums of products of bytes."""
    from onnxscript.onnx_opset import opset18 as op

    return op.MatMulInteger(a, b)
