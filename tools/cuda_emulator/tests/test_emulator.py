"""The emulator's instructions against formulas, and the faults that it must find: one test per case of the program `emulator_tests`."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
CASES = re.findall(r"^ULP_TEST\((\w+)\)", "".join(source.read_text("utf-8") for source in SOURCES), re.M)


@pytest.fixture(scope="module")
def program() -> Path:
    """Built beside the emulated module."""
    module = os.environ.get("ULP_CUDA_EMULATED")
    if not module:
        pytest.skip("ULP_CUDA_EMULATED does not name the emulated module, which cmake -DULP_CUDA_EMULATOR=ON builds with this program")
    return Path(module).resolve().with_name("emulator_tests")


@pytest.mark.parametrize("case", CASES)
def test_emulator(program: Path, case: str) -> None:
    """The program ends with 0, and what it says otherwise."""
    done = subprocess.run([program, case], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
