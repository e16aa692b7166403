"""What `torch.ops.ulp.conv2d` and `torch.ops.ulp.linear` are in torch's own operators and QONNX's: so that torch.onnx.export writes them.

torch.onnx takes an operator apart by torch's table of decompositions where it has no translation of it. Quantizers become nodes of QONNX
(Pappalardo et al., 2022), weights floats on the grid of theirs. A layer that takes the range of each call's input becomes floats only.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ulp import _bitstream

from .operators import STORED, Geometry, Stored, conv2d_shape, linear_shape

DOMAIN = "qonnx.custom_op.general"
# Of a node that stands for dequantized weights until its reader replaces it by them, see `compact`.
OWN_DOMAIN, WEIGHTS = "ulp", "Weights"
_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def _quant(x: Tensor, scale: Tensor, zero: Tensor, bits: int, signed: bool) -> Tensor:
    attributes = {"signed": int(signed), "narrow": 0, "rounding_mode": "ROUND"}
    width = torch.full((), float(bits))
    return torch.onnx.ops.symbolic(f"{DOMAIN}::Quant", (x, scale, zero, width), attributes, dtype=x.dtype, shape=x.shape, version=1)


_compact = False


@contextlib.contextmanager
def compact() -> Iterator[None]:
    """Have weights come as one node Weights(packed, scale) with the attributes bits and shape: taking their bits apart by ONNX's operators
    makes most of the nodes of a model, and so takes most of the time of an export."""
    global _compact
    _compact = True
    try:
        yield
    finally:
        _compact = False


def unpacked(packed: Any, scale: Any, bits: int, shape: tuple[int, ...]) -> Any:
    """What such a node stands for, float32 of this shape: integers times their scales (O,)."""
    integers = _bitstream.read(packed, bits, shape)
    return integers * scale.reshape(-1, *(1,) * (len(shape) - 1))


def _weight(stored: Stored) -> Tensor:
    """The weights' integers times their scales, behind their quantizer."""
    bits, shape = stored.bits, tuple(stored.weight_shape)
    scale = stored.weight_scale.reshape(-1, *(1,) * (len(shape) - 1))
    weight = _packed_node(stored) if _compact else _integers(stored) * scale
    if bits == 1:
        return torch.onnx.ops.symbolic(f"{DOMAIN}::BipolarQuant", (weight, scale), dtype=weight.dtype, shape=shape, version=1)
    return _quant(weight, scale, torch.zeros(()), bits, signed=True)


def _packed_node(stored: Stored) -> Tensor:
    inputs, attributes = (stored.weight, stored.weight_scale), {"bits": stored.bits, "shape": list(stored.weight_shape)}
    shape = tuple(stored.weight_shape)
    return torch.onnx.ops.symbolic(f"{OWN_DOMAIN}::{WEIGHTS}", inputs, attributes, dtype=torch.float32, shape=shape, version=1)


def _integers(stored: Stored) -> Tensor:
    bits, shape = stored.bits, tuple(stored.weight_shape)
    # By arithmetic of floats, which all versions of ONNX and all that fold constants have; torch.tensor(...) would not be traced.
    powers = torch.pow(2.0, torch.arange(9, dtype=torch.float32))
    shifted = torch.floor(stored.weight.to(torch.float32).unsqueeze(1) / powers)
    planes = (shifted[:, :8] - 2 * shifted[:, 1:]).reshape(-1)[: math.prod(shape) * bits].reshape(-1, bits)
    codes = (planes * powers[:bits]).sum(dim=1)
    integers = 2 * codes - 1 if bits == 1 else codes - planes[:, bits - 1] * 2.0**bits
    return integers.reshape(shape)


def _input(x: Tensor, stored: Stored) -> Tensor:
    """The layer's input on the grid of its quantizer."""
    if not stored.dynamic:
        return _quant(x, stored.act_scale, stored.act_zero.to(torch.float32), stored.act_bits, signed=False)
    levels = 2**stored.act_bits - 1
    low, high = x.flatten().amin(0).clamp(max=0), x.flatten().amax(0).clamp(min=0)
    half = 2 ** (stored.act_bits - 1)
    unsigned, signed = high / levels, torch.maximum(-low / half, high / max(levels - half, 1))
    negative = low < 0 if stored.act_signed is None else torch.full_like(low, stored.act_signed) > 0
    if stored.act_bits == 1:
        negative = torch.zeros_like(low) > 0
    scale, zero = torch.where(negative, signed, unsigned), torch.where(negative, float(half), 0.0)
    scale = torch.where(scale >= torch.finfo(torch.float32).tiny, scale, 1.0)
    return (torch.clamp(torch.round(x / scale) + zero, 0, levels) - zero) * scale


def _input_rows(x: Tensor, stored: Stored) -> Tensor:
    """The same with a range, and a zero point, for each row."""
    levels = 2**stored.act_bits - 1
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = (high - low) / levels
    scale = torch.where(scale > 0, scale, 1.0)
    zero = torch.clamp(torch.round(-low / scale), 0, levels)
    return (torch.clamp(torch.round(x / scale + zero), 0, levels) - zero) * scale


def _is_traced() -> bool:
    """Whether a graph is recorded. Tensors without values ask the table, too, where they only want the shape of a result."""
    from torch.fx.experimental.proxy_tensor import get_proxy_mode

    return get_proxy_mode() is not None


def _conv2d(x: Tensor, *arguments: Any) -> Tensor:
    if not _is_traced():
        return conv2d_shape(x, *arguments)
    stored, geometry = Stored(*arguments[:STORED]), Geometry(*arguments[STORED:])
    codes = _input(x.to(torch.float32), stored)
    top, left, bottom, right = geometry.padding
    padding: Any = (top, left)
    if geometry.padding_mode != "zeros" or (top, left) != (bottom, right):
        padding, codes = 0, functional.pad(codes, (left, right, top, bottom), _MODES[geometry.padding_mode])
    y = functional.conv2d(codes, _weight(stored), stored.bias, geometry.stride, padding, geometry.dilation, geometry.groups)
    return y.to(x.dtype)


def _linear(x: Tensor, *arguments: Any) -> Tensor:
    if not _is_traced():
        return linear_shape(x, *arguments)
    stored = Stored(*arguments[:STORED])
    grid = _input_rows if arguments[STORED:] and arguments[STORED] else _input
    return functional.linear(grid(x.to(torch.float32), stored), _weight(stored), stored.bias).to(x.dtype)


def register() -> None:
    """Put both into torch's table."""
    from torch._decomp import register_decomposition

    register_decomposition(torch.ops.ulp.conv2d.default)(_conv2d)
    register_decomposition(torch.ops.ulp.linear.default)(_linear)
