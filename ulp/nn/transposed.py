"""`ConvTranspose2d`: a convolution of the image with zeros between its pixels, by the turned kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ulp._validate import as_array, bit_width, integer, layer_widths

from .floats import conv
from .graph import Conv, Gather, Pair, Shape
from .graph import Weights as GraphWeights
from .quantizer import FloatArray, Quantizer, WeightMethod, WeightOptions, WeightRange, as_float32, quantize_weight
from .shapes import IntOrPair, LayerError, check_image, pair, shape_text
from .subpixel import spread, turned
from .trace import Symbol, record
from .weights import Weighted


class ConvTranspose2d(Weighted):
    """Transposed convolution of `bits`-bit weights with `act_bits`-bit activations; arguments as in torch.nn.ConvTranspose2d and `Conv2d`.

    Takes and gives float32 (N, C, H, W) or (C, H, W). Weights are (in_channels, out_channels / groups, kh, kw), their scales one per output
    channel. forward takes no output_size. Where codes are made of its result, a compiled network multiplies no zeros.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrPair,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        output_padding: IntOrPair = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrPair = 1,
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
        in_channels = integer(in_channels, "in_channels", 1, 2**24)
        out_channels = integer(out_channels, "out_channels", 1, 2**24)
        groups = integer(groups, "groups", 1, 2**24)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"groups={groups}: in_channels={in_channels} and out_channels={out_channels} must be divisible by it")
        if padding_mode != "zeros":
            raise ValueError('Only "zeros" padding mode is supported for ConvTranspose2d')
        kernel = pair(kernel_size, "kernel_size", 1)
        options = WeightOptions(bit_width(bits, "bits"), per_channel, weight_method, weight_range)
        super().__init__((out_channels, in_channels // groups, *kernel), bias, options, act_bits, act_signed, act_asymmetric, dynamic)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = kernel
        self.stride = pair(stride, "stride", 1)
        self.padding = pair(padding, "padding", 0)
        self.output_padding = pair(output_padding, "output_padding", 0)
        self.dilation = pair(dilation, "dilation", 1)
        self.groups = groups
        self.padding_mode = padding_mode
        for extra, s, d in zip(self.output_padding, self.stride, self.dilation, strict=True):
            if extra >= max(s, d):
                raise ValueError(
                    f"output_padding={self.output_padding}: must be smaller than either stride={self.stride} or dilation={self.dilation}"
                )

    @classmethod
    def from_float(cls, layer: Any, *, bits: int | str, **options: Any) -> ConvTranspose2d:
        """A layer like `layer` (a torch.nn.ConvTranspose2d, or what has its attributes) with its weights quantized; not calibrated."""
        made = cls(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.output_padding,
            layer.groups,
            layer.bias is not None,
            layer.dilation,
            layer.padding_mode,
            bits=bits,
            **options,
        )
        return made._take_float(layer)

    @classmethod
    def from_quantized(
        cls,
        weight_int: npt.ArrayLike,
        weight_scale: npt.ArrayLike,
        bias: npt.ArrayLike | None = None,
        act_scale: float | None = None,
        act_zero: int = 0,
        *,
        bits: int | str,
        stride: IntOrPair = 1,
        padding: IntOrPair = 0,
        output_padding: IntOrPair = 0,
        groups: int = 1,
        dilation: IntOrPair = 1,
        **options: Any,
    ) -> ConvTranspose2d:
        """A layer of given integers (C, O / groups, kh, kw); everything else as for `Conv2d.from_quantized`."""
        shape = np.shape(weight_int)
        if len(shape) != 4:
            raise LayerError(f"weight_int has shape {shape_text(shape)}, expected four dimensions, (C, O / groups, kh, kw)")
        made = cls(
            *(shape[0], shape[1] * groups, shape[2:], stride, padding, output_padding, groups, bias is not None, dilation),
            bits=bits,
            **options,
        )
        return made._take_quantized(weight_int, weight_scale, bias, act_scale, act_zero)

    # The weights are held as those of the convolution, and shown as torch has them.

    @property
    def _torch_shape(self) -> Shape:
        outputs, _, *kernel = self._shape
        return self.in_channels, outputs // self.groups, *kernel

    @property
    def weight_int(self) -> npt.NDArray[np.int8]:
        """The integers, int8 (C, O / groups, kh, kw), a copy."""
        return turned(super().weight_int, self.groups)

    @property
    def weight(self) -> FloatArray:
        """weight_int times the scales, a float32 copy. Assigning floats (array or tensor) of the same shape quantizes them."""
        return turned(super().weight, self.groups)

    @weight.setter
    def weight(self, value: Any) -> None:
        array = as_float32(value, "weight")
        self._check_shape("weight", array.shape)
        integers, scale = quantize_weight(turned(array, self.groups), self.weight_options)
        self._set(integers, scale, self._drawn()[2] if self._has_bias else None)

    def _check_shape(self, name: str, shape: Shape) -> None:
        if shape != self._torch_shape:
            raise LayerError(f"{name} has shape {shape_text(shape)}, expected {shape_text(self._torch_shape)}")

    def _take_quantized(self, integers: object, scale: object, bias: object, act_scale: object, act_zero: object) -> ConvTranspose2d:
        array = as_array(integers, "weight_int")
        self._check_shape("weight_int", array.shape)
        return super()._take_quantized(turned(array, self.groups), scale, bias, act_scale, act_zero)

    def _expected(self) -> dict[str, tuple[Shape, bool]]:
        return super()._expected() | {"weight": (self._torch_shape, True)}

    def _assign(self, values: dict[str, FloatArray]) -> None:
        if "weight" in values:
            values = values | {"weight": turned(values["weight"], self.groups)}
        super()._assign(values)

    # What it computes.

    def _size(self, image: Pair) -> Pair:
        height, width = (
            (n - 1) * s - 2 * p + d * (k - 1) + extra + 1
            for n, s, p, d, k, extra in zip(
                image, self.stride, self.padding, self.dilation, self.kernel_size, self.output_padding, strict=True
            )
        )
        return height, width

    def _check(self, shape: Shape, given: Shape) -> None:
        check_image(shape, type(self).__name__, given)
        if shape[0] != self.in_channels:
            raise LayerError(f"expected input{shape_text(given)} to have {self.in_channels} channels, but got {shape[0]} channels instead")
        size = self._size((shape[1], shape[2]))
        if min(size) < 1:
            raise LayerError(f"padding={self.padding} leaves a result of {size[0]} x {size[1]} for input of size {shape_text(given)}")
        if any(not len(places) for places in self._spread((shape[1], shape[2]))[0]):
            raise LayerError(f"padding={self.padding} leaves nothing of an input of size {shape_text(given)}")

    def _spread(self, image: Pair) -> tuple[list[npt.NDArray[np.int32]], list[Pair]]:
        """Per side: where each pixel of the image with zeros comes from, -1 being a zero, and its padding."""
        sides = [
            spread(n, s, d, k, p, size)
            for n, s, d, k, p, size in zip(
                image, self.stride, self.dilation, self.kernel_size, self.padding, self._size(image), strict=True
            )
        ]
        return [places for places, _ in sides], [around for _, around in sides]

    def _nodes(self, x: Symbol, quantizer: Quantizer, weights: GraphWeights) -> Symbol:
        channels, *image = x.node.shape
        places, ((top, bottom), (left, right)) = self._spread((image[0], image[1]))
        if any(not np.array_equal(index, np.arange(side)) for index, side in zip(places, image, strict=True)):
            x = record(Gather(*places), (channels, len(places[0]), len(places[1])), self, x, kind="Spread")
        op = Conv(weights, quantizer, (1, 1), (top, left, bottom, right), self.dilation, self.groups)
        return record(op, (self.out_channels, *self._size((image[0], image[1]))), self, x)

    def _float(self, x: FloatArray) -> FloatArray:
        (rows, columns), around = self._spread((x.shape[2], x.shape[3]))
        wide = np.where((rows >= 0)[:, None] & (columns >= 0), x[:, :, rows][:, :, :, columns], np.float32(0))
        padded = np.pad(wide, ((0, 0), (0, 0), *around))
        return conv(padded, super().weight, self.bias, (1, 1), self.dilation, self.groups)

    def extra_repr(self) -> str:
        """As torch's, and the bits."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        for name, value, usual in (
            ("padding", self.padding, (0, 0)),
            ("dilation", self.dilation, (1, 1)),
            ("output_padding", self.output_padding, (0, 0)),
            ("groups", self.groups, 1),
        ):
            text += "" if value == usual else f", {name}={value}"
        return text + self._bits_repr()
