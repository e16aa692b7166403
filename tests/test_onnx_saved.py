"""`OnnxNetwork.save` and `ulp.load` of what it wrote: the same bits without the package onnx, and an OnnxError for every damage."""

from __future__ import annotations

import copy
import json
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from interpreter import output_of
from reference import Array

import ulp
from ulp import _tensorfile

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx_models import Writer, quantized, small_network  # noqa: E402  # what is not installed skips the file

from ulp.onnx import OnnxError, OnnxNetwork  # noqa: E402


def _images(*shape: int) -> Array:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _quant(w: Writer, x: str, scale: float, bits: int, *, signed: int) -> str:
    parameters = (w.constant(np.array(value, np.float32)) for value in (scale, 0, bits))
    return w.add("Quant", x, *parameters, domain="onnx.brevitas", signed=signed, narrow=0, rounding_mode="ROUND")


def _mixed() -> Any:
    """Integers, a float tanh between them, floats at the end."""
    w = Writer((3, 10, 10))

    def conv(x: str, inputs: int, outputs: int) -> str:
        weights = _quant(w, w.weights(outputs, inputs, 3, 3), 0.125, 3, signed=1)
        return w.add("Conv", x, weights, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    a = _quant(w, w.add("Relu", conv(_quant(w, "x", 0.05, 8, signed=1), 3, 8)), 0.25, 3, signed=0)
    b = _quant(w, w.add("Tanh", conv(a, 8, 8)), 0.25, 4, signed=1)
    pooled = w.add("Flatten", w.add("GlobalAveragePool", w.add("Pad", conv(b, 8, 6), w.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1])))))
    return w.model(w.add("Softmax", w.add("Add", pooled, w.constant(_images(6))), axis=-1))


def _network(kind: str) -> tuple[OnnxNetwork, Array]:
    if kind != "integer":
        return ulp.load(_mixed(), tune=False, floats=kind), _images(4, 3, 10, 10)
    model, x = small_network(), _images(24, 3, 16, 16)
    return ulp.load(quantized(model, x), tune=False), x


@pytest.mark.parametrize("kind", ["numpy", "onnxruntime", "integer"])
def test_what_is_loaded_computes_the_same_bits(kind: str, tmp_path: Path) -> None:
    network, x = _network(kind)
    assert network.integer == (kind == "integer")
    network.save(tmp_path / "network.ulp")
    loaded = ulp.load(tmp_path / "network.ulp")
    assert type(loaded) is OnnxNetwork
    assert loaded.integer == network.integer
    assert str(loaded) == str(network)
    assert np.array_equal(loaded(x), network(x))
    assert [row.step for row in loaded.profile(x)] == [row.step for row in network.profile(x)]
    for same in (ulp.load((tmp_path / "network.ulp").read_bytes(), tune=True), pickle.loads(pickle.dumps(network)), copy.deepcopy(network)):
        assert np.array_equal(same(x), network(x))


def test_what_was_saved_cannot_be_asked_to_be_another(tmp_path: Path) -> None:
    network, x = _network("numpy")
    network.save(tmp_path / "network.ulp")
    path = tmp_path / "network.ulp"
    same = ulp.load(path, mode="requantize", hint="latency", group=1)
    assert np.array_equal(same(x), network(x))
    assert np.array_equal(ulp.load(path, mode="requantise")(x), network(x))
    for arguments, words in (
        ({"strict": True}, r"strict=True, and in the saved network \w+ '\w+' runs in floats: \w+"),
        ({"mode": "threshold"}, "mode='threshold' for a network that was saved with mode='requantize'"),
        ({"hint": "throughput"}, "hint='throughput' for a network that was saved with hint='latency'"),
        ({"group": 2}, "group=2 for a network that was saved with group=1"),
        ({"shapes": {"x": (1, 3, 10, 10)}}, "shapes=.* for a saved network"),
        ({"floats": "onnxruntime"}, "floats='onnxruntime' for a network that was saved with nodes that run otherwise"),
    ):
        with pytest.raises(OnnxError, match=words):
            ulp.load(path, **arguments)
    integer, y = _network("integer")
    integer.save(path)
    assert np.array_equal(ulp.load(path, strict=True)(y), integer(y))


