"""Which ONNX nodes are integer layers: one rule per operator, from the node to graph nodes of ulp.nn. NotInteger says why one is not.

A rule sees the scope, in which its inputs are values of an integer part or constants.
"""

from __future__ import annotations

from collections.abc import Callable

from ulp.onnx.model import Node
from ulp.onnx.parts import Value
from ulp.onnx.scope import Scope

from . import elementwise, layers, moves, pooling, quantizers, resizing, sequences, steps
from .functions import ACTIVATIONS, function, function_or, or_function
from .layers import row_product, small_product
from .moves import moved_constant
from .operands import through_views
from .recurrent import quantized_lstm
from .sequences import activation, dynamic_product

__all__ = [
    "RULES",
    "Rule",
    "activation",
    "dynamic_product",
    "moved_constant",
    "quantized_lstm",
    "quantizers",
    "row_product",
    "small_product",
]

Rule = Callable[[Scope, Node], Value | list[Value]]

RULES: dict[str, Rule] = {
    **dict.fromkeys(ACTIVATIONS, function),
    **{name: function_or(rule) for name, rule in steps.CURVES.items()},
    "Quant": through_views(quantizers.quant),
    "BipolarQuant": through_views(quantizers.bipolar_quant),
    "Trunc": steps.trunc,
    "MultiThreshold": steps.multi_threshold,
    "QuantizeLinear": through_views(quantizers.quantize_linear),
    "DequantizeLinear": through_views(quantizers.dequantize_linear),
    "Cast": through_views(quantizers.cast),
    "Conv": layers.conv,
    "ConvTranspose": layers.conv_transpose,
    "Gemm": layers.gemm,
    "MatMul": layers.matmul,
    "MatMulNBits": layers.matmul_nbits,
    "LayerNormalization": sequences.layer_normalization,
    "SimplifiedLayerNormalization": sequences.rms_normalization,
    "RMSNormalization": sequences.rms_normalization,
    "Softmax": sequences.softmax,
    "Gelu": function_or(sequences.gelu),
    "BatchNormalization": elementwise.batch_normalization,
    "Mul": or_function(elementwise.multiply),
    "Div": or_function(elementwise.divide),
    "Sub": or_function(elementwise.subtract),
    "Add": or_function(elementwise.add),
    "Sum": or_function(elementwise.total),
    "Relu": or_function(through_views(elementwise.relu)),
    "Clip": or_function(through_views(elementwise.clip)),
    "MaxPool": pooling.max_pool,
    "GlobalMaxPool": pooling.global_max_pool,
    "AveragePool": pooling.average_pool,
    "GlobalAveragePool": pooling.global_average_pool,
    "ReduceMean": pooling.reduce_mean,
    "Reshape": moves.move,
    "Flatten": moves.move,
    "Squeeze": moves.move,
    "Unsqueeze": moves.move,
    "Transpose": moves.move,
    "DepthToSpace": moves.move,
    "SpaceToDepth": moves.move,
    "Slice": moves.move,
    "Gather": moves.move,
    "Tile": moves.move,
    "Expand": moves.move,
    "Split": moves.split,
    "Identity": moves.identity,
    "Dropout": moves.identity,
    "Concat": moves.concat,
    "Resize": resizing.resize,
    "Upsample": resizing.resize,
    "Pad": moves.pad,
}
