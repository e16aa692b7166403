"""Where quantizers go, so that what lies between layers becomes one integer plan.

Each layer reads codes of its own width; layers that read the same tensor at the same width share a quantizer. Sums, products, averages and
activations that fall somewhere need codes, too: those have 8 bits. What is in floats on all sides stays so.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .norms import inside_norms
from .prepare import Layer, Prepared
from .request import Assignment, Bits

WIDE = 8
OF_ROWS = ("MatMul", "Gemm")
"""Layers that can quantize each row of what they read in the call."""


@dataclass
class Place:
    """A quantizer of `tensor` with `bits` bits, which the inputs `readers` (node index, input index) read instead of the tensor.

    of_rows: its scale and zero point are those of each row, found in the call. outliers: channels that stay floats beside it.
    behind: tensors that moves make of its codes. result: what a function of single values makes of the tensor, where nothing reads the
    tensor but that function; else "".
    """

    tensor: str
    bits: int
    readers: list[tuple[int, int]] = field(default_factory=list)
    of_rows: bool = False
    outliers: tuple[int, ...] = ()
    behind: list[str] = field(default_factory=list)
    result: str = ""


# Activations that never fall: thresholds on the sums before them.
_RISING = ("Relu", "Clip", "LeakyRelu", "Elu", "Celu", "Selu", "Sigmoid", "Tanh", "Softplus", "Softsign", "HardSigmoid", "PRelu")
# Those that fall somewhere: tables of codes.
_FALLING = ("HardSwish", "Gelu", "Mish", "Swish", "Erf", "Abs", "Neg", "Exp", "Sqrt", "Reciprocal", "Sin", "Cos", "Thresholdedrelu")
_MEANS = ("AveragePool", "GlobalAveragePool", "ReduceMean")
_MOVES = (
    *("MaxPool", "GlobalMaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "DepthToSpace", "SpaceToDepth", "Slice"),
    *("Gather", "Tile", "Expand", "Split", "Identity", "Dropout", "Concat", "Resize", "Upsample", "Pad"),
)
# Of the moves those that a plan does to codes alone; in this mode a quantizer behind is as good in front.
_OF_CODES = {"Resize": "nearest", "Upsample": "nearest", "Pad": "constant"}
_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Sum", "BatchNormalization", "Pow")


class _Placing:
    def __init__(self, prepared: Prepared, assignment: Mapping[str, Any], of_rows: bool) -> None:
        self.prepared = prepared
        self.of_rows = of_rows
        self.nodes = prepared.proto.graph.node
        self.norms = inside_norms(self.nodes)  # which stay in floats: their values are far apart, and few
        self.layers: dict[int, Layer] = {layer.index: layer for layer in prepared.layers}
        self.assignment = assignment
        self.places: dict[tuple[str, int, bool], Place] = {}
        self.integer: set[str] = set()  # tensors that quantized layers lead to
        self.sums: set[str] = set()  # results of layers as they are: a shortcut can become part of them
        # What a chain of operators on single values computes: the tensor that it begins with, and which inputs read that.
        self.roots: dict[str, tuple[str, frozenset[tuple[int, int]]]] = {}
        self.readers: dict[str, int] = defaultdict(int)
        self.makers = {name: node.op_type for node in self.nodes for name in node.output}
        self.moves: list[int] = []  # nodes of _OF_CODES among quantized layers
        for node in self.nodes:
            for name in node.input:
                self.readers[name] += 1

    def place(self, node: int, i: int, bits: int = WIDE, *, of_rows: bool = False) -> Place:
        tensor = self.nodes[node].input[i]
        place = self.places.setdefault((tensor, bits, of_rows), Place(tensor, bits, of_rows=of_rows))
        if (node, i) not in place.readers:
            place.readers.append((node, i))
        return place

    def visit(self, index: int) -> None:
        node = self.nodes[index]
        computed = [i for i, name in enumerate(node.input) if name and name not in self.prepared.constants]
        within = [i for i in computed if node.input[i] in self.integer]
        if index in self.layers:
            pair = self.assignment[self.layers[index].name]
            if pair is not None and self.of_rows and node.op_type in OF_ROWS:
                self.place(index, 0, pair.activation, of_rows=True)  # its result is floats: what follows is not quantized for it
            elif pair is not None:
                self.place(index, 0, pair.activation)
                self.made(node, sums=True)
        elif not within or index in self.norms:
            return
        elif node.op_type in _RISING or (node.op_type in _ARITHMETIC and len(computed) == 1):
            self.elementwise(index, computed[0])
        elif node.op_type in _ARITHMETIC and len(computed) == 2:
            self.combination(index, computed)
        elif node.op_type in _FALLING or node.op_type in _MEANS:
            self.place(index, computed[0])
            self.made(node)
            if node.op_type in _FALLING:  # what follows on single values is part of the table
                self.roots[node.output[0]] = (node.input[computed[0]], frozenset({(index, computed[0])}))
        elif node.op_type in _MOVES:
            self.made(node)
            if node.op_type in _OF_CODES:
                self.moves.append(index)

    def made(self, node: Any, *, sums: bool = False) -> None:
        self.integer.update(node.output)
        if sums:
            self.sums.update(node.output)

    def elementwise(self, index: int, i: int) -> None:
        """An operator on single values, maybe one of several that together are a function."""
        node = self.nodes[index]
        name = node.input[i]
        root, slots = self.roots.get(name, (name, frozenset()))
        linear = node.op_type in _ARITHMETIC and name in self.sums and self.readers[name] == 1
        if node.op_type == "Pow" or (node.op_type in _ARITHMETIC and not linear and name == root and name not in self.sums):
            self.place(index, i)
        elif node.op_type in _ARITHMETIC and not linear and name != root and not self.scaled(index, name):
            for slot in sorted(slots):  # a table: as thresholds, only activations are known that never fall
                self.place(*slot)
        if not linear:  # else part of the layer
            self.roots[node.output[0]] = (root, slots | {(index, i)} if root == name else slots)
        self.made(node, sums=linear)

    def place_moves(self) -> None:
        """Quantize what moves of codes read: with the bits of what reads their result where that is one width, else with 8."""
        quantized = {place.tensor for place in self.places.values() if not place.of_rows}
        for node in reversed(self.nodes):  # tensors that lead to quantizers by moves alone
            if node.op_type in _MOVES and not quantized.isdisjoint(node.output):
                quantized.update(name for name in node.input if name not in self.prepared.constants)
        outputs = {port.name for port in self.prepared.proto.graph.output}
        for index in reversed(self.moves):
            node = self.nodes[index]
            result = node.output[0]
            if result in outputs or result not in quantized:
                continue
            behind = [key for key, place in self.places.items() if place.tensor == result]
            mode = next((a.s.decode() for a in node.attribute if a.name == "mode"), _OF_CODES[node.op_type])
            alike = len(behind) == 1 and len(self.places[behind[0]].readers) == self.readers[result] and not behind[0][2]
            if alike and mode == _OF_CODES[node.op_type]:
                moved = self.places.pop(behind[0])
                self.place(index, 0, moved.bits).behind += [moved.tensor, *moved.behind]
            else:
                self.place(index, 0)

    def find_functions(self) -> None:
        """Note of each quantized tensor what a function makes of it, if nothing but that function reads the tensor."""
        outputs = {port.name for port in self.prepared.proto.graph.output}
        users = {name: node.output[0] for node in self.nodes for name in node.input}
        for place in self.places.values():
            made = {name: slots for name, (root, slots) in self.roots.items() if root == place.tensor}
            name = next((name for name, slots in made.items() if slots.issuperset(place.readers)), "")
            if place.of_rows or place.tensor in outputs or self.readers[place.tensor] != len(place.readers):
                continue
            while name and name not in outputs and self.readers[name] == 1 and users[name] in made:
                name = users[name]  # what else is done to single values
            place.result = name

    def scaled(self, index: int, name: str) -> bool:
        """Whether the node scales what Relu makes of a layer's result, which can be done to the sums before it."""
        return self.nodes[index].op_type in ("Mul", "Div") and self.makers.get(name) == "Relu"

    def combination(self, index: int, computed: list[int]) -> None:
        """A sum or product of two computed tensors; of one and the same at the beginning, a function as x * sigmoid(x)."""
        node = self.nodes[index]
        names = [node.input[i] for i in computed]
        origins = [self.roots.get(name, (name, frozenset())) for name in names]
        if origins[0][0] == origins[1][0]:
            root = origins[0][0]
            slots = origins[0][1] | origins[1][1] | {(index, i) for i, name in zip(computed, names, strict=True) if name == root}
            for slot in sorted(slots):
                self.place(*slot)
            self.roots[node.output[0]] = (root, slots)
            self.made(node)
            return
        quantized = self.integer | {tensor for tensor, _, of_rows in self.places if not of_rows}
        if not quantized.issuperset(names):
            return  # with an operand that nothing quantizes it runs in floats, whatever the other has
        fused = next((i for i in computed if node.input[i] in self.sums and self.readers[node.input[i]] == 1), None)
        if node.op_type not in ("Add", "Sum"):
            fused = None
        for i in computed:
            if i != fused:
                self.place(index, i)
        self.made(node, sums=False)


def tables(prepared: Prepared) -> set[str]:
    """Tensors that are functions of codes when all layers are quantized: what else is done to their single values is part of the table."""
    placing = _placed(prepared, dict.fromkeys((layer.name for layer in prepared.layers), Bits(WIDE, WIDE)))
    placed = {slot for place in placing.places.values() for slot in place.readers}
    return {name for name, (_, slots) in placing.roots.items() if slots <= placed}


def places_of(prepared: Prepared, assignment: Assignment, *, of_rows: bool = False) -> list[Place]:
    """The quantizers that this assignment takes, in the order of the tensors. of_rows: those of linear layers have a scale per row."""
    placing = _placed(prepared, assignment, of_rows)
    placing.place_moves()
    placing.find_functions()
    return list(placing.places.values())


def _placed(prepared: Prepared, assignment: Assignment, of_rows: bool = False) -> _Placing:
    placing = _Placing(prepared, assignment, of_rows)
    for index in range(len(placing.nodes)):
        placing.visit(index)
    return placing
