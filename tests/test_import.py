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


def test_torch_adapter_without_torch_says_what_to_install() -> None:
    done = run_python("import sys; sys.modules['torch'] = None; import ulp.torch")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: ulp.torch needs torch 2.6 or newer: pip install torch")
