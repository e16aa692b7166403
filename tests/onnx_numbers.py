"""Numbers in files and in calls that end the process inside of onnxruntime: a program, as a failure ends the process that runs it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

import ulp
from ulp.onnx import OnnxError


def network(op_type: str, inputs: str, arrays: Mapping[str, Any], constants: Mapping[str, Any], **attributes: Any) -> Any:
    """The result of one operator, or the message of its error."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in arrays.items()}
    ports = [helper.make_tensor_value_info(name, kinds[name], [f"{name}{i}" for i in range(a.ndim)]) for name, a in arrays.items()]
    node = helper.make_node(op_type, inputs.split(" "), ["y"], name="n", **attributes)
    result = helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)
    graph = helper.make_graph([node], "g", ports, [result], [numpy_helper.from_array(np.asarray(a), k) for k, a in constants.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    try:
        return ulp.load(model, tune=False, floats="onnxruntime", progress=False)(**arrays)
    except OnnxError as error:
        return str(error)


def main() -> None:
    signal = np.random.default_rng(0).standard_normal((1, 64, 1)).astype(np.float32)
    for length in (0, -1, -16):
        for arrays, constants in (({"l": np.array(length)}, {}), ({}, {"l": np.array(length)})):
            found = network("STFT", "x s  l", {"x": signal, **arrays}, {"s": np.array(4), **constants})
            assert isinstance(found, str), found
            assert "STFT" in found, found
    assert network("STFT", "x s  l", {"x": signal, "l": np.array(16)}, {"s": np.array(4)}).shape == (1, 13, 9, 2)
    image, weights = np.ones((1, 4, 5, 5), np.float32), np.ones((4, 2, 3, 3), np.float32)
    for group in (0, -1):
        found = network("ConvTranspose", "x w", {"x": image}, {"w": weights}, group=group)
        assert f"group={group}: expected 1 or more" in found, found
    assert network("ConvTranspose", "x w", {"x": image}, {"w": weights}, group=2).shape == (1, 4, 7, 7)
    for dtype in (np.int8, np.int16, np.int32, np.int64):
        least = np.iinfo(dtype).min
        x = np.array([least, least + 1, -7, 7, 0], dtype)
        for by in (np.array(-1, dtype), np.array([-1, -1, -2, 2, -1], dtype), np.array(3, dtype)):
            with np.errstate(over="ignore"):
                want = np.where(by == -1, -x, np.trunc(x / by.astype(np.longdouble))).astype(dtype)
            for arrays, constants in (({"x": x, "d": by}, {}), ({"x": x}, {"d": by})):
                found = network("Div", "x d", arrays, constants)
                assert found.dtype == dtype, (dtype, by, found)
                np.testing.assert_array_equal(found, want, f"{dtype} by {by}")
    sys.stdout.write("done\n")


if __name__ == "__main__":
    main()
