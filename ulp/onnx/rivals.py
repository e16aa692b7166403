"""Integer parts, or all of a model, that onnxruntime runs faster than plans do, measured while a model is loaded: they are left to it.

Only what gives the same bits can be left: onnxruntime must have integer operators for all of a part (its optimized model says so), which do
not saturate on this CPU, and both must give the same results. Quantizers of QONNX, of fewer than 8 bits, and what onnxruntime would compute
in floats, whose roundings differ, stay in plans.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ulp.nn.graph import DynamicLinear
from ulp.nn.profile import clock_ns, counts_cpu_time

from .build import Built
from .islands import Maker
from .model import Array, Model, Node, OnnxError, Port
from .parts import Part
from .stages import IntegerStage

REASON = "onnxruntime is faster whole, measured at load"

# Shares of a plan's time that onnxruntime has to stay below: in CPU time of one thread, and in elapsed time, which varies more.
_CPU_MARGIN, _ELAPSED_MARGIN = 0.95, 0.85
_ROUNDS = 7
# So much slower than a plan that further rounds would not change it.
_CLEAR = 1.3
_SAMPLE_SECONDS = 0.0005
_DRAWS = 3

SCATTERED = "it is quantized in the call, and most of what lies between such products runs in floats"
# A layer of an encoder has 6 products.
_PRODUCTS_PER_PART = 4

# What onnxruntime may compute a part by. Floats can then only be at its ends, and nothing rounds them.
# fmt: off
_MOVES = frozenset({
    "Concat", "DepthToSpace", "DequantizeLinear", "Flatten", "Identity", "MaxPool", "NhwcMaxPool", "Pad", "QuantizeLinear", "Relu",
    "Reshape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze",
})
_INTEGERS = frozenset({
    "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool", "QLinearMatMul", "QLinearMul",
})
# What it makes these of.
_FUSED = frozenset({"Add", "AveragePool", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "Mul"})
# fmt: on


def may_be_left(built: Built, maker: Maker) -> bool:
    """Whether onnxruntime may have integer operators for a part, so that it is worth measuring."""
    return any(_may_be_integer(_nodes_of(stage, built, maker)) for stage in built.stages if isinstance(stage, IntegerStage))


def _nodes_of(stage: IntegerStage, built: Built, maker: Maker) -> list[Node]:
    """The nodes of a part, with a Relu that its first quantizer took in."""
    nodes = built.scope.nodes_of(built.scope.parts[stage.sources[0]], maker.model)
    made = {name for node in nodes for name in node.outputs}
    read = {name for node in nodes for name in node.reads if name not in made}
    before = [node for node in maker.model.nodes if node.op_type == "Relu" and node.inputs[0] in stage.sources and node.outputs[0] in read]
    return before + nodes


def left_to_onnxruntime(built: Built, maker: Maker) -> tuple[dict[str, str], bool]:
    """The nodes of parts that onnxruntime runs faster, by name, with the reason; and whether it gives the same bits in all other parts."""
    found: dict[str, str] = {}
    same = True
    for stage in built.stages:
        if isinstance(stage, IntegerStage):
            nodes = _nodes_of(stage, built, maker)
            shares = _share(stage, nodes, maker) if _may_be_integer(nodes) else None
            if shares is None:
                same = False
            elif shares < margin():
                found.update((node.name, REASON) for node in nodes)
    return found, same


def scattered_products(built: Built, model: Model) -> dict[str, str]:
    """The nodes of products with codes of the call, by name, with the reason, where floats between them leave few to a plan; else none.

    Both multiply 8 bits by the same instructions: what plans gain lies between the products, and each part costs a session more.
    Decided by counting, as the floats between the products round otherwise in a session: a time would decide about results.
    """
    ops = {name: op for name, (op, _) in built.layers.items() if isinstance(op, DynamicLinear) and not op.per_row}
    nodes = [node for node in model.nodes if node.name in ops]
    products = [node for node in nodes if node.op_type == "MatMulInteger"]
    parts: list[Part] = []
    for node in nodes:
        value = built.scope.values.get(node.outputs[0])
        if value is not None and not any(value.part.is_same(part) for part in parts):
            parts.append(value.part)
    if len(parts) < 2 or len(products) >= _PRODUCTS_PER_PART * len(parts):
        return {}
    return {node.name: SCATTERED for node in nodes}


def is_faster_whole(parts: Callable[..., Any], whole: Callable[..., Any], inputs: Sequence[Port], shapes: Mapping[str, Any]) -> bool:
    """Whether all of a model in one session gives what it gives in parts, and faster.

    parts, whole: networks of which the parts are known to give the same bits as onnxruntime. inputs: their inputs; shapes: of these, for
    one image.
    """
    draws = []
    for seed in range(_DRAWS):
        rng = np.random.default_rng(seed)
        arrays = {}
        for port in inputs:
            shape = shapes.get(port.name)
            if shape is None or None in shape or port.dtype != np.float32:
                return False  # nobody knows which values mean something
            arrays[port.name] = rng.standard_normal(shape).astype(np.float32)
        draws.append(arrays)
    try:
        pairs = [(parts(**arrays), whole(**arrays)) for arrays in draws]
    except ValueError:
        return False
    if not all(_same(a, b) for a, b in pairs):
        return False
    return ratio(lambda: parts(**draws[0]), lambda: whole(**draws[0])) < margin()


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return all(np.array_equal(a[name], b[name]) for name in a)
    return bool(np.array_equal(a, b))


def margin() -> float:
    """The share of our time that onnxruntime has to stay below."""
    return _CPU_MARGIN if counts_cpu_time() else _ELAPSED_MARGIN


def _may_be_integer(nodes: Sequence[Node]) -> bool:
    """Whether it is worth asking onnxruntime: operators that it has for integers, and weights, among them."""
    kinds = {node.op_type for node in nodes}
    return kinds <= _MOVES | _FUSED | _INTEGERS and bool(kinds & {"Conv", "Gemm", "MatMul", "QGemm", "QLinearConv", "QLinearMatMul"})


def _share(stage: IntegerStage, nodes: list[Node], maker: Maker) -> float | None:
    """How long onnxruntime takes as a share of the plan's time; None where it does not give the same bits."""
    made = {name for node in nodes for name in node.outputs}
    if not made.issuperset(stage.results) or len(stage.sources) > 1:
        return None  # integers leave the part; or its tensors are drawn each for itself
    import tempfile  # with all that it imports, it takes as long as reading a small model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        try:
            reads, session = maker.session(nodes, list(stage.results), optimized=path)
        except OnnxError:
            return None
        operators = {node.op_type for node in maker.onnx.load(path, load_external_data=False).graph.node}
    if not session.exact or reads != list(stage.sources) or not operators <= _MOVES | _INTEGERS | {"MatMulIntegerToFloat"}:
        return None
    arrays = [_draw(stage, seed) for seed in range(_DRAWS)]
    for x in arrays:
        try:
            theirs = session([x])
        except OnnxError:
            return None
        if not all(np.array_equal(a, b) for a, b in zip(stage(x), theirs, strict=True)):
            return None
    return ratio(lambda: stage(arrays[0]), lambda: session(arrays[:1]))


