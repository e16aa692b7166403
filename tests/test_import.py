"""Importing ulp is quiet and light."""

from __future__ import annotations

from interpreter import run_python

NEW_MODULES = """
import sys
import numpy
before = set(sys.modules)
import ulp
print(*sorted(set(sys.modules) - before))
"""


def run(program: str) -> list[str]:
    done = run_python(program, "-W", "error")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_import_brings_no_heavy_packages() -> None:
    loaded = set(run(NEW_MODULES)[0].split())
    assert not loaded & {"torch", "scipy", "sklearn", "safetensors", "onnxruntime", "numpy.ma", "platform", "subprocess", "tqdm"}


def test_import_without_threadpoolctl() -> None:
    run("import sys; sys.modules['threadpoolctl'] = None; import numpy as np, ulp; assert ulp.gemm([[1]], [[1]], bits=1)[0, 0] == 1")


def test_what_is_imported_lazily_is_an_attribute_at_once() -> None:
    """dir() and tab completion show it; nothing but its use imports it."""
    program = """
import sys, ulp
names = dir(ulp)
assert {"load", "nn", "onnx", "gemm", "__version__"} <= set(names), names
assert names == sorted(set(names))
assert not {name for name in sys.modules if name.startswith(("ulp.nn", "ulp.onnx", "ulp.torch"))}
assert ulp.nn.Conv2d and ulp.onnx and callable(ulp.load)
try:
    ulp.no_such_name
except AttributeError as error:
    print(error)
"""
    assert run(program) == ["module 'ulp' has no attribute 'no_such_name'"]


def test_torch_adapter_is_an_attribute_where_torch_is() -> None:
    fake = (
        "import sys, types; torch = sys.modules['torch'] = types.ModuleType('torch'); torch.__spec__ = types.SimpleNamespace(); import ulp"
    )
    assert run(f"{fake}; print('torch' in dir(ulp), 'ulp.torch' in sys.modules)") == ["True False"]
    hidden = "import sys, ulp; sys.modules['torch'] = None; print('torch' in dir(ulp))"
    assert run(hidden) == ["False"]
    done = run_python("import sys, ulp; sys.modules['torch'] = None; ulp.torch")
    assert done.stderr.splitlines()[-1].startswith("ImportError: ulp.torch needs torch")


def test_torch_adapter_without_torch_says_what_to_install() -> None:
    done = run_python("import sys; sys.modules['torch'] = None; import ulp.torch")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: ulp.torch needs torch 2.6 or newer: pip install torch")
