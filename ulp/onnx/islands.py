"""Float islands: neighbouring nodes that no integer part takes become one sub-model, which onnxruntime runs.

A sub-model is made of the file's own nodes and tensors, so that whatever onnxruntime runs is run: graphs in nodes, operators of other
domains, types that numpy has not. Where tensors of other types than numpy's cross its border, they are cast inside of it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import channels_last
from .functions import cheap_to_fold, graphs_of
from .guards import Guards
from .inference import Tensor, node_proto
from .model import Array, Model, Node, OnnxError
from .operators import OPERATORS
from .scope import Scope
from .session import Session
from .stages import FloatStage, IslandStage, Stage, bound
from .standard import is_quantizer, standard, with_standard_bodies
from .tensors import FLOAT16, dtype_of, exact_type, known_type

# Operators that onnxruntime does not have. They run by numpy, between islands.
_QONNX = ("Quant", "BipolarQuant", "Trunc", "MultiThreshold", "FloatQuant")
_FLOAT = 1
# int32 and int64: the CPU divides narrower ones as int32.
_DIVIDED = (6, 7)
# So often an island is divided where onnxruntime does not run all of it.
_ATTEMPTS = 64
_MICROSOFT = "com.microsoft"


def form(
    stages: Sequence[Stage], scope: Scope, original: Model, model: Model, one: Mapping[str, Tensor], many: Mapping[str, Tensor]
) -> list[Stage]:
    """The stages with neighbouring float stages as islands.

    original, model: as read and as normalised. one, many: what is known of tensors, for a batch of one and of more: sides that differ are
    left open.
    """
    maker = Maker(scope, original, model, one, many)
    formed: list[Stage] = []
    later = maker.reads_behind(stages)
    groups = list(_groups(stages, maker.takes))
    maker.alone = len(groups) == 1
    for group in groups:
        if isinstance(group[0], FloatStage) and maker.takes(group[0].node):
            formed += maker.island([stage for stage in group if isinstance(stage, FloatStage)], later)
        else:
            formed += group
    return formed


def runs_in_island(node: Node) -> bool:
    """Whether onnxruntime may know the operator, as it is."""
    return not (node.op_type in _QONNX and node.op_type in OPERATORS) and node.domain != channels_last.DOMAIN


def _groups(stages: Sequence[Stage], takes: Callable[[Node], bool]) -> Iterable[list[Stage]]:
    """The stages in another order in which they can run: all that can run next and is no island, then all that can run as one island.

    takes: whether a node runs in an island.
    """
    makers = {name: i for i, stage in enumerate(stages) for name in stage.makes}
    users: list[list[int]] = [[] for _ in stages]
    missing = [0] * len(stages)
    for i, stage in enumerate(stages):
        for name in dict.fromkeys(stage.reads):
            if name in makers:
                users[makers[name]].append(i)
                missing[i] += 1
    ready: dict[bool, deque[int]] = {False: deque(), True: deque()}

    def put(i: int) -> None:
        stage = stages[i]
        ready[isinstance(stage, FloatStage) and takes(stage.node)].append(i)

    for i, count in enumerate(missing):
        if not count:
            put(i)
    in_island = False
    while ready[False] or ready[True]:
        group = []
        while ready[in_island]:
            i = ready[in_island].popleft()
            group.append(stages[i])
            for user in users[i]:
                missing[user] -= 1
                if not missing[user]:
                    put(user)
        if group:
            yield group
        in_island = not in_island


class Maker:
    """Makes islands of a model's nodes. Arguments as for `form`."""

    def __init__(self, scope: Scope, original: Model, model: Model, one: Mapping[str, Tensor], many: Mapping[str, Tensor]) -> None:
        import onnx

        self.onnx = onnx
        self.scope = scope
        self.model = model
        self.one = one
        self.many = many
        self.makers = {name: node for node in model.nodes for name in node.outputs if name}
        self.rewritten = _rewritten(original, model)
        self.sources = {port.name: port for port in original.source.graph.input}
        self.types: dict[str, str] = {}
        """Of results of islands, as onnxruntime calls them"""
        self.attempts = 0
        self.alone = False
        """Whether an island is all of the network"""
        self._standard: dict[int, list[Any] | None] = {}

    def takes(self, node: Node) -> bool:
        """Whether the node runs in an island: onnxruntime may know it, or it can be written in operators that onnxruntime knows."""
        return runs_in_island(node) or self.standard(node) is not None

    def standard(self, node: Node) -> list[Any] | None:
        """The NodeProtos of one of QONNX's quantizers in ONNX's own operators; None where there are none."""
        if id(node) not in self._standard:
            tensor = self.one.get(node.input(0))
            known = None if tensor is None or not is_quantizer(node.op_type) else tensor.kind
            made = standard(self.onnx, node, self.constant, known, self.shape(node.inputs[0]), self.model.opset) if known else None
            self._standard[id(node)] = made
        return self._standard[id(node)]

    def constant(self, name: str) -> Array | None:
        """A known tensor."""
        return self.scope.constant(name) if self.scope.is_constant(name) else None

    def reads_behind(self, stages: Sequence[Stage]) -> dict[str, int]:
        """How many stages, or outputs of the model, read each tensor."""
        counts: dict[str, int] = {port.name: 1 for port in self.model.outputs}
        for stage in stages:
            for name in dict.fromkeys(stage.reads):
                counts[name] = counts.get(name, 0) + 1
        return counts

    def island(self, steps: list[FloatStage], later: Mapping[str, int]) -> list[Stage]:
        """One island of these steps, whose results are those that something else reads."""
        inside: dict[str, int] = {}
        for step in steps:
            for name in dict.fromkeys(step.reads):
                inside[name] = inside.get(name, 0) + 1
        made = [name for step in steps for name in step.node.outputs if name]
        results = [name for name in made if later.get(name, 0) > inside.get(name, 0)]
        try:
            reads, session = self.session([step.node for step in steps], results)
        except OnnxError:
            return self.in_parts(steps, later)
        self.types.update(zip(results, session.types, strict=True))
        return [IslandStage(tuple(reads), tuple(results), session)]

    def session(self, nodes: list[Node], results: list[str], optimized: Path | None = None) -> tuple[list[str], Session]:
        """What the nodes read from outside, and the session that gives these results of theirs. optimized: as for `Session`."""
        try:
            return self._session(_Graph(self, results), nodes, optimized)
        except OnnxError:
            # The sides of inputs may not fit a branch that is never taken: onnxruntime accepts it if it does not know them.
            return self._session(_Graph(self, results, sides=False), nodes, optimized)

    def _session(self, graph: _Graph, nodes: list[Node], optimized: Path | None) -> tuple[list[str], Session]:
        for node in self.as_in_file(nodes, set(graph.outputs)):
            graph.node(node)
        return graph.reads, Session(
            graph.serialized(), _name(nodes), folds=graph.folds, alone=self.alone, guarded=True, optimized=optimized
        )

    def in_parts(self, steps: list[FloatStage], later: Mapping[str, int]) -> list[Stage]:
        """Steps that are no island, as something in them is unknown to onnxruntime: smaller islands, and operators of numpy.

        Called while onnxruntime's error is handled, which is raised again if numpy has no operator for what it is about.
        """
        self.attempts += 1
        if len(steps) > 1 and self.attempts < _ATTEMPTS:
            half = len(steps) // 2
            return [*self.island(steps[:half], later), *self.island(steps[half:], later)]
        try:
            for step in steps:
                bound(step.node, self.model.opset, self.scope.limits)
                if any(name in self.model.protos and not self.scope.is_constant(name) for name in step.reads):
                    raise OnnxError("a constant of a type that numpy has not")
        except OnnxError:
            known = False
        else:
            known = True
        if not known:
            raise  # noqa: PLE0704  # the error that is being handled
        return list(steps)

    def as_in_file(self, nodes: list[Node], results: set[str]) -> list[Node]:
        """Nodes that were rewritten as in the file, where all of what one became is here and nothing else reads the parts."""
        here = {id(node) for node in nodes}
        ends: dict[int, Node] = {}
        dropped: set[int] = set()
        for source, group in self.rewritten:
            members = [node for node in group if id(node) in here]
            if not members or id(group[-1]) not in here or len(source.outputs) != 1:
                continue
            parts = {name for node in members[:-1] for name in node.outputs}
            computed = all(id(node) in here or all(self.scope.is_constant(name) for name in node.outputs) for node in group)
            if computed and not parts & results:
                ends[id(group[-1])] = source
                dropped.update(id(node) for node in members[:-1])
        return [ends.get(id(node), node) for node in nodes if id(node) not in dropped]

    def maker(self, name: str) -> Node | None:
        """The node of the model that makes a constant, if its array may have another type than the file's, or it is quantized."""
        node = self.makers.get(name)
        if node is None or not runs_in_island(node):
            return None
        known = self.scope.quantized.get(name)
        if known is not None and node.attributes.get("block_size", 0) and self.scope.bits.get(node.inputs[0], 8) == 8:
            return None  # onnxruntime fuses it with a product of codes to an operator that does not know blocks
        return node if name in self.scope.inexact or known is not None else None

    def kind(self, name: str) -> Any:
        """The type of a tensor that comes from outside: a number of TensorProto, or a TypeProto of what is no tensor."""
        if name in self.sources and not self.sources[name].type.HasField("tensor_type"):
            return self.sources[name].type
        if name in self.one and self.one[name].kind:
            return self.one[name].kind
        return _kind_of(self.onnx, self.types.get(name, "tensor(float)"))

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """The sides that do not depend on the batch."""
        if name not in self.one or name not in self.many:
            return None
        one, many = self.one[name].shape, self.many[name].shape
        if one is None or many is None or len(one) != len(many):
            return None
        return tuple(a if a == b else None for a, b in zip(one, many, strict=True))


