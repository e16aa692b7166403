"""Linear layers that quantize each row of what they read in the call: `ulp.quantize(activations="dynamic")`."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import ulp  # noqa: E402
from ulp.nn import open_length, saved  # noqa: E402
from ulp.quantize.simulate import simulated  # noqa: E402

F32 = np.float32


def network(opset: int, sequence: bool = True) -> Any:
    """Two heads of attention and a block with GELU, (N, T, 16); or of rows (N, 16) the block alone, of Gemm."""
    rng = np.random.default_rng(0)
    nodes: list[Any] = []
    constants: list[Any] = []

    def constant(array: Any) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(array), f"c{len(constants)}"))
        return f"c{len(constants) - 1}"

    def add(op_type: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op_type, list(inputs), [f"t{len(nodes)}"], name=f"{op_type}_{len(nodes)}", **attributes))
        return str(nodes[-1].output[0])

    def linear(x: str, inputs: int, outputs: int) -> str:
        weight, bias = rng.standard_normal((inputs, outputs)).astype(F32) / 4, rng.standard_normal(outputs).astype(F32)
        if not sequence:
            return add("Gemm", x, constant(weight.T), constant(bias), transB=1)
        return add("Add", add("MatMul", x, constant(weight)), constant(bias))

    def heads(x: str, *perm: int) -> str:
        return add("Transpose", add("Reshape", x, constant(np.array([0, 0, 2, 8]))), perm=perm)

    x = "x"
    if sequence:
        q, k, v = (linear(x, 16, 16) for _ in range(3))
        scores = add("Mul", add("MatMul", heads(q, 0, 2, 1, 3), heads(k, 0, 2, 3, 1)), constant(F32(0.35)))
        mixed = add("MatMul", add("Softmax", scores, axis=-1), heads(v, 0, 2, 1, 3))
        mixed = add("Reshape", add("Transpose", mixed, perm=[0, 2, 1, 3]), constant(np.array([0, 0, 16])))
        x = add("Add", linear(mixed, 16, 16), x)
    norm = rng.uniform(0.5, 2, 16).astype(F32), rng.standard_normal(16).astype(F32)
    x = add("LayerNormalization", x, *(constant(p) for p in norm), axis=-1)
    h = linear(x, 16, 33)
    gate = add("Add", add("Erf", add("Div", h, constant(F32(np.sqrt(2))))), constant(F32(1)))
    y = add("Add", linear(add("Mul", add("Mul", h, gate), constant(F32(0.5))), 33, 16), x)
    shape: list[str | int | None] = ["N", 7, 16] if sequence else ["N", 16]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", y)]
    graph = helper.make_graph(nodes, "network", ports[:1], ports[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def simulation(model: Any, x: Any) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(simulated(model).SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize(("opset", "sequence", "bits"), [(17, True, "W4A8"), (18, True, "W8A4"), (17, False, "W3A6")])
def test_rows_are_quantized_in_the_call(opset: int, sequence: bool, bits: str, tmp_path: Path) -> None:
    """The plan gives what the file says, whose codes onnxruntime makes in floats; no row knows of another one."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((6, 7, 16) if sequence else (6, 16)).astype(F32)
    made = ulp.quantize.quantize(
        network(opset, sequence), bits=bits, calibrate=x, activations="dynamic", rounding="nearest", first_last_bits=None, progress=False
    )
    loaded = made.load(strict=False, tune=False)
    integers = [row for row in loaded.layers if row.op_type in ("MatMul", "Gemm") and row.integer]
    assert {row.bits for row in integers if row.bits != (0, 0)} == {(int(bits[1]), int(bits[3]))}
    assert len([row for row in integers if row.bits != (0, 0)]) == (6 if sequence else 2)
    assert all(row.clipped == 0 for row in made.layers)
    wide = x * (10.0 ** rng.integers(-6, 6, (*x.shape[:-1], 1))).astype(F32)
    wide[0, ..., :] = 0
    for given in (x, wide):
        got, want = loaded(given), simulation(made.model, given)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * float(np.abs(want).max()))
        for i in range(3):
            np.testing.assert_array_equal(loaded(given[i : i + 1])[0], got[i])
    loaded.save(tmp_path / "network.ulp")
    np.testing.assert_array_equal(ulp.load(tmp_path / "network.ulp")(x), loaded(x))
    made.save(tmp_path / "network.onnx")
    np.testing.assert_array_equal(ulp.load(tmp_path / "network.onnx", tune=False)(x), loaded(x))