def _draw(stage: IntegerStage, seed: int) -> Array:
    """One image, with values over the whole range of its quantizer, and of floats a bit beyond."""
    rng = np.random.default_rng(seed)
    shape = (1, *stage.compiled.input_shape)
    quantizer = stage.compiled.input_quantizer
    if stage.sources[0] in stage.codes:
        return stage.codes[stage.sources[0]].integers(rng.integers(0, 256, shape).astype(np.uint8))
    if quantizer is None:
        return rng.standard_normal(shape).astype(np.float32)
    codes = rng.uniform(-2, quantizer.levels + 2, shape)
    return ((codes - quantizer.zero) * quantizer.scale).astype(np.float32)


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any]) -> float:
    """How long the second takes as a share of the first: minima over rounds, in turn; with one thread in CPU time."""
    clock = clock_ns()
    begin = time.perf_counter()
    ours()
    theirs()
    calls = max(1, int(2 * _SAMPLE_SECONDS / max(time.perf_counter() - begin, 1e-9)))
    best = [math.inf, math.inf]
    for i in range(_ROUNDS):
        for which in (0, 1) if i % 2 else (1, 0):
            run = (ours, theirs)[which]
            run()  # brings back what the other one has taken of the caches
            begin = clock()
            for _ in range(calls):
                run()
            best[which] = min(best[which], clock() - begin)
        if i and best[1] > _CLEAR * best[0]:
            break
    return best[1] / max(best[0], 1)
