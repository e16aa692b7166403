"""The quantized model in operators of floats, which onnxruntime runs: for statistics, not for speed."""

from __future__ import annotations

from typing import Any

from .write import DOMAIN


def simulated(model: Any) -> Any:
    """The model with each `Quant` that ulp.quantize.write made of activations as arithmetic; those of weights left out, as the weights are
    stored rounded."""
    from onnx import ModelProto, helper, numpy_helper

    made = ModelProto()
    made.CopyFrom(model)
    tensors = {tensor.name: tensor for tensor in made.graph.initializer}
    nodes = []
    for node in made.graph.node:
        if node.domain != DOMAIN:
            nodes.append(node)
            continue
        x, scale, zero, bits = node.input
        out = node.output[0]
        if x in tensors:
            nodes.append(helper.make_node("Identity", [x], [out]))
            continue
        width = int(numpy_helper.to_array(tensors[bits]))
        signed = next(a.i for a in node.attribute if a.name == "signed")
        low, high = (-(2 ** (width - 1)), 2 ** (width - 1) - 1) if signed else (0, 2**width - 1)
        steps = [f"{out}/step{i}" for i in range(5)]
        ends = [f"{out}/low", f"{out}/high"]
        made.graph.initializer.extend(helper.make_tensor(name, 1, [], [float(end)]) for name, end in zip(ends, (low, high), strict=True))
        nodes += [
            helper.make_node("Div", [x, scale], [steps[0]]),
            helper.make_node("Add", [steps[0], zero], [steps[1]]),
            helper.make_node("Clip", [steps[1], *ends], [steps[2]]),
            helper.make_node("Round", [steps[2]], [steps[3]]),
            helper.make_node("Sub", [steps[3], zero], [steps[4]]),
            helper.make_node("Mul", [steps[4], scale], [out]),
        ]
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del made.graph.node[:]
    made.graph.node.extend(copies)
    return made
