"""What lies between the products of transformers: `LayerNorm`, `RMSNorm`, `Softmax` and `MultiheadAttention`, on rows (N, T, C).

They compute in float32, by the steps that `ulp.load` and `ulp.compile` use for such nodes; linear layers have low-bit weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp._options import check_options
from ulp._validate import integer

from .graph import Product, Rows, Shape
from .layer import Layer, as_input, plan_of
from .linear import Dynamic, Linear
from .lower import lower
from .module import Module
from .quantizer import FloatArray, as_float32
from .shapes import LayerError, shape_text
from .trace import Symbol, Trace, record


class RowLayer(Layer):
    """A function of the last side of float32 (..., C), a step of its own in a plan."""

    def _function(self, channels: int) -> Rows:
        """The step. LayerError where the layer does not take so many channels."""
        raise NotImplementedError

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        x = inputs[0]
        if x.ndim == 0:
            raise LayerError(f"input has shape {shape_text(x.shape)}: {type(self).__name__} takes (..., C)")
        op = self._function(x.shape[-1])
        if x.size == 0:
            return x
        # Rows of one image share the call; each count has its plan.
        rows = x.reshape(-1, *x.shape[-2:]) if x.ndim > 1 else x[None]
        shape = rows.shape[1:]
        run = self._planned(shape, lambda: plan_of(shape, self, lambda s: self._node(s, op)))
        result: FloatArray = run(np.ascontiguousarray(rows))[0]
        return result.reshape(x.shape)

    def _record(self, *inputs: Symbol) -> Symbol:
        x = inputs[0]
        return self._node(x, self._function(x.shape[-1]))

    def _node(self, x: Symbol, op: Rows) -> Symbol:
        if x.rows is None and len(x.node.shape) != 1:
            raise LayerError(f"input has shape {shape_text(x.shape)}: a compiled {type(self).__name__} takes (N, T, C) and (N, C)")
        x = x if x.rows is None else x.as_rows(True)  # a pixel per row
        return record(op, x.node.shape, self, x)


class _Norm(RowLayer):
    """A normalization of the last side."""

    _step = ""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float, affine: bool, bias: bool) -> None:
        super().__init__()
        sides = tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else (normalized_shape,)
        if len(sides) != 1:
            raise ValueError(f"normalized_shape={normalized_shape!r}: only the last side is normalized, expected one number")
        self.normalized_shape = (integer(sides[0], "normalized_shape", 1, 2**24),)
        if isinstance(eps, bool) or not isinstance(eps, (int, float, np.number)):
            raise TypeError(f"eps={eps!r}: expected a number, not {type(eps).__name__}")
        self.eps = float(eps)
        if not (math.isfinite(self.eps) and self.eps >= 0):
            raise ValueError(f"eps={eps!r}: expected a finite number of at least 0")
        self.weight: FloatArray | None = np.ones(self.normalized_shape, np.float32) if affine else None
        self.bias: FloatArray | None = np.zeros(self.normalized_shape, np.float32) if affine and bias else None

    @classmethod
    def from_float(cls, layer: Any) -> Any:
        """A layer like torch's of the same name, or what has its attributes."""
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        make: Any = cls
        eps = np.finfo(np.float32).eps if layer.eps is None else layer.eps
        made = make(layer.normalized_shape, eps, weight is not None, **({"bias": bias is not None} if cls is LayerNorm else {}))
        given = {"weight": weight, "bias": bias}
        made.load_state_dict({name: value for name, value in given.items() if value is not None})
        return made

    def _function(self, channels: int) -> Rows:
        if channels != self.normalized_shape[0]:
            raise LayerError(
                f"Given normalized_shape={list(self.normalized_shape)}, expected input of shape (..., {self.normalized_shape[0]})"
            )
        return Rows(self._step, (None,), 1, self.weight, self.bias, self.eps)

    def _parameters(self) -> dict[str, FloatArray]:
        found = {"weight": self.weight, "bias": self.bias}
        return {name: value.copy() for name, value in found.items() if value is not None}

    def _state(self) -> dict[str, npt.NDArray[Any]]:
        return dict(self._parameters())

    def _expected(self) -> dict[str, tuple[Shape, bool]]:
        return dict.fromkeys(self._parameters(), (self.normalized_shape, True))

    def _assign(self, values: dict[str, FloatArray]) -> None:
        for name, value in values.items():
            setattr(self, name, np.array(value))

    def extra_repr(self) -> str:
        """As torch's."""
        return f"{self.normalized_shape}, eps={self.eps:g}, elementwise_affine={self.weight is not None}"


