"""Plans of several inputs: sums, products and concatenations of what comes from different float tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reference import Array

import ulp

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from test_onnx_integers import Quantized  # noqa: E402  # what is not installed skips the file


def model_of(w: Quantized, *results: str, **batches: Any) -> Any:
    """With inputs x and z, of any batch unless another is given."""
    float32 = onnx.TensorProto.FLOAT
    inputs = [onnx.helper.make_tensor_value_info(name, float32, [batches.get(name, "N"), *w.shape]) for name in ("x", "z")]
    return w.model(results[0], inputs=inputs, outputs=[onnx.helper.make_tensor_value_info(name, float32, None) for name in results])


def expected(model: Any, **arrays: Array) -> list[Array]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    results: list[Array] = ort.InferenceSession(model.SerializeToString(), options).run(None, arrays)
    return results


def given(w: Quantized, batch: int = 3) -> dict[str, Array]:
    return {name: w.rng.standard_normal((batch, *w.shape)).astype(np.float32) * 2 for name in ("x", "z")}


@pytest.mark.parametrize("name", ["Add", "Mul", "Concat"])
@pytest.mark.parametrize("shape", [(4, 6, 8), (8,), (4, 8), (7, 8)])
def test_two_inputs_are_one_plan(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    w = Quantized(shape)
    x, z = w.codes("x"), w.codes("z", 0.125, 100)
    if len(shape) == 3:
        x = w.codes(w.add("Relu", w.layer(x, 4, 4, 3, pads=[1] * 4)), 0.25, 0)
    options: dict[str, Any] = {"axis": 1} if name == "Concat" else {}
    y = w.codes(w.add(name, z, x, **options), 0.25)
    model, arrays = model_of(w, y), given(w)
    network = ulp.load(model, tune=False, strict=True)
    assert network.integer, network
    assert [len(stage.reads) for stage in network.stages] == [2]
    (want,) = expected(model, **arrays)
    np.testing.assert_array_equal(network(**arrays), want)
    network.save(tmp_path / "network.ulp")
    np.testing.assert_array_equal(ulp.load(tmp_path / "network.ulp")(**arrays), want)
    assert sum(row.step == "input" for row in network.profile(**arrays, runs=1)) == 2
    assert network(**given(w, 0)).shape == (0, *want.shape[1:])


def test_a_part_that_needs_the_other_stays_its_own() -> None:
    """What is added has gone through floats before."""
    w = Quantized((4, 6, 8))
    first = w.layer(w.codes("x"), 4, 4)
    floats = w.add("CumSum", w.add("Add", first, "z"), w.constant(np.int64(1)))
    y = w.add("Add", w.codes(w.layer(w.codes(floats, 0.5), 4, 4), 0.25), w.codes(first, 0.25))
    model, arrays = model_of(w, w.layer(w.codes(y, 0.25), 3, 4)), given(w)
    network = ulp.load(model, tune=False)
    assert any("one of which needs the other" in row.reason for row in network.layers), network
    np.testing.assert_array_equal(network(**arrays), expected(model, **arrays)[0])


def test_a_joined_part_waits_for_what_comes_later() -> None:
    """A result of the first root is read by floats that come before the second root in the file."""
    w = Quantized((4, 6, 8))
    first = w.codes(w.layer(w.codes("x"), 4, 4), 0.25)
    early = w.add("CumSum", first, w.constant(np.int64(2)))
    late = w.codes(w.add("CumSum", "z", w.constant(np.int64(1))), 0.25)
    y = w.layer(w.codes(w.add("Add", first, late), 0.25), 3, 4)
    model, arrays = model_of(w, y, early), given(w)
    for floats in ("onnxruntime", "numpy"):
        try:
            network = ulp.load(model, tune=False, floats=floats)
        except ulp.onnx.OnnxError:
            assert floats == "numpy"
            continue
        made = network(**arrays)
        for name, want in zip((y, early), expected(model, **arrays), strict=True):
            np.testing.assert_array_equal(made[name], want)


def test_a_root_that_no_needed_result_reads_is_not_computed() -> None:
    """A sum that nothing reads joins the parts."""
    w = Quantized((4, 6, 8))
    limit = w.number(0.5)
    other = w.codes(w.add("Where", w.add("Greater", "z", limit), "z", limit), 0.25)
    first = w.codes(w.layer(w.codes("x"), 4, 4), 0.25)
    w.add("Relu", w.add("Add", first, other))
    model, arrays = model_of(w, w.layer(first, 3, 4)), given(w)
    network = ulp.load(model, tune=False)
    assert [stage.reads for stage in network.stages] == [("x",)]
    np.testing.assert_array_equal(network(**arrays), expected(model, **arrays)[0])


def test_inputs_of_different_batches_are_not_joined() -> None:
    w = Quantized((4, 6, 8))
    y = w.layer(w.codes(w.add("Add", w.codes("x"), w.codes("z", 0.125)), 0.25), 3, 4)
    shape = w.add("Reshape", "z", w.shape_of(1, -1))  # which binds z to a batch of one
    model = model_of(w, y, shape, z=1)
    arrays = given(w, 1)
    arrays["x"] = np.concatenate([arrays["x"]] * 3)
    network = ulp.load(model, tune=False)
    for name, want in zip((y, shape), expected(model, **arrays), strict=True):
        np.testing.assert_array_equal(network(**arrays)[name], want)


def test_other_batches_in_a_call_are_refused() -> None:
    w = Quantized((4, 6, 8))
    network = ulp.load(model_of(w, w.layer(w.codes(w.add("Add", w.codes("x"), w.codes("z", 0.125)), 0.25), 3, 4)), tune=False)
    arrays = given(w)
    with pytest.raises(ValueError, match=r"z|images"):
        network(x=arrays["x"], z=arrays["z"][:2])
