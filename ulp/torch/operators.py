"""The operators `torch.ops.ulp.conv2d` and `torch.ops.ulp.linear`, on the CPU and on GPUs.

Their arguments are tensors and numbers, never a handle to something outside the graph. The layer of `ulp.nn` that computes the result is
made from them on first use. It is kept as long as the tensors live and stay unchanged.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from ulp import _bitstream, nn
from ulp.nn.device_layer import DeviceLayer

_Layer: TypeAlias = nn.Conv2d | nn.Linear | DeviceLayer


class Stored(NamedTuple):
    """What both operators take besides the input: the state of a layer, in the order of the operators' schemas."""

    weight: Tensor
    weight_scale: Tensor
    bias: Tensor | None
    act_scale: Tensor
    act_zero: Tensor
    weight_shape: tuple[int, ...]
    bits: int
    act_bits: int
    act_signed: bool | None
    dynamic: bool

    def layer_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of `from_quantized`."""
        scale: float | None = float(self.act_scale)
        if scale == 0:
            if not self.dynamic:
                raise nn.LayerError(
                    "the range of this layer's input is not known: ulp.torch.convert(model, calibrate=batches) with batches that reach the "
                    "layer, or load a state dict of a calibrated model, or convert with dynamic=True"
                )
            scale = None
        integers = _bitstream.read(as_numpy(self.weight), self.bits, self.weight_shape)
        zero = 0 if scale is None else int(self.act_zero)
        options = {"bits": self.bits, "act_bits": self.act_bits, "act_signed": self.act_signed, "dynamic": self.dynamic}
        return (integers, as_numpy(self.weight_scale), as_numpy(self.bias), scale, zero), options


_TENSORS, STORED = 5, len(Stored._fields)


class Geometry(NamedTuple):
    """What only `conv2d` takes. padding: top, left, bottom, right."""

    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]
    groups: int
    padding_mode: str


def as_numpy(tensor: Tensor | None) -> Any:
    """The array that shares the tensor's memory, on a GPU a copy of it; None for None."""
    if tensor is None:
        return None
    return (tensor.detach() if tensor.requires_grad else tensor).cpu().numpy()


def _make_conv2d(*given: Any) -> nn.Conv2d:
    stored, geometry = Stored(*given[:STORED]), Geometry(*given[STORED:])
    arguments, options = stored.layer_arguments()
    top, left, bottom, right = geometry.padding
    return nn.Conv2d.from_quantized(
        *arguments,
        **options,
        stride=geometry.stride,
        # Of torch's paddings only "same" has sides that differ.
        padding=(top, left) if (top, left) == (bottom, right) else "same",
        dilation=geometry.dilation,
        groups=geometry.groups,
        padding_mode=geometry.padding_mode,
    )


def _make_linear(*given: Any) -> nn.Linear:
    (*stored, of_rows) = given
    arguments, options = Stored(*stored).layer_arguments()
    return nn.Linear.from_quantized(*arguments, **options | ({"dynamic": "row"} if of_rows else {}))


# Layers by the storage of their weights. A weak reference to a storage keeps its address from being used again, so a key stays valid as
# long as its entry exists.
@dataclass(frozen=True)
class _Entry:
    fingerprint: tuple[Any, ...]
    storages: tuple[StorageWeakRef, ...]
    layer: _Layer


_entries: dict[int, _Entry] = {}
_entries_lock = threading.Lock()


def _identity(tensor: Tensor | None) -> tuple[int, int, int] | None:
    if tensor is None:
        return None
    # Tensors made under inference_mode count no versions; the modules replace them instead of changing them (see layers.py).
    return tensor.untyped_storage()._cdata, tensor.storage_offset(), 0 if tensor.is_inference() else tensor._version


def _layer(tensors: tuple[Tensor | None, ...], options: tuple[Any, ...], make: Callable[..., _Layer]) -> _Layer:
    """make(*tensors, *options), or what it returned before for the same, unchanged tensors and options."""
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


def _run(x: Tensor, tensors: tuple[Tensor | None, ...], options: tuple[Any, ...], make: Callable[..., nn.Conv2d | nn.Linear]) -> Tensor:
    """The layer's result in x's dtype, a new tensor where x is."""
    if x.is_cuda:
        return _run_there(x, tensors, options, make)
    layer = _layer(tensors, options, make)
    if x.dtype == torch.float32:
        return torch.from_numpy(layer(as_numpy(x)))
    return layer(x).to(x.dtype)


def _run_there(
    x: Tensor, tensors: tuple[Tensor | None, ...], options: tuple[Any, ...], make: Callable[..., nn.Conv2d | nn.Linear]
) -> Tensor:
    """On x's GPU, on its current stream."""
    weight = tensors[0]
    if weight is None or weight.device != x.device:
        where = "nowhere" if weight is None else weight.device
        raise RuntimeError(f"this layer of ulp.torch is on {where}, and its input on {x.device}: move the model or the input")
    index = x.device.index
    layer = _layer(tensors, options, lambda *given: DeviceLayer(make(*given), index))
    # Networks take images, or rows.
    outer = x.dim() - (3 if make is _make_conv2d else 1)
    y = layer(x.detach().to(torch.float32).reshape(math.prod(x.shape[:outer]), *x.shape[outer:]))
    return y.reshape(*x.shape[:outer], *y.shape[1:]).to(x.dtype)


