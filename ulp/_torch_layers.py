"""The operators `torch.ops.ulp.conv2d` and `.linear`, and the torch modules that call them. Users find the modules in `ulp.torch`.

An operator's arguments are tensors and numbers, never a handle to something outside the graph. What kernels read is made from them on first
use and kept as long as the tensors live and stay as they are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from . import _bitstream, nn


# The layers of the operators, by the storage of their weights. A weak reference to a storage keeps its address from being used again,
# so that a key stays true as long as its entry exists.
@dataclass(frozen=True)
class _Entry:
    fingerprint: tuple[Any, ...]
    storages: tuple[StorageWeakRef, ...]
    layer: nn.Conv2d | nn.Linear


_entries: dict[int, _Entry] = {}
_entries_lock = threading.Lock()


def _identity(tensor: Tensor | None) -> tuple[int, int, int] | None:
    if tensor is None:
        return None
    # Tensors made under inference_mode count no versions; `_load_from_state_dict` below replaces them.
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), 0 if tensor.is_inference() else tensor._version


def _layer(
    tensors: tuple[Tensor | None, ...], options: tuple[Any, ...], make: Callable[..., nn.Conv2d | nn.Linear]
) -> nn.Conv2d | nn.Linear:
    """make(*tensors, *options), or what it gave for the same, unchanged tensors before."""
    identities = tuple(map(_identity, tensors))
    assert identities[0] is not None  # the weights
    entry = _entries.get(identities[0][0])
    if entry is not None and entry.fingerprint == (identities, options):
        return entry.layer
    layer = make(*tensors, *options)
    storages = tuple(StorageWeakRef(tensor.untyped_storage()) for tensor in tensors if tensor is not None)
    with _entries_lock:
        for key in [key for key, old in _entries.items() if old.storages[0].expired()]:
            del _entries[key]
        _entries[identities[0][0]] = _Entry((identities, options), storages, layer)
    return layer


def _numpy(tensor: Tensor | None) -> Any:
    if tensor is None:
        return None
    return (tensor.detach() if tensor.requires_grad else tensor).numpy()


def _run(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    """The layer's result in x's dtype, a new tensor."""
    if x.dtype == torch.float32:
        return torch.from_numpy(layer(_numpy(x)))
    return layer(x).to(x.dtype)


def _quantizer_arguments(act_scale: Tensor, act_zero: Tensor, dynamic: bool) -> tuple[float | None, int]:
    scale = float(act_scale)
    if scale == 0:
        if not dynamic:
            raise nn.LayerError(
                "the range of this layer's input is not known: ulp.torch.convert(model, calibrate=batches) with batches that reach the "
                "layer, or load a state dict of a calibrated model, or convert with dynamic=True"
            )
        return None, 0
    return scale, int(act_zero)


def _make_conv2d(
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    act_scale: Tensor,
    act_zero: Tensor,
    weight_shape: tuple[int, ...],
    bits: int,
    act_bits: int,
    act_signed: bool | None,
    dynamic: bool,
    stride: tuple[int, int],
    padding: tuple[int, int, int, int],
    dilation: tuple[int, int],
    groups: int,
    padding_mode: str,
) -> nn.Conv2d:
    top, left, bottom, right = padding
    return nn.Conv2d.from_quantized(
        _bitstream.read(_numpy(weight), bits, weight_shape),
        _numpy(weight_scale),
        _numpy(bias),
        *_quantizer_arguments(act_scale, act_zero, dynamic),
        bits=bits,
        act_bits=act_bits,
        act_signed=act_signed,
        dynamic=dynamic,
        stride=stride,
        # Of torch's paddings only "same" has sides that differ.
        padding=(top, left) if (top, left) == (bottom, right) else "same",
        dilation=dilation,
        groups=groups,
        padding_mode=padding_mode,
    )


def _make_linear(
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    act_scale: Tensor,
    act_zero: Tensor,
    weight_shape: tuple[int, ...],
    bits: int,
    act_bits: int,
    act_signed: bool | None,
    dynamic: bool,
) -> nn.Linear:
    return nn.Linear.from_quantized(
        _bitstream.read(_numpy(weight), bits, weight_shape),
        _numpy(weight_scale),
        _numpy(bias),
        *_quantizer_arguments(act_scale, act_zero, dynamic),
        bits=bits,
        act_bits=act_bits,
        act_signed=act_signed,
        dynamic=dynamic,
    )


# The arguments that both operators have. torch.library.Library rather than custom_op, whose calls go through more Python.
_COMMON = (
    "Tensor x, Tensor weight, Tensor weight_scale, Tensor? bias, Tensor act_scale, Tensor act_zero, "
    "int[] weight_shape, int bits, int act_bits, bool? act_signed, bool dynamic"
)
_library = torch.library.Library("ulp", "DEF")
_library.define(
    f"conv2d({_COMMON}, int[2] stride, int[4] padding, int[2] dilation, int groups, str padding_mode) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
_library.define(f"linear({_COMMON}) -> Tensor", tags=torch.Tag.pt2_compliant_tag)


@torch.library.impl(_library, "conv2d", "CPU")
def _conv2d(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    act_scale: Tensor,
    act_zero: Tensor,
    weight_shape: Sequence[int],
    bits: int,
    act_bits: int,
    act_signed: bool | None,
    dynamic: bool,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
) -> Tensor:
    options = tuple(weight_shape), bits, act_bits, act_signed, dynamic
    geometry = tuple(stride), tuple(padding), tuple(dilation), groups, padding_mode
    layer = _layer((weight, weight_scale, bias, act_scale, act_zero), (*options, *geometry), _make_conv2d)
    return _run(layer, x)


@torch.library.impl(_library, "linear", "CPU")
def _linear(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    act_scale: Tensor,
    act_zero: Tensor,
    weight_shape: Sequence[int],
    bits: int,
    act_bits: int,
    act_signed: bool | None,
    dynamic: bool,
) -> Tensor:
    options = tuple(weight_shape), bits, act_bits, act_signed, dynamic
    return _run(_layer((weight, weight_scale, bias, act_scale, act_zero), options, _make_linear), x)


@torch.library.register_fake("ulp::conv2d", lib=_library)
def _conv2d_shape(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    act_scale: Tensor,
    act_zero: Tensor,
    weight_shape: Sequence[int],
    bits: int,
    act_bits: int,
    act_signed: bool | None,
    dynamic: bool,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    padding_mode: str,
) -> Tensor:
    out_channels, channels, *kernel = weight_shape
    torch._check(x.dim() in (3, 4), lambda: f"expected 3D (unbatched) or 4D (batched) input to conv2d, but got {x.dim()}D")
    torch._check(x.shape[-3] == channels * groups, lambda: f"expected input of {channels * groups} channels, but got {x.shape[-3]}")
    height, width = ((x.shape[i - 2] + padding[i] + padding[i + 2] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1))
    return x.new_empty((*x.shape[:-3], out_channels, height, width))


@torch.library.register_fake("ulp::linear", lib=_library)
def _linear_shape(
    x: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    act_scale: Tensor,
    act_zero: Tensor,
    weight_shape: Sequence[int],
    bits: int,
    act_bits: int,
    act_signed: bool | None,
    dynamic: bool,
) -> Tensor:
    torch._check(x.shape[-1] == weight_shape[1], lambda: f"expected input of {weight_shape[1]} features, but got {x.shape[-1]}")
    return x.new_empty((*x.shape[:-1], weight_shape[0]))


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

    packed_weight: uint8, the integers in `bits` bits each, one after another. weight_scale: float32 (O,). bias: float32 (O,) or None.
    act_scale: float32 (), 0 where it is not known. act_zero, act_bits: int64 (). Scales stay float32 whatever `.half()` or `.to` ask for.
    """

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
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
        """The operators' common arguments; refuses what they cannot do."""
        if isinstance(x, Tensor):  # and not a proxy of torch.fx
            if x.requires_grad and torch.is_grad_enabled():
                raise RuntimeError(
                    f"ulp.torch.{type(self).__name__} is for inference only, and this input requires gradients: call the model under "
                    f"torch.no_grad() or torch.inference_mode(), or pass x.detach()"
                )
            if x.device.type not in ("cpu", "meta"):
                raise RuntimeError(f"ulp.torch.{type(self).__name__} computes on the CPU, and this input is on {x.device}: pass x.cpu()")
        return (
            *(x, self.packed_weight, self.weight_scale, self.bias, self.act_scale, self.act_zero),
            *(self.weight_shape, self.bits, self._act_bits, self.act_signed, self.dynamic),
        )

    @property
    def weight(self) -> Tensor:
        """What the integers stand for: float32 of torch's shape, a copy."""
        integers = torch.from_numpy(_bitstream.read(_numpy(self.packed_weight), self.bits, self.weight_shape))
        return integers * self.weight_scale.view(-1, *(1,) * (len(self.weight_shape) - 1))

    @property
    def calibrated(self) -> bool:
        """Whether the range of the input is known."""
        return bool(self.act_scale != 0)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        # What is made from the buffers is found again by their identity: so they are replaced, not changed.
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


class Conv2d(_Adapter):
    """A `ulp.nn.Conv2d` as a torch module: takes and gives (N, C, H, W) or (C, H, W) of any float dtype, on the CPU."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        self.in_channels, self.out_channels = layer.in_channels, layer.out_channels
        self.kernel_size, self.stride, self.dilation = layer.kernel_size, layer.stride, layer.dilation
        self.groups, self.padding, self.padding_mode = layer.groups, layer.padding, layer.padding_mode
        self._sides = tuple(layer.sides)

    def forward(self, x: Tensor) -> Tensor:
        """The convolution; RuntimeError where x requires gradients or is not on the CPU."""
        return torch.ops.ulp.conv2d(*self._arguments(x), self.stride, self._sides, self.dilation, self.groups, self.padding_mode)


class Linear(_Adapter):
    """A `ulp.nn.Linear` as a torch module: takes (..., in_features) of any float dtype, gives (..., out_features), on the CPU."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer)
        self.in_features, self.out_features = layer.in_features, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        """The product; RuntimeError where x requires gradients or is not on the CPU."""
        return torch.ops.ulp.linear(*self._arguments(x))
