"""The quantized model as a file: QONNX's `Quant` in front of what reads codes, and behind the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ulp.nn.quantizer import Quantizer
from ulp.onnx.chains import SMALLEST_SCALE
from ulp.onnx.model import Array

from . import recurrent
from .places import Place
from .prepare import Layer, Prepared
from .running import reads_of
from .weights import Settled

DOMAIN = "qonnx.custom_op.general"


class Writer:
    """A copy of the prepared model, to which quantizers are added."""

    def __init__(self, prepared: Prepared) -> None:
        import onnx

        self.prepared = prepared
        self.proto = onnx.ModelProto()
        self.proto.CopyFrom(prepared.proto)
        self.nodes = list(self.proto.graph.node)
        self.constants: dict[str, Array] = {}
        self.before: dict[int, list[Any]] = {}
        self.behind: dict[int, Any] = {}
        self.readers = prepared.readers()
        self.opset = next(o.version for o in self.proto.opset_import if o.domain in ("", "ai.onnx"))
        self.taken = {name for node in self.nodes for name in (*node.input, *node.output)}

    def name(self, wanted: str) -> str:
        """A name that no tensor has yet."""
        while wanted in self.taken:
            wanted += "_"
        self.taken.add(wanted)
        return wanted

    def constant(self, wanted: str, value: Any) -> str:
        """An initializer of float32."""
        return self.array(wanted, np.asarray(value, np.float32))

    def array(self, wanted: str, value: Array) -> str:
        """An initializer of the array's type."""
        name = self.name(wanted)
        self.constants[name] = value
        return name

    def quant(self, tensor: str, index: int, scale: Any, zero: int, bits: int, *, signed: bool) -> str:
        """A Quant of the tensor, in front of node `index`; the name of its result."""
        from onnx import helper

        out = self.name(f"{tensor}/quantized{bits}")
        inputs = [tensor, self.constant(f"{out}/scale", scale), self.constant(f"{out}/zero", zero), self.constant(f"{out}/bits", bits)]
        attributes: dict[str, Any] = {"signed": int(signed), "narrow": 0, "rounding_mode": "ROUND"}
        node = helper.make_node("Quant", inputs, [out], name=f"{out}/Quant", domain=DOMAIN, **attributes)
        self.before.setdefault(index, []).append(node)
        return out

    def activation(self, place: Place, quantizer: Quantizer) -> None:
        """The quantizer of a tensor, which the place's readers then read."""
        half = 2 ** (quantizer.bits - 1)
        signed = quantizer.zero == half and quantizer.bits > 1
        first = min(index for index, _ in place.readers)
        out = self.quant(place.tensor, first, quantizer.scale, 0 if signed else quantizer.zero, quantizer.bits, signed=signed)
        for index, i in place.readers:
            self.nodes[index].input[i] = out

    def rows(self, place: Place) -> None:
        """The quantizer of a tensor with a scale and a zero point of each row (`ulp.onnx.chains`), which the place's readers then read."""
        from onnx import helper

        first = min(index for index, _ in place.readers)
        tensor = self._outliers(place, first) if place.outliers else place.tensor
        out = self.name(f"{place.tensor}/rows{place.bits}")
        zero, levels, tiny, bits = (
            self.constant(f"{out}/{name}", value)
            for name, value in (("0", 0), ("levels", 2**place.bits - 1), ("tiny", SMALLEST_SCALE), ("bits", place.bits))
        )

        def add(op_type: str, inputs: list[str], **attributes: Any) -> str:
            name = self.name(f"{out}/{op_type}")
            self.before.setdefault(first, []).append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
            return name

        def extreme(which: str) -> str:
            if self.opset < 18:
                return add(which, [add(f"Reduce{which}", [tensor], axes=[-1], keepdims=1), zero])
            axes = self.name(f"{out}/axes")
            self.constants[axes] = np.array([-1], np.int64)
            return add(which, [add(f"Reduce{which}", [tensor, axes], keepdims=1), zero])

        low, high = extreme("Min"), extreme("Max")
        scale = add("Max", [add("Div", [add("Sub", [high, low]), levels]), tiny])
        first_code = add("Round", [add("Div", [add("Neg", [low]), scale])])
        attributes: dict[str, Any] = {"signed": 0, "narrow": 0, "rounding_mode": "ROUND"}
        inputs = [tensor, scale, first_code, bits]
        self.before[first].append(helper.make_node("Quant", inputs, [out], name=f"{out}/Quant", domain=DOMAIN, **attributes))
        for index, i in place.readers:
            self.nodes[index].input[i] = out

    def _outliers(self, place: Place, first: int) -> str:
        """The tensor with zeros for the place's outliers; behind each reader a product of them in floats is added to its result."""
        from onnx import helper

        columns = list(place.outliers)
        layers = {layer.index: layer for layer in self.prepared.layers}
        rest, picked, indices = (self.name(f"{place.tensor}/{name}") for name in ("rest", "outliers", "outliers/columns"))
        self.constants[indices] = np.array(columns, np.int64)
        layer = layers[first]
        mask = np.ones(layer.shape[1 - layer.axis], np.float32)
        mask[columns] = 0
        before = self.before.setdefault(first, [])
        before.append(helper.make_node("Mul", [place.tensor, self.constant(f"{rest}/mask", mask)], [rest], name=rest))
        before.append(helper.make_node("Gather", [place.tensor, indices], [picked], name=picked, axis=-1))
        for index, _ in place.readers:
            layer = layers[index]
            weight = np.moveaxis(self.prepared.constants[layer.weight], layer.axis, -1)[columns]
            low, wide = (self.name(f"{layer.name}/{name}") for name in ("low", "outliers"))
            inputs = [picked, self.constant(f"{wide}/weight", weight)]
            self.before.setdefault(index, []).append(helper.make_node("MatMul", inputs, [wide], name=wide))
            self.nodes[index].output[0] = low
            self.behind[index] = helper.make_node("Add", [low, wide], [layer.y], name=f"{wide}/Add")
        return rest

    def weights(self, layer: Layer, settled: Settled) -> None:
        """The layer's weights as integers times scales, with the Quant that says so, and its bias."""
        weight, bias = settled.weight, settled.bias
        node = self.nodes[layer.index]
        name = layer.weight
        values = weight.values()
        if self.readers[name] > 1:
            name = self.constant(f"{layer.name}.weight", values)
        else:
            self.constants[name] = values
        node.input[1] = self.quant(name, layer.index, weight.scale, 0, weight.bits, signed=True)
        if bias is None:
            return
        values = bias.astype(np.float32)
        if layer.added:
            name = self.constant(f"{layer.name}.bias", values)
            adding = next(other for other in self.nodes if layer.y in other.input)
            adding.input[list(adding.input).index(layer.added)] = name
        elif layer.bias and self.readers[layer.bias] == 1:
            self.constants[layer.bias] = values
        elif len(node.input) > 2:
            node.input[2] = self.constant(f"{layer.name}.bias", values)
        else:
            node.input.append(self.constant(f"{layer.name}.bias", values))

    def _behind(self, index: int) -> list[Any]:
        return [self.behind[index]] if index in self.behind else []

    def model(self) -> Any:
        """The ModelProto."""
        from onnx import helper, numpy_helper

        graph = self.proto.graph
        kept = [tensor for tensor in graph.initializer if tensor.name not in self.constants]
        nodes: Sequence[Any] = [n for i, node in enumerate(self.nodes) for n in (*self.before.get(i, ()), node, *self._behind(i))]
        nodes = _without_idle_shapes(nodes, {port.name for port in graph.output})
        used = {name for node in nodes for name in node.input} | {port.name for port in graph.output}
        made: Mapping[str, Array] = self.constants
        tensors = [*kept, *(numpy_helper.from_array(value, name) for name, value in made.items())]
        copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:], graph.initializer[:], graph.value_info[:]
        graph.node.extend(copies)
        graph.initializer.extend(tensor for tensor in tensors if tensor.name in used)
        domains = {DOMAIN} | {recurrent.DOMAIN for node in copies if node.domain == recurrent.DOMAIN}
        for domain in sorted(domains - {opset.domain for opset in self.proto.opset_import}):
            self.proto.opset_import.append(helper.make_opsetid(domain, 1))
        self.proto.producer_name = "ulp"
        return self.proto


