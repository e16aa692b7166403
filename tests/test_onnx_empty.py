"""Tensors that are empty, or become so inside of what onnxruntime runs: an error or a result, never the end of the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="the loader of models needs the package onnx")
pytest.importorskip("onnxruntime", reason="it is what runs the models")


def test_operators_on_empty_tensors() -> None:
    """Also behind NonZero, and in the bodies of an If: where no look at the inputs says that something will be empty."""
    program = Path(__file__).with_name("onnx_empty.py")
    run = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, f"{run.stdout[-2000:]}{run.stderr[-2000:]}"
    assert run.stdout.endswith("done\n")


def test_numbers_that_divide() -> None:
    """Frames of no length, no groups, the least integer by -1: in a file as in a call."""
    program = Path(__file__).with_name("onnx_numbers.py")
    run = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, f"{run.returncode} {run.stdout[-2000:]}{run.stderr[-2000:]}"
    assert run.stdout == "done\n"
