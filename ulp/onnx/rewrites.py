"""Rewriting patterns of several nodes, so that rules see the layers in them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from .model import Array, Model, Node


class Names:
    """Names of tensors that are new to a model."""

    def __init__(self, model: Model) -> None:
        self.taken = {name for node in model.nodes for name in node.outputs} | {port.name for port in model.inputs} | set(model.constants)

    def new(self, wanted: str) -> str:
        """`wanted`, or something like it that nothing is called yet."""
        while wanted in self.taken:
            wanted += "'"
        self.taken.add(wanted)
        return wanted


def without_sandwiches(model: Model) -> Model:
    """Squeeze(BatchNormalization(Unsqueeze(x))) -> BatchNormalization(x), where features get sides of 1 behind them and lose them again."""
    makers = {name: node for node in model.nodes for name in node.outputs}
    used = Counter(name for node in model.nodes for name in node.inputs)
    used.update(port.name for port in model.outputs)
    instead: dict[str, Node] = {}
    for squeeze in model.nodes:
        norm = makers.get(squeeze.input(0)) if squeeze.op_type == "Squeeze" else None
        unsqueeze = makers.get(norm.input(0)) if norm is not None and norm.op_type == "BatchNormalization" else None
        if norm is None or unsqueeze is None or unsqueeze.op_type != "Unsqueeze" or len(norm.outputs) != 1:
            continue
        if squeeze.problem or norm.problem or unsqueeze.problem:
            continue
        axes = _axes(model, unsqueeze)
        if axes and min(axes) >= 2 and axes == _axes(model, squeeze) and used[norm.outputs[0]] == used[unsqueeze.outputs[0]] == 1:
            instead[squeeze.name] = replace(norm, inputs=(unsqueeze.inputs[0], *norm.inputs[1:]), outputs=squeeze.outputs)
            instead[norm.name] = instead[unsqueeze.name] = replace(norm, op_type="")
    if not instead:
        return model
    nodes = [instead.get(node.name, node) for node in model.nodes]
    return replace(model, nodes=[node for node in nodes if node.op_type])


def _axes(model: Model, node: Node) -> tuple[int, ...]:
    """Of a Squeeze or Unsqueeze; () where they are left out or computed."""
    given = node.attributes.get("axes", model.constants.get(node.input(1), ()))
    return tuple(sorted(int(axis) for axis in np.ravel(given)))


# What may lie between a float layer and the quantizer of its result, and how many of them.
_BETWEEN = ("Relu", "Clip", "LeakyRelu", "BatchNormalization", "Add", "Mul")
_MAX_BETWEEN = 4


def with_pools_first(model: Model) -> Model:
    """MaxPool of a float layer's quantized result -> the quantized MaxPool of its result.

    Quantizers never fall, so both are the same. Behind the pooling there are fewer floats to quantize, and onnxruntime pools them while it
    has them in its own layout.
    """
    makers = {name: node for node in model.nodes for name in node.outputs}
    users: dict[str, list[Node]] = {}
    for node in model.nodes:
        for name in node.reads:
            users.setdefault(name, []).append(node)
    shown = {port.name for port in model.outputs}
    names = Names(model)
    instead: dict[str, list[Node]] = {}
    for node in model.nodes:
        if node.op_type not in ("Quant", "QuantizeLinear") or node.problem or not _is_positive(model, node.input(1)):
            continue
        chain = [node]
        while (behind := users.get(chain[-1].outputs[0], [])) and len(behind) == 1 and chain[-1].outputs[0] not in shown:
            if behind[0].op_type not in ("Clip", "DequantizeLinear") or behind[0].input(0) != chain[-1].outputs[0]:
                break
            chain.append(behind[0])
        pools = users.get(chain[-1].outputs[0], [])
        if len(pools) != 1 or chain[-1].outputs[0] in shown or any(link.problem or link.captured for link in chain):
            continue
        (pool,) = pools
        if pool.op_type != "MaxPool" or pool.problem or len(pool.outputs) != 1 or max(pool.attributes.get("strides", (1,))) < 2:
            continue
        if not _is_result_of_floats(makers, node.input(0)):
            continue
        floats = names.new(f"{pool.outputs[0]}/float")
        moved = replace(pool, inputs=(node.inputs[0],), outputs=(floats,))
        first = replace(node, inputs=(floats, *node.inputs[1:]))
        instead.update((link.name, []) for link in chain)
        last = replace(chain[-1] if len(chain) > 1 else first, outputs=pool.outputs)
        instead[pool.name] = [moved, *([first, *chain[1:-1]] if len(chain) > 1 else []), last]
    if not instead:
        return model
    return replace(model, nodes=[made for node in model.nodes for made in instead.get(node.name, [node])])


def _is_positive(model: Model, name: str) -> bool:
    scale = model.constants.get(name)
    return scale is not None and scale.dtype.kind == "f" and bool((scale > 0).all())


def _is_result_of_floats(makers: dict[str, Node], name: str) -> bool:
    """Whether a tensor comes from a convolution whose image or weights are not quantized."""
    for _ in range(_MAX_BETWEEN):
        node = makers.get(name)
        if node is None:
            return False
        if node.op_type == "Conv":
            sources = [makers.get(node.input(i)) for i in (0, 1)]
            quantized = ("Quant", "BipolarQuant", "DequantizeLinear", "Trunc", "MultiThreshold")
            return any(source is None or source.op_type not in quantized for source in sources)
        if node.op_type not in _BETWEEN:
            return False
        name = node.input(0)
    return False


def with_scales_beside(model: Model) -> Model:
    """Quant of activations with a scale per channel, in front of grouped convolutions -> Div by the scale, Quant with scale 1, Mul by it.

    The sums of a group do not mix such channels, so its convolution can be integer.
    """
    static = set(model.constants)
    users: dict[str, list[Node]] = {}
    for node in model.nodes:
        if node.inputs and all(not name or name in static for name in node.inputs):
            static.update(node.outputs)
        for name in node.inputs:
            users.setdefault(name, []).append(node)
    shown = {port.name for port in model.outputs}
    names = Names(model)
    constants = dict(model.constants)
    nodes: list[Node] = []
    for node in model.nodes:
        layers = users.get(node.outputs[0], [])
        grouped = all(layer.op_type == "Conv" and not layer.problem and layer.attributes.get("group", 1) > 1 for layer in layers)
        alone = all(layer.input(0) == node.outputs[0] for layer in layers) and node.outputs[0] not in shown
        of_activations = node.op_type == "Quant" and not node.problem and node.input(0) not in static
        if not (of_activations and alone and layers and grouped and _is_per_channel(constants.get(node.input(1)))):
            nodes.append(node)
            continue
        scale = names.new(f"{node.input(1)}/scale")
        one = names.new(f"{node.input(1)}/one")
        constants[scale] = constants[node.input(1)].astype(np.float32)
        constants[one] = np.ones((), np.float32)
        steps, codes = names.new(f"{node.outputs[0]}/steps"), names.new(f"{node.outputs[0]}/codes")
        nodes.append(Node("Div", f"{node.name}/div", (node.inputs[0], scale), (steps,)))
        nodes.append(replace(node, inputs=(steps, one, *node.inputs[2:]), outputs=(codes,)))
        nodes.append(Node("Mul", f"{node.name}/mul", (codes, scale), node.outputs))
    return replace(model, nodes=nodes, constants=constants)


def _is_per_channel(scale: Array | None) -> bool:
    """Whether a constant has several finite scales above 0, one per channel of images."""
    if scale is None or scale.size < 2 or scale.ndim not in (3, 4) or scale.shape[-3] != scale.size:
        return False
    return bool((np.isfinite(scale) & (scale > 0)).all())
