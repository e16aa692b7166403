"""From a model to stages: which nodes run in integers, one plan per integer part, and which as float operators.

Nodes are visited in an order in which they can run. A quantizer of a float tensor starts an integer part with that tensor as its root. A
node whose operands lie in one part joins it if a rule of rules/ turns it into graph nodes; otherwise it becomes a float stage. So a part
depends on its root only, and stages never depend on each other in a circle. If a decision turns out to be wrong later (the floats of a
pooling of codes are needed), the node is marked and the model is built again.

Types and shapes of float tensors come from shape inference, for a batch of one (inference.py).
"""

from __future__ import annotations

import heapq
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from ulp._progress import progress_bar
from ulp.nn import graph as ir
from ulp.nn.compiled import CompiledNetwork, Hint, Structure
from ulp.nn.lower import Mode, lower
from ulp.nn.shapes import LayerError

from . import rules, views
from .chains import AnyChain, Chain, DynamicProduct, RowProduct, chains
from .inference import Inferred
from .limits import Limits
from .model import Array, Model, Node, OnnxError
from .operators import OPERATORS
from .parts import Part, is_elementwise, without_floats
from .rules import quantizers
from .scope import Scope
from .stages import Codes, FloatStage, IntegerStage, Stage
from .tensors import exact_type
from .weights import NotInteger
from .work import operations, operations_of_call

_COMPUTED_BATCH = "the batch size is computed with"

# After so many attempts, each with more nodes in floats, all nodes run in floats.
_ATTEMPTS = 16

# Operators that pick or join elements of a shape and do not compute with them.
_PICKS = ("Gather", "Slice", "Concat", "Squeeze", "Unsqueeze", "Identity", "Cast", "Reshape")


@dataclass(frozen=True)
class Compilation:
    """How parts become plans: arguments of `ulp.load`.

    islands: whether onnxruntime runs what does not become one. small_floats: whether a plan may end in a small layer in floats.
    integer_functions: functions of rows by fixed-point numbers.
    """

    mode: Mode = "requantize"
    hint: Hint = "latency"
    group: int = 1
    tune: bool = True
    progress: bool = False
    islands: bool = False
    small_floats: bool = True
    integer_functions: bool = False


@dataclass
class Built:
    """What a model became. constants: those that float stages read."""

    stages: list[Stage]
    constants: dict[str, Array]
    scope: Scope

    @property
    def layers(self) -> dict[str, tuple[ir.Op, ir.Shape]]:
        """Of each node of an integer part: the last graph node that it became."""
        return self.scope.layers


def build(
    model: Model,
    inferred: Inferred,
    inside: Set[str],
    compilation: Compilation,
    limits: Limits,
    floats: Mapping[str, str] = MappingProxyType({}),
) -> Built:
    """The stages of a normalised model.

    inferred: from its inputs' shapes, with a batch of one. inside: see `Scope`. floats: nodes that are not to be integer, and why.
    """
    floats = dict(floats)
    for _ in range(_ATTEMPTS):
        builder = Builder(model, inferred, inside, compilation, limits, floats)
        # A file's numbers may be NaN, infinite or too large. Rules check the results, so numpy does not warn.
        with np.errstate(all="ignore"):
            built = builder.build()
        if built is not None:
            return built
        floats = {**floats, **builder.wrong}
    every = {node.name: floats.get(node.name, "its integer neighbours could not be told from the others") for node in model.nodes}
    with np.errstate(all="ignore"):
        built = Builder(model, inferred, inside, compilation, limits, every).build()
    assert built is not None
    return built


def _unforeseen(what: str, error: Exception) -> None:
    """Tell of a mistake of ours: no rule foresaw this error. The model runs nevertheless, in floats."""
    text = f"{what} runs in floats, as ulp cannot make integers of it: {type(error).__name__}: {error}. Please report this model"
    warnings.warn(text, RuntimeWarning, stacklevel=2)


