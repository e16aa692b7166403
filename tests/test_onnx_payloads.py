"""Large data of constants is left where the file was read: the models are the same, whether it is there or in their protos."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="the loader of models needs the package onnx")
pytest.importorskip("onnxruntime", reason="the models have parts in floats")

import onnx_mutate  # only where there is onnx
from onnx import TensorProto, helper, numpy_helper
from onnx_models import Writer

import ulp
from ulp.onnx import payloads
from ulp.onnx.limits import Limits
from ulp.onnx.model import OnnxError
from ulp.onnx.reader import read


def _answer(source: bytes, in_protos: bool) -> Any:
    """What the reader makes of a file: its constants, as arrays and as protos; or its error."""
    try:
        model = read(source, onnx_mutate.LIMITS, in_protos=in_protos)
    except (OnnxError, OSError) as error:
        return type(error)
    arrays = {name: (array.dtype, array.shape, array.tobytes()) for name, array in model.constants.items()}
    nodes = [(node.op_type, node.inputs, node.outputs, node.problem, str(node.proto)) for node in model.nodes]
    return arrays, {name: str(model.proto(name)) for name in model.protos}, nodes


@pytest.mark.parametrize("number", range(24))
def test_data_apart_or_in_the_protos(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payloads, "_SMALLEST", 1)
    for i, seed in enumerate(onnx_mutate.seeds()):
        rng = random.Random(100 * number + i)
        data = onnx_mutate.mutate(seed, rng) if number else seed.SerializeToString()
        if number % 3 == 2:
            at = rng.randrange(len(data))
            data = data[:at] + rng.randbytes(rng.randrange(4)) + data[at + rng.randrange(4) :]
        assert _answer(data, False) == _answer(data, True)


def _network() -> Any:
    """Large weights as an initializer, as a Constant, as a Constant in eight bits of floats, and in a graph inside of a node."""
    w = Writer((64, 4, 4))
    weights = [w.rng.standard_normal((64, 64, 3, 3)).astype(np.float32) / 24 for _ in range(3)]
    pads: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1] * 4}
    a = w.add("Conv", "x", w.constant(weights[0]), **pads)
    b = w.add("Conv", a, w.add("Constant", value=numpy_helper.from_array(weights[1])), **pads)
    narrow = helper.make_tensor("", TensorProto.FLOAT8E4M3FN, [64, 64, 6, 6], weights[0].tobytes()[: 64 * 64 * 36], raw=True)
    narrow.raw_data = bytes(0x30 + i % 16 for i in range(64 * 64 * 36))
    c = w.add("Conv", b, w.add("Cast", w.add("Constant", value=narrow), to=1), kernel_shape=[6, 6], pads=[2, 3, 3, 2])
    inside = helper.make_tensor_value_info("inside", TensorProto.FLOAT, None)
    branch = helper.make_graph(
        [helper.make_node("Conv", [c, "own"], ["inside"], **pads)], "b", [], [inside], [numpy_helper.from_array(weights[2], "own")]
    )
    return w.model(w.add("If", w.constant(np.array(True)), then_branch=branch, else_branch=branch))


def test_large_weights_of_islands(tmp_path: Path) -> None:
    model = _network()
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert len(payloads.split(memoryview(path.read_bytes()), Limits())[1]) == 3
    x = np.random.default_rng(0).standard_normal((2, 64, 4, 4)).astype(np.float32)
    results = [ulp.load(source, tune=False)(x) for source in (model, path, path.read_bytes())]
    assert np.isfinite(results[0]).all()
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])
