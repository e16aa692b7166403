"""Integers of one byte that come into a model, or leave it, are codes of its plan as they are: no float lies in between."""

from __future__ import annotations

from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

import ulp

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper
from onnx_models import Writer
from onnx_random import expected

UINT8, INT8, FLOAT = 2, 3, 1  # TensorProto's
DTYPES: dict[int, Any] = {UINT8: np.uint8, INT8: np.int8}


class Ends(Writer):
    """A convolution of 8 channels between quantizers."""

    def __init__(self) -> None:
        super().__init__((8, 5, 5), opset=13)
        self.scale = self.constant(np.float32(0.5))
        self.zeros = {kind: self.constant(np.array(zero, DTYPES[kind])) for kind, zero in ((UINT8, 7), (INT8, -3))}

    def conv_of(self, x: str) -> str:
        integers = self.constant(self.rng.integers(-8, 8, (8, 8, 3, 3)).astype(np.int8))
        w = self.add("DequantizeLinear", integers, self.constant(np.float32(0.125)), self.constant(np.int8(0)))
        return self.add("Conv", x, w, kernel_shape=[3, 3], pads=[1] * 4)

    def floats(self, x: str, kind: int) -> str:
        return self.add("DequantizeLinear", x, self.scale, self.zeros[kind])

    def integers(self, x: str, kind: int) -> str:
        return self.add("QuantizeLinear", x, self.scale, self.zeros[kind])

    def finished(self, kinds: dict[str, int], results: dict[str, int]) -> Any:
        """The model from inputs of these types to results of those."""
        inputs = [helper.make_tensor_value_info(name, kind, ["N", *self.shape]) for name, kind in kinds.items()]
        outputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in results.items()]
        return self.model("", inputs=inputs, outputs=outputs)


