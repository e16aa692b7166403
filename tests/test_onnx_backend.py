"""ONNX's own backend tests through `ulp.load`: whatever onnxruntime passes has to load and to give the expected results."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import ulp

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

from onnx import numpy_helper  # noqa: E402  # only where there is onnx
from onnx.backend.test.loader import load_model_tests  # noqa: E402

# Results that are random by definition.
RANDOM = ("training_dropout", "bernoulli", "random")


class Case(NamedTuple):
    """One model with its data. sets: of inputs and outputs; rtol, atol: as the test has them."""

    name: str
    data: bytes
    sets: list[tuple[list[Any], list[Any]]]
    rtol: float
    atol: float


def _value(path: Path, kind: Any) -> Any:
    """The content of a .pb file, which has the type that the model's port says."""
    data = path.read_bytes()
    if kind.HasField("sequence_type"):
        sequence = onnx.SequenceProto.FromString(data)
        return numpy_helper.to_list(sequence)
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(data))
    return numpy_helper.to_array(onnx.TensorProto.FromString(data))


def _values(folder: Path, stem: str, ports: Any) -> list[Any]:
    return [_value(folder / f"{stem}_{i}.pb", port.type) for i, port in enumerate(ports) if (folder / f"{stem}_{i}.pb").exists()]


def cases(kind: str) -> Iterator[Case]:
    """All tests of a kind: generated ones, and those that lie in the package."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of numpy, about the tests' own infinities
        tests = load_model_tests(kind=kind)
    for test in tests:
        if any(word in test.name for word in RANDOM):
            continue
        if test.model is not None:
            data_sets: Any = test.data_sets
            yield Case(test.name, test.model.SerializeToString(), data_sets, test.rtol, test.atol)
            continue
        assert test.model_dir is not None
        data = (Path(test.model_dir) / "model.onnx").read_bytes()
        graph = onnx.ModelProto.FromString(data).graph
        folders = sorted(Path(test.model_dir).glob("test_data_set*"))
        sets = [(_values(f, "input", graph.input), _values(f, "output", graph.output)) for f in folders]
        yield Case(test.name, data, sets, test.rtol, test.atol)


def same(a: Any, b: Any, rtol: float, atol: float) -> bool:
    """Whether a result is the expected one."""
    if isinstance(b, (list, tuple)):
        return isinstance(a, (list, tuple)) and len(a) == len(b) and all(same(x, y, rtol, atol) for x, y in zip(a, b, strict=True))
    if a is None or b is None:
        return a is b
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        return False
    if b.dtype.kind in "OSU":
        return [str(x) for x in a.reshape(-1)] == [x.decode() if isinstance(x, bytes) else str(x) for x in b.reshape(-1)]
    if b.dtype.kind == "V" or b.dtype.name == "bfloat16" or b.dtype.name.endswith("int4"):  # types that numpy has not come in wider ones
        a, b = a.astype(np.float32), b.astype(np.float32)
    if a.dtype != b.dtype:
        return False
    return bool(np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True)) if b.dtype.kind in "fc" else bool((a == b).all())


def passes(case: Case, run: Any) -> bool:
    """Whether `run`, from inputs to a list of results, gives what is expected."""
    for inputs, expected in case.sets:
        results = run(inputs)
        if len(results) != len(expected) or not all(same(a, b, case.rtol, case.atol) for a, b in zip(results, expected, strict=True)):
            return False
    return True


def by_onnxruntime(case: Case) -> bool:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(case.data, options)
        names = [port.name for port in session.get_inputs()]
        return passes(case, lambda inputs: session.run(None, dict(zip(names, inputs, strict=True))))
    except Exception:
        return False


def by_ulp(case: Case) -> str:
    """ "equal", "wrong", or why it is refused. Anything but an error of ours is let through."""
    try:
        network = ulp.load(case.data)

        def run(inputs: list[Any]) -> list[Any]:
            results = network(*inputs)
            return [results] if len(network.outputs) == 1 else [results[port.name] for port in network.outputs]

        return "equal" if passes(case, run) else "wrong"
    except (ValueError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("kind", ["node", "simple", "pytorch-converted", "pytorch-operator"])
@pytest.mark.filterwarnings("ignore")
def test_what_onnxruntime_passes(kind: str) -> None:
    passed = 0
    others = {}
    for case in cases(kind):
        if by_onnxruntime(case):
            passed += 1
            result = by_ulp(case)
            if result != "equal":
                others[case.name] = result
    assert passed > 15
    assert "wrong" not in others.values(), others
    assert len(others) <= passed // 100, others
