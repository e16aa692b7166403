"""A network that runs piece by piece over all its calibration data, so that a layer can be settled before what follows it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ulp.onnx.model import Array

from .batches import Batch
from .prepare import Layer
from .running import Piece, reads_of


class Walk:
    """Nodes run once each, in their order; tensors that no later node reads are dropped."""

    def __init__(self, proto: Any, batches: Sequence[Batch]) -> None:
        from onnx import ModelProto

        self.proto = ModelProto()
        self.proto.CopyFrom(proto)
        self._nodes = list(self.proto.graph.node)
        self._places = {name: i for i, node in enumerate(self._nodes) for name in node.output}
        self._last = {name: i for i, node in enumerate(self._nodes) for name in reads_of(node)}
        self._next = 0
        self._tensors: list[dict[str, Array]] = [dict(batch) for batch in batches]

    def inputs_of(self, y: str) -> list[Array]:
        """The first input of the layer that makes y, batch by batch; what is in front of it has run then, and it has not."""
        stop = self._layer(y)
        nodes = self._nodes[self._next : stop]
        wanted = [name for node in nodes for name in node.output if self._last.get(name, -1) >= stop]
        piece = Piece(self.proto, nodes, wanted, self._tensors[0])
        for tensors in self._tensors:
            tensors.update(piece(tensors))
            for name in [name for name in tensors if self._last.get(name, -1) < stop]:
                del tensors[name]
        self._next = stop
        name = self._nodes[stop].input[0]
        return [tensors[name] for tensors in self._tensors]

    def _layer(self, y: str) -> int:
        """The layer's node; a sum that makes y is that with its outliers (write.py)."""
        node = self._nodes[self._places[y]]
        return self._places[node.input[0] if node.op_type == "Add" else y]

    def settle(self, layer: Layer, weight: Array, bias: Array | None) -> None:
        """Other weights, and another bias, for a layer that has not run yet."""
        from onnx import numpy_helper

        node = self._nodes[self._layer(layer.y)]
        for i, array in ((1, weight), (2, bias)):
            if array is None:
                continue
            name = f"{layer.y}/settled{i}"
            self.proto.graph.initializer.append(numpy_helper.from_array(array, name))
            if i == 2 and layer.added:
                adding = next(other for other in self._nodes if layer.y in other.input)
                adding.input[list(adding.input).index(layer.added)] = name
            elif i < len(node.input):
                node.input[i] = name
            else:
                node.input.append(name)
