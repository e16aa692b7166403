"""The layers with weights over one or two sides: `Conv2d` and `Conv1d`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ulp._validate import bit_width, integer, layer_widths

from .floats import conv
from .graph import Conv, Gather, Pair, Shape, Sides
from .graph import Weights as GraphWeights
from .quantizer import FloatArray, Quantizer, WeightMethod, WeightOptions, WeightRange
from .shapes import IntOrPair, LayerError, as_pair, check_image, check_sequence, conv_size, numbers, same_padding, shape_text
from .trace import Symbol, record
from .weights import Weighted

_PADDING_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


C = TypeVar("C", bound="_Convolution")


class _Convolution(Weighted):
    """A convolution over `_dims` sides."""

    _dims = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair,
        padding: IntOrPair | str,
        dilation: IntOrPair,
        groups: int,
        bias: bool,
        padding_mode: str,
        options: WeightOptions,
        act_bits: int | None,
        act_signed: bool | None,
        act_asymmetric: bool,
        dynamic: bool,
    ) -> None:
        in_channels = integer(in_channels, "in_channels", 1, 2**24)
        out_channels = integer(out_channels, "out_channels", 1, 2**24)
        if groups <= 0:
            raise ValueError("groups must be a positive integer")
        if in_channels % groups:
            raise ValueError("in_channels must be divisible by groups")
        if out_channels % groups:
            raise ValueError("out_channels must be divisible by groups")
        if padding_mode not in _PADDING_MODES:
            raise ValueError(f"padding_mode must be one of {set(_PADDING_MODES)}, but got padding_mode='{padding_mode}'")
        kernel = numbers(kernel_size, "kernel_size", 1, self._dims)
        super().__init__(
            (out_channels, in_channels // groups, *kernel),
            bias,
            options,
            act_bits,
            act_signed,
            act_asymmetric,
            dynamic,
        )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.stride = numbers(stride, "stride", 1, self._dims)
        self.dilation = numbers(dilation, "dilation", 1, self._dims)
        self.groups = groups
        self.padding_mode = padding_mode
        self.padding: tuple[int, ...] | str
        if isinstance(padding, str):
            if padding not in ("same", "valid"):
                raise ValueError(f"Invalid padding string {padding!r}, should be one of 'same', 'valid'")
            if padding == "same" and set(self.stride) != {1}:
                raise ValueError("padding='same' is not supported for strided convolutions")
            self.padding = padding
        else:
            self.padding = numbers(padding, "padding", 0, self._dims)

    @property
    def sides(self) -> Sides:
        """The padding in pixels: top, left, bottom, right."""
        if self.padding == "same":
            return same_padding(as_pair(self.kernel_size, 1), as_pair(self.dilation, 1))
        if isinstance(self.padding, str):
            return 0, 0, 0, 0
        y, x = as_pair(self.padding, 0)
        return y, x, y, x

    @classmethod
    def from_float(cls: type[C], layer: Any, *, bits: int | str, **options: Any) -> C:
        """A layer like `layer` (torch's layer of the same name, or what has its attributes) with its weights quantized; not calibrated.

        Further options as for the class.
        """
        make: Any = cls  # its keyword arguments are those of Conv2d
        made: C = make(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            bits=bits,
            **options,
        )
        return made._take_float(layer)

    @classmethod
    def from_quantized(
        cls: type[C],
        weight_int: npt.ArrayLike,
        weight_scale: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        act_scale: float | None = None,
        act_zero: int = 0,
        *,
        bits: int | str,
        stride: IntOrPair = 1,
        padding: IntOrPair | str = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        padding_mode: str = "zeros",
        **options: Any,
    ) -> C:
        """A layer of given integers, as quantization-aware training leaves them.

        weight_int: integers (O, C / groups, kh, kw), of a Conv1d (O, C / groups, k), of `bits` bits, at one bit -1 and +1.
        weight_scale: a number or (O,).
        bias: floats (O,), in units of the result. act_scale, act_zero: the input's quantizer, whose code u stands for
        (u - act_zero) * act_scale; left out, it is to be calibrated. Further options as for the class.
        """
        shape = np.shape(weight_int)
        if len(shape) != 2 + cls._dims:
            expected = "four dimensions, (O, C / groups, kh, kw)" if cls._dims == 2 else "three dimensions, (O, C / groups, k)"
            raise LayerError(f"weight_int has shape {shape_text(shape)}, expected {expected}")
        make: Any = cls
        made: C = make(
            shape[1] * groups, shape[0], shape[2:], stride, padding, dilation, groups, bias is not None, padding_mode, bits=bits, **options
        )
        return made._take_quantized(weight_int, weight_scale, bias, act_scale, act_zero)

    def _check(self, shape: Shape, given: Shape) -> None:
        check = check_image if self._dims == 2 else check_sequence
        check(shape, type(self).__name__, given)
        if shape[0] != self.in_channels:
            raise LayerError(
                f"Given groups={self.groups}, weight of size {shape_text(self._shape)}, expected input{shape_text(given)} "
                f"to have {self.in_channels} channels, but got {shape[0]} channels instead"
            )
        if self.padding_mode in ("reflect", "circular"):
            for axis, sides in enumerate((self.sides[::2], self.sides[1::2])[2 - self._dims :], 1):
                max_pad = shape[axis] - (1 if self.padding_mode == "reflect" else 0)
                if max(sides) > max_pad:
                    raise LayerError(
                        f"Padding size should be less than the corresponding input dimension, but got: padding {sides} "
                        f"at dimension {axis + 1} of input {shape_text(given)}"
                    )
        self._size(as_pair(shape[1:], 1))

    def _size(self, image: Pair) -> Pair:
        """(height, width) of the result."""
        return conv_size(image, as_pair(self.kernel_size, 1), as_pair(self.stride, 1), self.sides, as_pair(self.dilation, 1))

    def _nodes(self, x: Symbol, quantizer: Quantizer, weights: GraphWeights) -> Symbol:
        if self._dims == 1:
            x = x.as_rows(False)
            weights = replace(weights, integers=weights.integers[:, :, None])
        channels, height, width = x.node.shape
        sides = self.sides
        height, width = self._size((height, width))
        if self.padding_mode != "zeros" and any(sides):
            rows, columns = (
                np.pad(np.arange(size, dtype=np.int32), around, mode=_PADDING_MODES[self.padding_mode])  # type: ignore[call-overload]  # a str
                for size, around in zip(x.node.shape[1:], (sides[::2], sides[1::2]), strict=True)
            )
            x = record(Gather(rows, columns), (channels, len(rows), len(columns)), self, x, kind="Pad")
            sides = (0, 0, 0, 0)
        op = Conv(weights, quantizer, as_pair(self.stride, 1), sides, as_pair(self.dilation, 1), self.groups)
        return record(op, (self.out_channels, height, width), self, x)

    def _float(self, x: FloatArray) -> FloatArray:
        top, left, bottom, right = self.sides
        around = ((top, bottom), (left, right))[2 - self._dims :]
        padded = np.pad(x, ((0, 0), (0, 0), *around), mode=_PADDING_MODES[self.padding_mode])  # type: ignore[call-overload]  # a str
        return conv(padded, self.weight, self.bias, self.stride, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """As torch's, and the bits."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, value, usual in (
            ("padding", self.padding, (0,) * self._dims),
            ("dilation", self.dilation, (1,) * self._dims),
            ("groups", self.groups, 1),
            ("padding_mode", self.padding_mode, "zeros"),
        ):
            text += "" if value == usual else f", {name}={value}"
        return text + self._bits_repr()


