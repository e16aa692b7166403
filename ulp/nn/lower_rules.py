"""How each kind of node meets the requests for its result, of which there is at least one (none only for the input)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from . import graph as ir
from .curves import through
from .finish import finish_of, finish_of_sums
from .lower_rows import ROW_RULES
from .lowering import MAX_TARGETS, Lowering, Step
from .request import FREE, Group, Request, Slot, Tensor
from .shapes import LayerError
from .subpixel import SubPixels, sub_pixels


def _input(lowering: Lowering, node: ir.Node, op: ir.Input, requests: list[Request]) -> None:
    bases: list[Slot] = []
    for request in requests:
        lowering.no_residual(node, request)
        if request.quantizer is None and (op.codes or node in lowering.graph.outputs):
            what = "is asked for floats, and gives codes (codes_in=True)" if op.codes else "is its result: there is nothing to compile"
            raise LayerError(f"the network's input {what}")
        if request.quantizer is not None and request.quantizer.of_sums:
            what = "codes of -1 and +1" if request.quantizer.bipolar else "codes by thresholds"
            raise LayerError(f"{what} come from a Conv2d's or a Linear's sums only, not from the input")
        if request.slot.whole and not request.clamps:
            bases.append(request.slot)
    direct = Group(*FREE, None, bases)
    for request in requests:
        if request.quantizer is None and (request.clamps or not request.slot.whole):
            lowering.combine(node, [lowering.base(direct, request.slot)], False, *request.clamp, request.slot)
        elif request.clamps:
            lowering.rescale(node, lowering.base(direct, request.slot), Group(*request.clamp, None, [request.slot]))
        elif not request.slot.whole:
            lowering.copy(node, lowering.base(direct, request.slot), request.slot)
    if not bases:
        raise LayerError("no layer uses the network's input")
    if len(bases) > (1 if op.codes else MAX_TARGETS):
        kinds = ", ".join(str(slot.tensor.quantizer) for slot in bases)
        allowed = "one quantizer (codes_in=True)" if op.codes else f"{MAX_TARGETS} different quantizers"
        raise LayerError(f"the input may go through at most {allowed}, but {len(bases)} layers disagree: {kinds}")
    height, width, channels = ir.layout(node)

    def emit() -> None:
        if op.codes:
            lowering.plan.input_codes(tensor=bases[0].place[0], nhwc=op.channels_last)
        else:
            targets, divide = [slot.place[0] for slot in bases], lowering.mode == "requantize"
            lowering.plan.input_floats(channels=channels, height=height, width=width, targets=targets, divide=divide, nhwc=op.channels_last)

    lowering.input_quantizer = bases[0].tensor.quantizer if len(bases) == len(lowering.graph.inputs) == 1 else None
    lowering.steps[-1].insert(0, Step(node, emit, [], bases))


def _conv(lowering: Lowering, node: ir.Node, op: ir.Conv, requests: list[Request]) -> None:
    if all(_is_movable(request) for request in requests) and (form := sub_pixels(node)) is not None:
        _sub_pixels(lowering, node, form, requests)
        return
    each, own = op.weights.integers.shape[1], len(op.weights.integers) // op.groups
    tight = _tight(op, each)
    source = lowering.request(node.inputs[0], op.quantizer, tight=tight if op.groups == 1 else None)
    for group in lowering.groups(node, requests):
        if op.groups > 1 and op.groups == source.channels == node.shape[0] and _depthwise(lowering, node, op, source, group):
            continue
        for g in range(op.groups):
            part = source.part(g * each, each)
            if op.groups > 1 and each % 4 and (op.weights.bits == 1 or source.channels < 4):
                # Weights without a zero cannot pass over the next group's channels: the slice gets a tensor of its own.
                alone = Slot(Tensor(source.tensor.height, source.tensor.width, each, op.quantizer), 0, each)
                lowering.copy(node, part, alone)
                part = alone
            integers = op.weights.integers[g * own : (g + 1) * own]
            emit = partial(_emit_conv, lowering, op, part, group, g, integers, tight and part.whole)
            lowering.add_step(node, emit, lowering.reads_of(group, part), [slot.part(g * own, own) for slot in group.slots], group)


def _is_movable(request: Request) -> bool:
    """Whether the requested result can be moved to where it belongs: codes, of one quantizer for all channels, and no sum."""
    quantizer = request.quantizer
    return quantizer is not None and request.residual is None and (quantizer.steps is None or len(quantizer.steps.bounds) == 1)


def _sub_pixels(lowering: Lowering, node: ir.Node, form: SubPixels, requests: list[Request]) -> None:
    source = lowering.request(form.source, form.parts[0].quantizer)

    def move(wide: Slot, target: Slot) -> None:
        lowering.plan.rearrange(source=wide.place[0], target=target.place, rows=form.rows, columns=form.columns, channels=form.channels)

    count = sum(len(part.weights.integers) for part in form.parts)
    for group in lowering.groups(node, requests):
        wides = [Slot(Tensor(*form.size, count, slot.tensor.quantizer), 0, count) for slot in group.slots]
        at = 0
        for part in form.parts:
            integers = part.weights.integers
            slots = [wide.part(at, len(integers)) for wide in wides]
            at += len(integers)
            own = Group(group.low, group.high, None, slots)
            if part.groups > 1 and _depthwise(lowering, node, part, source, own):
                continue
            lowering.add_step(node, partial(_emit_conv, lowering, part, source, own, 0, integers, False), [source], slots, own)
        for wide, slot in zip(wides, group.slots, strict=True):
            lowering.add_step(node, partial(move, wide, slot), [wide], [slot])


def _emit_conv(lowering: Lowering, op: ir.Conv, source: Slot, group: Group, g: int, integers: npt.NDArray[np.int8], tight: bool) -> None:
    own = len(integers)
    tensor, channel = source.place
    lowering.plan.conv(
        source=tensor,
        source_channel=channel,
        weights=lowering.weight_matrix(op.weights, g, integers, tight),
        kernel=(integers.shape[2], integers.shape[3]),
        stride=op.stride,
        padding=op.padding,
        dilation=op.dilation,
        weight_zero=op.weights.zero,
        finish=finish_of_sums(lowering.mode, group, op, g * own, own),
        method=None,
    )


def _depthwise(lowering: Lowering, node: ir.Node, op: ir.Conv, source: Slot, group: Group) -> bool:
    """Add a depthwise step; False where weights less their zero point do not fit int8."""
    w = op.weights
    weights = w.integers[:, 0].astype(np.int16) - w.zero
    if weights.min() < -128 or weights.max() > 127:
        return False
    taps = np.ascontiguousarray(weights.transpose(1, 2, 0).astype(np.int8))

    def emit() -> None:
        finish = finish_of_sums(lowering.mode, group, op, 0, source.channels)
        lowering.plan.depthwise(
            source=source.place[0], weights=taps, stride=op.stride, padding=op.padding, dilation=op.dilation, finish=finish
        )

    lowering.add_step(node, emit, lowering.reads_of(group, source), group.slots, group)
    return True


def _linear(lowering: Lowering, node: ir.Node, op: ir.Linear, requests: list[Request]) -> None:
    source = lowering.request(node.inputs[0], op.quantizer, tight=False)
    height, width, channels = ir.layout(node.inputs[0])
    integers = op.weights.integers.reshape(-1, channels, height, width)
    for group in lowering.groups(node, requests):
        emit = partial(_emit_linear, lowering, op, source, group, integers)
        lowering.add_step(node, emit, lowering.reads_of(group, source), group.slots, group)


def _emit_linear(lowering: Lowering, op: ir.Linear, source: Slot, group: Group, integers: npt.NDArray[np.int8]) -> None:
    lowering.plan.linear(
        source=source.place[0],
        weights=lowering.weight_matrix(op.weights, 0, integers),
        weight_zero=op.weights.zero,
        finish=finish_of_sums(lowering.mode, group, op, 0, len(integers)),
        kernel=None,
    )


def _linear_floats(lowering: Lowering, node: ir.Node, op: ir.LinearFloats, requests: list[Request]) -> None:
    source = lowering.request(node.inputs[0], None)
    height, width, channels = ir.layout(node.inputs[0])
    matrix = op.matrix.reshape(-1, channels, height, width).transpose(2, 3, 1, 0).reshape(-1, len(op.bias))

    def emit(target: Slot) -> None:
        lowering.plan.linear_floats(source=source.place[0], target=target.place, weights=np.ascontiguousarray(matrix), bias=op.bias)

    for request in requests:
        if request.quantizer is not None or request.residual is not None or request.clamps:
            raise LayerError(f"{node} computes in floats, which can only be a result of the network")
        lowering.add_step(node, partial(emit, request.slot), [source], [request.slot])


def _window_mean(lowering: Lowering, node: ir.Node, op: ir.WindowMean, requests: list[Request]) -> None:
    source = lowering.request(node.inputs[0], op.quantizer)

    def emit(group: Group) -> None:
        finish = finish_of(lowering.mode, group, 0, source.channels)
        lowering.plan.window_mean(source=source.place[0], rows=op.rows, columns=op.columns, divisor=op.divisor, finish=finish)

    for group in lowering.groups(node, requests):
        lowering.add_step(node, partial(emit, group), lowering.reads_of(group, source), group.slots, group)


def _quantize(lowering: Lowering, node: ir.Node, op: ir.Quantize, requests: list[Request]) -> None:
    rest = []
    per_channel = op.quantizer.steps is not None and len(op.quantizer.steps.bounds) > 1
    for request in requests:
        if request.quantizer == op.quantizer and request.residual is None:
            if per_channel and not request.slot.whole:  # bounds are those of a tensor's channels, from the first one on
                lowering.copy(node, lowering.request(node.inputs[0], op.quantizer, request.low, request.high), request.slot)
                continue
            lowering.push(node.inputs[0], request)  # codes of codes are the same codes
        else:
            rest.append(request)
    if rest:
        source = lowering.request(node.inputs[0], op.quantizer)
        for group in lowering.groups(node, rest):
            lowering.rescale(node, source, group)


def _max_pool(lowering: Lowering, node: ir.Node, op: ir.MaxPool, requests: list[Request]) -> None:
    def emit(source: Slot, target: Slot) -> None:
        lowering.plan.max_pool(
            source=source.place[0], target=target.place, rows=op.rows, columns=op.columns, dilation=op.dilation, takes_min=op.falls
        )

    for request in requests:
        source = lowering.request(node.inputs[0], lowering.codes_only(node, request), request.low, request.high)
        lowering.add_step(node, partial(emit, source, request.slot), [source], [request.slot])


def _gather(lowering: Lowering, node: ir.Node, op: ir.Gather, requests: list[Request]) -> None:
    for request in requests:
        source = lowering.request(node.inputs[0], lowering.codes_only(node, request), request.low, request.high)
        lowering.gather(node, source, request.slot, op.rows, op.columns)


def _rearrange(lowering: Lowering, node: ir.Node, op: ir.Rearrange, requests: list[Request]) -> None:
    def emit(source: Slot, target: Slot) -> None:
        lowering.plan.rearrange(source=source.place[0], target=target.place, rows=op.rows, columns=op.columns, channels=op.channels)

    for request in requests:
        target = lowering.unadded(node, request)
        low, high = (request.low, request.high) if request.residual is None else FREE
        source = lowering.request(node.inputs[0], target.tensor.quantizer, low, high)
        lowering.add_step(node, partial(emit, source, target), [source], [target])


def _table(lowering: Lowering, node: ir.Node, op: ir.Table, requests: list[Request]) -> None:
    source = lowering.request(node.inputs[0], op.quantizer)
    for request in requests:
        target = lowering.unadded(node, request)
        low, high = (request.low, request.high) if request.residual is None else FREE
        lowering.look_up(node, source, op.values, low, high, target)


def _combine(lowering: Lowering, node: ir.Node, op: ir.Combine, requests: list[Request]) -> None:
    sources = [lowering.request(source, q) for source, q in zip(node.inputs, op.quantizers, strict=True)]
    for request in requests:
        target = lowering.unadded(node, request)
        low, high = (request.low, request.high) if request.residual is None else FREE
        lowering.combine(node, sources, op.multiply, low, high, target)


def _clamp(lowering: Lowering, node: ir.Node, op: ir.Clamp, requests: list[Request]) -> None:
    for request in requests:
        lowering.no_residual(node, request)
        low, high = (min(max(bound, request.low), request.high) for bound in (op.low, op.high))
        lowering.push(node.inputs[0], Request(request.slot, low, high))


def _curve(lowering: Lowering, node: ir.Node, op: ir.Curve, requests: list[Request]) -> None:
    for request in requests:
        quantizer = lowering.codes_only(node, request)
        if not request.slot.whole:
            lowering.copy(node, lowering.request(node, quantizer, request.low, request.high), request.slot)
            continue
        # The codes mean what they did, but others decide them.
        request.slot.tensor.quantizer = through(quantizer, op.function, request.low, request.high)
        lowering.push(node.inputs[0], Request(request.slot))


def _add(lowering: Lowering, node: ir.Node, op: ir.Add, requests: list[Request]) -> None:
    residual = lowering.request(node.inputs[1], op.quantizer)
    if ir.layout(node.inputs[0]) != ir.layout(node.inputs[1]):
        raise LayerError(f"{node} adds a flattened image to what never was one: flatten behind the Add, or pool to 1 x 1 first")
    for request in requests:
        lowering.no_residual(node, request)
        lowering.push(node.inputs[0], Request(request.slot, request.low, request.high, residual, node))


def _concat(lowering: Lowering, node: ir.Node, _: ir.Concat, requests: list[Request]) -> None:
    for request in requests:
        offset = 0
        for source in node.inputs:
            channels = source.shape[0]
            residual = None if request.residual is None else request.residual.part(offset, channels)
            lowering.push(source, Request(request.slot.part(offset, channels), request.low, request.high, residual, request.adder))
            offset += channels


def _flatten(lowering: Lowering, node: ir.Node, _: ir.Flatten, requests: list[Request]) -> None:
    for request in requests:
        lowering.push(node.inputs[0], request)


def _tight(op: ir.Conv, channels: int) -> bool:
    """Whether a convolution reads so few channels that it takes pixels without padding: a row of its kernel is then contiguous."""
    return channels < 4 and op.weights.integers.shape[3] > 1 and op.dilation[1] == 1


RULES: dict[type, Callable[[Lowering, ir.Node, Any, list[Request]], None]] = {
    ir.Input: _input,
    ir.Conv: _conv,
    ir.Linear: _linear,
    ir.LinearFloats: _linear_floats,
    ir.WindowMean: _window_mean,
    ir.Quantize: _quantize,
    ir.MaxPool: _max_pool,
    ir.Gather: _gather,
    ir.Rearrange: _rearrange,
    ir.Table: _table,
    ir.Combine: _combine,
    ir.Clamp: _clamp,
    ir.Curve: _curve,
    ir.Add: _add,
    ir.Concat: _concat,
    ir.Flatten: _flatten,
    **ROW_RULES,
}
