"""x @ W.T + bias for weights of integers, where the codes of x are known only when it comes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ulp import _bitstream
from ulp._gemm import gemm
from ulp.grouped import GroupedMatrix
from ulp.packed import PackedMatrix, pack
from ulp.torch.layers import FixedTypes

# Of a float's fixed-point form: three digits to base 256, the first within int8 with the carry of the others.
_DIGIT_BITS = 22


class _Group(NamedTuple):
    """Weights (group, out), their zero points int32 (out,), and int64 (out,) the sums of weights less those."""

    matrix: PackedMatrix
    zero: npt.NDArray[np.int32]
    sums: npt.NDArray[np.int64]

    @classmethod
    def of(cls, integers: npt.NDArray[np.int8], zero: npt.NDArray[np.int32], bits: int) -> _Group:
        """From integers (out, group)."""
        sums = integers.sum(axis=1, dtype=np.int64) - integers.shape[1] * zero.astype(np.int64)
        return cls(pack(np.ascontiguousarray(integers.T), bits=bits), np.ascontiguousarray(zero), sums)


class IntegerLinear(FixedTypes):
    """The base of such layers: weights in plain buffers, and exact sums.

    packed_weight: uint8, the integers (out_features, in_features) of `bits` bits, without gaps. weight_scale, weight_zero:
    (out_features, groups), for `group` features each. bias: (out_features,) or None.
    """

    kind = "Linear"

    def __init__(self, integers: Tensor, bits: int, scale: Tensor, zero: Tensor, bias: Tensor | None, act_bits: int) -> None:
        super().__init__()
        self.out_features, self.in_features = integers.shape
        self.bits, self.act_bits = bits, act_bits
        self.group = self.in_features // scale.shape[1]
        stored = _bitstream.write(integers.detach().cpu().numpy().astype(np.int8), bits)
        self.register_buffer("packed_weight", torch.from_numpy(stored))
        self.register_buffer("weight_scale", scale.detach().clone())
        self.register_buffer("weight_zero", zero.detach().to(torch.int32))
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self._packed: tuple[tuple[int, int], list[_Group]] | None = None
        self._grouped: tuple[tuple[int, int], GroupedMatrix, npt.NDArray[np.float64]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_packed": None, "_grouped": None}

    def groups(self) -> list[_Group]:
        """The weights of each group, packed for the kernels on first use and whenever the buffer is another."""
        stored = self.packed_weight
        version = stored.data_ptr(), 0 if stored.is_inference() else stored._version
        if self._packed is None or self._packed[0] != version:
            integers = _bitstream.read(stored.numpy(), self.bits, (self.out_features, self.in_features))
            parts = np.split(integers, self.in_features // self.group, axis=1)
            zeros = self.weight_zero.numpy().T
            self._packed = version, [_Group.of(part, zero, self.bits) for part, zero in zip(parts, zeros, strict=True)]
        return self._packed[1]

    def sums(self, codes: npt.NDArray[Any], a_zero: int = 0) -> list[npt.NDArray[np.int32]]:
        """Exact sums of (codes - a_zero) * (weights - their zeros) for each group: 8-bit codes (M, in) -> int32 (M, out)."""
        parts = np.split(codes, self.in_features // self.group, axis=1)
        return [
            gemm(part, group.matrix, bits=(8, self.bits), a_zero=a_zero, b_zero=group.zero)
            for part, group in zip(parts, self.groups(), strict=True)
        ]

    def in_groups(self) -> tuple[GroupedMatrix, npt.NDArray[np.float64]]:
        """The weights as a matrix in groups, packed as those of `groups`; and the sum of each column's values."""
        stored = self.packed_weight
        version = stored.data_ptr(), 0 if stored.is_inference() else stored._version
        if self._grouped is None or self._grouped[0] != version:
            integers = _bitstream.read(stored.numpy(), self.bits, (self.out_features, self.in_features))
            scales, zeros = (t.numpy().T for t in (self.weight_scale.float(), self.weight_zero))
            matrix = pack(np.ascontiguousarray(integers.T), self.bits, scales=np.ascontiguousarray(scales), zero_points=_same(zeros))
            parts = integers.reshape(self.out_features, -1, self.group).sum(axis=2, dtype=np.int64).T
            sums = ((parts - self.group * zeros.astype(np.int64)) * scales.astype(np.float64)).sum(axis=0)
            self._grouped = version, matrix, sums
        return self._grouped[1:]

    def check(self, x: Tensor) -> None:
        """RuntimeError and ValueError for what the layer does not take."""
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "this layer is for inference only, and its input requires gradients: call the model under torch.no_grad() or "
                "torch.inference_mode(), or pass x.detach()"
            )
        if x.device.type != "cpu":
            raise RuntimeError(f"this layer computes on the CPU, and its input is on {x.device}: pass x.cpu()")
        if x.dim() == 0 or x.shape[-1] != self.in_features:
            raise RuntimeError(f"the last dimension of the input must be in_features={self.in_features}, but its shape is {tuple(x.shape)}")
        if not torch.isfinite(x).all():
            raise ValueError("the input holds a NaN or an infinity")

    def extra_repr(self) -> str:
        """Sizes and bits."""
        groups = "" if self.group == self.in_features else f", group={self.group}"
        return f"in_features={self.in_features}, out_features={self.out_features}, bits={self.bits}, act_bits={self.act_bits}{groups}"


def _same(zeros: npt.NDArray[np.int32]) -> npt.NDArray[np.int32] | int:
    """One zero point where all are the same."""
    first = int(zeros.flat[0])
    return first if (zeros == first).all() else np.ascontiguousarray(zeros)


def digits(x: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float64]]:
    """(codes int8 (3 M, K), step float64 (M, 1)): x (M, K) in fixed point, row by row.

    x = (65536 * codes[:M] + 256 * codes[M:2M] + codes[2M:]) * step, rounded to a step of 2^-22 of the power of two above the row's largest.
    """
    largest = np.abs(x).max(axis=1, initial=0.0, keepdims=True).astype(np.float64)
    _, exponent = np.frexp(largest)
    step = np.ldexp(1.0, exponent - _DIGIT_BITS)
    whole = np.rint(x / step).astype(np.int32)
    low = (whole + 128 & 255) - 128
    whole = (whole - low) >> 8
    middle = (whole + 128 & 255) - 128
    high = (whole - middle) >> 8
    return np.concatenate([high, middle, low]).astype(np.int8), step


class FloatInput(IntegerLinear):
    """Weights of integers only: activations stay floats, in fixed point of three 8-bit digits, whose sums are exact."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """(..., in_features) of any float dtype -> (..., out_features) of that."""
        x = input
        self.check(x)
        rows = x.detach().reshape(-1, self.in_features).float().numpy()
        codes, step = digits(rows)
        scale = self.weight_scale.double().numpy()
        total = np.zeros((len(rows), self.out_features))
        for g, sums in enumerate(self.sums(codes)):
            high, middle, low = sums.reshape(3, len(rows), -1).astype(np.float64)
            total += (65536 * high + 256 * middle + low) * scale[:, g]
        result = torch.from_numpy((total * step).astype(np.float32)).reshape(*x.shape[:-1], self.out_features)
        if self.bias is not None:
            result += self.bias
        return result.to(x.dtype)