class LayerNorm(_Norm):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last side of float32 (..., C); arguments as for torch.nn.LayerNorm.

    Compiled, a sum of floats in front of it (`Add(None)`) is part of its step.
    """

    _step = "layer_norm"

    def __init__(
        self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True, bias: bool = True
    ) -> None:
        check_options({}, elementwise_affine=elementwise_affine, bias=bias)
        super().__init__(normalized_shape, eps, bool(elementwise_affine), bool(bias))


class RMSNorm(_Norm):
    """x / sqrt(mean of squares + eps) * weight over the last side of float32 (..., C); arguments as for torch.nn.RMSNorm.

    eps: None is the distance from 1 to the next float32, as in torch.
    """

    _step = "rms_norm"

    def __init__(self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True) -> None:
        check_options({}, elementwise_affine=elementwise_affine)
        super().__init__(normalized_shape, float(np.finfo(np.float32).eps) if eps is None else eps, bool(elementwise_affine), False)


class Softmax(RowLayer):
    """exp(x) / sum of exp(x) over the last side of float32 (..., C). dim: as in torch; only the last side."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = integer(dim, "dim", -64, 63)

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        self._check(inputs[0].ndim)
        return super()._compute(*inputs)

    def _record(self, *inputs: Symbol) -> Symbol:
        self._check(inputs[0].ndim)
        return super()._record(*inputs)

    def _check(self, sides: int) -> None:
        if self.dim not in (-1, sides - 1):
            raise LayerError(f"Softmax(dim={self.dim}) of {sides} sides: only the last side is supported, dim=-1")

    def _function(self, channels: int) -> Rows:  # noqa: ARG002  # takes any
        return Rows("softmax", (None,))

    def extra_repr(self) -> str:
        """As torch's."""
        return f"dim={self.dim}"