def _name(nodes: list[Node]) -> str:
    """How messages name an island: by the node that ulp does not know, if there is one."""
    for node in nodes:
        if node.problem:
            return f"{node}: {node.problem}"
    return str(nodes[0]) if len(nodes) == 1 else f"{len(nodes)} nodes from {nodes[0]} to {nodes[-1]}"


def _kind_of(onnx: Any, name: str) -> Any:
    """A type as onnxruntime calls it; float where that is no plain tensor."""
    inner = name.removeprefix("tensor(").removesuffix(")").upper()
    return getattr(onnx.TensorProto, {"": "FLOAT"}.get(inner, inner), _FLOAT)


def _rewritten(original: Model, model: Model) -> list[tuple[Node, list[Node]]]:
    """Nodes of the file, each with those that `normalise` made of it, the last of which makes its result.

    Left out are those that were rewritten together with others, and so read other tensors than what they became.
    """
    kept = {id(node) for node in model.nodes}
    ends = {node.outputs[0]: node for node in original.nodes if id(node) not in kept and node.outputs}
    found = []
    group: list[Node] = []
    unchanged = {id(node) for node in original.nodes}
    for node in model.nodes:
        if id(node) in unchanged:
            group = []
            continue
        group.append(node)
        source = ends.get(node.outputs[0])
        if source is not None:
            made = {name for member in group for name in member.outputs}
            read = {name for member in group for name in member.reads} - made - set(model.constants)
            if read == {name for name in source.reads if name not in original.constants} and runs_in_island(source):
                found.append((source, group))
            group = []
    return found


