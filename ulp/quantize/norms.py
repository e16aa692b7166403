"""Layer normalizations in single operators, as exporters before opset 17 write them. Of later ones onnxruntime makes LayerNormalization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def inside_norms(nodes: Sequence[Any]) -> set[int]:
    """The indices of nodes that are part of (x - mean) / sqrt(mean of squares + epsilon)."""
    makers = {name: i for i, node in enumerate(nodes) for name in node.output}
    return {i for node in nodes if node.op_type == "Div" for i in _chain(nodes, makers, node)}


def _chain(nodes: Sequence[Any], makers: Mapping[str, int], div: Any) -> list[int]:
    """ReduceMean, Sub, Pow (or Mul), ReduceMean, Add, Sqrt, Div of a normalization that ends with `div`; else nothing."""

    def made(name: str, *op_types: str) -> Any:
        node = nodes[makers[name]] if name in makers else None
        return node if node is not None and node.op_type in op_types else None

    centered = made(div.input[0], "Sub")
    mean = centered and made(centered.input[1], "ReduceMean")
    root = made(div.input[1], "Sqrt")
    added = root and made(root.input[0], "Add")
    variance: Any = added and next((node for name in added.input if (node := made(name, "ReduceMean"))), None)
    square = variance and made(variance.input[0], "Pow", "Mul")
    again = square and made(square.input[0], "Sub")  # some files subtract the mean twice
    if not (mean and again) or mean.input[0] != centered.input[0] or list(again.input) != list(centered.input):
        return []
    return [makers[node.output[0]] for node in (mean, centered, again, square, variance, added, root, div)]
