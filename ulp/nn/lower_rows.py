"""How nodes of sequences meet the requests for their results: functions of rows, products of two activations, products of floats."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from . import graph as ir
from .finish import finish_of
from .lowering import MAX_TARGETS, Lowering
from .request import FREE, Group, Request, Slot, Tensor
from .shapes import LayerError


def _rows(lowering: Lowering, node: ir.Node, op: ir.Rows, requests: list[Request]) -> None:
    sources = [lowering.request(source, q) for source, q in zip(node.inputs, op.quantizers, strict=True)]
    channels = node.shape[0] // op.groups

    def emit(targets: list[Slot]) -> None:
        lowering.plan.rows(
            operands=[source.place for source in sources],
            channels=channels,
            groups=op.groups,
            function=op.function,
            gamma=op.gamma,
            beta=op.beta,
            epsilon=op.epsilon,
            targets=[target.place for target in targets],
            divide=lowering.mode == "requantize",
        )

    slots = _direct(lowering, node, requests)
    for i in range(0, len(slots), MAX_TARGETS):
        targets = slots[i : i + MAX_TARGETS]
        lowering.add_step(node, partial(emit, targets), sources, targets)


def _direct(lowering: Lowering, node: ir.Node, requests: list[Request]) -> list[Slot]:
    """Where a step that neither clamps nor adds puts its values: the requests' slots, or floats, of which another step makes them."""
    slots: list[Slot] = []
    floats: Slot | None = next((r.slot for r in requests if _is_plain(r) and r.quantizer is None and r.slot.whole), None)
    for request in requests:
        if request.quantizer is not None and (request.quantizer.of_sums or request.quantizer.ties_to_odd):
            raise LayerError(f"{node}: codes by thresholds, of -1 and +1, and ties to odd codes, come from sums of layers only")
        if _is_plain(request):
            slots.append(request.slot)
            continue
        if floats is None:
            height, width, channels = ir.layout(node)
            floats = Slot(Tensor(height, width, channels, None), 0, channels)
            slots.append(floats)
        operands = [floats] if request.residual is None else [floats, request.residual]
        lowering.combine(request.adder or node, operands, False, *request.clamp, request.slot)
    return slots


def _is_plain(request: Request) -> bool:
    return request.residual is None and not request.clamps


def _product(lowering: Lowering, node: ir.Node, op: ir.Product, requests: list[Request]) -> None:
    a, b = (lowering.request(source, q) for source, q in zip(node.inputs, op.quantizers, strict=True))
    slots = _direct(lowering, node, requests)
    target = slots[0]
    if len(slots) > 1 or not target.whole:
        target = _floats_of(lowering, node, slots)

    def emit() -> None:
        one, other, result = (slot.tensor.quantizer for slot in (a, b, target))
        scale, in_units = np.float32(op.scale), False
        if one is not None and other is not None:
            scale = np.float32(one.scale * other.scale) * scale
            if lowering.mode == "requantize" and result is not None:
                scale, in_units = scale / np.float32(result.scale), True
        (a_id, a_channel), (b_id, b_channel) = a.place, b.place
        lowering.plan.product(
            a=(a_id, a_channel + op.channels[0]),
            b=(b_id, b_channel + op.channels[1]),
            target=target.place,
            sizes=op.sizes,
            steps=op.steps,
            scale=float(scale),
            in_units=in_units,
        )

    lowering.add_step(node, emit, [a, b], [target])


def _dynamic_linear(lowering: Lowering, node: ir.Node, op: ir.DynamicLinear, requests: list[Request]) -> None:
    source = lowering.request(node.inputs[0], None)
    w = op.weights
    integers = w.integers[:, :, None, None]

    def emit(slots: list[Slot]) -> None:
        group = Group(*FREE, None, slots)
        lowering.plan.dynamic_linear(
            source=source.place[0],
            weights=lowering.weight_matrix(w, 0, integers),
            weight_zero=w.zero,
            per_row=op.per_row,
            finish=finish_of("fp32", group, 0, len(integers), (w.scale.astype(np.float32), w.bias.astype(np.float32))),
            kernel=None,
        )

    slots = _direct(lowering, node, requests)
    for i in range(0, len(slots), MAX_TARGETS):
        targets = slots[i : i + MAX_TARGETS]
        lowering.add_step(node, partial(emit, targets), [source], targets)


def _floats_of(lowering: Lowering, node: ir.Node, slots: list[Slot]) -> Slot:
    """A whole tensor of floats for a step of one target, from which the other slots are made."""
    height, width, channels = ir.layout(node)
    floats = next((s for s in slots if s.tensor.quantizer is None and s.whole), None)
    target = floats or Slot(Tensor(height, width, channels, None), 0, channels)
    for slot in slots:
        if slot is not target:
            lowering.combine(node, [target], False, *FREE, slot)
    return target


def _grouped_linear(lowering: Lowering, node: ir.Node, op: ir.GroupedLinear, requests: list[Request]) -> None:
    source = lowering.request(node.inputs[0], op.quantizer)
    target = _floats_of(lowering, node, _direct(lowering, node, requests))

    def emit() -> None:
        lowering.plan.grouped_linear(
            source=source.place[0], target=target.place, bias=op.bias, per_group=op.per_group, **op.matrix.plan_fields()
        )

    lowering.add_step(node, emit, [source], [target])


ROW_RULES: dict[type, Callable[[Lowering, ir.Node, Any, list[Request]], None]] = {
    ir.Rows: _rows,
    ir.Product: _product,
    ir.DynamicLinear: _dynamic_linear,
    ir.GroupedLinear: _grouped_linear,
}
