"""Networks with random weights, the same for every runtime, and the ONNX file of one."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .graph import Graph, Node, parameter_shapes, record
from .networks import NETWORKS

F32 = npt.NDArray[np.float32]
CALIBRATION_IMAGES = 4  # that every runtime, ulp among them, finds its ranges from


def random_weights(graph: Graph, seed: int = 0) -> dict[str, F32]:
    """Parameters by torch's names: He's normal weights, so that activations keep their size; batch norms that are not trivial."""
    rng = np.random.default_rng(seed)
    made: dict[str, F32] = {}
    for node in graph.nodes:
        for name, shape in parameter_shapes(node).items():
            kind = name.rpartition(".")[2]
            if node.op == "norm" and kind in ("weight", "running_var"):
                value = rng.uniform(0.5, 1.5, shape).astype(np.float32)
            elif kind == "weight":
                value = rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(2 / math.prod(shape[1:])))
            else:
                value = rng.standard_normal(shape, dtype=np.float32) * np.float32(0.1)
            made[name] = value
    return made


@dataclass(frozen=True)
class Model:
    """A network with random weights, drawn once: what every runtime gets. batch: images of one call."""

    name: str
    graph: Graph
    weights: dict[str, F32]
    batch: int = 1

    def images(self, count: int | None = None, seed: int = 1) -> F32:
        """Random images (count, 3, 224, 224), normalised as torchvision's are: zero mean, unit deviation. count None: the batch."""
        count = self.batch if count is None else count
        return np.random.default_rng(seed).standard_normal((count, *self.graph.nodes[0].shape), dtype=np.float32)


def model(name: str) -> Model:
    """The network of that name in `networks.NETWORKS` with its weights."""
    graph = record(NETWORKS[name])
    return Model(name, graph, random_weights(graph))


def _folded(node: Node, norm: Node | None, weights: dict[str, F32]) -> tuple[F32, F32]:
    """Weights and bias of a convolution with the batch norm behind it folded in."""
    weight = weights[f"{node.name}.weight"]
    bias = weights[f"{node.name}.bias"] if node.attributes["bias"] else np.zeros(len(weight), np.float32)
    if norm is None:
        return weight, bias
    gamma, beta, mean, variance = (weights[f"{norm.name}.{key}"] for key in ("weight", "bias", "running_mean", "running_var"))
    factor = gamma / np.sqrt(variance + np.float32(norm.attributes["eps"]))
    return weight * factor[:, None, None, None], (bias - mean) * factor + beta


def to_onnx(graph: Graph, weights: dict[str, F32], batch: int = 1, opset: int = 17, ir_version: int = 9) -> Any:
    """The network as an onnx.ModelProto, "x" in and "y" out, batch norms folded into the convolutions before them."""
    onnx = importlib.import_module("onnx")
    nodes: list[Any] = []
    constants: list[Any] = []
    name_of = {0: "x"}
    norm_after = {node.inputs[0]: node for node in graph.nodes if node.op == "norm"}

    def constant(name: str, value: npt.NDArray[Any]) -> str:
        constants.append(onnx.numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    for i, node in enumerate(graph.nodes[1:], start=1):
        inputs, at = [name_of[j] for j in node.inputs], node.attributes
        name_of[i] = "y" if i == len(graph.nodes) - 1 else f"{node.name or node.op}/{i}"
        more: dict[str, Any] = {}
        if node.op == "norm":
            name_of[i] = inputs[0]
            continue
        if node.op == "conv":
            weight, bias = _folded(node, norm_after.get(i), weights)
            inputs += [constant(f"{node.name}.weight", weight), constant(f"{node.name}.bias", bias)]
            more = {"kernel_shape": [at["kernel"]] * 2, "group": at["groups"]}
        elif node.op == "linear":
            inputs += [constant(f"{node.name}.weight", weights[f"{node.name}.weight"])]
            inputs += [constant(f"{node.name}.bias", weights[f"{node.name}.bias"])]
            more = {"transB": 1}
        elif node.op == "relu6":
            inputs += [constant(f"{name_of[i]}.low", np.float32(0)), constant(f"{name_of[i]}.high", np.float32(6))]
        elif node.op == "maxpool":
            more = {"kernel_shape": [at["kernel"]] * 2, "ceil_mode": int(at["ceil"])}
        elif node.op == "concat":
            more = {"axis": 1}
        if node.op in ("conv", "maxpool"):
            more |= {"strides": [at["stride"]] * 2, "pads": [at["padding"]] * 4}
        nodes.append(onnx.helper.make_node(_ONNX[node.op], inputs, [name_of[i]], name=name_of[i], **more))
    ends = [("x", graph.nodes[0].shape), ("y", graph.output)]
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [batch, *shape]) for name, shape in ends)
    made = onnx.helper.make_graph(nodes, "network", [x], [y], constants)
    result = onnx.helper.make_model(made, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(result)
    return result


_ONNX = {
    "conv": "Conv",
    "linear": "Gemm",
    "relu": "Relu",
    "relu6": "Clip",
    "maxpool": "MaxPool",
    "globalpool": "GlobalAveragePool",
    "flatten": "Flatten",
    "add": "Add",
    "concat": "Concat",
}