def _without_idle_shapes(nodes: Sequence[Any], shown: set[str]) -> list[Any]:
    """The nodes but for computations with shapes whose results nothing reads."""
    used, kept = set(shown), []
    for node in reversed(nodes):
        if node.op_type in ("Shape", "Gather", "Slice", "Mul", "Concat", "Reshape") and used.isdisjoint(node.output):
            continue
        used |= reads_of(node)
        kept.append(node)
    return kept[::-1]


def written(
    prepared: Prepared,
    places: Sequence[Place],
    quantizers: Mapping[tuple[str, int], Quantizer],
    weights: Mapping[str, Settled],
    recurrences: Mapping[str, tuple[recurrent.RecurrentWeight, recurrent.RecurrentWeight]],
) -> Any:
    """The onnx.ModelProto with these quantizers, by tensor and bits, and these weights, by layer; other layers keep theirs.

    recurrences: W and R of LSTMs, by layer.
    """
    writer = Writer(prepared)
    for place in places:
        if place.of_rows:
            writer.rows(place)
        else:
            writer.activation(place, quantizers[place.tensor, place.bits])
    for layer in prepared.layers:
        if layer.name in weights:
            writer.weights(layer, weights[layer.name])
    for each in prepared.recurrent:
        if each.name in recurrences:
            recurrent.write(writer, each, recurrences[each.name])
    return writer.model()
