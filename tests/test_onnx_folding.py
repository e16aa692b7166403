"""What onnxruntime may compute of a branch while it loads: nothing that takes time or memory worth speaking of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ulp.onnx.functions import cheap_to_fold

if TYPE_CHECKING:
    from onnx import TensorProto, helper, numpy_helper
else:
    onnx = pytest.importorskip("onnx")
    helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto


def constant(name: str, array: Any) -> Any:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(array)))


def graph(*nodes: Any, result: str = "y") -> Any:
    return helper.make_graph(nodes, "branch", [], [helper.make_tensor_value_info(result, TensorProto.FLOAT, None)])


def zeros(*sides: int) -> list[Any]:
    return [constant("shape", np.array(sides, np.int64)), helper.make_node("ConstantOfShape", ["shape"], ["zeros"])]


SMALL = [
    constant("a", np.ones((4, 4), np.float32)),
    helper.make_node("Transpose", ["a"], ["b"]),
    helper.make_node("Add", ["x", "b"], ["y"]),
]


@pytest.mark.parametrize(
    ("branch", "cheap"),
    [
        (graph(*SMALL), True),
        (graph(*zeros(4, 4), helper.make_node("Concat", ["zeros", "x"], ["y"], axis=0)), True),
        (graph(*zeros(2**15, 2**15), helper.make_node("Concat", ["zeros", "x"], ["y"], axis=0)), False),
        (graph(*zeros(-1, 2**40), helper.make_node("Concat", ["zeros", "x"], ["y"], axis=0)), True),
        (graph(constant("a", np.ones(4, np.float32)), helper.make_node("Cos", ["a"], ["y"])), False),
        (graph(helper.make_node("MatMul", ["outer", "outer"], ["y"])), False),
        (graph(helper.make_node("MatMul", ["x", "outer"], ["y"])), True),
        (graph(helper.make_node("Cast", ["outer"], ["y"], domain="com.microsoft", to=1)), False),
        (graph(helper.make_node("Loop", ["", "x"], ["y"], body=graph(*SMALL))), False),
        (graph(helper.make_node("If", ["x"], ["y"], then_branch=graph(*SMALL), else_branch=graph(*SMALL))), True),
        (graph(helper.make_node("If", ["x"], ["y"], then_branch=graph(*zeros(2**30), result="zeros"), else_branch=graph(*SMALL))), False),
    ],
)
def test_branches(branch: Any, cheap: bool) -> None:
    assert cheap_to_fold(branch, {"outer": 2**10}.get) is cheap


def test_doubling_is_counted() -> None:
    nodes = [constant("t0", np.ones(2, np.float32))]
    nodes += [helper.make_node("Concat", [f"t{i}"] * 2, [f"t{i + 1}"], axis=0) for i in range(40)]
    assert not cheap_to_fold(graph(*nodes, result="t40"), lambda _: None)
