"""Pooling layers. The largest value needs no quantizer; a mean sums integers, so its input has one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ulp._validate import integer

from .floats import PoolTaps, max_pool2d, pool_taps, window_sums
from .graph import Identity as IdentityOp
from .graph import Indices, Pair, Shape, WindowMean
from .graph import MaxPool as MaxPoolOp
from .layer import Layer, PlannedLayer
from .quantizer import FloatArray
from .shapes import IntOrPair, LayerError, adaptive_windows, areas, average_divisors, check_image, pair, pool_size, pool_windows
from .trace import Symbol, record


def _check_pad(padding: Pair, kernel: Pair, dilation: Pair) -> None:
    for p, k, d in zip(padding, kernel, dilation, strict=True):
        if p > (d * (k - 1) + 1) // 2:
            raise LayerError(f"pad should be at most half of effective kernel size, but got pad={p}, kernel_size={k} and dilation={d}")


class MaxPool2d(Layer):
    """The largest value of each window of float32 (N, C, H, W) or (C, H, W); arguments as for torch.nn.MaxPool2d.

    Without a quantizer: compiled, it works on the codes that the next layer reads. return_indices=True is refused.
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        dilation: IntOrPair = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        if return_indices:
            raise ValueError("return_indices=True is not supported")
        self.kernel_size = pair(kernel_size, "kernel_size", 1)
        self.stride = self.kernel_size if stride is None else pair(stride, "stride", 1)
        self.padding = pair(padding, "padding", 0)
        self.dilation = pair(dilation, "dilation", 1)
        self.ceil_mode = bool(ceil_mode)
        _check_pad(self.padding, self.kernel_size, self.dilation)

    def _out_size(self, shape: Shape, given: Shape) -> Pair:
        check_image(shape, "MaxPool2d", given)
        return pool_size(shape, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode)

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        x = inputs[0]
        pool = self._planned(x.shape, lambda: self._taps(x.shape))
        return max_pool2d(x, pool) if x.ndim == 4 else np.asarray(max_pool2d(x[None], pool)[0])

    def _taps(self, shape: Shape) -> PoolTaps:
        out = self._out_size(shape[-3:], shape)
        return pool_taps((shape[-2], shape[-1]), out, self.kernel_size, self.stride, self.padding, self.dilation)

    def _record(self, *inputs: Symbol) -> Symbol:
        shape = inputs[0].shape[1:]
        out = self._out_size(shape, inputs[0].shape)
        rows, columns = (
            pool_windows(shape[i + 1], out[i], self.kernel_size[i], self.stride[i], self.padding[i], self.dilation[i]) for i in (0, 1)
        )
        if (rows[:, 0] >= rows[:, 1]).any() or (columns[:, 0] >= columns[:, 1]).any():
            raise LayerError("MaxPool2d cannot be compiled for this size: a window lies wholly in the padding, its result is -inf")
        if self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0):
            return record(IdentityOp(), shape, self, inputs[0])
        return record(MaxPoolOp(rows, columns, self.dilation), (shape[0], len(rows), len(columns)), self, inputs[0])

    def extra_repr(self) -> str:
        """As torch's."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"ceil_mode={self.ceil_mode}"
        )


class _Average(PlannedLayer):
    """A mean over windows of quantized values: float32(sum of (u - zero)) * (scale / divisor), the sum exact."""

    def _geometry(self, shape: Shape) -> tuple[Indices, Indices, FloatArray] | None:
        """Rows and columns of the windows and their divisors, or None where every window is one pixel, divided by 1."""
        raise NotImplementedError

    def _check(self, shape: Shape, given: Shape) -> None:
        check_image(shape, type(self).__name__, given)

    def _batch(self, x: FloatArray) -> FloatArray:
        return x if self._geometry(x.shape[1:]) is None else super()._batch(x)

    def _record(self, *inputs: Symbol) -> Symbol:
        shape = inputs[0].shape[1:]
        self._check(shape, inputs[0].shape)
        geometry = self._geometry(shape)
        if geometry is None:
            return record(IdentityOp(), shape, self, inputs[0])
        rows, columns, divisor = geometry
        return record(WindowMean(rows, columns, divisor, self.input_quantizer()), (shape[0], *divisor.shape), self, inputs[0])

    def _float(self, x: FloatArray) -> FloatArray:
        geometry = self._geometry(x.shape[1:])
        assert geometry is not None
        return np.asarray((window_sums(x, *geometry[:2]) / geometry[2]).astype(np.float32))

    def _dynamic(self, x: FloatArray) -> FloatArray:
        geometry = self._geometry(x.shape[1:])
        assert geometry is not None
        rows, columns, divisor = geometry
        quantizer = self.quantizer_for(x)
        sums = window_sums(quantizer.codes(x).astype(np.int64) - quantizer.zero, rows, columns)
        return np.asarray(sums.astype(np.float32) * (np.float32(quantizer.scale) / divisor))


class AvgPool2d(_Average):
    """The mean of each window of the quantized input; arguments as for torch.nn.AvgPool2d, and those of the quantizer, see `Conv2d`.

    Takes and gives float32 (N, C, H, W) or (C, H, W). A kernel of 1 with stride 1 passes the input on as it is, not quantized.
    """

    def __init__(
        self,
        kernel_size: IntOrPair,
        stride: IntOrPair | None = None,
        padding: IntOrPair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
        *,
        act_bits: int = 8,
        act_signed: bool | None = None,
        act_asymmetric: bool = False,
        dynamic: bool = False,
    ) -> None:
        super().__init__(act_bits, act_signed, act_asymmetric, dynamic)
        self.kernel_size = pair(kernel_size, "kernel_size", 1)
        self.stride = self.kernel_size if stride is None else pair(stride, "stride", 1)
        self.padding = pair(padding, "padding", 0)
        self.ceil_mode = bool(ceil_mode)
        self.count_include_pad = bool(count_include_pad)
        if divisor_override == 0:
            raise ValueError("divisor must be not zero")
        self.divisor_override = None if divisor_override is None else integer(divisor_override, "divisor_override", -(2**31), 2**31 - 1)
        _check_pad(self.padding, self.kernel_size, (1, 1))

    def _geometry(self, shape: Shape) -> tuple[Indices, Indices, FloatArray] | None:
        size = shape[1], shape[2]
        out = pool_size(shape, self.kernel_size, self.stride, self.padding, (1, 1), self.ceil_mode)
        rows, columns = (pool_windows(size[i], out[i], self.kernel_size[i], self.stride[i], self.padding[i], 1) for i in (0, 1))
        if self.divisor_override is not None:
            divisor = np.full(out, self.divisor_override, np.float32)
        elif self.count_include_pad:
            divisor = average_divisors(size, out, self.kernel_size, self.stride, self.padding)
        else:
            divisor = areas(rows, columns)
        if self.kernel_size == self.stride == (1, 1) and self.padding == (0, 0) and self.divisor_override in (None, 1):
            return None
        return rows, columns, divisor

    def extra_repr(self) -> str:
        """As torch's, and the bits."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, {self._act_repr()}"


