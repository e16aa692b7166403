"""What a file writes as several operators: activations, found by what they compute, and products with codes of the call."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from .model import Model, Node
from .recurrences import QuantizedLSTM, Surroundings, quantized_lstm

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Chain:
    """Nodes, in their order, that together make one activation of `source`; only the last one's result is used elsewhere."""

    function: str
    source: str
    nodes: tuple[Node, ...]


_SAMPLES: Doubles = np.array([-4.5, -3.0, -1.7, -0.9, -0.3, -0.01, 0.0, 0.02, 0.4, 1.1, 1.9, 3.2, 5.0])


def _erf(x: Doubles) -> Doubles:
    return np.array([math.erf(v) for v in x])


def _sigmoid(x: Doubles) -> Doubles:
    return np.asarray(1 / (1 + np.exp(-x)))


_KNOWN: dict[str, Doubles] = {
    "gelu": _SAMPLES * (1 + _erf(_SAMPLES / math.sqrt(2))) / 2,
    "gelu_tanh": _SAMPLES * (1 + np.tanh(math.sqrt(2 / math.pi) * (_SAMPLES + 0.044715 * _SAMPLES**3))) / 2,
    "silu": _SAMPLES * _sigmoid(_SAMPLES),
}

_OPERATORS: dict[str, Any] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Erf": _erf,
    "Tanh": np.tanh,
    "Sigmoid": _sigmoid,
}
SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Of a row that is quantized in the call: what a row of zeros has."""

_SEEDS = ("Erf", "Tanh", "Sigmoid")
_MAX_NODES = 12


class _Finder:
    def __init__(self, model: Model) -> None:
        self.model = model
        self.makers = {name: node for node in model.nodes for name in node.outputs}
        self.users: dict[str, list[Node]] = {}
        for node in model.nodes:
            for name in dict.fromkeys(node.reads):
                self.users.setdefault(name, []).append(node)
        self.shown = {port.name for port in model.outputs}
        self.order = {id(node): i for i, node in enumerate(model.nodes)}

    def made(self, name: str, op_type: str, inputs: int) -> Node | None:
        """The node that makes a tensor, if it is this operator."""
        node = self.makers.get(name)
        found = node is not None and node.op_type == op_type and len(node.inputs) == inputs and not node.problem
        return node if found else None

    def number(self, name: str) -> float | None:
        """A constant of one element."""
        constant = self.model.constants.get(name)
        return float(constant.reshape(-1)[0]) if constant is not None and constant.size == 1 else None

    def extreme(self, name: str, source: str, which: str) -> bool:
        """Whether a tensor is the least (largest) of each row of another one, or 0 where that is less (more)."""
        bounded = self.made(name, which, 2)
        node = self.makers.get(bounded.inputs[0]) if bounded is not None else None
        if bounded is None or node is None or node.op_type != f"Reduce{which}" or node.problem or self.number(bounded.inputs[1]) != 0:
            return False
        given = self.model.constants.get(node.input(1)) if node.input(1) else node.attributes.get("axes")
        axes = [] if given is None else [int(axis) for axis in given]
        return node.inputs[0] == source and axes == [-1] and bool(node.attributes.get("keepdims", 1))

    def chain(self, seed: Node) -> Chain | None:
        """The activation that the node is part of."""
        for source in self.sources(seed):
            name = seed.outputs[0]
            for _ in range(_MAX_NODES):
                found: dict[str, Node] = {}
                value = self.value(name, source, found)
                if value is None:
                    break
                function = next((key for key, known in _KNOWN.items() if np.allclose(value, known, rtol=1e-5, atol=1e-6)), None)
                if function is not None:
                    return self.closed(function, source, list(found.values()), name)
                behind = [node for node in self.users.get(name, []) if node.op_type in _OPERATORS]
                if len(behind) != 1 or name in self.shown:
                    break
                name = behind[0].outputs[0]
        return None

    def sources(self, seed: Node) -> Iterator[str]:
        """Tensors that the node is computed from, the nearest first."""
        waiting, seen = [seed.inputs[0]], set[str]()
        while waiting and len(seen) < _MAX_NODES:
            name = waiting.pop(0)
            if name in seen or name in self.model.constants:
                continue
            seen.add(name)
            yield name
            maker = self.makers.get(name)
            if maker is not None and maker.op_type in _OPERATORS:
                waiting += maker.inputs

    def value(self, name: str, source: str, found: dict[str, Node]) -> Doubles | None:
        """What a tensor is for samples of the source, and the nodes that make it so; None where other tensors or operators take part."""
        if name == source:
            return _SAMPLES
        constant = self.model.constants.get(name)
        if constant is not None:
            return (
                np.full(_SAMPLES.shape, constant.reshape(-1)[0], np.float64) if constant.size == 1 and constant.dtype.kind in "fi" else None
            )
        node = self.makers.get(name)
        if node is None or node.op_type not in _OPERATORS or node.domain or node.problem or len(found) > _MAX_NODES:
            return None
        arrays = [self.value(read, source, found) for read in node.inputs]
        if any(array is None for array in arrays):
            return None
        found[node.name] = node
        with np.errstate(all="ignore"):
            return np.asarray(_OPERATORS[node.op_type](*arrays), np.float64)

    def closed(self, function: str, source: str, nodes: list[Node], result: str) -> Chain | None:
        """The chain, unless one of its inner results is used elsewhere."""
        inside = {id(node) for node in nodes}
        for node in nodes:
            name = node.outputs[0]
            if name != result and (name in self.shown or any(id(user) not in inside for user in self.users.get(name, []))):
                return None
        return Chain(function, source, tuple(sorted(nodes, key=lambda node: self.order[id(node)])))


@dataclass(frozen=True)
class DynamicProduct:
    """DynamicQuantizeLinear, of which the nodes are not, MatMulInteger, Cast, and the product with both scales. zero: "" where it is 0."""

    source: str
    weights: str
    zero: str
    scale: str
    nodes: tuple[Node, ...]


def _dynamic_product(finder: _Finder, node: Node) -> DynamicProduct | None:
    quantize = finder.makers.get(node.inputs[0])
    if quantize is None or quantize.op_type != "DynamicQuantizeLinear" or len(quantize.outputs) != 3:
        return None
    codes, step, zero = quantize.outputs
    if (node.inputs[0], node.input(2)) != (codes, zero) or node.inputs[1] not in finder.model.constants:
        return None
    cast = _only_user(finder, node)
    last = _only_user(finder, cast) if cast is not None and cast.op_type == "Cast" and int(cast.attributes.get("to", 0)) == 1 else None
    if cast is None or last is None or last.op_type != "Mul":
        return None
    other = last.inputs[1] if last.inputs[0] == cast.outputs[0] else last.inputs[0]
    scale = finder.makers.get(other)
    if scale is None or scale.op_type != "Mul" or step not in scale.inputs or _only_user(finder, scale) is not last:
        return None
    weight_scale = scale.inputs[1] if scale.inputs[0] == step else scale.inputs[0]
    nodes = tuple(sorted((node, cast, scale, last), key=lambda each: finder.order[id(each)]))
    if weight_scale not in finder.model.constants or nodes[-1] is not last or any(each.problem for each in (*nodes, quantize)):
        return None
    return DynamicProduct(quantize.inputs[0], node.inputs[1], node.input(3), weight_scale, nodes)


@dataclass(frozen=True)
class RowProduct:
    """A product of constants with codes that a Quant makes with a scale and a zero point of each row; the Quant is not among the nodes.

    outliers: indices of channels that are 0 for the Quant, and that a product of floats with outlier_weights is added for; "": none.
    """

    source: str
    bits: str
    product: Node
    nodes: tuple[Node, ...]
    outliers: str = ""
    outlier_weights: str = ""


def _row_product(finder: _Finder, node: Node) -> RowProduct | None:
    """The product, where its left side is quantized as `ulp.quantize` writes it:

    low = min(least, 0), scale = max((max(largest, 0) - low) / levels, tiny), zero = round(-low / scale), over the last side.
    """
    codes = finder.made(node.input(0), "Quant", 4)
    if codes is None or codes.attributes.get("signed", 1) or codes.attributes.get("narrow", 0):
        return None
    if codes.attributes.get("rounding_mode", "ROUND") not in ("ROUND", b"ROUND"):
        return None
    source, scale, zero, bits = codes.inputs
    width = finder.number(bits)
    tiny = finder.made(scale, "Max", 2)
    step = finder.made(tiny.inputs[0], "Div", 2) if tiny is not None else None
    span = finder.made(step.inputs[0], "Sub", 2) if step is not None else None
    rounded = finder.made(zero, "Round", 1)
    ratio = finder.made(rounded.inputs[0], "Div", 2) if rounded is not None else None
    turned = finder.made(ratio.inputs[0], "Neg", 1) if ratio is not None else None
    if tiny is None or step is None or span is None or ratio is None or turned is None or width is None or width not in range(1, 9):
        return None
    high, low = span.inputs
    same = turned.inputs[0] == low and ratio.inputs[1] == scale
    numbers = finder.number(tiny.inputs[1]) == SMALLEST_SCALE and finder.number(step.inputs[1]) == 2**width - 1
    if same and numbers and finder.extreme(low, source, "Min") and finder.extreme(high, source, "Max"):
        return _with_outliers(finder, RowProduct(source, bits, node, (node,)))
    return None


def _with_outliers(finder: _Finder, row: RowProduct) -> RowProduct:
    """The product together with that of floats beside it, where its source is x * mask and the file adds x[..., outliers] times weights:

    mask is 0 for the outliers, which ascend, and 1 for the other channels.
    """
    node, constants = row.product, finder.model.constants
    masked = finder.made(row.source, "Mul", 2)
    mask = constants.get(masked.inputs[1]) if masked is not None else None
    total = _only_user(finder, node)
    if masked is None or mask is None or total is None or total.op_type != "Add":
        return row
    beside = finder.made(total.inputs[total.inputs[0] == node.outputs[0]], "MatMul", 2)
    picked = finder.made(beside.inputs[0], "Gather", 2) if beside is not None else None
    if beside is None or picked is None or picked.inputs[0] != masked.inputs[0] or _only_user(finder, beside) is not total:
        return row
    columns, weights = constants.get(picked.inputs[1]), constants.get(beside.inputs[1])
    if columns is None or weights is None or columns.ndim != 1 or not len(columns) or picked.attributes.get("axis", 0) != -1:
        return row
    expected = np.ones_like(mask)
    if mask.ndim != 1 or columns.min() < 0 or columns.max() >= len(mask) or (np.diff(columns) <= 0).any():
        return row
    expected[columns] = 0
    nodes = tuple(sorted((node, beside, total), key=lambda each: finder.order[id(each)]))
    if not np.array_equal(mask, expected) or any(each.problem for each in (masked, picked, *nodes)) or nodes[-1] is not total:
        return row
    return RowProduct(masked.inputs[0], row.bits, node, nodes, picked.inputs[1], beside.inputs[1])


def _only_user(finder: _Finder, node: Node) -> Node | None:
    (name,) = node.outputs[:1]
    users = finder.users.get(name, [])
    return users[0] if len(users) == 1 and name not in finder.shown and sum(read == name for read in users[0].reads) == 1 else None


AnyChain: TypeAlias = Chain | DynamicProduct | RowProduct | QuantizedLSTM


def chains(model: Model) -> list[AnyChain]:
    """GELU, its approximation by tanh, and SiLU, in operators of elements and constants of one; products with codes of the call; LSTMs."""
    finder = _Finder(model)
    around = Surroundings(model, finder.makers, finder.users)
    found: list[AnyChain | None] = []
    for node in model.nodes:
        if node.op_type in _SEEDS and not node.problem:
            found.append(finder.chain(node))
        elif node.op_type == "MatMulInteger" and not node.problem:
            found.append(_dynamic_product(finder, node))
        elif node.op_type in ("MatMul", "Gemm") and not node.problem:
            found.append(_row_product(finder, node))
        elif node.op_type == "DynamicQuantizeLSTM" and not node.problem:
            found.append(quantized_lstm(around, node))
    taken: set[int] = set()
    kept: list[AnyChain] = []
    for chain in found:
        if chain is not None and not taken & {id(node) for node in chain.nodes}:
            taken |= {id(node) for node in chain.nodes}
            kept.append(chain)
    return kept
