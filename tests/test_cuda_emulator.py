"""The emulator that runs the CUDA kernels (tests/cuda/emulator): its instructions against formulas, and the faults that it must find."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from cuda_modules import NO_EMULATOR

SOURCES = Path(__file__).parent / "cuda" / "emulator" / "tests"
CASES = re.findall(r"^ULP_TEST\((\w+)\)", "".join(source.read_text("utf-8") for source in sorted(SOURCES.glob("*.cpp"))), re.M)


@pytest.fixture(scope="module")
def program() -> Path:
    """Built beside the emulated module."""
    module = os.environ.get("ULP_CUDA_EMULATED")
    if not module:
        pytest.skip(NO_EMULATOR)
    return Path(module).resolve().with_name("emulator_tests")


@pytest.mark.parametrize("case", CASES)
def test_emulator(program: Path, case: str) -> None:
    done = subprocess.run([program, case], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
