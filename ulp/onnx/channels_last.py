"""Rewriting images with channels last, the domain qonnx.custom_op.channels_last, as ONNX has them.

Every tensor (N, H, W, C) of the chain gets a twin (N, C, H, W), and the nodes work on twins. Transposes are left where the chain begins,
and where something else reads a tensor of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .model import Array, Model, Node
from .rewrites import Names

DOMAIN = "qonnx.custom_op.channels_last"
OPERATORS = ("Conv", "MaxPool", "BatchNormalization")

_TO_FIRST = (0, 3, 1, 2)
_TO_LAST = (0, 2, 3, 1)

# What computes each element by itself; other inputs than the first are parameters that broadcast, or scalars.
_ELEMENTWISE = (
    *("Quant", "BipolarQuant", "Trunc", "Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish"),
    *("Softplus", "Clip", "Identity", "Cast", "Abs", "Neg", "Add", "Sub", "Mul", "Div"),
)


def channels_first(model: Model) -> Model:
    """The same model with images (N, C, H, W) in the place of those of that domain."""
    if not any(node.domain == DOMAIN for node in model.nodes):
        return model
    pass_ = _Pass(model)
    for node in model.nodes:
        pass_.visit(node)
    for port in model.outputs:
        pass_.tell(port.name)
    return replace(model, nodes=pass_.nodes, constants=pass_.constants)


class _Pass:
    def __init__(self, model: Model) -> None:
        self.constants = dict(model.constants)
        self.nodes: list[Node] = []
        self.twins: dict[str, str] = {}
        self.told = set(model.constants) | {port.name for port in model.inputs}
        self.names = Names(model)

    def visit(self, node: Node) -> None:
        """Rewrite a node on twins, or leave it as it is."""
        if node.domain == DOMAIN and not node.problem:
            count = 2 if node.op_type == "Conv" else 1
            inputs = [self.twin(name) for name in node.inputs[:count]] + list(node.inputs[count:])
            for name in node.inputs[count:]:
                self.tell(name)
            self.put(replace(node, domain=""), inputs)
            return
        rule = _RULES.get(node.op_type, _elementwise if node.op_type in _ELEMENTWISE else None)
        if (
            rule is None
            or node.problem
            or len(node.outputs) != 1
            or not any(name in self.twins for name in node.inputs)
            or not rule(self, node)
        ):
            for name in node.inputs:
                self.tell(name)
            self.nodes.append(node)
            self.told.update(node.outputs)

    def put(self, node: Node, inputs: list[str]) -> None:
        """The node with these inputs; it makes the twin of its result."""
        self.twins[node.outputs[0]] = made = self.names.new(f"{node.outputs[0]}/first")
        self.nodes.append(replace(node, inputs=tuple(inputs), outputs=(made,)))

    def twin(self, name: str) -> str:
        """The tensor with channels first."""
        if name not in self.twins:
            self.twins[name] = self.names.new(f"{name}/first")
            self.transpose(name, self.twins[name], _TO_FIRST)
        return self.twins[name]

    def tell(self, name: str) -> None:
        """Have the tensor itself exist, where there is only a twin so far."""
        if name in self.twins and name not in self.told:
            self.told.add(name)
            self.transpose(self.twins[name], name, _TO_LAST)

    def transpose(self, source: str, target: str, order: tuple[int, ...]) -> None:
        self.nodes.append(Node("Transpose", f"{target}/transpose", (source,), (target,), {"perm": order}))

    def parameter(self, name: str) -> str | None:
        """A constant that broadcasts with the last sides of images, for twins; None where it is none."""
        array = self.constants.get(name)
        if array is None or array.ndim > 4:
            return None
        if array.size == 1 or array.ndim == 0:
            return name
        return self.constant(f"{name}/first", array.reshape((1,) * (4 - array.ndim) + array.shape).transpose(_TO_FIRST))

    def constant(self, wanted: str, array: Array) -> str:
        name = self.names.new(wanted)
        self.constants[name] = array
        return name


def _elementwise(p: _Pass, node: Node) -> bool:
    inputs = [p.twins[name] if name in p.twins else p.parameter(name) if name else "" for name in node.inputs]
    known = [name for name in inputs if name is not None]
    if len(known) < len(inputs):
        return False
    p.put(node, known)
    return True


def _multi_threshold(p: _Pass, node: Node) -> bool:
    if node.attributes.get("data_layout") != "NHWC" or node.inputs[0] not in p.twins:
        return False
    p.put(replace(node, attributes={**node.attributes, "data_layout": "NCHW"}), [p.twins[node.inputs[0]], *node.inputs[1:]])
    return True


def _concat(p: _Pass, node: Node) -> bool:
    axis = node.attributes.get("axis")
    if not all(name in p.twins for name in node.inputs) or not isinstance(axis, int) or not -4 <= axis < 4:
        return False
    p.put(replace(node, attributes={**node.attributes, "axis": _TO_FIRST.index(axis % 4)}), [p.twins[name] for name in node.inputs])
    return True


def _resize(p: _Pass, node: Node) -> bool:
    """Scales and sizes are in the order of the sides."""
    inputs = [p.twins.get(node.inputs[0], "")]
    if not inputs[0] or "axes" in node.attributes:
        return False
    for name in node.inputs[1:]:
        array = p.constants.get(name)
        if name and (array is None or array.size not in (0, 4)):
            return False
        inputs.append(name if array is None or not array.size else p.constant(f"{name}/first", array.reshape(4)[list(_TO_FIRST)]))
    p.put(node, inputs)
    return True


_RULES: dict[str, Callable[[_Pass, Node], bool]] = {
    "MultiThreshold": _multi_threshold,
    "Concat": _concat,
    "Resize": _resize,
    "Upsample": _resize,
}
