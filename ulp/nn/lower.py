"""From a graph to a finished plan.

Backwards through the graph every node learns which results are requested of it: codes of some quantizer or floats, after a ReLU or a sum,
and where they go (a slice of a tensor, so that a concatenation is never a step). A node that does not touch values (flattening), commutes
with a quantizer (pooling) or can be left to others (ReLU, sums, concatenation) passes the requests on. A node that computes turns them into
the epilogue of one step, if they agree, or of several (lower_rules.py). The steps then run in an order in which each tensor is written
before it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ulp import _core
from ulp._progress import progress_bar

from . import graph as ir
from .finish import Mode
from .fusing import fused
from .lower_rules import RULES
from .lowered import Label, Lowered
from .lowering import Lowering, Step
from .passes import optimize
from .script import Script
from .shapes import LayerError

__all__ = ["Label", "Lowered", "Mode", "lower", "new_plan"]


def new_plan() -> Any:
    """An empty plan. Tests replace it."""
    return _core.Plan()


def lower(
    graph: ir.Graph,
    mode: Mode = "fp32",
    *,
    group: int = 1,
    throughput: bool = False,
    codes_in: bool = False,
    codes_out: bool | Sequence[bool] = False,
    tune: bool = False,
    integer_functions: bool = False,
    progress: bool = False,
) -> Lowered:
    """The plan of a graph, which is rewritten on the way (`passes.optimize`). The graph is not needed afterwards.

    mode: "threshold" decides codes by exact integer thresholds wherever a step has no residual. "requantize" has each step's values in
        units of its result's scale, as ONNX's integer operators define it: rint(float32(acc) * (x_scale * w_scale / y_scale)) + zero; the
        input is divided by its scale.
    codes_in, codes_out: uint8 codes instead of floats at the ends; there must be one quantizer for each input, and each output must come
    from a Quantize. codes_in is for all inputs; else the graph says it of each. codes_out: for all outputs, or one flag for each.
    integer_functions: softmax, normalizations and activation functions of rows by fixed-point numbers instead of float32.
    progress: show a bar, as `calibrate` does.
    Raises LayerError, naming the layer, where integers cannot do what the graph asks.
    """
    if codes_in:
        for node in graph.inputs:
            assert isinstance(node.op, ir.Input)
            node.op = replace(node.op, codes=True)
    optimize(graph, integer_functions=integer_functions)
    script = Script(new_plan())
    lowering = Lowering(graph, mode, script)
    outputs = []
    results = [node.inputs[0] if isinstance(node.op, ir.View) else node for node in graph.outputs]
    coded = [codes_out] * len(results) if isinstance(codes_out, bool) else codes_out
    for node, as_codes in zip(results, coded, strict=True):
        if as_codes and not isinstance(node.op, ir.Quantize):
            raise LayerError(f"codes_out=True: the network ends in {node}, whose codes nobody has defined; end it in ulp.nn.Quantize()")
        outputs.append(lowering.request(node, node.op.quantizer if as_codes and isinstance(node.op, ir.Quantize) else None))
    for node in reversed(graph.nodes):
        requests = lowering.requests[id(node)]
        lowering.steps.append([])
        if requests or isinstance(node.op, ir.Input) or id(node) in lowering.finals:
            RULES[type(node.op)](lowering, node, node.op, requests)
    labels = []
    steps = [step for of_node in reversed(lowering.steps) for step in of_node]
    steps.sort(key=lambda step: bool(step.reads))  # a plan begins with its inputs
    for step in progress_bar(_ordered(fused(steps, outputs)), progress, "compile", "step"):
        for slot in step.writes:
            lowering.declare(slot.tensor.find())
        step.emit()
        weights = getattr(step.node.op, "weights", None)
        labels.append(Label(step.node.name, step.node.kind, weights.bits if weights else 0))
    for slot, node in zip(outputs, graph.outputs, strict=True):
        lowering.plan.output(tensor=slot.tensor.find().id, nhwc=isinstance(node.op, ir.View) and node.op.channels_last)
        labels.append(Label("output", "Output"))
    script.finalize(group, throughput, tune, progress)
    inputs = [node.op.shape or node.shape for node in graph.inputs if isinstance(node.op, ir.Input)]
    return Lowered(script, labels, inputs, [node.shape for node in graph.outputs], lowering.input_quantizer)


def _ordered(steps: list[Step]) -> list[Step]:
    """The steps in their order, but those that read after those that write."""
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
