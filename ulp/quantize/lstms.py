"""LSTMs of a float model that `ulp.load` takes as integer steps once their weights are integers, see `ulp.onnx.recurrences`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ulp.onnx.model import Array, Model
from ulp.onnx.recurrences import Surroundings, layers_from

_ACTIVATIONS = (b"Sigmoid", b"Tanh", b"Tanh")


@dataclass(frozen=True)
class RecurrentLayer:
    """name: of the node, whose place is index. w, r, y: names of its weights and of its result. joins: the node that joins directions."""

    name: str
    index: int
    w: str
    r: str
    y: str
    joins: int | None


def recurrent_layers(model: Model, proto: Any, constants: Mapping[str, Array]) -> list[RecurrentLayer]:
    """The LSTMs that can be quantized, in the order of proto's nodes. model: the same as the loader reads it."""
    users: dict[str, list[Any]] = {}
    for node in model.nodes:
        for name in dict.fromkeys(node.reads):
            users.setdefault(name, []).append(node)
    around = Surroundings(model, {name: node for node in model.nodes for name in node.outputs}, users)
    taken: set[str] = set()
    places = {node.output[0]: index for index, node in enumerate(proto.graph.node)}
    joins: dict[str, int] = {}
    for node in model.nodes:
        if node.op_type == "LSTM" and node.outputs[0] not in taken and (chain := layers_from(around, node, "LSTM")) is not None:
            taken |= {layer.outputs[0] for layer in chain.layers}
            for i, each in enumerate(chain.nodes):
                if each.op_type == "Reshape":  # behind the node, and a Transpose
                    joins[chain.nodes[i - 2].outputs[0]] = places[each.outputs[0]]
    found = []
    for index, node in enumerate(proto.graph.node):
        if node.op_type == "LSTM" and node.output[0] in taken and _fits(node, constants):
            found.append(RecurrentLayer(node.name, index, node.input[1], node.input[2], node.output[0], joins.get(node.output[0])))
    return found


def _fits(node: Any, constants: Mapping[str, Array]) -> bool:
    for name in node.input[1:3]:
        weight = constants.get(name)
        if weight is None or weight.dtype != np.float32 or weight.ndim != 3 or not weight.size or not np.isfinite(weight).all():
            return False
    if any(node.input[i] for i in (4, 7) if i < len(node.input)):  # lengths, peepholes
        return False
    given = {a.name: a for a in node.attribute}
    activations = tuple(given["activations"].strings) if "activations" in given else ()
    plain = not any(a.f or a.i for name, a in given.items() if name in ("clip", "input_forget", "layout"))
    return plain and activations in ((), _ACTIVATIONS, _ACTIVATIONS * 2)
