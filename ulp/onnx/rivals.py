"""Integer parts that onnxruntime runs faster than a plan, measured while a model is loaded: they are left to it.

Only what gives the same bits can be left: onnxruntime must have integer operators for all of a part (its optimized model says so), which do
not saturate on this CPU, and both must give the same results. Quantizers of QONNX, of fewer than 8 bits, and what onnxruntime would compute
in floats, whose roundings differ, stay in plans.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ulp.nn.compiled import CompiledNetwork
from ulp.nn.profile import clock_ns, counts_cpu_time

from .build import Built
from .islands import Maker
from .model import Array, Node, OnnxError
from .stages import IntegerStage

REASON = "onnxruntime is faster whole, measured at load"

# Shares of a plan's time that onnxruntime has to stay below: in CPU time of one thread, and in elapsed time, which varies more.
_CPU_MARGIN, _ELAPSED_MARGIN = 0.95, 0.85
_ROUNDS = 7
# So much slower than a plan that further rounds would not change it.
_CLEAR = 1.3
_SAMPLE_SECONDS = 0.0005
_DRAWS = 3

# What onnxruntime may compute a part by. Floats can then only be at its ends.
# fmt: off
_MOVES = frozenset({
    "Concat", "DepthToSpace", "DequantizeLinear", "Flatten", "Identity", "MaxPool", "NhwcMaxPool", "Pad", "QuantizeLinear", "Reshape",
    "Slice", "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze",
})
_INTEGERS = frozenset({
    "QGemm", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearConv", "QLinearGlobalAveragePool", "QLinearMatMul", "QLinearMul",
})
# What it makes these of.
_FUSED = frozenset({"Add", "AveragePool", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "Mul", "Relu"})
# fmt: on


def may_be_left(built: Built, maker: Maker) -> bool:
    """Whether onnxruntime may have integer operators for a part, so that it is worth measuring."""
    parts = [built.scope.parts[stage.sources[0]] for stage in built.stages if isinstance(stage, IntegerStage)]
    return any(_may_be_integer(built.scope.nodes_of(part, maker.model)) for part in parts)


def left_to_onnxruntime(built: Built, maker: Maker) -> dict[str, str]:
    """The nodes of parts that onnxruntime runs faster, by name, with the reason."""
    scope = built.scope
    found: dict[str, str] = {}
    for stage in built.stages:
        if isinstance(stage, IntegerStage):
            nodes = scope.nodes_of(scope.parts[stage.sources[0]], maker.model)
            if _may_be_integer(nodes) and _is_faster(stage, nodes, maker):
                found.update((node.name, REASON) for node in nodes)
    return found


def _may_be_integer(nodes: Sequence[Node]) -> bool:
    """Whether it is worth asking onnxruntime: operators that it has for integers, and weights, among them."""
    kinds = {node.op_type for node in nodes}
    return kinds <= _MOVES | _FUSED | _INTEGERS and bool(kinds & {"Conv", "Gemm", "MatMul", "QGemm", "QLinearConv", "QLinearMatMul"})


def _is_faster(stage: IntegerStage, nodes: list[Node], maker: Maker) -> bool:
    made = {name for node in nodes for name in node.outputs}
    if not made.issuperset(stage.results) or len(stage.sources) > 1:
        return False  # integers leave the part; or its tensors are drawn each for itself
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimized.onnx"
        try:
            reads, session = maker.session(nodes, list(stage.results), optimized=path)
        except OnnxError:
            return False
        operators = {node.op_type for node in maker.onnx.load(path, load_external_data=False).graph.node}
    if not session.exact or reads != list(stage.sources) or not operators <= _MOVES | _INTEGERS | {"MatMulIntegerToFloat"}:
        return False
    compiled = stage.compiled
    arrays = [_draw(compiled, seed) for seed in range(_DRAWS)]
    for x in arrays:
        try:
            theirs = session([x])
        except OnnxError:
            return False
        if not all(np.array_equal(a, b) for a, b in zip(compiled(x), theirs, strict=True)):
            return False
    return ratio(lambda: compiled(arrays[0]), lambda: session(arrays[:1])) < (_CPU_MARGIN if counts_cpu_time() else _ELAPSED_MARGIN)


def _draw(compiled: CompiledNetwork, seed: int) -> Array:
    """One image, with values over the whole range of its quantizer and a bit beyond."""
    rng = np.random.default_rng(seed)
    shape = (1, *compiled.input_shape)
    quantizer = compiled.input_quantizer
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
