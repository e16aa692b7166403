"""The table of a model's layers: which run in integers, with how many bits, and why the others do not."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ulp.nn.graph import Conv, DynamicLinear, GroupedLinear, Linear, LinearFloats, Product, Rows

from .build import Built
from .model import Model
from .stages import FloatStage, LayerRow

# Quantizers, and what only moves elements: neither counts as computing in floats.
_QUANTIZERS = (
    "Quant",
    "BipolarQuant",
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "Trunc",
    "MultiThreshold",
    "Cast",
    "Clip",
)
_MOVERS = (
    *("Identity", "Dropout", "Shape", "Size", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Concat", "Split", "Slice"),
    *("Gather", "Expand", "Tile", "Pad", "DepthToSpace", "SpaceToDepth", "Constant", "ConstantOfShape", "Range"),
)
_INTEGER_OPERATORS = ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul")


def without_compute(op_type: str) -> bool:
    """Whether an operator that runs outside of plans does so without arithmetic of floats."""
    return op_type in (*_QUANTIZERS, *_MOVERS, *_INTEGER_OPERATORS)


_QUANTIZED = re.compile("Quant|Trunc|MultiThreshold|Integer|NBits|^Q[A-Z]")


def no_quantizers(rows: Sequence[LayerRow]) -> bool:
    """Whether these layers are those of a model that nobody quantized."""
    return bool(rows) and not any(row.integer or _QUANTIZED.search(row.op_type) for row in rows)


IN_PLAN = "it computes in float32, as a step of the plan"


def floats_in_plan(op: object) -> bool:
    """Whether a layer of a plan computes in floats what no table of codes could hold."""
    return (isinstance(op, Rows) and op.function != "identity" and not op.integers) or (isinstance(op, Product) and None in op.quantizers)


def layer_rows(model: Model, built: Built) -> list[LayerRow]:
    """One row per node that runs, but for constants and for quantizers inside integer parts."""
    floats = {stage.node.name: stage for stage in built.stages if isinstance(stage, FloatStage)}
    rows = []
    for node in model.nodes:
        if node.name in floats:
            integer = node.op_type in _INTEGER_OPERATORS
            rows.append(LayerRow(node.name, node.op_type, integer, "" if integer else floats[node.name].reason))
        elif node.name in built.layers and node.op_type not in _QUANTIZERS:
            op, shape = built.layers[node.name]
            if isinstance(op, LinearFloats):
                rows.append(LayerRow(node.name, node.op_type, False, built.scope.reasons[node.name], (0, 0), shape, op.matrix.nbytes))
            elif isinstance(op, (Conv, Linear)):
                w = op.weights
                nbytes = (w.integers.size * w.bits + 7) // 8
                rows.append(LayerRow(node.name, node.op_type, True, "", (w.bits, op.quantizer.bits), shape, nbytes))
            elif isinstance(op, DynamicLinear) and node.op_type in ("MatMulInteger", "MatMul", "Gemm"):
                w = op.weights
                rows.append(LayerRow(node.name, node.op_type, True, "", (w.bits, op.bits), shape, (w.integers.size * w.bits + 7) // 8))
            elif isinstance(op, GroupedLinear):
                bits = op.matrix.bits, 8 if op.quantizer is None else op.quantizer.bits
                rows.append(LayerRow(node.name, node.op_type, True, "", bits, shape, op.matrix.nbytes))
            elif floats_in_plan(op):
                rows.append(LayerRow(node.name, node.op_type, False, IN_PLAN, (0, 0), shape))
            else:
                rows.append(LayerRow(node.name, node.op_type, True, "", (0, 0), shape))
    return rows
