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


@dataclass
class Moments:
    """Of a layer of g groups with K weights per output, by `Moments.of`.

    mean, mean_quantized: (g, K), of what the weights multiply in the float network (x) and in the quantized one (q). second: (g, K, K), the
    covariance of q. cross: (g, K, K), that of x with q: rows x, columns q; the same array as second where x is q.
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
        moment = np.zeros((*shape, k))
        cross = moment if same else np.zeros((*shape, k))
        count = 0
        for x, q in zip(floats, codes, strict=True):
            a, *rest = _products(layer, node, (x,) if same else (x, q), opset, rows, rng)
            b = rest[0] if rest else a
            count += a.shape[1]
            sums += a.sum(1, dtype=np.float64)
            sums_q += b.sum(1, dtype=np.float64)
            if second:
                moment += np.swapaxes(b, 1, 2) @ b
                if not same:
                    cross += np.swapaxes(a, 1, 2) @ b
        mean, mean_q = sums / count, sums_q / count
        moment = moment / count - mean_q[:, :, None] * mean_q[:, None, :]
        cross = moment if same else cross / count - mean[:, :, None] * mean_q[:, None, :]
        return cls(mean, mean_q, moment, cross)


def _rows(layer: Layer) -> int:
    k = int(np.prod(layer.shape)) // layer.shape[layer.axis]
    return min(max(_ROWS if layer.groups == 1 else _GROUP_ROWS, _PER_WEIGHT * k), _MOST_ROWS)


def layer_work(layer: Layer) -> float:
    """About how many multiplications the moments take, and rounding by them: sums over rows, inverses, columns."""
    outputs = layer.shape[layer.axis]
    k = int(np.prod(layer.shape)) / outputs
    return 2.0 * _rows(layer) * layer.groups * k**2 + 3.0 * layer.groups * k**3 + 8.0 * outputs * k**2


def _products(layer: Layer, node: Any, inputs: tuple[Array, ...], opset: int, rows: int, rng: np.random.Generator) -> list[Array]:
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