class MultiheadAttention(Module):
    """torch.nn.MultiheadAttention with low-bit projections; between them softmax and both products are one step in float32.

    embed_dim, num_heads, bias, kdim, vdim: as in torch. dropout is accepted and ignored. Sequences are (N, T, C): batch_first must be True.
    bits, act_bits, dynamic: of the four projections, `q_proj`, `k_proj`, `v_proj` and `out_proj`, as for `Linear`; by default each row's
    range is found in the call, and nothing has to be calibrated.

    `load_state_dict` takes torch's names (in_proj_weight, or q_proj_weight, k_proj_weight and v_proj_weight; in_proj_bias) and its own,
    those of the projections. The projections may be replaced, by a `GroupedLinear` for example.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = True,
        *,
        bits: int | str,
        act_bits: int | None = None,
        dynamic: Dynamic = "row",
    ) -> None:
        super().__init__()
        check_options({}, bias=bias, batch_first=batch_first)
        self.embed_dim = integer(embed_dim, "embed_dim", 1, 2**24)
        self.num_heads = integer(num_heads, "num_heads", 1, 2**16)
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim={embed_dim} is not divisible by num_heads={num_heads}")
        if not batch_first:
            raise ValueError("batch_first=False: sequences are (N, T, C); transpose those of a torch module of batch_first=False")
        self.dropout, self.batch_first = dropout, True
        self.kdim = self.embed_dim if kdim is None else integer(kdim, "kdim", 1, 2**24)
        self.vdim = self.embed_dim if vdim is None else integer(vdim, "vdim", 1, 2**24)
        options: dict[str, Any] = {"bits": bits, "act_bits": act_bits, "dynamic": dynamic}
        self.q_proj = Linear(self.embed_dim, self.embed_dim, bias, **options)
        self.k_proj = Linear(self.kdim, self.embed_dim, bias, **options)
        self.v_proj = Linear(self.vdim, self.embed_dim, bias, **options)
        self.out_proj = Linear(self.embed_dim, self.embed_dim, bias, **options)
        self.product = _Heads(self.num_heads)

    @classmethod
    def from_float(cls, layer: Any, *, bits: int | str, **options: Any) -> MultiheadAttention:
        """A layer like a torch.nn.MultiheadAttention, of either batch_first, with its weights quantized; options as for the class."""
        for name in ("bias_k", "bias_v"):
            if getattr(layer, name, None) is not None:
                raise ValueError(f"a MultiheadAttention with {name} (add_bias_kv=True) is not supported")
        if getattr(layer, "add_zero_attn", False):
            raise ValueError("a MultiheadAttention with add_zero_attn=True is not supported")
        bias = layer.in_proj_bias is not None
        made = cls(layer.embed_dim, layer.num_heads, 0.0, bias, layer.kdim, layer.vdim, bits=bits, **options)
        made.load_state_dict(layer.state_dict())
        return made

    def forward(self, query: Any, key: Any = None, value: Any = None, mask: Any = None) -> Any:
        """Attention of query (N, T, embed_dim) over key (N, S, kdim) and value (N, S, vdim): float32 (N, T, embed_dim).

        key, value: by default the query. Without a batch all have one side less.
        mask: what is added to the scores, floats: (N, S) for all rows, or (N, T, S); of arrays also bools, True where nothing is looked
            at, as in torch. In a compiled network it is an input of the network. A row of which nothing may be looked at has no softmax:
            the NaN that torch gives is an error here.
        """
        key = query if key is None else key
        value = key if value is None else value
        return self.out_proj(self.product(self.q_proj(query), self.k_proj(key), self.v_proj(value), *(() if mask is None else (mask,))))

    def _translated(self, state_dict: Mapping[str, Any], prefix: str) -> Mapping[str, Any]:
        found = dict(state_dict)
        names = ("q_proj", "k_proj", "v_proj")
        for name in names:
            if f"{prefix}{name}_weight" in found:
                found[f"{prefix}{name}.weight"] = found.pop(f"{prefix}{name}_weight")
        for kind in ("weight", "bias"):
            joined = found.pop(f"{prefix}in_proj_{kind}", None)
            if joined is None:
                continue
            array = as_float32(joined, f"{prefix}in_proj_{kind}")
            if len(array) != 3 * self.embed_dim:
                raise LayerError(f"{prefix}in_proj_{kind} has shape {shape_text(array.shape)}, expected [{3 * self.embed_dim}, ...]")
            found |= {f"{prefix}{name}.{kind}": part for name, part in zip(names, np.split(array, 3), strict=True)}
        return found

    def extra_repr(self) -> str:
        """Sizes."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}"


