"""Operators that end the process in onnxruntime where a tensor is empty: with sides of 0 and 1, from outside and made inside.

`python tests/onnx_empty.py` runs those that `ulp` knows of; `--all` ONNX's own examples of every operator, with sides of 0: one that ends
the process is the last that was printed.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from onnx import TensorProto, helper

import ulp
from ulp.onnx import OnnxError

_FLOAT, _INT64 = TensorProto.FLOAT, TensorProto.INT64


def _node(op_type: str, inputs: str, output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(op_type, inputs.split(), [output], name=op_type, **attributes)


def _constant(name: str, *shape: int) -> Any:
    return helper.make_tensor(name, _FLOAT, shape, np.full(shape, 0.5).reshape(-1))


def _cases() -> Iterator[tuple[Any, int, list[Any]]]:
    """(a node that reads x, how many sides x has, the node's constants)"""
    for op_type, gates in (("LSTM", 4), ("GRU", 3)):
        yield _node(op_type, "x w r", hidden_size=2), 3, [_constant("w", 1, 2 * gates, 1), _constant("r", 1, 2 * gates, 2)]
    yield _node("Einsum", "x x", equation="nab,ncb->nac"), 3, []
    yield _node("Einsum", "x x", equation="...b,...b->..."), 2, []
    yield _node("Einsum", "x", equation="a->a"), 1, []
    for rank in (3, 4, 5):
        yield _node("ConvTranspose", "x k", kernel_shape=[1] * (rank - 2)), rank, [_constant("k", *[1] * rank)]
        yield _node("ConvTranspose", "x k"), rank, [_constant("k", *[1] * rank)]
    yield _node("Unique", "x", axis=0), 2, []
    yield _node("Unique", "x", axis=1), 2, []


def _model(nodes: list[Any], rank: int, constants: list[Any]) -> bytes:
    x = helper.make_tensor_value_info("x", _FLOAT, [f"side{i}" for i in range(rank)])
    graph = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info("y", _FLOAT, None)], constants)
    data: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    return data


def _placed(node: Any, rank: int) -> Iterator[tuple[list[Any], list[Any]]]:
    """The node as it is; behind a selection by values; and in the bodies of an If behind one. With the constants that this takes."""
    yield [node], []
    chosen = [
        _node("ReduceMax", "x", "rows", axes=list(range(1, rank)), keepdims=0) if rank > 1 else _node("Identity", "x", "rows"),
        _node("Greater", "rows zero", "large"),
        _node("Compress", "x large", "some", axis=0),
    ]
    inner = helper.make_node(node.op_type, ["some" if name == "x" else name for name in node.input], ["y"], name="inner")
    inner.attribute.extend(node.attribute)
    zero = helper.make_tensor("zero", _FLOAT, [], [0.0])
    yield [*chosen, inner], [zero]
    body = helper.make_graph([inner], "body", [], [helper.make_tensor_value_info("y", _FLOAT, None)])
    shape = [_node("Size", "x", "size"), _node("Cast", "size", "any", to=TensorProto.BOOL)]
    yield [*chosen, *shape, helper.make_node("If", ["any"], ["y"], then_branch=body, else_branch=body)], [zero]


def known() -> None:
    """The cases, with all shapes of sides 0 and 1, and of values none of which is chosen."""
    for node, rank, constants in _cases():
        for i, (nodes, more) in enumerate(_placed(node, rank)):
            network = ulp.load(_model(nodes, rank, [*constants, *more]), tune=False)
            for shape in itertools.product((0, 1), repeat=rank):
                for value in (1.0, -1.0) if i else (1.0,):
                    _say(node.op_type, i, shape, value)
                    refused = False
                    try:
                        network(np.full(shape, value, np.float32))
                    except OnnxError:
                        refused = True
                    empty = 0 in shape or (i > 0 and value < 0)
                    assert empty or not refused
                    assert refused or not empty or 0 in shape or node.op_type not in ("LSTM", "GRU")


def _say(*words: object) -> None:
    sys.stdout.write(f"{' '.join(map(str, words))}\n")
    sys.stdout.flush()


def everything() -> None:
    """ONNX's examples of all operators, with each of their sides in turn 0."""
    from onnx.backend.test.case.node import collect_testcases

    for case in collect_testcases(None):
        if case.model is None or case.data_sets is None or "expanded" in case.name:
            continue
        arrays: list[Any] = list(case.data_sets[0][0])
        if not arrays or not all(isinstance(a, np.ndarray) and a.dtype.kind in "fiub" for a in arrays):
            continue
        for port in [*case.model.graph.input, *case.model.graph.output]:
            port.type.tensor_type.ClearField("shape")
        try:
            network = ulp.load(case.model.SerializeToString(), tune=False)
        except OnnxError:
            continue
        for side in sorted({side for a in arrays for side in a.shape}):
            changed = [a[tuple(slice(0, 0) if s == side else slice(None) for s in a.shape)] for a in arrays]
            _say(case.name, side, [a.shape for a in changed])
            try:
                network(*[np.ascontiguousarray(a) for a in changed])
            except (OnnxError, TypeError, ValueError):
                continue


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true")
    warnings.simplefilter("ignore")
    (everything if parser.parse_args().all else known)()
    _say("done")
