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
            integers=op.integers,
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
    target = _one_target(lowering, node, requests)

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


def _one_target(lowering: Lowering, node: ir.Node, requests: list[Request]) -> Slot:
    """Where a step puts its values that writes one whole tensor: from there they go on to where they are requested."""
    slots = _direct(lowering, node, requests)
    return slots[0] if len(slots) == 1 and slots[0].whole else _floats_for(lowering, node, slots)


def _floats_for(lowering: Lowering, node: ir.Node, slots: list[Slot]) -> Slot:
    """One whole slot of floats, and steps that make the others of it."""
    height, width, channels = ir.layout(node)
    floats = next((s for s in slots if s.tensor.quantizer is None and s.whole), None) or Slot(
        Tensor(height, width, channels, None), 0, channels
    )
    for slot in slots:
        if slot is not floats:
            lowering.combine(node, [floats], False, *FREE, slot)
    return floats


def _attention(lowering: Lowering, node: ir.Node, op: ir.Attention, requests: list[Request]) -> None:
    sources = [lowering.request(source, None) for source in node.inputs[:3]]
    masks = [lowering.request(source, op.mask) for source in node.inputs[3:]]
    target = _one_target(lowering, node, requests)

    def emit() -> None:
        (q, q_channel), (k, k_channel), (v, v_channel) = (source.place for source in sources)
        lowering.plan.attention(
            q=(q, q_channel + op.channels[0]),
            k=(k, k_channel + op.channels[1]),
            v=(v, v_channel + op.channels[2]),
            mask=masks[0].place if masks else None,
            target=target.place,
            sizes=op.sizes,
            values=op.values,
            steps=op.steps,
            scale=op.scale,
        )

    lowering.add_step(node, emit, [*sources, *masks], [target])


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
            bits=op.bits,
            function=op.function,
            outliers=np.array(op.outliers, np.int32) if op.outliers else None,
            outlier_weights=op.outlier_weights,
        )

    slots = _direct(lowering, node, requests)
    for i in range(0, len(slots), MAX_TARGETS):
        targets = slots[i : i + MAX_TARGETS]
        lowering.add_step(node, partial(emit, targets), [source], targets)


def _recurrent(lowering: Lowering, node: ir.Node, op: ir.Recurrent, requests: list[Request]) -> None:
    source, *others = (lowering.request(each, op.quantizer if i == 0 else None) for i, each in enumerate(node.inputs))
    finals = lowering.finals.get(id(node), {})
    w, q, state = op.weights, op.quantizer, op.state_quantizer
    units = w.integers.shape[1]
    whole = 2 * units if op.resets_before else len(w.integers)

    def place(at: tuple[int, int] | None) -> tuple[int, int] | None:
        return None if at is None else (others[at[0] - 1].place[0], at[1])

    def emit(targets: list[Slot]) -> None:
        columns = w.integers[:, :, None, None]
        lowering.plan.recurrent(
            source=source.place[0],
            kind=op.kind,
            input_weights=lowering.weight_matrix(op.input, 0, op.input.integers[:, :, None, None]),
            weights=lowering.weight_matrix(w, 0, columns[:whole]),
            weight_zeros=(op.input.zero, w.zero),
            input_scale=op.input.scale.astype(np.float32),
            scale=w.scale.astype(np.float32),
            bias=op.input.bias.astype(np.float32),
            input_bits=0 if q is not None else op.act_bits,
            hidden_bits=op.state_bits if state is None else state.bits,
            per_row=op.per_row and q is None,
            reverse=op.reverse,
            targets=[target.place for target in targets],
            divide=lowering.mode == "requantize",
            candidate=lowering.weight_matrix(w, 1, columns[whole:]) if op.resets_before else None,
            hidden_bias=op.hidden_bias,
            hidden_scale=0.0 if state is None else state.scale,
            hidden_zero=0 if state is None else state.zero,
            hidden=place(op.hidden),
            cell=place(op.cell),
            lengths=place(op.lengths),
            final_hidden=finals["hidden"].place if "hidden" in finals else None,
            final_cell=finals["cell"].place if "cell" in finals else None,
        )

    slots = _direct(lowering, node, requests)
    if len(slots) > MAX_TARGETS:  # a second run would cost as much as the first: the others are made of floats
        slots = [_floats_for(lowering, node, slots)]
    lowering.add_step(node, partial(emit, slots), [source, *others], [*slots, *finals.values()])


def _state(lowering: Lowering, node: ir.Node, op: ir.State, requests: list[Request]) -> None:
    slots = _direct(lowering, node, requests)
    if len(slots) > 1 or slots[0].tensor.quantizer is not None:
        slots = [_floats_for(lowering, node, slots)]
    lowering.finals.setdefault(id(node.inputs[0]), {})[op.which] = slots[0]


def _grouped_linear(lowering: Lowering, node: ir.Node, op: ir.GroupedLinear, requests: list[Request]) -> None:
    source = lowering.request(node.inputs[0], op.quantizer)
    target = _one_target(lowering, node, requests)

    def emit() -> None:
        lowering.plan.grouped_linear(
            source=source.place[0], target=target.place, bias=op.bias, per_group=op.per_group, **op.matrix.plan_fields()
        )

    lowering.add_step(node, emit, [source], [target])


ROW_RULES: dict[type, Callable[[Lowering, ir.Node, Any, list[Request]], None]] = {
    ir.Rows: _rows,
    ir.Product: _product,
    ir.Attention: _attention,
    ir.DynamicLinear: _dynamic_linear,
    ir.Recurrent: _recurrent,
    ir.State: _state,
    ir.GroupedLinear: _grouped_linear,
}