class _Graph:
    """The sub-model of one island while it grows. sides: whether inputs have them."""

    def __init__(self, maker: Maker, results: list[str], *, sides: bool = True) -> None:
        self.maker = maker
        self.sides = sides
        self.onnx = maker.onnx
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.reads: list[str] = []
        self.initializers: list[Any] = []
        self.sparse: list[Any] = []
        self.known: set[str] = set()
        self.outputs = results
        self.folds = True

    def node(self, node: Node) -> None:
        """A node behind those whose results it reads."""
        scope = self.maker.scope
        written = None if runs_in_island(node) else self.maker.standard(node)
        for name in node.reads if written is None else node.inputs[:1]:  # parameters are constants of what was written
            self.tensor(name)
        if node.reads and all(scope.is_constant(name) for name in node.reads):
            self.folds = self.folds and node.op_type in OPERATORS and not node.problem
        graphs = [graph for a in (node.proto.attribute if node.proto is not None else ()) for graph in graphs_of(a)]
        self.folds = self.folds and all(node.op_type == "If" and cheap_to_fold(graph, self.elements) for graph in graphs)
        self.nodes += [self._proto(node)] if written is None else written
        self.known.update(name for name in node.outputs if name)

    def elements(self, name: str) -> int | None:
        """How many elements a constant has; None for what is no constant."""
        proto = self.maker.model.protos.get(name)
        if proto is not None:
            return int(math.prod(proto.dims))
        array = self.maker.scope.constant(name) if self.maker.scope.is_constant(name) else None
        return None if array is None else int(array.size)

    def _proto(self, node: Node) -> Any:
        # A QuantizeLinear behind an integer part: the file's own, whose zero point may have a type that numpy has not.
        source = self.maker.makers.get(node.outputs[0])
        if node.proto is None and source is not None and source is not node and source.op_type == node.op_type == "QuantizeLinear":
            for name in source.inputs[1:]:
                if name:
                    self.tensor(name)
            proto = self.onnx.NodeProto()
            proto.CopyFrom(node_proto(self.onnx, source))
            proto.input[0] = node.inputs[0]
            return proto
        return with_standard_bodies(self.onnx, node_proto(self.onnx, node), self.maker.constant, self.maker.model.opset)

    def tensor(self, name: str) -> None:
        """Have a tensor that a node reads: made here, a constant, or an input."""
        stack = [name]
        while stack:
            name = stack[-1]
            if name in self.known:
                stack.pop()
                continue
            node = self.maker.maker(name)
            waiting = [read for read in node.reads if read not in self.known] if node is not None else []
            if waiting:
                stack += waiting
                continue
            stack.pop()
            if node is not None:
                self.node(node)
            elif not self.constant(name):
                self.input(name)
            self.known.add(name)

    def constant(self, name: str) -> bool:
        """Put a constant among the initializers; False where it is none."""
        maker = self.maker
        proto = maker.model.proto(name)
        if proto is not None and not hasattr(proto, "data_type"):
            self.sparse.append(proto)
            return True
        external = proto is not None and proto.data_location == proto.EXTERNAL
        if proto is not None and not external:
            copy = proto
            if proto.name != name:
                copy = self.onnx.TensorProto()
                copy.CopyFrom(proto)
                copy.name = name
            self.initializers.append(copy)
            return True
        if not maker.scope.is_constant(name):
            return False
        array = maker.scope.constant(name)
        assert array is not None
        kind = proto.data_type if proto is not None else maker.one[name].kind if name in maker.one else 0
        self.initializers.append(_tensor(self.onnx, name, np.ascontiguousarray(array).reshape(array.shape), kind))
        return True

    def input(self, name: str) -> None:
        """A tensor from outside. What numpy has no type for comes in a wider type, and is cast."""
        kind, shape = self.maker.kind(name), self.maker.shape(name) if self.sides else None
        info = self.onnx.ValueInfoProto()
        info.name = name
        if not isinstance(kind, int):
            info.type.CopyFrom(kind)
        elif kind == FLOAT16 or not known_type(kind) or exact_type(kind):
            info = self.onnx.helper.make_tensor_value_info(name, kind, shape)
        else:
            wide = f"{name}/wide"
            info = self.onnx.helper.make_tensor_value_info(wide, self._wide(kind), shape)
            self.nodes.append(self.onnx.helper.make_node("Cast", [wide], [name], to=kind))
        self.inputs.append(info)
        self.reads.append(name)

    def _wide(self, kind: int) -> int:
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(dtype_of(kind, "")))

    def _divided(self, node: Any) -> int:
        """The type of a Div of wide integers whose divisor may be -1; 0 for others, and before opset 9, which has no Where."""
        one, (a, b) = self.maker.one, node.input
        kind = next((one[name].kind for name in (a, b) if name in one), 0)
        if kind not in _DIVIDED or self.maker.model.opset < 9:
            return 0
        divisor = next((tensor for tensor in self.initializers if tensor.name == b), None)
        safe = divisor is not None and divisor.data_location != divisor.EXTERNAL and -1 not in self.onnx.numpy_helper.to_array(divisor)
        return 0 if safe else kind

    def serialized(self) -> bytes:
        """The model."""
        outputs = []
        for name in self.outputs:
            info = self.onnx.ValueInfoProto()
            info.name = name
            kind = self.maker.one[name].kind if name in self.maker.one else 0
            if kind and kind != FLOAT16 and known_type(kind) and not exact_type(kind):
                info.name = f"{name}/wide"
                self.nodes.append(self.onnx.helper.make_node("Cast", [name], [info.name], to=self._wide(kind)))
            outputs.append(info)
        source = self.maker.model.source
        guards = Guards(self.onnx, {tensor.name for tensor in self.initializers if 0 not in tensor.dims}, self._divided)
        nodes = guards.guarded(self.nodes)
        constants = [*self.initializers, *guards.constants.values()]
        graph = self.onnx.helper.make_graph(nodes, "island", self.inputs, outputs, constants, sparse_initializer=self.sparse)
        imports = list(source.opset_import)
        if not any(o.domain == _MICROSOFT for o in imports):
            imports.append(self.onnx.helper.make_opsetid(_MICROSOFT, 1))
        model = self.onnx.helper.make_model(graph, opset_imports=imports, ir_version=max(source.ir_version, 4))
        data: bytes = model.SerializeToString()
        return data


def _tensor(onnx: Any, name: str, array: Any, kind: int) -> Any:
    if kind and not exact_type(kind):
        return onnx.helper.make_tensor(name, kind, array.shape, array.reshape(-1))
    return onnx.numpy_helper.from_array(array, name)
