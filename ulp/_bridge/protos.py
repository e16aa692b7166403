"""ONNX models as onnx.ModelProto: reading them, and whether they are quantized."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp.onnx import OnnxError

QONNX_DOMAIN = "qonnx.custom_op.general"

_QUANTIZERS = (
    *("Quant", "IntQuant", "BipolarQuant", "FloatQuant", "MultiThreshold", "Trunc", "QuantizeLinear", "DequantizeLinear"),
    *("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "MatMulNBits", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
)


def read_proto(source: Any) -> Any:
    """The onnx.ModelProto of a path or of bytes; or what is one. OnnxError where it is none, ImportError without the package onnx."""
    try:
        import onnx
    except ImportError as missing:
        raise ImportError('reading ONNX models needs the package onnx: pip install "ulp-gemm[onnx]"') from missing
    if isinstance(source, onnx.ModelProto):
        return source
    try:
        if isinstance(source, (str, os.PathLike)):
            return onnx.load(source)
        return onnx.load_model_from_string(bytes(source))
    except OSError:
        raise
    except Exception as error:  # of protobuf, whose class depends on its version
        name = os.fspath(source) if isinstance(source, (str, os.PathLike)) else "the bytes"
        raise OnnxError(f"{name} cannot be read as an ONNX model: {error}") from error


def is_quantized(proto: Any) -> bool:
    """Whether the model has quantizers, or operators of integers, anywhere in it."""
    graphs = [proto.graph, *proto.functions]
    while graphs:
        for node in graphs.pop().node:
            if node.op_type in _QUANTIZERS or node.op_type.startswith(("QLinear", "QGemm")):
                return True
            graphs += [graph for a in node.attribute for graph in ([a.g] if a.HasField("g") else a.graphs)]
    return False


def constants_of(model: Any) -> dict[str, npt.NDArray[Any]]:
    """Initializers and the results of Constant nodes of the main graph, by name."""
    import onnx

    found = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            for a in node.attribute:
                value = onnx.helper.get_attribute_value(a)
                if a.name == "value":
                    found[node.output[0]] = onnx.numpy_helper.to_array(value)
                elif a.name in ("value_float", "value_floats"):
                    found[node.output[0]] = np.array(value, np.float32)
                elif a.name in ("value_int", "value_ints"):
                    found[node.output[0]] = np.array(value, np.int64)
    return found


def node_text(node: Any) -> str:
    """The node as errors name it."""
    return f"{node.op_type} {node.name or node.output[0]!r}"