@pytest.mark.parametrize(("sequence", "rounding"), [(True, "gptq"), (False, "nearest")])
def test_outliers_stay_floats(sequence: bool, rounding: Any, tmp_path: Path) -> None:
    """The channels that reach the threshold, and no others, are multiplied in floats, in all that is made of the model."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal((8, 7, 16) if sequence else (40, 16)).astype(F32)
    x[..., [3, 11]] *= 4
    threshold = 8.0 if sequence else 3.5
    given: Any = {"bits": "W4A4", "calibrate": x, "activations": "dynamic", "first_last_bits": None, "equalize": False, "progress": False}
    made = ulp.quantize.quantize(network(17, sequence), outliers=threshold, rounding=rounding, **given)
    plain = ulp.quantize.quantize(network(17, sequence), rounding=rounding, **given)
    of_input = [row for row in made.layers if row.outliers]
    assert of_input
    if sequence:
        assert [row.outliers for row in made.layers[:3]] == [(3, 11)] * 3
    assert "outliers" in str(made).splitlines()[1] + str(made).splitlines()[2]
    assert "outliers" not in str(plain)
    better = {row.name: row.output_snr for row in plain.layers}
    assert all(row.output_snr > better[row.name] for row in of_input)
    loaded = made.load(tune=False)
    assert all(row.integer for row in loaded.layers if row.op_type in ("MatMul", "Gemm") and row.bits != (0, 0))
    assert len(loaded.stages) == len(plain.load(tune=False).stages)
    np.testing.assert_allclose(loaded(x), simulation(made.model, x), rtol=1e-4, atol=1e-3)
    loaded.save(tmp_path / "network.ulp")
    np.testing.assert_array_equal(ulp.load(tmp_path / "network.ulp")(x), loaded(x))
    made.save(tmp_path / "network.onnx")
    np.testing.assert_array_equal(ulp.load(tmp_path / "network.onnx", tune=False)(x), loaded(x))
    compiled = ulp.compile(network(17, sequence), outliers=threshold, rounding=rounding, tune=False, **given)
    np.testing.assert_array_equal(compiled(x), loaded(x))


@pytest.mark.parametrize(
    ("message", "given"),
    [
        ("outliers=0.1: 33 of 33 channels that layer 'Gemm_7' reads reach it", {"outliers": 0.1}),
        ('belongs to activations="dynamic"', {"outliers": 6.0, "activations": "static"}),
        ("outliers=-1: expected a finite number above 0", {"outliers": -1}),
        ("outliers=nan: expected a finite number above 0", {"outliers": float("nan")}),
        ("outliers='6': expected a number", {"outliers": "6"}),
    ],
)
def test_outliers_that_are_none(message: str, given: Any) -> None:
    x = np.random.default_rng(0).standard_normal((8, 16)).astype(F32)
    with pytest.raises((TypeError, ValueError), match=message):
        ulp.quantize.quantize(network(17, False), **{"bits": 4, "calibrate": x, "activations": "dynamic", "progress": False} | given)


def test_functions_in_integers(tmp_path: Path) -> None:
    """Softmax, normalization and GELU by fixed-point numbers, near to those in float32."""
    x = np.random.default_rng(3).standard_normal((6, 7, 16)).astype(F32)
    given: Any = {"bits": 8, "calibrate": x, "activations": "dynamic", "progress": False}
    floats, integers = (ulp.compile(network(17), functions=functions, tune=False, **given) for functions in ("float", "integer"))
    want, got = floats(x), integers(x)
    assert 0 < np.abs(got - want).max() < 0.03 * np.abs(want).max()  # codes of the next product may be the neighbours
    methods = [row.kernel for row in integers.profile(x, runs=1).rows]
    assert {"integer_softmax", "integer_layer_norm", "integer_gelu"} <= set(methods)
    integers.save(tmp_path / "network.ulp")
    np.testing.assert_array_equal(ulp.load(tmp_path / "network.ulp")(x), got)
    with pytest.raises(ulp.onnx.OnnxError, match="functions='integer' for a saved network"):
        ulp.load(tmp_path / "network.ulp", functions="integer")
    with pytest.raises(ulp.onnx.OnnxError, match="functions='integer', and 1 functions would run in floats:\n  LayerNorm"):
        ulp.compile(network(17, sequence=False), functions="integer", **given | {"calibrate": x[:, 0]})
    with pytest.raises(ValueError, match="functions='integers': expected 'float' or 'integer'"):
        ulp.load(b"", functions="integers")


def open_network() -> Any:
    """`network` over sequences whose length the file leaves open."""
    made = network(17)
    for port in (*made.graph.input, *made.graph.output):
        port.type.tensor_type.shape.dim[1].dim_param = "T"
    return made


def test_one_network_serves_all_lengths(tmp_path: Path) -> None:
    """Up to the maximum, with the bits of a network for the length at hand, saved or not; beyond it, and of nothing, the error says so."""
    rng = np.random.default_rng(5)
    x = rng.standard_normal((8, 9, 16)).astype(F32)
    made = ulp.quantize.quantize(open_network(), bits="W4A8", calibrate=x, activations="dynamic", progress=False)
    for functions in ("float", "integer"):
        loaded = made.load(max_length=40, functions=functions)
        assert all(type(stage).__name__ == "IntegerStage" for stage in loaded.stages)
        for length in (1, 2, 39, 40, 17, 1, 23):
            given = rng.standard_normal((3, length, 16)).astype(F32)
            alone = made.load(shapes={"x": (1, length, 16)}, functions=functions, tune=False)
            np.testing.assert_array_equal(loaded(given), alone(given))
        for length in (41, 0):
            with pytest.raises(ValueError, match=f"a sequence of length {length}: the network was made for 1 to max_length=40"):
                loaded(np.zeros((1, length, 16), F32))
        with pytest.raises(ValueError, match=r"shape \[3, 5, 15\]: expected \[N, T, 16\]"):
            loaded(np.zeros((3, 5, 15), F32))
        assert loaded.profile(x, runs=1).rows
        loaded.save(tmp_path / "network.ulp")
        made.load(shapes={"x": (1, 40, 16)}, functions=functions, tune=False).save(tmp_path / "one.ulp")
        assert (tmp_path / "network.ulp").stat().st_size < 1.6 * (tmp_path / "one.ulp").stat().st_size  # weights are there once
        stage: Any = loaded.stages[0]
        plan = stage.compiled
        plan.save(tmp_path / "plan.ulp")
        again = [ulp.load(tmp_path / "network.ulp"), pickle.loads(pickle.dumps(loaded))]
        plans = [open_length.load(tmp_path / "plan.ulp"), pickle.loads(pickle.dumps(plan))]
        for length in (1, 40, 13):
            given = rng.standard_normal((2, length, 16)).astype(F32)
            for one in again:
                np.testing.assert_array_equal(one(given), loaded(given))
            for one in plans:
                np.testing.assert_array_equal(one(given)[0], loaded(given))
        with pytest.raises(ValueError, match="a sequence of length 41: the network was made for 1 to max_length=40"):
            again[0](np.zeros((1, 41, 16), F32))
    compiled = ulp.compile(open_network(), bits="W4A8", calibrate=x, activations="dynamic", max_length=12, progress=False)
    np.testing.assert_array_equal(compiled(x), made.load(max_length=40)(x))
    with pytest.raises(ValueError, match="no input has an open side"):
        ulp.quantize.quantize(network(17), bits=8, calibrate=x[:, :7], activations="dynamic", progress=False).load(max_length=7)
    with pytest.raises(ValueError, match="max_length=1"):
        made.load(max_length=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(max_length=1), "max_length=1: expected an integer from 2"),
        (lambda d: d["shorter"]["plan"]["calls"].pop(), "calls, and the plan that it is stored beside"),
        (lambda d: d["shorter"]["plan"]["calls"][0].__setitem__(1, 100), "larger as the sequence becomes shorter|not linear|input"),
        (
            lambda d: d["longest"]["lowered"]["plan"]["calls"][0].__setitem__(1, {"$like": None}),
            "stored beside another one, and there is none",
        ),
        (lambda d: d["shorter"]["plan"]["calls"][0].__setitem__(1, {"$like": [3]}), "no beginning of the array"),
        (lambda d: d.pop("shorter"), "a network of open length is an object of"),
    ],
)
def test_damaged_networks_of_open_length(change: Any, message: str) -> None:
    x = np.random.default_rng(5).standard_normal((2, 9, 16)).astype(F32)
    given: Any = {"bits": 4, "calibrate": x, "activations": "dynamic", "progress": False}
    plan = ulp.compile(open_network(), max_length=9, tune=False, **given).stages[0].compiled
    arrays: dict[str, Any] = {}
    document = json.loads(json.dumps(plan.document(arrays)))
    change(document)
    with pytest.raises(ValueError, match=message):
        open_length.load(b"".join(saved.to_parts("OpenNetwork", document, arrays)))


def test_what_is_wrong_is_named() -> None:
    x = np.zeros((2, 16), F32)
    with pytest.raises(ValueError, match="activations='row': expected one of static, dynamic"):
        ulp.quantize.quantize(network(17, False), bits=4, calibrate=x, activations="row")  # type: ignore[arg-type]
    made = ulp.quantize.quantize(network(17, False), bits=8, calibrate=x + np.arange(16, dtype=F32), activations="dynamic", progress=False)
    loaded = made.load(tune=False)
    x[1, 3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        loaded(x)
