"""From a graph to the steps of a plan.

Backwards through the graph every node learns what is wanted of its result: codes of some quantizer, floats, a ReLU or a sum before that,
and where they go (a slice of a tensor, so that a concatenation is never a step). What does not touch values (flattening), commutes with a
quantizer (pooling) or can be left to others (ReLU, sums, concatenation) passes its wishes on; what computes turns them into the epilogue of
one step, if they agree, or of several. The steps then run in an order in which each tensor is written before it is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from ulp import _core

from . import graph as ir
from .demand import FREE, Demand, Group, Slot, Tensor, merge, same_residual
from .passes import optimize
from .quantizer import FloatArray, Quantizer
from .script import Script
from .shapes import LayerError
from .thresholds import thresholds

Mode: TypeAlias = Literal["fp32", "threshold", "requantise"]

# What one step can write to.
_MOST_TARGETS = 4

# For each node of a graph. A concatenation of a result with itself asks for it twice, a concatenation of that four times, and so on.
_MOST_WISHES = 256


def new_plan() -> Any:
    """An empty plan. Tests put another class's here."""
    return _core.Plan()


@dataclass
class Step:
    """One call of the plan. `emit` makes it, once all tensors have ids."""

    node: ir.Node
    emit: Callable[[], None]
    reads: list[Slot]
    writes: list[Slot]


@dataclass(frozen=True)
class Label:
    """Whose step it is: the layer's name, its class, and its bits of weights."""

    name: str
    kind: str
    w_bits: int = 0


