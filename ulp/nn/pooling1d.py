"""Pooling of sequences (N, C, L): that of images of one row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .layer import Layer
from .pooling import AdaptiveAvgPool2d, AvgPool2d, MaxPool2d
from .quantizer import FloatArray
from .shapes import LayerError, numbers, shape_text
from .trace import Symbol


def _row(value: int | Sequence[int], name: str, low: int, other: int) -> tuple[int, int]:
    return other, numbers(value, name, low, 1)[0]


class _Sequence(Layer):
    """The layer behind it in the order of bases, for sequences."""

    def forward(self, *inputs: Any) -> Any:
        """Float32 in, float32 out; torch tensors give a torch tensor. Sequences with and without a batch, as in torch."""
        return Layer.forward(self, *inputs)

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        x = inputs[0]
        if x.ndim not in (2, 3):
            raise LayerError(f"Expected 2D or 3D input to {type(self).__name__}, but got input of size: {shape_text(x.shape)}")
        return np.asarray(super()._compute(x[..., None, :])[..., 0, :])

    def _record_image(self, x: Symbol) -> Symbol:
        return super()._record(x)  # `_compute` makes images of one row

    def _record(self, *inputs: Symbol) -> Symbol:
        x = inputs[0]
        if x.rows is None:
            raise LayerError(f"Expected 2D or 3D input to {type(self).__name__}, but got input of size: {shape_text(x.shape)}")
        made = super()._record(Symbol(x.trace, x.as_rows(False).node, x.batch))
        return Symbol(made.trace, made.node, made.batch, rows=False)


class MaxPool1d(_Sequence, MaxPool2d):
    """The largest value of each window of float32 (N, C, L) or (C, L); arguments as for torch.nn.MaxPool1d.

    Without a quantizer: compiled, it works on the codes that the next layer reads. return_indices=True is refused.
    """

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(
            _row(kernel_size, "kernel_size", 1, 1),
            None if stride is None else _row(stride, "stride", 1, 1),
            _row(padding, "padding", 0, 0),
            _row(dilation, "dilation", 1, 1),
            return_indices,
            ceil_mode,
        )


class AvgPool1d(_Sequence, AvgPool2d):
    """The mean of each window of the quantized input (N, C, L) or (C, L); arguments as for torch.nn.AvgPool1d, and see `Conv2d`."""

    def __init__(
        self,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        act_bits: int = 8,
        act_signed: bool | None = None,
        act_asymmetric: bool = False,
        dynamic: bool = False,
    ) -> None:
        super().__init__(
            _row(kernel_size, "kernel_size", 1, 1),
            None if stride is None else _row(stride, "stride", 1, 1),
            _row(padding, "padding", 0, 0),
            ceil_mode,
            count_include_pad,
            act_bits=act_bits,
            act_signed=act_signed,
            act_asymmetric=act_asymmetric,
            dynamic=dynamic,
        )


class AdaptiveAvgPool1d(_Sequence, AdaptiveAvgPool2d):
    """The mean over `output_size` windows that cover the sequence (N, C, L) or (C, L), as torch.nn.AdaptiveAvgPool1d; see `Conv2d`."""

    def __init__(
        self,
        output_size: int | Sequence[int],
        *,
        act_bits: int = 8,
        act_signed: bool | None = None,
        act_asymmetric: bool = False,
        dynamic: bool = False,
    ) -> None:
        super().__init__(
            (1, numbers(output_size, "output_size", 1, 1)[0]),
            act_bits=act_bits,
            act_signed=act_signed,
            act_asymmetric=act_asymmetric,
            dynamic=dynamic,
        )