class Conv2d(_Convolution):
    """2-D convolution of `bits`-bit weights with `act_bits`-bit activations; the other arguments as in torch.nn.Conv2d.

    Takes and gives float32 (N, C, H, W) or (C, H, W). padding: an int, a pair, 'same' or 'valid'.
    bits: 1..8; two's complement, at one bit -1 and +1. Or "W3A8", which says act_bits, too.

    How the layer quantizes its input:
    act_bits: 1..8, `bits` by default; with bits=1 it must be given.
    act_signed: False: codes represent 0.0 and above; True: negative values as well; None: signed if calibration sees a negative value
    (never at act_bits=1).
    act_asymmetric: any zero point, as the range requires, instead of 0 or the middle.
    dynamic: by the range of each call's whole input, without calibration; such a layer cannot be compiled.

    How floats become weights:
    per_channel: one scale per output channel, or one for all. weight_method: "mse" finds the scale with the smallest squared error,
    "minmax" covers the largest weight. weight_range: "full" is -2^(bits-1) .. 2^(bits-1) - 1, "narrow" leaves the lowest value out.
    At one bit a weight becomes its sign times the mean |w| of its channel (of all without per_channel), whatever the last two say.

    The results are `weight_int`, `weight_scale` and `quantizer`. Weights are random until some are loaded or assigned.
    The result is float32(sum of integer products) * float32(act_scale * weight_scale) + bias, the sum exact; a padded pixel is 0.0.
    Raises LayerError where the input does not fit or no range is known (see `calibrate`), ValueError for a NaN or an infinity.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair | str = 0,
        dilation: IntOrPair = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        bits: int | str,
        act_bits: int | None = None,
        act_signed: bool | None = None,
        act_asymmetric: bool = False,
        dynamic: bool = False,
        per_channel: bool = True,
        weight_method: WeightMethod = "mse",
        weight_range: WeightRange = "full",
    ) -> None:
        bits, act_bits = layer_widths(bits, act_bits)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            WeightOptions(bit_width(bits, "bits"), per_channel, weight_method, weight_range),
            act_bits,
            act_signed,
            act_asymmetric,
            dynamic,
        )


class Conv1d(_Convolution):
    """1-D convolution of `bits`-bit weights with `act_bits`-bit activations; arguments as in torch.nn.Conv1d and, by keyword, `Conv2d`.

    Takes and gives float32 (N, C, L) or (C, L). padding: an int, 'same' or 'valid'. It runs as a convolution of an image of one row.
    """

    _dims = 1
    _image_dims = 2

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        bits: int | str,
        act_bits: int | None = None,
        act_signed: bool | None = None,
        act_asymmetric: bool = False,
        dynamic: bool = False,
        per_channel: bool = True,
        weight_method: WeightMethod = "mse",
        weight_range: WeightRange = "full",
    ) -> None:
        bits, act_bits = layer_widths(bits, act_bits)
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,
            WeightOptions(bit_width(bits, "bits"), per_channel, weight_method, weight_range),
            act_bits,
            act_signed,
            act_asymmetric,
            dynamic,
        )
