"""What a layer's weights multiply: means and second moments over calibration data, in the float network and in the quantized one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp.onnx.limits import Limits
from ulp.onnx.model import Array
from ulp.onnx.operators import OPERATORS
from ulp.onnx.operators.registry import Call
from ulp.onnx.operators.windows import geometry

from .prepare import Layer

Doubles = npt.NDArray[np.float64]

# Rows of inputs that are enough for K weights: this many, and K times the second.
_ROWS, _PER_WEIGHT = 4096, 8
# Of layers in groups, whose every row is one for each group.
_GROUP_ROWS = 1024
_MOST_ROWS = 32768
# Values of one batch's rows, and of a layer's second moments, that may be in memory: 512 MiB and 1 GiB.
_MOST_VALUES, _MOST_MOMENTS = 2**27, 2**27
# Columns whose second moments are taken together: their inverse takes operations by the third power, about a second.
_COLUMNS = 1152


@dataclass
class Moments:
    """Of a layer of g groups with K weights per output, by `Moments.of`.

    mean, mean_quantized: (g, K), of what the weights multiply in the float network (x) and in the quantized one (q).
    second: (g B, k, k), the covariance of q, block by block of the K columns: one block up to 1152 columns, else B of k, of which the last
    is filled up with zeros; what columns of different blocks have in common does not count.
    cross: likewise, that of x with q: rows x, columns q; the same array as second where x is q.
    """

    mean: Doubles
    mean_quantized: Doubles
    second: Doubles
    cross: Doubles

    @classmethod
    def of(cls, layer: Layer, node: Any, floats: list[Array], codes: list[Array], opset: int, *, second: bool) -> Moments:
        """floats, codes: the layer's input in both networks, batch by batch; the same list: one and the same network.

        second: whether second moments are needed, too.
        """
        same = floats is codes
        rng = np.random.default_rng(0)
        k = int(np.prod(layer.shape)) // layer.shape[layer.axis]
        rows = max(1, _rows(layer) // len(floats))
        shape = (layer.groups, k)
        sums, sums_q = np.zeros(shape), np.zeros(shape)
        blocks, side = blocks_of(k)
        moment = np.zeros((layer.groups * blocks, side, side) if second else (0, 0, 0))
        cross = moment if same else np.zeros_like(moment)
        count = 0
        # Moments are about values near the means: about 0, small variances would be lost in what float32 rounds off.
        about: list[Any] = []
        for x, q in zip(floats, codes, strict=True):
            a, *rest = products(layer, node, (x,) if same else (x, q), opset, rows, rng)
            b = rest[0] if rest else a
            count += a.shape[1]
            sums += a.sum(1, dtype=np.float64)
            sums_q += b.sum(1, dtype=np.float64)
            if second:
                about = about or [x.mean(1, keepdims=True, dtype=np.float64).astype(np.float32) for x in (a, b)]
                b = in_blocks(b - about[1])
                moment += np.swapaxes(b, 1, 2) @ b
                if not same:
                    cross += np.swapaxes(in_blocks(a - about[0]), 1, 2) @ b
        mean, mean_q = sums / count, sums_q / count
        if second:
            off, off_q = (in_blocks(m[:, None] - point) for m, point in zip((mean, mean_q), about, strict=True))
            moment /= count
            moment -= np.swapaxes(off_q, 1, 2) * off_q
            if not same:
                cross /= count
                cross -= np.swapaxes(off, 1, 2) * off_q
        return cls(mean, mean_q, moment, cross)


def blocks_of(k: int) -> tuple[int, int]:
    """How many blocks K columns make, and how many columns each has."""
    blocks = -(-k // _COLUMNS)
    return blocks, -(-k // blocks)


def in_blocks(x: Any) -> Any:
    """(g, R, K) as (g B, R, k)."""
    groups, rows, k = x.shape
    blocks, side = blocks_of(k)
    if blocks == 1:
        return x
    filled = np.pad(x, ((0, 0), (0, 0), (0, blocks * side - k)))
    return np.swapaxes(filled.reshape(groups, rows, blocks, side), 1, 2).reshape(groups * blocks, rows, side)


def out_of_blocks(x: Any, groups: int, k: int) -> Any:
    """(g B, R, k) as (g, R, K)."""
    (_, rows, side), blocks = x.shape, len(x) // groups
    return np.swapaxes(x.reshape(groups, blocks, rows, side), 1, 2).reshape(groups, rows, -1)[:, :, :k]


def moments_fit(layer: Layer) -> bool:
    """Whether a layer's second moments may be in memory."""
    blocks, side = blocks_of(int(np.prod(layer.shape)) // layer.shape[layer.axis])
    return layer.groups * blocks * side**2 <= _MOST_MOMENTS


def _rows(layer: Layer) -> int:
    k = int(np.prod(layer.shape)) // layer.shape[layer.axis]
    rows = min(max(_ROWS if layer.groups == 1 else _GROUP_ROWS, _PER_WEIGHT * blocks_of(k)[1]), _MOST_ROWS)
    return max(1, min(rows, _MOST_VALUES // (layer.groups * k)))


def layer_work(layer: Layer) -> float:
    """About how many multiplications the moments take, and rounding by them: sums over rows, inverses, columns."""
    outputs = layer.shape[layer.axis]
    blocks, k = blocks_of(int(np.prod(layer.shape)) // outputs)
    return blocks * (2.0 * _rows(layer) * layer.groups * k**2 + 3.0 * layer.groups * k**3 + 8.0 * outputs * k**2)


def products(layer: Layer, node: Any, inputs: tuple[Array, ...], opset: int, rows: int, rng: np.random.Generator) -> list[Array]:
    """Of each input, float32 (g, rows, K): what the weights of some results, chosen by chance, multiply; the same results of each."""
    if layer.op_type != "Conv":
        flat = [x.reshape(-1, x.shape[-1]) for x in inputs]
        chosen = _chosen(len(flat[0]), rows, rng)
        return [x[None, chosen] for x in flat]
    from onnx import helper

    given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    given = {name: value.decode() if isinstance(value, bytes) else value for name, value in given.items()}
    call = Call(OPERATORS["Conv"].row(opset).check_attributes(given), opset, 1, Limits())
    kernel = layer.shape[2:]
    g = geometry(call, inputs[0].shape[2:], kernel)
    sides = (len(inputs[0]), *g.out)
    batch, *corner = np.unravel_index(_chosen(int(np.prod(sides)), rows, rng), sides)
    starts = [at * stride for at, stride in zip(corner, g.stride, strict=True)]
    found = []
    for x in inputs:
        padded = g.pad(call, x, 0)
        made = np.empty((len(batch), x.shape[1], *kernel), np.float32)
        for tap in np.ndindex(*kernel):
            corners = (start + step * d for start, step, d in zip(starts, tap, g.dilation, strict=True))
            source, target = (batch, slice(None), *corners), (slice(None), slice(None), *tap)
            made[target] = padded[source]
        found.append(np.ascontiguousarray(np.swapaxes(made.reshape(len(batch), layer.groups, -1), 0, 1)))
    return found


def _chosen(total: int, rows: int, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    return np.arange(total) if total <= rows else np.sort(rng.choice(total, rows, replace=False))
