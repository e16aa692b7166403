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
