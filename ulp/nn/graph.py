"""The graph that a network becomes before it is lowered to a plan: nodes of one result each, in an order in which they can run.

Layers record it (trace.py), other front ends build it directly; passes.py rewrites it and lower.py turns it into steps. All values in the
graph are floats. An operation that multiplies holds the quantizer of its input, so that it can run in integers.

Shapes are of one image, as torch has them: (channels, height, width), or (features,).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ulp.grouped import GroupedMatrix

from .curves import Function
from .quantizer import Quantizer

Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, int]
Sides: TypeAlias = tuple[int, int, int, int]
"""top, left, bottom, right"""
Indices: TypeAlias = npt.NDArray[np.int32]
Doubles: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Input:
    """The network's input.

    shape: of the caller's array for one image, where it is not the node's. channels_last: the array is (height * width, channels).
    codes: it holds uint8 codes, whatever quantizer reads them.
    """

    shape: Shape | None = None
    channels_last: bool = False
    codes: bool = False


@dataclass(frozen=True, eq=False)
class Weights:
    """Integers int8 of shape (O, ...) with a zero point for all, and what turns a sum into a value.

    The value is float32(sum + start[o]) * float32(input scale * scale[o]) + float32(bias[o]). scale and bias: float64 (O,), so that folding
    other factors in rounds only once; start: int32 (O,), an integer bias. At 1 bit the integers are -1 and +1 and the zero point is 0.
    """

    integers: npt.NDArray[np.int8]
    bits: int
    scale: Doubles
    bias: Doubles
    zero: int = 0
    start: Indices | None = None


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution of (C, H, W); the integers are (O, C / groups, kh, kw). Padding is with 0.0."""

    weights: Weights
    quantizer: Quantizer
    stride: Pair
    padding: Sides
    dilation: Pair
    groups: int


@dataclass(frozen=True, eq=False)
class Linear:
    """A product of (features,), or of a flattened image, with integers (O, features)."""

    weights: Weights
    quantizer: Quantizer


@dataclass(frozen=True, eq=False)
class LinearFloats:
    """A product of floats (features,), or of a flattened image, with `matrix`, float32 (O, features), plus bias, float32 (O,).

    A small last layer that nobody quantized: its floats are a result of the network, and nothing else reads them.
    """

    matrix: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class BatchNorm:
    """x * scale[c] + shift[c] with float64 (C,); a pass folds it into what comes before."""

    scale: Doubles
    shift: Doubles


@dataclass(frozen=True, eq=False)
class Clamp:
    """min(max(x, low), high): ReLU and ReLU6."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Curve:
    """An activation function that never falls, of the sums before it; codes come right behind it. function: see `curves.Function`."""

    function: Function


@dataclass(frozen=True, eq=False)
class MaxPool:
    """The largest value of each window. rows, columns: int32 (n, 2), begin and end, clipped to the image, in steps of `dilation`.

    falls: bool (C,), channels whose minimum is taken instead; None: none. They are scaled by a negative factor behind the pooling, and a
        decreasing function turns the maximum into the minimum.
    """

    rows: Indices
    columns: Indices
    dilation: Pair
    falls: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class WindowMean:
    """The quantized input's sum over each window, divided by `divisor`, float32 (rows, columns)."""

    rows: Indices
    columns: Indices
    divisor: npt.NDArray[np.float32]
    quantizer: Quantizer


@dataclass(frozen=True, eq=False)
class Gather:
    """out[y][x] = in[rows[y]][columns[x]]; an index of -1 gives 0.0. Padding modes and nearest upsampling."""

    rows: Indices
    columns: Indices


@dataclass(frozen=True, eq=False)
class Rearrange:
    """out[c][y][x] = in[place], place = rows[y] + columns[x] + channels[c]; each int32 (n, 3), places (y, x, c), none negative."""

    rows: Indices
    columns: Indices
    channels: Indices


@dataclass(frozen=True, eq=False)
class Table:
    """values[r][code] of the quantized input: a function of one value. float32 (1, 2^bits), r = 0, or (C, 2^bits), r = channel; finite."""

    quantizer: Quantizer
    values: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Combine:
    """The sum of the inputs, or their product, in their order, in float32. quantizers: of each input; None: it comes as floats.

    Inputs but the first may be one pixel, which counts for all.
    """

    multiply: bool
    quantizers: tuple[Quantizer | None, ...]


