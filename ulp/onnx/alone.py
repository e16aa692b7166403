"""One node's results on known arrays by onnxruntime: values of tables, for functions of which there is no operator of numpy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .inference import node_proto
from .model import Array, Node, OnnxError
from .session import Session

# Tables have at most 256 values for each of some thousand channels.
_MAX_ELEMENTS = 2**22


def run_alone(node: Node, arrays: Sequence[Array | None], opset: int) -> tuple[Array, ...]:
    """The results of a node of ONNX's own domain; None among the arrays is left out. OnnxError where onnxruntime refuses it."""
    import onnx

    known = {name: array for name, array in zip(node.inputs, arrays, strict=True) if name and array is not None}
    if node.problem or node.domain or sum(array.size for array in known.values()) > _MAX_ELEMENTS:
        raise OnnxError(node.problem or "only arrays of some size are computed by operators of ONNX alone")
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in known.items()}
    inputs = [onnx.helper.make_tensor_value_info(name, kind, known[name].shape) for name, kind in kinds.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in node.outputs if name]
    graph = onnx.helper.make_graph([node_proto(onnx, node)], "alone", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=8)
    session = Session(model.SerializeToString(), str(node), alone=True)
    return tuple(session([np.ascontiguousarray(known[name]) for name, _ in session.inputs]))