class _Heads(Layer):
    """Softmax(q k^T / sqrt(d) + mask) v of each head, q (N, T, heads * d), k (N, S, heads * d) and v (N, S, heads * d)."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads = heads

    def forward(self, *inputs: Any) -> Any:
        """The rows of all heads side by side, (N, T, heads * d)."""
        try:
            if any(isinstance(x, Symbol) for x in inputs):
                if not all(isinstance(x, Symbol) for x in inputs):
                    raise LayerError("a mask that is an array cannot be compiled: make it an input of the network")
                return self._record(*inputs)
            first, back = as_input(inputs[0])
            return back(self._compute(first, *(as_input(x, "input")[0] for x in inputs[1:3]), *(_added(x) for x in inputs[3:])))
        except LayerError as error:
            error.layer = error.layer or self
            raise

    def _compute(self, *inputs: FloatArray) -> FloatArray:
        single = inputs[0].ndim == 2
        given = [np.ascontiguousarray(x[None] if single else x) for x in inputs]
        if any(x.ndim != 3 for x in given[:3]) or any(len(x) != len(given[0]) for x in given):
            raise LayerError(f"attention of {', '.join(shape_text(x.shape) for x in inputs)}: expected (N, T, C), one N")
        self._check([x.shape for x in given])
        if 0 in given[0].shape[:2]:
            return np.zeros((*inputs[0].shape[:-1], inputs[2].shape[-1]), np.float32)
        shapes = tuple(x.shape[1:] for x in given)

        def made() -> Any:
            trace = Trace(self, *shapes)
            trace.graph.outputs = [self._record(*(Symbol.start(trace, 1, i) for i in range(len(shapes)))).result]
            return lower(trace.graph).runner()

        result: FloatArray = self._planned(tuple(side for shape in shapes for side in (-1, *shape)), made)(*given)[0]
        return np.asarray(result[0]) if single else result

    def _check(self, shapes: list[Shape]) -> None:
        (_, rows, width), key, value, *masks = shapes
        if key[-1] != width or value[-2] != key[-2] or width % self.heads or value[-1] % self.heads or (key[-2] == 0 and rows):
            raise LayerError(f"attention of {', '.join(map(shape_text, shapes[:3]))} by {self.heads} heads: lengths or features do not fit")
        for mask in masks:
            if mask[1:] not in ((key[-2],), (rows, key[-2])):
                raise LayerError(f"mask has shape {shape_text(mask)}: expected [N, {key[-2]}] or [N, {rows}, {key[-2]}]")

    def _record(self, *inputs: Symbol) -> Symbol:
        if any(x.rows is None for x in inputs[:3]):
            raise LayerError(f"attention of {', '.join(shape_text(x.shape) for x in inputs[:3])}: expected (N, T, C)")
        self._check([x.shape for x in inputs])
        q, k, v, *masks = (x if x.rows is None else x.as_rows(True) for x in inputs)
        (width, _, rows), (_, _, columns), (values, _, _) = q.node.shape, k.node.shape, v.node.shape
        heads, depth, each = self.heads, width // self.heads, values // self.heads
        # How far an index moves (y, x, c): heads lie side by side in the channels, rows are pixels.
        of_q, of_k = [[0, 0, depth], [0, 1, 0], [0, 0, 1]], [[0, 0, depth], [0, 0, 1], [0, 1, 0]]
        of_scores, of_v = [[0, 0, columns], [0, 1, 0], [0, 0, 1]], [[0, 0, each], [0, 1, 0], [0, 0, 1]]
        scores = Product((heads, rows, depth, columns), np.array([*of_q, *of_k, *of_scores], np.int32), (0, 0), (None, None), depth**-0.5)
        weights = Rows("softmax", (None,) * (1 + len(masks)), heads)
        mixed = Product((heads, rows, columns, each), np.array([*of_scores, *of_v, *of_v], np.int32), (0, 0), (None, None))
        shape = (heads * columns, 1, rows)
        made = record(weights, shape, self, record(scores, shape, self, q, k, kind="Scores"), *masks, kind="Softmax")
        return record(mixed, (values, 1, rows), self, made, v, kind="Attention")


def _added(mask: Any) -> FloatArray:
    """A mask as what is added: minus infinity where a boolean one is True."""
    array = np.asarray(mask.detach().cpu().numpy() if hasattr(mask, "detach") else mask)
    return np.where(array, np.float32(-np.inf), np.float32(0)) if array.dtype == np.bool_ else as_mask(array)


def as_mask(array: npt.NDArray[Any]) -> FloatArray:
    """Floats that may be minus infinity."""
    if array.dtype.kind != "f":
        raise TypeError(f"mask has dtype {array.dtype}: expected floats, or bools that are True where nothing is looked at")
    with np.errstate(over="ignore"):  # the least float64 is minus infinity, as what stands for it there
        return array.astype(np.float32)