@dataclass(frozen=True, eq=False)
class Rows:
    """A function of the channels of each pixel, in groups, of the inputs' sum, in float32: `_core.Plan.rows`.

    quantizers: of each input; None: it comes as floats. Inputs but the first may be one pixel, or have the channels of one group.
    gamma, beta: float32 (channels of a group,), of normalizations; None: 1 and 0. integers: by fixed-point numbers instead of float32.
    """

    function: str
    quantizers: tuple[Quantizer | None, ...]
    groups: int = 1
    gamma: npt.NDArray[np.float32] | None = None
    beta: npt.NDArray[np.float32] | None = None
    epsilon: float = 0.0
    integers: bool = False


@dataclass(frozen=True, eq=False)
class Product:
    """scale times the product of two computed inputs, for each of a batch: `_core.Plan.product`.

    sizes: batch, rows, depth, columns; steps, channels: where the inputs' elements lie. The result has batch * columns channels and a row
    of pixels. quantizers: as for Rows; two of codes are multiplied as integers.
    """

    sizes: tuple[int, int, int, int]
    steps: Indices
    channels: tuple[int, int]
    quantizers: tuple[Quantizer | None, Quantizer | None]
    scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Attention:
    """Softmax of a product of two inputs, plus perhaps a fourth one, times the third: `_core.Plan.attention`. All of them are floats.

    sizes: batch, rows, depth, columns; values: columns of the third. steps, channels: where the inputs' elements lie. The result has
    batch * values channels and a row of pixels. mask: the quantizer of the fourth input; None where that comes as floats.
    """

    sizes: tuple[int, int, int, int]
    values: int
    steps: Indices
    channels: tuple[int, int, int]
    scale: float
    mask: Quantizer | None = None


@dataclass(frozen=True, eq=False)
class DynamicLinear:
    """A product of each pixel's channels with integers (O, C), quantized in the call to `bits` bits: `_core.Plan.dynamic_linear`.

    per_row: whether each pixel has a scale of its own, or one is for the image. The weights' scale and bias are float32 numbers.
    function: of the results, one of those of Rows that work on single elements. outliers: channels that are multiplied as floats instead,
    by outlier_weights (outliers, O); with per_row only.
    """

    weights: Weights
    per_row: bool
    bits: int = 8
    function: str = "identity"
    outliers: tuple[int, ...] = ()
    outlier_weights: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False)
class Recurrent:
    """One direction of an "lstm" or a "gru" over a row of pixels, (C, 1, T) -> (H, 1, T): `_core.Plan.recurrent`.

    input, weights: integers (gates * H, C) and (gates * H, H), gates in torch's order; input.bias holds the biases of all sums.
    hidden_bias: float32 (H,), of a GRU's third gate, inside the product with the reset gate. resets_before: the GRU resets h before the
    product. quantizer: of the input; None: floats, which become codes of `act_bits` by a scale of the call, with per_row one for each
    pixel. state_quantizer: of h; None: codes of state_bits by the scale of each step. hidden, cell, lengths: (input, element) behind the
    first input, where the first states are, and the number of pixels that count.
    """

    kind: str
    input: Weights
    weights: Weights
    quantizer: Quantizer | None
    state_quantizer: Quantizer | None
    act_bits: int = 8
    state_bits: int = 8
    per_row: bool = True
    reverse: bool = False
    hidden_bias: npt.NDArray[np.float32] | None = None
    resets_before: bool = False
    hidden: tuple[int, int] | None = None
    cell: tuple[int, int] | None = None
    lengths: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class State:
    """What a Recurrent, its input, leaves behind its last step, (H,): "hidden" or "cell"."""

    which: str


@dataclass(frozen=True, eq=False)
class GroupedLinear:
    """A product of each pixel's channels with weights in groups, (C, O): `_core.Plan.grouped_linear`. bias: float32 (O,) or None.

    quantizer: None: the input is floats, quantized in the call to 8 bits, per pixel, or with per_group per group of it.
    """

    matrix: GroupedMatrix
    bias: npt.NDArray[np.float32] | None
    per_group: bool
    quantizer: Quantizer | None = None


