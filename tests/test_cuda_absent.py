"""Without the CUDA module, or without a driver, everything else works, and a call for a GPU says what is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import cuda_double
import numpy as np
import pytest
from cuda_arrays import OtherArray
from interpreter import run_python

import ulp
from ulp import nn
from ulp._gpu import native

ONES = np.ones((2, 3), dtype=np.int8)


def compiled() -> nn.CompiledNetwork:
    network = nn.Linear(3, 2, bits=2)
    network.calibrate([np.ones((1, 3), np.float32)])
    return nn.compile(network, (1, 3), tune=False)


CALLS: dict[str, Callable[[], object]] = {
    "gemm": lambda: ulp.gemm(ONES, ONES.T, bits=2, device="cuda"),
    "pack": lambda: ulp.pack(ONES, 2, device="cuda:0"),
    "to": lambda: ulp.pack(ONES, 2).to("cuda"),
    "kernels": lambda: ulp.kernels(device="cuda"),
    "network": lambda: compiled().to("cuda"),
    "load": lambda: ulp.load("no such file.onnx", device="cuda"),
    "explain": lambda: ulp.explain(1, 2, 3, bits=4, device="cuda"),
}


@pytest.fixture
def no_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    native.replace_module(None)
    monkeypatch.setitem(sys.modules, "ulp._cuda", None)
    yield
    native.replace_module(None)


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def devices() -> Any:
        raise RuntimeError("looking for CUDA devices: CUDA driver version is insufficient for CUDA runtime version")

    facts = {name: getattr(cuda_double, name) for name in ("OutOfRange", "Weights", "Buffer", "build_info", "current_device", "kernels")}
    native.replace_module(SimpleNamespace(**facts, devices=devices))
    yield
    native.replace_module(None)


@pytest.mark.usefixtures("no_module")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_no_module_says_how_to_build_one(call: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match=r"has no CUDA module: rebuild it by pip install .*ULP_CUDA=ON, with nvcc") as caught:
        call()
    assert caught.value.__suppress_context__


@pytest.mark.usefixtures("no_module")
def test_no_module_and_an_array_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cuda_arrays.there", lambda array: array)
    with pytest.raises(RuntimeError, match="has no CUDA module"):
        ulp.pack(OtherArray(ONES), 2)


@pytest.mark.usefixtures("no_module")
def test_no_module_in_show_config() -> None:
    facts = ulp.show_config("dict")
    assert facts["CUDA module"].startswith("not built (pip install .")
    assert facts["CUDA devices"] == "none"


@pytest.mark.usefixtures("no_module")
def test_device_cpu_needs_no_module() -> None:
    w = ulp.pack(ONES.T, 2, device="cpu")
    assert isinstance(w, ulp.PackedMatrix)
    assert (ulp.gemm(ONES, w, device="cpu") == 3).all()


@pytest.mark.usefixtures("no_driver")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_no_driver_says_so(call: Callable[[], object]) -> None:
    with pytest.raises(RuntimeError, match="no CUDA device can be used: looking for CUDA devices: CUDA driver version is insufficient"):
        call()


@pytest.mark.parametrize("missing", ["no_module", "no_driver"])
def test_auto_is_the_cpu_then(missing: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(missing)
    network = compiled()
    assert network.to("auto") is network
    assert network.device == "cpu"


@pytest.mark.usefixtures("no_driver")
def test_no_driver_in_show_config() -> None:
    facts = ulp.show_config("dict")
    assert facts["CUDA module"] == "CUDA 13.0, architectures 90a"
    assert facts["CUDA devices"].startswith("none (no CUDA device can be used: looking for CUDA devices: CUDA driver version")


def test_a_module_that_does_not_load_says_why() -> None:
    program = """
import sys
class Finder:
    def find_spec(name, path=None, target=None):
        if name == "ulp._cuda":
            raise ImportError("libstdc++.so.6: version `GLIBCXX_3.4.99' not found")
sys.meta_path.insert(0, Finder)
import ulp
assert "not found" in ulp.show_config("dict")["CUDA module"]
try:
    ulp.pack([[1]], 1, device="cuda")
except RuntimeError as error:
    print(error)
"""
    done = run_python(program, "-W", "error")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the CUDA module of ulp does not load: libstdc++.so.6: version `GLIBCXX_3.4.99' not found\n"


def test_import_does_not_load_the_module() -> None:
    done = run_python("import sys, ulp; ulp.gemm([[1]], [[1]], bits=1); assert 'ulp._cuda' not in sys.modules", "-W", "error")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run_python("import os; os.environ['ULP_CUDA_CHECK'] = 'yes'; import ulp")
    assert done.stderr.splitlines()[-1] == "ValueError: ULP_CUDA_CHECK='yes': expected 0 or 1"
