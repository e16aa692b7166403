"""What the rules of lowering work with: requests for results, the epilogues that meet them, and steps that are to be made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import numpy.typing as npt

from ulp import _core

from . import graph as ir
from .finish import Mode, finish_of
from .quantizer import FloatArray, Quantizer
from .request import FREE, Group, Request, Slot, Tensor, merge, same_residual
from .script import Script
from .shapes import LayerError

MAX_TARGETS = 4
"""What one step can write to."""

# Per node of a graph. A concatenation of a result with itself requests it twice, a concatenation of that four times, and so on.
_MAX_REQUESTS = 256


# Outputs whose weights are transposed at a time.
_OUTPUTS = 64


@dataclass
class Step:
    """One call of the plan. `emit` makes it, once all tensors have ids.

    group: of its epilogue, if it has one, which it reads when it is emitted. table: given where the result's codes are those of a table, by
    the code of the slot read, or of the two slots read, the second one's bits above the first one's. With one slot read, `emit` uses
    `reads` and `table` as they are then; with two, it does not use the table.
    """

    node: ir.Node
    emit: Callable[[], None]
    reads: list[Slot]
    writes: list[Slot]
    group: Group | None = None
    table: npt.NDArray[np.uint8] | None = None


class Lowering:
    """A graph on its way to the plan that `script` records."""

    def __init__(self, graph: ir.Graph, mode: Mode, script: Script) -> None:
        self.graph = graph
        self.mode = mode
        self.plan = cast("_core.Plan", script)
        self.requests: dict[int, list[Request]] = {id(node): [] for node in graph.nodes}
        self.steps: list[list[Step]] = []  # of the nodes, last node first
        self.finals: dict[int, dict[str, Slot]] = {}  # of recurrent nodes: which states go where
        self.packed: dict[tuple[int, int], _core.Packed] = {}
        self.request_count = 0
        self.input_quantizer: Quantizer | None = None

    def declare(self, tensor: Tensor) -> None:
        """Add the tensor to the plan, if it is not there yet."""
        if tensor.id >= 0:
            return
        height, width, channels, q = tensor.height, tensor.width, tensor.channels, tensor.quantizer
        if q is None:
            tensor.id = self.plan.floats(height=height, width=width, channels=channels)
        else:
            tensor.id = self.plan.codes(height=height, width=width, channels=channels, bits=q.bits, zero=q.zero, scale=q.scale)

    # Requests.

    def request(
        self, value: ir.Node, quantizer: Quantizer | None, low: float = -math.inf, high: float = math.inf, tight: bool | None = None
    ) -> Slot:
        """Request a value as codes or floats, in a tensor of its own."""
        height, width, channels = ir.layout(value)
        slot = Slot(Tensor(height, width, channels, quantizer, tight), 0, channels)
        self.push(value, Request(slot, low, high))
        return slot

    def push(self, value: ir.Node, request: Request) -> None:
        """Request a value; a request that equals an earlier one takes its tensor."""
        tensor = request.slot.tensor
        if (tensor.height, tensor.width, request.slot.channels) != ir.layout(value):
            raise LayerError(
                f"{value}: a flattened image of several pixels can be multiplied (Linear), but not concatenated with or added to "
                f"what has another shape; flatten behind the Concat or Add, or pool to 1 x 1 first"
            )
        if request.quantizer is not None:
            low, high = request.quantizer.effective_clamp(request.low, request.high)
            request = Request(request.slot, low, high, request.residual, request.adder)
        known = self.requests[id(value)]
        for other in known:
            if (
                request.slot.whole
                and other.slot.whole
                and request.quantizer == other.quantizer
                and request.clamp == other.clamp
                and same_residual(request.residual, other.residual)
                and merge(tensor.find(), other.slot.tensor.find())
            ):
                return
        self.request_count += 1
        if self.request_count > _MAX_REQUESTS * len(self.graph.nodes):
            raise LayerError(f"{value}: concatenations of concatenations with themselves ask for too many copies of one result")
        known.append(request)

    def add_step(
        self,
        node: ir.Node,
        emit: Callable[[], None],
        reads: list[Slot],
        writes: list[Slot],
        group: Group | None = None,
        table: npt.NDArray[np.uint8] | None = None,
    ) -> Step:
        """Note a step of the node; see `Step`."""
        step = Step(node, emit, reads, writes, group, table)
        self.steps[-1].append(step)
        return step

    def codes_only(self, node: ir.Node, request: Request) -> Quantizer:
        """The quantizer of a request to a node that cannot add and knows no floats."""
        self.no_residual(node, request)
        if request.quantizer is None:
            raise LayerError(f"{node} is asked for floats, but works on codes: put ulp.nn.Quantize() behind it")
        return request.quantizer

    def no_residual(self, node: ir.Node, request: Request) -> None:
        """LayerError where a sum is requested of a node that cannot add."""
        if request.residual is not None:
            raise LayerError(
                f"{request.adder}: its first operand comes from {node}, and only a Conv2d, Linear, average or Quantize can take in a sum; "
                f"pass that one first, or put ulp.nn.Quantize() behind {node}"
            )

    def groups(self, node: ir.Node, requests: list[Request]) -> list[Group]:
        """The epilogues that meet the requests. Where clamps differ, codes are clamped in steps of their own.

        clamp commutes with a quantizer: the codes of clamp(x) are the clamped codes of x, and those codes' values round to themselves.
        With steps they need not.
        """
        made: list[Group] = []
        # A request that can join several groups comes last.
        for request in sorted(requests, key=lambda r: (r.quantizer is not None, not r.clamps)):
            for group in made:
                if same_residual(group.residual, request.residual) and group.meets(request):
                    group.slots.append(request.slot)
                    break
            else:
                made.append(Group(request.low, request.high, request.residual, [request.slot]))
        for plain in [group for group in made if (group.low, group.high) == FREE]:
            for other in [group for group in made if group is not plain and same_residual(group.residual, plain.residual)]:
                if all(slot.tensor.quantizer is not None and slot.tensor.quantizer.steps is None for slot in other.slots):
                    made.remove(other)
                    for slot in other.slots:
                        self.rescale(node, self.base(plain, slot), Group(other.low, other.high, None, [slot]))
        return [
            Group(group.low, group.high, group.residual, group.slots[i : i + MAX_TARGETS])
            for group in made
            for i in range(0, len(group.slots), MAX_TARGETS)
        ]

    def base(self, group: Group, slot: Slot) -> Slot:
        """A whole tensor of `slot`'s quantizer among the group's, a new one if there is none."""
        for known in group.slots:
            if known.whole and known.tensor.quantizer == slot.tensor.quantizer:
                return known
        tensor = slot.tensor
        group.slots.append(Slot(Tensor(tensor.height, tensor.width, slot.channels, tensor.quantizer), 0, slot.channels))
        return group.slots[-1]

    # Steps that several rules make.

    def reads_of(self, group: Group, source: Slot) -> list[Slot]:
        """What a step with the group's epilogue reads."""
        return [source] if group.residual is None else [source, group.residual]

    def rescale(self, node: ir.Node, source: Slot, group: Group) -> None:
        """Steps that turn codes into the group's results: one look-up for each that is codes and no sum."""
        rest = []
        for slot in group.slots:
            own = source.tensor.quantizer
            if group.residual is not None or slot.tensor.quantizer is None or own is None:
                rest.append(slot)
            else:
                self.look_up(node, source, own.values(np.arange(own.levels + 1, dtype=np.uint8))[None], group.low, group.high, slot)
        if not rest:
            return
        group = Group(group.low, group.high, group.residual, rest)

        def emit() -> None:
            self.plan.rescale(source=source.place[0], finish=finish_of(self.mode, group, 0, source.channels))

        self.add_step(node, emit, self.reads_of(group, source), group.slots, group)

    def gather(self, node: ir.Node, source: Slot, target: Slot, rows: ir.Indices, columns: ir.Indices) -> None:
        """A step that takes pixels in another order."""

        def emit() -> None:
            tensor, channel = source.place
            self.plan.gather(
                source=tensor, source_channel=channel, channels=source.channels, target=target.place, rows=rows, columns=columns
            )

        self.add_step(node, emit, [source], [target])

    def combine(self, node: ir.Node, sources: list[Slot], multiply: bool, low: float, high: float, target: Slot) -> None:
        """A step that adds or multiplies images."""
        quantizer = target.tensor.quantizer
        if quantizer is not None and (quantizer.of_sums or quantizer.ties_to_odd):
            raise LayerError(f"{node}: codes by thresholds, of -1 and +1, and ties to odd codes, come from sums of layers only")

        def emit() -> None:
            self.plan.combine(
                operands=[source.place for source in sources],
                channels=target.channels,
                multiply=multiply,
                low=low,
                high=high,
                targets=[target.place],
                divide=self.mode == "requantize",
            )

        table = self.table_of_pairs(sources, multiply, low, high, target) if len(sources) == 2 else None
        self.add_step(node, emit, sources, [target], table=table)

    def table_of_pairs(self, sources: list[Slot], multiply: bool, low: float, high: float, target: Slot) -> npt.NDArray[np.uint8] | None:
        """The codes of a sum or product of two images by the codes of both, where these have at most 8 bits together; else None."""
        one, other, result = (slot.tensor.quantizer for slot in (*sources, target))
        sides = [(slot.tensor.height, slot.tensor.width) for slot in sources]
        if one is None or other is None or result is None or one.bits + other.bits > 8 or sides[0] != sides[1]:
            return None
        index = np.arange(2 ** (one.bits + other.bits))
        a = one.values((index % 2**one.bits).astype(np.uint8))
        b = other.values((index >> one.bits).astype(np.uint8))
        with np.errstate(over="ignore"):
            value = np.minimum(np.maximum(a * b if multiply else a + b, np.float32(low)), np.float32(high))
            return replace(result, scale=1.0).codes(value / np.float32(result.scale)) if self.mode == "requantize" else result.codes(value)

    def look_up(self, node: ir.Node, source: Slot, values: FloatArray, low: float, high: float, target: Slot) -> None:
        """A step that takes each code's value, clamped, from a table (rows, codes)."""
        quantizer = target.tensor.quantizer
        if quantizer is not None and quantizer.steps is not None:
            quantizer = replace(quantizer, steps=quantizer.steps.part(target.channel, target.channels))
        clamped = np.minimum(np.maximum(values, np.float32(low)), np.float32(high))
        if self.mode == "requantize" and quantizer is not None and not quantizer.of_sums:
            # By a division that rounds once, as ONNX defines it.
            with np.errstate(over="ignore"):
                clamped, quantizer = clamped / np.float32(quantizer.scale), replace(quantizer, scale=1.0)

        def emit() -> None:
            place = step.reads[0].place[0]  # another source and table than here, if it took in the table before it
            if quantizer is None:
                self.plan.lookup(source=place, target=target.place, values=clamped)
            else:
                codes = quantizer.codes(clamped) if step.table is None else step.table[None]
                self.plan.lookup(source=place, target=target.place, codes=codes)

        table = None
        if quantizer is not None and source.tensor.quantizer is not None and len(codes := quantizer.codes(clamped)) == 1:
            table = codes[0]
        step = self.add_step(node, emit, [source], [target], table=table)

    def unadded(self, node: ir.Node, request: Request) -> Slot:
        """Where a node puts the request's values: where a sum is requested, into floats, to which a further step adds."""
        if request.residual is None:
            return request.slot
        height, width, channels = ir.layout(node)
        floats = Slot(Tensor(height, width, channels, None), 0, channels)
        self.combine(request.adder or node, [floats, request.residual], False, request.low, request.high, request.slot)
        return floats

    def copy(self, node: ir.Node, source: Slot, target: Slot) -> None:
        """A step that copies channels."""
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
            # Binary weights have no zero: they may only be padded where the codes are zero, behind the tensor's last channel.
            binary = w.bits == 1 and not (tight and pads)
            padded = np.pad(rows, ((0, 0), (0, 0), (0, pads), (0, 0)), constant_values=1 if binary else w.zero) if pads else rows
            bits = w.bits if binary else max(2, w.bits)
            self.packed[key] = _core.pack(_transposed(padded).reshape(-1, len(integers)), bits)
        return self.packed[key]


def _transposed(rows: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Contiguous, copied in pieces of which the source stays in the cache: more than twice as fast for 512 outputs."""
    made = np.empty(rows.shape, np.int8)
    for first in range(0, rows.shape[-1], _OUTPUTS):
        made[..., first : first + _OUTPUTS] = rows[..., first : first + _OUTPUTS]
    return made