def checked(model: Any, **options: Any) -> ulp.onnx.OnnxNetwork:
    """The network, if it gives what onnxruntime gives, before and after it was saved."""
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for port in model.graph.input:
        kind = port.type.tensor_type.elem_type
        if kind == FLOAT:
            arrays[port.name] = (rng.integers(-96, 96, (3, 8, 5, 5)) / 16).astype(np.float32)
        else:
            low = np.iinfo(DTYPES[kind]).min
            arrays[port.name] = rng.integers(low, low + 256, (3, 8, 5, 5)).astype(DTYPES[kind])
    network = ulp.load(model, progress=False, **options)
    for each in (network, ulp.onnx.network.load_saved(network.__reduce__()[1][0])):
        found = each(**arrays)
        results = list(found.values()) if isinstance(found, dict) else [found]
        for got, want in zip(results, expected(model, arrays), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(got, want)
    profile = network.profile(**arrays)
    assert "float" not in {row.step for row in profile.rows if network.integer}
    return network


@pytest.mark.parametrize("tune", [False, None])
@pytest.mark.parametrize("floats", ["onnxruntime", "numpy"])
@pytest.mark.parametrize(
    ("kind_in", "kind_out"), [(UINT8, UINT8), (UINT8, INT8), (INT8, UINT8), (INT8, INT8), (INT8, FLOAT), (FLOAT, INT8)]
)
def test_one_plan_between_integers(kind_in: int, kind_out: int, floats: str, tune: bool | None) -> None:
    w = Ends()
    x = w.floats(w.integers("x", UINT8), UINT8) if kind_in == FLOAT else w.floats("x", kind_in)
    y = w.integers(w.conv_of(x), UINT8 if kind_out == FLOAT else kind_out)
    y = w.floats(y, UINT8) if kind_out == FLOAT else y
    network = checked(w.finished({"x": kind_in}, {y: kind_out}), floats=floats, tune=tune)
    assert tune is None or (network.integer and not network.constants)


def test_inputs_of_several_types_and_results_of_few_bits() -> None:
    w = Ends()
    a, b = w.floats("x", INT8), w.floats(w.integers("z", UINT8), UINT8)
    y = w.integers(w.add("Add", w.conv_of(a), b), INT8)
    y = w.add("Clip", y, w.constant(np.int8(-5)), w.constant(np.int8(10)))
    moved = w.add("Transpose", y, perm=[0, 2, 3, 1])
    again = w.add("Relu", w.floats(y, INT8))
    network = checked(w.finished({"x": INT8, "z": FLOAT}, {y: INT8, moved: INT8, again: FLOAT}), tune=False)
    assert network.integer


def test_integers_read_twice_and_by_other_scales() -> None:
    w = Ends()
    other = w.add("DequantizeLinear", "x", w.constant(np.float32(0.25)), w.zeros[UINT8])
    y = w.integers(w.add("Add", w.conv_of(w.floats("x", UINT8)), w.floats("x", UINT8)), UINT8)
    z = w.integers(w.conv_of(other), UINT8)
    checked(w.finished({"x": UINT8}, {y: UINT8, z: UINT8}), tune=False)


def test_pixels_cast_and_normalized() -> None:
    """What comes before many networks: uint8 pixels / 255, less a mean, over a deviation, per channel."""
    w = Ends()
    mean, deviation = (w.constant(w.rng.uniform(0.2, 0.5, (8, 1, 1)).astype(np.float32)) for _ in range(2))
    x = w.add("Div", w.add("Cast", "x", to=FLOAT), w.constant(np.float32(255)))
    x = w.add("Div", w.add("Sub", x, mean), deviation)
    scale, zero = w.constant(np.float32(2**-6)), w.constant(np.uint8(100))
    x = w.add("DequantizeLinear", w.add("QuantizeLinear", x, scale, zero), scale, zero)
    network = checked(w.finished({"x": UINT8}, {w.integers(w.conv_of(x), UINT8): UINT8}), tune=False)
    assert network.integer


def test_between_integers_of_onnxruntime() -> None:
    """A node that no plan has reads integers and makes some: both cross as they are."""
    w = Ends()
    x = w.integers(w.conv_of(w.floats("x", UINT8)), UINT8)
    x = w.add("Where", w.add("Equal", x, w.constant(np.uint8(3))), w.constant(np.uint8(9)), x)
    model = w.finished({"x": UINT8}, {w.integers(w.conv_of(w.floats(x, UINT8)), INT8): INT8})
    network = checked(model, tune=False)
    assert [type(stage).__name__ for stage in network.stages] == ["IntegerStage", "IslandStage", "IntegerStage"]
    island = network.stages[1]
    assert isinstance(island, ulp.onnx.stages.IslandStage)
    assert {dtype for _, dtype in island.session.inputs + island.session.results} == {np.dtype(np.uint8)}


def test_wrong_types_are_refused() -> None:
    w = Ends()
    network = ulp.load(w.finished({"x": UINT8}, {w.integers(w.conv_of(w.floats("x", UINT8)), UINT8): UINT8}), tune=False)
    with pytest.raises(TypeError, match="x has dtype float32: expected uint8"):
        network(np.zeros((1, 8, 5, 5), np.float32))
    with pytest.raises(TypeError, match="x has dtype int8: expected uint8"):
        network(np.zeros((1, 8, 5, 5), np.int8))


def test_a_clip_in_front_of_four_bits() -> None:
    """An optimization of onnxruntime fails for it; nothing of it may end up in a plan here."""
    w = Ends()
    w.opset = 23
    w.constants.append(helper.make_tensor("z4", TensorProto.UINT4, (), [3]))
    x = w.add("Clip", w.add("Sin", "x"), w.constant(np.float32(-1)), w.constant(np.float32(4)))
    y = w.add("DequantizeLinear", w.add("QuantizeLinear", x, w.scale, "z4"), w.scale, "z4")
    network = checked(w.finished({"x": FLOAT}, {w.add("Add", y, y): FLOAT}), tune=False)
    assert len(network.stages) == 1


@pytest.mark.parametrize(
    ("old", "new"), [(b"|u1", b"|f1"), (b"|u1", b"<i2"), (b'codes\\"', b'coded\\"'), (b"input_codes", b"input_floats")]
)
def test_damaged_files_are_refused(old: bytes, new: bytes) -> None:
    w = Ends()
    network = ulp.load(w.finished({"x": UINT8}, {w.integers(w.conv_of(w.floats("x", UINT8)), UINT8): UINT8}), tune=False)
    data = network.__reduce__()[1][0]
    begin, places = 0, []
    while (begin := data.find(old, begin)) >= 0:
        places.append(begin)
        begin += 1
    assert places
    for place in places:
        with pytest.raises(ulp.onnx.OnnxError, match="cannot be loaded"):
            ulp.onnx.network.load_saved(data[:place] + new + data[place + len(old) :])


def test_another_device_reads_and_gives_the_same_integers() -> None:
    w = Ends()
    y = w.integers(w.conv_of(w.floats("x", INT8)), INT8)
    network = ulp.load(w.finished({"x": INT8}, {y: INT8}), tune=False)
    (stage,) = network.stages
    assert isinstance(stage, ulp.onnx.IntegerStage)
    there = MagicMock(side_effect=stage.compiled, device="cuda:0")
    x = w.rng.integers(-128, 128, (2, 8, 5, 5)).astype(np.int8)
    found = ulp.onnx.network.OnnxCudaNetwork(network, there)(x)
    assert found.dtype == np.int8
    np.testing.assert_array_equal(found, network(x))