def test_profile_and_table_say_the_same(tmp_path: Path) -> None:
    network, x = _network("numpy")
    profile = network.profile(x, runs=2)
    layers = {row.layer: row.runs_in for row in network.layers}
    assert {row.runs_in for row in profile} == {"integers", "floats"}
    assert all(layers[row.layer] == row.runs_in for row in profile if row.layer in layers)
    assert "<table>" in network._repr_html_()


@pytest.mark.parametrize("kind", ["numpy", "onnxruntime"])
def test_no_package_onnx_is_needed(kind: str, tmp_path: Path) -> None:
    network, x = _network(kind)
    network.save(tmp_path / "network.ulp")
    np.save(tmp_path / "x.npy", x)
    output_of(
        f"""
        import sys
        sys.modules["onnx"] = None
        import numpy, ulp
        network = ulp.load({str(tmp_path / "network.ulp")!r})
        numpy.save({str(tmp_path / "y.npy")!r}, network(numpy.load({str(tmp_path / "x.npy")!r})))
        """
    )
    assert np.array_equal(np.load(tmp_path / "y.npy"), network(x))


def test_each_kind_is_loaded_by_its_function(tmp_path: Path) -> None:
    network, _ = _network("numpy")
    network.save(tmp_path / "onnx.ulp")
    with pytest.raises(ValueError, match=r"of kind 'OnnxNetwork', not 'CompiledNetwork': read it with ulp\.load"):
        ulp.nn.load(tmp_path / "onnx.ulp")
    layers = ulp.nn.Sequential(ulp.nn.Linear(4, 3, bits=3)).calibrate([_images(2, 4)])
    ulp.nn.compile(layers, (1, 4)).save(tmp_path / "layers.ulp")
    with pytest.raises(OnnxError, match=r"of kind 'CompiledNetwork', not 'OnnxNetwork': read it with ulp\.nn\.load"):
        ulp.load(tmp_path / "layers.ulp")


# Damage.


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "network.ulp"
    _network("numpy")[0].save(path)
    return path.read_bytes()


