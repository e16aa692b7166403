"""`GroupedLinear`: a linear layer whose weights have scales for groups of features, or a codebook."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ulp._codebook import entries_of
from ulp._validate import bit_width, integer
from ulp.grouped import MAX_GROUP, GroupedMatrix
from ulp.packed import pack

from .graph import GroupedLinear as GroupedOp
from .graph import Rearrange, Shape
from .layer import Layer
from .quantizer import FloatArray, as_float32
from .shapes import LayerError, shape_text
from .trace import Symbol, record

Act = Literal["row", "group"]


class GroupedLinear(Layer):
    """x @ weight.T + bias with the weights of a `ulp.GroupedMatrix` (in_features, out_features); the other arguments as in torch.nn.Linear.

    Takes float32 (..., in_features), gives (..., out_features); compiled, (N, in_features) and (N, T, in_features). Activations are
    quantized in the call to signed 8 bits, each row, or with act="group" each group of a row, by its largest magnitude
    (`GroupedMatrix.linear`). Made from floats by `from_float` or by assigning `weight`; from given codes with `matrix=`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        bits: int,
        group_size: int = 128,
        codebook: npt.ArrayLike | str | None = None,
        act: Act = "row",
        matrix: GroupedMatrix | None = None,
    ) -> None:
        super().__init__()
        if act not in ("row", "group"):
            raise ValueError(f"act={act!r}: expected 'row' or 'group'")
        self.in_features = integer(in_features, "in_features", 1, 2**24)
        self.out_features = integer(out_features, "out_features", 1, 2**24)
        self.bits = bit_width(bits, "bits")
        self.group_size = integer(group_size, "group_size", 1, 2**24)
        self.codebook = None if codebook is None else entries_of(codebook, self.bits)
        if self.codebook is None and self.bits == 1:
            raise ValueError("bits=1: weights of one bit have no symmetric codes; use 2 bits or more, or matrix= with zero points")
        if act == "group" and self.group_size > MAX_GROUP:
            raise ValueError(f"act='group' with group_size={group_size}: expected at most {MAX_GROUP}")
        self.act = act
        self.bias: FloatArray | None = np.zeros(self.out_features, np.float32) if bias else None
        self.order: npt.NDArray[np.int64] | None = None
        self.matrix: GroupedMatrix | None = None
        if matrix is not None:
            self.matrix = self._fitting(matrix)

    def _fitting(self, matrix: GroupedMatrix) -> GroupedMatrix:
        expected = (self.in_features, self.out_features)
        if matrix.shape != expected or matrix.bits != self.bits:
            raise LayerError(f"matrix is {matrix.bits} bits of {shape_text(matrix.shape)}, expected {self.bits} of {shape_text(expected)}")
        return matrix

    @classmethod
    def from_float(cls, layer: Any, *, bits: int, **options: Any) -> GroupedLinear:
        """A layer like `layer` (a torch.nn.Linear, or what has its attributes) with its weights quantized; options as for the class."""
        made = cls(layer.in_features, layer.out_features, layer.bias is not None, bits=bits, **options)
        made.weight = layer.weight
        if layer.bias is not None:
            made.bias = as_float32(layer.bias, "bias")
        return made

    @classmethod
    def from_matrix(
        cls, matrix: GroupedMatrix, bias: npt.ArrayLike | None = None, *, act: Act = "row", order: npt.ArrayLike | None = None
    ) -> GroupedLinear:
        """A layer of given weights. order: the input feature that each row of the matrix multiplies (`GroupedLayer.order`)."""
        if not isinstance(matrix, GroupedMatrix):
            raise TypeError(
                f"matrix is a {type(matrix).__name__}: expected a ulp.GroupedMatrix, as ulp.pack(codes, bits, scales=) gives it"
            )
        k, n = matrix.shape
        made = cls(k, n, bias is not None, bits=matrix.bits, group_size=matrix.group_size, act=act, codebook=matrix.codebook, matrix=matrix)
        if order is not None:
            made.order = _permutation(order, k)
        if bias is not None:
            given = as_float32(bias, "bias")
            if given.shape != (n,):
                raise LayerError(f"bias has shape {shape_text(given.shape)}, expected [{n}]")
            made.bias = given
        return made

    @property
    def weight(self) -> FloatArray:
        """The weights' values, a float32 copy (out_features, in_features). Assigning floats quantizes them.

        Each group gets the scale of its largest magnitude: integers of -2^(bits-1) .. 2^(bits-1) - 1 by the signed maximum, as
        onnxruntime and llama.cpp have it, or the nearest entries of the codebook.
        """
        values = self._made().dequantize().T
        return np.ascontiguousarray(values if self.order is None else values[:, np.argsort(self.order)])

    @weight.setter
    def weight(self, value: Any) -> None:
        array = as_float32(value, "weight")
        if array.shape != (self.out_features, self.in_features):
            expected = shape_text((self.out_features, self.in_features))
            raise LayerError(f"weight has shape {shape_text(array.shape)}, expected {expected}")
        array = array if self.order is None else array[:, self.order]
        self.matrix = quantize_groups(array, self.bits, min(self.group_size, self.in_features), self.codebook)

    def _made(self) -> GroupedMatrix:
        if self.matrix is None:
            raise LayerError("GroupedLinear has no weights yet: assign `weight`, or make it by from_float or from_matrix")
        return self.matrix

    def _check(self, shape: Shape) -> None:
        if not shape or shape[-1] != self.in_features:
            raise LayerError(f"input has shape {shape_text(shape)}, expected (..., {self.in_features})")

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        self._check(inputs[0].shape)
        x = inputs[0] if self.order is None else inputs[0][..., self.order]
        result: FloatArray = self._made().linear(x, self.bias, act=self.act)
        return result

    def _record(self, *inputs: Symbol) -> Symbol:
        x = inputs[0]
        self._check(x.shape)
        op = GroupedOp(self._made(), self.bias, self.act == "group")
        x = x if x.rows is None else x.as_rows(True)  # a pixel per row
        if self.order is not None:
            x = record(_reordered(self.order, x.node.shape), x.node.shape, self, x, kind="Order")
        if x.rows is None:
            return record(op, (self.out_features,), self, x)
        return record(op, (self.out_features, *x.node.shape[1:]), self, x)

    def _parameters(self) -> dict[str, FloatArray]:
        return {"weight": self.weight} if self.bias is None else {"weight": self.weight, "bias": self.bias.copy()}

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        matrix = self._made()
        zeros = np.broadcast_to(np.asarray(matrix.zero_points, np.float32), matrix.scales.shape)
        own = {"weight_codes": matrix.codes(), "weight_scales": matrix.scales.copy(), "weight_zeros": np.array(zeros)}
        if self.order is not None:
            own["order"] = self.order.copy()
        return own if self.bias is None else {**own, "bias": self.bias.copy()}

    def _expected(self) -> dict[str, tuple[Shape, bool]]:
        size = min(self.group_size, self.in_features)
        groups = (-(-self.in_features // size), self.out_features)
        own: dict[str, tuple[Shape, bool]] = {
            "weight": ((self.out_features, self.in_features), False),
            "weight_codes": ((self.in_features, self.out_features), False),
            "weight_scales": (groups, False),
            "weight_zeros": (groups, False),
            "order": ((self.in_features,), False),
        }
        return own if self.bias is None else {**own, "bias": ((self.out_features,), True)}

    def _assign(self, values: dict[str, FloatArray]) -> None:
        if "weight" in values or "weight_codes" in values:
            self.order = _permutation(values["order"], self.in_features) if "order" in values else None
        elif "order" in values:
            raise LayerError("order without weights")
        if "weight_codes" in values:
            if "weight_scales" not in values:
                raise LayerError("weight_codes without weight_scales")
            codes = values["weight_codes"]
            if (codes != np.rint(codes)).any() or codes.min() < 0 or codes.max() >= 2**self.bits:
                raise LayerError(f"weight_codes are no integers of 0..{2**self.bits - 1}")
            zeros = None if self.codebook is not None else values.get("weight_zeros")
            if zeros is not None and (zeros == zeros.flat[0]).all():
                zeros = zeros.reshape(-1)[0]
            self.matrix = pack(
                codes.astype(np.uint8),
                self.bits,
                scales=values["weight_scales"],
                zero_points=zeros,
                group_size=min(self.group_size, self.in_features),
                codebook=self.codebook,
            )
        elif "weight" in values:
            self.weight = values["weight"]
        if "bias" in values:
            self.bias = values["bias"]

    def extra_repr(self) -> str:
        """As torch's, and the groups."""
        codebook = "" if self.codebook is None else ", codebook"
        bias = "" if self.bias is not None else ", bias=False"
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}{bias}, bits={self.bits}, group_size={self.group_size}{codebook}, act={self.act!r}"


def _permutation(order: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    """The order of input features. LayerError for what is none."""
    given = np.asarray(order)
    if given.shape != (count,) or not np.array_equal(np.sort(given), np.arange(count)):
        raise LayerError(f"order has shape {shape_text(given.shape)}: expected each of 0..{count - 1} once")
    return given.astype(np.int64)


def _reordered(order: npt.NDArray[np.int64], shape: Shape) -> Rearrange:
    """The channels of each pixel in this order."""
    width = shape[2] if len(shape) == 3 else 1
    rows, columns, channels = (np.zeros((n, 3), np.int32) for n in (1, width, len(order)))
    columns[:, 1] = np.arange(width)
    channels[:, 2] = order
    return Rearrange(rows, columns, channels)


def quantize_groups(weight: FloatArray, bits: int, group: int, codebook: FloatArray | None) -> GroupedMatrix:
    """(O, I) floats as codes with a scale for each group of inputs."""
    outputs, inputs = weight.shape
    groups = -(-inputs // group)
    padded = np.zeros((outputs, groups * group), np.float32)
    padded[:, :inputs] = weight
    parts = padded.reshape(outputs, groups, group)
    if codebook is None:
        # The value of the largest magnitude becomes -2^(bits-1), the integer of the largest.
        at = np.abs(parts).argmax(axis=2)
        top = np.take_along_axis(parts, at[..., None], axis=2)[..., 0]
        scale = (top / np.float32(-(2 ** (bits - 1)))).astype(np.float32)
        safe = np.where(scale == 0, np.float32(1), scale)
        codes = np.clip(np.rint(parts / safe[..., None]) + 2 ** (bits - 1), 0, 2**bits - 1)
        zero: int | None = 2 ** (bits - 1)
    else:
        scale = (np.abs(parts).max(axis=2) / np.abs(codebook).max()).astype(np.float32)
        safe = np.where(scale == 0, np.float32(1), scale)
        order = np.argsort(codebook, kind="stable")
        middles = (codebook[order][1:] + codebook[order][:-1]) / 2
        codes = order[np.searchsorted(middles, parts / safe[..., None])]
        zero = None
    flat = np.ascontiguousarray(codes.reshape(outputs, -1)[:, :inputs].T.astype(np.uint8))
    return pack(flat, bits, scales=np.ascontiguousarray(scale.T), zero_points=zero, group_size=group, codebook=codebook)
