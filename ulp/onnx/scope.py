"""What is known of a model's tensors while it is built: all that the rules of rules/ see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import numpy as np

from ulp.nn import graph as ir
from ulp.nn.quantizer import Quantizer

from . import views
from .alone import run_alone
from .inference import Inferred
from .limits import Limits
from .model import Array, Model, Node, OnnxError
from .operators import OPERATORS
from .parts import Part, Value
from .stages import Codes, bound
from .tensors import dtype_of, known_type
from .weights import NotInteger, QuantizedConstant

# Tensors that are looked at to find which parts may be joined, over all.
_MAX_WALKED = 2**20

_BYTES = (np.uint8, np.int8)
# As numbers of TensorProto. Integers of fewer bits have others.
_BYTE_KINDS = (2, 3)


class Scope:
    """Tensors by name, each as what it is.

    constants: known arrays; quantized: known integers with scales (an array of their values may be in `constants`, too).
    values: tensors inside integer parts; parts: the integer parts by the tensor that they read.
    grids: quantizers of float tensors outside of parts that hold values of codes.
    samples: tensors outside of parts, for a batch of one. Their shapes and types are right; their values are where `true_samples` says so.
    islands: whether onnxruntime computes what numpy has no operator for.
    types: what shape inference knows. inside: tensors of which another side than the first follows the batch.
    coded_roots: what parts read as codes, by which quantizer.
    coded_results: what parts give as integers, and how these are made of codes.
    inexact: constants whose arrays may have another type than the file's.
    float_nodes: nodes that run in floats, by their first result. layers: by the name of a node, the last graph node that it became.
    """

    def __init__(self, model: Model, inferred: Inferred, inside: Set[str], limits: Limits, islands: bool = False) -> None:
        self.opset = model.opset
        self.islands = islands
        self.bits: Mapping[str, int] = model.bits
        self.limits = limits
        self.constants: dict[str, Array] = dict(model.constants)
        self.quantized: dict[str, QuantizedConstant] = {}
        self.values: dict[str, Value] = {}
        self.parts: dict[str, Part] = {}
        self.grids: dict[str, Quantizer] = {}
        self.coded_roots: dict[str, Quantizer] = {}
        self.coded_results: dict[str, Codes] = {}
        self.samples: dict[str, Array] = {}
        self.types = inferred.tensors
        self.inside = inside
        self.batched = inferred.batched
        self.makers = {name: node for node in model.nodes for name in node.outputs}
        self._walked = 0
        self.inexact: set[str] = set(model.inexact)
        self.samples.update(inferred.values)
        self.true_samples: set[str] = set(inferred.values)
        for port in model.inputs:
            self.infer(port.name)
        self._batches = {self.samples[port.name].shape[:1] for port in model.inputs if port.name in self.samples}
        if inferred.fixed:  # a tensor of one element may be a batch, whatever the first sides of inputs are
            self._batches.add((1,))
        self.float_nodes: dict[str, Node] = {}
        self.layers: dict[str, tuple[ir.Op, ir.Shape]] = {}
        self.reasons: dict[str, str] = {}
        self._result_bytes = 0

    # Constants.

    def is_constant(self, name: str) -> bool:
        """Whether the tensor is known."""
        return name in self.constants or name in self.quantized

    def constant(self, name: str) -> Array | None:
        """A known tensor as an array of its own type; None where it is left out."""
        if not name:
            return None
        if name not in self.constants:
            self.constants[name] = self.quantized[name].values()
        return self.constants[name]

    def array(self, name: str, what: str) -> Array:
        """A known tensor. NotInteger where it is computed."""
        array = self.constant(name) if self.is_constant(name) else None
        if array is None:
            raise NotInteger(f"its {what} is computed, not constant")
        return array

    def scalar(self, name: str, what: str) -> float:
        """A constant of one element. NotInteger where it is computed or has more."""
        array = self.array(name, what)
        if array.size != 1:
            raise NotInteger(f"its {what} has {array.size} values, and activations have one")
        return float(array.reshape(-1)[0])

    def run(self, node: Node, arrays: Sequence[Array | None]) -> tuple[Array, ...]:
        """The node's results by its float operator, or by onnxruntime if there is none."""
        if node.op_type not in OPERATORS and self.islands:
            return run_alone(node, arrays, self.opset)
        return bound(node, self.opset, self.limits)(*arrays)

    # Integer parts.

    def value(self, name: str) -> Value:
        """A tensor as a part has it, an image or a vector. NotInteger unless it holds quantized values or what layers made of them."""
        found = self.viewed(name)
        if found.view is not None:
            self.values[name] = found = views.image(found)
        return found

    def viewed(self, name: str) -> Value:
        """As `value`, but perhaps a view of an image, for those who know what to do with it."""
        if name in self.values:
            return self.values[name]
        if name not in self.grids:
            raise NotInteger("its input is not quantized")
        part = self.part(name)
        quantizer = self.grids[name]
        source = part.input(name)
        node = part.graph.add(ir.Quantize(quantizer), [source], source.shape, name, "Quantize")
        self.values[name] = Value(part, node, quantizer, view=views.root_view(source))
        return self.values[name]

    def coded(self, root: str, quantizer: Quantizer) -> tuple[Part, ir.Node]:
        """The part that reads a tensor of integers of one byte, and its input: codes of the quantizer, above the type's smallest integer.

        NotInteger where it reads them by another quantizer, or it cannot read them.
        """
        part = self.part(root, _BYTES)
        if self.coded_roots.setdefault(root, quantizer) != quantizer:
            raise NotInteger("its scale or zero point is not that by which the same integers are read elsewhere")
        node = part.input(root)
        assert isinstance(node.op, ir.Input)
        node.op = replace(node.op, codes=True)
        return part, node

    def is_byte(self, name: str) -> bool:
        """Whether the file says that a tensor is of integers of one byte, each a number of 8 bits."""
        return name in self.types and self.types[name].kind in _BYTE_KINDS

    def part(self, root: str, dtypes: tuple[type[Any], ...] = (np.float32,)) -> Part:
        """The part that reads a tensor of floats, or of one of these types."""
        if root not in self.parts:
            sample = self.sample(root)
            shape = sample.shape[1:]
            if sample.shape[:1] not in self._batches:
                raise NotInteger(f"its input has shape {list(sample.shape)}, whose first side is not the batch")
            if root in self.inside:
                raise NotInteger("a side of its input that is not the first follows the batch")
            if sample.dtype not in dtypes:
                raise NotInteger(f"its input is {sample.dtype}, and only float32 is quantized in integer parts")
            if len(shape) == 2:
                views.ordered(*shape)  # small enough to be a view
            if len(shape) not in (1, 2, 3) or 0 in shape:
                raise NotInteger(f"its input has shape {list(sample.shape)}, and only images, sequences and vectors become integers")
            self.parts[root] = Part([root], ir.Graph.start(tuple(shape)))
        return self.parts[root]

    def join(self, values: Sequence[Value]) -> Part:
        """The part of values that are computed with each other, from now on if they lie in several.

        NotInteger where one part needs results of another, or the batch of their roots may differ: the first sides are those of the batch
        for all of them, or for none.
        """
        part = values[0].part
        others: dict[int, Part] = {id(value.part.graph): value.part for value in values if not part.is_same(value.part)}
        joined = [part]
        for other in others.values():
            roots = [*other.roots, *(root for each in joined for root in each.roots)]
            if len({(root in self.batched, self.samples[root].shape[:1]) for root in roots}) > 1:
                raise NotInteger("its operands come from tensors of different batches")
            if any(self._needs(each.roots, other) or self._needs(other.roots, each) for each in joined):
                raise NotInteger("its operands come from different integer parts, one of which needs the other")
            joined.append(other)
        for other in others.values():
            handles = [handle for handle in self.parts.values() if handle.is_same(other)]
            part.unite(other)
            for handle in handles:
                handle.graph, handle.roots, handle.results = part.graph, part.roots, part.results
        return part

    def _needs(self, names: Sequence[str], part: Part) -> bool:
        """Whether tensors cannot be computed before the part, perhaps by way of other parts."""
        seen: set[str] = set()
        stack = list(names)
        while stack:
            name = stack.pop()
            if name in seen:
                continue
            seen.add(name)
            self._walked += 1
            value = self.values.get(name) if name not in self.grids else None
            if value is not None and part.is_same(value.part):
                return True
            if self._walked > _MAX_WALKED:
                return True  # for all that is known
            maker = self.makers.get(name)
            stack += value.part.roots if value is not None else maker.reads if maker is not None else ()
        return False

    def nodes_of(self, part: Part, model: Model) -> list[Node]:
        """The model's nodes of which a result lies in the part."""
        return [node for node in model.nodes if any(name in self.values and self.values[name].part.is_same(part) for name in node.outputs)]

    def add(self, node: Node, op: ir.Op, inputs: Sequence[ir.Node], part: Part, shape: ir.Shape) -> ir.Node:
        """A graph node for an ONNX node. NotInteger where its result is empty."""
        if 0 in shape:
            raise NotInteger("its result is empty")
        try:
            self.limits.check_tensor(shape, 4)
        except OnnxError as error:
            raise OnnxError(f"{node}: {error}") from error
        self.count(node, math.prod(shape))
        if not isinstance(op, ir.Quantize):
            self.layers[node.name] = (op, shape)
        return part.graph.add(op, list(inputs), shape, node.name, node.op_type)

    def count(self, node: Node, nbytes: int) -> None:
        """Count what a node makes against the limit of all results."""
        self._result_bytes += nbytes
        try:
            self.limits.check_results(self._result_bytes)
        except OnnxError as error:
            raise OnnxError(f"{node}: {error}") from error

    # Tensors outside of parts.

    def infer(self, name: str) -> int:
        """Make the sample of a tensor, if its type and its whole shape are known. Gives its bytes, else 0."""
        tensor = self.types.get(name)
        if name in self.true_samples:
            return self.samples[name].nbytes
        if tensor is None or tensor.shape is None or None in tensor.shape or not known_type(tensor.kind):
            return 0
        shape = tuple(side for side in tensor.shape if side is not None)
        dtype = dtype_of(tensor.kind, name)
        self.limits.check_tensor(shape, dtype.itemsize)
        self.samples[name] = np.broadcast_to(np.zeros((), dtype), shape)
        return math.prod(shape) * dtype.itemsize

    def true_sample(self, name: str) -> Array:
        """A small tensor with its values: a shape, or what was computed from shapes. NotInteger where only a call has them."""
        if name not in self.true_samples:
            raise NotInteger("its shape is computed from values that only a call has")
        return self.sample(name)

    def sample(self, name: str) -> Array:
        """A tensor of the right shape and type for a batch of one; see `samples`. NotInteger where the shape is not known."""
        if name not in self.samples:
            if name not in self.values:
                raise NotInteger("the shape of its input is known only in a call: shapes= gives those of the model's inputs")
            value = self.values[name]
            dtype = np.dtype(np.float32) if value.integers is None else value.integers.dtype
            batch = self.samples[value.part.roots[0]].shape[0]
            self.samples[name] = np.broadcast_to(np.zeros((), dtype), (batch, *views.shape_of(value)))
        return self.samples[name]