class Lowered:
    """A finished plan with its script, the names of its steps and the shapes of what goes in and out, of one image."""

    def __init__(
        self, script: Script, labels: list[Label], input_shape: ir.Shape, output_shapes: list[ir.Shape], input_quantizer: Quantizer | None
    ) -> None:
        self.script = script
        self.plan = script.plan
        self.labels = labels
        self.input_shape = input_shape
        self.output_shapes = output_shapes
        self.input_quantizer = input_quantizer

    def runner(self) -> Callable[[npt.NDArray[Any]], list[npt.NDArray[Any]]]:
        """A function from (N, *input shape) to the list of (N, *output shape)."""
        run: Callable[[npt.NDArray[Any]], list[npt.NDArray[Any]]] = self.plan.run
        shapes = self.output_shapes  # not the script: it holds what only `save` needs
        flat_input = len(self.input_shape) == 1
        flat = [i for i, shape in enumerate(shapes) if len(shape) == 1]
        if not flat_input and not flat:
            return run

        def reshaping(x: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
            images = x.shape[0]
            results = run(x.reshape(images, x.shape[1], 1, 1) if flat_input else x)
            for i in flat:
                results[i] = results[i].reshape(images, *shapes[i])
            return results

        return reshaping


def lower(
    graph: ir.Graph,
    mode: Mode = "fp32",
    *,
    group: int = 1,
    throughput: bool = False,
    codes_in: bool = False,
    codes_out: bool = False,
    tune: bool = False,
) -> Lowered:
    """The plan of a graph, which is rewritten on the way (`passes.optimize`). The graph is not needed afterwards.

    mode: "threshold" decides codes by exact integer thresholds wherever a step has no residual. "requantise" has each step's values in
        units of its result's scale, as ONNX's integer operators define it: rint(float32(acc) * (x_scale * w_scale / y_scale)) + zero; the
        input is divided by its scale.
    codes_in, codes_out: uint8 codes instead of floats at the ends; there must be one quantizer for the input, and each output must come
    from a Quantize.
    Raises LayerError, naming the layer, where integers cannot do what the graph asks.
    """
    optimize(graph)
    return _Lowering(graph, mode, codes_in).finish(group, throughput, codes_out, tune)


class _Lowering:
    def __init__(self, graph: ir.Graph, mode: Mode, codes_in: bool) -> None:
        self.graph = graph
        self.mode = mode
        self.codes_in = codes_in
        self.plan = Script(new_plan())
        self.demands: dict[int, list[Demand]] = {id(node): [] for node in graph.nodes}
        self.steps: list[list[Step]] = []  # of the nodes, last node first
        self.packed: dict[tuple[int, int], _core.Packed] = {}
        self.wishes = 0
        self.input_quantizer: Quantizer | None = None

    def finish(self, group: int, throughput: bool, codes_out: bool, tune: bool) -> Lowered:
        outputs = []
        for node in self.graph.outputs:
            if codes_out and not isinstance(node.op, ir.Quantize):
                raise LayerError(f"codes_out=True: the network ends in {node}, whose codes nobody has defined; end it in ulp.nn.Quantize()")
            outputs.append(self.ask(node, node.op.quantizer if codes_out and isinstance(node.op, ir.Quantize) else None))
        for node in reversed(self.graph.nodes):
            demands = self.demands[id(node)]
            self.steps.append([])
            if demands or node is self.graph.input:
                _RULES[type(node.op)](self, node, node.op, demands)
        labels = []
        for step in self._ordered():
            for slot in step.writes:
                self._declare(slot.tensor.find())
            step.emit()
            weights = getattr(step.node.op, "weights", None)
            labels.append(Label(step.node.name, step.node.kind, weights.bits if weights else 0))
        for slot in outputs:
            self.plan.output(slot.tensor.find().id, False)
            labels.append(Label("output", "Output"))
        self.plan.finalize(group, throughput, tune)
        shapes = [node.shape for node in self.graph.outputs]
        return Lowered(self.plan, labels, self.graph.input.shape, shapes, self.input_quantizer)

    def _ordered(self) -> list[Step]:
        """All steps in the order of the nodes, but those that read behind those that write."""
        steps = [step for of_node in reversed(self.steps) for step in of_node]
        writers: dict[int, list[Step]] = {}
        for step in steps:
            for slot in step.writes:
                writers.setdefault(id(slot.tensor.find()), []).append(step)
        done: set[int] = set()
        order: list[Step] = []
        for first in steps:
            stack = [(first, False)]
            while stack:
                step, ready = stack.pop()
                if ready:
                    order.append(step)
                elif id(step) not in done:
                    done.add(id(step))
                    stack.append((step, True))
                    stack.extend((w, False) for slot in reversed(step.reads) for w in reversed(writers[id(slot.tensor.find())]))
        return order

    def _declare(self, tensor: Tensor) -> None:
        if tensor.id < 0:
            size = tensor.height, tensor.width, tensor.channels
            q = tensor.quantizer
            tensor.id = self.plan.floats(*size) if q is None else self.plan.codes(*size, q.bits, q.zero, q.scale)

    # Wishes.

    def ask(
        self, value: ir.Node, quantizer: Quantizer | None, low: float = -math.inf, high: float = math.inf, tight: bool | None = None
    ) -> Slot:
        """A tensor of its own for a value, as codes or floats."""
        height, width, channels = ir.layout(value)
        slot = Slot(Tensor(height, width, channels, quantizer, tight), 0, channels)
        self.push(value, Demand(slot, low, high))
        return slot

    def push(self, value: ir.Node, demand: Demand) -> None:
        tensor = demand.slot.tensor
        if (tensor.height, tensor.width, demand.slot.channels) != ir.layout(value):
            raise LayerError(
                f"{value}: a flattened image of several pixels can be multiplied (Linear), but not concatenated with or added to "
                f"what has another shape; flatten behind the Concat or Add, or pool to 1 x 1 first"
            )
        if demand.quantizer is not None:
            low, high = demand.quantizer.effective_clamp(demand.low, demand.high)
            demand = Demand(demand.slot, low, high, demand.residual, demand.adder)
        known = self.demands[id(value)]
        for other in known:
            if (
                demand.slot.whole
                and other.slot.whole
                and demand.quantizer == other.quantizer
                and demand.clamp == other.clamp
                and same_residual(demand.residual, other.residual)
                and merge(tensor.find(), other.slot.tensor.find())
            ):
                return
        self.wishes += 1
        if self.wishes > _MOST_WISHES * len(self.graph.nodes):
            raise LayerError(f"{value}: concatenations of concatenations with themselves ask for too many copies of one result")
        known.append(demand)

    def add_step(self, node: ir.Node, emit: Callable[[], None], reads: list[Slot], writes: list[Slot]) -> None:
        self.steps[-1].append(Step(node, emit, reads, writes))

    def at(self, slot: Slot) -> tuple[int, int]:
        return slot.tensor.find().id, slot.channel

    def codes_only(self, node: ir.Node, demand: Demand) -> Quantizer:
        """The quantizer of a demand on a node that cannot add and knows no floats."""
        self.no_residual(node, demand)
        if demand.quantizer is None:
            raise LayerError(f"{node} is asked for floats, but works on codes: put ulp.nn.Quantize() behind it")
        return demand.quantizer

    def no_residual(self, node: ir.Node, demand: Demand) -> None:
        if demand.residual is not None:
            raise LayerError(
                f"{demand.adder}: its first operand comes from {node}, and only a Conv2d, Linear, average or Quantize can take in a sum; "
                f"pass that one first, or put ulp.nn.Quantize() behind {node}"
            )

    def groups(self, node: ir.Node, demands: list[Demand]) -> list[Group]:
        """The epilogues that meet the demands; where clamps differ, what can be clamped as codes is, in steps of its own.

        clamp commutes with a quantizer: the codes of clamp(x) are the clamped codes of x, and those codes' values round to themselves.
        """
        made: list[Group] = []
        # What can join several groups comes last.
        for demand in sorted(demands, key=lambda d: (d.quantizer is not None, not d.clamps)):
            for group in made:
                if same_residual(group.residual, demand.residual) and group.meets(demand):
                    group.slots.append(demand.slot)
                    break
            else:
                made.append(Group(demand.low, demand.high, demand.residual, [demand.slot]))
        for plain in [group for group in made if (group.low, group.high) == FREE]:
            for other in [group for group in made if group is not plain and same_residual(group.residual, plain.residual)]:
                if all(slot.tensor.quantizer is not None for slot in other.slots):
                    made.remove(other)
                    for slot in other.slots:
                        self.rescale(node, self.base(plain, slot), Group(other.low, other.high, None, [slot]))
        return [
            Group(group.low, group.high, group.residual, group.slots[i : i + _MOST_TARGETS])
            for group in made
            for i in range(0, len(group.slots), _MOST_TARGETS)
        ]

    def base(self, group: Group, slot: Slot) -> Slot:
        """A whole tensor of `slot`'s quantizer among the group's, a new one if there is none."""
        for known in group.slots:
            if known.whole and known.tensor.quantizer == slot.tensor.quantizer:
                return known
        tensor = slot.tensor
        group.slots.append(Slot(Tensor(tensor.height, tensor.width, slot.channels, tensor.quantizer), 0, slot.channels))
        return group.slots[-1]

    # Steps.

    def finish_of(self, group: Group, terms: tuple[FloatArray, FloatArray] | None, offset: int, channels: int) -> dict[str, Any]:
        """The epilogue of the group's channels offset..offset + channels. terms: scale and bias of those channels."""
        slots = [slot.part(offset, channels) for slot in group.slots]
        unit = self.unit_of(group)
        finish: dict[str, Any] = {
            "low": group.low / unit,
            "high": group.high / unit,
            "residual": None if group.residual is None else self.at(group.residual.part(offset, channels)),
            "targets": [self.at(slot) for slot in slots],
            "thresholds": [None] * len(slots),
        }
        if unit != 1:
            finish["unit"] = unit
        if terms is not None:
            finish["scale"], finish["bias"] = terms
        for i, slot in enumerate(slots):
            quantizer = slot.tensor.quantizer
            if quantizer is None or not (quantizer.bipolar or quantizer.ties_to_odd or self.mode == "threshold"):
                continue
            if terms is not None and group.residual is None:
                in_units = replace(quantizer, scale=quantizer.scale / unit)
                finish["thresholds"][i] = thresholds(*terms, finish["low"], finish["high"], in_units)
            elif quantizer.bipolar:
                raise LayerError("codes of -1 and +1 come from a Conv2d's or a Linear's sums only, without a shortcut")
        return finish

    def unit_of(self, group: Group) -> float:
        """What the group's values count in: with mode="requantise" the scale of its result, where that is one of codes."""
        first = group.slots[0].tensor.quantizer
        if self.mode != "requantise" or first is None or any(slot.tensor.quantizer is None for slot in group.slots):
            return 1.0
        return first.scale

    def finish_of_sums(self, group: Group, op: ir.Conv | ir.Linear, offset: int, channels: int) -> dict[str, Any]:
        """The epilogue of sums of products: scale and bias of the group's channels, each rounded to float32 before it counts in units."""
        w, part, unit = op.weights, slice(offset, offset + channels), self.unit_of(group)
        scale = (w.scale[part] * op.quantizer.scale).astype(np.float32) / np.float32(unit)
        finish = self.finish_of(group, (scale, (w.bias[part] / unit).astype(np.float32)), offset, channels)
        if w.start is not None:
            finish["start"] = w.start[part]
        return finish

    def reads_of(self, group: Group, source: Slot) -> list[Slot]:
        return [source] if group.residual is None else [source, group.residual]

    def rescale(self, node: ir.Node, source: Slot, group: Group) -> None:
        def emit() -> None:
            self.plan.rescale(self.at(source)[0], self.finish_of(group, None, 0, source.channels))

        self.add_step(node, emit, self.reads_of(group, source), group.slots)

    def gather(self, node: ir.Node, source: Slot, target: Slot, rows: ir.Indices, columns: ir.Indices) -> None:
        def emit() -> None:
            self.plan.gather(*self.at(source), source.channels, self.at(target), rows, columns)

        self.add_step(node, emit, [source], [target])

    def copy(self, node: ir.Node, source: Slot, target: Slot) -> None:
        tensor = source.tensor
        self.gather(node, source, target, np.arange(tensor.height, dtype=np.int32), np.arange(tensor.width, dtype=np.int32))

    def weight_matrix(self, w: ir.Weights, part: int, integers: npt.NDArray[np.int8], tight: bool = False) -> _core.Packed:
        """(O, C, kh, kw) integers as (kh * kw * C padded to 4, O), packed; kept under `part` for steps that share it.

        tight: only kw * C is padded to 4.
        """
        key = id(w), part
        if key not in self.packed:
            rows = integers.transpose(2, 3, 1, 0)
            if tight:
                rows = rows.reshape(rows.shape[0], 1, -1, len(integers))
            pads = -rows.shape[2] % 4
            # Behind the last channel of all lies the zero point, which any weight meets; behind others lies what needs a weight of zero.
            binary = w.bits == 1 and not (tight and pads)
            padded = np.pad(rows, ((0, 0), (0, 0), (0, pads), (0, 0)), constant_values=1 if binary else w.zero)
            bits = w.bits if binary else max(2, w.bits)
            self.packed[key] = _core.pack(np.ascontiguousarray(padded.reshape(-1, len(integers))), bits)
        return self.packed[key]

    # Nodes. Each rule gets the demands on the node's result, of which there is at least one (none only for the input).

    def input(self, node: ir.Node, _: ir.Input, demands: list[Demand]) -> None:
        bases: list[Slot] = []
        for demand in demands:
            self.no_residual(node, demand)
            if demand.quantizer is None:
                raise LayerError("the network's result is its own input: there is nothing to compile")
            if demand.quantizer.bipolar:
                raise LayerError("codes of -1 and +1 come from a Conv2d's or a Linear's sums only, not from the input")
            if demand.slot.whole and not demand.clamps:
                bases.append(demand.slot)
        direct = Group(*FREE, None, bases)
        for demand in demands:
            if demand.clamps:
                self.rescale(node, self.base(direct, demand.slot), Group(*demand.clamp, None, [demand.slot]))
            elif not demand.slot.whole:
                self.copy(node, self.base(direct, demand.slot), demand.slot)
        if not bases:
            raise LayerError("no layer uses the network's input")
        if len(bases) > (1 if self.codes_in else _MOST_TARGETS):
            kinds = ", ".join(str(slot.tensor.quantizer) for slot in bases)
            most = "one quantizer (codes_in=True)" if self.codes_in else f"{_MOST_TARGETS} different quantizers"
            raise LayerError(f"the input may go through at most {most}, but {len(bases)} layers disagree: {kinds}")
        height, width, channels = ir.layout(node)

        def emit() -> None:
            if self.codes_in:
                self.plan.input_codes(self.at(bases[0])[0], False)
            else:
                self.plan.input_floats(channels, height, width, [self.at(slot)[0] for slot in bases], self.mode == "requantise")

        self.input_quantizer = bases[0].tensor.quantizer if len(bases) == 1 else None
        self.steps[-1].insert(0, Step(node, emit, [], bases))

    def conv(self, node: ir.Node, op: ir.Conv, demands: list[Demand]) -> None:
        each, own = op.weights.integers.shape[1], len(op.weights.integers) // op.groups
        tight = _tight(op, each)
        source = self.ask(node.inputs[0], op.quantizer, tight=tight if op.groups == 1 else None)
        for group in self.groups(node, demands):
            if op.groups > 1 and op.groups == source.channels == node.shape[0] and self.depthwise(node, op, source, group):
                continue
            for g in range(op.groups):
                part = source.part(g * each, each)
                if op.groups > 1 and each % 4 and (op.weights.bits == 1 or source.channels < 4):
                    # Weights without a zero cannot pass over the next group's channels: the slice gets a tensor of its own.
                    alone = Slot(Tensor(source.tensor.height, source.tensor.width, each, op.quantizer), 0, each)
                    self.copy(node, part, alone)
                    part = alone
                integers = op.weights.integers[g * own : (g + 1) * own]
                emit = partial(self.emit_conv, op, part, group, g, integers, tight and part.whole)
                self.add_step(node, emit, self.reads_of(group, part), [slot.part(g * own, own) for slot in group.slots])

    def emit_conv(self, op: ir.Conv, source: Slot, group: Group, g: int, integers: npt.NDArray[np.int8], tight: bool) -> None:
        own = len(integers)
        matrix = self.weight_matrix(op.weights, g, integers, tight)
        finish = self.finish_of_sums(group, op, g * own, own)
        kernel = integers.shape[2], integers.shape[3]
        self.plan.conv(*self.at(source), matrix, kernel, op.stride, op.padding, op.dilation, op.weights.zero, finish, None)

    def depthwise(self, node: ir.Node, op: ir.Conv, source: Slot, group: Group) -> bool:
        """Add a depthwise step; False where weights less their zero point do not fit int8."""
        w = op.weights
        weights = w.integers[:, 0].astype(np.int16) - w.zero
        if weights.min() < -128 or weights.max() > 127:
            return False
        taps = np.ascontiguousarray(weights.transpose(1, 2, 0).astype(np.int8))

        def emit() -> None:
            finish = self.finish_of_sums(group, op, 0, source.channels)
            self.plan.depthwise(self.at(source)[0], taps, op.stride, op.padding, op.dilation, finish)

        self.add_step(node, emit, self.reads_of(group, source), group.slots)
        return True

    def linear(self, node: ir.Node, op: ir.Linear, demands: list[Demand]) -> None:
        source = self.ask(node.inputs[0], op.quantizer, tight=False)
        height, width, channels = ir.layout(node.inputs[0])
        integers = op.weights.integers.reshape(-1, channels, height, width)
        for group in self.groups(node, demands):
            emit = partial(self.emit_linear, op, source, group, integers)
            self.add_step(node, emit, self.reads_of(group, source), group.slots)

    def emit_linear(self, op: ir.Linear, source: Slot, group: Group, integers: npt.NDArray[np.int8]) -> None:
        finish = self.finish_of_sums(group, op, 0, len(integers))
        self.plan.linear(self.at(source)[0], self.weight_matrix(op.weights, 0, integers), op.weights.zero, finish, None)

    def window_mean(self, node: ir.Node, op: ir.WindowMean, demands: list[Demand]) -> None:
        source = self.ask(node.inputs[0], op.quantizer)

        def emit(group: Group) -> None:
            finish = self.finish_of(group, None, 0, source.channels)
            self.plan.window_mean(self.at(source)[0], op.rows, op.columns, op.divisor, finish)

        for group in self.groups(node, demands):
            self.add_step(node, partial(emit, group), self.reads_of(group, source), group.slots)

    def quantize(self, node: ir.Node, op: ir.Quantize, demands: list[Demand]) -> None:
        rest = []
        for demand in demands:
            if demand.quantizer == op.quantizer and demand.residual is None:
                self.push(node.inputs[0], demand)  # codes of codes are the same codes
            else:
                rest.append(demand)
        if rest:
            source = self.ask(node.inputs[0], op.quantizer)
            for group in self.groups(node, rest):
                self.rescale(node, source, group)

    def max_pool(self, node: ir.Node, op: ir.MaxPool, demands: list[Demand]) -> None:
        def emit(source: Slot, target: Slot) -> None:
            self.plan.max_pool(self.at(source)[0], self.at(target), op.rows, op.columns, op.dilation, op.falls)

        for demand in demands:
            source = self.ask(node.inputs[0], self.codes_only(node, demand), demand.low, demand.high)
            self.add_step(node, partial(emit, source, demand.slot), [source], [demand.slot])

    def gather_rule(self, node: ir.Node, op: ir.Gather, demands: list[Demand]) -> None:
        for demand in demands:
            source = self.ask(node.inputs[0], self.codes_only(node, demand), demand.low, demand.high)
            self.gather(node, source, demand.slot, op.rows, op.columns)

    def clamp(self, node: ir.Node, op: ir.Clamp, demands: list[Demand]) -> None:
        for demand in demands:
            self.no_residual(node, demand)
            low, high = (min(max(bound, demand.low), demand.high) for bound in (op.low, op.high))
            self.push(node.inputs[0], Demand(demand.slot, low, high))

    def add(self, node: ir.Node, op: ir.Add, demands: list[Demand]) -> None:
        residual = self.ask(node.inputs[1], op.quantizer)
        if ir.layout(node.inputs[0]) != ir.layout(node.inputs[1]):
            raise LayerError(f"{node} adds a flattened image to what never was one: flatten behind the Add, or pool to 1 x 1 first")
        for demand in demands:
            self.no_residual(node, demand)
            self.push(node.inputs[0], Demand(demand.slot, demand.low, demand.high, residual, node))

    def concat(self, node: ir.Node, _: ir.Concat, demands: list[Demand]) -> None:
        for demand in demands:
            offset = 0
            for source in node.inputs:
                channels = source.shape[0]
                residual = None if demand.residual is None else demand.residual.part(offset, channels)
                self.push(source, Demand(demand.slot.part(offset, channels), demand.low, demand.high, residual, demand.adder))
                offset += channels

    def flatten(self, node: ir.Node, _: ir.Flatten, demands: list[Demand]) -> None:
        for demand in demands:
            self.push(node.inputs[0], demand)


_RULES: dict[type, Callable[[_Lowering, ir.Node, Any, list[Demand]], None]] = {
    ir.Input: _Lowering.input,
    ir.Conv: _Lowering.conv,
    ir.Linear: _Lowering.linear,
    ir.WindowMean: _Lowering.window_mean,
    ir.Quantize: _Lowering.quantize,
    ir.MaxPool: _Lowering.max_pool,
    ir.Gather: _Lowering.gather_rule,
    ir.Clamp: _Lowering.clamp,
    ir.Add: _Lowering.add,
    ir.Concat: _Lowering.concat,
    ir.Flatten: _Lowering.flatten,
}


def _tight(op: ir.Conv, channels: int) -> bool:
    """Whether a convolution reads an image of so few channels that a row of its kernel is one stretch of pixels without padded channels."""
    return channels < 4 and op.weights.integers.shape[3] > 1 and op.dilation[1] == 1
