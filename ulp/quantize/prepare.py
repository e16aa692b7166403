"""From any float model to the graph that is quantized: checked, simplified by onnxruntime, its layers named as their author named them."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ulp.onnx.limits import Limits
from ulp.onnx.model import Array, OnnxError, Port
from ulp.onnx.reader import read

from .lstms import RecurrentLayer, recurrent_layers

# What a file that is already quantized has.
_QUANTIZERS = (
    *("Quant", "IntQuant", "BipolarQuant", "FloatQuant", "Trunc", "MultiThreshold", "QuantizeLinear", "DequantizeLinear"),
    *("DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", "MatMulNBits", "QLinearConv", "QLinearMatMul", "QGemm"),
    "DynamicQuantizeLSTM",
)
# Clip takes its bounds as inputs since this opset.
_OPSET = 11
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """A layer with weights.

    name: as the model's author calls it, where the file says so ("layer1.0.conv1"). shape: of its weights, as the file has them. axis: the
    side of its outputs. groups: of a convolution. macs: multiplications for one input of the calibration data, 0 until that was seen.
    x, weight, bias, y: names of tensors; bias is "" where there is none. index: of the node. added: the bias of a MatMul, which an Add
    behind it adds. first: the name of the layer that uses the same weights first, as a module that is called several times; else its own.
    """

    name: str
    op_type: str
    shape: tuple[int, ...]
    axis: int
    groups: int
    macs: int
    x: str
    weight: str
    bias: str
    y: str
    index: int
    added: str = ""
    first: str = ""


@dataclass
class Prepared:
    """A float model: onnx.ModelProto with sorted nodes, its constants by name, its inputs, its layers in the order in which they run.

    recurrent: LSTMs that can be quantized, which are not among the layers.
    """

    proto: Any
    constants: dict[str, Array]
    inputs: list[Port]
    layers: list[Layer]
    outputs: list[str]
    recurrent: list[RecurrentLayer] = field(default_factory=list)

    def readers(self) -> Counter[str]:
        """How many inputs of nodes and results of the model each tensor is."""
        return Counter([name for node in self.proto.graph.node for name in node.input] + self.outputs)


def prepare(source: Any, limits: Limits | None = None) -> Prepared:
    """source: a path, bytes, or onnx.ModelProto. OnnxError where the model is quantized already; ImportError without onnxruntime."""
    import onnx

    model = read(source, limits, in_protos=True)
    for node in model.nodes:
        if node.op_type in _QUANTIZERS:
            raise OnnxError(f"{node}: this file is quantized already; bits= and calibrate= are for float models")
    proto = onnx.ModelProto()
    proto.CopyFrom(model.source)
    if isinstance(source, (str, Path)):
        onnx.load_external_data_for_model(proto, str(Path(source).parent))
    proto = _raised(proto)
    first = _name_layers(proto)
    proto = _simplified(proto)
    return prepared_of(proto, model.inputs, [port.name for port in model.outputs], first)


def prepared_of(proto: Any, inputs: list[Port], outputs: list[str], first: Mapping[str, str]) -> Prepared:
    """A simplified model with its constants and layers. first: of layers with the weights of one before, the name of that one."""
    constants = _constants(proto)
    _check_weights(proto, constants)
    layers = [replace(layer, first=first.get(layer.name, layer.name)) for layer in _layers(proto, constants)]
    recurrent = []
    if any(node.op_type == "LSTM" for node in proto.graph.node):
        recurrent = recurrent_layers(read(proto, in_protos=True), proto, constants)
    return Prepared(proto, constants, inputs, layers, outputs, recurrent)


def _raised(proto: Any) -> Any:
    """The model with an opset that has what quantizers are simulated by. OnnxError where it cannot be converted."""
    import onnx
    import onnx.version_converter

    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), _OPSET)
    if opset >= _OPSET:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, _OPSET)
    except Exception as error:  # the converter's, of C++
        raise OnnxError(
            f"the model has opset {opset}, and onnx.version_converter cannot raise it to {_OPSET}, which quantizing needs: export the "
            f"model with opset {_OPSET} or newer ({str(error).strip():.300})"
        ) from error


def _simplified(proto: Any) -> Any:
    """The model as onnxruntime simplifies it: constants folded, batch normalizations in the layers before them, no copies."""
    import onnx

    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError('quantizing a float model needs the package onnxruntime: pip install "ulp-gemm[onnx]"') from error
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        options.optimized_model_filepath = str(after)
        onnx.save_model(proto, str(before), save_as_external_data=proto.ByteSize() > 2**30)
        try:
            onnxruntime.InferenceSession(str(before), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for each of its codes
            raise OnnxError(f"onnxruntime does not run this model: {str(error).splitlines()[0]}") from error
        simple = onnx.load_model(str(after))
    used = {node.domain for node in simple.graph.node} | {""}
    opsets = [opset for opset in simple.opset_import if opset.domain in used]
    del simple.opset_import[:]
    simple.opset_import.extend(opsets)
    return simple


def _constants(proto: Any) -> dict[str, Array]:
    from onnx import numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _name_layers(proto: Any) -> dict[str, str]:
    """Names for nodes: of their module, where the weights' name or the node's says it; for all others their own, or one of their type.

    Gives, of each node with weights that one before has as well, the name of the first.
    """
    weights = {tensor.name for tensor in proto.graph.initializer}
    makers = {name: node for node in proto.graph.node for name in node.output}
    taken: Counter[str] = Counter()
    owners: dict[str, str] = {}
    first: dict[str, str] = {}
    for node in proto.graph.node:
        name, source = node.name, ""
        if node.op_type in _WEIGHTED and len(node.input) > 1:
            source = node.input[1]
            while source in makers and makers[source].op_type in ("Transpose", "Identity", "Cast") and makers[source].input:
                source = makers[source].input[0]
            module = source.removesuffix(".weight") if source in weights and source.endswith(".weight") else _scope(name)
            name = module or name
        name = name or node.op_type
        taken[name] += 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"
        if source in weights:
            first[node.name] = owners.setdefault(source, node.name)
    return first


def _scope(name: str) -> str:
    """ "/layer1/layer1.0/conv1/Conv" -> "layer1.0.conv1", "" where the name is no path."""
    found: list[str] = []
    for part in name.split("/")[1:-1]:
        if found and part.startswith(f"{found[-1]}."):
            found.pop()
        found.append(part)
    return ".".join(found)


def _attribute(node: Any, name: str, default: int) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _bias_behind(proto: Any, y: str, constants: dict[str, Array]) -> str:
    """The constant (O,) that an Add, which alone reads y, adds to it; "" where there is none."""
    readers = [node for node in proto.graph.node if y in node.input]
    if len(readers) != 1 or readers[0].op_type != "Add" or y in {port.name for port in proto.graph.output}:
        return ""
    return next((name for name in readers[0].input if name in constants and constants[name].ndim == 1), "")


def _check_weights(proto: Any, constants: Mapping[str, Array]) -> None:
    """ValueError for a layer whose weights are no numbers: its results would be none, and no range could be found from them."""
    for node in proto.graph.node:
        for name in node.input[1:] if node.op_type in _WEIGHTED else ():
            if name in constants and constants[name].dtype.kind == "f" and not np.isfinite(constants[name]).all():
                what = "weights" if name == node.input[1] else "a bias"
                raise ValueError(
                    f"layer {node.name!r} has {what} with a NaN or an infinity ({name!r}): the model is broken, or was not trained"
                )


def _layers(proto: Any, constants: dict[str, Array]) -> list[Layer]:
    found = []
    for index, node in enumerate(proto.graph.node):
        if node.op_type not in _WEIGHTED or node.domain not in ("", "ai.onnx") or node.input[1] not in constants:
            continue
        weight = constants[node.input[1]]
        if node.input[0] in constants or weight.dtype != np.float32 or weight.ndim < 2 or not weight.size:
            continue
        if weight.ndim != 2 and node.op_type in ("MatMul", "Gemm"):
            continue
        if _attribute(node, "transA", 0) or any(a.name in ("alpha", "beta") and a.f != 1 for a in node.attribute):
            continue  # such a Gemm is no linear layer
        axis = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}.get(node.op_type, 1 - _attribute(node, "transB", 0))
        added = _bias_behind(proto, node.output[0], constants) if node.op_type == "MatMul" else ""
        bias = node.input[2] if len(node.input) > 2 and node.input[2] in constants else ""
        name = node.name.removesuffix("/MatMulAddFusion")
        groups = _attribute(node, "group", 1)
        found.append(
            Layer(name, node.op_type, weight.shape, axis, groups, 0, node.input[0], node.input[1], bias, node.output[0], index, added)
        )
    return found