class AdaptiveAvgPool2d(_Average):
    """The mean over windows that cover the image, `output_size` of them (an int or (height, width); None: as many as pixels).

    As torch.nn.AdaptiveAvgPool2d, with the input's quantizer, see `Conv2d`. Takes and gives float32 (N, C, H, W) or (C, H, W). An image
    that already has that size passes as it is, not quantized.
    """

    def __init__(
        self,
        output_size: int | Sequence[int | None] | None,
        *,
        act_bits: int = 8,
        act_signed: bool | None = None,
        act_asymmetric: bool = False,
        dynamic: bool = False,
    ) -> None:
        super().__init__(act_bits, act_signed, act_asymmetric, dynamic)
        sides = tuple(output_size) if isinstance(output_size, (tuple, list)) else (output_size, output_size)
        if len(sides) != 2:
            raise ValueError(f"output_size={output_size!r}: expected an int, None or two of them")
        self.output_size = tuple(None if side is None else integer(side, "output_size", 1, 2**24) for side in sides)

    def _geometry(self, shape: Shape) -> tuple[Indices, Indices, FloatArray] | None:
        rows, columns = (
            adaptive_windows(size, size if side is None else side) for size, side in zip(shape[1:], self.output_size, strict=True)
        )
        if (len(rows), len(columns)) == tuple(shape[1:]):
            return None
        return rows, columns, areas(rows, columns)

    def extra_repr(self) -> str:
        """As torch's, and the bits."""
        return f"output_size={self.output_size}, {self._act_repr()}"
