"""Nodes of an exported model are called as the modules that they came from: `layer1.0.conv1`, `layer1.0/Relu`."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from typing import Any

_SCOPES = "pkg.torch.onnx.name_scopes"
# A module's main operator, which has the module's own name.
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")


def by_modules(proto: Any, root: str) -> None:
    """Rename nodes and weights of a model that torch exported. root: the attribute under which the exported module holds the model."""
    held = {tensor.name for tensor in proto.graph.initializer}
    for port in [port for port in proto.graph.input if port.name in held]:  # as older exporters write constants
        proto.graph.input.remove(port)
    taken = {name for node in proto.graph.node for name in (*node.input, *node.output)} | {port.name for port in proto.graph.input}
    renamed = {}
    for tensor in proto.graph.initializer:
        name = tensor.name.removeprefix(f"{root}.")
        if name not in taken:
            renamed[tensor.name] = name
            tensor.name = name
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
    seen: dict[str, int] = {}
    for i, node in enumerate(proto.graph.node):
        scope = _owner(node) or _scope(node, root)
        name = f"{node.op_type}_{i}" if not scope else scope if node.op_type in WEIGHTED else f"{scope}/{node.op_type}"
        calls = seen[name] = seen.get(name, 0) + 1
        node.name = name if calls == 1 else f"{name}:{calls}"


def sides(proto: Any, batched: Sequence[str]) -> None:
    """Name open sides, which torch's exporter numbers ("s95"): "batch", or by the input if several have one of their own.

    batched: the inputs whose first side is the batch.
    """
    graph = proto.graph
    found: dict[str, str] = {}
    for port in graph.input:
        for i, side in enumerate(port.type.tensor_type.shape.dim):
            if side.dim_param and side.dim_param not in found:
                name = f"{port.name}_dim{i}" if i or port.name not in batched else f"{port.name}_batch" if found else "batch"
                found[side.dim_param] = name
    for port in (*graph.input, *graph.output, *graph.value_info):
        for side in port.type.tensor_type.shape.dim:
            if side.dim_param:  # or an expression of them, "2*s95"
                side.dim_param = re.sub(r"[A-Za-z_]\w*", lambda symbol: found.get(symbol[0], symbol[0]), side.dim_param)


def _owner(node: Any) -> str:
    """The module whose weights the node reads: a batch normalisation that was folded in has left its own name."""
    if node.op_type not in WEIGHTED or len(node.input) < 2 or not node.input[1].endswith(".weight"):
        return ""
    return str(node.input[1].removesuffix(".weight"))


def _scope(node: Any, root: str) -> str:
    """The module that a node came from, "" for the model itself."""
    stored = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), None)
    if stored is not None:
        try:
            scopes = ast.literal_eval(stored)
        except (SyntaxError, ValueError):
            return ""
        path = scopes[-2] if len(scopes) > 1 else ""
    else:  # TorchScript: /model/layer1/layer1.0/conv1/Conv
        parts = node.name.strip("/").split("/")[:-1]
        path = ""
        for part in parts:  # a module in a list comes with the list's name
            path = part if re.match(rf"{re.escape(path)}\.", part) and path else f"{path}.{part}" if path else part
    if path == root:
        return ""
    return str(path).removeprefix(f"{root}.")