@dataclass(frozen=True, eq=False)
class View:
    """The input as an output of the network, of the node's shape: the image's elements in the order (C, H, W), or (H, W, C)."""

    channels_last: bool


@dataclass(frozen=True, eq=False)
class Add:
    """First input + quantized second input."""

    quantizer: Quantizer


@dataclass(frozen=True, eq=False)
class Concat:
    """The inputs' channels, one after another."""


@dataclass(frozen=True, eq=False)
class Flatten:
    """(C, H, W) -> (C * H * W,)."""


@dataclass(frozen=True, eq=False)
class Identity:
    """The input."""


@dataclass(frozen=True, eq=False)
class Quantize:
    """The input's codes, as floats again."""

    quantizer: Quantizer


Op: TypeAlias = (
    Input
    | Conv
    | Linear
    | LinearFloats
    | BatchNorm
    | Clamp
    | Curve
    | MaxPool
    | WindowMean
    | Gather
    | Rearrange
    | Table
    | Combine
    | Rows
    | Product
    | Attention
    | DynamicLinear
    | Recurrent
    | State
    | GroupedLinear
    | View
    | Add
    | Concat
    | Flatten
    | Identity
    | Quantize
)


@dataclass(eq=False)
class Node:
    """One operation and its result.

    name: the layer's name in the network, as in its state dict; kind: its class, as users know it. Both are for messages and tables.
    """

    op: Op
    inputs: list[Node]
    shape: Shape
    name: str
    kind: str
    held_as: tuple[int, int, int] | None = field(default=None, repr=False)
    """What `layout` gave for it"""

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" if self.name else self.kind


@dataclass
class Graph:
    """A network. `nodes` is in an order in which they can run; `add` keeps it so. Only graphs of ONNX models have several inputs."""

    inputs: list[Node]
    outputs: list[Node] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)

    @classmethod
    def start(cls, shape: Shape) -> Graph:
        """A graph with nothing but its input, of two dimensions the only row of an image (shape[0], 1, shape[1])."""
        line = len(shape) == 2
        node = Node(Input(shape if line else None), [], (shape[0], 1, shape[1]) if line else shape, "input", "Input")
        return cls([node], nodes=[node])

    @property
    def input(self) -> Node:
        """The first input."""
        return self.inputs[0]

    def join(self, other: Graph) -> None:
        """Take in the nodes and inputs of another graph."""
        self.inputs += other.inputs
        self.nodes += other.nodes

    def add(self, op: Op, inputs: list[Node], shape: Shape, name: str, kind: str) -> Node:
        """A new node behind all others."""
        node = Node(op, inputs, shape, name, kind)
        self.nodes.append(node)
        return node

    def sort(self) -> None:
        """Drop nodes that no output needs (never an input), and order the others so that they can run."""
        order: list[Node] = [*self.inputs]
        seen = {id(node) for node in self.inputs}
        stack = [(node, False) for node in reversed(self.outputs)]
        while stack:
            node, done = stack.pop()
            if done:
                order.append(node)
            elif id(node) not in seen:
                seen.add(id(node))
                stack.append((node, True))
                stack.extend((source, False) for source in reversed(node.inputs))
        self.nodes = order

    def users(self) -> dict[int, int]:
        """How many times each node's result is used, by id(node); outputs count."""
        counts = {id(node): 0 for node in self.nodes}
        for node in self.nodes:
            for source in node.inputs:
                counts[id(source)] += 1
        for node in self.outputs:
            counts[id(node)] += 1
        return counts


def layout(node: Node) -> tuple[int, int, int]:
    """(height, width, channels) of the image in which a plan holds the node's result. A flattened image is still an image."""
    passed = []
    passes = (Flatten, Identity, Clamp, Curve, Quantize, Table, Combine, Rows, Add)
    while isinstance(node.op, passes) and len(node.shape) == 1 and node.held_as is None:
        passed.append(node)
        node = node.inputs[0]
    channels, height, width = node.shape if len(node.shape) == 3 else (node.shape[0], 1, 1)
    found = node.held_as or (height, width, channels)
    for behind in passed:  # kept, as a chain of n nodes would take n^2 steps
        behind.held_as = found
    return found
