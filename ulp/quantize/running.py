"""Running parts of a model in floats, by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ulp.onnx.model import Array
from ulp.onnx.session import Session


class Piece:
    """The nodes of a graph that some tensors need, with the tensors that are given as inputs."""

    def __init__(self, proto: Any, nodes: Sequence[Any], wanted: Sequence[str], given: set[str]) -> None:
        """given: tensors that a call may be fed with, besides the model's inputs; nothing in front of them runs."""
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
                todo += [*makers[name].input, *_captured(makers[name])]
        kept = [node for node in nodes if node.output and node.output[0] in needed]
        constants = [tensor for tensor in graph.initializer if tensor.name in reached]
        known = {tensor.name for tensor in constants} | {name for node in kept for name in node.output}
        ports = {port.name: port for port in graph.input}
        self.inputs = sorted(name for name in reached if name not in known)
        inputs = [ports.get(name) or helper.make_tensor_value_info(name, 1, None) for name in self.inputs]
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


def _captured(node: Any) -> set[str]:
    """Names that graphs within a node read; those that they make themselves are among them and do no harm."""
    return {
        name for a in node.attribute for graph in ([a.g] if a.HasField("g") else a.graphs) for inner in graph.node for name in inner.input
    }