# Where torch.compile gives a function up, it goes on with the functions that this one calls, and so comes to the operators' own code, of
# which it would make many small graphs. torch.compiler.disable keeps it away; that takes microseconds, and seconds to import, so it is
# called only where torch.compile looks on.
_dynamo: Any = getattr(torch._C._dynamo, "eval_frame", None)
_looks_on: Callable[[], Any] = getattr(_dynamo, "get_eval_frame_callback", lambda: sys.modules.get("torch._dynamo"))
_unseen: list[Callable[..., Tensor]] = []


def _hidden(*arguments: Any) -> Tensor:
    """`_run`, unseen by torch.compile."""
    if _looks_on() is None:
        return _run(*arguments)
    if not _unseen:
        _unseen.append(torch.compiler.disable(_run))
    return _unseen[0](*arguments)


def _skip(function: Any) -> None:
    """Keep torch.compile from the few lines in front of `_run`, too, where this version of torch has a way to say so."""
    if hasattr(_dynamo, "set_code_exec_strategy"):
        skip = _dynamo._FrameAction.SKIP
        _dynamo.set_code_exec_strategy(function.__code__, _dynamo._FrameExecStrategy(skip, skip))
    elif hasattr(_dynamo, "skip_code"):
        _dynamo.skip_code(function.__code__)


# torch.library.Library rather than custom_op, whose calls go through more Python.
_COMMON = (
    "Tensor x, Tensor weight, Tensor weight_scale, Tensor? bias, Tensor act_scale, Tensor act_zero, "
    "int[] weight_shape, int bits, int act_bits, bool? act_signed, bool dynamic"
)
_library = torch.library.Library("ulp", "DEF")
_library.define(
    f"conv2d({_COMMON}, int[2] stride, int[4] padding, int[2] dilation, int groups, str padding_mode) -> Tensor",
    tags=torch.Tag.pt2_compliant_tag,
)
# of_rows: each row has a range of its own; with dynamic.
_library.define(f"linear({_COMMON}, bool of_rows=False) -> Tensor", tags=torch.Tag.pt2_compliant_tag)


# These two run at every call. torch passes int[] as lists, which have no hash.


@torch.library.impl(_library, "conv2d", "CPU")
@torch.library.impl(_library, "conv2d", "CUDA")
def _conv2d(x: Tensor, *arguments: Any) -> Tensor:
    shape, bits, act_bits, act_signed, dynamic, stride, padding, dilation, groups, mode = arguments[_TENSORS:]
    geometry = tuple(stride), tuple(padding), tuple(dilation), groups, mode
    return _hidden(x, arguments[:_TENSORS], (tuple(shape), bits, act_bits, act_signed, dynamic, *geometry), _make_conv2d)


@torch.library.impl(_library, "linear", "CPU")
@torch.library.impl(_library, "linear", "CUDA")
def _linear(x: Tensor, *arguments: Any) -> Tensor:
    shape, bits, act_bits, act_signed, dynamic, *more = arguments[_TENSORS:]  # torch leaves out what has its default
    of_rows = bool(more and more[0])
    return _hidden(x, arguments[:_TENSORS], (tuple(shape), bits, act_bits, act_signed, dynamic, of_rows), _make_linear)


for _function in (_conv2d, _linear, _hidden):
    _skip(_function)


@torch.library.register_fake("ulp::conv2d", lib=_library)
def conv2d_shape(x: Tensor, *arguments: Any) -> Tensor:
    """A tensor without values, of the result\'s shape."""
    stored, (stride, padding, dilation, groups, _) = Stored(*arguments[:STORED]), Geometry(*arguments[STORED:])
    out_channels, channels, *kernel = stored.weight_shape
    torch._check(x.dim() in (3, 4), lambda: f"expected 3D (unbatched) or 4D (batched) input to conv2d, but got {x.dim()}D")
    torch._check(x.shape[-3] == channels * groups, lambda: f"expected input of {channels * groups} channels, but got {x.shape[-3]}")
    height, width = ((x.shape[i - 2] + padding[i] + padding[i + 2] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in (0, 1))
    return x.new_empty((*x.shape[:-3], out_channels, height, width))


@torch.library.register_fake("ulp::linear", lib=_library)
def linear_shape(x: Tensor, *arguments: Any) -> Tensor:
    """A tensor without values, of the result\'s shape."""
    features_out, features = Stored(*arguments[:STORED]).weight_shape
    torch._check(x.shape[-1] == features, lambda: f"expected input of {features} features, but got {x.shape[-1]}")
    return x.new_empty((*x.shape[:-1], features_out))
