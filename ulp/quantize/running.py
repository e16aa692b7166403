"""Running parts of a model in floats, by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ulp.onnx.model import Array
from ulp.onnx.session import Session

Doubles = npt.NDArray[np.float64]


class Piece:
    """The nodes of a graph that some tensors need, with the tensors that are given as inputs."""

    def __init__(self, proto: Any, nodes: Sequence[Any], wanted: Sequence[str], given: Collection[str] = ()) -> None:
        """given: tensors that calls are fed with, besides the model's inputs; nothing in front of them runs. A mapping to arrays says their
        types, too; others are float32."""
        from onnx import ModelProto, ValueInfoProto, helper

        graph = proto.graph
        makers = {name: node for node in nodes for name in node.output}
        todo, needed, reached = list(wanted), set(), set()
        while todo:
            name = todo.pop()
            if name in reached or not name:
                continue
            reached.add(name)
            if name in makers and name not in given:
                needed.add(makers[name].output[0])
                todo += reads_of(makers[name])
        self.nodes = kept = [node for node in nodes if node.output and node.output[0] in needed]
        constants = [tensor for tensor in graph.initializer if tensor.name in reached]
        self.constants = {tensor.name for tensor in constants}
        known = {tensor.name for tensor in constants} | {name for node in kept for name in node.output}
        ports = {port.name: port for port in graph.input}
        self.inputs = sorted(name for name in reached if name not in known)
        arrays = given if isinstance(given, Mapping) else {}
        kinds = {name: helper.np_dtype_to_tensor_dtype(arrays[name].dtype) if name in arrays else 1 for name in self.inputs}
        inputs = [ports.get(name) or helper.make_tensor_value_info(name, kinds[name], None) for name in self.inputs]
        self.wanted = list(wanted)
        if not wanted:
            return
        made = helper.make_graph(kept, "piece", inputs, [ValueInfoProto(name=name) for name in self.wanted], constants)
        model = ModelProto()
        model.CopyFrom(helper.make_model(made, opset_imports=list(proto.opset_import), ir_version=proto.ir_version or 10))
        model.functions.extend(proto.functions)
        self._session = Session(model.SerializeToString(), "the float model")

    def __call__(self, feeds: dict[str, Array]) -> dict[str, Array]:
        """The wanted tensors by name."""
        if not self.wanted:
            return {}
        results = self._session([feeds[name] for name in self.inputs])
        return dict(zip(self.wanted, results, strict=True))


def function_of(proto: Any, tensor: str, result: str) -> Callable[[Doubles], Doubles]:
    """What operators on single values make of a tensor, as a function of float64 (n,). Where constants differ by channel, of the channel
    whose results reach furthest."""
    piece = Piece(proto, proto.graph.node, [result], {tensor})
    constants = {t.name: t.dims for t in proto.graph.initializer if t.name in piece.constants}
    # What normalizes reads as many channels as it has; others take one, which broadcasts.
    channels = [constants[node.input[1]][0] for node in piece.nodes if node.op_type == "BatchNormalization"]
    rank = max((len(dims) for dims in constants.values()), default=0)
    sides = (channels[0], *[1] * (rank - 1)) if channels else [1] * rank

    def function(x: Doubles) -> Doubles:
        rows = np.tile(x.astype(np.float32).reshape(-1, *[1] * len(sides)), (1, *sides))
        made = piece({tensor: rows})[result].reshape(len(x), -1)
        return np.asarray(made[:, np.ptp(made, axis=0).argmax()], np.float64)

    return function


def reads_of(node: Any) -> set[str]:
    """Names that a node reads, and the graphs within it; what those make themselves is among them and does no harm."""
    graphs = [graph for a in node.attribute for graph in ([a.g] if a.HasField("g") else a.graphs)]
    return {name for name in node.input if name}.union(*(reads_of(inner) for graph in graphs for inner in graph.node))