def _ordered(stages: Sequence[Stage]) -> list[Stage]:
    """The stages in an order in which they can run: each plan as soon as all that it reads is there."""
    makers = {name: i for i, stage in enumerate(stages) for name in stage.makes}
    missing = [len({makers[name] for name in stage.reads if name in makers}) for stage in stages]
    users: list[set[int]] = [set() for _ in stages]
    for i, stage in enumerate(stages):
        for name in stage.reads:
            if name in makers:
                users[makers[name]].add(i)
    ready = [i for i, count in enumerate(missing) if not count]
    heapq.heapify(ready)
    order: list[Stage] = []
    while ready:
        i = heapq.heappop(ready)
        order.append(stages[i])
        for user in users[i]:
            missing[user] -= 1
            if not missing[user]:
                heapq.heappush(ready, user)
    assert len(order) == len(stages)
    return order


def constants_of(stages: Sequence[Stage], model: Model, scope: Scope) -> dict[str, Array]:
    """The constants that operators of numpy read, and those that are results of the model."""
    read = {name for stage in stages if isinstance(stage, FloatStage) for name in stage.reads} | {port.name for port in model.outputs}
    return {name: array for name in sorted(read) if scope.is_constant(name) and (array := scope.constant(name)) is not None}


class Builder:
    """One attempt. floats: nodes that must run in floats, and why; wrong: nodes that this attempt found to be among them."""

    def __init__(
        self, model: Model, inferred: Inferred, inside: Set[str], compilation: Compilation, limits: Limits, floats: dict[str, str]
    ) -> None:
        self.model = model
        self.compilation = compilation
        self.limits = limits
        self.floats = floats
        self.wrong: dict[str, str] = {}
        self.scope = Scope(model, inferred, inside, limits, compilation.islands)
        self.steps: list[FloatStage] = []
        self.folded_bytes = 0
        self.operations = 0
        self.call_operations = 0
        self.chains = {id(node): chain for chain in chains(model) for node in chain.nodes}
        # Constants that hold a 0 in place of the batch size, and the Shape that it came from.
        self.markers: dict[str, str] = {}
        self.used: Counter[str] = Counter(name for node in model.nodes for name in node.reads)
        self.used.update(port.name for port in model.outputs)

    def build(self) -> Built | None:
        """All nodes, then all plans; None if a node in an integer part cannot run in integers."""
        try:
            for node in progress_bar(self.model.nodes, self.compilation.progress, "load", "node"):
                chain = self.chains.get(id(node))
                if chain is None or node is chain.nodes[-1]:
                    self.visit(chain, node)
        except OnnxError:
            if not self.wrong:  # else a wrong node may be the cause
                raise
            return None
        for port in self.model.outputs:
            self.float_tensor(port.name)
        return None if self.wrong else self.finish()

    def visit(self, chain: AnyChain | None, node: Node) -> None:
        """A node behind all that it reads; or the nodes of a chain, as one or else one after another."""
        if chain is not None and self.chain(chain):
            return
        for each in (node,) if chain is None else chain.nodes:
            if any(self.used[name] for name in each.outputs) and not self.fold(each):
                self.place(each)

    def chain(self, chain: AnyChain) -> bool:
        """Put what several nodes make into the part of what they read. False where that is not possible."""
        if any(node.name in self.floats for node in chain.nodes):
            return False
        try:
            if isinstance(chain, Chain):
                made = rules.activation(self.scope, chain.nodes, chain.source, chain.function)
            elif isinstance(chain, DynamicProduct):
                made = rules.dynamic_product(self.scope, chain)
            elif isinstance(chain, RowProduct):
                made = rules.row_product(self.scope, chain)
            else:
                made = rules.quantized_lstm(self.scope, chain)
        except NotInteger:
            return False
        self.scope.values[chain.nodes[-1].outputs[0]] = made
        return True

    # Constants.

    def fold(self, node: Node) -> bool:
        """Compute a node whose inputs are all known; quantized constants keep their integers. False where they are not."""
        scope = self.scope
        if node.problem or node.op_type not in OPERATORS:
            return False
        if not all(not name or scope.is_constant(name) for name in node.inputs) or not node.inputs:
            return self.fold_shape(node)
        if (node.op_type == "Cast" and not exact_type(int(node.attributes["to"]))) or any(name in scope.inexact for name in node.inputs):
            scope.inexact.update(node.outputs)
        known = quantizers.constant(self.scope, node) or rules.moved_constant(self.scope, node)
        if known is not None:
            self.scope.quantized[node.outputs[0]] = known
            return True
        arrays = [scope.constant(name) for name in node.inputs]
        self.operations += operations(node, arrays, scope.types.get(node.outputs[0]))
        self.limits.check_operations(self.operations)
        results = scope.run(node, arrays)
        for name, result in zip(node.outputs, results, strict=False):
            self.scope.constants[name] = result
            self.folded_bytes += result.nbytes
            self.limits.check_constants(self.folded_bytes)
            self.mark(node, name)
        return True

    def fold_shape(self, node: Node) -> bool:
        """Fold the Shape of a tensor in a part: known but for the batch, whose place holds 0, which Reshape takes as its input's side."""
        if node.op_type != "Shape" or node.attributes or node.name in self.floats or node.inputs[0] not in self.scope.values:
            return False
        self.scope.constants[node.outputs[0]] = np.array((0, *views.shape_of(self.scope.values[node.inputs[0]])), np.int64)
        self.markers[node.outputs[0]] = node.name
        return True

    def mark(self, node: Node, name: str) -> None:
        """Follow that 0 through a folded node. If arithmetic would use it as a number, the Shape must not be folded."""
        shape = next((self.markers[source] for source in node.inputs if source in self.markers), None)
        if shape is None or (node.op_type in _PICKS and self.scope.constants[name].all()):
            return
        if node.op_type not in _PICKS:
            self.wrong[shape] = _COMPUTED_BATCH
        self.markers[name] = shape

    # Parts.

    def place(self, node: Node) -> None:
        """A node whose inputs are not all known: into a part, or as a float stage."""
        rule = rules.RULES.get(node.op_type)
        try:
            if node.problem:
                raise NotInteger(node.problem)
            if node.name in self.floats:
                raise NotInteger(self.floats[node.name])
            if rule is None:
                raise NotInteger(f"there are no integers for {node.op_type}")
            made = rule(self.scope, node)
            several = made if isinstance(made, list) else [made]
            if any(self.used[name] for name in node.outputs[len(several) :]):
                raise NotInteger(f"its result {node.outputs[len(several)]!r} is used")
            self.scope.values.update(zip(node.outputs, several, strict=False))
        except NotInteger as why:
            if not self.end_in_floats(node, str(why)):
                self.float_stage(node, str(why))
        except OnnxError:
            raise
        except Exception as error:
            _unforeseen(str(node), error)
            self.float_stage(node, f"{type(error).__name__}: {error}")
        self.count(node)

    def end_in_floats(self, node: Node, reason: str) -> bool:
        """Have a node that is not integer run at the end of a part's plan, if it is a small last layer."""
        ends = self.used[node.outputs[0]] == 1 and any(port.name == node.outputs[0] for port in self.model.outputs)
        if not ends or not self.compilation.small_floats or node.problem or node.name in self.floats:
            return False
        try:
            self.scope.values[node.outputs[0]] = rules.small_product(self.scope, node)
        except NotInteger:
            return False
        self.scope.reasons[node.name] = reason
        return True

    def count(self, node: Node) -> None:
        """Count what a call computes against the limit, as far as shapes are known."""
        types = [self.scope.types.get(name) for name in (*node.inputs, *node.outputs[:1]) if name]
        shapes = [tensor.shape for tensor in types if tensor is not None and tensor.shape is not None]
        known = [tuple(side for side in shape if side is not None) for shape in shapes if None not in shape]
        if node.problem or len(known) < len(types) or not known:
            return
        self.call_operations += operations_of_call(node, known[:-1], math.prod(known[-1]))
        try:
            self.limits.check_call(self.call_operations)
        except OnnxError as error:
            raise OnnxError(f"{node}: {error}") from error

    # Float stages.

    def float_stage(self, node: Node, reason: str) -> None:
        """Have the node run outside of integer parts."""
        scope = self.scope
        for name in node.reads:
            if not scope.is_constant(name):
                self.float_tensor(name)
        for i, name in enumerate(node.reads):
            if name in self.markers and not (node.op_type == "Reshape" and i == 1 and not node.attributes.get("allowzero", 0)):
                self.wrong[self.markers[name]] = _COMPUTED_BATCH
        self.steps.append(FloatStage(node, reason))
        scope.float_nodes[node.outputs[0]] = node
        for name in node.outputs:
            scope.count(node, scope.infer(name))
        grid = None if node.problem else quantizers.grid_of(self.scope, node)
        if grid is not None:
            scope.grids[node.outputs[0]] = grid

    def float_tensor(self, name: str) -> None:
        """Have a tensor of a part exist outside of it, as a result of the part."""
        scope = self.scope
        if name not in scope.values or name in scope.grids:
            return
        value = scope.values[name]
        try:
            node = views.result(value)
        except NotInteger as why:
            self.wrong[value.node.name] = str(why)
            return
        wrong = without_floats(node)
        if wrong is not None:
            self.wrong[wrong.name] = "its floats are needed, and its input is not quantized"
        if value.integers is None:
            value.part.results[name] = node
            return
        if name in scope.float_nodes:
            return
        assert value.grid is not None
        codes = node.inputs[0] if isinstance(node.op, ir.View) else node
        if isinstance(codes.op, ir.Quantize) and scope.is_byte(name):
            value.part.results[name] = node
            scope.coded_results[name] = Codes(value.integers.dtype, value.integers.low)
            return
        floats = f"{name}/float"
        value.part.results[floats] = node
        scale, zero = f"{name}/scale", f"{name}/zero"
        scope.constants[scale] = np.float32(value.grid.scale).reshape(())
        scope.constants[zero] = np.asarray(value.grid.zero + value.integers.low, value.integers.dtype)
        quantize = Node("QuantizeLinear", name, (floats, scale, zero), (name,))
        self.steps.append(FloatStage(quantize, "its integers leave the integer part"))
        scope.float_nodes[name] = quantize

    # Plans.

    def finish(self) -> Built | None:
        """The stages that outputs need, each plan right behind its root. None if a part has no plan."""
        scope = self.scope
        needed: set[str] = set()
        walked: set[int] = set()
        parts = list({id(part.graph): part for part in scope.parts.values()}.values())
        of_result = {name: part for part in parts for name in part.results}

        def need(name: str) -> None:
            stack = [name]
            while stack:
                name = stack.pop()
                if name not in needed:
                    needed.add(name)
                    stack += of_result[name].roots_of(name, walked) if name in of_result else ()

        for port in self.model.outputs:
            need(port.name)
        kept: list[FloatStage] = []
        for step in reversed(self.steps):
            if any(name in needed for name in step.node.outputs):
                kept.append(step)
                for name in step.reads:
                    need(name)
        plans: list[Stage] = []
        for part in parts:
            names = tuple(name for name in part.results if name in needed)
            # Of a part that begins with floats that hold codes, the graph has a quantizer that is no node of the model.
            layers = [node.name for node in part.graph.nodes] + [node.name for node in scope.nodes_of(part, self.model)]
            try:
                results = [part.results[name] for name in names]
                if names and kept and self.compilation.islands and is_elementwise(results, len(part.roots) > 1):
                    # A plan would only divide what is around it.
                    self.wrong.update((name, "no layer with weights reads its codes") for name in layers)
                elif names:
                    plans.append(self.stage(part, names))
            except ValueError as error:
                if not isinstance(error, LayerError):
                    _unforeseen(f"the integer part that reads {', '.join(map(repr, part.roots))}", error)
                self.wrong.update((name, str(error)) for name in layers)
        if self.wrong:
            return None
        stages = _ordered([*plans, *reversed(kept)])
        return Built(stages, constants_of(stages, self.model, scope), scope)

    def stage(self, part: Part, names: tuple[str, ...]) -> IntegerStage:
        """The plan of a part that makes these results. ValueError where integers cannot do it after all."""
        graph = part.graph
        graph.outputs = [part.results[name] for name in names]
        graph.sort()
        used = {id(source) for node in graph.nodes for source in node.inputs}
        roots = [root for root, node in zip(part.roots, graph.inputs, strict=True) if id(node) in used]
        graph.inputs = [node for node in graph.inputs if id(node) in used] or graph.inputs[:1]
        how = self.compilation
        results = self.scope.coded_results
        coded = [name in results for name in names]
        flags = {
            "throughput": how.hint == "throughput",
            "tune": how.tune,
            "progress": how.progress,
            "integer_functions": how.integer_functions,
        }
        lowered = lower(part.graph, how.mode, group=how.group, codes_out=coded, **flags)
        codes = {name: Codes.whole(self.scope.sample(name).dtype) for name in roots if name in self.scope.coded_roots}
        codes.update((name, results[name]) for name in names if name in results)
        return IntegerStage(tuple(roots), names, CompiledNetwork(lowered, how.mode, how.hint, Structure(list)), codes)