def _with(data: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    arrays, known = _tensorfile.read(data)
    document = json.loads(known["network"])
    change(document)
    return b"".join(_tensorfile.write(arrays, known | {"network": json.dumps(document)}))


def _packed(name: Any, **wrong: Any) -> dict[str, Any]:
    return {"$packed": name, "k": 1, "n": 1, "bits": 8, "signed": True} | wrong


def _bytes(document: dict[str, Any]) -> str:
    """The name of packed weights in the file."""
    text = json.dumps(document)
    return str(re.search(r'"\$packed": "([^"]*)"', text)[1])  # type: ignore[index]  # there are some


def _nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def _floats(document: dict[str, Any], op_type: str) -> dict[str, Any]:
    """The stage of a float operator."""
    found: dict[str, Any] = next(stage for stage in document["stages"] if stage.get("op_type") == op_type)
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("opset"), "a network is an object of inputs, outputs"),
        (lambda d: d.update(opset="21"), "opset of a network is str, expected int"),
        (lambda d: d["inputs"][0].__setitem__(1, "object"), "'x' has dtype 'object'"),
        (lambda d: d["inputs"][0].__setitem__(1, "<f1234"), "'x' has dtype '<f1234'"),
        (lambda d: d["inputs"][0].__setitem__(2, [1.5]), "'x' has dtype '<f4' and shape"),
        (lambda d: d["outputs"][0].__setitem__(0, "gone"), "nothing makes the output 'gone'"),
        (lambda d: d["stages"].reverse(), "a stage reads .*, which nothing before it makes"),
        (lambda d: d["stages"][0].update(results=[]), "0 names for 1 results"),
        (lambda d: d["stages"][0]["compiled"].update(mode="other"), "mode='other'"),
        (lambda d: _floats(d, "Softmax").update(op_type="Exec"), "there is no operator Exec"),
        (lambda d: _floats(d, "Softmax").update(attributes=[["axis", {}]]), "the attribute 'axis' has no value"),
        (lambda d: _floats(d, "Softmax").update(attributes=[["axis", "one"]]), "Softmax .*axis"),
        (lambda d: _floats(d, "Softmax").update(inputs=[3]), "are no names"),
        (lambda d: d["constants"][0].__setitem__(1, 3.0), "is no array"),
        (lambda d: d["constants"][0].__setitem__(1, {"$array": []}), r"the file holds no array \[\]"),
        (lambda d: d["constants"][0].__setitem__(1, {"$array": {}}), "the file holds no array {}"),
        (lambda d: d["constants"][0].__setitem__(1, {"$float": []}), r"\[\] is neither 'inf'"),
        (lambda d: d["constants"][0].__setitem__(1, _packed(name=[])), r"the file holds no array \[\]"),
        (lambda d: d["constants"][0].__setitem__(1, _packed(_bytes(d), k=2**70)), "k=.*: expected an integer from 0 to"),
        (lambda d: d["constants"][0].__setitem__(1, _packed(_bytes(d), n="1")), "n='1': expected an integer"),
        (lambda d: d["constants"][0].__setitem__(1, _packed(_bytes(d), signed=1)), "signed=1, expected uint8 with true or false"),
        (lambda d: d["constants"][0].__setitem__(1, _nested(900)), "a value is nested more than 8 deep"),
        (lambda d: d["layers"][0].pop(), "is no row of the table of layers"),
    ],
)
def test_what_is_wrong_is_said(data: bytes, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    with pytest.raises(OnnxError, match=f"^the bytes cannot be loaded: .*{message}"):
        ulp.load(_with(data, change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: _island(d).update(reads=[]), "has 0 and 1 names of tensors, and its model"),
        (lambda d: _island(d).update(makes=["a", "b"]), "has 1 and 2 names of tensors, and its model"),
        (lambda d: _island(d).update(island=3), "the model of an island is no array of bytes"),
        (lambda d: _island(d).update(folds=1), "folds of an island is int, expected bool"),
        (lambda d: _island(d).update(name="x" * 9, reads=[3]), "are no names"),
    ],
)
def test_what_is_wrong_of_an_island_is_said(change: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path) -> None:
    network, _ = _network("onnxruntime")
    network.save(tmp_path / "network.ulp")
    with pytest.raises(OnnxError, match=message):
        ulp.load(_with((tmp_path / "network.ulp").read_bytes(), change))


def _island(document: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(stage for stage in document["stages"] if "island" in stage)
    return found


def test_an_island_is_checked_before_onnxruntime_sees_it(tmp_path: Path) -> None:
    """Data in another file would be read from wherever the file says, or from an address."""
    network, _ = _network("onnxruntime")
    network.save(tmp_path / "network.ulp")
    arrays, known = _tensorfile.read((tmp_path / "network.ulp").read_bytes())
    name = next(name for name in arrays if name.endswith("island"))
    model = onnx.load_from_string(arrays[name].tobytes())
    tensor = model.graph.initializer.add(name="w", data_type=1, dims=[1], data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="*/_ORT_MEM_ADDR_/*")
    for wrong, message in ((model.SerializeToString(), "data in another file"), (b"\x3a\xff", "damaged"), (b"", "onnxruntime")):
        data = _tensorfile.write(arrays | {name: np.frombuffer(wrong, np.uint8)}, known)
        with pytest.raises(OnnxError, match=message):
            ulp.load(b"".join(data))


def _try(data: bytes, x: Array) -> bool:
    """Load and run what may be damaged: True, or False where it was refused as it should be."""
    try:
        network = ulp.load(data, limits=ulp.onnx.Limits(tensor_bytes=2**26))
        network(x)
    except (OnnxError, TypeError, ValueError):  # a damaged port refuses x
        return False
    return True


def test_truncated_and_flipped_bytes(data: bytes) -> None:
    rng = random.Random(0)
    x = _images(1, 3, 10, 10)
    assert _try(data, x)
    for length in (*range(9, len(data), 499), len(data) - 1):
        assert not _try(data[:length], x)
    size = int.from_bytes(data[:8], "little") + 8
    refused = 0
    for _ in range(300):
        damaged = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            damaged[rng.randrange(size)] = rng.randrange(256)
        if damaged[5:9] == data[5:9]:  # else it is no saved network at all
            refused += not _try(bytes(damaged), x)
    assert refused > 100
