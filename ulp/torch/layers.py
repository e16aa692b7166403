"""The torch modules that `convert` puts in place of others, plain buffers and the operators of operators.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ulp import _bitstream, nn

from . import operators  # noqa: F401  # it defines torch.ops.ulp
from .operators import as_numpy


def adapter(layer: nn.Conv1d | nn.Conv2d | nn.Linear) -> Any:
    """The torch module of a layer."""
    if isinstance(layer, nn.Linear):
        return Linear(layer)
    return Conv1d(layer) if isinstance(layer, nn.Conv1d) else Conv2d(layer)


class FixedTypes(torch.nn.Module):
    """A module whose buffers keep their dtypes, whatever `.half()` or `.to` ask for."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FixedTypes:
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            if buffer is not None and self._buffers[name].dtype != buffer.dtype:
                self._buffers[name] = buffer.to(self._buffers[name].device)
        return self


class _Adapter(FixedTypes):
    """Buffers and numbers of a layer of `ulp.nn`.

    packed_weight: uint8, the integers in `bits` bits each, without gaps. weight_scale: float32 (O,). bias: float32 (O,) or None.
    act_scale: float32 (), 0 where it is not known. act_zero, act_bits: int64 (). Scales stay float32 whatever `.half()` or `.to` ask for.
    """

    def __init__(self, layer: nn.Conv1d | nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.bits, self.dynamic, self.act_signed = layer.bits, layer.dynamic, layer.act_signed
        integers, quantizer = layer.weight_int, layer.quantizer
        self.weight_shape = tuple(integers.shape)
        self.register_buffer("packed_weight", torch.from_numpy(_bitstream.write(integers, layer.bits)))
        self.register_buffer("weight_scale", torch.tensor(layer.weight_scale))
        self.register_buffer("bias", None if layer.bias is None else torch.tensor(layer.bias))
        self.register_buffer("act_scale", torch.tensor(quantizer.scale if quantizer else 0.0, dtype=torch.float32))
        self.register_buffer("act_zero", torch.tensor(quantizer.zero if quantizer else 0))
        self.register_buffer("act_bits", torch.tensor(layer.act_bits))
        # Numbers that torch.compile sees as such; the buffer is for state dicts.
        self._act_bits = layer.act_bits
        self._description = layer.extra_repr()
        self.train(False)

    def _arguments(self, x: Tensor) -> tuple[Any, ...]:
        """The arguments that both operators take. RuntimeError for inputs that need gradients, or are neither on the CPU nor on a GPU."""
        if isinstance(x, Tensor):  # and not a proxy of torch.fx
            if x.requires_grad and torch.is_grad_enabled():
                raise RuntimeError(
                    f"ulp.torch.{type(self).__name__} is for inference only, and this input requires gradients: call the model under "
                    f"torch.no_grad() or torch.inference_mode(), or pass x.detach()"
                )
            if x.device.type not in ("cpu", "meta", "cuda"):
                raise RuntimeError(
                    f"ulp.torch.{type(self).__name__} computes on the CPU and on NVIDIA GPUs, and this input is on {x.device}: pass x.cpu()"
                )
        return (
            *(x, self.packed_weight, self.weight_scale, self.bias, self.act_scale, self.act_zero),
            *(self.weight_shape, self.bits, self._act_bits, self.act_signed, self.dynamic),
        )

    @property
    def weight(self) -> Tensor:
        """What the integers stand for: float32 of torch's shape, a copy."""
        integers = torch.from_numpy(_bitstream.read(as_numpy(self.packed_weight), self.bits, self.weight_shape))
        return integers * self.weight_scale.view(-1, *(1,) * (len(self.weight_shape) - 1))

    @property
    def calibrated(self) -> bool:
        """Whether the range of the input is known."""
        return bool(self.act_scale != 0)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # The operators find their layers by the identity of these buffers, so they are replaced, not changed.
        for name, buffer in self._buffers.items():
            if buffer is not None:
                self._buffers[name] = buffer.clone()
        found = state_dict.get(prefix + "act_bits")
        if found is not None and int(found) != self._act_bits:
            errors = rest[-1]
            errors.append(f"{prefix}act_bits is {int(found)} in the state dict, {self._act_bits} in this model")
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.act_bits.fill_(self._act_bits)

    def extra_repr(self) -> str:
        """As of the layer of `ulp.nn`."""
        return str(self._description)


class _Convolution(_Adapter):
    def __init__(self, layer: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__(layer)
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size, self.stride, self.dilation = layer.kernel_size, layer.stride, layer.dilation
        self.groups, self.padding, self.padding_mode = layer.groups, layer.padding, layer.padding_mode
        self._sides = tuple(layer.sides)


class Conv2d(_Convolution):
    """A `ulp.nn.Conv2d` as a torch module: takes and gives (N, C, H, W) or (C, H, W) of any float dtype, on the CPU or a GPU."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """The convolution; RuntimeError where the input requires gradients or is not where the layer is."""
        return torch.ops.ulp.conv2d(*self._arguments(input), self.stride, self._sides, self.dilation, self.groups, self.padding_mode)


class Conv1d(_Convolution):
    """A `ulp.nn.Conv1d` as a torch module: takes and gives (N, C, L) or (C, L) of any float dtype, on the CPU or a GPU."""

    def __init__(self, layer: nn.Conv1d) -> None:
        super().__init__(layer)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """The convolution, of an image of one row; RuntimeError where the input requires gradients or is not where the layer is."""
        if isinstance(input, Tensor) and input.dim() not in (2, 3):  # and not a proxy of torch.fx
            raise RuntimeError(f"expected 2D (unbatched) or 3D (batched) input to Conv1d, but got {input.dim()}D")
        x, *buffers, (outputs, channels, kernel), bits, act_bits, act_signed, dynamic = self._arguments(input)
        arguments = *buffers, (outputs, channels, 1, kernel), bits, act_bits, act_signed, dynamic
        stride, dilation = (1, *self.stride), (1, *self.dilation)
        image = torch.ops.ulp.conv2d(x.unsqueeze(-2), *arguments, stride, self._sides, dilation, self.groups, self.padding_mode)
        return image.squeeze(-2)


class Linear(_Adapter):
    """A `ulp.nn.Linear` as a torch module: takes (..., in_features) of any float dtype, gives (..., out_features), on the CPU or a GPU."""

    of_rows = False  # of models that were pickled before there was more

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.of_rows = layer.of_rows

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """The product; RuntimeError where the input requires gradients or is not where the layer is."""
        return torch.ops.ulp.linear(*self._arguments(input), self.of_rows)
